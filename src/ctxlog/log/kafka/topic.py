"""The topic of a log: made by `init`, checked by everybody who opens it, never made by opening.

    describe -> settings -> the first records of each partition -> one genesis everywhere, of this very topic -> a log

Whatever is not as it must be is a reason to refuse, and all reasons are said at once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic  # type: ignore[attr-defined]

from ctxlog.codec.control import Control, decode_control, encode_control, genesis, topic_adopted
from ctxlog.codec.partition import PartitionContext
from ctxlog.core.arbitration import RULES
from ctxlog.errors import BelowHorizonError, GenesisError, LogOpenError, TopicChangedError, UndecodableError
from ctxlog.log.kafka.clients import ANSWER_SECONDS_MAX, Clients
from ctxlog.log.kafka.location import BYTES_MAX
from ctxlog.log.kafka.reading import bulk
from ctxlog.log.kafka.sending import Sender
from ctxlog.log.protocol import Bounds
from ctxlog.model.records import CONTROL_KEY, MAX_RECORD_BYTES, Record

PARTITIONS = 12
"""Of a new topic where nothing is said. Their number can never change, and it bounds how many projectors work side by side."""

REPLICAS = 3
"""Of a new topic, where there are so many brokers; each record is then on two of them before it is acknowledged."""

_FIXED = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": "-1",
    "retention.bytes": "-1",
}
"""Settings without which a topic is no log: compaction takes records away, retention too, and times must be the brokers'."""


class Part(NamedTuple):
    """Where a partition lies now: ids of brokers. `leader` is None where no broker leads it."""

    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class Topic(NamedTuple):
    """A topic as the brokers describe it.

    Attributes:
        topic_id: Its id: another one after it was deleted and made again.
        parts: Its partitions, in order.
    """

    topic_id: str
    parts: tuple[Part, ...]

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return len(self.parts)

    @property
    def leaderless(self) -> list[int]:
        """Partitions without a leader now."""
        return [number for number, part in enumerate(self.parts) if part.leader is None]


def describe(clients: Clients, *, seconds: float = ANSWER_SECONDS_MAX) -> Topic | None:
    """The topic; None where there is none. Raises `StorageError` without an answer, `LogOpenError` where the brokers refuse."""
    name = clients.location.topic

    def question(timeout: float) -> Topic | None:
        future = clients.admin().describe_topics(TopicCollection([name]), request_timeout=timeout)[name]
        try:
            found = future.result()
        except KafkaException as error:
            if error.args[0].code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
                return None
            raise
        return Topic(str(found.topic_id), tuple(map(_part, sorted(found.partitions, key=attrgetter("id")))))

    found: Topic | None = clients.ask(f"topic {name!r}", question, seconds=seconds)
    return found


def _part(found: Any) -> Part:  # Its leader can be None, which the library's types deny.
    leader = None if found.leader is None or found.leader.id < 0 else found.leader.id
    return Part(leader, tuple(sorted(node.id for node in found.replicas)), tuple(sorted(node.id for node in found.isr)))


def settings(clients: Clients) -> dict[str, str]:
    """The topic's settings, its own and inherited ones."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, clients.location.topic)

    def question(timeout: float) -> dict[str, str]:
        (future,) = clients.admin().describe_configs([resource], request_timeout=timeout).values()
        return {name: entry.value for name, entry in future.result().items() if entry.value is not None}

    found: dict[str, str] = clients.ask(f"settings of topic {clients.location.topic!r}", question)
    return found


class Fault(NamedTuple):
    """A setting that is not what it must be."""

    setting: str
    found: str | None
    expected: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.found}, expected {self.expected}"


def faults(found: dict[str, str]) -> Iterator[Fault]:
    """What is wrong with a topic's settings, each with what it must be."""
    for name, expected in _FIXED.items():
        if found.get(name) != expected:
            yield Fault(name, found.get(name), expected)
    largest = found.get("max.message.bytes", "")
    if not largest.isdigit() or int(largest) <= MAX_RECORD_BYTES:
        yield Fault("max.message.bytes", largest, str(BYTES_MAX))


def bounds(clients: Clients, partition: int) -> Bounds:
    """First offset and last stable offset of a partition now."""
    where = TopicPartition(clients.location.topic, partition)

    def question(timeout: float) -> Bounds:
        first, end = clients.query().get_watermark_offsets(where, timeout=timeout)
        return Bounds(first, max(first, end))

    found: Bounds = clients.ask(f"offsets of partition {partition}", question)
    return found


_EMPTY = "it is empty"


class Heads(NamedTuple):
    """What the partitions of a topic begin with.

    Attributes:
        genesis: The first genesis of each partition; None where there is none.
        first: The record at the beginning of each partition, where that is the genesis.
        why: What is wrong, by partition.
    """

    genesis: dict[int, Control | None]
    first: dict[int, Record]
    why: dict[int, str]


def heads(clients: Clients, partitions: int) -> Heads:
    """Look at the beginning of each partition. Raises `BelowHorizonError` where it is not there any more."""
    found = Heads({}, {}, {})
    for partition in range(partitions):
        first, end = bounds(clients, partition)
        if first > 0:
            raise BelowHorizonError(partition, first)
        context = PartitionContext(partition)
        why = "it has no genesis" if end else _EMPTY
        for record in bulk(clients, partition, first, end):
            if record.key != CONTROL_KEY:
                continue
            context.take(record)
            if context.genesis is not None:
                if record.offset == first:
                    found.first[partition] = record
                break
            why = _other_rules(record) or why
        found.genesis[partition] = context.genesis
        if context.genesis is None:
            found.why[partition] = why
    return found


def _other_rules(record: Record) -> str | None:
    """Where a record is a genesis of rules that this release does not know: that it is."""
    try:
        control = decode_control(record.value)
    except UndecodableError:
        return None
    if control.kind == "Genesis" and control.data["rules"] != RULES:
        return f"its rules are {control.data['rules']}, this release knows {RULES}: install the ctxlog that wrote it"
    return None


def check(clients: Clients) -> tuple[str, Topic, dict[int, Record]]:
    """Check that the topic is a log, whole and unchanged: its id, the topic, and the first records of its partitions.

    Raises:
        LogOpenError: It is not; the message gives the reasons. Nothing was created or changed.
    """
    name = clients.location.name
    topic = describe(clients)
    if topic is None:
        raise LogOpenError(f"{name}: there is no such topic; nothing was created. `ctxlog init` creates a log.")
    reasons = list(map(str, faults(settings(clients))))
    if topic.leaderless:
        raise LogOpenError(
            f"{name}: no broker leads partition {', '.join(map(str, topic.leaderless))}; nothing was opened. Start the brokers."
        )
    found = beginning(clients, topic)
    if reasons or found.faults or found.genesis is None:
        shown = "\n  ".join(reasons + found.faults)
        kind = TopicChangedError if found.changed else GenesisError if found.without else LogOpenError
        what = "it is not a log yet: run `ctxlog init`" if found.empty else "it cannot be used"
        raise kind(f"{name}: {what}; nothing was changed.\n  {shown}")
    return found.genesis.data["log_id"], topic, found.first


class Beginning(NamedTuple):
    """What a topic begins with, and whether that is one log.

    Attributes:
        genesis: Partition 0's; None where there is none.
        first: The record at the beginning of each partition, where that is the genesis.
        faults: Reasons not to use it.
        without: Whether a partition has no genesis.
        empty: Whether nothing was written anywhere that a log begins with: it waits for `ctxlog init`.
        changed: Whether the topic is not the one that the log was made in, or has other partitions.
    """

    genesis: Control | None
    first: dict[int, Record]
    faults: list[str]
    without: bool
    empty: bool
    changed: bool


def beginning(clients: Clients, topic: Topic) -> Beginning:
    """Look at what each partition begins with. Raises `BelowHorizonError` where that is not there any more."""
    found = heads(clients, topic.partitions)
    one = found.genesis.get(0)
    reasons = [f"partition {partition}: {why}" for partition, why in found.why.items()]
    changed = False
    if one is not None:
        if one.data["partitions"] != topic.partitions:
            changed = True
            # Keys would go to other partitions than before.
            reasons.insert(0, f"it has {topic.partitions} partitions, and had {one.data['partitions']} when the log was made")
        reasons += [
            f"partition {partition}: its genesis is that of another log than partition 0's"
            for partition, other in found.genesis.items()
            if other is not None and other.data != one.data
        ]
        if one.data["topic_id"] != topic.topic_id and not adopted(clients, one, topic):
            changed = True
            reasons.append(
                f"its id is {topic.topic_id}, and was {one.data['topic_id']} when the log was made: the topic was recreated. "
                "Where it was restored on purpose, `ctxlog init --adopt` takes it over"
            )
    return Beginning(one, found.first, reasons, bool(found.why), set(found.why.values()) == {_EMPTY} and not changed, changed)


def adopted(clients: Clients, one: Control, topic: Topic) -> bool:
    """Whether partition 0 says that the log goes on in the topic with this id."""
    end = bounds(clients, 0).end
    adoptions = (_adoption(record) for record in bulk(clients, 0, 0, end) if record.key == CONTROL_KEY)
    ids = [control.data["topic_id"] for control in adoptions if control and control.data["log_id"] == one.data["log_id"]]
    return bool(ids) and ids[-1] == topic.topic_id


def _adoption(record: Record) -> Control | None:
    try:
        control = decode_control(record.value)
    except UndecodableError:
        return None
    return control if control.kind == "TopicAdopted" else None


def create(clients: Clients, partitions: int | None, *, adopt: bool = False) -> bool:
    """Create the topic and write what its partitions begin with, or complete what was begun; whether anything was done.

    Args:
        clients: Where.
        partitions: Of a new topic; `PARTITIONS` where None.
        adopt: Take over a topic with another id than the log was made with, because it was restored.

    Raises:
        LogOpenError: What is there cannot become a log; nothing was changed.
    """
    made = _make_topic(clients, partitions)
    topic = _led(clients)
    reasons = list(map(str, faults(settings(clients))))
    if reasons:
        raise LogOpenError(
            f"{clients.location.name}: the topic cannot hold a log; nothing was changed. Correct it with kafka-configs:\n  "
            + "\n  ".join(reasons)
        )
    sender = Sender(clients)
    found = heads(clients, topic.partitions)
    one = found.genesis[0]
    if one is None and not made and any(bounds(clients, partition).end for partition in range(topic.partitions)):
        one = heads(clients, 1).genesis[0]  # Somebody else may have begun since the look.
        if one is None:
            raise GenesisError(
                f"{clients.location.name}: the topic holds records and is no log; nothing was changed. Name a topic of its own."
            )
    if one is None:
        sender.append([encode_control(0, genesis(str(uuid.uuid4()), topic.topic_id, topic.partitions))])
        # Somebody else may have been first. What is read back is the log's.
        one = heads(clients, 1).genesis[0]
        if one is None:
            raise GenesisError(f"{clients.location.name}: the genesis was written and does not show; run `ctxlog init` again.")
        made = True
    before = one.data["partitions"]
    if before != topic.partitions:
        raise TopicChangedError(
            f"{clients.location.name}: it has {topic.partitions} partitions, and had {before} when the log was made; "
            "nothing was changed. Restore the log from a copy, into a topic of its own."
        )
    missing = [partition for partition, control in found.genesis.items() if control is None and partition != 0]
    if missing:
        sender.append([encode_control(partition, one) for partition in missing])
        made = True
    if adopt and one.data["topic_id"] != topic.topic_id and not adopted(clients, one, topic):
        adoption = topic_adopted(one.data["log_id"], topic.topic_id)
        # Partition 0 last: where it is there, all are.
        for partition in reversed(range(topic.partitions)):
            sender.append([encode_control(partition, adoption)])
        made = True
    return made


def _make_topic(clients: Clients, partitions: int | None) -> bool:
    """Make the topic unless it is there; whether it was made."""
    name = clients.location.topic
    if describe(clients) is not None:
        return False
    brokers: int = clients.ask("brokers", lambda timeout: len(clients.query().list_topics(timeout=timeout).brokers))
    replicas = min(REPLICAS, brokers) if brokers >= REPLICAS else 1
    config = {**_FIXED, "max.message.bytes": str(BYTES_MAX), "unclean.leader.election.enable": "false"}
    if replicas > 1:
        config["min.insync.replicas"] = str(replicas - 1)
    new = NewTopic(name, partitions or PARTITIONS, replicas, config=config)

    def question(timeout: float) -> bool:
        try:
            clients.admin().create_topics([new], operation_timeout=timeout, request_timeout=timeout + 5)[name].result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    made: bool = clients.ask(f"creating topic {name!r}", question)
    return made


def _led(clients: Clients) -> Topic:
    """The topic, once every partition has a leader. One that is new shows on one broker sooner than on another."""

    def question(_timeout: float) -> Topic:
        topic = describe(clients)
        if topic is None or topic.leaderless:
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return topic

    found: Topic = clients.ask(f"leaders of topic {clients.location.topic!r}", question)
    return found

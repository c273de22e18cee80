"""What `ctxlog doctor` asks the brokers. Every question reads: none makes, writes or commits anything.

Their clocks cannot be asked. What can be had is the time that a broker gave to a record, and that says less: see `newest`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import confluent_kafka
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from ctxlog.codec.partition import PartitionContext
from ctxlog.log.kafka.clients import Clients
from ctxlog.log.kafka.location import Location, Properties
from ctxlog.log.kafka.reading import bulk
from ctxlog.model.records import CONTROL_KEY, Position

CONNECT_SECONDS_MAX = 3.0
"""How long an address may take to accept a connection: what is further away makes a slow log."""

GROUPS_MAX = 100
"""Consumer groups that are asked for their offsets; a cluster that many teams share may have thousands."""

_DENIED = frozenset({KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED})


class Broker(NamedTuple):
    """A broker as the cluster knows it; `address` is where it tells clients to come."""

    number: int
    address: str


class Newest(NamedTuple):
    """The record of a topic with the latest time."""

    position: Position
    recorded_at: int


class Group(NamedTuple):
    """A consumer group that has committed offsets for the topic: the next one to read, by partition."""

    name: str
    offsets: dict[int, int]


class Groups(NamedTuple):
    """The groups of a topic, and how many groups of the cluster were not asked because there are too many."""

    groups: list[Group]
    unasked: int


def client_version() -> str:
    """Versions of the client library."""
    return f"confluent-kafka {confluent_kafka.version()}, librdkafka {confluent_kafka.libversion()[0]}"


def connect(location: Location) -> Clients:
    """Clients for the questions below; nothing is asked yet. Raises `LogOpenError` where the properties cannot be used."""
    clients = Clients(location, Properties.read(location.properties))
    clients.admin()
    return clients


def unreachable(address: str) -> str | None:
    """Why no connection to `HOST:PORT` can be made; None where one can."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS_MAX).close()
    except TimeoutError:
        return f"no connection within {CONNECT_SECONDS_MAX:.0f} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or type(error).__name__
    return None


def brokers(clients: Clients) -> list[Broker]:
    """The brokers that the cluster has now. Raises `StorageError` without an answer, `LogOpenError` where they refuse."""

    def question(timeout: float) -> list[Broker]:
        # Metadata come over the first connection; other questions go to where that broker says it is, which may be nowhere.
        found = clients.query().list_topics(clients.location.topic, timeout=timeout).brokers
        return [Broker(number, f"{one.host}:{one.port}") for number, one in sorted(found.items())]

    answer: list[Broker] = clients.ask("brokers", question)
    return answer


def newest(clients: Clients, partitions: Iterable[int]) -> Newest | None:
    """The record with the latest time; None where there is none.

    Its time was the clock of the broker that took it, at a moment that has passed: so that clock was not behind this machine's by
    more than the record seems old now. How far it may be ahead, nothing says, unless the record lies in the future.
    """
    latest = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(clients.location.topic, partition): latest for partition in partitions}

    def question(timeout: float) -> Newest | None:
        answers = clients.admin().list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout)
        found = [(where.partition, future.result()) for where, future in answers.items()]
        times = [Newest(Position(partition, one.offset), one.timestamp) for partition, one in found if one.offset >= 0]
        return max(times, key=lambda one: one.recorded_at, default=None)

    answer: Newest | None = clients.ask("latest record", question) if asked else None
    return answer


def groups(clients: Clients, partitions: int) -> Groups:
    """The consumer groups with offsets in the topic, as far as this client may see them."""

    def names(timeout: float) -> list[str]:
        return sorted(group.group_id for group in clients.admin().list_consumer_groups(request_timeout=timeout).result().valid)

    every: list[str] = clients.ask("consumer groups", names)
    parts = [TopicPartition(clients.location.topic, partition) for partition in range(partitions)]

    def offsets(timeout: float) -> list[Group]:
        admin = clients.admin()
        asked = [
            admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name, parts)], request_timeout=timeout)[name]
            for name in every[:GROUPS_MAX]
        ]
        found = []
        for future in asked:
            try:
                answer = future.result()
            except KafkaException as error:
                if error.args[0].code() in _DENIED:
                    continue  # It is somebody else's.
                raise
            committed = {part.partition: part.offset for part in answer.topic_partitions if part.offset >= 0}
            if committed:
                found.append(Group(answer.group_id, committed))
        return found

    return Groups(clients.ask("offsets of consumer groups", offsets), max(0, len(every) - GROUPS_MAX))


def contexts(clients: Clients, ends: Mapping[int, int]) -> dict[int, PartitionContext]:
    """What the control records below an offset of each partition say. Reads all that stands there."""
    found = {partition: PartitionContext(partition) for partition in ends}
    for partition, end in ends.items():
        for record in bulk(clients, partition, 0, end):
            if record.key == CONTROL_KEY:
                found[partition].take(record)
    return found

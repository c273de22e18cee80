"""Whatever a stranger writes into a log's topic is rejected with its reason or has no effect, the same for every reader.

stranger, transactions and ctxlog itself, by turns -> a real topic -> a reader that is new, in this process and in another one
                                                                     a reader that followed all along
                                                                     behind the stream index, kept from the start and new
                                                                     a copy in an embedded log
                                                                     a plain consumer, fastavro and the naive oracle
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import foreign_readers
import oracle
import raw_kafka
from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.codec.avro import encode_event
from ctxlog.codec.control import decode_control
from ctxlog.codec.partition import PartitionContext
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import ConflictError
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.kafka import KafkaLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.outcomes import Committed
from ctxlog.model.points import AtTime
from ctxlog.model.records import CONTROL_KEY
from ctxlog.replay import index
from ctxlog.replay.copying import copy_log
from ctxlog.replay.history import history
from ctxlog.replay.replayer import Replayer
from ctxlog.testing.strategies import EventDraft, histories, with_heads
from foreign_readers import Follower, everything_of, without_places
from strangers import Stranger, Transactions
from unit.test_core_against_oracle import state_by_oracle

STREAMS = ("planner/thread-1", "shared/plan")
STREAM = STREAMS[0]
REJECTED_IN_COPIES = ("undecodable", "misplaced")


@pytest.fixture(scope="module")
def transactions(kafka: Any) -> Transactions:
    return Transactions(kafka.bootstrap)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Any]:
    """Another process, which reads logs."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


def consumed(kafka: Any, log: KafkaLog) -> list[Message]:
    """Every message of the topic that was not aborted, by a plain consumer, once all transactions are over."""
    topic = log.location.topic
    common = {"bootstrap.servers": kafka.bootstrap, "group.id": "plain", "enable.partition.eof": True, "check.crcs": True}
    with contextlib.ExitStack() as stack:
        settled, latest = (
            stack.enter_context(contextlib.closing(Consumer({**common, "isolation.level": level})))
            for level in ("read_committed", "read_uncommitted")
        )
        ends: dict[int, int] = {}
        deadline = time.monotonic() + 30
        for partition in range(log.partitions):
            one = TopicPartition(topic, partition)
            while (end := settled.get_watermark_offsets(one)[1]) < latest.get_watermark_offsets(one)[1]:
                assert time.monotonic() < deadline  # The markers come a little after the answer.
            ends[partition] = end
        settled.assign([TopicPartition(topic, partition, 0) for partition in ends])
        found, over = [], set()
        while len(over) < len(ends):
            for message in settled.consume(1_000, 1):
                if message.error() is None:
                    found.append(message)
                else:
                    over.add(message.partition())
    return found


def check_outcomes(stranger: Stranger, log: KafkaLog, streams: list[str]) -> None:
    """Each record by itself: the outcome that the stranger expects, for events in the history, for the others in the controls."""
    replayer = Replayer(log)
    found: dict[tuple[int, int], str] = {}
    for stream_id in streams:
        entries = history(replayer, stream_id, replayer.end(stream_id))
        found |= {(entry.partition, entry.offset): entry.outcome for entry in entries}
    for partition in range(log.partitions):
        context = PartitionContext(partition)
        for record in log.read(partition, 0, log.bounds(partition).end, key=CONTROL_KEY):
            found[partition, record.offset] = "void" if context.take(record).void is not None else "effect"
    for position, foreign in stranger.sent.items():
        if position in found:
            outcome = found[position]
            by_arbitration = ("accepted", "duplicate", "conflict", "malformed", "open", "abandoned")
            assert outcome in (by_arbitration if foreign.outcome == "accepted" else (foreign.outcome,)), (foreign, outcome)
        else:
            readers = foreign.key is not None and foreign.key.decode("utf-8", "replace") in streams
            away = readers and partition_of(foreign.key or b"", log.partitions) != foreign.partition
            assert away or not readers or foreign.outcome == "aborted", foreign


def test_each_foreign_record_is_rejected_with_its_reason_or_has_no_effect(
    kafka: Any, transactions: Transactions, elsewhere: Any, tmp_path: Path
) -> None:
    """All of them at once, between two messages of ctxlog's own, which mean what they meant."""
    log = KafkaLog.create(kafka.url(), 3)[0]
    stranger = Stranger(kafka.bootstrap, log.location.topic, log.log_id, 3, "all")
    contexts = ContextLog(log)
    context = contexts.context(STREAM)
    context.add_message("user", "before", expected_version=0)
    # ctxlog published the schema of messages; the stranger publishes all others, and registry ids.
    stranger.send(stranger.schemas())
    stranger.send(stranger.everything(STREAM))
    transactions.send(stranger, [stranger.message(STREAM, "aborted") for _ in range(3)], commit=False)
    transactions.send(stranger, stranger.damaged_bodies(STREAM)[:2], commit=True)
    accepted = sum(foreign.outcome == "accepted" for foreign in stranger.sent.values())
    context.add_message("user", "after", expected_version=1 + accepted)
    texts = [message.content for message in context.state.messages]
    assert (texts[0], texts[-1]) == ("before", "after")
    messages = consumed(kafka, log)
    expected = everything_of(log, contexts.matching())
    assert len(oracle.arbitrate(STREAM, stranger.told(messages)[STREAM]).accepted) == 2 + accepted
    check_oracle(stranger, messages, expected)
    check_readers(elsewhere, log, expected, tmp_path, messages)
    check_outcomes(stranger, log, contexts.matching())
    assert {foreign.outcome for foreign in stranger.sent.values()} == {
        "accepted", "undecodable", "misplaced", "elsewhere", "aborted", "void", "effect",
    }  # fmt: skip
    assert len(stranger.sent) > 300
    entries = list(context.history())
    times = [entry.time for entry in entries]
    assert times == sorted(times)  # No forged origin moved one.
    last = context.replay(AtTime(times[-1] * 1000 + 999))
    assert last.state.version == context.version
    assert verify(contexts).problems == []
    check_copy(stranger, log, tmp_path / "copy", contexts.matching())
    log.close()


def test_a_control_record_without_effect_says_why(kafka: Any) -> None:
    """The same words from everybody who asks, as `ctxlog schemas` does."""
    log = KafkaLog.create(kafka.url(), 3)[0]
    stranger = Stranger(kafka.bootstrap, log.location.topic, log.log_id, 3, "why")
    stranger.send(stranger.schemas())
    stranger.send([*stranger.controls(STREAM), *stranger.second_claims(STREAM), *stranger.void_publications(STREAM)])
    context, why = PartitionContext(stranger.place(STREAM)), dict[str, set[str]]()
    for record in log.read(context.partition, 0, log.bounds(context.partition).end, key=CONTROL_KEY):
        row = context.take(record)
        foreign = stranger.sent.get((context.partition, record.offset))
        if foreign is not None and row.void is not None:
            why.setdefault(foreign.name, set()).add(row.void)
    assert {name: reasons for name, reasons in why.items() if "publication" not in name} == {
        "genesis again": {"it is repeated"},
        "genesis of another log": {"it belongs to another log"},
        "genesis of other partitions": {"it is repeated"},
        "copy started late": {"a copy starts directly after the genesis"},
        "copy started in another log": {"it belongs to another log"},
        "copy finished without a start": {"no copy from that log is under way"},
        "adopted in another log": {"it belongs to another log"},
        "unknown kind": {"its kind is unknown"},
        "no kind": {"its kind is unknown"},
        "not canonical": {"its data is not an object in RFC 8785 form"},
        "members missing": {"its data lacks a member of its kind"},
        "no JSON": {"its data is not an object in RFC 8785 form"},
        "noise": why["noise"],
        "nothing": {"the framing is neither Confluent's nor single-object encoding"},
        "no value": {"the record has no value"},
        "an event": why["an event"],
        "the same again": {"it is repeated"},
        "another schema under an id": {"it is repeated"},
    }
    said = {name: reasons for name, reasons in why.items() if "publication" in name}
    mismatch = {"name, fingerprint or digest are not the schema's"}
    assert said["publication ['log_id']"] == {"it belongs to another log"}
    assert said["publication ['name']"] == said["publication ['fingerprint']"] == said["publication ['digest']"] == mismatch
    assert said["publication ['registry_id']"] == {"its data lacks a member of its kind"}
    for reason in (
        "the text is longer than 65,536 bytes", "a type is not allowed, or not defined before its use", "a record holds itself",
        "a union is not null-or-T with null first", "the first field is not 'meta' of type ctxlog.EventMeta",
        "'meta' does not resolve to the shipped ctxlog.EventMeta", "nesting is deeper than 16", "the text is not JSON", *mismatch,
    ):  # fmt: skip
        assert reason in said["publication ['schema']"], reason
    log.close()


def test_a_header_whose_name_is_no_text_breaks_no_reader(kafka: Any, tmp_path: Path) -> None:
    """No client library writes one, but whoever speaks the protocol can, and librdkafka's binding for Python fails on it. In a
    process of its own first, since it might fail for good."""
    log = KafkaLog.create(kafka.url(), 1)[0]
    stranger = Stranger(kafka.bootstrap, log.location.topic, log.log_id, 1, "headers")
    stranger.send(stranger.schemas())
    origin = (b"ctxlog-origin", b"x/0/1/5")
    for headers in ([(b"\xff\xfe", b"v")], [(b"\xed\xa0\x80", b"")], [origin, (b"\xc3", b"v")], [(b"\xff", b"v"), origin]) * 5:
        good = stranger.message(STREAM)
        raw_kafka.produce(kafka.bootstrap, log.location.topic, 0, good.key or b"", good.value or b"", headers)
    program = Path(sys.executable).with_name("ctxlog")
    done = subprocess.run([program, "streams", "--log", log.url, "-o", "json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"version": 20' in done.stdout
    follower = Follower(log, [STREAM])
    follower.read_on()
    expected = everything_of(log, [STREAM])
    assert follower.everything() == expected
    assert expected[STREAM][1]["version"] == 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxlog.log.kafka.log.TAIL_OFFSETS", 0)
        assert everything_of(KafkaLog(log.url), [STREAM]) == expected
    target = EmbeddedLog(tmp_path / "copy")
    assert copy_log(log, target).records == 20
    log.close()


def check_copy(stranger: Stranger, log: KafkaLog, folder: Path, streams: list[str]) -> None:
    """A copy in an embedded log: the same, but for what stays behind, which is counted."""
    target = EmbeddedLog(folder, partitions=2)
    report = copy_log(log, target)
    events = [foreign for foreign in stranger.sent.values() if foreign.key != CONTROL_KEY]
    undecodable = sum(foreign.outcome == "undecodable" for foreign in events)
    misplaced = sum(foreign.outcome in ("misplaced", "elsewhere") for foreign in events)
    assert (report.undecodable, report.misplaced) == (undecodable, misplaced)
    for partition in range(2):
        *_, last = target.read(partition, 0, target.bounds(partition).end, key=CONTROL_KEY)
        ended = decode_control(last.value)
        assert (ended.kind, ended.data["undecodable"], ended.data["misplaced"]) == ("CopyFinished", undecodable, misplaced)
    copied = without_places(everything_of(target, streams), REJECTED_IN_COPIES)
    assert copied == without_places(everything_of(log, streams), REJECTED_IN_COPIES)
    assert verify(ContextLog(target)).problems == []
    target.close()


class Told:
    """What `state_by_oracle` asks for."""

    def __init__(self, told: dict[str, list[oracle.OracleRecord]]) -> None:
        self.told = told


def check_oracle(stranger: Stranger, messages: list[Message], found: dict[str, Any]) -> None:
    """Outcomes, versions, heads and the last state, against the naive oracle."""
    play: Any = Told(stranger.told(messages))
    for stream_id, (entries, state, anomalies) in found.items():
        judged = oracle.arbitrate(stream_id, play.told.get(stream_id, []))
        outcomes = {entry["offset"]: (entry["outcome"].replace("open", "held"), entry["version"]) for entry in entries}
        assert outcomes == judged.decisions
        heads = [entry["chain_head"] for entry in entries if entry["outcome"] == "accepted"]
        assert heads == judged.heads[1:]
        digests = {entry["offset"]: entry["digest"] for entry in entries if entry["outcome"] == "accepted"}
        assert digests == {record.offset: record.digest.hex() for _, _, record in judged.accepted}
        expected = state_by_oracle(play, stream_id, len(judged.accepted))
        if expected is None:
            assert state == "LineageError"
            continue
        assert state == expected
        parent = expected["parent"]
        above = None if parent is None else state_by_oracle(play, parent["stream_id"], parent["version"], (stream_id,))
        assert list(anomalies) == oracle.fold(stream_id, judged.accepted, above)[1]


class Scene:
    """A log that a stranger and ctxlog write to by turns, and the readers that are there all along."""

    def __init__(self, kafka: Any, transactions: Transactions, folder: Path, seed: int) -> None:
        self.url, self.folder, self.dice = kafka.url(), folder, random.Random(seed)
        self.transactions = transactions
        log = KafkaLog.create(self.url, self.dice.choice((2, 3)))[0]
        self.partitions = log.partitions
        self.stranger = Stranger(kafka.bootstrap, log.location.topic, log.log_id, log.partitions, seed)
        self.stack = contextlib.ExitStack()
        self.follower = Follower(log, STREAMS)
        self.stack.callback(log.close)
        self.writer = self.stack.enter_context(ContextLog.open(self.url))
        self.indexed = self.stack.enter_context(ContextLog.open(f"{self.url}&cache={folder / 'kept'}"))
        self.stranger.send(self.stranger.schemas())

    def head_of(self, stream_id: str, version: int | None) -> str | None:
        heads = [found.head.hex() for found in self.writer.replayer.accepted(stream_id, self.writer.replayer.end(stream_id))]
        if version is None:
            return heads[-1] if heads else oracle.chain0(stream_id).hex()
        return [oracle.chain0(stream_id).hex(), *heads][version] if 0 <= version <= len(heads) else None

    def step(self, draft: EventDraft) -> None:
        """The next record of the history, and around it whatever else happens."""
        dice, stranger = self.dice, self.stranger
        if dice.random() < 0.5:
            stranger.send(stranger.something(dice.choice(STREAMS)))
        if dice.random() < 0.15:
            some = [*stranger.damaged_bodies(STREAM)[:2], stranger.message(dice.choice(STREAMS), "in a transaction")]
            self.transactions.send(stranger, dice.sample(some, 2), commit=dice.random() < 0.4)
        draft = with_heads(draft, self.head_of)
        body = encode_event(draft.type, draft.meta, draft.payload)
        stranger.send([stranger.event(draft.meta["stream_id"], body, draft.type)])
        if dice.random() < 0.3:
            self.write()
        if dice.random() < 0.3:
            self.follower.read_on()
        if dice.random() < 0.2:
            everything_of(self.indexed.log, [dice.choice(STREAMS)])

    def write(self) -> None:
        """Something of ctxlog's own. Only a transaction whose end does not show yet can come before it."""
        context, dice = self.writer.context(self.dice.choice(STREAMS)), self.dice
        version = context.version
        match dice.choice(("message", "conditional", "group")):
            case "message":
                context.add_message("user", "ctxlog")
                assert context.version > version
            case "conditional":
                fact = FactSet(key="plan", value="1")
                with contextlib.suppress(ConflictError):
                    done = context.append(fact, expected_version=version, expected_head=context.chain_head)
                    assert isinstance(done, Committed)
                    assert done.version == version + 1
            case _:
                done = context.append([MessageAppended(role="user", content=str(number)) for number in range(3)])
                assert isinstance(done, Committed)
                assert done.version >= version + 3


@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(drafts=histories(STREAMS, 30), seed=st.integers(0, 2**32))
def test_every_reader_sees_the_same_of_whatever_strangers_and_ctxlog_write_by_turns(
    kafka: Any, transactions: Transactions, elsewhere: Any, tmp_path_factory: pytest.TempPathFactory, drafts: Any, seed: int
) -> None:
    """(Not shrunk: each example has a topic of its own.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "DIRECT_OFFSETS_MAX", 0)  # No short way round the index.
        scene = Scene(kafka, transactions, tmp_path_factory.mktemp("foreign"), seed)
        with scene.stack:
            for draft in drafts:
                scene.step(draft)
            scene.write()
            check(kafka, elsewhere, scene)


def check(kafka: Any, elsewhere: Any, scene: Scene) -> None:
    """All readers side by side."""
    log = KafkaLog(scene.url)
    scene.stack.callback(log.close)
    messages = consumed(kafka, log)
    streams = ContextLog(log).matching()
    expected = everything_of(log, streams)
    scene.follower.read_on()
    assert scene.follower.everything() == everything_of(log, STREAMS)
    check_readers(elsewhere, log, expected, scene.folder, messages, scene.indexed)
    check_outcomes(scene.stranger, log, streams)
    check_copy(scene.stranger, log, scene.folder / "copy", streams)
    check_oracle(scene.stranger, messages, expected)


def check_readers(
    elsewhere: Any, log: KafkaLog, expected: Any, folder: Path, messages: list[Message], *indexed: ContextLog
) -> None:
    """Those that come new see what one of them saw: in another process, at the tail, in bulk, and behind the index."""
    streams = sorted(expected)
    counts = Counter(message.partition() for message in messages)
    assert elsewhere.apply(foreign_readers.read, (f"{log.url}", streams)) == expected
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(index, "DIRECT_OFFSETS_MAX", 0)  # No short way round the index.
        patch.setattr("ctxlog.log.kafka.log.TAIL_OFFSETS", 0)  # In bulk, as far from the end.
        bulk, new = (stack.enter_context(ContextLog.open(log.url + more)) for more in ("", f"&cache={folder / 'new'}"))
        for reader in (bulk, new, *indexed):
            assert reader.matching() == streams
            assert everything_of(reader.log, streams) == expected
            assert verify(reader).problems == []
        for reader in (new, *indexed):
            progress = reader.log.progress()  # type: ignore[attr-defined]
            assert {one.partition: one.records for one in progress} == counts

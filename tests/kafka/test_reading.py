"""What a reader of a topic sees: settled records and no others, up to the last stable offset, wherever it begins."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from ctxlog import ContextLog
from ctxlog.log.kafka import KafkaLog, reading
from ctxlog.log.kafka.clients import Clients
from ctxlog.log.kafka.location import Location, Properties
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import NewRecord, Origin, Record
from ctxlog.replay.snapshots import SnapshotStore

SEED = 20261124


@pytest.fixture
def opened(kafka: Any) -> Iterator[KafkaLog]:
    """A new log of one partition."""
    log, _ = KafkaLog.create(kafka.url(kafka.topic()) + "&cache=off", 1)
    yield log
    log.close()


def values(log: EventLog, start: int = 1, end: int | None = None) -> list[bytes | None]:
    return [record.value for record in log.read(0, start, log.bounds(0).end if end is None else end)]


def transactional(kafka: Any, log: KafkaLog) -> Producer:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{log.location.topic}-{time.time_ns()}"})
    producer.init_transactions(30)
    return producer


def finish(producer: Producer, *, commit: bool) -> None:
    (producer.commit_transaction if commit else producer.abort_transaction)(30)
    time.sleep(0.1)  # The markers are written after the coordinator has answered.


def test_aborted_transactions_never_show_and_open_ones_hold_the_end(kafka: Any, opened: KafkaLog) -> None:
    topic = opened.location.topic
    opened.append([NewRecord(0, b"a", b"1")])
    other = transactional(kafka, opened)
    other.begin_transaction()
    other.produce(topic, b"open", b"a", 0)
    other.flush(30)
    held = opened.bounds(0).end
    (placed,) = opened.append([NewRecord(0, b"a", b"2")])
    assert opened.bounds(0).end == held <= placed.position.offset
    assert values(opened) == [b"1"]
    finish(other, commit=False)
    assert values(opened) == [b"1", b"2"]
    other.begin_transaction()
    other.produce(topic, b"3", b"a", 0)
    finish(other, commit=True)
    assert values(opened) == [b"1", b"2", b"3"]
    end = opened.bounds(0).end
    assert end == max(record.offset for record in opened.read(0, 0, end)) + 2  # The marker behind the last record has an offset.


def test_a_writer_waits_until_an_open_transaction_of_somebody_else_is_over(kafka: Any, opened: KafkaLog) -> None:
    """A conditional append is decided by what stands before it, so it cannot be known before that is settled."""
    other = transactional(kafka, opened)
    log = ContextLog(opened)
    context = log.context("agent/a")
    context.add_message("user", "first", expected_version=0)
    other.begin_transaction()
    other.produce(opened.location.topic, b"noise", b"agent/a", 0)
    other.flush(30)
    import threading

    timer = threading.Timer(1.0, lambda: finish(other, commit=False))
    timer.start()
    started = time.monotonic()
    done = context.add_message("user", "second", expected_version=1)
    assert time.monotonic() - started > 0.8
    assert (done.version, context.version) == (2, 2)
    timer.join()


def test_offsets_with_gaps_are_read_the_same_from_everywhere(
    kafka: Any, opened: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random committed and aborted transactions between our records; every range, by the tail and in bulk, against a list."""
    dice = random.Random(SEED)
    other, topic, expected = transactional(kafka, opened), opened.location.topic, []
    for number in range(40):
        if dice.random() < 0.5:
            opened.append([NewRecord(0, b"a", b"own %d" % number)])
            expected.append(b"own %d" % number)
            continue
        commit = dice.random() < 0.5
        other.begin_transaction()
        for i in range(dice.randrange(1, 4)):
            other.produce(topic, b"tx %d %d" % (number, i), b"a", 0)
            if commit:
                expected.append(b"tx %d %d" % (number, i))
        finish(other, commit=commit)
    records = list(opened.read(0, 0, opened.bounds(0).end))
    assert [record.value for record in records[1:]] == expected
    offsets = [record.offset for record in records]
    assert offsets[-1] > len(offsets)  # There are gaps.
    end = opened.bounds(0).end
    for tail in (0, 10**6):
        monkeypatch.setattr("ctxlog.log.kafka.log.TAIL_OFFSETS", tail)
        fresh = KafkaLog(opened.url)
        fresh.bounds(0)
        for _ in range(60):
            start = dice.randrange(end + 1)
            stop = dice.randrange(start, end + 2)
            assert list(fresh.read(0, start, stop)) == [one for one in records if start <= one.offset < stop], (tail, start, stop)
        fresh.close()


def test_the_end_by_time_is_never_a_record_that_nobody_sees(kafka: Any, opened: KafkaLog) -> None:
    (placed,) = opened.append([NewRecord(0, b"a", b"1")])
    time.sleep(0.02)
    other = transactional(kafka, opened)
    other.begin_transaction()
    other.produce(opened.location.topic, b"gone", b"a", 0)
    finish(other, commit=False)
    assert opened.offset_at(0, placed.recorded_at + 1) == opened.bounds(0).end
    time.sleep(0.02)
    (later,) = opened.append([NewRecord(0, b"a", b"2")])
    assert opened.offset_at(0, placed.recorded_at + 1) == later.position.offset
    assert opened.offset_at(0, placed.recorded_at) in (placed.position.offset, 0)
    assert opened.offset_at(0, -5) == 0
    assert opened.offset_at(0, 2**53) == opened.bounds(0).end


def test_a_reader_that_fell_behind_reads_on_without_a_hole(opened: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail lets go of old records, and moves to where it is needed."""
    monkeypatch.setattr(reading, "TAIL_BYTES", 3_000)
    monkeypatch.setattr(reading, "TAIL_OFFSETS", 50)
    monkeypatch.setattr("ctxlog.log.kafka.log.TAIL_OFFSETS", 50)
    dice = random.Random(SEED)
    reader = KafkaLog(opened.url)
    expected: list[bytes] = []
    for _ in range(30):
        batch = [b"%d " % (len(expected) + i) + b"x" * dice.randrange(200) for i in range(dice.choice((1, 3, 40, 120)))]
        opened.append([NewRecord(0, b"a", value) for value in batch])
        expected += batch
        start = dice.choice((1, max(1, len(expected) - 5), dice.randrange(1, len(expected) + 1)))
        assert values(reader, start) == expected[start - 1 :]
    reader.close()


def test_a_read_that_was_left_in_the_middle_disturbs_no_other(opened: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.log.kafka.log.TAIL_OFFSETS", 0)
    opened.append([NewRecord(0, b"a", b"%d" % number) for number in range(3_000)])
    end = opened.bounds(0).end
    for start in (0, 1_500, 10, 2_900):
        left = opened.read(0, start, end)
        assert next(left).offset == start
        left.close()
        assert [record.offset for record in opened.read(0, 5, 12)] == list(range(5, 12))
    several = [opened.read(0, start, end) for start in (7, 700, 70)]
    assert [[next(one).offset for one in several] for _ in range(3)] == [[7, 700, 70], [8, 701, 71], [9, 702, 72]]


def test_questions_to_the_brokers_take_no_record_from_the_tail(opened: KafkaLog) -> None:
    """Where a question fails, the clients are asked what happened to their connections: by a poll, which gives a message too."""
    reader = KafkaLog(opened.url)
    opened.append([NewRecord(0, b"a", b"first")])
    assert values(reader) == [b"first"]
    for _ in range(20):
        opened.append([NewRecord(0, b"a", b"x")])
        time.sleep(0.02)
        reader._clients._listen()
    end = reader.bounds(0).end
    assert [record.offset for record in reader.read(0, 1, end)] == list(range(1, end))
    reader.close()


def test_what_an_interrupted_read_had_received_is_fetched_again(opened: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C, or by an error that the brokers send between two records."""
    reader = KafkaLog(opened.url)
    opened.append([NewRecord(0, b"a", b"%d" % number) for number in range(300)])
    end, taken, whole = opened.bounds(0).end, [0], reading.record_of

    def interrupted(message: Any) -> Record:
        taken[0] += 1
        if taken[0] in (1, 7, 60):
            raise KeyboardInterrupt
        return whole(message)

    monkeypatch.setattr(reading, "record_of", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            list(reader.read(0, 1, end))
    assert [record.offset for record in reader.read(0, 1, end)] == list(range(1, end))
    reader.close()


@pytest.mark.parametrize(
    "headers",
    [
        [("ctxlog-origin", b"x/0/1")],
        [("ctxlog-origin", b"x/0/1/ 5")],
        [("ctxlog-origin", b"x/0/1/1_0")],
        [("ctxlog-origin", b"\xff/0/1/5")],
        [("ctxlog-origin", None)],
        [("ctxlog-origin", b"x/0/1/5"), ("ctxlog-origin", b"x/0/2/5")],
        [("other", b"x/0/1/5")],
    ],
)
def test_an_origin_that_ctxlog_did_not_write_is_none(kafka: Any, opened: KafkaLog, headers: Any) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(opened.location.topic, b"v", b"k", 0, headers=headers)
    producer.flush(30)
    (record,) = opened.read(0, 1, opened.bounds(0).end)
    assert record == Record(0, 1, record.recorded_at, b"k", b"v", None)


def test_headers_travel_and_origins_are_read(kafka: Any, opened: KafkaLog) -> None:
    origin = Origin("id", 1, 2, 3)
    trace = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    opened.append([NewRecord(0, b"k", b"v", origin, (trace,))])
    (record,) = opened.read(0, 1, opened.bounds(0).end)
    assert record.origin == origin
    assert kafka_headers(kafka, opened) == [trace, ("ctxlog-origin", b"id/1/2/3")]


def kafka_headers(kafka: Any, log: KafkaLog) -> Any:
    """The headers of the newest record, by a consumer that knows nothing of ctxlog."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "stranger"})
    consumer.assign([TopicPartition(log.location.topic, 0, 1)])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None
    return message.headers()


def test_a_consumer_that_was_closed_is_not_lent_again() -> None:
    clients = Clients(Location.parse("kafka://127.0.0.1:1"), Properties({}, {}))
    fit, closed = clients.borrow(), clients.borrow()
    closed.close()
    for consumer in (fit, closed):
        clients.give_back(consumer)
    assert clients.borrow() is fit
    clients.borrow().assign([])
    clients.close()


def test_a_fork_from_before_the_first_event_hides_nothing_from_those_who_read_on(kafka: Any, tmp_path: Path) -> None:
    """To keep a snapshot of it, the parent's record at -1 was asked for: to Kafka's client that is the end of the partition."""
    url = kafka.url()
    KafkaLog.create(url, 1)[0].close()
    with ContextLog(KafkaLog(url), SnapshotStore(tmp_path / "cache.sqlite")) as log:
        for number in range(5):
            log.context("planner/a").add_message("user", str(number))
        log.context("planner/a").fork("planner/b", at=0).add_message("user", "from the beginning")
    with ContextLog(KafkaLog(url), SnapshotStore(tmp_path / "cache.sqlite")) as log:
        versions = [log.context(name).replay().manifest.version for name in ("planner/b", "planner/a", "planner/b")]
    assert versions == [2, 5, 2]

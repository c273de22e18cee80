"""Copies to Kafka, from it, and from topic to topic: the same versions, heads, states and answers about times, wherever the
copying process was killed on the way."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.codec.control import Control, decode_control
from ctxlog.errors import UndecodableError
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.points import AtTime
from ctxlog.model.records import CONTROL_KEY
from ctxlog.replay.copying import copy_log
from ctxlog.replay.replayer import Replayer
from unit.copies import STREAMS, events_of, fill, told, without_misplaced

SEED = 20261124
CLOSED = "shared/closed"
NAMES = (*STREAMS, CLOSED)
COPYING = Path(__file__).parents[1] / "kafka_copying.py"
PROGRAM = Path(sys.executable).with_name("ctxlog")

KILLS = 8


@pytest.fixture
def source(tmp_path: Path) -> Iterator[EmbeddedLog]:
    """An embedded log with something of everything, and a stream that goes on after it was closed."""
    log = EmbeddedLog(tmp_path / "source", partitions=3)
    fill(log)
    context = ContextLog(log).context(CLOSED)
    context.add_message("user", "before")
    time.sleep(0.01)
    context.close(reason="done")
    context.add_message("user", "after")
    yield log
    log.close()


def copied(log: EventLog) -> dict[str, Any]:
    return without_misplaced(told(log, NAMES))


def controls(log: EventLog, kind: str) -> list[Control]:
    """The control records of a kind, partition by partition."""
    found = []
    for partition in range(log.partitions):
        for record in log.read(partition, 0, log.bounds(partition).end, key=CONTROL_KEY):
            try:
                control = decode_control(record.value)
            except UndecodableError:
                continue
            if control.kind == kind:
                found.append(control)
    return found


def check_finished(source: EventLog, target: EventLog, undecodable: int, misplaced: int) -> None:
    """Every partition says once that the copy is finished, and what stayed behind."""
    expected = {"log_id": target.log_id, "source_log_id": source.log_id, "undecodable": undecodable, "misplaced": misplaced}
    assert [control.data for control in controls(target, "CopyFinished")] == [expected] * target.partitions


def ctxlog(*arguments: str) -> Any:
    done = subprocess.run(
        [PROGRAM, *arguments, "-o", "json"], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_times(first: EventLog, *others: EventLog) -> None:
    """Answers by the times of the first log: before its first record, at, just before and just after some, and after all."""
    replayers = [Replayer(log) for log in (first, *others)]
    for name in NAMES:
        times = [entry.time for entry in ContextLog(first).context(name).history()]
        instants = sorted({time + step for time in times for step in (-1, 0, 1)} | {0, times[-1] + 10**9})
        for instant in [*instants[:3], *random.Random(name).sample(instants, 4), *instants[-3:]]:
            expected, *found = [replayer.replay(name, AtTime(instant * 1000)) for replayer in replayers]
            for one in found:
                assert one.state == expected.state
                assert one.manifest.recorded_at == expected.manifest.recorded_at
        before, after = (replayers[-1].replay(name, AtTime(instant * 1000)) for instant in (0, times[-1] + 10**9))
        assert before.state.version == 0
        assert (before.manifest.provisional, after.manifest.provisional) == (False, True)


def test_a_log_goes_to_kafka_from_topic_to_topic_and_back_and_means_the_same(
    kafka: Any, source: EmbeddedLog, tmp_path: Path
) -> None:
    first_url, second_url, last_url = kafka.url(), kafka.url(), f"embedded:{tmp_path / 'last'}"
    source_url = f"embedded:{tmp_path / 'source'}"
    expected = copied(source)
    assert {entry[0] for entry in expected["b"][-1]} >= {"accepted", "duplicate", "open"}
    ctxlog("init", "--log", first_url, "--partitions", "4")
    ctxlog("init", "--log", second_url, "--partitions", "2")
    report = ctxlog("copy", "--log", source_url, first_url)
    assert (report["outcome"], report["undecodable"], report["misplaced"]) == ("copied", 1, 2)
    assert ctxlog("copy", "--log", source_url, first_url)["outcome"] == "finished before"
    first = KafkaLog(first_url)
    check_finished(source, first, 1, 2)
    ContextLog(first).context("b").add_message("user", "only in the copy")  # and goes along from here
    expected["b"] = copied(first)["b"]
    assert (report := ctxlog("copy", "--log", first_url, second_url))["outcome"] == "copied"
    assert (report["undecodable"], report["misplaced"]) == (0, 0)
    assert ctxlog("copy", "--log", second_url, last_url)["records"] == report["records"]
    second, last = KafkaLog(second_url), EmbeddedLog(tmp_path / "last")
    for log, of in ((second, first), (last, second)):
        check_finished(of, log, 0, 0)
        assert copied(log) == expected
        assert verify(ContextLog(log)).problems == []
        assert {record.origin.log_id for record in events_of(log) if record.origin} == {source.log_id, first.log_id}
    check_times(first, second, last)
    assert copied(source) | {"b": expected["b"]} == expected
    context = ContextLog(second).context(CLOSED)
    assert context.state.closed
    assert [message.content for message in context.state.messages] == ["before", "after"]
    context.add_message("user", "and on", expected_version=context.version)
    for log in (first, second, last):
        log.close()


class Target:
    """A topic that a copy goes into, and a plain consumer that sees how far it has come."""

    def __init__(self, kafka: Any, partitions: int) -> None:
        self.topic = kafka.topic()
        self.url = kafka.url(self.topic)
        log, _ = KafkaLog.create(self.url, partitions)
        log.close()
        self.partitions = [TopicPartition(self.topic, partition) for partition in range(partitions)]
        self._consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "looks"})

    @property
    def records(self) -> int:
        return sum(self._consumer.get_watermark_offsets(one, timeout=30)[1] for one in self.partitions)

    def close(self) -> None:
        self._consumer.close()


def events_by_partition(log: EventLog) -> list[list[tuple[Any, ...]]]:
    return [
        [(record.key, record.value, record.origin) for record in events_of(log) if record.partition == partition]
        for partition in range(log.partitions)
    ]


def fill_more(log: EventLog) -> None:
    """Enough that a copy takes two hundred appends: a chat in each of twenty streams, some of it in groups."""
    contexts = ContextLog(log)
    for stream in range(20):
        messages = [MessageAppended(role="user", content=f"{stream} {number}") for number in range(100)]
        contexts.context(f"chat/{stream}").append_each([(message, {}) for message in messages[:95]])
        contexts.context(f"chat/{stream}").append(messages[95:])


@pytest.mark.parametrize(("kind", "partitions"), [("embedded", 4), ("kafka", 2)])
def test_a_copy_that_is_killed_again_and_again_is_finished_by_the_same_command(
    kafka: Any, source: EmbeddedLog, kind: str, partitions: int
) -> None:
    """And holds then what a copy holds that nobody killed, record by record."""
    fill_more(source)
    source_url, log = f"embedded:{source.folder}", source
    if kind == "kafka":
        source_url = kafka.url()
        log = KafkaLog.create(source_url, 3)[0]
        fill(log)
        ContextLog(log).context(CLOSED).close()
        fill_more(log)
    whole_url = kafka.url()
    whole = KafkaLog.create(whole_url, partitions)[0]
    expected = copy_log(log, whole)
    target, dice = Target(kafka, partitions), random.Random(f"{SEED} {kind}")
    empty, total = target.records, sum(whole.bounds(partition).end for partition in range(partitions))
    # The first one while the copy is being started, the others on the way.
    moments = [empty + 1, *sorted(dice.sample(range(empty + 2, total - 300), KILLS))]
    killed = 0
    for moment in moments:
        process = copying(source_url, target.url)
        while target.records < moment and process.poll() is None:
            pass
        time.sleep(dice.random() * 0.01)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed >= KILLS
    assert target.records < total
    while True:
        process = copying(source_url, target.url)
        out, err = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert "another run copies" in err, err  # The last appends of the one that was killed came in late.
    report = json.loads(out)
    assert report["outcome"] == "resumed"
    assert 0 < report["copied"] < expected.records
    assert (report["records"], report["undecodable"], report["misplaced"]) == expected[2:3] + expected[4:]
    found = KafkaLog(target.url)
    assert events_by_partition(found) == events_by_partition(whole)
    check_finished(log, found, expected.undecodable, expected.misplaced)
    assert len(controls(found, "CopyStarted")) >= partitions
    names = (*NAMES, "chat/7", "chat/11")
    assert told(found, names[-3:]) == told(whole, names[-3:]) == told(log, names[-3:])
    assert copied(found) == copied(log)
    assert verify(ContextLog(found)).problems == []
    for one in (found, whole, target):
        one.close()
    if log is not source:
        log.close()


def copying(source: str, target: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(COPYING), source, target]
    return subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_records_of_a_source_on_kafka_that_nobody_can_take_stay_behind_and_are_counted(kafka: Any, tmp_path: Path) -> None:
    """Also what no embedded log can hold: records without a key, and without a value."""
    from confluent_kafka import Producer

    topic = kafka.topic()
    log = KafkaLog.create(kafka.url(topic), 2)[0]
    ContextLog(log).context("b").add_message("user", "before")
    stranger = Producer({"bootstrap.servers": kafka.bootstrap})
    good = events_of(log)
    for partition, key, value in [
        (0, None, b"x"), (1, None, None), (0, b"b", None), (1, b"b", b""), (0, b"\xff", b"\x00"),
        (good[0].partition, b"a/1", good[0].value), (1 - good[0].partition, b"b", good[0].value),
    ]:  # fmt: skip
        stranger.produce(topic, value, key, partition)
    assert stranger.flush(30) == 0
    ContextLog(log).context("b").add_message("user", "after", expected_version=1)
    target = EmbeddedLog(tmp_path / "target")
    report = copy_log(log, target)
    # The one in another partition cannot be decoded there: no schema was published in it.
    assert (report.records, report.undecodable, report.misplaced) == (2, 6, 1)
    check_finished(log, target, 6, 1)
    assert [message.content for message in ContextLog(target).context("b").state.messages] == ["before", "after"]
    log.close()
    target.close()

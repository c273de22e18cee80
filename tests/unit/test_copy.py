"""Copies: the same states, versions and heads in a log of any number of partitions, wherever a copy was stopped on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.codec.control import encode_control, schema_published
from ctxlog.codec.framing import frame_confluent
from ctxlog.codec.schemas import shipped
from ctxlog.errors import BelowHorizonError, LogOpenError, StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import Bounds
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.points import AtVersion, Latest, format_time
from ctxlog.model.records import CONTROL_KEY, NewRecord, Origin, Placed, Record
from ctxlog.replay.copying import CopyReport, copy_log
from ctxlog.replay.replayer import Replayer
from writing import Wrapped, foreign, group, publish, raw

STREAMS = ("a/1", "a/2", "b", "shared/x", "fork")
T0 = 1_760_000_000_000


def source_log(partitions: int = 3) -> MemoryLog:
    """A log with groups, rejected records, a fork, another release's type, both framings, and records that nobody can read."""
    now = iter(range(T0, T0 + 1_000_000, 1000))
    backend = MemoryLog(partitions, clock=lambda: next(now), offset_step=2)
    log = ContextLog(backend)
    for number in range(8):
        for name in STREAMS[:4]:
            log.context(name).add_message("user", f"{name} {number}")
    log.context("a/1").append([FactSet(key=key, value="1") for key in "xyz"])
    log.context("a/1").fork("fork").add_message("user", "in the fork")
    publish(backend)
    backend.append([raw(backend, "b", "FactSet", "dup"), raw(backend, "b", "FactSet", "dup")])
    backend.append([raw(backend, "b", "FactSet", "open", append=group("open", 0, 2))])
    backend.append(foreign(backend, "b", "org.example.Note", "n"))
    schema = shipped("ctxlog.FactSet")
    record = raw(backend, "b", "FactSet", "confluent", key="c")
    backend.append([encode_control(record.partition, schema_published(backend.log_id, schema, 7))])
    backend.append([record._replace(value=frame_confluent(7, record.value[10:]))])
    backend.append([NewRecord(0, b"b", b"garbage"), NewRecord(0, CONTROL_KEY, b"garbage"), record._replace(key=b"a/1")])
    if partitions > 1:
        backend.append([record._replace(partition=(record.partition + 1) % partitions)])
    return backend


def told(log: MemoryLog) -> dict[str, Any]:
    """All that must be equal: every version's state, head and time, the anomalies, and what became of each record."""
    replayer = Replayer(log)
    found: dict[str, Any] = {}
    for name in STREAMS:
        last = replayer.replay(name, Latest())
        states = [replayer.replay(name, AtVersion(version)) for version in range(last.state.version + 1)]
        found[name] = [
            (one.state.to_dict(), one.manifest.chain_head, one.manifest.state_digest, one.manifest.recorded_at) for one in states
        ]
        found[name].append(last.anomalies)
        entries = ContextLog(log).context(name).history()
        found[name].append([(e.outcome, e.version, e.meta, e.payload, e.time) for e in entries if e.outcome != "undecodable"])
    return found


def without_misplaced(found: dict[str, Any]) -> dict[str, Any]:
    return {name: [*rest, [row for row in rows if row[0] != "misplaced"]] for name, (*rest, rows) in found.items()}


@pytest.mark.parametrize("into", [1, 3, 5])
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_copy_holds_the_same_histories_states_heads_and_times(partitions: int, into: int) -> None:
    source, target = source_log(partitions), MemoryLog(into)
    report = copy_log(source, target)
    assert report.outcome == "copied"
    assert report.log_id == target.log_id != source.log_id
    assert (report.undecodable, report.misplaced) == (1, 1 if partitions == 1 else 2)
    assert without_misplaced(told(target)) == without_misplaced(told(source))
    assert report.records == report.copied == len(events_of(target))


def events_of(log: Any) -> list[Record]:
    return [
        record
        for partition in range(log.partitions)
        for record in log.read(partition, 0, log.bounds(partition).end)
        if record.key != CONTROL_KEY
    ]


def test_bytes_and_order_within_a_stream_are_unchanged_and_each_record_says_where_it_stood_first() -> None:
    source, target = source_log(), MemoryLog(2)
    copy_log(source, target)
    originals = {(record.partition, record.offset): record for record in events_of(source)}
    for key in {record.key for record in events_of(target)}:
        copies = [record for record in events_of(target) if record.key == key]
        assert [copy.origin.offset for copy in copies] == sorted(copy.origin.offset for copy in copies)  # type: ignore[union-attr]
        for copy in copies:
            assert copy.origin is not None
            original = originals[copy.origin.partition, copy.origin.offset]
            assert (copy.key, copy.value, copy.origin.recorded_at_ms) == (original.key, original.value, original.recorded_at)
            assert copy.origin.log_id == source.log_id


def test_questions_of_time_are_answered_by_the_origins_time() -> None:
    source, target = source_log(), MemoryLog(2)
    copy_log(source, target)
    for milliseconds in range(T0, T0 + 60_000, 3500):
        for name in STREAMS:
            point = f"time:{iso(milliseconds)}Z"
            one, two = (ContextLog(log).context(name).replay(point) for log in (source, target))
            assert one.state == two.state
            assert one.manifest.recorded_at == two.manifest.recorded_at


def iso(milliseconds: int) -> str:
    return format_time(milliseconds * 1000).removesuffix("Z")


def test_an_answer_about_a_copy_is_provisional_while_no_origin_is_later() -> None:
    """The copy itself was written later than all of it."""
    source = source_log(1)
    target = MemoryLog(1)
    copy_log(source, target)
    end = max(record.recorded_at for record in events_of(target))
    last = max(record.time for record in events_of(target))
    context = ContextLog(target).context("b")
    assert context.replay(f"time:{iso(last - 1)}Z").manifest.provisional is False
    assert context.replay(f"time:{iso(last)}Z").manifest.provisional is True
    assert end > last


def test_a_copy_of_a_copy_keeps_the_first_origin() -> None:
    source, middle, last = source_log(), MemoryLog(1), MemoryLog(3)
    copy_log(source, middle)
    ContextLog(middle).context("b").append(MessageAppended(role="user", content="later"))
    report = copy_log(middle, last)
    origins = {record.origin.log_id for record in events_of(last) if record.origin}
    assert origins == {source.log_id, middle.log_id}
    assert (report.undecodable, report.misplaced) == (0, 0)
    assert ContextLog(last).context("b").state == ContextLog(middle).context("b").state


def test_a_finished_copy_is_a_log_like_any_other() -> None:
    source, target = source_log(), MemoryLog(3)
    copy_log(source, target)
    context = ContextLog(target).context("a/1")
    before = context.version
    assert context.append(MessageAppended(role="user", content="on"), expected_version=before).version == before + 1  # type: ignore[union-attr]


def test_the_same_copy_again_has_nothing_to_do() -> None:
    source, target = source_log(), MemoryLog(2)
    first = copy_log(source, target)
    before = [target.bounds(partition) for partition in range(2)]
    again = copy_log(source, target)
    assert (again.outcome, again.copied, again.records) == ("finished before", 0, first.records)
    assert [target.bounds(partition) for partition in range(2)] == before


class Breaks(Wrapped):
    """Fails at the n-th append, after the first records of it were written."""

    def __init__(self, log: MemoryLog, appends: int, written: int) -> None:
        super().__init__(log)
        self.left, self.written = appends, written

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        if self.left == 0:
            self.inner.append(records[: self.written])
            raise StorageError("the disk is full")
        self.left -= 1
        return self.inner.append(records)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_copy_that_was_stopped_anywhere_goes_on_where_it_stands(monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """At every append, none, one or two records of it written; a whole copy takes some fifty appends of three."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source = source_log()
    expected = without_misplaced(told(source))
    number = 0
    while True:
        target = MemoryLog(2)
        try:
            copy_log(source, Breaks(target, number, written))
            break
        except StorageError:
            there = len(events_of(target))
            report = copy_log(source, target)
            assert report.outcome in ("copied", "resumed", "finished before")
            assert report.copied == report.records - there
            assert (report.undecodable, report.misplaced) in ((1, 2), (0, 0))
        assert len({record.origin for record in events_of(target)}) == len(events_of(target))
        assert without_misplaced(told(target)) == expected
        number += 1
    assert number > 20


def test_a_copy_that_was_stopped_takes_what_the_source_got_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source, target = source_log(), MemoryLog(2)
    with pytest.raises(StorageError):
        copy_log(source, Breaks(target, 9, 1))
    for name in STREAMS[:4]:
        ContextLog(source).context(name).add_message("user", "since")
    assert copy_log(source, target).outcome == "resumed"
    assert without_misplaced(told(target)) == without_misplaced(told(source))


def test_records_without_origin_that_came_in_while_a_copy_ran_are_misplaced() -> None:
    source, target = source_log(), MemoryLog(1)
    with pytest.raises(StorageError):
        copy_log(source, Breaks(target, 9, 0))
    publish(target, "FactSet")
    target.append([raw(target, "b", "FactSet", "intruder")])
    context = ContextLog(target).context("b")
    with pytest.raises(LogOpenError, match="not finished"):
        context.add_message("user", "x")
    copy_log(source, target)
    target.append([raw(target, "b", "FactSet", "afterwards")])
    outcomes = {entry.meta.get("event_id"): entry.outcome for entry in context.history()}
    assert (outcomes["intruder"], outcomes["afterwards"]) == ("misplaced", "accepted")


def test_a_target_that_holds_something_is_refused_and_left_as_it_is() -> None:
    source, target = source_log(), MemoryLog(2)
    ContextLog(target).context("b").add_message("user", "mine")
    before = [target.bounds(partition) for partition in range(2)]
    with pytest.raises(LogOpenError, match="not empty"):
        copy_log(source, target)
    assert [target.bounds(partition) for partition in range(2)] == before


def test_a_target_that_is_a_copy_of_another_log_is_refused() -> None:
    target = MemoryLog(2)
    copy_log(source_log(), target)
    with pytest.raises(LogOpenError, match="holds a copy of log"):
        copy_log(source_log(), target)


def test_a_log_is_not_copied_into_itself() -> None:
    source = source_log()
    with pytest.raises(LogOpenError, match="same log"):
        copy_log(source, source)


class Forgets(Wrapped):
    """A log whose partition 1 lost its first records after it was opened."""

    looked = False

    def bounds(self, partition: int) -> Bounds:
        bounds = self.inner.bounds(partition)
        return bounds._replace(first=5) if partition == 1 and self.looked else bounds


def test_a_log_that_lost_its_beginning_is_not_copied() -> None:
    """A suffix would be copied as if it were the whole."""
    source = Forgets(source_log())
    source.looked = True
    target = MemoryLog(1)
    with pytest.raises(BelowHorizonError):
        copy_log(source, target)
    assert target.bounds(0).end == 1


def test_an_empty_log_can_be_copied() -> None:
    target = MemoryLog(2)
    assert copy_log(MemoryLog(3), target) == CopyReport(target.log_id, "copied", 0, 0, 0, 0)
    assert copy_log(MemoryLog(3), MemoryLog(2)).records == 0


def test_progress_ends_at_the_whole() -> None:
    told_: list[tuple[int, int]] = []
    source = source_log()
    copy_log(source, MemoryLog(1), progress=lambda done, total: told_.append((done, total)))
    assert told_[-1] == (sum(source.bounds(p).end for p in range(3)),) * 2


def test_an_origin_reads_back_as_it_is_written() -> None:
    origin = Origin("log", 3, 2**40, -5)
    assert Origin.parse(str(origin)) == origin
    for text in ("", "a/1/2", "a/1/2/3/4", "a/x/2/3"):
        with pytest.raises(ValueError):  # noqa: PT011 - any will do
            Origin.parse(text)

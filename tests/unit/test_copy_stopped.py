"""Copies that were stopped go on where they stand; what would not become a copy is refused or stopped, and says so."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest

from ctxlog import ContextLog
from ctxlog.codec.control import copy_finished, copy_started, encode_control, schema_published
from ctxlog.codec.framing import frame_confluent
from ctxlog.codec.schemas import shipped
from ctxlog.errors import BelowHorizonError, IntegrityError, LogBusyError, LogOpenError, StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import Bounds
from ctxlog.model.records import NewRecord, Origin, Placed, Record
from ctxlog.replay.copying import copy_log
from ctxlog.replay.reader import LogReader
from unit.copies import STREAMS, T0, Breaks, events_of, source_log, stopped_copy, told, without_misplaced, without_rejected
from writing import ShowsLate, Wrapped, publish, raw


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


def test_what_others_wrote_into_a_stopped_copy_takes_no_place_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records without an origin are misplaced, and say nothing about how far the copy came."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source, target = stopped_copy()
    for name in STREAMS:
        target.append([raw(target, name, "FactSet", f"intruder in {name}")] * 3)
    report = copy_log(source, target)
    assert without_rejected(told(target)) == without_rejected(told(source))
    assert report.records == len({record.origin for record in events_of(target) if record.origin})


def test_records_that_two_runs_of_a_copy_wrote_are_not_taken_for_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs at once write each record twice; the second one of each is a duplicate. Whoever goes on must not skip as many."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source, target = stopped_copy()
    twice = [NewRecord(record.partition, record.key or b"", record.value or b"", record.origin) for record in events_of(target)]
    target.append(twice)
    copy_log(source, target)
    assert without_rejected(told(target)) == without_rejected(told(source))
    assert {str(record.origin) for record in events_of(target)} == {str(r.origin) for r in events_of(copied(source))}


class Twice(Wrapped):
    """A target into which another run copies before the n-th append: the whole rest, or as far as it comes in some appends."""

    def __init__(self, log: MemoryLog, source: MemoryLog, number: int, appends: int) -> None:
        super().__init__(log)
        self.source, self.left, self.appends = source, number, appends

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        self.left -= 1
        if self.left == 0:
            with contextlib.suppress(StorageError):
                copy_log(self.source, Breaks(self.inner, self.appends, 1))  # type: ignore[arg-type]
        return self.inner.append(records)


@pytest.mark.parametrize("appends", [4, 8, 1000])
def test_of_two_runs_at_once_one_stops_before_ids_are_forgotten(monkeypatch: pytest.MonkeyPatch, appends: int) -> None:
    """A stream remembers so many ids and no more: a run that is far behind another would bring events that are taken again."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    stopped = 0
    for number in range(2, 24):
        source, target = source_log(), MemoryLog(2)
        try:
            copy_log(source, Twice(target, source, number, appends))
        except LogBusyError:
            stopped += 1
        assert len(events_of(target)) <= len(copied_events(source)) + 2 * 3
        assert copy_log(source, target).outcome in ("resumed", "finished before")
        assert without_rejected(told(target)) == without_rejected(told(source))
    assert stopped > 10


def test_a_run_that_stood_still_writes_nothing_behind_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks before it writes too: the other run may be so far ahead that ids are forgotten already."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source, target = source_log(), MemoryLog(2)
    others = iter([target])

    def stand_still(_done: int, _total: int) -> None:
        for other in others:
            copy_log(source, other)

    with pytest.raises(LogBusyError, match="another run copies into partition"):
        copy_log(source, target, progress=stand_still)
    assert len(events_of(target)) == len(copied_events(source))


def copied_events(source: MemoryLog) -> list[Record]:
    return events_of(copied(source))


def copied(source: MemoryLog) -> MemoryLog:
    target = MemoryLog()
    copy_log(source, target)
    return target


def test_a_copy_of_a_copy_that_was_stopped_goes_on_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The origins are of the first log there, some of a copy's own records: of neither can the place in the source be told."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    middle = copied(source_log())
    for number in range(5):
        ContextLog(middle).context("b").add_message("user", f"on {number}")
    for number in range(10, 40, 3):
        target = MemoryLog(3)
        try:
            copy_log(middle, Breaks(target, number, 1))
        except StorageError:
            assert copy_log(middle, target).outcome == "resumed"
        assert told(target) == told(middle)
        assert len(events_of(target)) == len(events_of(middle))


def test_a_target_with_a_copied_record_that_the_source_does_not_have_is_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for it in vain would leave all others behind."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source, target = stopped_copy(1)
    target.append([raw(target, "b", "FactSet", "forged")._replace(origin=Origin("elsewhere", 0, 7, T0))])
    with pytest.raises(IntegrityError, match=r"origin elsewhere/0/7.* the copy was stopped"):
        copy_log(source, target)
    assert LogReader(target).context(0, target.bounds(0).end).copying


def test_a_record_that_claims_the_origin_of_a_later_one_does_not_set_a_copy_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy goes on after the last record that is there, and not after one that pretends to be that."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source = MemoryLog(clock=lambda: T0)
    publish(source, "FactSet")
    last = Origin(source.log_id, 0, source.bounds(0).end + 8, T0)
    for number in range(12):
        source.append([raw(source, "b", "FactSet", f"{number}")._replace(origin=last if number == 1 else None)])
    target = MemoryLog()
    with pytest.raises(StorageError):
        copy_log(source, Breaks(target, 5, 0))
    assert [record.origin for record in events_of(target)][-1] == last
    copy_log(source, target)
    assert len(events_of(target)) == 12
    assert len({record.origin for record in events_of(target)}) == 12


@pytest.mark.parametrize("source_grew", [False, True])
def test_a_copy_that_ended_before_it_was_complete_is_not_called_finished(
    monkeypatch: pytest.MonkeyPatch, source_grew: bool
) -> None:
    """Behind the end a record would stand without its origin, and with another time."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source, target = stopped_copy()
    if source_grew:
        source, target = source_log(), MemoryLog(2)
        copy_log(source, Breaks(target, 10**6, 0))
        target._records[1] = [record for record in target._records[1] if record != target._records[1][-1]]
        for name in STREAMS[:4]:
            ContextLog(source).context(name).add_message("user", "since")
    else:
        ended = copy_finished(target.log_id, source.log_id, undecodable=0, misplaced=0)
        target.append([encode_control(0, ended)])
    there = len(events_of(target))
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"the copy has ended in partition 0, and records of the source are missing"):
            copy_log(source, target)
    assert len([record for record in events_of(target) if record.partition == 0]) <= there
    assert LogReader(target).context(1, target.bounds(1).end).copying


class EndsEarly(Wrapped):
    """A target in which somebody else ends the copy before the n-th append."""

    def __init__(self, log: MemoryLog, source: MemoryLog, number: int) -> None:
        super().__init__(log)
        self.left = number
        self.ended = encode_control(0, copy_finished(log.log_id, source.log_id, undecodable=0, misplaced=0))

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        self.left -= 1
        if self.left == 0:
            self.inner.append([self.ended])
        return self.inner.append(records)


def test_a_copy_that_somebody_else_ends_while_it_runs_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source, target = source_log(), MemoryLog(1)
    with pytest.raises(IntegrityError, match="somebody else ended it"):
        copy_log(source, EndsEarly(target, source, 9))


class Overtaken(Wrapped):
    """A target into which someone else writes just before the first append to it."""

    def __init__(self, log: MemoryLog, first: NewRecord) -> None:
        super().__init__(log)
        self.first: list[NewRecord] = [first]

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        if self.first:
            self.inner.append([self.first.pop()])
        return self.inner.append(records)


@pytest.mark.parametrize("partition", [0, 1])
def test_a_copy_before_which_someone_else_wrote_is_refused_before_any_record(partition: int) -> None:
    """CopyStarted counts directly after the genesis only: the target would be no copy, whatever the report says."""
    source, target = source_log(), MemoryLog(2)
    first = encode_control(partition, schema_published(target.log_id, shipped("ctxlog.FactSet"), None))
    with pytest.raises(LogOpenError, match=f"partition {partition} before the copy could start.*no record was copied"):
        copy_log(source, Overtaken(target, first))
    assert events_of(target) == []
    with pytest.raises(LogOpenError):
        copy_log(source, target)


def test_a_copy_that_another_copy_overtakes_is_refused() -> None:
    source, target = source_log(), MemoryLog(1)
    with pytest.raises(LogOpenError, match="no record was copied"):
        copy_log(source, Overtaken(target, encode_control(0, copy_started(target.log_id, "another log"))))


def test_a_copy_waits_until_the_target_shows_what_it_took() -> None:
    """A broker's follower is a little behind."""
    source, inner = source_log(), MemoryLog(2)
    copy_log(source, ShowsLate(inner))
    assert without_misplaced(told(inner)) == without_misplaced(told(source))


def two_schemas_under_one_id() -> MemoryLog:
    """Registry id 7 is one schema in partition 0 and another one in partition 1."""
    log = MemoryLog(2)
    for number in range(3):
        for stream, kind in (("a/1", "FactSet"), ("shared/x", "MessageAppended")):
            record = raw(log, stream, kind, f"{kind} {number}")
            if number == 0:
                published = schema_published(log.log_id, shipped(f"ctxlog.{kind}"), 7)
                log.append([encode_control(record.partition, published)])
            log.append([record._replace(value=frame_confluent(7, record.value[10:]))])
    assert all(len(list(log.read(partition, 0, log.bounds(partition).end))) == 5 for partition in (0, 1))
    return log


def test_a_copy_stops_where_an_id_of_a_registry_would_mean_another_schema() -> None:
    """The records would be read otherwise, or not at all, and heads would differ without a word."""
    source, target = two_schemas_under_one_id(), MemoryLog(1)
    with pytest.raises(IntegrityError, match="Copy into a new log of 2 partitions"):
        copy_log(source, target)
    assert LogReader(target).context(0, target.bounds(0).end).copying
    assert ContextLog(target).context("shared/x").version == 0
    whole = MemoryLog(2)
    copy_log(source, whole)
    assert without_misplaced(told(whole)) == without_misplaced(told(source))


def test_a_copy_stops_where_someone_else_published_another_schema_under_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    source = two_schemas_under_one_id()
    target = MemoryLog(2)
    with pytest.raises(StorageError):
        copy_log(source, Breaks(target, 1, 0))
    target.append([encode_control(0, schema_published(target.log_id, shipped("ctxlog.StreamClosed"), 7))])
    target.append([encode_control(1, schema_published(target.log_id, shipped("ctxlog.StreamClosed"), 7))])
    with pytest.raises(IntegrityError, match="nobody else writes"):
        copy_log(source, target)
    assert events_of(target) == []


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

"""Copies: the same states, versions and heads in a log of any number of partitions, wherever a copy was stopped on the way."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from ctxlog import ContextLog
from ctxlog.codec.control import copy_finished, copy_started, encode_control
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.points import AtTime, format_time
from ctxlog.model.records import Origin, Record
from ctxlog.replay.copying import CopyReport, copy_log
from unit.copies import STREAMS, T0, events_of, source_log, stopped_copy, told, without_misplaced
from writing import Wrapped, publish, raw


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


def test_an_answer_about_an_unfinished_copy_is_provisional_whatever_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of another partition of the source may still come, and be earlier than all that is there."""
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    source, target = stopped_copy(1)
    early = f"time:{iso(T0 + 1)}Z"
    assert max(record.time for record in events_of(target)) > T0 + 1
    context = ContextLog(target).context("a/1")
    assert context.replay(early).manifest.provisional is True
    copy_log(source, target)
    assert context.replay(early).manifest.provisional is False


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_is_provisional_where_no_event_is_later_in_whatever_order_the_origins_stand(seed: int) -> None:
    """Asked of one log object again and again, which remembers what it looked at, while the log grows."""
    dice = random.Random(seed)
    now = [0]
    target = MemoryLog(clock=lambda: now[0])
    target.append([encode_control(0, copy_started(target.log_id, "s"))])
    publish(target, "FactSet")
    asked, times = ContextLog(target), []
    for number in range(300):
        copied = number < 200
        if number == 200:
            target.append([encode_control(0, copy_finished(target.log_id, "s", undecodable=0, misplaced=0))])
        now[0] += dice.randrange(7)
        forged = dice.randrange(-50, 4 * number - 40)
        origin = Origin("s", 0, number, forged) if copied or dice.random() < 0.5 else None
        times.append(forged if copied else now[0])
        target.append([raw(target, dice.choice("xyz"), "FactSet", f"{number}")._replace(origin=origin)])
        if number < 10 or dice.random() < 0.2:
            for instant in (dice.randrange(-60, 1200), max(times), max(times) - 1):
                manifest = asked.context("x").replay(AtTime(instant * 1000 + dice.choice((0, 999)))).manifest
                assert manifest.provisional is (copied or not any(time > instant for time in times))


def test_an_origin_that_somebody_wrote_into_a_log_that_is_no_copy_counts_for_nothing() -> None:
    """On Kafka it is a header, and whoever may write can say there that a record is of the year 3000."""
    now = iter(range(T0, T0 + 100_000, 1000))
    source = MemoryLog(clock=lambda: next(now))
    publish(source, "FactSet")
    forged = Origin("elsewhere", 0, 9, T0 + 10**13)
    for number in range(4):
        source.append([raw(source, "b", "FactSet", f"{number}")._replace(origin=forged if number == 1 else None)])
    target = MemoryLog(2)
    copy_log(source, target)
    for log in (source, target):
        found = ContextLog(log).context("b")
        times = [entry.time for entry in found.history()]
        assert times == sorted(times)
        assert [found.replay(AtTime(time * 1000)).state.version for time in times] == [1, 2, 3, 4]
        assert [stream.last_at for stream in ContextLog(log).streams()] == times[-1:]
    assert {record.origin.log_id for record in events_of(target) if record.origin} == {source.log_id}


class Counts(Wrapped):
    """Counts the records that are read without regard to their key."""

    read_records = 0

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        for record in self.inner.read(partition, start, end, key=key):
            self.read_records += key is None
            yield record


def test_a_question_of_time_does_not_read_a_copy_from_its_beginning() -> None:
    """Late events mostly stand late. Where none is late, it takes one look at all of them, and none at any twice."""
    source = MemoryLog(clock=iter(range(T0, T0 + 10_000_000)).__next__)
    context = ContextLog(source).context("a")
    context.append([FactSet(key="k", value="1") for _ in range(999)])
    for number in range(1000):
        context.set_fact("k", number)
    target = MemoryLog()
    copy_log(source, target)
    counted = Counts(target)
    copy, last = ContextLog(counted).context("b"), max(record.time for record in events_of(target))
    for milliseconds in range(T0, last, 100):
        assert copy.replay(AtTime(milliseconds * 1000)).manifest.provisional is False
    assert 0 < counted.read_records <= 64
    for _ in range(3):
        assert copy.replay(AtTime(last * 1000)).manifest.provisional is True
    assert 1999 < counted.read_records < 2100


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

"""Outcomes that cannot be known at first, and reads that see what their own handle wrote, on logs that fail and lag."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.core.arbitration import Arbiter
from ctxlog.errors import AbandonedError, ConflictError, IndeterminateError, InvalidInputError, StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.records import CONTROL_KEY, Record
from ctxlog.replay.snapshots import SnapshotStore
from writing import LosesAnswers, ShowsLate, Wrapped, group, raw

HI = MessageAppended(role="user", content="hi")
SET = FactSet(key="limit", value="5")


# Outcomes that cannot be known


@pytest.fixture
def losing() -> LosesAnswers:
    return LosesAnswers(MemoryLog(3))


@pytest.mark.parametrize("fate", ["before", "half", "after"])
@pytest.mark.parametrize("batch", [[HI], [HI, SET, HI]], ids=["one", "group"])
def test_resolve_finds_out_what_became_of_an_append(losing: LosesAnswers, fate: str, batch: list[Any]) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        context.append(HI)
        losing.fates = [fate]
        with pytest.raises(IndeterminateError) as caught:
            context.append(batch, expected_version=1)
        assert len(caught.value.records) == len(batch)
        done = log.resolve(caught.value)
        assert done.version == context.version == 1 + len(batch)
        assert log.resolve(caught.value) == done
        assert context.version == 1 + len(batch)


def test_resolve_of_an_append_that_lost_is_a_conflict_also_where_it_was_written(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log, ContextLog(losing.inner) as other:
        for fate in ("before", "after"):
            context = log.context(f"a/{fate}")
            losing.fates = [fate]
            if fate == "after":
                other.context(f"a/{fate}").append(HI)
            with pytest.raises(IndeterminateError) as caught:
                context.append(SET, expected_version=0)
            if fate == "before":
                other.context(f"a/{fate}").append(HI)
            with pytest.raises(ConflictError) as conflict:
                log.resolve(caught.value)
            assert conflict.value.actual == 1
            assert context.version == 1


def test_resolve_itself_may_remain_without_an_answer(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        losing.fates = ["half", "after"]
        with pytest.raises(IndeterminateError) as first:
            context.append([HI, SET])
        with pytest.raises(IndeterminateError) as second:
            log.resolve(first.value)
        assert second.value.records == first.value.records
        assert log.resolve(second.value).version == 2


def test_an_unconditional_append_is_resolved_too(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        for number, fate in enumerate(("before", "after"), 1):
            losing.fates = [fate]
            with pytest.raises(IndeterminateError) as caught:
                context.append(HI)
            assert not caught.value.conditional
            assert log.resolve(caught.value).version == number


@pytest.mark.parametrize("fates", [["before"], ["half"], ["after"], ["half", "half"]])
def test_what_append_each_sent_is_resolved_as_separate_events(losing: LosesAnswers, fates: list[str]) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        losing.fates = list(fates)
        with pytest.raises(IndeterminateError) as caught:
            context.append_each([(HI, {}), (SET, {}), (HI, {})])
        error = caught.value
        for _ in fates[1:]:
            with pytest.raises(IndeterminateError) as again:
                log.resolve(error)
            error = again.value
        assert log.resolve(error).version == 3
        assert context.version == 3


def test_an_append_that_64_others_pushed_out_says_so(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        context.append([HI, SET])
        losing.fates = ["half"]
        with pytest.raises(IndeterminateError) as caught:
            context.append([HI, SET])
        for number in range(64):
            losing.append([raw(losing, "a/b", "FactSet", f"o{number}", append=group(f"o{number}", 0, 2))])
        with pytest.raises(AbandonedError):
            log.resolve(caught.value)
        assert context.version == 2


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream forgets ids after 5 others; the rules say 65,536."""
    monkeypatch.setitem(Arbiter.__init__.__kwdefaults__, "decided_max", 5)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("batch", [[HI], [HI, SET, HI]], ids=["one", "group"])
def test_resolve_does_not_append_again_what_the_log_has_and_the_stream_forgot(losing: LosesAnswers, batch: list[Any]) -> None:
    """A second copy would be accepted: nothing knows its id any more."""
    with ContextLog(losing) as log:
        context = log.context("a/b")
        context.append(HI)
        losing.fates = ["after"]
        with pytest.raises(IndeterminateError) as caught:
            context.append(batch)
        context.append_each([(HI, {})] * 9)
        version = context.version
        assert log.resolve(caught.value).version == 1 + len(batch)
        assert context.version == version == 10 + len(batch)


@pytest.mark.usefixtures("forgetful")
def test_resolve_appends_those_of_separate_events_that_are_missing_and_no_others(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        losing.fates = ["half"]
        with pytest.raises(IndeterminateError) as caught:
            context.append_each([(HI, {}), (SET, {}), (HI, {}), (SET, {})])
        context.append_each([(HI, {})] * 9)
        assert log.resolve(caught.value).version == context.version == 13
        ids = [accepted.event.meta["event_id"] for accepted in context.accepted()]
        assert len(set(ids)) == len(ids)


def test_resolve_appends_separate_events_that_were_lost_before_ones_that_were_not(losing: LosesAnswers) -> None:
    """Where a log takes some of several records, it need not be the first ones."""
    with ContextLog(losing) as log:
        context = log.context("a/b")
        losing.fates = ["before"]
        with pytest.raises(IndeterminateError) as caught:
            context.append_each([(HI, {}), (SET, {})])
        losing.inner.append(caught.value.records[1:])
        assert log.resolve(caught.value).version == 1
        assert context.version == 2


def test_resolve_appends_nothing_where_the_append_is_found(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log:
        losing.fates = ["after"]
        with pytest.raises(IndeterminateError) as caught:
            log.context("a/b").append([HI, SET])
        ends = [losing.bounds(partition).end for partition in range(3)]
        assert log.resolve(caught.value).version == 2
        assert [losing.bounds(partition).end for partition in range(3)] == ends


def test_of_two_who_resolve_one_append_at_once_both_get_the_one_outcome() -> None:
    """Both may look before either appends; then the second copy is a duplicate."""
    losing = LosesAnswers(backend := Then(MemoryLog()))
    with ContextLog(losing) as log:
        losing.fates = ["before"]
        with pytest.raises(IndeterminateError) as caught:
            log.context("a/b").append([HI, SET])
        told: list[Any] = []
        backend.before = lambda: told.append(ContextLog(backend).resolve(caught.value))
        assert [log.resolve(caught.value)] == told
        assert log.context("a/b").version == 2
        assert [entry.outcome for entry in log.context("a/b").history()] == ["accepted"] * 2 + ["duplicate"] * 2


def test_another_log_does_not_resolve_an_append(losing: LosesAnswers) -> None:
    """It would get records that were meant for the other one."""
    with ContextLog(losing) as log, ContextLog(MemoryLog()) as other:
        losing.fates = ["before"]
        with pytest.raises(IndeterminateError) as caught:
            log.context("a/b").append(HI)
        with pytest.raises(
            InvalidInputError, match=rf"log {losing.log_id}, this is log {other.log.log_id}; nothing was appended"
        ):
            other.resolve(caught.value)
        assert other.matching() == []
        assert log.resolve(caught.value).version == 1


def test_errors_of_outcomes_survive_pickling(losing: LosesAnswers) -> None:
    """Pools of processes send exceptions through pickle."""
    import pickle

    with ContextLog(losing) as log:
        losing.fates = ["after"]
        with pytest.raises(IndeterminateError) as caught:
            log.context("a/b").append(HI)
        assert log.resolve(pickle.loads(pickle.dumps(caught.value))).version == 1  # noqa: S301


# Reading what was written


def test_a_second_handle_sees_what_the_first_appended_and_the_other_way_round(folder: Any) -> None:
    with ContextLog.open(f"embedded:{folder}") as one, ContextLog.open(f"embedded:{folder}") as two:
        for number in range(5):
            writer, reader = (one, two) if number % 2 else (two, one)
            writer.context("a/b").append(HI, expected_version=number)
            assert reader.context("a/b").version == number + 1


READS: list[Callable[[ContextLog], Any]] = [
    lambda log: log.context("a/b").state.version,
    lambda log: log.context("a/b").version,
    lambda log: len(log.context("a/b").window().messages),
    lambda log: log.context("a/b").replay().state.version,
    lambda log: len(list(log.context("a/b").accepted())),
    lambda log: len(list(log.context("a/b").history())),
    lambda log: next(log.streams()).version,
    lambda log: log.cut().streams["a/b"],
    lambda log: len(log.matching("a/*")),
    lambda log: log.context("a/b").fork("a/fork").state.parent.version,  # type: ignore[union-attr]
]


@pytest.mark.parametrize("read", READS, ids=[str(number) for number in range(len(READS))])
def test_every_read_sees_what_its_own_handle_appended_though_the_log_shows_it_late(read: Callable[[ContextLog], Any]) -> None:
    """Stale reads lose data silently."""
    log = ContextLog(ShowsLate(MemoryLog(3)))
    log.context("a/b").append(HI)
    assert read(log) == 1


class Stuck(ShowsLate):
    """Shows nothing new, to those who wait either, while `stuck`."""

    stuck = False

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        return end if self.stuck else super().wait(partition, end, timeout_seconds)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Stuck:
    monkeypatch.setattr("ctxlog.log.publication.SHOWN_SECONDS_MAX", 0.05)
    backend = Stuck(MemoryLog(3))
    ContextLog(backend).context("a/b").append_each([(HI, {}), (SET, {})])
    backend.stuck = True
    return backend


@pytest.mark.parametrize("read", READS, ids=[str(number) for number in range(len(READS))])
def test_a_read_does_not_wait_for_ever_for_what_its_own_handle_appended(stuck: Stuck, read: Callable[[ContextLog], Any]) -> None:
    """Nor does it answer without it."""
    log = ContextLog(stuck)
    log.context("a/b").append(HI)
    with pytest.raises(StorageError, match="does not show"):
        read(log)


def test_an_append_that_the_log_took_and_does_not_show_has_no_outcome_yet(stuck: Stuck) -> None:
    """It may have been accepted, so neither success nor failure would be true."""
    log = ContextLog(stuck)
    with pytest.raises(IndeterminateError, match="does not show") as caught:
        log.context("a/b").append([HI, SET])
    with pytest.raises(IndeterminateError) as again:
        log.resolve(caught.value)
    assert again.value.records == caught.value.records
    stuck.stuck = False
    assert log.resolve(again.value).version == log.context("a/b").version == 4


def test_an_append_whose_outcome_cannot_be_read_has_none_yet() -> None:
    log = ContextLog(backend := Then(MemoryLog()))
    context = log.context("a/b")
    context.append(HI)

    def fail() -> None:
        def wait(*_: Any) -> Any:
            del backend.wait  # type: ignore[method-assign]
            raise StorageError("the disk cannot be read")

        backend.wait = wait  # type: ignore[method-assign]

    backend.work = fail
    with pytest.raises(IndeterminateError, match="the disk cannot be read") as caught:
        context.append(SET, expected_version=1)
    assert log.resolve(caught.value).version == context.version == 2


class Then(Wrapped):
    """Does something before or after an append of events, as other threads and processes would."""

    work: Callable[[], Any] | None = None
    before: Callable[[], Any] | None = None

    def append(self, records: Any) -> Any:
        if self.before is not None and records[0].key != CONTROL_KEY:
            before, self.before = self.before, None
            before()
        placed = self.inner.append(records)
        if self.work is not None and records[0].key != CONTROL_KEY:
            work, self.work = self.work, None
            work()
        return placed


class Hides(Wrapped):
    """Does not give the events that it took, whoever reads."""

    hiding = False

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        found = self.inner.read(partition, start, end, key=key)
        return (record for record in found if not self.hiding or record.key == CONTROL_KEY)


def test_an_append_of_which_nothing_is_seen_has_no_outcome_yet() -> None:
    """A conflict would say that it was decided, and that it may be made again with new ids."""
    log = ContextLog(backend := Hides(MemoryLog()))
    context = log.context("a/b")
    backend.hiding = True
    with pytest.raises(IndeterminateError, match="none is found") as caught:
        context.append([HI, SET])
    with pytest.raises(IndeterminateError) as again:
        log.resolve(caught.value)
    backend.hiding = False
    assert ContextLog(backend).resolve(again.value).version == 2


@pytest.mark.parametrize(("ids", "reason"), [(["x", "y"], "malformed"), (["z", "w"], "duplicate")])
def test_an_append_with_the_ids_of_another_one_is_told_that_it_was_not_its_precondition(ids: list[str], reason: str) -> None:
    log = ContextLog(MemoryLog())
    context = log.context("a/b")
    context.append(HI, event_ids=["w"])
    log.log.append([raw(log.log, "a/b", "MessageAppended", "x", append=group("x", 0, 3))])
    with pytest.raises(ConflictError, match=rf"expected event ids that no other append has \({reason}\), log is at 1 \(0@"):
        context.append([HI, SET], event_ids=ids, expected_version=1)


def test_an_outcome_is_told_though_another_thread_read_past_the_records() -> None:
    log = ContextLog(backend := Then(MemoryLog()))
    context = log.context("a/b")
    context.append(HI)
    _ = context.state
    backend.work = lambda: context.state
    assert context.append([HI, SET], expected_version=1).version == 3  # type: ignore[union-attr]
    backend.work = lambda: context.state
    with pytest.raises(ConflictError):
        context.append(HI, expected_version=1)


def test_an_outcome_is_told_though_another_process_took_a_snapshot_beyond_the_records(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot would hide the records that the writer has to see."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 5)
    store = SnapshotStore(tmp_path / "cache.sqlite")
    backend = Then(MemoryLog())
    other = ContextLog(backend.inner, store)
    other.context("a/b").append_each([(HI, {})] * 4)

    def read_on() -> None:
        other.context("a/b").append_each([(HI, {})] * 10)
        _ = other.context("a/b").state
        assert max(store.versions(other.log.log_id, "a/b")) > 5

    backend.work = read_on
    assert ContextLog(backend, store).context("a/b").append(HI, expected_version=4).version == 5  # type: ignore[union-attr]
    store.close()

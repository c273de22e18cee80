"""Outcomes that cannot be known at first, and reads that see what their own handle wrote, on logs that fail and lag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.errors import (
    AbandonedError,
    ConflictError,
    IndeterminateError,
)
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.records import CONTROL_KEY
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


class Then(Wrapped):
    """Does something between an append of events and what its writer does next, as other threads and processes would."""

    work: Callable[[], Any] | None = None

    def append(self, records: Any) -> Any:
        placed = self.inner.append(records)
        if self.work is not None and records[0].key != CONTROL_KEY:
            work, self.work = self.work, None
            work()
        return placed


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

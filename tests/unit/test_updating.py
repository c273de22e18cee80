"""Read, decide, append, and again on conflict: nothing is lost, nothing counts twice, and nobody is disturbed without need."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.client import updating
from ctxlog.errors import ConflictError, IndeterminateError, IntegrityError, InvalidInputError, LogBusyError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.records import Placed
from ctxlog.model.state import ContextState
from writing import LosesAnswers, Wrapped


def one_more(state: ContextState) -> FactSet:
    return FactSet(key="n", value=str(1 + int(state.facts["n"].value if "n" in state.facts else 0)))


def test_an_update_appends_what_follows_from_the_newest_state(ctx: Context, other: Context) -> None:
    other.set_fact("n", 41)
    done = ctx.update(one_more, correlation_id="ticket-1")
    assert done is not None
    assert (done.version, ctx.state.facts["n"].value) == (2, "42")
    assert list(ctx.history())[-1].meta["trace"]["correlation_id"] == "ticket-1"


def test_events_of_an_update_are_appended_together(ctx: Context) -> None:
    done = ctx.update(lambda state: [MessageAppended(role="user", content="a"), one_more(state)])
    assert done is not None
    assert (done.version, len(done.event_ids)) == (2, 2)


@pytest.mark.parametrize("nothing", [None, [], ()], ids=repr)
def test_an_update_that_has_nothing_to_append_appends_nothing(ctx: Context, nothing: Any) -> None:
    assert ctx.update(lambda _: nothing) is None
    assert ctx.version == 0


@pytest.mark.parametrize("other", [7, "text", {"n": 1}, ["text"]], ids=repr)
def test_a_function_that_returns_no_events_is_refused(ctx: Context, other: Any) -> None:
    with pytest.raises(InvalidInputError, match="event"):
        ctx.update(lambda _: other)
    assert ctx.version == 0


def test_an_update_that_somebody_came_between_decides_again_with_new_ids(ctx: Context, other: Context) -> None:
    seen = []

    def decide(state: ContextState) -> FactSet:
        seen.append(state.version)
        if len(seen) < 4:
            other.update(one_more)
        return one_more(state)

    done = ctx.update(decide)
    assert done is not None
    assert seen == [0, 1, 2, 3]
    assert ctx.state.facts["n"].value == "4"
    entries = list(ctx.history())
    assert [entry.outcome for entry in entries] == ["accepted", "conflict"] * 3 + ["accepted"]
    assert len({entry.meta["event_id"] for entry in entries}) == 7


def test_what_the_function_raises_ends_the_update_and_nothing_is_appended(ctx: Context) -> None:
    """Also where it is an error that says that one may try again."""
    tries = []

    def decide(_: ContextState) -> FactSet:
        tries.append(1)
        raise ConflictError("elsewhere", 1, expected="version 0", position=None)

    with pytest.raises(ConflictError, match="elsewhere"):
        ctx.update(decide)
    with pytest.raises(ConflictError, match="elsewhere"):
        ctx.update_fact("n", decide)
    assert (len(tries), ctx.version) == (2, 0)


def test_an_update_ends_when_its_time_is_over_and_says_why(ctx: Context, other: Context) -> None:
    def decide(state: ContextState) -> FactSet:
        other.add_message("user", "again I was faster")
        return one_more(state)

    with pytest.raises(ConflictError, match="nothing was changed"):
        ctx.update(decide, timeout_seconds=0)
    with pytest.raises(ConflictError, match="nothing was changed"):
        ctx.update(decide, timeout_seconds=0.05)
    assert "n" not in ctx.state.facts


@pytest.mark.parametrize("name", ["expected_version", "expected_head", "expected_targets", "event_ids"])
def test_preconditions_and_ids_are_its_own(ctx: Context, name: str) -> None:
    for update in (lambda **options: ctx.update(one_more, **options), lambda **options: ctx.update_fact("n", str, **options)):
        with pytest.raises(InvalidInputError, match=name):
            update(**{name: None})
    assert ctx.version == 0


# One fact


def test_a_fact_is_set_to_what_the_function_makes_of_it(ctx: Context, other: Context) -> None:
    assert ctx.update_fact("n", lambda n: n + 1, default=0).version == 1
    assert other.update_fact("n", lambda n: n + 1).version == 2
    assert ctx.state.facts["n"].parsed() == 2
    ctx.remove_fact("n")
    other.update_fact("n", lambda n: [n])
    assert ctx.state.facts["n"].parsed() == [None]


def test_a_fact_that_has_expired_is_not_there(ctx: Context) -> None:
    ctx.set_fact("n", 41, expires_at=1)
    ctx.update_fact("n", lambda n: n + 1, default=0)
    assert (ctx.state.facts["n"].value, ctx.state.facts["n"].expires_at) == ("1", None)


def test_who_changes_other_facts_or_appends_messages_is_not_in_the_way(ctx: Context, other: Context) -> None:
    seen = []

    def decide(n: int) -> int:
        seen.append(n)
        other.add_message("user", "hello")
        other.update_fact("m", lambda m: m + 1, default=0)
        return n + 1

    ctx.update_fact("n", decide, default=0)
    assert seen == [0]
    assert {entry.outcome for entry in ctx.history()} == {"accepted"}


def test_who_changes_the_same_fact_is_not_overwritten(ctx: Context, other: Context) -> None:
    seen = []

    def decide(n: int) -> int:
        seen.append(n)
        if len(seen) == 1:
            other.update_fact("n", lambda n: n + 10, default=0)
        return n + 1

    ctx.update_fact("n", decide, default=0)
    assert (seen, ctx.state.facts["n"].parsed()) == ([0, 10], 11)


def test_a_fact_that_a_fork_inherits_is_changed_in_the_fork_alone(ctx: Context) -> None:
    ctx.set_fact("n", 41)
    fork = ctx.fork("shared/what-if")
    fork.update_fact("n", lambda n: n + 1)
    assert (ctx.state.facts["n"].value, fork.state.facts["n"].value) == ("41", "42")


@pytest.mark.parametrize("value", [object(), math.nan], ids=["object", "nan"])
def test_a_value_that_json_cannot_carry_is_refused(ctx: Context, value: Any) -> None:
    with pytest.raises(InvalidInputError, match="nothing was appended"):
        ctx.update_fact("n", lambda _: value)
    assert ctx.version == 0


@pytest.mark.parametrize("text", ["not JSON", "[" * 100_000], ids=["not JSON", "too deep"])
def test_a_fact_that_somebody_filled_with_other_text_is_refused(ctx: Context, text: str) -> None:
    ctx.append(FactSet(key="n", value=text))
    with pytest.raises(IntegrityError, match="no JSON"):
        ctx.update_fact("n", str)
    assert ctx.version == 1


@pytest.mark.parametrize("timeout_seconds", [-1, math.nan])
def test_a_time_that_is_none_is_refused(ctx: Context, timeout_seconds: float) -> None:
    for go_on in (
        lambda: ctx.update(one_more, timeout_seconds=timeout_seconds),
        lambda: ctx.update_fact("n", str, timeout_seconds=timeout_seconds),
        lambda: ctx.tool_once("pay", {}, run=str, key="k", timeout_seconds=timeout_seconds),
    ):
        with pytest.raises(InvalidInputError, match="timeout_seconds"):
            go_on()
    assert ctx.version == 0


# A log that fails


@pytest.mark.parametrize("fates", [["before"], ["after"], ["half"], ["after", "before", "after"], ["before", "before"]], ids=str)
@pytest.mark.parametrize("between", [False, True], ids=["alone", "somebody came between"])
def test_an_update_counts_once_though_the_log_loses_its_answers(
    shared: MemoryLog, other: Context, fates: list[str], between: bool
) -> None:
    losing = LosesAnswers(shared)
    context, tries = ContextLog(losing).context("refunds/case-1"), []
    other.add_message("user", "hello")
    context.update(one_more)

    def decide(state: ContextState) -> list[Any]:
        tries.append(1)
        losing.fates = list(fates) if len(tries) < 3 else []
        if between and len(tries) == 1:
            other.update(one_more)
        return [one_more(state), MessageAppended(role="user", content="one more")]

    context.update(decide)
    assert context.state.facts["n"].value == ("3" if between else "2")
    assert [message.content for message in context.state.messages] == ["hello", "one more"]
    assert len(tries) == 1 + between


def test_an_outcome_that_cannot_be_known_is_told_and_can_be_asked_for_later(
    shared: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updating, "RESOLVE_SECONDS", 0.05)
    losing = LosesAnswers(shared)
    log = ContextLog(losing)
    log.context("refunds/case-1").update(one_more)
    losing.fates = ["before"] * 1000
    with pytest.raises(IndeterminateError) as unknown:
        log.context("refunds/case-1").update(one_more)
    losing.fates = []
    assert log.resolve(unknown.value).version == 2
    assert log.context("refunds/case-1").state.facts["n"].value == "2"


class Busy(Wrapped):
    """Another process writes for longer than this one waits."""

    busy = 0

    def append(self, records: Any) -> list[Placed]:
        if self.busy:
            self.busy -= 1
            raise LogBusyError("another process wrote for longer than 30 s; nothing was appended. Try again.")
        return super().append(records)


def test_an_update_waits_longer_than_a_single_append_does(shared: MemoryLog) -> None:
    log = Busy(shared)
    context = ContextLog(log).context("refunds/case-1")
    context.update(one_more)
    log.busy = 3
    context.update(one_more)
    log.busy = 1
    context.update_fact("n", lambda n: n + 1)
    assert context.state.facts["n"].value == "3"

"""What somebody who goes on with a context finds."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.errors import IndeterminateError, NewerEventError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet, MessageAppended, ToolCalled
from writing import LosesAnswers, group, publish, raw


def reopened(shared: MemoryLog) -> Context:
    return ContextLog(shared).context("refunds/case-1")


def test_a_context_that_does_not_exist_is_empty_and_nothing_was_begun(ctx: Context) -> None:
    found = ctx.resume()
    assert (found.state.version, found.open_calls, found.open_appends) == (0, (), ())


def test_calls_without_a_result_are_told_and_no_others(shared: MemoryLog, ctx: Context) -> None:
    returned, failed, still = (ctx.add_tool_call("search", {"n": number}) for number in range(3))
    ctx.add_tool_result(returned.event_id, "found")
    ctx.add_tool_result(failed.event_id, "no", failed=True)
    found = reopened(shared).resume()
    assert [(call.call_id, call.call.arguments, call.held) for call in found.open_calls] == [(still.event_id, '{"n": 2}', False)]
    assert found.state == ctx.state


@pytest.mark.parametrize(("seconds", "held"), [(3600, True), (-1, False)])
def test_a_lease_is_judged_at_the_instant_that_is_told(shared: MemoryLog, ctx: Context, seconds: int, held: bool) -> None:
    now = ctx.resume().judged_at
    ctx.append(
        ToolCalled(
            call_id="refund", name="pay", arguments="{}", idempotency_key="refund", lease_expires_at=now + seconds * 1_000_000
        )
    )
    found = reopened(shared).resume()
    assert found.judged_at >= now
    (call,) = found.open_calls
    assert (call.call_id, call.held) == ("refund", held)
    assert call.call.lease is not None
    assert (call.call.lease.expires_at > found.judged_at) is held


def test_a_call_that_is_running_is_open_and_held(shared: MemoryLog, ctx: Context) -> None:
    found = []
    ctx.tool_once("pay", {}, run=lambda _: found.extend(reopened(shared).resume().open_calls), key="refund")
    assert [(call.call_id, call.held) for call in found] == [("refund", True)]
    assert ctx.resume().open_calls == ()


def test_an_append_that_was_cut_off_has_no_effect_and_is_told(shared: MemoryLog, ctx: Context) -> None:
    ctx.add_message("user", "hello")
    publish(shared, "FactSet")
    records = [
        raw(shared, ctx.stream_id, "MessageAppended", "e2", content="third", append=group("e0", 2, 3)),
        raw(shared, ctx.stream_id, "FactSet", "e0", append=group("e0", 0, 3)),
        raw(shared, ctx.stream_id, "MessageAppended", "e9", content="other", append=group("e9", 0, 2)),
    ]
    shared.append(records)
    found = reopened(shared).resume()
    assert (found.state.version, found.state.facts) == (1, {})
    assert [(one.append_id, one.count) for one in found.open_appends] == [("e0", 3), ("e9", 2)]
    assert [(event.type, event.meta["event_id"]) for event in found.open_appends[0].events] == [
        ("ctxlog.FactSet", "e0"), ("ctxlog.MessageAppended", "e2"),
    ]  # fmt: skip


def test_an_error_that_was_kept_across_the_crash_completes_what_was_cut_off(shared: MemoryLog) -> None:
    losing = LosesAnswers(shared)
    context = ContextLog(losing).context("refunds/case-1")
    context.add_message("user", "hello")
    context.set_fact("n", 0)
    losing.fates = ["half"]
    with pytest.raises(IndeterminateError) as unknown:
        context.append([FactSet(key="n", value="1"), MessageAppended(role="user", content="done")])
    kept = pickle.dumps(unknown.value)

    log = ContextLog(shared)
    again: Any = pickle.loads(kept)  # noqa: S301 - our own
    (cut_off,) = log.context("refunds/case-1").resume().open_appends
    assert cut_off.append_id == again.event_ids[0]
    assert log.resolve(again).version == 4
    found = log.context("refunds/case-1").resume()
    assert (found.open_appends, found.state.facts["n"].value) == ((), "1")


def test_a_state_that_needs_a_newer_release_is_no_place_to_go_on_from(
    shared: MemoryLog, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx.add_message("user", "hello")
    monkeypatch.delitem(__import__("ctxlog.core.evolve", fromlist=["_HANDLERS"])._HANDLERS, "ctxlog.MessageAppended")
    context = reopened(shared)
    for go_on in (
        context.resume,
        lambda: context.update(lambda _: None),
        lambda: context.update_fact("n", str),
        lambda: context.tool_once("pay", {}, run=str, key="k"),
    ):
        with pytest.raises(NewerEventError):
            go_on()

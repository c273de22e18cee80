"""Who runs a call and who waits for it: leases that are held, that end, and that are lost."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.client import once
from ctxlog.errors import CallHeldError, LeaseLostError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import ToolCalled
from unit.tools import PAY, Tool


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock by which leases are judged on."""
    moved = [0]
    monkeypatch.setattr(once, "_now", lambda: time.time_ns() // 1000 + moved[0])

    def move(seconds: float) -> None:
        moved[0] += round(seconds * 1_000_000)

    return move


def test_a_call_that_somebody_else_runs_is_not_run_and_says_until_when(ctx: Context, other: Context) -> None:
    tool = Tool("again")

    def run(_: Any) -> str:
        with pytest.raises(CallHeldError, match="nothing was run") as held:
            other.tool_once("pay", PAY, run=tool, key="refund", timeout_seconds=0.05)
        lease = other.state.tool_calls["refund"].lease
        assert lease is not None
        assert held.value.expires_at == lease.expires_at
        return "paid"

    assert ctx.tool_once("pay", PAY, run=run, key="refund") == "paid"
    assert tool.ran == []


def test_who_waits_gets_the_result_as_soon_as_it_is_there(ctx: Context, other: Context) -> None:
    running, go_on, got = threading.Event(), threading.Event(), []

    def run(_: Any) -> str:
        running.set()
        assert go_on.wait(60)
        return "paid"

    first = threading.Thread(target=lambda: ctx.tool_once("pay", PAY, run=run, key="refund", lease_seconds=3600))
    tool = Tool("again")
    second = threading.Thread(target=lambda: got.append(other.tool_once("pay", PAY, run=tool, key="refund")))
    first.start()
    assert running.wait(60)
    second.start()
    go_on.set()
    first.join(60)
    second.join(60)
    assert (got, tool.ran) == (["paid"], [])


def test_a_lease_that_has_ended_is_taken_over_and_the_late_result_is_not_recorded(
    ctx: Context, other: Context, clock: Callable[[float], None]
) -> None:
    """As if the process was paused: it goes on in the belief that the call is its own."""

    def run(_: Any) -> str:
        clock(61)
        assert other.tool_once("pay", PAY, run=Tool("paid by the other"), key="refund") == "paid by the other"
        return "paid late"

    with pytest.raises(LeaseLostError, match="not recorded") as lost:
        ctx.tool_once("pay", PAY, run=run, key="refund")
    assert isinstance(pickle.loads(pickle.dumps(lost.value)), LeaseLostError)  # noqa: S301 - our own
    assert ctx.state.tool_calls["refund"].result == "paid by the other"
    assert ctx.tool_once("pay", PAY, run=Tool("never"), key="refund") == "paid by the other"
    assert [entry.outcome for entry in ctx.history()] == ["accepted", "accepted", "accepted", "conflict"]
    assert not ctx.replay().anomalies


def test_a_late_result_does_not_count_either_while_the_other_one_still_runs(
    ctx: Context, other: Context, clock: Callable[[float], None]
) -> None:
    def late(_: Any) -> str:
        clock(61)

        # The fence is the take-over itself, and not the result that follows.
        other_version = other.append(
            ToolCalled(
                call_id="refund", name="pay", arguments=other.state.tool_calls["refund"].arguments, idempotency_key="refund",
                lease_expires_at=once._now() + 10**9,
            ),
            expected_targets={"call:refund": 1},
        )  # fmt: skip
        assert other_version.version == 2
        return "paid late"

    with pytest.raises(LeaseLostError):
        ctx.tool_once("pay", PAY, run=late, key="refund")
    assert other.state.tool_calls["refund"].status == "open"


def test_a_run_beyond_its_lease_that_nobody_took_over_counts(ctx: Context, clock: Callable[[float], None]) -> None:
    def run(_: Any) -> str:
        clock(3600)
        return "paid"

    assert ctx.tool_once("pay", PAY, run=run, key="refund") == "paid"
    assert ctx.state.tool_calls["refund"].status == "returned"


def test_a_lease_that_ended_before_it_was_known_to_be_taken_is_taken_anew(
    ctx: Context, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the tool would run while somebody else may rightly begin."""
    takes = []
    take = once.Once._take

    def slow(self: once.Once, *arguments: Any) -> int:
        takes.append(take(self, *arguments))
        clock(61 if len(takes) == 1 else 0)
        return takes[-1]

    monkeypatch.setattr(once.Once, "_take", slow)
    tool = Tool("paid")
    assert ctx.tool_once("pay", PAY, run=tool, key="refund") == "paid"
    assert (takes, len(tool.ran)) == ([1, 2], 1)


def test_of_many_threads_one_runs_the_tool_and_all_get_its_result(shared: MemoryLog) -> None:
    log = ContextLog(shared)
    tool, got, start = Tool({"paid": 1}), [], threading.Barrier(8)

    def call(number: int) -> None:
        context = (log if number % 2 else ContextLog(shared)).context("refunds/case-1")
        start.wait(60)
        got.append(context.tool_once("pay", PAY, run=tool, key="refund"))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [{"paid": 1}] * 8
    assert len(tool.ran) == 1


def test_other_writers_are_not_in_the_way_of_a_call(ctx: Context, other: Context) -> None:
    def run(_: Any) -> str:
        other.add_message("user", "still there?")
        assert other.tool_once("mail", PAY, run=Tool("sent"), key="mail") == "sent"
        return "paid"

    assert ctx.tool_once("pay", PAY, run=run, key="refund") == "paid"

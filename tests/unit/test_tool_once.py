"""One run of a tool for one key: what comes back, who waits, who takes over, and who cannot finish late."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.client import once
from ctxlog.errors import (
    InvalidInputError,
    KeyReusedError,
    NoResultError,
    StorageError,
)
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import ToolCalled, ToolReturned
from ctxlog.model.records import Placed
from unit.tools import PAY, Tool
from writing import LosesAnswers, Wrapped


def types(context: Context) -> list[str]:
    return [entry.type.removeprefix("ctxlog.") for entry in context.history() if entry.outcome == "accepted"]


# What comes back


RESULTS = [
    "text", "", None, 7, 2**70, 1.5, True, [], {"a": [1, None, "é"]}, "\ud800", [{"x": "\udfff"}], "null", '{"a": 1}',
]  # fmt: skip


@pytest.mark.parametrize("result", RESULTS, ids=repr)
def test_a_call_that_has_its_result_is_not_run_again_and_gives_what_it_gave(ctx: Context, other: Context, result: Any) -> None:
    tool = Tool(result)
    first = ctx.tool_once("pay", PAY, run=tool, key="refund")
    again = other.tool_once("pay", PAY, run=tool, key="refund")
    assert tool.ran == [PAY]
    assert first == again == result
    assert type(first) is type(again) is type(result)
    assert types(ctx) == ["ToolCalled", "ToolReturned"]


def test_the_first_result_is_what_json_carries_as_every_later_one_is(ctx: Context, other: Context) -> None:
    tool = Tool({1: (2, 3)})
    first = ctx.tool_once("pay", PAY, run=tool, key="refund")
    assert first == other.tool_once("pay", PAY, run=tool, key="refund") == {"1": [2, 3]}


def test_the_call_and_its_result_show_in_the_state_with_the_key_as_id(ctx: Context) -> None:
    asked = ctx.add_message("assistant", None)
    ctx.tool_once(
        "pay", PAY, run=Tool("paid"), key="refund", message_id=asked.event_id, source_id="call_1", correlation_id="ticket-1"
    )
    call = ctx.state.tool_calls["refund"]
    assert (call.name, call.status, call.result, call.idempotency_key, call.source_id, call.lease) == (
        "pay", "returned", "paid", "refund", "call_1", None,
    )  # fmt: skip
    assert ctx.state.messages[0].tool_calls == ("refund",)
    assert ctx.window().as_openai()[1] == {"role": "tool", "content": "paid", "tool_call_id": "refund"}
    assert [entry.meta["trace"]["correlation_id"] for entry in list(ctx.history())[1:]] == ["ticket-1", "ticket-1"]


@pytest.mark.parametrize(
    "result", [Decimal(1), object(), {1, 2}, float("nan"), "x" * 2_000_000, {once.UNRECORDED: "mine"}], ids=type
)
def test_a_result_that_cannot_be_recorded_is_refused_and_the_tool_does_not_run_again(
    ctx: Context, other: Context, result: Any
) -> None:
    """The refund was paid. That the program cannot say how must not pay it once more."""
    tool = Tool(result)
    for context in (ctx, other, ctx):
        with pytest.raises(NoResultError, match="is not run again") as refused:
            context.tool_once("pay", PAY, run=tool, key="refund")
        assert type(result).__name__ in refused.value.reason
    assert len(tool.ran) == 1
    assert ctx.state.tool_calls["refund"].status == "returned"


def test_a_result_that_was_redacted_is_gone_and_the_tool_does_not_run_again(ctx: Context) -> None:
    tool = Tool("card 4711")
    ctx.tool_once("pay", PAY, run=tool, key="refund")
    ctx.redact_message(ctx.state.tool_calls["refund"].result_id or "")
    with pytest.raises(NoResultError, match="redacted"):
        ctx.tool_once("pay", PAY, run=tool, key="refund")
    assert len(tool.ran) == 1


def test_a_result_that_somebody_else_recorded_counts(ctx: Context, other: Context) -> None:
    """By hand, say: the payment was found in the bank's books."""
    lease = {"idempotency_key": "mail", "lease_expires_at": 1}
    other.append(ToolCalled(call_id="mail", name="mail", arguments="{}", **lease))
    other.add_tool_result("mail", {"sent": True})
    tool = Tool("again")
    assert ctx.tool_once("mail", {}, run=tool, key="mail") == {"sent": True}
    other.append(ToolCalled(call_id="odd", name="mail", arguments="{}", **{**lease, "idempotency_key": "odd"}))
    other.append(ToolReturned(call_id="odd", parts="not JSON"))
    with pytest.raises(NoResultError, match="no JSON"):
        ctx.tool_once("mail", {}, run=tool, key="odd")
    assert tool.ran == []


# Failures


def test_a_failure_is_recorded_and_raised_and_the_next_call_runs_again(ctx: Context, other: Context) -> None:
    tool = Tool(ValueError("no such order"), "paid")
    with pytest.raises(ValueError, match="no such order"):
        ctx.tool_once("pay", PAY, run=tool, key="refund")
    failed = ctx.state.tool_calls["refund"]
    assert (failed.status, failed.result) == ("failed", "ValueError: no such order")
    assert other.tool_once("pay", PAY, run=tool, key="refund") == "paid"
    assert ctx.state.tool_calls["refund"].status == "returned"
    assert types(ctx) == ["ToolCalled", "ToolReturned"] * 2


def test_an_interrupt_is_recorded_as_a_failure_so_that_nobody_waits_for_the_lease(ctx: Context, other: Context) -> None:
    with pytest.raises(KeyboardInterrupt):
        ctx.tool_once("pay", PAY, run=Tool(KeyboardInterrupt()), key="refund")
    assert other.tool_once("pay", PAY, run=Tool("paid"), key="refund", timeout_seconds=0) == "paid"


def test_a_failure_whose_text_cannot_be_made_is_recorded_by_its_type_and_goes_on_as_it_is(ctx: Context, other: Context) -> None:
    class WordlessError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    with pytest.raises(WordlessError) as raised:
        ctx.tool_once("pay", PAY, run=Tool(WordlessError()), key="refund")
    assert not hasattr(raised.value, "__notes__")
    failed = ctx.state.tool_calls["refund"]
    assert (failed.status, failed.result) == ("failed", "WordlessError")
    assert other.tool_once("pay", PAY, run=Tool("paid"), key="refund", timeout_seconds=0) == "paid"


def test_a_failure_that_cannot_be_recorded_does_not_hide_what_the_tool_raised(ctx: Context, other: Context) -> None:
    def run(_: Any) -> None:
        other.add_tool_result("refund", "settled by hand")
        raise ValueError("no such order")

    with pytest.raises(ValueError, match="no such order") as raised:
        ctx.tool_once("pay", PAY, run=run, key="refund")
    assert "did not record" in raised.value.__notes__[0]


def test_something_to_be_awaited_is_a_failure_as_the_tool_did_not_run(ctx: Context) -> None:
    async def pay(_: Any) -> str:
        return "paid"

    coroutines = []
    with pytest.raises(InvalidInputError, match="not async"):
        ctx.tool_once("pay", PAY, run=pay, key="refund")
    assert ctx.version == 0
    with pytest.raises(InvalidInputError, match="awaited"):
        ctx.tool_once("pay", PAY, run=lambda a: coroutines.append(pay(a)) or coroutines[0], key="refund")
    coroutines[0].close()
    assert ctx.state.tool_calls["refund"].status == "failed"


# One key, one call


@pytest.mark.parametrize(("name", "arguments"), [("pay", {"order": "W-205"}), ("charge", PAY), ("pay", "not JSON")])
def test_a_key_that_stands_for_another_call_is_refused(ctx: Context, name: str, arguments: Any) -> None:
    ctx.tool_once("pay", PAY, run=Tool("paid"), key="refund")
    tool, version = Tool("again"), ctx.version
    with pytest.raises(KeyReusedError, match="nothing was run") as refused:
        ctx.tool_once(name, arguments, run=tool, key="refund")
    assert (tool.ran, ctx.version) == ([], version)
    assert pickle.loads(pickle.dumps(refused.value)).key == "refund"  # noqa: S301 - our own


def test_the_same_arguments_in_another_order_are_the_same_call(ctx: Context) -> None:
    tool = Tool(ValueError("down"), "paid")
    with pytest.raises(ValueError, match="down"):
        ctx.tool_once("pay", PAY, run=tool, key="refund")
    assert ctx.tool_once("pay", dict(reversed(PAY.items())), run=tool, key="refund") == "paid"
    assert ctx.tool_once("pay", '{"amount":129.9,"order":"W-204"}', run=tool, key="refund") == "paid"
    assert not ctx.replay().anomalies


def test_a_call_that_was_made_without_a_key_is_not_taken_over(ctx: Context) -> None:
    call = ctx.add_tool_call("pay", PAY)
    with pytest.raises(KeyReusedError):
        ctx.tool_once("pay", PAY, run=Tool("paid"), key=call.event_id)


@pytest.mark.parametrize("lease_seconds", [0, -1, float("nan"), float("inf")])
def test_a_lease_that_is_none_is_refused(ctx: Context, lease_seconds: float) -> None:
    with pytest.raises(InvalidInputError, match="lease_seconds"):
        ctx.tool_once("pay", PAY, run=Tool("paid"), key="refund", lease_seconds=lease_seconds)
    assert ctx.version == 0


@pytest.mark.parametrize("name", ["expected_version", "expected_head", "expected_targets", "event_ids"])
def test_preconditions_and_ids_are_its_own(ctx: Context, name: str) -> None:
    with pytest.raises(InvalidInputError, match=name):
        ctx.tool_once("pay", PAY, run=Tool("paid"), key="refund", **{name: None})
    assert ctx.version == 0


def test_a_message_that_nobody_wrote_is_refused_before_anything_runs(ctx: Context) -> None:
    with pytest.raises(InvalidInputError, match="message_id"):
        ctx.tool_once("pay", PAY, run=Tool("paid"), key="refund", message_id="0197a3c0")
    assert ctx.version == 0


def test_a_fork_knows_the_results_of_its_parent_and_takes_leases_of_its_own(ctx: Context) -> None:
    ctx.tool_once("pay", PAY, run=Tool("paid"), key="refund")
    with pytest.raises(ValueError, match="mail"):
        ctx.tool_once("mail", PAY, run=Tool(ValueError("mail")), key="mail")
    fork, tool = ctx.fork("refunds/what-if"), Tool("again")
    assert fork.tool_once("pay", PAY, run=tool, key="refund") == "paid"
    assert tool.ran == []
    assert fork.tool_once("mail", PAY, run=tool, key="mail") == "again"
    assert ctx.state.tool_calls["mail"].status == "failed"


# A log that fails


@pytest.mark.parametrize("fates", [["before"], ["after"], ["after", "after"], ["before", "after", "before"]], ids=str)
def test_a_tool_runs_once_though_the_log_loses_its_answers(shared: MemoryLog, fates: list[str]) -> None:
    losing = LosesAnswers(shared)
    context, tool = ContextLog(losing).context("refunds/case-1"), Tool("paid")
    losing.fates = list(fates)

    def run(arguments: Any) -> Any:
        losing.fates = list(fates)
        return tool(arguments)

    assert context.tool_once("pay", PAY, run=run, key="refund") == "paid"
    assert context.tool_once("pay", PAY, run=run, key="refund") == "paid"
    assert len(tool.ran) == 1
    assert types(context) == ["ToolCalled", "ToolReturned"]


class FailsOnce(Wrapped):
    """Takes nothing as long as it is full."""

    full = 0

    def append(self, records: Any) -> list[Placed]:
        if self.full:
            self.full -= 1
            raise StorageError("the disk is full; nothing was appended")
        return super().append(records)


def test_a_result_is_recorded_though_the_disk_was_full_for_a_moment(shared: MemoryLog) -> None:
    failing = FailsOnce(shared)
    context = ContextLog(failing).context("refunds/case-1")

    def run(_: Any) -> str:
        failing.full = 3
        return "paid"

    assert context.tool_once("pay", PAY, run=run, key="refund") == "paid"
    assert context.state.tool_calls["refund"].status == "returned"


def test_an_error_says_that_the_tool_ran_where_that_cannot_be_recorded(shared: MemoryLog) -> None:
    failing = FailsOnce(shared)
    context, tool = ContextLog(failing).context("refunds/case-1"), Tool("paid")

    def run(arguments: Any) -> Any:
        failing.full = 1_000_000
        return tool(arguments)

    with pytest.raises(StorageError, match="disk is full") as raised:
        context.tool_once("pay", PAY, run=run, key="refund", lease_seconds=0.2)
    assert "The tool ran" in raised.value.__notes__[-1]
    failing.full = 0
    assert context.tool_once("pay", PAY, run=tool, key="refund") == "paid"
    assert len(tool.ran) == 2  # At least once, and no better.


def test_who_is_slower_than_another_one_waits_for_it(ctx: Context, other: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that there is no call; the log decides."""
    look, looked = once.Once._look, []

    def first_the_other(self: once.Once) -> Any:
        found = look(self)
        if not looked:
            looked.append(True)
            other.tool_once("pay", PAY, run=Tool("paid by the other"), key="refund")
        return found

    monkeypatch.setattr(once.Once, "_look", first_the_other)
    tool = Tool("paid")
    assert ctx.tool_once("pay", PAY, run=tool, key="refund") == "paid by the other"
    assert tool.ran == []

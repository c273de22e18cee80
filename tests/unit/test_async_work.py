"""The async face: decisions by task, and tools that run once however many ask."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from coroutines import Gated, run, until
from ctxlog import AsyncContextLog, ContextLog, Selection
from ctxlog.client import threads
from ctxlog.errors import CallHeldError
from ctxlog.log.memory import MemoryLog

# Decisions


def receipts(log: ContextLog, agent: str) -> list[tuple[str, Any]]:
    found = []
    for one in log.context(f"decisions/{agent}").accepted():
        payload = one.event.payload
        if one.event.type == "ctxlog.ContextRead":
            found.append(("read", payload["streams"][0]["stream_id"]))
        else:
            found.append((payload["kind"], payload["failure"]))
    return found


def test_a_decision_belongs_to_its_task_and_to_those_begun_inside() -> None:
    sync = ContextLog(MemoryLog(3))

    async def main() -> None:
        log = AsyncContextLog(sync)
        shared = log.context("shared/policy")
        await shared.set_fact("limit", 250)

        async def decide(number: int) -> None:
            ctx = log.context(f"refunds/{number}")
            await ctx.add_message("user", "hello")
            async with log.decision("refund", agent=f"a{number}") as decision:
                await asyncio.gather(decision.read(ctx, max_messages=3), shared.window(), ctx.state())
                async with log.decision("inner", agent=f"b{number}") as inner:
                    seen = await inner.read(Selection(streams=["shared/*"]))
                    inner.outcome = seen["shared/policy"].facts["limit"].parsed()
                decision.outcome, decision.rationale = inner.outcome, "why"
                assert (decision.outcome, decision.rationale) == (250, "why")
                appended = await ctx.add_message("assistant", "done")
            event = [one async for one in ctx.accepted()][-1].event.meta
            assert (event["event_id"], event["trace"]["causation_id"]) == (appended.event_id, decision.id)

        await asyncio.gather(*(decide(number) for number in range(10)))
        await shared.state()  # Outside of every decision.

    run(main)
    for number in range(10):
        *reads, last = receipts(sync, f"a{number}")
        assert sorted(reads) == [("read", f"refunds/{number}")] * 2 + [("read", "shared/policy")]
        assert last == ("refund", None)
        assert receipts(sync, f"b{number}") == [("read", "shared/policy"), ("inner", None)]


def test_a_decision_that_is_cancelled_is_recorded_with_its_reads() -> None:
    sync = ContextLog(MemoryLog())

    async def main() -> None:
        log = AsyncContextLog(sync)
        ctx = log.context("refunds/1")

        async def decide() -> None:
            async with log.decision("refund", agent="refunds") as decision:
                await decision.read(ctx)
                await asyncio.sleep(60)

        deciding = asyncio.create_task(decide())
        await asyncio.sleep(0.05)
        deciding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deciding

    run(main)
    assert receipts(sync, "refunds") == [("read", "refunds/1"), ("refund", "CancelledError")]


# Tools


class Tool:
    """Counts its runs, and takes a little."""

    def __init__(self) -> None:
        self.ran = 0

    async def __call__(self, arguments: Any) -> Any:
        self.ran += 1
        await asyncio.sleep(0.02)
        return {"paid": arguments["amount"]}


def test_a_tool_that_is_a_coroutine_runs_once_for_a_key_however_many_ask() -> None:
    tool = Tool()

    async def main() -> None:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")
            calls = [ctx.tool_once("pay", {"amount": 5}, run=tool, key="k") for _ in range(3 * threads.THREADS_MAX)]
            assert await asyncio.gather(*calls) == [{"paid": 5}] * 3 * threads.THREADS_MAX
            assert await ctx.tool_once("pay", {"amount": 5}, run=lambda _: pytest.fail("ran again"), key="k") == {"paid": 5}
            assert await ctx.tool_once("pay", {"amount": 6}, run=lambda given: given["amount"], key="plain") == 6

    run(main)
    assert tool.ran == 1


def test_tools_that_use_the_log_themselves_do_not_wait_for_each_other() -> None:
    """More of them than there are threads."""

    async def main() -> int:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")
            count = 3 * threads.THREADS_MAX
            together = asyncio.Barrier(count)

            async def tool(number: int) -> int:
                await together.wait()
                await ctx.add_message("tool", str(number))
                return number

            results = await asyncio.gather(*(ctx.tool_once("t", n, run=tool, key=f"k{n}") for n in range(count)))
            assert results == list(range(count))
            return len((await ctx.state()).messages)

    assert run(main) == 2 * 3 * threads.THREADS_MAX


def test_a_coroutine_that_is_cancelled_failed_and_runs_again_and_a_thread_is_waited_for() -> None:
    gate = threading.Event()

    async def main() -> None:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")

            async def hang(_: Any) -> None:
                await asyncio.sleep(60)

            calling = asyncio.create_task(ctx.tool_once("pay", {}, run=hang, key="coroutine"))
            await asyncio.sleep(0.05)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            assert (await ctx.state()).tool_calls["coroutine"].status == "failed"
            assert await ctx.tool_once("pay", {}, run=lambda _: "paid", key="coroutine") == "paid"

            calling = asyncio.create_task(ctx.tool_once("pay", {}, run=lambda _: gate.wait(30), key="thread"))
            await asyncio.sleep(0.05)
            calling.cancel()
            await asyncio.sleep(0.01)
            gate.set()
            with pytest.raises(asyncio.CancelledError):
                await calling
            assert (await ctx.state()).tool_calls["thread"].status == "returned"  # It had its effect.

    run(main)


def test_a_lease_that_is_taken_and_not_used_is_let_go() -> None:
    backend = Gated()

    async def main() -> None:
        async with AsyncContextLog(ContextLog(backend)) as log:
            ctx = log.context("slow/1")
            calling = asyncio.create_task(ctx.tool_once("pay", {}, run=Tool(), key="k"))
            await until(backend.begun.is_set)
            calling.cancel()
            await asyncio.sleep(0)
            backend.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await calling
            assert await ctx.tool_once("pay", {}, run=lambda _: "paid", key="k", timeout_seconds=0) == "paid"

    run(main)


def test_whoever_waits_for_a_tool_waits_as_long_as_he_says() -> None:
    async def main() -> None:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")
            never = asyncio.Event()

            async def hang(_: Any) -> None:
                await never.wait()

            calling = asyncio.create_task(ctx.tool_once("pay", {}, run=hang, key="k"))
            await asyncio.sleep(0.05)
            with pytest.raises(CallHeldError):
                await ctx.tool_once("pay", {}, run=hang, key="k", timeout_seconds=0.05)
            never.set()
            assert await calling is None

    run(main)

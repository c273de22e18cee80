"""The async face: tools, how long they hold their leases, and what closing waits for."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any
from unittest.mock import ANY

import pytest

from coroutines import Gated, run, until
from ctxlog import AsyncContext, AsyncContextLog, ContextLog
from ctxlog.client import once, threads
from ctxlog.errors import InvalidInputError, LogClosedError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet


async def types(ctx: AsyncContext) -> list[str]:
    return [one.event.type.removeprefix("ctxlog.") async for one in ctx.accepted()]


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "TOOLS_MAX", 2)


class Hanging:
    """A tool in a thread that ends when it is told to."""

    def __init__(self) -> None:
        self.ran, self.gate = 0, threading.Event()

    def __call__(self, arguments: Any) -> Any:
        self.ran += 1
        assert self.gate.wait(30), "nobody opened the gate"
        return arguments


# Threads


@pytest.mark.usefixtures("two_threads")
def test_a_tool_that_waits_for_a_thread_holds_no_lease_and_leaves_nothing_when_it_is_cancelled() -> None:
    """Otherwise its lease may end before it begins, and somebody else runs it too."""
    tool = Hanging()

    async def main() -> list[str]:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")
            calls = list[asyncio.Task[Any]]()
            for number in range(4):
                calls.append(asyncio.create_task(ctx.tool_once("pay", number, run=tool, key=f"k{number}")))
                await until(lambda: tool.ran == min(len(calls), 2))
            await asyncio.sleep(0.05)
            calls[3].cancel()
            ended, _ = await asyncio.wait(calls[3:], timeout=5)
            began = list((await ctx.state()).tool_calls)
            tool.gate.set()
            assert (ended, began) == ({calls[3]}, ["k0", "k1"])
            assert await asyncio.gather(*calls, return_exceptions=True) == [0, 1, 2, ANY]
            assert calls[3].cancelled()
            return list((await ctx.state()).tool_calls)

    assert (run(main), tool.ran) == (["k0", "k1", "k2"], 3)


def test_calls_of_the_log_and_results_that_are_there_do_not_wait_for_slow_tools() -> None:
    tool = Hanging()

    async def main() -> None:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")
            assert await ctx.tool_once("pay", 0, run=lambda _: "paid", key="done") == "paid"
            calls = [asyncio.create_task(ctx.tool_once("t", n, run=tool, key=f"k{n}")) for n in range(threads.TOOLS_MAX)]
            await until(lambda: tool.ran == threads.TOOLS_MAX)
            try:
                async with asyncio.timeout(10):
                    await ctx.add_message("user", "x")
                    assert await ctx.tool_once("pay", 0, run=tool, key="done") == "paid"
            finally:
                tool.gate.set()
            await asyncio.gather(*calls)

    run(main)


def test_tools_in_threads_that_use_the_log_through_the_loop_do_not_wait_for_each_other() -> None:
    count = 3 * threads.THREADS_MAX
    together = threading.Barrier(count)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")

            def tool(number: int) -> int:
                together.wait(30)
                asyncio.run_coroutine_threadsafe(ctx.add_message("tool", str(number)), loop).result(timeout=30)
                return number

            results = await asyncio.gather(*(ctx.tool_once("t", n, run=tool, key=f"k{n}") for n in range(count)))
            assert results == list(range(count))
            return len((await ctx.state()).messages)

    assert run(main) == 2 * count


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tool_is_not_begun_for_who_was_cancelled_while_its_lease_was_taken(asynchronous: bool) -> None:
    backend, ran = Gated(), []

    async def coroutine(_: Any) -> None:
        ran.append(1)

    async def main() -> list[str]:
        async with AsyncContextLog(ContextLog(backend)) as log:
            ctx = log.context("slow/1")
            calling = asyncio.create_task(ctx.tool_once("pay", {}, run=coroutine if asynchronous else ran.append, key="k"))
            await until(backend.begun.is_set)
            calling.cancel()
            await asyncio.sleep(0)
            backend.gate.set()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await calling
            assert (cancelled.value.__cause__, ran) == (None, [])
            assert await ctx.tool_once("pay", {}, run=lambda _: "paid", key="k", timeout_seconds=0) == "paid"
            return await types(ctx)

    assert run(main) == ["ToolCalled", "ToolReturned"] * 2


def test_a_coroutine_is_not_begun_when_its_lease_ended_while_the_event_loop_was_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    moved, attempts, ran = [0], [], []
    attempt = once.Once.attempt
    monkeypatch.setattr(once, "_now", lambda: time.time_ns() // 1000 + moved[0])

    def late(self: once.Once) -> Any:
        attempts.append(attempt(self))
        moved[0] += 61_000_000 if len(attempts) == 1 else 0
        return attempts[-1]

    monkeypatch.setattr(once.Once, "attempt", late)

    async def tool(_: Any) -> None:
        assert once._now() < attempts[-1].expires_at
        ran.append(1)

    async def main() -> list[str]:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")
            await ctx.tool_once("pay", {}, run=tool, key="k")
            return await types(ctx)

    assert (run(main), ran) == (["ToolCalled", "ToolCalled", "ToolReturned"], [1])


@pytest.mark.parametrize("fails", [False, True])
def test_how_a_coroutine_ended_is_recorded_even_if_its_caller_is_cancelled_before_the_record_has_its_turn(fails: bool) -> None:
    backend = Gated()

    async def main() -> str:
        async with AsyncContextLog(ContextLog(backend)) as log:
            ctx, busy, go_on = log.context("refunds/1"), list[asyncio.Task[Any]](), asyncio.Event()

            async def tool(_: Any) -> str:
                busy.extend(asyncio.create_task(log.context("slow/1").add_message("user", "x")) for _ in range(20))
                await until(lambda: backend.waiting == threads.THREADS_MAX)
                go_on.set()
                if fails:
                    raise ZeroDivisionError
                return "paid"

            calling = asyncio.create_task(ctx.tool_once("pay", {}, run=tool, key="k"))
            await go_on.wait()
            await asyncio.sleep(0.01)
            calling.cancel()
            await asyncio.sleep(0.01)
            backend.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await calling
            await asyncio.gather(*busy)
            return (await ctx.state()).tool_calls["k"].status

    assert run(main) == ("failed" if fails else "returned")


# Closing


def test_closing_waits_for_a_coroutine_that_is_under_way_and_takes_what_it_calls() -> None:
    sync = ContextLog(MemoryLog())
    backend = sync.log
    kept: list[Any] = []

    async def main() -> None:
        log = AsyncContextLog(sync)
        ctx, begun, go_on = log.context("refunds/1"), asyncio.Event(), asyncio.Event()

        async def tool(_: Any) -> str:
            begun.set()
            await go_on.wait()
            await asyncio.gather(ctx.add_message("tool", "noted"), ctx.tool_once("inner", {}, run=lambda _: 1, key="inner"))
            return "paid"

        calling = asyncio.create_task(ctx.tool_once("pay", {}, run=tool, key="k"))
        await begun.wait()
        closing = asyncio.create_task(log.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        for refused in (ctx.state(), ctx.tool_once("late", {}, run=tool, key="late")):
            with pytest.raises(LogClosedError):
                await refused
        backend.close, close = (lambda: kept.extend(sync.context("refunds/1").accepted())), backend.close  # type: ignore[method-assign]
        go_on.set()
        await closing
        close()
        assert await calling == "paid"

    run(main)
    assert sorted(one.event.payload.get("call_id", "") for one in kept) == ["", "inner", "inner", "k", "k"]


def test_a_tool_that_closes_its_own_log_is_told_instead_of_waiting_for_itself() -> None:
    async def main() -> None:
        log = AsyncContextLog(ContextLog(MemoryLog()))

        async def tool(_: Any) -> None:
            with pytest.raises(InvalidInputError, match="nothing was closed"):
                await log.close()

        await log.context("refunds/1").tool_once("t", {}, run=tool, key="k")
        await log.close()

    run(main)


def test_what_a_tool_began_and_left_behind_is_no_tool_under_way() -> None:
    async def main() -> None:
        log = AsyncContextLog(ContextLog(MemoryLog()))
        left: list[asyncio.Task[Any]] = []
        ended = asyncio.Event()

        async def later() -> None:
            await ended.wait()
            await log.close()
            with pytest.raises(LogClosedError):
                await log.matching()

        async def tool(_: Any) -> None:
            left.append(asyncio.create_task(later()))

        await log.context("refunds/1").tool_once("t", {}, run=tool, key="k")
        ended.set()
        await left[0]

    run(main)


class Counting(MemoryLog):
    """Counts reads that are under way, and takes none back after it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.closed, self.late = 0, False, False

    def read(self, *arguments: Any, **named: Any) -> Any:
        self.reading += 1
        try:
            yield from super().read(*arguments, **named)
        finally:
            self.reading -= 1
            self.late = self.late or self.closed

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.mark.parametrize("way", ["left", "kept"])
def test_an_iteration_that_is_left_at_the_end_is_let_go_of_before_the_log_is_closed(way: str) -> None:
    backend, said = Counting(), list[Any]()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        async with AsyncContextLog(ContextLog(backend)) as log:
            ctx = log.context("refunds/1")
            await ctx.append_each([(FactSet(key="k", value=str(number)), {}) for number in range(2 * threads.BATCH)])
            kept = ctx.history()
            await anext(kept)
            if way == "left":
                del kept
            else:
                await ctx.version()
        assert backend.reading == 0
        if way == "kept":
            await kept.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)

    run(main)
    assert (said, backend.late) == ([], False)


def test_a_decision_is_recorded_though_its_task_is_cancelled_before_the_record_has_its_turn() -> None:
    backend = Gated()

    async def main() -> list[str]:
        async with AsyncContextLog(ContextLog(backend)) as log:
            busy: list[asyncio.Task[Any]] = []

            async def decide() -> None:
                async with log.decision("refund", agent="refunds"):
                    busy.extend(asyncio.create_task(log.context("slow/1").add_message("user", "x")) for _ in range(20))
                    await until(lambda: backend.waiting == threads.THREADS_MAX)

            deciding = asyncio.create_task(decide())
            await until(lambda: backend.waiting == threads.THREADS_MAX)
            await asyncio.sleep(0.01)
            deciding.cancel()
            await asyncio.sleep(0.01)
            backend.gate.set()
            with pytest.raises(asyncio.CancelledError):
                await deciding
            await asyncio.gather(*busy)
            return await types(log.context("decisions/refunds"))

    assert run(main) == ["DecisionRecorded"]


def test_tools_that_begin_each_other_by_tasks_that_outlive_them_are_not_all_kept() -> None:
    begun = threads.Threads()

    def begin() -> contextvars.Context:
        with begun.tool():
            return contextvars.copy_context()  # As a task that is begun here has it.

    inside = contextvars.copy_context()
    for _ in range(5):
        inside = inside.run(begin)
    last = inside[threads._tool]
    assert last is not None
    assert (last.ended, last.outer) == (True, None)

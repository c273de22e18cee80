"""The async face: what the synchronous API does, without blocking the event loop, and without leaving anything behind."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coroutines import Gated, run, until
from ctxlog import AsyncContext, AsyncContextLog, Context, ContextLog, Selection
from ctxlog.client import threads
from ctxlog.client.aio import AsyncDecision
from ctxlog.client.deciding import Decision
from ctxlog.errors import ConflictError, InvalidInputError, LogClosedError, PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet, MessageAppended


def worker_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ctxlog")}


# The event loop


def test_the_event_loop_goes_on_while_a_slow_log_takes_an_append() -> None:
    backend = Gated()

    async def main() -> int:
        async with AsyncContextLog(ContextLog(backend)) as log:
            appending = asyncio.create_task(log.context("slow/1").add_message("user", "x"))
            for _ in range(50):  # Who were blocked could never open the gate.
                await asyncio.sleep(0.001)
                assert not appending.done()
            backend.gate.set()
            await appending
            return await log.context("slow/1").version()

    assert run(main) == 1


def test_threads_are_bounded_and_calls_wait_their_turn() -> None:
    backend = Gated()
    before = worker_threads()  # Those of other tests, which may just be ending.

    async def main() -> int:
        async with AsyncContextLog(ContextLog(backend)) as log:
            appending = [asyncio.create_task(log.context(f"slow/{number}").add_message("user", "x")) for number in range(40)]
            await until(lambda: backend.waiting == threads.THREADS_MAX)
            await asyncio.sleep(0.02)
            assert backend.waiting == threads.THREADS_MAX == len(worker_threads() - before)
            backend.gate.set()
            await asyncio.gather(*appending)
            return len(await log.matching("slow/*"))

    assert run(main) == 40
    deadline = time.monotonic() + 10  # The thread that closed the log may just be ending.
    while worker_threads() - before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert worker_threads() <= before


def test_a_hundred_tasks_update_one_stream_and_no_update_is_lost(folder: Any) -> None:
    async def main() -> tuple[Any, int]:
        async with await AsyncContextLog.open(f"embedded:{folder}") as log:
            ctx = log.context("shared/counter")

            async def add(number: int) -> None:
                if number % 2:
                    await ctx.update_fact("n", lambda value: value + 1, default=0)
                else:
                    await ctx.update(lambda state: FactSet(key="m", value=str(int(state.facts["m"].value) + 1)))

            await ctx.set_fact("m", 0)
            await asyncio.gather(*(add(number) for number in range(100)))
            state = await ctx.state()
            return (state.facts["n"].parsed(), state.facts["m"].parsed()), state.version

    assert run(main) == ((50, 50), 101)


# Cancellation


def test_a_cancelled_append_that_is_under_way_is_waited_for_and_is_in_the_log() -> None:
    backend = Gated()

    async def main() -> None:
        async with AsyncContextLog(ContextLog(backend)) as log:
            ctx = log.context("slow/1")
            appending = asyncio.create_task(ctx.add_message("user", "x"))
            await until(backend.begun.is_set)
            for _ in range(3):  # However often it is asked.
                appending.cancel()
                await asyncio.sleep(0.01)
                assert not appending.done()
            backend.gate.set()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await appending
            assert cancelled.value.__cause__ is None
            assert await ctx.version() == 1

    run(main)


def test_a_cancelled_append_whose_turn_did_not_come_never_happens() -> None:
    backend = Gated()

    async def main() -> list[str]:
        async with AsyncContextLog(ContextLog(backend)) as log:
            busy = [asyncio.create_task(log.context("slow/1").add_message("user", "x")) for _ in range(threads.THREADS_MAX)]
            await until(lambda: backend.waiting == threads.THREADS_MAX)
            queued = asyncio.create_task(log.context("refunds/1").add_message("user", "x"))
            await asyncio.sleep(0.01)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):  # At once: the gate is still closed.
                await queued
            backend.gate.set()
            await asyncio.gather(*busy)
            return await log.matching()

    assert run(main) == ["slow/1"]


def test_a_cancelled_append_that_was_refused_says_so_as_the_cause() -> None:
    backend = Gated()

    async def main() -> None:
        async with AsyncContextLog(ContextLog(backend)) as log:
            ctx = log.context("slow/1")
            appending = asyncio.create_task(ctx.add_message("user", "x", expected_version=7))
            await until(backend.begun.is_set)
            appending.cancel()
            await asyncio.sleep(0)
            backend.gate.set()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await appending
            assert isinstance(cancelled.value.__cause__, ConflictError)

    run(main)


def test_a_timeout_is_a_timeout_and_leaves_nothing_under_way() -> None:
    backend = Gated()

    async def main() -> None:
        async with AsyncContextLog(ContextLog(backend)) as log:
            ctx = log.context("slow/1")
            asyncio.get_running_loop().call_later(0.1, backend.gate.set)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await ctx.add_message("user", "x", event_ids=["one"])
            assert (await ctx.replay("event:one")).state.version == 1
            with pytest.raises(PointError):  # How a caller can tell.
                await ctx.replay("event:another")

    run(main)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=30))
def test_after_a_cancellation_nothing_changes_any_more_and_no_append_is_half(appends: list[tuple[int, int]]) -> None:
    async def main() -> None:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")

            async def present(number: int, count: int) -> int:
                contents = [message.content for message in (await ctx.state()).messages]
                found = sum(content == f"{number}" for content in contents)
                assert found in (0, count)
                return found

            async def one(number: int, count: int, turns: int) -> tuple[int, int, int]:
                appending = asyncio.create_task(ctx.append([MessageAppended(role="user", content=f"{number}")] * count))
                for _ in range(turns):
                    await asyncio.sleep(0)
                appending.cancel()
                try:
                    await appending
                except asyncio.CancelledError:
                    return number, count, await present(number, count)
                return number, count, count

            ended = await asyncio.gather(*(one(number, count, turns) for number, (count, turns) in enumerate(appends)))
            for number, count, found in ended:
                assert await present(number, count) == found

    run(main)


# Iterations


@pytest.mark.parametrize("url", ["memory:", "embedded:"])
def test_iterations_are_asynchronous_and_may_be_left(url: str, folder: Any) -> None:
    async def main() -> None:
        async with await AsyncContextLog.open(f"embedded:{folder}" if url == "embedded:" else url) as log:
            ctx = log.context("refunds/1")
            await ctx.append_each([(FactSet(key="k", value=str(number)), {}) for number in range(250)])
            assert [entry.version async for entry in ctx.history()] == list(range(1, 251))
            assert [entry.version async for entry in ctx.history(since=100, until=103)] == [101, 102, 103]
            assert [one.version async for one in ctx.accepted()] == list(range(1, 251))
            assert [summary.stream_id async for summary in log.streams()] == ["refunds/1"]
            async for entry in ctx.history():
                assert entry.version == 1
                break
            with pytest.raises(PointError):
                _ = [entry async for entry in ctx.history(since=999)]

    run(main)


# Errors, opening, closing


def test_errors_come_through_as_they_are() -> None:
    async def main() -> None:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")
            await ctx.add_message("user", "x")
            with pytest.raises(ConflictError) as conflict:
                await ctx.add_message("user", "y", expected_version=7)
            assert conflict.value.actual == 1
            with pytest.raises(InvalidInputError):
                await ctx.set_fact("k", object())
            with pytest.raises(ZeroDivisionError):
                await ctx.update(lambda state: 1 // 0)  # type: ignore[arg-type, return-value]
            with pytest.raises(TypeError, match="no such option"):
                await ctx.add_message("user", "x", expected=1)  # type: ignore[call-arg]
            async with log.decision("refund", agent="refunds") as decision:
                with pytest.raises(InvalidInputError, match="found both"):
                    await decision.read(ctx, Selection(), max_messages=1)

    run(main)


def test_closing_waits_for_what_is_under_way_and_then_nothing_is_taken() -> None:
    backend = Gated()

    async def main() -> None:
        log = AsyncContextLog(ContextLog(backend))
        ctx = log.context("slow/1")
        appending = [asyncio.create_task(ctx.add_message("user", "x")) for _ in range(2 * threads.THREADS_MAX)]
        await until(backend.begun.is_set)
        closing = asyncio.create_task(log.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        with pytest.raises(LogClosedError):
            await ctx.state()
        backend.gate.set()
        await closing
        assert all(appended.position.offset for appended in await asyncio.gather(*appending))
        await log.close()

    run(main)
    assert ContextLog(backend.inner.__class__()).context("x").version == 0  # The backend's own log is closed:
    with pytest.raises(LogClosedError):
        backend.bounds(0)


def test_a_log_that_was_opened_for_whoever_gave_up_is_closed(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[ContextLog] = []
    gate = threading.Event()
    real = ContextLog.open

    def slow(url: str | None = None) -> ContextLog:
        gate.wait(30)
        opened.append(real(url))
        return opened[0]

    monkeypatch.setattr(ContextLog, "open", slow)

    async def main() -> None:
        opening = asyncio.create_task(AsyncContextLog.open(f"embedded:{folder}"))
        await asyncio.sleep(0.02)
        opening.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await opening

    run(main)
    with pytest.raises(LogClosedError):
        opened[0].log.bounds(0)


# One API


def public(kind: type) -> dict[str, Any]:
    return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("face", "sync"), [(AsyncContext, Context), (AsyncContextLog, ContextLog), (AsyncDecision, Decision)])
def test_the_face_has_every_method_with_the_same_arguments(face: type, sync: type) -> None:
    """So a method that is added to one and not to the other is found."""
    internal = {"replayer", "before_append", "after_append", "check_room", "note_state", "note_window", "leave", "record"}
    there, here = public(sync), public(face)
    assert here.keys() == there.keys() - internal
    for name, method in here.items():
        original = there[name]
        if isinstance(original, property):
            continue
        assert method.__doc__, name
        found, expected = inspect.signature(method).parameters, inspect.signature(original).parameters
        assert [(one.name, one.kind, one.default) for one in found.values()] == [
            (one.name, one.kind, one.default) for one in expected.values()
        ], name


OPERATIONS: dict[str, Callable[[Any, str], Any]] = {
    "message": lambda ctx, id: ctx.add_message("user", id, occurred_at=1, event_ids=[id]),
    "fact": lambda ctx, id: ctx.set_fact("k", id, occurred_at=1, event_ids=[id], expected_targets={"fact:k": 0}),
    "remove": lambda ctx, id: ctx.remove_fact("k", occurred_at=1, event_ids=[id]),
    "call": lambda ctx, id: ctx.add_tool_call("f", {}, occurred_at=1, event_ids=[id]),
    "result": lambda ctx, id: ctx.add_tool_result("e0", id, occurred_at=1, event_ids=[id]),
    "redact": lambda ctx, id: ctx.redact_message("e0", occurred_at=1, event_ids=[id]),
    "group": lambda ctx, id: ctx.append([FactSet(key="g", value="1")] * 2, occurred_at=1, event_ids=[id, f"{id}b"]),
    "again": lambda ctx, id: ctx.add_message("user", "same", occurred_at=1, event_ids=["same"]),
    "stale": lambda ctx, id: ctx.add_message("user", id, occurred_at=1, event_ids=[id], expected_version=1),
    "close": lambda ctx, id: ctx.close(occurred_at=1, event_ids=[id]),
    "state": lambda ctx, id: ctx.state if isinstance(ctx, Context) else ctx.state(),
    "version": lambda ctx, id: ctx.version if isinstance(ctx, Context) else ctx.version(),
    "head": lambda ctx, id: ctx.chain_head if isinstance(ctx, Context) else ctx.chain_head(),
    "replay": lambda ctx, id: ctx.replay(1),
    "bad": lambda ctx, id: ctx.set_fact("k", object()),
}


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=15))
def test_the_same_calls_come_to_the_same_results_as_the_synchronous_ones(names: list[str]) -> None:
    def seen(result: Any) -> Any:
        return (result.state, result.manifest.chain_head) if hasattr(result, "manifest") else result

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return seen(call())
        except Exception as error:
            return type(error), str(error)

    async def main() -> list[Any]:
        async with AsyncContextLog(ContextLog(MemoryLog())) as log:
            ctx = log.context("refunds/1")
            found = []
            for number, name in enumerate(names):
                try:
                    found.append(seen(await OPERATIONS[name](ctx, f"e{number}")))
                except Exception as error:
                    found.append((type(error), str(error)))
            return found

    ctx = ContextLog(MemoryLog()).context("refunds/1")
    calls = [partial(OPERATIONS[name], ctx, f"e{number}") for number, name in enumerate(names)]
    assert run(main) == [outcome(call) for call in calls]

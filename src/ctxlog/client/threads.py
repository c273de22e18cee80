"""The threads behind the async face: each call of the synchronous API runs in one, and the event loop goes on.

    await call -> a worker thread, with the caller's context variables -> result or error, as they are

A call is never left alone. One that is cancelled before its turn does nothing; one that is under way cannot be stopped, so it is
waited for before the cancellation goes on. So whoever sees `CancelledError` knows that nothing changes behind his back.

Tools have threads of their own: they take as long as they like, and may call the log, which must then have a thread for them.
While the log is being closed, what a tool under way calls is still taken: a tool that did its work has to be able to say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from ctxlog.errors import LogClosedError

THREADS_MAX = 8
"""Calls of one log at a time; others wait their turn without a thread. More would wait for the same disk or broker."""

TOOLS_MAX = 32
"""Tools of one log that run in threads at a time. They wait for the world and not for the log, so they are more; one that waits
for its turn holds no lease."""

BATCH = 100
"""What an iteration takes at once: a change of threads costs more than the next entry."""

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """The worker threads of one log."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="ctxlog")
        self._tool_pool = ThreadPoolExecutor(TOOLS_MAX, thread_name_prefix="ctxlog-tool")
        self._change = threading.Condition()
        self._closed = False
        self._tools: set[_Tool] = set()
        self._iterators: set[Iterator[object]] = set()

    def begin(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a call made, with the context variables of here and now. Raises `LogClosedError`."""
        return self._submit(self._pool, functools.partial(call, *args, **kwargs))

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a call, and give what it gives."""
        return await finished(self.begin(call, *args, **kwargs))

    async def run_surely(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a call, even if the caller is cancelled before its turn."""
        return await finished(self.begin(call, *args, **kwargs), lambda: None)

    async def run_tool(self, call: Callable[[Callable[[], bool]], R]) -> R:
        """Make a call in a thread for tools. It gets what tells whether the caller has been cancelled meanwhile."""
        cancelled = threading.Event()
        running = self._submit(self._tool_pool, lambda: call(cancelled.is_set))

        def cancel() -> None:
            cancelled.set()
            running.cancel()

        return await finished(running, cancel)

    @contextlib.contextmanager
    def tool(self) -> Iterator[None]:
        """A tool is under way inside: `shutdown` waits for it, and takes calls that it makes. Raises `LogClosedError`."""
        outer = _tool.get()
        # A task may outlive the tool that began it, and begin another one: that must not keep all that were before.
        while outer is not None and outer.ended:
            outer = outer.outer
        tool = _Tool(outer)
        with self._change:
            self._check_open()
            self._tools.add(tool)
        token = _tool.set(tool)
        try:
            yield
        finally:
            with self._change:
                tool.ended = True
                self._tools.remove(tool)
                self._change.notify_all()
            with contextlib.suppress(ValueError):  # A coroutine that nobody awaits any more ends anywhere.
                _tool.reset(token)

    def in_tool(self) -> bool:
        """Whether this is a tool that is under way, or was begun by one."""
        tool = _tool.get()
        while tool is not None and tool not in self._tools:
            tool = tool.outer
        return tool is not None

    async def iterate(self, call: Callable[P, Iterator[R]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        """Go through what a call gives, some at a time."""
        found = await self.run(call, *args, **kwargs)
        self._iterators.add(found)
        try:
            while batch := await self.run(list, islice(found, BATCH)):
                for item in batch:
                    yield item
        finally:
            await self._let_go(found)

    async def _let_go(self, found: Iterator[object]) -> None:
        with self._change:
            if self._closed:
                return  # `shutdown` lets go of it.
            self._iterators.discard(found)
            closing = self._pool.submit(_close, found)
        await finished(closing, lambda: None)

    def shutdown(self) -> None:
        """Take no more calls, and wait until all that were begun are made. Blocks."""
        with self._change:
            self._closed = True
            self._change.wait_for(lambda: not self._tools)
        self._tool_pool.shutdown()
        self._pool.shutdown()
        with self._change:
            left, self._iterators = self._iterators, set()
        for found in left:  # While the log is open: what they hold is given back to it.
            _close(found)

    def _submit(self, pool: ThreadPoolExecutor, call: Callable[[], R]) -> Future[R]:
        context = contextvars.copy_context()
        with self._change:
            self._check_open()
            return pool.submit(lambda: context.run(call))

    def _check_open(self) -> None:
        if self._closed and not self.in_tool():
            raise LogClosedError("the log is closed; nothing was done. Open it again.")


class _Tool:
    """A tool of a log, under way or ended, and the one that called it."""

    def __init__(self, outer: _Tool | None) -> None:
        self.outer = outer
        self.ended = False


_tool: contextvars.ContextVar[_Tool | None] = contextvars.ContextVar("tool", default=None)


def _close(iterator: Iterator[object]) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()


async def finished(future: Future[R], cancel: Callable[[], object] | None = None) -> R:
    """What a call came to, waited for to its end. Where the caller is cancelled meanwhile, the error goes on only then.

    Args:
        future: The call.
        cancel: Called where the caller is cancelled; without it, the call is not made if its turn did not come yet.

    Raises:
        CancelledError: The caller was cancelled. Where the call failed nevertheless, its error is the cause.
    """
    waiting = asyncio.wrap_future(future)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.wait((waiting,))
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
            (cancel or future.cancel)()
    if cancelled is not None:
        raise cancelled from None if waiting.cancelled() else waiting.exception()
    return waiting.result()


def alone(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Have a call made in a thread of its own."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="ctxlog")
    try:
        return pool.submit(call, *args, **kwargs)
    finally:
        pool.shutdown(wait=False)


class Face(Generic[S_co]):
    """Something of the synchronous API, seen by coroutines."""

    def __init__(self, sync: S_co, threads: Threads) -> None:
        self._sync = sync
        self._threads = threads


def in_thread(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[Face[S], P], Coroutine[Any, Any, R]]:
    """A method of the synchronous API as a coroutine function, with its arguments, results and errors."""

    @functools.wraps(method)
    async def call(face: Face[S], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await face._threads.run(method, face._sync, *args, **kwargs)

    return call


def iterated(method: Callable[Concatenate[S, P], Iterator[R]]) -> Callable[Concatenate[Face[S], P], AsyncIterator[R]]:
    """A method that gives an iterator, as one that gives an asynchronous one."""

    @functools.wraps(method)
    def call(face: Face[S], /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        return face._threads.iterate(method, face._sync, *args, **kwargs)

    return call

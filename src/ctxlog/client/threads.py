"""The threads behind the async face: each call of the synchronous API runs in one, and the event loop goes on.

    await call -> a worker thread, with the caller's context variables -> result or error, as they are

A call is never left alone. One that is cancelled before its turn does nothing; one that is under way cannot be stopped, so it is
waited for before the cancellation goes on. So whoever sees `CancelledError` knows that nothing changes behind his back.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from ctxlog.errors import LogClosedError

THREADS_MAX = 8
"""Calls of one log at a time; others wait their turn without a thread. More would wait for the same disk or broker."""

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
        self._closed = False

    def begin(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a call made, with the context variables of here and now. Raises `LogClosedError`."""
        if self._closed:
            raise LogClosedError("the log is closed; nothing was done. Open it again.")
        context = contextvars.copy_context()
        return self._pool.submit(lambda: context.run(call, *args, **kwargs))

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a call, and give what it gives."""
        return await finished(self.begin(call, *args, **kwargs))

    async def iterate(self, call: Callable[P, Iterator[R]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        """Go through what a call gives, some at a time."""
        found = await self.run(call, *args, **kwargs)
        try:
            while batch := await self.run(list, islice(found, BATCH)):
                for item in batch:
                    yield item
        finally:
            close = getattr(found, "close", None)
            if close is not None:
                await self.run(close)

    def shutdown(self) -> None:
        """Take no more calls, and wait until all that were begun are made. Blocks."""
        self._closed = True
        self._pool.shutdown()


async def finished(future: Future[R]) -> R:
    """What a call came to, waited for to its end. Where the caller is cancelled meanwhile, the error goes on only then.

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
            future.cancel()  # Has an effect only where its turn did not come yet.
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

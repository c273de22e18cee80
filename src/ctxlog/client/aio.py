"""The async face of a log: the synchronous API, called in threads, so that the event loop is not blocked.

There is one implementation, and it is the synchronous one; each method here says which it calls. What is written by hand is what
a thread cannot do: a decision begins in the task that makes it, and a tool that is a coroutine function runs in the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from ctxlog.client.context import Context
from ctxlog.client.deciding import Decision
from ctxlog.client.log import ContextLog
from ctxlog.client.options import AppendOptions
from ctxlog.client.threads import Face, Threads, alone, finished, in_thread, iterated
from ctxlog.errors import InvalidInputError
from ctxlog.model.points import Point
from ctxlog.model.selection import APPROXIMATE_TOKENS, Selection, SelectionOptions, TokenCounter, Window
from ctxlog.model.state import ContextState

if TYPE_CHECKING:
    from ctxlog.client.once import Held, Known, Once, Taken

LOOK_SECONDS = 0.02
"""How soon whoever waits for another's call of a tool looks again; each further look after twice as long, up to a second."""


class AsyncContextLog(Face[ContextLog]):
    """A log, opened, for coroutines. `await` its `close`, or use it in an `async with` statement.

    Args:
        log: The log. It is closed with this one.
    """

    def __init__(self, log: ContextLog) -> None:
        super().__init__(log, Threads())

    @classmethod
    async def open(cls, url: str | None = None) -> Self:
        """Open a log; see `ContextLog.open`."""
        opening = alone(ContextLog.open, url)
        try:
            return cls(await finished(opening))
        except asyncio.CancelledError:
            if not opening.cancelled() and opening.exception() is None:
                opening.result().close()  # Nobody else has it.
            raise

    def context(self, stream_id: str, *, agent_id: str | None = None, actor: str | None = None) -> AsyncContext:
        """One context; see `ContextLog.context`."""
        return AsyncContext(self._sync.context(stream_id, agent_id=agent_id, actor=actor), self._threads)

    def decision(
        self,
        kind: str,
        *,
        agent: str,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
    ) -> AsyncDecision:
        """A decision to be made inside an `async with` statement; see `ContextLog.decision`. Tasks begun inside belong to it."""
        made = self._sync.decision(kind, agent=agent, model=model, parameters=parameters, correlation_id=correlation_id)
        return AsyncDecision(made, self._threads)

    streams = iterated(ContextLog.streams)
    matching = in_thread(ContextLog.matching)
    window = in_thread(ContextLog.window)
    cut = in_thread(ContextLog.cut)
    resolve = in_thread(ContextLog.resolve)

    async def close(self) -> None:
        """Wait for the calls and tools that are under way, and let go of the log's files and connections.

        Raises:
            InvalidInputError: It was called by a tool that is under way, and would wait for itself.
        """
        if self._threads.in_tool():
            raise InvalidInputError("close: called by a tool of this log, for which it has to wait; nothing was closed.")

        def close() -> None:
            try:
                self._threads.shutdown()
            finally:
                self._sync.close()

        await finished(alone(close))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncContext(Face[Context]):
    """One context, for coroutines: each method does what that of `Context` does. Made by `AsyncContextLog.context`.

    Attributes:
        stream_id: Its name.
    """

    def __init__(self, sync: Context, threads: Threads) -> None:
        super().__init__(sync, threads)
        self.stream_id = sync.stream_id

    def __repr__(self) -> str:
        return f"<Async{repr(self._sync)[1:]}"

    append = in_thread(Context.append)
    append_each = in_thread(Context.append_each)
    add_message = in_thread(Context.add_message)
    redact_message = in_thread(Context.redact_message)
    set_fact = in_thread(Context.set_fact)
    remove_fact = in_thread(Context.remove_fact)
    add_tool_call = in_thread(Context.add_tool_call)
    add_tool_result = in_thread(Context.add_tool_result)
    update = in_thread(Context.update)
    update_fact = in_thread(Context.update_fact)
    close = in_thread(Context.close)
    window = in_thread(Context.window)
    resume = in_thread(Context.resume)
    replay = in_thread(Context.replay)
    accepted = iterated(Context.accepted)
    history = iterated(Context.history)

    async def state(self) -> ContextState:
        """See `Context.state`."""
        return await self._threads.run(lambda: self._sync.state)

    async def version(self) -> int:
        """See `Context.version`."""
        return await self._threads.run(lambda: self._sync.version)

    async def chain_head(self) -> str:
        """See `Context.chain_head`."""
        return await self._threads.run(lambda: self._sync.chain_head)

    async def fork(self, stream_id: str, *, at: str | int | Point = "latest") -> AsyncContext:
        """See `Context.fork`."""
        return AsyncContext(await self._threads.run(self._sync.fork, stream_id, at=at), self._threads)

    async def tool_once(
        self,
        name: str,
        arguments: Any,
        *,
        run: Callable[[Any], Any],
        key: str,
        lease_seconds: float = 60.0,
        timeout_seconds: float | None = None,
        message_id: str | None = None,
        source_id: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> Any:
        """Call a tool once for a key; see `Context.tool_once`.

        `run` is a coroutine function, which runs in the event loop, or a plain function, which runs in a thread. A coroutine that
        is cancelled is recorded as failed, unless it returns all the same; a thread is waited for, and what it returned recorded.
        """
        from ctxlog.client.once import Known
        from ctxlog.client.updating import Tries

        make = partial(
            _once, self._sync, name, arguments, run=run, key=key, lease_seconds=lease_seconds, timeout_seconds=timeout_seconds,
            message_id=message_id, source_id=source_id, options=options,
        )  # fmt: skip
        once = await self._threads.run(make)
        tries, pause = Tries(timeout_seconds), LOOK_SECONDS
        while True:
            with self._threads.tool():
                # A look before a thread is taken, for which many may wait who do not know yet that there is a result.
                found = await self._threads.run(once.look)
                if found is None and _is_async(run):
                    found = await self._in_loop(once, run, arguments)
                elif found is None:
                    found = await self._threads.run_tool(partial(_in_thread, once))
            if isinstance(found, Known):
                return found.value
            # No thread waits: the one who runs it may need one.
            await asyncio.sleep(min(pause, once.wait_seconds(found, tries)))
            pause *= 2

    async def _in_loop(self, once: Once, run: Callable[[Any], Any], arguments: Any) -> Known | Held:
        from ctxlog.client.once import Known, Taken

        found = await self._attempt(once)
        while isinstance(found, Taken) and found.is_over():  # The event loop was busy with something else.
            found = await self._attempt(once)
        if not isinstance(found, Taken):
            return found
        try:
            result = await run(arguments)
        except GeneratorExit:
            raise  # The event loop is gone, and nothing can be recorded. The lease ends.
        except BaseException as raised:
            await self._threads.run_surely(once.failed, raised, found)
            raise
        return Known(await self._threads.run_surely(once.returned, result, found))

    async def _attempt(self, once: Once) -> Known | Held | Taken:
        from ctxlog.client.once import Taken

        trying = self._threads.begin(once.attempt)
        try:
            return await finished(trying)
        except asyncio.CancelledError as cancelled:
            if not trying.cancelled() and trying.exception() is None and isinstance(found := trying.result(), Taken):
                await self._threads.run_surely(once.failed, cancelled, found)  # Nobody shall wait for a lease that nobody uses.
            raise


class AsyncDecision(Face[Decision]):
    """A decision that is being made, for coroutines; made by `AsyncContextLog.decision`, used in an `async with` statement.

    Attributes:
        id: Its id: of the point `decision:ID`, and the `causation_id` of what is appended inside.
    """

    def __init__(self, sync: Decision, threads: Threads) -> None:
        super().__init__(sync, threads)
        self.id = sync.id

    @property
    def outcome(self) -> Any:
        """See `Decision.outcome`. To be set inside."""
        return self._sync.outcome

    @outcome.setter
    def outcome(self, value: Any) -> None:
        self._sync.outcome = value

    @property
    def rationale(self) -> str | None:
        """See `Decision.rationale`. To be set inside."""
        return self._sync.rationale

    @rationale.setter
    def rationale(self, value: str | None) -> None:
        self._sync.rationale = value

    @overload
    async def read(
        self,
        context: AsyncContext,
        selection: Selection | None = None,
        *,
        counter: TokenCounter = APPROXIMATE_TOKENS,
        **options: Unpack[SelectionOptions],
    ) -> Window: ...

    @overload
    async def read(self, context: Selection, *, counter: TokenCounter = APPROXIMATE_TOKENS) -> dict[str, Window]: ...

    async def read(
        self,
        context: AsyncContext | Selection,
        selection: Selection | None = None,
        *,
        counter: TokenCounter = APPROXIMATE_TOKENS,
        **options: Unpack[SelectionOptions],
    ) -> Window | dict[str, Window]:
        """See `Decision.read`."""
        source: Any = context._sync if isinstance(context, AsyncContext) else context
        read: Any = self._sync.read
        arguments = (source,) if selection is None else (source, selection)
        found: Window | dict[str, Window] = await self._threads.run(partial(read, *arguments, counter=counter, **options))
        return found

    async def __aenter__(self) -> Self:
        self._sync.__enter__()  # Here, so that it is the current one in this task, and nothing is written.
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._sync.leave()
        await self._threads.run_surely(self._sync.record, kind, error)


def _is_async(run: Any) -> bool:
    """Whether something is a coroutine function, or is called like one."""
    return inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(getattr(run, "__call__", None))  # noqa: B004


def _once(context: Context, name: str, arguments: Any, **given: Any) -> Once:
    from ctxlog.client.once import Once

    return Once(context, name, arguments, **given)


def _in_thread(once: Once, cancelled: Callable[[], bool]) -> Known | Held:
    """Take the lease, run the tool and record how it ended: all in the thread that is here, so that no lease waits for one."""
    from ctxlog.client.once import Held, Known, Taken

    found = once.attempt()
    if not isinstance(found, Taken):
        return found
    if cancelled():
        once.failed(asyncio.CancelledError(), found)  # Nobody shall wait for a lease that nobody uses.
        return Held(found.expires_at, 0)  # Whoever was cancelled takes nothing.
    return Known(once.run(found))

"""One run of a tool for one key, across crashes and processes.

    look -> returned: its result -- open and leased: wait -- otherwise: take the lease -> run -> record the result

The lease is an event, `ToolCalled` with the key as the call's id. Taking it expects that nothing happened to the call since the
look, and so does recording the result: of two who want the call one gets it, and a process that was paused beyond its lease, and
whose call was taken over, cannot finish late. Leases are judged by the clock of whoever looks; that clocks differ can make a tool
run again too early, and never makes two results count.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from ctxlog.client.appending import make_event
from ctxlog.client.options import AppendOptions
from ctxlog.client.recovery import is_held
from ctxlog.client.updating import Tries, check_options, committed
from ctxlog.errors import (
    CallHeldError,
    ConflictError,
    CtxlogError,
    IndeterminateError,
    InvalidInputError,
    KeyReusedError,
    LeaseLostError,
    NoResultError,
    RecordTooLargeError,
    RetriableError,
)
from ctxlog.model.events import ToolCalled, ToolReturned
from ctxlog.model.ids import check_id
from ctxlog.model.jsontext import json_text, plain_or_parts
from ctxlog.model.state import ToolCall
from ctxlog.replay.replayer import StreamCursor

if TYPE_CHECKING:
    from ctxlog.client.context import Context

UNRECORDED = "ctxlog.unrecorded"
"""The one member of what is recorded in place of a result that cannot be: why. A tool may not return such an object itself."""

WAIT_SECONDS = 1.0
"""A wait looks again after this long, though nothing came: clocks are set, and leases end by the clock."""

FAILURE_CHARS_MAX = 10_000
"""What is recorded of an exception's text."""


class _Found(NamedTuple):
    """What a look finds: the version at which the call changed last, the call, whether its result was redacted, and where
    the look ended."""

    version: int
    call: ToolCall | None
    redacted: bool
    end: int


class Known(NamedTuple):
    """The call has its result: what is recorded."""

    value: Any


class Held(NamedTuple):
    """Somebody else runs the call: until when at most, µs since 1970 UTC, and where the log ended when that was seen."""

    expires_at: int
    end: int


class Taken(NamedTuple):
    """The call is to be run here: the version from which on it must not change, and until when, µs since 1970 UTC."""

    version: int
    expires_at: int

    def is_over(self) -> bool:
        """Whether the lease has ended: then somebody else may rightly begin, and the tool is not to be begun."""
        return _now() >= self.expires_at


class Once:
    """A call of a tool that is made once. Arguments as `Context.tool_once` takes them.

    `result` is all of it. Who has another way to wait, or to run the tool, goes by `look` and `attempt`, and after a `Taken` by
    `run`, or by `returned` or `failed`.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        arguments: Any,
        *,
        run: Any,
        key: str,
        lease_seconds: float,
        timeout_seconds: float | None,
        message_id: str | None,
        source_id: str | None,
        options: AppendOptions,
    ) -> None:
        check_options("tool_once", options)
        if not callable(run):
            raise InvalidInputError("run: expected a function; nothing was run")
        if not 0 < lease_seconds < 1e9:
            raise InvalidInputError("lease_seconds: expected a number above 0; nothing was run")
        self._context = context
        self._key = check_id("key", key)
        self._target = f"call:{key}"
        self._name = name
        self._arguments = arguments
        self._text = arguments if isinstance(arguments, str) else json_text(arguments)
        self._run_tool = run
        self._lease_us = round(lease_seconds * 1_000_000)
        self._timeout_seconds = timeout_seconds
        self._message_id = message_id
        self._source_id = source_id
        self._options = options

    def result(self) -> Any:
        """The call's result: what is recorded, or what it returns now. Raises as `Context.tool_once` says."""
        if inspect.iscoroutinefunction(self._run_tool):
            raise InvalidInputError("run: expected a function that is not async; nothing was run")
        tries = Tries(self._timeout_seconds)
        while True:
            found = self.attempt()
            match found:
                case Known(value):
                    return value
                case Taken():
                    return self.run(found)
                case Held():
                    owner = self._context._owner
                    seconds = self.wait_seconds(found, tries)
                    owner.log.wait(owner.replayer.reader.partition(self._context.stream_id), found.end, seconds)
                case _:
                    assert_never(found)

    def look(self) -> Known | Held | None:
        """Find the call's result, or who runs it; None: the call is to be run."""
        return self._judged(self._look())

    def attempt(self) -> Known | Held | Taken:
        """Find the call's result, or take the lease; nobody is waited for."""
        took = Tries(None)
        while True:
            found = self._look()
            judged = self._judged(found)
            if judged is not None:
                return judged
            expires_at = _now() + self._lease_us
            try:
                taken = Taken(self._take(found.call, found.version, expires_at), expires_at)
            except ConflictError:
                took.pause()  # Somebody else was faster.
                continue
            if not taken.is_over():  # It may have taken long to learn that it was taken.
                return taken

    def _judged(self, found: _Found) -> Known | Held | None:
        call = found.call
        if call is not None:
            self._check_same(call)
            if call.status == "returned":
                return Known(self._recorded(call, redacted=found.redacted))
            if call.status == "open" and is_held(call, _now()):
                return Held(call.lease.expires_at if call.lease is not None else 0, found.end)
        return None

    def _look(self) -> _Found:
        def take(cursor: StreamCursor) -> _Found:
            evolving = cursor.fold.evolving
            if self._message_id is not None and self._message_id not in evolving.index:
                raise InvalidInputError("message_id: the context has no such message; nothing was run")
            call = evolving.tool_calls.get(self._key)
            at = evolving.index.get(call.result_id) if call is not None and call.result_id is not None else None
            redacted = at is not None and evolving.messages[at].redacted_by is not None
            return _Found(cursor.fold.arbiter.targets.get(self._target, 0), call, redacted, cursor.next_offset)

        return self._context._owner._look(self._context.stream_id, take)

    def _check_same(self, call: ToolCall) -> None:
        if call.idempotency_key != self._key:
            raise KeyReusedError(self._context.stream_id, self._key, "no key of its own: tool_once did not make it")
        if call.name != self._name:
            raise KeyReusedError(self._context.stream_id, self._key, "another tool")
        if call.arguments != self._text and _canonical(call.arguments) != _canonical(self._text):
            raise KeyReusedError(self._context.stream_id, self._key, "other arguments")

    def _recorded(self, call: ToolCall, *, redacted: bool) -> Any:
        if redacted:
            raise NoResultError(self._context.stream_id, self._key, "it was redacted")
        if call.result_parts is None:
            return call.result
        try:
            value = json.loads(call.result_parts)
        except (ValueError, RecursionError):
            raise NoResultError(self._context.stream_id, self._key, "what somebody else recorded is no JSON") from None
        if _is_unrecorded(value):
            raise NoResultError(self._context.stream_id, self._key, str(value[UNRECORDED]))
        return value

    def wait_seconds(self, held: Held, tries: Tries) -> float:
        """How long to wait before the next look: until the lease ends, or there is no more time. Raises `CallHeldError`."""
        if tries.over:
            raise CallHeldError(self._context.stream_id, self._key, held.expires_at)
        return min(WAIT_SECONDS, tries.left, max(held.expires_at - _now(), 0) / 1_000_000)

    def _take(self, call: ToolCall | None, version: int, expires_at: int) -> int:
        """Take the lease; the version from which on the call must not change. Raises `ConflictError`: somebody was faster."""
        event = make_event(
            ToolCalled,
            call_id=self._key,
            name=self._name,
            # A take-over has the very text that is there; the same arguments can be written in another order.
            arguments=self._text if call is None else call.arguments,
            message_id=self._message_id,
            source_id=self._source_id,
            idempotency_key=self._key,
            lease_expires_at=expires_at,
        )
        return committed(self._context, event, self._expecting(version)).version

    def run(self, taken: Taken) -> Any:
        """Run the tool, and record how it ended."""
        try:
            result = self._run_tool(self._arguments)
            if inspect.isawaitable(result):
                raise InvalidInputError("run: expected a result, found something to be awaited; the tool did not run")
        except BaseException as raised:
            self.failed(raised, taken)
            raise
        return self.returned(result, taken)

    def failed(self, raised: BaseException, taken: Taken) -> None:
        """Record what the tool raised: whatever it is, an interrupt too. It runs no longer, and who comes next need not wait."""
        try:
            self._record(_said(raised), taken, failed=True)
        except CtxlogError as error:
            raised.add_note(f"ctxlog did not record that the call failed: {error}")

    def returned(self, result: Any, taken: Taken) -> Any:
        """Record what the tool returned; that, as JSON carries it."""
        unrecorded: str | None = None
        value: Any = None
        try:
            value = json.loads(json_text(result))
            if _is_unrecorded(value):
                raise InvalidInputError(f"an object with the one member {UNRECORDED} is ctxlog's own")
            self._record(value, taken, failed=False)
        except (ValueError, RecursionError) as error:
            # That the tool ran is recorded all the same, or it would run again.
            wrong = "is too large for a record" if isinstance(error, RecordTooLargeError) else "cannot be carried by JSON"
            unrecorded = f"what the tool returned (a {type(result).__name__}) {wrong}"
        if unrecorded is not None:
            self._record({UNRECORDED: unrecorded}, taken, failed=False)
            raise NoResultError(self._context.stream_id, self._key, unrecorded)
        return value

    def _record(self, value: Any, taken: Taken, *, failed: bool) -> None:
        """Record how the call ended. Raises `LeaseLostError`."""
        text, parts = plain_or_parts(value)
        event = make_event(ToolReturned, call_id=self._key, failed=failed, content=text, parts=parts)
        tries = Tries(max(taken.expires_at - _now(), 0) / 1_000_000)
        while True:
            try:
                committed(self._context, event, self._expecting(taken.version))
                return
            except ConflictError:
                raise LeaseLostError(self._context.stream_id, self._key) from None
            except RetriableError as error:  # A log that cannot be written now: worth trying while nobody may take over.
                if tries.over or isinstance(error, IndeterminateError):
                    error.add_note(
                        f"The tool ran. Unless it is recorded how call {self._key!r} ended, it runs again after its lease."
                    )
                    raise
            tries.pause()

    def _expecting(self, version: int) -> AppendOptions:
        return {**self._options, "expected_targets": {self._target: version}}


def _said(raised: BaseException) -> str:
    """Type and text of an exception, as far as it has one: its own code makes it, and may fail too."""
    name = type(raised).__name__
    try:
        return f"{name}: {raised}"[:FAILURE_CHARS_MAX]
    except Exception:
        return name


def _is_unrecorded(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {UNRECORDED}


def _canonical(arguments: str) -> str:
    """Arguments in an order of their own, where they are JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(json.loads(arguments), sort_keys=True)
    return arguments


def _now() -> int:
    return time.time_ns() // 1000

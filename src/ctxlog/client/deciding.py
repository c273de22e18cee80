"""Decisions: what was read inside one, and what came of it, in `decisions/AGENT`.

    with log.decision(…)   a decision is the current one, in this thread or task
      reads                noted: stream, version, head, what was asked for, what was shown
      first append inside  what was read so far is appended before it: no effect without what led to it
    end                    the reads not appended yet and the decision, in one durable write

A read costs no write of its own, so what an agent merely looked at before it was killed is not in the log; what it did about
it is.

What the record at the end has no room for is refused where it is set, read or begun: at the end its effects are in the log, and
nothing can be mended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from ctxlog.core.digests import selection_digest
from ctxlog.errors import CtxlogError, InvalidInputError, RecordTooLargeError
from ctxlog.model.ids import check_agent_id, check_id
from ctxlog.model.jsontext import json_text
from ctxlog.model.reads import IDS_BYTES_MAX, Taken, taken
from ctxlog.model.records import MAX_RECORD_BYTES
from ctxlog.model.selection import APPROXIMATE_TOKENS, Selection, SelectionOptions, TokenCounter, Window
from ctxlog.model.state import ContextState
from ctxlog.replay.decisions import DECISIONS
from ctxlog.uuids import uuid7

if TYPE_CHECKING:
    from ctxlog.client.context import Context
    from ctxlog.client.log import ContextLog
    from ctxlog.client.options import AppendOptions
    from ctxlog.model.events import Event

_ALL = '{"all": true}'
"""The selection that is a whole state."""

OTHER_BYTES_MAX = 16 * 1024
"""What a record has at most beside what is counted here: key, meta, headers, framing, numbers and the name of an error's type."""

ID_BYTES_MAX = 16
"""What an id takes at most beside its own bytes; so many that short ones cannot become more than a record may name."""

_current: ContextVar[Decision | None] = ContextVar("decision", default=None)


def current(owner: ContextLog) -> Decision | None:
    """The decision that is being made here, if it is recorded in this log."""
    decision = _current.get()
    # A task that was begun inside may outlive its decision.
    while decision is not None and (decision.owner is not owner or decision._ended):
        decision = decision.outer
    return decision


def note_state(owner: ContextLog, state: ContextState) -> ContextState:
    """A whole state that is read, which the decision that is being made here notes."""
    decision = current(owner)
    if decision is not None:
        decision.note_state(state)
    return state


class Decision:
    """A decision that is being made; made by `ContextLog.decision`, and used in a `with` statement.

    Attributes:
        id: Its id: of the point `decision:ID`, and the `causation_id` of what is appended inside.
        outcome: What came of it: anything that JSON can carry. To be set inside.
        rationale: Why, in the agent's words: a text. To be set inside.
        outer: The decision inside which it is made.
        owner: The log that it is recorded in.
    """

    def __init__(
        self,
        owner: ContextLog,
        kind: str,
        agent: str,
        model: str | None,
        parameters: Mapping[str, Any] | None,
        correlation_id: str | None,
    ) -> None:
        if correlation_id is not None:
            check_id("correlation id", correlation_id)
        self.id = uuid7()
        self.owner = owner
        self.outer = _current.get()
        self._receipts = owner.context(DECISIONS + check_agent_id(agent))
        self._room = _Room(self._receipts.stream_id)
        self._kind = self._room.text("kind", kind)
        self._model = None if model is None else self._room.text("model", model)
        self._parameters = None if parameters is None else self._room.text("parameters", json_text(parameters))
        self._options: AppendOptions = {"correlation_id": correlation_id}
        outer = current(owner)
        if outer is not None:
            self._options["causation_id"] = outer.id
            self._options["correlation_id"] = correlation_id or outer._options.get("correlation_id")
        self._outcome: str | None = None
        self._rationale: str | None = None
        self._reads: list[str] = []
        self._noted: list[tuple[Event, AppendOptions]] = []
        self._lock = threading.Lock()
        self._whole: set[tuple[str, str]] = set()
        self._calls: list[str] = []
        self._started_at = 0
        self._token: Token[Decision | None] | None = None
        self._ended = False

    @property
    def outcome(self) -> Any:
        """What came of it, as JSON carries it, and as it is when it is set.

        Raises:
            InvalidInputError: It is set to what JSON cannot carry, or after the decision has ended.
            RecordTooLargeError: It is set to more than the record has room for.
        """
        import json

        return None if self._outcome is None else json.loads(self._outcome)

    @outcome.setter
    def outcome(self, value: Any) -> None:
        self._check_unended("outcome")
        self._outcome = self._room.text("outcome", "" if value is None else json_text(value)) or None

    @property
    def rationale(self) -> str | None:
        """Why, in the agent's words. Raises, when it is set, as `outcome` does."""
        return self._rationale

    @rationale.setter
    def rationale(self, value: str | None) -> None:
        self._check_unended("rationale")
        text = self._room.text("rationale", "" if value is None else value)
        self._rationale = None if value is None else text

    def _check_unended(self, what: str) -> None:
        if self._ended:
            raise InvalidInputError(f"decision {self.id}: {what} is set inside of its `with` statement; nothing was recorded.")

    @overload
    def read(
        self,
        context: Context,
        selection: Selection | None = None,
        *,
        counter: TokenCounter = APPROXIMATE_TOKENS,
        **options: Unpack[SelectionOptions],
    ) -> Window: ...

    @overload
    def read(self, context: Selection, *, counter: TokenCounter = APPROXIMATE_TOKENS) -> dict[str, Window]: ...

    def read(
        self,
        context: Context | Selection,
        selection: Selection | None = None,
        *,
        counter: TokenCounter = APPROXIMATE_TOKENS,
        **options: Unpack[SelectionOptions],
    ) -> Window | dict[str, Window]:
        """The part of a context that the decision is to rest on, as `Context.window` selects it; it is recorded as read.

        Args:
            context: The context; or a selection of several, of which `ContextLog.window` gives the parts.
            selection: What is asked for of a context; everything where not given.
            counter: Counts tokens.
            options: The members of a `Selection`, in place of one.

        Raises:
            InvalidInputError: An argument cannot be used, or the decision is not being made.
            RecordTooLargeError: It is a read more than the decision's record can name, by many thousands.
        """
        if self._token is None or self._ended:
            raise InvalidInputError(f"decision {self.id}: read inside of its `with` statement; nothing was read.")
        if isinstance(context, Selection):
            if selection is not None or options:
                raise InvalidInputError(f"decision {self.id}: a selection of several contexts says all; nothing was read.")
        elif context._owner is not self.owner:
            raise InvalidInputError(f"decision {self.id}: {context.stream_id!r} is of another log; nothing was read.")
        token = _current.set(self)  # Of decisions inside each other it is this one's read.
        try:
            if isinstance(context, Selection):
                return self.owner.window(context, counter=counter)
            return context.window(selection, counter=counter, **options)
        finally:
            _current.reset(token)

    def note_window(self, state: ContextState, window: Window, selection: Selection, counter: TokenCounter) -> None:
        """Note that a part of a state was read."""
        asked, digest = selection.as_json(window.judged_at), selection_digest(window)
        for piece in taken(state, selection, window, counter):
            self._note(window, asked, piece, window.judged_at, digest, counter)

    def note_state(self, state: ContextState) -> None:
        """Note that a whole state was read; once, however often it is looked at."""
        place = state.stream_id, state.chain_head
        if place in self._whole:
            return
        # Version and head say which events these are; a list of all of them would grow with the context.
        self._note(state, _ALL, Taken((), ()), time.time_ns() // 1000, selection_digest(state), None)
        self._whole.add(place)

    def _note(
        self,
        read: Window | ContextState,
        asked: str,
        piece: Taken,
        judged_at: int,
        digest: str,
        counter: TokenCounter | None,
    ) -> None:
        from ctxlog.client.appending import make_event
        from ctxlog.model.events import ContextRead, StreamRead

        stream = StreamRead(
            stream_id=read.stream_id,
            version=read.version,
            chain_head=read.chain_head,
            revealed=piece.revealed,
            withheld=piece.withheld,
        )
        event = make_event(
            ContextRead,
            decision_id=self.id,
            selection=asked,
            streams=(stream,),
            judged_at=judged_at,
            selection_digest=digest,
            token_counter=None if counter is None else counter.name,
            token_counter_version=None if counter is None else counter.version,
        )
        event_id = uuid7()
        self._room.check_read(asked, event_id)
        # Noted before it is named: a decision names no read that is not in the log.
        self._noted.append((event, {**self._options, "event_ids": [event_id], "occurred_at": judged_at}))
        self._reads.append(event_id)
        self._room.name([event_id])

    def check_room(self, events: Iterable[Event]) -> None:
        """Called before anything is appended inside, or read. Raises `RecordTooLargeError` for calls that cannot be named."""
        self._room.check(self._begun(events))

    def before_append(self, options: AppendOptions) -> None:
        """Called before anything is appended inside: what was read so far is appended first, and says what caused it."""
        options.setdefault("causation_id", self.id)
        if self._options.get("correlation_id") is not None:
            options.setdefault("correlation_id", self._options["correlation_id"])
        decision: Decision | None = self
        while decision is not None:  # What an outer decision read led to it too.
            decision._flush()
            decision = decision.outer

    def after_append(self, events: Iterable[Event]) -> None:
        """Called when something was appended inside, or may have been: calls that it begins are named by the decision."""
        begun = self._begun(events)
        self._calls += begun
        self._room.name(begun)

    def _begun(self, events: Iterable[Event]) -> list[str]:
        """Ids of the calls that events begin, and that are not known yet."""
        from ctxlog.model.events import ToolCalled

        called = dict.fromkeys(event.call_id for event in events if isinstance(event, ToolCalled))
        return [call_id for call_id in called if call_id not in self._calls]

    def _flush(self, *last: tuple[Event, AppendOptions]) -> None:
        with self._lock:  # Threads of one decision read and append at the same time.
            count = len(self._noted)
            noted = [*self._noted[:count], *last]
            if not noted:
                return
            token = _current.set(None)  # This is no append that somebody makes inside.
            try:
                self._receipts.append_each(noted)
            finally:
                _current.reset(token)
            del self._noted[:count]  # What was noted meanwhile stays for the next time.

    def __enter__(self) -> Self:
        if self._token is not None:
            raise InvalidInputError(f"decision {self.id}: it was begun already. Make another one with log.decision(…).")
        self._started_at = time.time_ns() // 1000
        self._token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.leave()
        self.record(kind, error)

    def leave(self) -> None:
        """Be the current one no more. Nothing is written yet."""
        self._ended = True
        if self._token is not None:
            with contextlib.suppress(ValueError):  # It ends in another context than it began in, as generators can.
                _current.reset(self._token)

    def record(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        """Write what was read and what came of it, once it was left: with `error`, or without."""
        try:
            self._record(None if kind is None else kind.__name__)
        except CtxlogError as failed:
            if error is None:
                raise
            # What went wrong inside is what the caller must hear of.
            error.add_note(f"ctxlog: decision {self.id} is not recorded: {failed}")

    def _record(self, failure: str | None) -> None:
        from ctxlog.client.appending import make_event
        from ctxlog.model.events import DecisionRecorded

        reads = tuple(self._reads)  # Those that come later from other threads are no part of it.
        event = make_event(
            DecisionRecorded,
            decision_id=self.id,
            kind=self._kind,
            reads=reads,
            model=self._model,
            parameters=self._parameters,
            outcome=self._outcome,
            rationale=self._rationale,
            tool_calls=tuple(self._calls),
            failed=failure is not None,
            failure=failure,
            started_at=self._started_at,
            ended_at=time.time_ns() // 1000,
        )
        self._flush((event, {**self._options, "event_ids": [self.id]}))


class _Room:
    """The room that a decision's record has. Each method refuses what it has none for, with `RecordTooLargeError`."""

    def __init__(self, stream_id: str) -> None:
        self._stream_id = stream_id
        self._texts: dict[str, int] = {}
        self._ids = 0
        self._lock = threading.Lock()

    def text(self, member: str, value: object) -> str:
        """Take room for a text, in place of the one that the member had before. Raises `InvalidInputError` where it is none."""
        if not isinstance(value, str):
            raise InvalidInputError(f"{member}: expected a text, found {type(value).__name__}; nothing was recorded")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidInputError(f"{member}: holds a lone surrogate, which UTF-8 cannot carry; nothing was recorded") from None
        self._check(size - self._texts.get(member, 0))
        self._texts[member] = size
        return value

    def check(self, ids: Iterable[str]) -> None:
        """Check that these can be named too."""
        self._check(_size(ids))

    def check_read(self, asked: str, event_id: str) -> None:
        """Check that a read can be named, and that its own record has room for what was asked for."""
        size = len(asked.encode()) + IDS_BYTES_MAX + OTHER_BYTES_MAX
        if size > MAX_RECORD_BYTES:
            raise RecordTooLargeError(self._stream_id, size, MAX_RECORD_BYTES)
        self.check([event_id])

    def name(self, ids: Iterable[str]) -> None:
        """Take room for ids, for which it was checked before."""
        with self._lock:  # Threads of one decision read and append at the same time.
            self._ids += _size(ids)

    def _check(self, more: int) -> None:
        size = sum(self._texts.values()) + self._ids + more + OTHER_BYTES_MAX
        if more > 0 and size > MAX_RECORD_BYTES:
            raise RecordTooLargeError(self._stream_id, size, MAX_RECORD_BYTES)


def _size(ids: Iterable[str]) -> int:
    return sum(len(one.encode()) + ID_BYTES_MAX for one in ids)

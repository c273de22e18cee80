"""One context of a log.

What validates events is imported by the first append: it takes as long as all the rest, and readers need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

from ctxlog.client.deciding import current, note_state
from ctxlog.client.options import AppendOptions, Encoded, Writer
from ctxlog.client.windows import window
from ctxlog.errors import IndeterminateError, InvalidInputError
from ctxlog.model.ids import agent_of, check_actor, check_agent_id, check_stream_id
from ctxlog.model.jsontext import json_text, plain_or_parts
from ctxlog.model.outcomes import Acknowledged, Committed
from ctxlog.model.points import Point, parse_point
from ctxlog.model.records import Accepted
from ctxlog.model.resumed import Resumed
from ctxlog.model.selection import APPROXIMATE_TOKENS, Selection, SelectionOptions, TokenCounter, Window
from ctxlog.model.state import ContextState, Parent
from ctxlog.replay.history import Entry, history
from ctxlog.replay.manifest import Replay
from ctxlog.uuids import uuid7

if TYPE_CHECKING:
    from ctxlog.client.headers import Headers
    from ctxlog.client.log import ContextLog
    from ctxlog.model.events import Event


class Context:
    """One context: append to it, read it, replay it, fork it. Made by `ContextLog.context`.

    Appends without preconditions return `Acknowledged`: durable, and decided when read. Appends with one, and those of several
    events, return `Committed` once the log has accepted them, or raise `ConflictError` and change nothing.
    """

    def __init__(self, owner: ContextLog, stream_id: str, *, agent_id: str | None, actor: str | None) -> None:
        self.stream_id = check_stream_id(stream_id)
        self.agent_id = check_agent_id(agent_id) if agent_id is not None else agent_of(stream_id)
        self.actor = check_actor(actor) if actor is not None else f"agent:{self.agent_id}" if self.agent_id else "system:ctxlog"
        self._writer = Writer(self.stream_id, self.agent_id, self.actor)
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Context {self.stream_id!r} of {self._owner.log.url}>"

    # Appending

    def append(self, events: Event | Sequence[Event], **options: Unpack[AppendOptions]) -> Committed | Acknowledged:
        """Append one event, or several that are accepted together or not at all.

        Raises:
            InvalidInputError: An argument cannot be used; nothing was appended.
            RecordTooLargeError: A record would be larger than 1 MiB; nothing was appended.
            ConflictError: A precondition did not hold; nothing was changed.
            IndeterminateError: The outcome is not known; `ContextLog.resolve` finds out.
        """
        from ctxlog.client.appending import batch_of, expectation, ids_of, metas_of
        from ctxlog.client.headers import trace_headers

        batch = batch_of(events)
        event_ids = ids_of(batch, options)
        decision = current(self._owner)
        if decision is not None:
            decision.before_append(options)
        metas = metas_of(self._writer, batch, event_ids, options)
        trace = trace_headers(options)
        encoded = [self._encoded(event, meta, trace) for event, meta in zip(batch, metas, strict=True)]
        conditional = len(batch) > 1 or any(meta["precondition"] for meta in metas)
        try:
            done = self._owner._append(self.stream_id, encoded, event_ids, conditional=conditional, expected=expectation(options))
        except IndeterminateError:
            if decision is not None:
                decision.after_append(batch)
            raise
        if decision is not None:
            decision.after_append(batch)
        return done

    def append_each(self, events: Sequence[tuple[Event, AppendOptions]]) -> Acknowledged:
        """Append events that have nothing to do with each other, in one durable write: each is decided on its own.

        Far faster than one `append` after the other, for what was recorded elsewhere.

        Args:
            events: Each with its own options; no preconditions, as nobody would hear of a conflict.

        Raises:
            InvalidInputError: An argument cannot be used; nothing was appended.
            RecordTooLargeError: A record would be larger than 1 MiB; nothing was appended.
            IndeterminateError: The outcome is not known. The same events with the same ids can be appended again.
        """
        from ctxlog.client.appending import ids_of, metas_of
        from ctxlog.client.headers import trace_headers

        encoded, event_ids = [], []
        decision = current(self._owner)
        for event, given in events:
            options = given.copy()
            (event_id,) = ids_of([event], options)
            if decision is not None:
                decision.before_append(options)
            (meta,) = metas_of(self._writer, [event], [event_id], options)
            if meta["precondition"]:
                raise InvalidInputError("append_each takes no preconditions; nothing was appended")
            encoded.append(self._encoded(event, meta, trace_headers(options)))
            event_ids.append(event_id)
        if not encoded:
            raise InvalidInputError("an append has at least 1 event; nothing was appended")
        done = self._owner._append(self.stream_id, encoded, event_ids, conditional=False, expected="")
        if decision is not None:
            decision.after_append(event for event, _ in events)
        return Acknowledged(done.position, done.event_ids)

    def _encoded(self, event: Event, meta: dict[str, Any], trace: Headers) -> Encoded:
        from ctxlog.client.appending import encode
        from ctxlog.client.headers import cloudevents_headers

        owner = self._owner
        attributes = cloudevents_headers(owner.log.log_id, event.type_name, meta) if owner.cloudevents else ()
        return encode(event, meta, trace + attributes)

    def add_message(
        self, role: str, content: Any = None, *, name: str | None = None, **options: Unpack[AppendOptions]
    ) -> Committed | Acknowledged:
        """Append a message.

        Args:
            role: `system`, `user`, `assistant`, `tool`, or what you call it.
            content: Text; or parts, anything that JSON can carry.
            name: Name of the author, as providers take it.
            options: See `AppendOptions`.
        """
        text, parts = plain_or_parts(content)
        return self.append(_event("MessageAppended", role=role, content=text, parts=parts, name=name), **options)

    def redact_message(
        self, message_id: str, *, reason: str | None = None, **options: Unpack[AppendOptions]
    ) -> Committed | Acknowledged:
        """Take the text of a message out of the context. The log keeps the event that brought it."""
        return self.append(_event("MessageRedacted", message_id=message_id, reason=reason), **options)

    def set_fact(
        self,
        key: str,
        value: Any,
        *,
        valid_from: datetime | int | None = None,
        valid_to: datetime | int | None = None,
        expires_at: datetime | int | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed | Acknowledged:
        """Set a fact.

        Args:
            key: Its name in this context.
            value: Anything that JSON can carry.
            valid_from, valid_to: When it is true in the world.
            expires_at: From when readers leave it out.
            options: See `AppendOptions`.
        """
        fact = _event("FactSet", key=key, value=json_text(value), valid_from=valid_from, valid_to=valid_to, expires_at=expires_at)
        return self.append(fact, **options)

    def remove_fact(self, key: str, **options: Unpack[AppendOptions]) -> Committed | Acknowledged:
        """Take a fact out of the context."""
        return self.append(_event("FactRemoved", key=key), **options)

    def add_tool_call(
        self,
        name: str,
        arguments: Any,
        *,
        message_id: str | None = None,
        source_id: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed | Acknowledged:
        """Record that a tool is called; `event_id` of what comes back is the call's id, for `add_tool_result`.

        Args:
            name: The tool.
            arguments: JSON text as the model wrote it, or anything that JSON can carry.
            message_id: The message that asked for the call.
            source_id: The id that the provider gave the call.
            options: See `AppendOptions`.
        """
        from ctxlog.client.appending import given_ids

        (event_id,) = given_ids(1, options) or [uuid7()]
        text = arguments if isinstance(arguments, str) else json_text(arguments)
        call = _event("ToolCalled", call_id=event_id, name=name, arguments=text, message_id=message_id, source_id=source_id)
        options["event_ids"] = [event_id]
        return self.append(call, **options)

    def add_tool_result(
        self,
        call_id: str,
        result: Any = None,
        *,
        failed: bool = False,
        name: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed | Acknowledged:
        """Record how a call ended.

        Args:
            call_id: The call.
            result: Text, or anything that JSON can carry; for a failure, what it said.
            failed: Whether the call failed.
            name: Name of the author of the result, as providers take it.
            options: See `AppendOptions`.
        """
        text, parts = plain_or_parts(result)
        return self.append(
            _event("ToolReturned", call_id=call_id, failed=failed, content=text, parts=parts, name=name), **options
        )

    def tool_once(
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
        """Call a tool once for a key, across crashes and processes, and record call and result.

        A call that has its result is not run again: what was recorded comes back. One that failed is. One that somebody else runs
        is waited for until its lease ends; then it is taken over. Where a process dies after the tool had its effect and before
        that was recorded, the tool runs again: give the key to the other side too, if it can recognise one.

        Args:
            name: The tool.
            arguments: What it is called with: JSON text, or anything that JSON can carry.
            run: Runs the tool: `run(arguments)`. What it returns must be something that JSON can carry.
            key: Stands for this call in this context, and is its id: one key for one tool with its arguments.
            lease_seconds: How long nobody else runs it. Choose it longer than the tool takes: it is not renewed.
            timeout_seconds: How long to wait for somebody else who runs it; None: until there is a result or the lease ends.
            message_id: The message that asked for the call.
            source_id: The id that the provider gave the call.
            options: See `AppendOptions`; without preconditions and ids.

        Returns:
            What `run` returned, as JSON carries it (a tuple is a list), the first time as every time.

        Raises:
            KeyReusedError: The key stands for another call; nothing was run.
            CallHeldError: Somebody else runs it, and the time is over; nothing was run.
            LeaseLostError: The tool ran for longer than its lease, and somebody else took over; its result was not recorded.
            NoResultError: The tool ran, and its result cannot be recorded or was redacted. It is not run again.
            IndeterminateError, StorageError: The lease was not recorded, or the result; a note says so where the tool ran.
            BaseException: What `run` raised. It is recorded as a failure, and the next call with this key runs the tool again.
        """
        from ctxlog.client.once import Once

        once = Once(
            self,
            name,
            arguments,
            run=run,
            key=key,
            lease_seconds=lease_seconds,
            timeout_seconds=timeout_seconds,
            message_id=message_id,
            source_id=source_id,
            options=options,
        )
        return once.result()

    def update(
        self,
        fn: Callable[[ContextState], Event | Sequence[Event] | None],
        *,
        timeout_seconds: float | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed | None:
        """Read the state, let `fn` decide what to append, and append it if nothing else came in between; otherwise again.

        Args:
            fn: Gets the newest state and returns the events that follow from it; None or no events: nothing is appended. It must
                be pure, as it is called again after each conflict. What it raises ends the update, and nothing is appended.
            timeout_seconds: After which no further try is made; None: tries until it succeeds.
            options: See `AppendOptions`; without preconditions and ids.

        Returns:
            The outcome; None where `fn` had nothing to append.

        Raises:
            ConflictError: Others were faster until the time was over; nothing was changed.
            IndeterminateError: Whether it was appended is not known, after a minute of asking.
        """
        from ctxlog.client.updating import update

        return update(self, fn, options, timeout_seconds)

    def update_fact(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        default: Any = None,
        timeout_seconds: float | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed:
        """Set a fact to what `fn` makes of its value, if nobody else changed this fact in between; otherwise again.

        Only this fact is looked at: those who change other facts or append messages are not in the way, as they are for `update`.

        Args:
            key: The fact.
            fn: Gets the value and returns the new one, which JSON must be able to carry. Pure, as in `update`.
            default: What `fn` gets where the fact is not set, or has expired.
            timeout_seconds: As in `update`.
            options: As in `update`.

        Raises:
            ConflictError, IndeterminateError: As in `update`.
            IntegrityError: The fact holds text that is no JSON.
        """
        from ctxlog.client.updating import update_fact

        return update_fact(self, key, fn, default, options, timeout_seconds)

    def close(self, *, reason: str | None = None, **options: Unpack[AppendOptions]) -> Committed | Acknowledged:
        """Say that the context came to an end. Later events still take effect."""
        return self.append(_event("StreamClosed", reason=reason), **options)

    def fork(self, stream_id: str, *, at: str | int | Point = "latest") -> Context:
        """A new context that goes on from a point of this one. This one is not changed, and later events here are not seen there.

        Raises:
            ConflictError: The new stream exists.
            LineageError: The new stream would lie deeper than forks of forks are composed; nothing was appended.
        """
        child = Context(self._owner, stream_id, agent_id=None, actor=None)
        state = self.replay(at).state
        if state.parent is not None:
            parent = Parent(self.stream_id, state.version, state.chain_head)
            self._owner.replayer.state_at(parent, (child.stream_id,))  # A stream that nobody can read must not be born.
        from ctxlog.model.events import StreamForked

        event = StreamForked(parent_stream_id=self.stream_id, parent_version=state.version, parent_chain_head=state.chain_head)
        child.append(event, expected_version=0)
        return child

    # Reading

    @property
    def state(self) -> ContextState:
        """The newest state, with everything that was appended through this log."""
        return note_state(self._owner, self._owner._state(self.stream_id))

    @property
    def version(self) -> int:
        """The newest version; 0: the context does not exist."""
        return self._owner._read(self.stream_id).fold.version

    @property
    def chain_head(self) -> str:
        """Id of the newest version, for `expected_head`."""
        return self._owner._read(self.stream_id).fold.head.hex()

    def window(
        self,
        selection: Selection | None = None,
        *,
        counter: TokenCounter = APPROXIMATE_TOKENS,
        **options: Unpack[SelectionOptions],
    ) -> Window:
        """The part of the newest state that a model gets to see; expiry is judged now.

        Args:
            selection: What is asked for; everything where not given.
            counter: Counts tokens.
            options: The members of a `Selection`, in place of one.

        Raises:
            InvalidInputError: An argument cannot be used.
        """
        return window(self._owner, self.stream_id, selection, options, counter)

    def resume(self) -> Resumed:
        """What there is to go on from, after a crash or a change of process: the last valid state, the calls that were begun and
        not answered, and the appends of which the log has only a part. Leases are judged now. Nothing is written."""
        from ctxlog.client.recovery import resume

        return resume(self)

    def replay(self, at: str | int | Point = "latest") -> Replay:
        """The state at a point, recomputed from the log, with its manifest.

        Args:
            at: `latest`, `N` or `version:N`, `offset:N`, `time:ISO8601`, `occurred:ISO8601`, `event:ID`, `decision:ID` or
                `cut:FILE`.

        Raises:
            PointError: It is no point, or the context has none such.
            IntegrityError: What the log holds cannot be folded.
        """
        point = parse_point(at) if isinstance(at, str | int) else at
        replayer = self._owner.replayer
        self._owner._settle()
        replay = replayer.replay(self.stream_id, point)
        note_state(self._owner, replay.state)
        return replay

    def accepted(self) -> Iterator[Accepted]:
        """The accepted events, oldest first, with everything that was appended through this log."""
        replayer = self._owner.replayer
        end = max(replayer.end(self.stream_id), self._owner._caught_up(replayer.reader.partition(self.stream_id)))
        return replayer.accepted(self.stream_id, end)

    def history(self) -> Iterator[Entry]:
        """Every record of the stream and what became of it, in the order in which it was decided."""
        replayer = self._owner.replayer
        self._owner._settle()
        return history(replayer, self.stream_id, replayer.end(self.stream_id))


def _event(kind: str, **fields: Any) -> Event:
    """An event of a class of `model.events`. Raises `InvalidInputError`."""
    from ctxlog.client.appending import make_event
    from ctxlog.model import events

    return make_event(getattr(events, kind), **fields)

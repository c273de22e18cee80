"""The part of a context that appends.

What validates events is imported by the first append: it takes as long as all the rest, and readers need none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

from ctxlog.client.deciding import current
from ctxlog.client.options import AppendOptions, Encoded, Writer
from ctxlog.errors import IndeterminateError, InvalidInputError
from ctxlog.model.ids import agent_of, check_actor, check_agent_id, check_stream_id
from ctxlog.model.jsontext import json_text, plain_or_parts
from ctxlog.model.outcomes import Acknowledged, Committed
from ctxlog.uuids import uuid7

if TYPE_CHECKING:
    from ctxlog.client.headers import Headers
    from ctxlog.client.log import ContextLog, Follower
    from ctxlog.model.events import Event


class ContextWrites:
    """What appends to a context and does not read it; `Context` says more."""

    def __init__(self, owner: ContextLog, stream_id: str, *, agent_id: str | None, actor: str | None) -> None:
        self.stream_id = check_stream_id(stream_id)
        self.agent_id = check_agent_id(agent_id) if agent_id is not None else agent_of(stream_id)
        self.actor = check_actor(actor) if actor is not None else f"agent:{self.agent_id}" if self.agent_id else "system:ctxlog"
        self._writer = Writer(self.stream_id, self.agent_id, self.actor)
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Context {self.stream_id!r} of {self._owner.log.url}>"

    def append(self, events: Event | Sequence[Event], **options: Unpack[AppendOptions]) -> Committed | Acknowledged:
        """Append one event, or several that are accepted together or not at all.

        Raises:
            InvalidInputError: An argument cannot be used; nothing was appended.
            RecordTooLargeError: A record would be larger than 1 MiB; nothing was appended.
            ConflictError: A precondition did not hold; nothing was changed.
            IndeterminateError: The outcome is not known; `ContextLog.resolve` finds out.
        """
        return self._append(events, options)

    def _append(
        self, events: Event | Sequence[Event], options: AppendOptions, follower: Follower | None = None
    ) -> Committed | Acknowledged:
        """As `append`; a follower reads what has to be read back, so that it is read once."""
        from ctxlog.client.appending import batch_of, expectation, ids_of, metas_of
        from ctxlog.client.headers import trace_headers

        batch = batch_of(events)
        event_ids = ids_of(batch, options)
        decision = current(self._owner)
        if decision is not None:
            decision.check_room(batch)
            decision.before_append(options)
        metas = metas_of(self._writer, batch, event_ids, options)
        trace = trace_headers(options)
        encoded = [self._encoded(event, meta, trace) for event, meta in zip(batch, metas, strict=True)]
        conditional = len(batch) > 1 or any(meta["precondition"] for meta in metas)
        try:
            done = self._owner._append(
                self.stream_id,
                encoded,
                event_ids,
                conditional=conditional,
                expected=expectation(options),
                follower=follower,
            )
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
        if decision is not None:
            decision.check_room(event for event, _ in events)
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

    def close(self, *, reason: str | None = None, **options: Unpack[AppendOptions]) -> Committed | Acknowledged:
        """Say that the context came to an end. Later events still take effect."""
        return self.append(_event("StreamClosed", reason=reason), **options)


def _event(kind: str, **fields: Any) -> Event:
    """An event of a class of `model.events`. Raises `InvalidInputError`."""
    from ctxlog.client.appending import make_event
    from ctxlog.model import events

    return make_event(getattr(events, kind), **fields)

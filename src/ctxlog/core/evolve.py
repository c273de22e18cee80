"""One accepted event to the next state (`FOLD_VERSION` 1).

Pure: no clock, no randomness, no I/O, no environment. The same events give the same state on every machine; replay, `verify`
and every view depend on it. `docs/reference/state.md` is the definition. Once released, this module never changes its
meaning: a new fold version is a new module beside it, because a decision must replay as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctxlog.errors import NewerEventError
from ctxlog.model.records import Accepted
from ctxlog.model.state import NUMBER_MAX, Anomaly, ContextState, Fact, Lease, Message, Parent, ToolCall

FOLD_VERSION = 1
"""Kept wherever a state is kept or attested."""


class Evolving:
    """A state that accepted events are applied to, one after the other.

    Attributes:
        parent: Set by the fork event at version 1.
        anomalies: Accepted events that could not take effect.
    """

    __slots__ = ("anomalies", "closed", "facts", "index", "messages", "parent", "stream_id", "tool_calls")

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.closed = False
        self.parent: Parent | None = None
        self.messages: list[Message] = []
        self.index: dict[str, int] = {}
        self.facts: dict[str, Fact] = {}
        self.tool_calls: dict[str, ToolCall] = {}
        self.anomalies: list[Anomaly] = []

    def inherit(self, state: ContextState) -> None:
        """Start from a parent's state: its messages, facts and tool calls."""
        self.messages = list(state.messages)
        self.index = {message.id: i for i, message in enumerate(self.messages)}
        self.facts = dict(state.facts)
        self.tool_calls = dict(state.tool_calls)

    def apply(self, accepted: Accepted) -> None:
        """Apply one accepted event.

        Raises:
            NewerEventError: Its type is of the namespace `ctxlog` and unknown to this release.
        """
        event = accepted.event
        handler = _HANDLERS.get(event.type)
        if handler is None:
            if event.type.startswith("ctxlog."):
                raise NewerEventError(self.stream_id, accepted.version, event.type)
            return
        reason = handler(self, accepted.version, event.meta, event.payload) if event.readable else "unreadable"
        if reason is not None:
            self.anomalies.append(Anomaly(accepted.version, event.meta["event_id"], event.type, reason))

    def state(self, version: int, chain_head: bytes) -> ContextState:
        """The state as it is now; later events do not change it."""
        return ContextState(
            self.stream_id,
            version,
            chain_head.hex(),
            self.closed,
            self.parent,
            tuple(self.messages),
            dict(self.facts),
            dict(self.tool_calls),
        )

    def add_message(self, message: Message) -> None:
        self.index[message.id] = len(self.messages)
        self.messages.append(message)


Handler = Callable[[Evolving, int, dict[str, Any], dict[str, Any]], str | None]


def _outside(*numbers: int | None) -> bool:
    return any(number is not None and not -NUMBER_MAX <= number <= NUMBER_MAX for number in numbers)


def _occurred_at(meta: dict[str, Any]) -> int | None:
    occurred_at: int | None = meta["occurred_at"]
    return occurred_at if occurred_at is not None and -NUMBER_MAX <= occurred_at <= NUMBER_MAX else None


def _message_appended(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    if meta["target"] is not None:
        return "target_mismatch"
    event_id = meta["event_id"]
    if event_id in state.index:
        return "message_exists"
    state.add_message(
        Message(
            event_id,
            payload["role"],
            payload["content"],
            payload["parts"],
            payload["name"],
            (),
            payload["tool_call_id"],
            meta["scope"],
            _occurred_at(meta),
            None,
        )
    )
    return None


def _message_redacted(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    message_id = payload["message_id"]
    if meta["target"] != "message:" + message_id:
        return "target_mismatch"
    at = state.index.get(message_id)
    if at is None:
        return "message_unknown"
    message = state.messages[at]
    if message.redacted_by is not None:
        return "message_redacted"
    state.messages[at] = message._replace(content=None, parts=None, redacted_by=meta["event_id"])
    call = state.tool_calls.get(message.tool_call_id) if message.tool_call_id is not None else None
    if call is not None and call.result_id == message_id:
        state.tool_calls[message.tool_call_id or ""] = call._replace(result=None, result_parts=None)
    return None


def _fact_set(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    key = payload["key"]
    if meta["target"] != "fact:" + key:
        return "target_mismatch"
    valid_from, valid_to, expires_at = payload["valid_from"], payload["valid_to"], payload["expires_at"]
    if _outside(valid_from, valid_to, expires_at):
        return "out_of_range"
    state.facts[key] = Fact(payload["value"], meta["scope"], valid_from, valid_to, expires_at, meta["event_id"])
    return None


def _fact_removed(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    key = payload["key"]
    if meta["target"] != "fact:" + key:
        return "target_mismatch"
    return None if state.facts.pop(key, None) is not None else "fact_unknown"


def _tool_called(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    call_id, message_id, expires_at = payload["call_id"], payload["message_id"], payload["lease_expires_at"]
    if meta["target"] != "call:" + call_id:
        return "target_mismatch"
    if _outside(expires_at):
        return "out_of_range"
    if message_id is not None and message_id not in state.index:
        return "message_unknown"
    lease = None if expires_at is None else Lease(meta["event_id"], expires_at)
    name, arguments, key = payload["name"], payload["arguments"], payload["idempotency_key"]
    call = state.tool_calls.get(call_id)
    if call is not None:
        same = key is not None and (call.idempotency_key, call.name, call.arguments) == (key, name, arguments)
        if not same or call.status == "returned":
            return "call_exists"
        state.tool_calls[call_id] = call._replace(status="open", result=None, result_parts=None, result_id=None, lease=lease)
        return None
    state.tool_calls[call_id] = ToolCall(
        name, arguments, "open", None, None, None, message_id, payload["source_id"], key, lease, meta["scope"]
    )
    if message_id is not None:
        at = state.index[message_id]
        message = state.messages[at]
        state.messages[at] = message._replace(tool_calls=(*message.tool_calls, call_id))
    return None


def _tool_returned(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    call_id, event_id = payload["call_id"], meta["event_id"]
    if meta["target"] != "call:" + call_id:
        return "target_mismatch"
    call = state.tool_calls.get(call_id)
    if call is None:
        return "call_unknown"
    if call.status != "open":
        return "call_settled"
    if event_id in state.index:
        return "message_exists"
    content, parts = payload["content"], payload["parts"]
    state.tool_calls[call_id] = call._replace(
        status="failed" if payload["failed"] else "returned", result=content, result_parts=parts, result_id=event_id, lease=None
    )
    state.add_message(
        Message(event_id, "tool", content, parts, payload["name"], (), call_id, meta["scope"], _occurred_at(meta), None)
    )
    return None


def _stream_forked(state: Evolving, version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    if meta["target"] is not None:
        return "target_mismatch"
    if version != 1:
        return "not_first"
    if not 0 <= payload["parent_version"] <= NUMBER_MAX:
        return "out_of_range"
    state.parent = Parent(payload["parent_stream_id"], payload["parent_version"], payload["parent_chain_head"])
    return None


def _stream_closed(state: Evolving, _version: int, meta: dict[str, Any], _payload: dict[str, Any]) -> str | None:
    if meta["target"] is not None:
        return "target_mismatch"
    if state.closed:
        return "already_closed"
    state.closed = True
    return None


def _no_effect(_state: Evolving, _version: int, meta: dict[str, Any], _payload: dict[str, Any]) -> str | None:
    return "target_mismatch" if meta["target"] is not None else None


_HANDLERS: dict[str, Handler] = {
    "ctxlog.MessageAppended": _message_appended,
    "ctxlog.MessageRedacted": _message_redacted,
    "ctxlog.FactSet": _fact_set,
    "ctxlog.FactRemoved": _fact_removed,
    "ctxlog.ToolCalled": _tool_called,
    "ctxlog.ToolReturned": _tool_returned,
    "ctxlog.ContextRead": _no_effect,
    "ctxlog.DecisionRecorded": _no_effect,
    "ctxlog.ExtensionRecorded": _no_effect,
    "ctxlog.StreamForked": _stream_forked,
    "ctxlog.StreamClosed": _stream_closed,
}

KNOWN_TYPES = frozenset(_HANDLERS)
"""Full names of the event types that this fold knows."""

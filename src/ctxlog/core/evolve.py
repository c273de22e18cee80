"""One accepted event to the next state (`FOLD_VERSION` 1).

Pure: no clock, no randomness, no I/O, no environment. The same events give the same state on every machine; replay, `verify`
and every view depend on it. `docs/reference/state.md` is the definition. Once released, this module never changes its
meaning: a new fold version is a new module beside it, because a decision must replay as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctxlog.errors import NewerEventError
from ctxlog.model.records import Accepted, EventRecord
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
        reason = self.take(accepted.version, event)
        if reason is not None:
            self.anomalies.append(Anomaly(accepted.version, event.meta["event_id"], event.type, reason))

    def take(self, version: int, event: EventRecord) -> str | None:
        """Let the event that was accepted as `version` take effect; why it has none, or None. Raises as `apply` does."""
        handler = _HANDLERS.get(event.type)
        if handler is None:
            if event.type.startswith("ctxlog."):
                raise NewerEventError(self.stream_id, version, event.type)
            return None
        return handler(self, version, event.meta, event.payload) if event.readable else "unreadable"

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

    # What the handlers below have judged. Whoever needs less of a state than all of it may keep less.

    def add_message(self, meta: dict[str, Any], payload: dict[str, Any], role: str, answers: str | None) -> None:
        """Add the message that an event brings; `answers` is the call that it is the result of."""
        event_id = meta["event_id"]
        content, parts, name = payload["content"], payload["parts"], payload["name"]
        self.index[event_id] = len(self.messages)
        self.messages.append(Message(event_id, role, content, parts, name, (), answers, meta["scope"], _occurred_at(meta), None))

    def redact(self, message_id: str, redacted_by: str) -> bool:
        """Take the text out of a message that is there; False where that was done before."""
        at = self.index[message_id]
        message = self.messages[at]
        if message.redacted_by is not None:
            return False
        self.messages[at] = message._replace(content=None, parts=None, redacted_by=redacted_by)
        call = self.tool_calls.get(message.tool_call_id) if message.tool_call_id is not None else None
        if call is not None and call.result_id == message_id:
            self.tool_calls[message.tool_call_id or ""] = call._replace(result=None, result_parts=None)
        return True

    def set_fact(self, meta: dict[str, Any], payload: dict[str, Any]) -> None:
        """Set a fact."""
        valid_from, valid_to, expires_at = payload["valid_from"], payload["valid_to"], payload["expires_at"]
        self.facts[payload["key"]] = Fact(payload["value"], meta["scope"], valid_from, valid_to, expires_at, meta["event_id"])

    def add_call(self, meta: dict[str, Any], payload: dict[str, Any], lease: Lease | None) -> None:
        """Add a call that was not there."""
        call_id, message_id = payload["call_id"], payload["message_id"]
        name, arguments, source_id, key = payload["name"], payload["arguments"], payload["source_id"], payload["idempotency_key"]
        self.tool_calls[call_id] = ToolCall(
            name, arguments, "open", None, None, None, message_id, source_id, key, lease, meta["scope"]
        )
        if message_id is not None:
            at = self.index[message_id]
            message = self.messages[at]
            self.messages[at] = message._replace(tool_calls=(*message.tool_calls, call_id))

    def settle_call(self, call: ToolCall, status: str, meta: dict[str, Any], payload: dict[str, Any]) -> None:
        """Give an open call its result, which is a message too."""
        content, parts = payload["content"], payload["parts"]
        self.tool_calls[payload["call_id"]] = call._replace(
            status=status, result=content, result_parts=parts, result_id=meta["event_id"], lease=None
        )
        self.add_message(meta, payload, "tool", payload["call_id"])


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
    state.add_message(meta, payload, payload["role"], payload["tool_call_id"])
    return None


def _message_redacted(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    message_id = payload["message_id"]
    if meta["target"] != "message:" + message_id:
        return "target_mismatch"
    if message_id not in state.index:
        return "message_unknown"
    return None if state.redact(message_id, meta["event_id"]) else "message_redacted"


def _fact_set(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    key = payload["key"]
    if meta["target"] != "fact:" + key:
        return "target_mismatch"
    if _outside(payload["valid_from"], payload["valid_to"], payload["expires_at"]):
        return "out_of_range"
    state.set_fact(meta, payload)
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
    call = state.tool_calls.get(call_id)
    if call is None:
        state.add_call(meta, payload, lease)
        return None
    key = payload["idempotency_key"]
    same = key is not None and (call.idempotency_key, call.name, call.arguments) == (key, payload["name"], payload["arguments"])
    if not same or call.status == "returned":
        return "call_exists"
    state.tool_calls[call_id] = call._replace(status="open", result=None, result_parts=None, result_id=None, lease=lease)
    return None


def _tool_returned(state: Evolving, _version: int, meta: dict[str, Any], payload: dict[str, Any]) -> str | None:
    call_id = payload["call_id"]
    if meta["target"] != "call:" + call_id:
        return "target_mismatch"
    call = state.tool_calls.get(call_id)
    if call is None:
        return "call_unknown"
    if call.status != "open":
        return "call_settled"
    if meta["event_id"] in state.index:
        return "message_exists"
    state.settle_call(call, "failed" if payload["failed"] else "returned", meta, payload)
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

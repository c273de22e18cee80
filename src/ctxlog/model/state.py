"""The state of a context: what an agent knows at one version of its stream.

`docs/reference/state.md` defines every member. The entries are immutable, so states share them freely.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NUMBER_MAX = 2**53 - 1
"""Largest number that every JSON reader carries exactly (RFC 8785, I-JSON)."""


class Message(NamedTuple):
    """One message, as its source gave it. A tool result is a message of role `tool`."""

    id: str
    role: str
    content: str | None
    parts: str | None
    name: str | None
    tool_calls: tuple[str, ...]
    tool_call_id: str | None
    scope: str
    occurred_at: int | None
    redacted_by: str | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._asdict(), "tool_calls": list(self.tool_calls)}


class Fact(NamedTuple):
    """One fact. `value` is JSON text, as it was stored; times are µs since 1970 UTC."""

    value: str
    scope: str
    valid_from: int | None
    valid_to: int | None
    expires_at: int | None
    event_id: str

    def parsed(self) -> Any:
        """The value, parsed from its JSON text. Raises `json.JSONDecodeError` where a writer stored other text."""
        return json.loads(self.value)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return self._asdict()


class Lease(NamedTuple):
    """Who holds an open call: the event that took it, and until when (µs)."""

    event_id: str
    expires_at: int


class ToolCall(NamedTuple):
    """One call of a tool. `status` is `open`, `returned` or `failed`; `arguments` is text as the model wrote it."""

    name: str
    arguments: str
    status: str
    result: str | None
    result_parts: str | None
    result_id: str | None
    message_id: str | None
    source_id: str | None
    idempotency_key: str | None
    lease: Lease | None
    scope: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._asdict(), "lease": self.lease._asdict() if self.lease else None}


class Parent(NamedTuple):
    """The stream that a fork goes on from, and the version and chain head from which it does."""

    stream_id: str
    version: int
    chain_head: str


class Anomaly(NamedTuple):
    """An accepted event that could not take effect, and why. Reported beside the state."""

    version: int
    event_id: str
    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class ContextState:
    """What a context holds at `version`. Version 0 is the empty context: the stream does not exist."""

    stream_id: str
    version: int
    chain_head: str
    closed: bool = False
    parent: Parent | None = None
    messages: Sequence[Message] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)
    tool_calls: Mapping[str, ToolCall] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as `-o json` prints it and as the state digest takes it."""
        return {
            "stream_id": self.stream_id,
            "version": self.version,
            "chain_head": self.chain_head,
            "closed": self.closed,
            "parent": self.parent._asdict() if self.parent else None,
            "messages": [message.to_dict() for message in self.messages],
            "facts": {key: fact.to_dict() for key, fact in self.facts.items()},
            "tool_calls": {key: call.to_dict() for key, call in self.tool_calls.items()},
        }

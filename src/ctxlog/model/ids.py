"""Rules that writers keep for ids. Readers never judge them: arbitration compares stored strings byte for byte."""

from __future__ import annotations

import unicodedata
from typing import Any

from ctxlog.errors import InvalidInputError

MAX_ID_BYTES = 255
ACTOR_KINDS = ("agent", "person", "tool", "system")
RESERVED_AGENTS = ("shared", "decisions")


def check_id(what: str, value: str) -> str:
    """Return `value` if it may be an id: NFC, 1 to 255 bytes of UTF-8, no control characters.

    Raises:
        InvalidInputError: It may not; the message names the rule, never the value.
    """
    rule = broken_rule(value)
    if rule is not None:
        raise InvalidInputError(f"{what}: {rule}; nothing was appended")
    return value


def broken_rule(value: Any) -> str | None:
    """Why `value` may be no id, in words that do not quote it; None where it may."""
    if not isinstance(value, str):
        return f"expected text, found {type(value).__name__}"
    if 0 < len(value) <= MAX_ID_BYTES and value.isascii() and value.isprintable():
        return None  # As nearly all are. Text like this is in NFC and holds no control character.
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate, which UTF-8 cannot carry"
    if not 1 <= size <= MAX_ID_BYTES:
        return f"expected 1 to {MAX_ID_BYTES} bytes of UTF-8, found {size}"
    if any(unicodedata.category(char) == "Cc" for char in value):
        return "holds a control character"
    return None if unicodedata.is_normalized("NFC", value) else "is not in Unicode normal form NFC"


def check_stream_id(stream_id: str) -> str:
    """Return `stream_id` if a writer may use it. Raises `InvalidInputError`."""
    check_id("stream id", stream_id)
    if stream_id.startswith("ctxlog:"):
        raise InvalidInputError("stream id: names that begin with 'ctxlog:' are the log's own; nothing was appended")
    return stream_id


def check_agent_id(agent_id: str) -> str:
    """Return `agent_id` if a writer may use it. Raises `InvalidInputError`."""
    check_id("agent id", agent_id)
    if "/" in agent_id or agent_id in RESERVED_AGENTS:
        raise InvalidInputError(
            "agent id: expected a name without '/', other than 'shared' and 'decisions'; nothing was appended"
        )
    return agent_id


def check_actor(actor: str) -> str:
    """Return `actor` if it reads `agent:|person:|tool:|system:` + id. Raises `InvalidInputError`."""
    check_id("actor", actor)
    kind, _, name = actor.partition(":")
    if kind not in ACTOR_KINDS or not name:
        raise InvalidInputError(f"actor: expected one of {', '.join(k + ':ID' for k in ACTOR_KINDS)}; nothing was appended")
    return actor


def agent_of(stream_id: str) -> str | None:
    """The agent that owns a stream by the naming convention; None for `shared/…` and for streams without such an agent.

    `refunds/case-1` and `refunds` belong to `refunds`, `decisions/refunds` to `refunds`.
    """
    first, _, rest = stream_id.partition("/")
    if first == "shared":
        return None
    agent = rest if first == "decisions" else first
    return agent if agent and "/" not in agent and agent not in RESERVED_AGENTS else None

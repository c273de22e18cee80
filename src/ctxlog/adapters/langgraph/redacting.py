"""What is restored of messages whose text was taken out of the context: their place, and nothing that they said."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from langchain_core import messages as lc
from langgraph.types import Send

REDACTED = "[redacted]"
"""What such a message says: providers refuse one that says nothing."""

_KEPT = ("name", "id", "tool_call_id", "status", "role", "tool_calls")
_TOLD = (*_KEPT, "content", "type")


def without_text(message: lc.BaseMessage) -> lc.BaseMessage:
    """A message of the same kind, with its ids and calls, and nothing else that its author or a provider wrote."""
    fields = type(message).model_fields
    return type(message)(content=REDACTED, **{name: getattr(message, name) for name in _KEPT if name in fields})


def without_texts(value: Any, said: Collection[Any], *, alone: bool = False) -> Any:
    """A value without the messages in it that say exactly what was redacted.

    Args:
        value: Any value of LangGraph; a message in it may stand as an object, as `("user", text)` or as a dictionary.
        said: What the redacted messages said: texts, or lists of parts.
        alone: Whether a text that stands by itself is a message too, as where a graph is given one.
    """
    if isinstance(value, lc.BaseMessage):
        return without_text(value) if _is_said(value.content, said) else value
    if isinstance(value, Send):
        sent = copy.copy(value)
        sent.arg = without_texts(value.arg, said)
        return sent
    if isinstance(value, dict):
        if _is_said(value.get("content"), said):
            return {name: REDACTED if name == "content" else value[name] for name in value if name in _TOLD}
        return {name: without_texts(item, said, alone=alone) for name, item in value.items()}
    if type(value) in (list, tuple) and len(value) == 2 and isinstance(value[0], str) and _is_said(value[1], said):
        return type(value)((value[0], REDACTED))
    if type(value) in (list, tuple):
        return type(value)(without_texts(item, said, alone=alone) for item in value)
    return REDACTED if alone and isinstance(value, str) and value in said else value


def _is_said(content: Any, said: Collection[Any]) -> bool:
    return isinstance(content, str | list) and content in said

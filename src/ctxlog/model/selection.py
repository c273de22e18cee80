"""Selections: which part of a context a model gets to see, and the part itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ctxlog.errors import InvalidInputError
from ctxlog.model.state import ContextState, Fact, Message, ToolCall

REDACTED = "[redacted]"
"""What a model sees in place of a redacted text; providers refuse messages without any."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked for. None means no limit.

    Attributes:
        max_messages: The newest messages, at most so many. A tool result whose call falls outside is left out, because
            providers refuse it.
        scopes: Only what was written for one of these scopes.
        fact_prefixes: Only facts whose key begins with one of these.
        max_tokens: The newest messages that fit, by the token counter.
    """

    max_messages: int | None = None
    scopes: Sequence[str] | None = None
    fact_prefixes: Sequence[str] | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_messages", "max_tokens"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise InvalidInputError(f"{name}: expected a whole number from 0, found {value!r}")
        for name in ("scopes", "fact_prefixes"):
            if isinstance(getattr(self, name), str):
                raise InvalidInputError(f"{name}: expected a list of texts, found one text")


class TokenCounter(NamedTuple):
    """Counts the tokens of a text; name and version are recorded with what it selected."""

    name: str
    version: str
    count: Callable[[str], int]


APPROXIMATE_TOKENS = TokenCounter("characters/4", "1", lambda text: (len(text) + 3) // 4)
"""Four characters a token: no tokenizer to install, the same everywhere, right within a third for English text."""


@dataclass(frozen=True, slots=True)
class Window:
    """What was selected from a context.

    Attributes:
        stream_id, version, chain_head: The state that it was selected from.
        messages: Oldest first.
        facts: By key, without those expired at `judged_at`.
        tool_calls: The calls that the messages ask for or answer, by id.
        judged_at: The instant at which expiry was judged, µs since 1970 UTC.
        tokens: Tokens of the messages, by `token_counter`.
    """

    stream_id: str
    version: int
    chain_head: str
    messages: tuple[Message, ...]
    facts: dict[str, Fact]
    tool_calls: dict[str, ToolCall]
    judged_at: int
    tokens: int
    token_counter: str

    def as_openai(self) -> list[dict[str, Any]]:
        """The messages in the form of OpenAI's chat completions, calls and results included. Facts are not among them."""
        return [self._openai(message) for message in self.messages]

    def _openai(self, message: Message) -> dict[str, Any]:
        content: Any = message.content
        if message.redacted_by is not None:
            content = REDACTED
        elif message.parts is not None:
            content = _list_of_parts(message.parts) or message.parts  # Providers take a list of parts, or text.
        out: dict[str, Any] = {"role": message.role, "content": content}
        if message.name is not None:
            out["name"] = message.name
        calls = [(call_id, self.tool_calls[call_id]) for call_id in message.tool_calls if call_id in self.tool_calls]
        if calls:
            out["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call_id, call in calls
            ]
        if message.tool_call_id is not None:
            out["tool_call_id"] = message.tool_call_id
        return out


def select(state: ContextState, selection: Selection, *, judged_at: int, counter: TokenCounter = APPROXIMATE_TOKENS) -> Window:
    """Select from a state.

    Args:
        state: The state.
        selection: What is asked for.
        judged_at: The instant at which expiry is judged, µs since 1970 UTC.
        counter: Counts tokens.
    """
    scopes = None if selection.scopes is None else frozenset(selection.scopes)
    messages = [message for message in state.messages if scopes is None or message.scope in scopes]
    if selection.max_messages is not None:
        messages = messages[len(messages) - min(len(messages), selection.max_messages) :]
    sizes = [_tokens(message, state, counter) for message in messages]
    if selection.max_tokens is not None:
        while messages and sum(sizes) > selection.max_tokens:
            del messages[0], sizes[0]
    asked = {call_id for message in messages for call_id in message.tool_calls}
    kept = [
        (message, size)
        for message, size in zip(messages, sizes, strict=True)
        if message.tool_call_id is None or message.tool_call_id in asked or not _asked_by_message(state, message.tool_call_id)
    ]
    facts = {
        key: fact
        for key, fact in state.facts.items()
        if (scopes is None or fact.scope in scopes)
        and (selection.fact_prefixes is None or key.startswith(tuple(selection.fact_prefixes)))
        and (fact.expires_at is None or fact.expires_at > judged_at)
    }
    named = asked | {message.tool_call_id for message, _ in kept if message.tool_call_id is not None}
    return Window(
        state.stream_id,
        state.version,
        state.chain_head,
        tuple(message for message, _ in kept),
        facts,
        {call_id: call for call_id, call in state.tool_calls.items() if call_id in named},
        judged_at,
        sum(size for _, size in kept),
        f"{counter.name}:{counter.version}",
    )


def _list_of_parts(text: str) -> list[Any] | None:
    """The parts, where the text is a JSON list; no reader has checked that it is JSON at all."""
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parts if isinstance(parts, list) else None


def _asked_by_message(state: ContextState, call_id: str) -> bool:
    call = state.tool_calls.get(call_id)
    return call is not None and call.message_id is not None


def _tokens(message: Message, state: ContextState, counter: TokenCounter) -> int:
    texts = [message.content or "", message.parts or ""]
    for call_id in message.tool_calls:
        call = state.tool_calls.get(call_id)
        if call is not None:
            texts += (call.name, call.arguments)
    return sum(counter.count(text) for text in texts if text)

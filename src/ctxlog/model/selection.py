"""Selections: which part of a context a model gets to see, and the part itself.

Providers refuse a request in which a call is not followed by its result, or a result does not follow its call. So a call
and its result are shown together or not at all, and a selection counts what is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypedDict

from ctxlog.errors import InvalidInputError
from ctxlog.model.jsontext import json_text
from ctxlog.model.state import ContextState, Fact, Message, ToolCall

REDACTED = "[redacted]"
"""What a model sees in place of a redacted text; providers refuse messages without any."""


_SPAN = re.compile(r"([0-9]{1,9})([wdhms])")
_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SPAN_MAX = 2**52  # µs: 142 years, so that its beginning is a time that every reader of JSON carries.


class SelectionOptions(TypedDict, total=False):
    """The members of a `Selection` that are about one context, as arguments."""

    max_messages: int | None
    scopes: Sequence[str] | None
    fact_prefixes: Sequence[str] | None
    max_tokens: int | None
    last: timedelta | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is asked for. None means no limit.

    Attributes:
        streams: Of which contexts, where several are asked for: their names, or shell patterns as in `ContextLog.streams`. All
            else is for each of them.
        max_messages: The newest messages, at most so many. A tool result whose call falls outside is left out, because
            providers refuse it.
        scopes: Only what was written for one of these scopes, results of calls included.
        fact_prefixes: Only facts whose key begins with one of these.
        max_tokens: The newest messages that fit as a model gets to see them, by the token counter.
        last: The messages from the first one on that occurred within this time: a `timedelta`, or text as `30d` or `12h`
            (units w, d, h, m, s).
    """

    streams: Sequence[str] | None = None
    max_messages: int | None = None
    scopes: Sequence[str] | None = None
    fact_prefixes: Sequence[str] | None = None
    max_tokens: int | None = None
    last: timedelta | str | None = None

    def __post_init__(self) -> None:
        for name in ("max_messages", "max_tokens"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise InvalidInputError(f"{name}: expected a whole number from 0, found {value!r}")
        for name in ("streams", "scopes", "fact_prefixes"):
            if isinstance(getattr(self, name), str):
                raise InvalidInputError(f"{name}: expected a list of texts, found one text")
        if self.last is not None:
            _span(self.last)

    def for_scope(self, scope: str) -> bool:
        """Whether what was written for a scope may be shown."""
        return self.scopes is None or scope in self.scopes

    def asks_for(self, key: str) -> bool:
        """Whether a fact of this key is asked for."""
        return self.fact_prefixes is None or key.startswith(tuple(self.fact_prefixes))

    def since(self, judged_at: int) -> int | None:
        """From when on messages are asked for, µs since 1970 UTC."""
        return None if self.last is None else judged_at - _span(self.last)

    def as_json(self, judged_at: int) -> str:
        """What is asked for as JSON text, with absolute bounds: `occurred_from`, in µs, for `last`. None is left out."""
        members = {
            "fact_prefixes": None if self.fact_prefixes is None else list(self.fact_prefixes),
            "max_messages": self.max_messages,
            "max_tokens": self.max_tokens,
            "occurred_from": self.since(judged_at),
            "scopes": None if self.scopes is None else list(self.scopes),
            "streams": None if self.streams is None else list(self.streams),
        }
        return json_text({name: value for name, value in members.items() if value is not None})


def _span(last: timedelta | str) -> int:
    """A span of time in µs. Raises `InvalidInputError`."""
    micros = None
    if isinstance(last, timedelta):
        micros = last // timedelta(microseconds=1)
    elif (found := _SPAN.fullmatch(str(last))) is not None:
        micros = int(found[1]) * _UNITS[found[2]] * 1_000_000
    if micros is None or not 0 <= micros <= _SPAN_MAX:
        raise InvalidInputError(f"last: expected a timedelta, or text as 30d or 12h (units w, d, h, m, s), found {last!r}")
    return micros


class TokenCounter(NamedTuple):
    """Counts the tokens of a text; name and version, short texts, are recorded with what it selected."""

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
        tool_calls: The calls that the messages ask for or answer, by id; without a result that other scopes may not see.
        judged_at: The instant at which expiry was judged, µs since 1970 UTC.
        tokens: Tokens of the messages as `as_openai` shows them, by `token_counter`.
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
        """The messages in the form of OpenAI's chat completions, calls and results included. Facts are not among them.

        The API takes a call only where its result follows directly, and a result only where it follows its call. So:

        - a result stands directly after the message that asked for it, before what was said in between;
        - a call that has no result here (it is still open, or the result was not selected) is left out, and with it a
          message that holds nothing else;
        - a call that no message asked for stands in an assistant message of its own, before its result;
        - of several results of one call, as after a retry, the newest counts;
        - a message of role `tool` that answers no known call is left out.

        `messages` and `tool_calls` have what is left out here.
        """
        return [shown for turn in _turns(self.messages, self.tool_calls) for shown in turn.as_openai()]


class _Turn(NamedTuple):
    """A message and the results that it brought, as they are shown together. No message: a call that none asked for."""

    first: int
    message: Message | None
    answered: dict[str, tuple[ToolCall, Message]]

    def as_openai(self) -> Iterator[dict[str, Any]]:
        message = self.message
        order = self.answered if message is None else [call_id for call_id in message.tool_calls if call_id in self.answered]
        calls = [(call_id, *self.answered[call_id]) for call_id in order]
        if message is not None and message.role == "assistant" and message.tool_calls and not calls and not _text(message):
            return
        out: dict[str, Any] = {"role": "assistant", "content": None} if message is None else _openai(message)
        if calls:
            out["content"] = out["content"] or None
            out["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call_id, call, _ in calls
            ]
        yield out
        for call_id, _, result in calls:
            yield {**_openai(result), "tool_call_id": call_id}

    def tokens(self, counter: TokenCounter) -> int:
        """Tokens of all that is shown."""
        texts = [] if self.message is None else [_text(self.message)]
        for call, result in self.answered.values():
            texts += (call.name, call.arguments, _text(result))
        return sum(counter.count(text) for text in texts if text)


def _turns(messages: Sequence[Message], calls: Mapping[str, ToolCall]) -> list[_Turn]:
    """What is shown of the messages, by where it begins among them."""
    newest = {message.tool_call_id: message.id for message in messages if message.role == "tool"}
    turns: list[_Turn] = []
    asked: dict[str, _Turn] = {}
    for index, message in enumerate(messages):
        if message.role != "tool":
            turn = _Turn(index, message, {})
            turns.append(turn)
            if message.role == "assistant":  # Nobody else may ask, by the API; a call that points elsewhere stands alone.
                asked.update((call_id, turn) for call_id in message.tool_calls)
            continue
        call_id = message.tool_call_id
        call = None if call_id is None else calls.get(call_id)
        if call_id is None or call is None or newest[call_id] != message.id:
            continue
        asking = asked.get(call_id)
        if asking is None:
            asking = _Turn(index, None, {})
            turns.append(asking)
        asking.answered[call_id] = call, message
    return turns


def select(state: ContextState, selection: Selection, *, judged_at: int, counter: TokenCounter = APPROXIMATE_TOKENS) -> Window:
    """Select from a state.

    Args:
        state: The state.
        selection: What is asked for.
        judged_at: The instant at which expiry is judged, µs since 1970 UTC.
        counter: Counts tokens.
    """
    scopes = None if selection.scopes is None else frozenset(selection.scopes)
    calls, messages = state.tool_calls, list(state.messages)
    if scopes is not None:
        messages = [message for message in messages if message.scope in scopes]
        hidden = {message.id for message in state.messages if message.scope not in scopes}
        calls = {
            call_id: call._replace(result=None, result_parts=None) if call.result_id in hidden else call
            for call_id, call in calls.items()
            if call.scope in scopes
        }
    since = selection.since(judged_at)
    if since is not None:
        # A message without a time is as old as those around it.
        recent = (i for i, message in enumerate(messages) if message.occurred_at is not None and message.occurred_at >= since)
        messages = messages[next(recent, len(messages)) :]
    if selection.max_messages is not None:
        messages = messages[len(messages) - min(len(messages), selection.max_messages) :]
    messages = _whole(state, messages, calls)
    turns = _turns(messages, calls)
    tokens, first = 0, len(turns)
    for turn in reversed(turns):
        size = turn.tokens(counter)
        if selection.max_tokens is not None and tokens + size > selection.max_tokens:
            break
        tokens, first = tokens + size, first - 1
    if first:
        messages = _whole(state, messages[turns[first].first if first < len(turns) else len(messages) :], calls)
    facts = {
        key: fact
        for key, fact in state.facts.items()
        if (scopes is None or fact.scope in scopes)
        and selection.asks_for(key)
        and (fact.expires_at is None or fact.expires_at > judged_at)
    }
    named = {call_id for message in messages for call_id in (*message.tool_calls, message.tool_call_id)}
    return Window(
        state.stream_id,
        state.version,
        state.chain_head,
        tuple(messages),
        facts,
        {call_id: call for call_id, call in calls.items() if call_id in named},
        judged_at,
        tokens,
        f"{counter.name}:{counter.version}",
    )


def _whole(state: ContextState, messages: Sequence[Message], calls: Mapping[str, ToolCall]) -> list[Message]:
    """The messages without the results whose call was asked for outside of them, or may not be seen."""
    outside = _asked(state.messages) - _asked(messages) | state.tool_calls.keys() - calls.keys()
    return [message for message in messages if message.role != "tool" or message.tool_call_id not in outside]


def _asked(messages: Sequence[Message]) -> set[str | None]:
    return {call_id for message in messages if message.role == "assistant" for call_id in message.tool_calls}


def _openai(message: Message) -> dict[str, Any]:
    out = {"role": message.role, "content": _content(message)}
    return out if message.name is None else {**out, "name": message.name}


def _text(message: Message) -> str:
    """The content as it is counted."""
    if message.redacted_by is not None:
        return REDACTED
    return message.content or "" if message.parts is None else message.parts


def _content(message: Message) -> Any:
    """The content as providers take it: a list of parts, or text."""
    text = _text(message)
    if message.redacted_by is not None or message.parts is None:
        return text
    return _list_of_parts(text) or text


def _list_of_parts(text: str) -> list[Any] | None:
    """The parts, where the text is a JSON list; no reader has checked that it is JSON at all."""
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parts if isinstance(parts, list) else None

"""What a read took from a context: ids of what was revealed, and of what was withheld; and the way back, from ids to content.

The way back selects nothing: what was revealed is what the read says. A state is asked only for what stands under these ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ctxlog.errors import InvalidInputError
from ctxlog.model.selection import Selection, TokenCounter, Window, select
from ctxlog.model.state import ContextState, Fact, Message, ToolCall

IDS_BYTES_MAX = 512 * 1024
"""Ids that one record names; half of what a record may hold."""


class Taken(NamedTuple):
    """Ids of what was revealed and withheld: messages, calls, and the events that set facts."""

    revealed: tuple[str, ...]
    withheld: tuple[str, ...]


def taken(state: ContextState, selection: Selection, window: Window, counter: TokenCounter) -> list[Taken]:
    """What a window took from a state, in pieces that fit into one record each.

    Revealed are messages, the calls that they name, and facts. Withheld is what the same selection without `scopes` would have
    shown beside them, and the facts it asks for that had expired.
    """
    revealed = [message.id for message in window.messages]
    revealed += window.tool_calls
    revealed += [fact.event_id for fact in window.facts.values()]
    revealed = list(dict.fromkeys(revealed))
    wide = window
    if selection.scopes is not None:
        wide = select(state, replace(selection, scopes=None), judged_at=window.judged_at, counter=counter)
    # Without scopes, the limits fall elsewhere: what is older than they let through was not kept back for its scope.
    hidden = [message.id for message in wide.messages if not selection.for_scope(message.scope)]
    hidden += [call_id for call_id, call in wide.tool_calls.items() if not selection.for_scope(call.scope)]
    hidden += [fact.event_id for key, fact in state.facts.items() if selection.asks_for(key) and key not in window.facts]
    seen = set(revealed)
    return list(_pieces(revealed, [event_id for event_id in dict.fromkeys(hidden) if event_id not in seen]))


def _pieces(revealed: Sequence[str], withheld: Sequence[str]) -> Iterator[Taken]:
    """Both in pieces of at most `IDS_BYTES_MAX`; one piece at least."""
    parts: tuple[list[str], list[str]] = [], []
    size = 0
    for part, ids in enumerate((revealed, withheld)):
        for event_id in ids:
            more = len(event_id.encode()) + 3  # with its length before it
            if size + more > IDS_BYTES_MAX:
                yield Taken(tuple(parts[0]), tuple(parts[1]))
                parts, size = ([], []), 0
            parts[part].append(event_id)
            size += more
    yield Taken(tuple(parts[0]), tuple(parts[1]))


class Asked(NamedTuple):
    """What a recorded read asked for, as far as it says what was released: a whole state, or a part."""

    everything: bool
    scopes: frozenset[str] | None
    fact_prefixes: tuple[str, ...] | None

    def hides(self, scope: str) -> bool:
        """Whether what was written for a scope is kept back."""
        return self.scopes is not None and scope not in self.scopes

    def gives(self, key: str, fact: Fact, judged_at: int) -> bool:
        """Whether a fact is asked for and not kept back."""
        return self.asks_for(key) and not self.hides(fact.scope) and (fact.expires_at is None or fact.expires_at > judged_at)

    def asks_for(self, key: str) -> bool:
        """Whether a fact of this key is asked for."""
        return self.fact_prefixes is None or key.startswith(self.fact_prefixes)


def asked(selection: str) -> Asked:
    """What the text `selection` of a recorded read asks for. Raises `InvalidInputError` where it says nothing of the kind."""
    try:
        found = json.loads(selection)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInputError("the selection is no JSON object")
    if "all" in found:
        if found != {"all": True}:
            raise InvalidInputError("the selection asks for a whole state and for something else")
        return Asked(True, None, None)
    lists: dict[str, Any] = {name: found.get(name) for name in ("scopes", "fact_prefixes")}
    for name, value in lists.items():
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise InvalidInputError(f"{name} of the selection is no list of texts")
    scopes, prefixes = lists["scopes"], lists["fact_prefixes"]
    return Asked(False, None if scopes is None else frozenset(scopes), None if prefixes is None else tuple(prefixes))


@dataclass(frozen=True, slots=True)
class Released:
    """What a recorded read gave of a state, as it is stored: what `selection_digest` is over.

    Attributes:
        stream_id, version, chain_head: The state that it is of.
        messages: Oldest first.
        facts, tool_calls: By key, and by id.
    """

    stream_id: str
    version: int
    chain_head: str
    messages: Sequence[Message]
    facts: Mapping[str, Fact]
    tool_calls: Mapping[str, ToolCall]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of what was given."""
        return {
            "messages": [message.to_dict() for message in self.messages],
            "facts": {key: fact.to_dict() for key, fact in self.facts.items()},
            "tool_calls": {key: call.to_dict() for key, call in self.tool_calls.items()},
        }


READINGS_MAX = 16
"""Ways to read ids that stand for two things, which a log may be full of, that are tried."""


def released(state: ContextState, selection: Asked, revealed: Sequence[str], judged_at: int) -> Iterator[Released]:
    """What a read gave of the state that it read, by the ids that it recorded as revealed.

    Nearly always one answer. An id may stand for two things, as a call's id is free, and a fork may use an id of its parent
    again: then there is one answer for each way to read it, and the digest that the read recorded says which is right.
    """
    place = state.stream_id, state.version, state.chain_head
    if selection.everything:
        yield Released(*place, state.messages, state.facts, state.tool_calls)
        return
    ids, index = frozenset(revealed), {message.id: number for number, message in enumerate(state.messages)}
    setters = {fact.event_id for fact in state.facts.values()}
    double = {one for one in ids if (one in index) + (one in state.tool_calls) + (one in setters) > 1}
    hidden = {message.id for message in state.messages if selection.hides(message.scope)}
    for shown in _leading(revealed, index, double) if double else (ids,):
        messages = tuple(message for message in state.messages if message.id in shown)
        named = {call_id for message in messages for call_id in (*message.tool_calls, message.tool_call_id)}
        calls = {
            call_id: call._replace(result=None, result_parts=None) if call.result_id in hidden else call
            for call_id, call in state.tool_calls.items()
            if call_id in ids and (call_id not in double or (call_id in named and not selection.hides(call.scope)))
        }
        facts = {
            key: fact
            for key, fact in state.facts.items()
            if fact.event_id in ids and (fact.event_id not in double or selection.gives(key, fact, judged_at))
        }
        yield Released(*place, messages, facts, calls)


def _leading(revealed: Sequence[str], index: Mapping[str, int], double: Set[str]) -> Iterator[frozenset[str]]:
    """The ids that may be those of the messages given: they stand first, in their order. The longest row first."""
    found: list[str] = []
    for one in revealed:
        if one not in index or (found and index[one] <= index[found[-1]]):
            break
        found.append(one)
    for _ in range(READINGS_MAX):
        yield frozenset(found)
        if not found or found.pop() not in double:
            return

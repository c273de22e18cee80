"""What a read took from a context: ids of what was revealed, and of what was withheld."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ctxlog.model.selection import Selection, TokenCounter, Window, select
from ctxlog.model.state import ContextState

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

"""Windows: what a model gets to see of a context, or of several; a decision that is being made notes it.

Of several contexts each is read by itself, as it is when its turn comes: between streams there is no order. Expiry is judged at
one instant for all of them, and a read is noted for each, with the names of all.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ctxlog.client.deciding import current
from ctxlog.errors import InvalidInputError
from ctxlog.model.ids import broken_rule, check_stream_id
from ctxlog.model.selection import Selection, SelectionOptions, TokenCounter, Window, select

if TYPE_CHECKING:
    from ctxlog.client.log import ContextLog

STREAMS_MAX = 100
"""Contexts in one selection. Each read names all of them, so what is recorded grows with the square."""

_WILD = frozenset("*?[")


def window(
    owner: ContextLog, stream_id: str, selection: Selection | None, options: SelectionOptions, counter: TokenCounter
) -> Window:
    """See `Context.window`."""
    if selection is None:
        selection = Selection(**options)
    elif options:
        raise InvalidInputError(f"window: expected a selection or {', '.join(sorted(options))}, found both; nothing was read")
    _check(selection, counter)
    if selection.streams is not None:
        raise InvalidInputError(
            f"streams: this is the context {stream_id!r} alone; nothing was read. Ask `log.window(selection)`, or "
            "`decision.read(selection)`, for several."
        )
    return _windows(owner, [stream_id], selection, counter)[stream_id]


def windows(owner: ContextLog, selection: Selection, counter: TokenCounter) -> dict[str, Window]:
    """See `ContextLog.window`."""
    _check(selection, counter)
    names = _names(owner, selection)
    return _windows(owner, names, replace(selection, streams=names), counter)


def _check(selection: object, counter: object) -> None:
    if not isinstance(selection, Selection):
        raise InvalidInputError(f"selection: expected a Selection, found {type(selection).__name__}; nothing was read")
    name, version = getattr(counter, "name", None), getattr(counter, "version", None)
    if name is None or version is None or not callable(getattr(counter, "count", None)):
        raise InvalidInputError(
            f"counter: expected a TokenCounter(name, version, count), found {type(counter).__name__}; nothing was read"
        )
    # A read that cannot be recorded would be in the way of all that is appended after it.
    for what, value in (("name", name), ("version", version)):
        if (rule := broken_rule(value)) is not None:
            raise InvalidInputError(f"counter: its {what}: {rule}; nothing was read")


def _windows(owner: ContextLog, names: list[str], selection: Selection, counter: TokenCounter) -> dict[str, Window]:
    judged_at = time.time_ns() // 1000
    states = [owner._state(name) for name in names]
    found = {state.stream_id: select(state, selection, judged_at=judged_at, counter=counter) for state in states}
    decision = current(owner)
    if decision is not None:
        for state in states:
            decision.note_window(state, found[state.stream_id], selection, counter)
    return found


def _names(owner: ContextLog, selection: Selection) -> list[str]:
    """The streams that are meant, in the order in which they are asked for, and by name within a pattern."""
    if selection.streams is None:
        raise InvalidInputError("streams: expected names or patterns of streams, found none; nothing was read")
    names: dict[str, None] = {}
    for asked in selection.streams:
        name = check_stream_id(asked)
        names.update(dict.fromkeys([name] if _WILD.isdisjoint(name) else owner.matching(name)))
    if len(names) > STREAMS_MAX:
        raise InvalidInputError(f"streams: expected at most {STREAMS_MAX}, found {len(names):,}; nothing was read")
    return list(names)

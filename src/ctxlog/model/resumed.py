"""What somebody who goes on with a context finds: its state, and what was begun and not ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ctxlog.model.records import EventRecord
from ctxlog.model.state import ContextState, ToolCall


class OpenCall(NamedTuple):
    """A call that was begun and has no result.

    Attributes:
        call_id: Its id; the key, where `tool_once` made it.
        call: The call, with the lease that was taken on it, if one was.
        held: Whether that lease had not ended at the instant of judgement. A call without a lease is held by nobody.
    """

    call_id: str
    call: ToolCall
    held: bool


@dataclass(frozen=True, slots=True)
class OpenAppend:
    """An append of several events of which the log has only some. None of them has an effect.

    Attributes:
        append_id: Id of the append, and of its first event.
        count: How many events it has in all.
        events: Those that are there, by index.
    """

    append_id: str
    count: int
    events: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a context stands, for whoever goes on with it.

    Attributes:
        state: The last valid state: all accepted events, and nothing of what was cut off.
        judged_at: The instant at which leases were judged, µs since 1970 UTC.
        open_calls: Calls begun and not answered, in the order in which they were begun.
        open_appends: Appends of which the log has a part, the one begun earliest first.
    """

    state: ContextState
    judged_at: int
    open_calls: tuple[OpenCall, ...]
    open_appends: tuple[OpenAppend, ...]

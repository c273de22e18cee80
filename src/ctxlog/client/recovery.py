"""Going on after a crash: the last valid state, and what was begun and not ended.

Nothing is repaired here, because nothing is broken: an append that was cut off has no effect, be it for ever. What remains to be
known is which calls have no result, and of which appends the log has a part.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ctxlog.client.deciding import note_state
from ctxlog.model.resumed import OpenAppend, OpenCall, Resumed
from ctxlog.model.state import ContextState, ToolCall
from ctxlog.replay.replayer import StreamCursor

if TYPE_CHECKING:
    from ctxlog.client.context import Context


def resume(context: Context) -> Resumed:
    """What is there to go on from; leases are judged now."""
    state, open_appends = context._owner._look(context.stream_id, _taken)
    note_state(context._owner, state)
    judged_at = time.time_ns() // 1000
    open_calls = tuple(
        OpenCall(call_id, call, is_held(call, judged_at)) for call_id, call in state.tool_calls.items() if call.status == "open"
    )
    return Resumed(state, judged_at, open_calls, open_appends)


def is_held(call: ToolCall, judged_at: int) -> bool:
    """Whether somebody holds a lease on an open call at an instant, µs since 1970 UTC."""
    return call.lease is not None and call.lease.expires_at > judged_at


def _taken(cursor: StreamCursor) -> tuple[ContextState, tuple[OpenAppend, ...]]:
    fold = cursor.fold
    open_appends = tuple(
        OpenAppend(append_id, opened.count, tuple(event for _, event in sorted(opened.held.items())))
        for append_id, opened in fold.arbiter.open.items()
    )
    return fold.state(), open_appends

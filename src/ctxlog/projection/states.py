"""States as the views give them, for comparison with what a replay gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxlog.model.state import ContextState, Fact, Lease, Message, Parent, ToolCall

if TYPE_CHECKING:
    import duckdb


def state_of(connection: duckdb.DuckDBPyConnection, stream_id: str) -> ContextState | None:
    """The current state of a stream by `streams`, `messages`, `facts` and `tool_calls`; None where they do not have it.

    Of a fork it is what the fork itself holds.
    """
    stream = connection.execute(
        "SELECT version, chain_head, closed, parent_stream_id, parent_version, parent_chain_head FROM streams "
        "WHERE stream_id = ?",
        [stream_id],
    ).fetchone()
    if stream is None:
        return None
    version, head, closed, *parent = stream
    messages = connection.execute(
        "SELECT message_id, role, content, parts, name, tool_calls, tool_call_id, scope, epoch_us(occurred_at), redacted_by "
        "FROM messages WHERE stream_id = ? ORDER BY position",
        [stream_id],
    ).fetchall()
    facts = connection.execute(
        "SELECT key, value, scope, epoch_us(valid_from), epoch_us(valid_to), epoch_us(expires_at), event_id FROM facts "
        "WHERE stream_id = ?",
        [stream_id],
    ).fetchall()
    calls = connection.execute(
        "SELECT call_id, name, arguments, state, result, result_parts, result_id, message_id, source_id, idempotency_key, "
        "lease_event_id, epoch_us(lease_expires_at), scope FROM tool_calls WHERE stream_id = ? ORDER BY version",
        [stream_id],
    ).fetchall()
    return ContextState(
        stream_id,
        version,
        head,
        closed,
        None if parent[0] is None else Parent(*parent),
        tuple(Message._make((*row[:5], tuple(row[5]), *row[6:])) for row in messages),
        {key: Fact(*row) for key, *row in facts},
        {
            call_id: ToolCall._make((*row[:9], None if lease_id is None else Lease(lease_id, expires_at), scope))
            for call_id, *row, lease_id, expires_at, scope in calls
        },
    )

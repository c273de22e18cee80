"""States as the views give them, for comparison with what a replay gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxlog.model.state import ContextState, Fact, Lease, Message, Parent, ToolCall

if TYPE_CHECKING:
    import duckdb


_MESSAGE = "message_id, role, content, parts, name, tool_calls, tool_call_id, scope, epoch_us(occurred_at), redacted_by"
_FACT = "key, value, scope, epoch_us(valid_from), epoch_us(valid_to), epoch_us(expires_at), event_id"
_CALL = (
    "call_id, name, arguments, state, result, result_parts, result_id, message_id, source_id, idempotency_key, scope, "
    "lease_event_id, epoch_us(lease_expires_at)"
)


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
    of = "WHERE stream_id = ?"
    return _state(
        stream_id,
        stream,
        connection.execute(f"SELECT {_MESSAGE} FROM messages {of} ORDER BY position", [stream_id]).fetchall(),
        connection.execute(f"SELECT {_FACT} FROM facts {of}", [stream_id]).fetchall(),
        connection.execute(f"SELECT {_CALL} FROM tool_calls {of}", [stream_id]).fetchall(),
    )


def state_at(connection: duckdb.DuckDBPyConnection, stream_id: str, version: int) -> ContextState:
    """The state of a stream at a version by the macros of `asof.py`; of a fork, with what it has of its parent.

    Raises:
        duckdb.Error: The views do not have it: the stream has no such version, or is a fork of what they do not have.
    """
    stream = connection.execute(
        "SELECT ?, CASE WHEN ? = 0 THEN sha256('ctxlog:chain:1' || ?) ELSE max(chain_head) FILTER (version = ?) END, "
        "coalesce(bool_or(type = 'ctxlog.StreamClosed' AND anomaly IS NULL), false), max(parent_stream_id) FILTER (forked), "
        "max(parent_version) FILTER (forked), max(parent_chain_head) FILTER (forked) "
        "FROM (SELECT *, type = 'ctxlog.StreamForked' AND anomaly IS NULL AS forked FROM events "
        "WHERE stream_id = ? AND outcome = 'accepted' AND version <= ?)",
        [version, version, stream_id, version, stream_id, version],
    ).fetchone()
    asked = [stream_id, version]
    return _state(
        stream_id,
        stream or (),
        connection.execute(f"SELECT {_MESSAGE} FROM messages_at(?, ?) ORDER BY position", asked).fetchall(),
        connection.execute(f"SELECT {_FACT} FROM facts_at(?, ?)", asked).fetchall(),
        connection.execute(f"SELECT {_CALL} FROM tool_calls_at(?, ?)", asked).fetchall(),
    )


def _state(stream_id: str, stream: tuple[Any, ...], messages: list[Any], facts: list[Any], calls: list[Any]) -> ContextState:
    version, head, closed, *parent = stream
    return ContextState(
        stream_id,
        version,
        head,
        closed,
        None if parent[0] is None else Parent(*parent),
        tuple(Message._make((*row[:5], tuple(row[5]), *row[6:])) for row in messages),
        {key: Fact(*row) for key, *row in facts},
        {
            call_id: ToolCall._make((*row, None if lease_id is None else Lease(lease_id, expires_at), scope))
            for call_id, *row, scope, lease_id, expires_at in calls
        },
    )

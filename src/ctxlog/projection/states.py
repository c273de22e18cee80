"""States as the views give them, for comparison with what a replay gives."""

from __future__ import annotations

from collections.abc import Sequence
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


def states_of(connection: duckdb.DuckDBPyConnection, stream_ids: Sequence[str]) -> dict[str, ContextState]:
    """The current states of streams by `streams`, `messages`, `facts` and `tool_calls`, as far as these have them.

    Of a fork it is what the fork itself holds.
    """

    def by_stream(columns: str, view: str, order: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        rows = connection.execute(
            f"SELECT stream_id, {columns} FROM {view} "  # noqa: S608 - names of columns
            f"SEMI JOIN (SELECT unnest(?::VARCHAR[]) AS stream_id) USING (stream_id) ORDER BY {order}",
            [list(stream_ids)],
        ).fetchall()
        for stream_id, *row in rows:
            found.setdefault(stream_id, []).append(row)
        return found

    streams = by_stream(
        "version, chain_head, closed, parent_stream_id, parent_version, parent_chain_head", "streams", "stream_id"
    )
    messages = by_stream(_MESSAGE, "messages", "position")
    facts = by_stream(_FACT, "facts", "version")
    calls = by_stream(_CALL, "tool_calls", "version")
    return {
        stream_id: _state(stream_id, rows[0], messages.get(stream_id, []), facts.get(stream_id, []), calls.get(stream_id, []))
        for stream_id, rows in streams.items()
    }


def state_of(connection: duckdb.DuckDBPyConnection, stream_id: str) -> ContextState | None:
    """The current state of one stream; see `states_of`."""
    return states_of(connection, [stream_id]).get(stream_id)


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

    def asked(columns: str, macro: str, order: str) -> list[Any]:
        query = f"SELECT {columns} FROM {macro}(?, ?) ORDER BY {order}"  # noqa: S608 - names of columns
        return connection.execute(query, [stream_id, version]).fetchall()

    messages = asked(_MESSAGE, "messages_at", "position")
    return _state(stream_id, stream or (), messages, asked(_FACT, "facts_at", "key"), asked(_CALL, "tool_calls_at", "call_id"))


def _state(stream_id: str, stream: Sequence[Any], messages: list[Any], facts: list[Any], calls: list[Any]) -> ContextState:
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

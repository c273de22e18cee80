"""The tables of a view file. `events` is the only large one: wide, append-only, one row a record; what else people query is a
view over it (`views.py`).

Wide, because a column that is null costs DuckDB nothing, so each text stands once; append-only, because appending is what DuckDB
does fast. Whether an event took effect was decided by the fold (column `anomaly`), so no SQL decides it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

VIEW_VERSION = 2
"""Of tables and views together. A file of another version is made anew, never patched."""

_TEXTS = pa.list_(pa.string())
_READ = pa.struct(
    [
        ("stream_id", pa.string()),
        ("version", pa.int64()),
        ("chain_head", pa.string()),
        ("revealed", _TEXTS),
        ("withheld", _TEXTS),
    ]
)


class Column(NamedTuple):
    """A column: its name, its type in a batch, its type in DuckDB."""

    name: str
    arrow: pa.DataType
    sql: str


def _text(name: str) -> Column:
    return Column(name, pa.string(), "VARCHAR")


def _integer(name: str) -> Column:
    return Column(name, pa.int64(), "BIGINT")


def _micros(name: str) -> Column:
    return Column(name, pa.timestamp("us"), "TIMESTAMP")


def _texts(name: str) -> Column:
    return Column(name, _TEXTS, "VARCHAR[]")


COMMON = (
    Column("partition", pa.int32(), "INTEGER"),
    _integer("record_offset"),
    _micros("recorded_at"),
    _text("stream_id"),
    _text("outcome"),
    _integer("version"),
    _text("chain_head"),
    _integer("decided_offset"),
    _micros("decided_at"),
    _text("anomaly"),
    _integer("bytes"),
    _text("origin"),
)
"""Of every row."""

RECORDED_AT, OUTCOME, DECIDED_OFFSET, DECIDED_AT, ANOMALY, BYTES = 2, 4, 7, 8, 9, 10
"""Places in a row. What stands from outcome to anomaly is decided about an event, which may be after its row was made."""

META = (
    _text("event_id"),
    _text("agent_id"),
    _text("actor"),
    _micros("occurred_at"),
    _text("scope"),
    _text("target"),
    _text("append_id"),
    _integer("append_index"),
    _integer("append_count"),
    _integer("expected_version"),
    _text("expected_head"),
    _integer("expected_target_version"),
    _text("causation_id"),
    _text("correlation_id"),
)
"""Of every row that could be decoded."""

PAYLOADS: dict[str, tuple[Column, ...]] = {
    "ctxlog.MessageAppended": (_text("role"), _text("content"), _text("parts"), _text("name"), _text("tool_call_id")),
    "ctxlog.MessageRedacted": (_text("message_id"), _text("reason")),
    "ctxlog.FactSet": (_text("key"), _text("value"), _micros("valid_from"), _micros("valid_to"), _micros("expires_at")),
    "ctxlog.FactRemoved": (_text("key"),),
    "ctxlog.ToolCalled": (
        _text("call_id"),
        _text("name"),
        _text("arguments"),
        _text("message_id"),
        _text("source_id"),
        _text("idempotency_key"),
        _micros("lease_expires_at"),
    ),
    "ctxlog.ToolReturned": (
        _text("call_id"),
        Column("failed", pa.bool_(), "BOOLEAN"),
        _text("content"),
        _text("parts"),
        _text("name"),
    ),
    "ctxlog.ContextRead": (
        _text("decision_id"),
        _text("selection"),
        Column("streams", pa.list_(_READ), "STRUCT(stream_id VARCHAR, version BIGINT, chain_head VARCHAR, revealed VARCHAR[], "
               "withheld VARCHAR[])[]"),
        _micros("judged_at"),
        _text("token_counter"),
        _text("token_counter_version"),
        _text("selection_digest"),
    ),
    "ctxlog.DecisionRecorded": (
        _text("decision_id"),
        _text("kind"),
        _text("model"),
        _text("parameters"),
        _texts("reads"),
        _text("decision_outcome"),
        _text("rationale"),
        _texts("called"),
        Column("failed", pa.bool_(), "BOOLEAN"),
        _text("failure"),
        _micros("started_at"),
        _micros("ended_at"),
    ),
    "ctxlog.StreamForked": (_text("parent_stream_id"), _integer("parent_version"), _text("parent_chain_head")),
    "ctxlog.StreamClosed": (_text("reason"),),
    "ctxlog.ExtensionRecorded": (_text("name"), _text("data")),
}  # fmt: skip
"""The members of each event type. Members of one name share a column."""

MEMBERS = {"decision_outcome": "outcome", "called": "tool_calls"}
"""Columns that are not called as the member is: `outcome` is what the log decided, and `tool_calls` is a view."""

OTHER = (_text("data"),)
"""Of any other type, and of control records: their members as JSON text."""

_STREAMS = (
    _text("stream_id"),
    Column("partition", pa.int32(), "INTEGER"),
    _text("agent_id"),
    _integer("version"),
    _text("chain_head"),
    _integer("records"),
    _integer("rejected"),
    _integer("open"),
    _integer("bytes"),
    _micros("first_at"),
    _micros("last_at"),
    _integer("effect_offset"),
    _micros("effect_at"),
    Column("closed", pa.bool_(), "BOOLEAN"),
    _text("parent_stream_id"),
    _integer("parent_version"),
    _text("parent_chain_head"),
    _text("newer"),
)


def schema_of(columns: tuple[Column, ...]) -> pa.Schema:
    """The form of a batch with these columns."""
    return pa.schema([(column.name, column.arrow) for column in columns])


CONTROL_TYPE = "ctxlog:control"
"""Begins the type of control records, as their key is spelled: no event type can be called so."""
UNDECODABLE = schema_of(COMMON)
STREAMS = schema_of(_STREAMS)
DECISION = schema_of(COMMON[OUTCOME : ANOMALY + 1])
DECIDED = pa.schema([("partition", pa.int32()), ("record_offset", pa.int64()), *DECISION])
"""What becomes of rows that are there already."""


def event_schema(type_name: str) -> pa.Schema:
    """The form of a batch of one event type; the type itself is added when the batch is stored."""
    return schema_of((*COMMON, *META, *PAYLOADS.get(type_name, OTHER)))


CONTROL_SCHEMA = schema_of((*COMMON, *OTHER))


def columns_of_events() -> dict[str, str]:
    """All columns of `events` with their types, in their order."""
    found = {column.name: column.sql for column in COMMON}
    found["type"] = "VARCHAR"
    for columns in (META, *PAYLOADS.values(), OTHER):
        for column in columns:
            found.setdefault(column.name, column.sql)
    return found


def _table(name: str, columns: dict[str, str]) -> str:
    return f"CREATE TABLE {name} ({', '.join(f'{column} {kind}' for column, kind in columns.items())});\n"


TABLES = (
    _table("events", columns_of_events())
    + _table("streams", {column.name: column.sql for column in _STREAMS})
    + """
CREATE SCHEMA projection;
CREATE TABLE projection.file (log_id VARCHAR, partitions INTEGER, rules INTEGER, fold_version INTEGER, view_version INTEGER);
CREATE TABLE projection.progress (partition INTEGER, next_offset BIGINT, last_offset BIGINT, last_digest BLOB, end_offset BIGINT,
    last_at TIMESTAMP, applied_at TIMESTAMP);
CREATE TABLE projection.controls (partition INTEGER, record_offset BIGINT, recorded_at BIGINT, key BLOB, value BLOB);
CREATE TABLE projection.publication (published_at TIMESTAMP, partition INTEGER);
CREATE TABLE projection.custom (name VARCHAR, kind VARCHAR, version VARCHAR, definition VARCHAR);
"""
)

Row = Sequence[Any]


def table_of(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Rows, of which there is one at least, as DuckDB takes them."""
    arrays = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)

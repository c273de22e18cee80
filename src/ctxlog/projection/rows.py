"""From records to rows: decode, arbitrate, fold, by the code that every other reader uses.

records up to the next control record -> events, many at once where that can be done (`columnar.py`)
    -> verdict -> effect -> a row each, and what becomes of rows that waited for it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa

from ctxlog.codec.partition import PartitionContext
from ctxlog.model.records import CONTROL_KEY, EventRecord, Record
from ctxlog.model.state import NUMBER_MAX
from ctxlog.projection.columnar import read_groups
from ctxlog.projection.streams import Stream, forget_texts
from ctxlog.projection.tables import (
    ANOMALY,
    BYTES,
    CONTROL_SCHEMA,
    CONTROL_TYPE,
    DECIDED_AT,
    DECIDED_OFFSET,
    DECISION,
    MEMBERS,
    OUTCOME,
    PAYLOADS,
    RECORDED_AT,
    UNDECODABLE,
    Row,
    event_schema,
    table_of,
)

_MEMBERS = {name: tuple(MEMBERS.get(column.name, column.name) for column in columns) for name, columns in PAYLOADS.items()}
_TIMES = {name: tuple(column.name for column in columns if column.sql == "TIMESTAMP") for name, columns in PAYLOADS.items()}
_NO_GROUP = (None, None, None)
_OPEN = ("open", None, None, None, None, None)
_DECISION = slice(OUTCOME, ANOMALY + 1)


class Batch:
    """The rows that some records amount to.

    Attributes:
        rows: By event type; `control`, and None for what could not be decoded.
        groups: Columns of events that were read together, and what is decided about each, as in `tables.DECISION`.
        decided: Rows of `tables.DECIDED`: what becomes of rows of earlier batches.
        streams: The streams that changed.
        controls: Control records, which later batches are decoded by.
        records: Number of records.
    """

    def __init__(self) -> None:
        self.rows: dict[str | None, list[Row]] = {}
        self.groups: list[tuple[pa.Table, list[Row]]] = []
        self.decided: list[Row] = []
        self.streams: dict[tuple[int, str], Stream] = {}
        self.controls: list[Record] = []
        self.records = 0
        self._waiting: dict[tuple[int, int], tuple[list[Any], int | slice]] = {}

    def take(self, context: PartitionContext, records: Sequence[Record], stream_of: Callable[[int, str], Stream]) -> None:
        """Add records of one partition, in offset order.

        Args:
            context: The control state of the partition before the first of them.
            records: The records.
            stream_of: Gives the stream of a partition by its id.
        """
        start = 0
        for place, record in enumerate(records):
            if record.key == CONTROL_KEY:
                self._take_events(context, records[start:place], stream_of)
                self._control(context, record)
                start = place + 1
        self._take_events(context, records[start:], stream_of)
        self.records += len(records)

    def table(self) -> pa.Table:
        """All rows of `events`, of which there is one at least: together, for a statement costs as much as some hundred rows."""
        found = []
        for columns, decisions in self.groups:
            if decisions:
                found.append(pa.table({**_by_name(columns), **_by_name(table_of(decisions, DECISION))}))
        for type_name, rows in self.rows.items():
            if type_name is None:
                schema = UNDECODABLE
            elif type_name.startswith(CONTROL_TYPE):
                schema = CONTROL_SCHEMA
            else:
                schema = event_schema(type_name)
            types = pa.repeat(pa.scalar(type_name, pa.string()), len(rows))
            found.append(table_of(rows, schema).append_column("type", types))
        return pa.concat_tables(found, promote_options="default")

    def _take_events(self, context: PartitionContext, records: Sequence[Record], stream_of: Callable[[int, str], Stream]) -> None:
        """Add records that are no control records."""
        partition = context.partition
        together: list[tuple[list[Row], int, EventRecord, int | None, int] | None] = [None] * len(records)
        for group in read_groups(context, records):
            decisions: list[Row] = [_OPEN] * len(group.events)
            self.groups.append((group.members, decisions))
            each = zip(repeat(decisions), range(len(decisions)), group.events, group.times, group.sizes)
            for place, told in zip(group.places, each, strict=True):
                together[place] = told
        streams: dict[bytes | None, Stream] = {}
        for record, found in zip(records, together, strict=True):
            if found is None:
                self._take_event(context, record, stream_of)
                continue
            decisions, index, event, at, size = found
            stream = streams.get(record.key)
            if stream is None:
                stream = streams[record.key] = self._stream(partition, (record.key or b"").decode(), stream_of)
            stream.note(size, at)
            arbiter = stream.arbiter
            if arbiter.take_alone(event):
                stream.effect_offset, stream.effect_at = event.offset, at
                anomaly = stream.apply(arbiter.version, event)
                decisions[index] = ("accepted", arbiter.version, arbiter.head.hex(), event.offset, at, anomaly)
            else:
                self._offer(stream, event, at, (decisions, index))

    def _take_event(self, context: PartitionContext, record: Record, stream_of: Callable[[int, str], Stream]) -> None:
        """Add a record that is no control record and was not read together with others."""
        believed = context.believed(record)
        decoded = context.decode(record)
        if isinstance(decoded, EventRecord):
            stream = self._stream(context.partition, decoded.meta["stream_id"], stream_of)  # which is its key
            row = self._row(believed, stream.arbiter.stream_id, decoded, "open")
            forget_texts(decoded)
            stream.note(row[BYTES], row[RECORDED_AT])
            self._offer(stream, decoded, row[RECORDED_AT], (row, _DECISION))
            return
        stream_id = _text_of(record.key)
        row = self._row(believed, stream_id, decoded.event, decoded.reason)
        row[DECIDED_OFFSET], row[DECIDED_AT] = record.offset, row[RECORDED_AT]
        # Under its name in another partition than its own lies nothing of a stream, nor before there is a genesis.
        if stream_id is not None and context.genesis is not None and context.places(record.key or b""):
            stream = self._stream(context.partition, stream_id, stream_of)
            stream.note(row[BYTES], row[RECORDED_AT])
            stream.rejected += 1

    def _stream(self, partition: int, stream_id: str, stream_of: Callable[[int, str], Stream]) -> Stream:
        stream = self.streams[partition, stream_id] = stream_of(partition, stream_id)
        return stream

    def _control(self, context: PartitionContext, record: Record) -> None:
        found = context.take(record)
        self.controls.append(record)
        outcome = "control" if found.void is None else "void"
        kind = CONTROL_TYPE if found.control is None else f"{CONTROL_TYPE}.{found.control.kind}"
        data = {"void": found.void} if found.control is None else found.control.data
        row = _common(context.believed(record), None, outcome)
        row[ANOMALY] = found.void
        row.append(_json(data))
        self.rows.setdefault(kind, []).append(row)

    def _row(self, record: Record, stream_id: str | None, event: EventRecord | None, outcome: str) -> list[Any]:
        """Make the row of a record."""
        row = _common(record, stream_id, outcome)
        if event is None:
            self.rows.setdefault(None, []).append(row)
            return row
        row += _meta(event.meta)
        row += _payload(event)
        self.rows.setdefault(event.type, []).append(row)
        return row

    def _offer(self, stream: Stream, event: EventRecord, at: int | None, place: tuple[list[Any], int | slice]) -> None:
        """Have an event judged, and see to those that waited for it.

        Args:
            stream: Its stream.
            event: The event.
            at: Its `recorded_at`, as the column holds it.
            place: Where its decision is to stand.
        """
        verdict = stream.arbiter.offer(event)
        self._waiting[event.partition, event.offset] = place
        for accepted in verdict.accepted:
            anomaly = stream.apply(accepted.version, accepted.event)
            self._decide(accepted.event, ("accepted", accepted.version, accepted.head.hex(), event.offset, at, anomaly))
        if verdict.accepted:
            stream.effect_offset, stream.effect_at = event.offset, at
        for rejected in verdict.rejected:
            stream.rejected += 1
            if rejected.event is not None:
                self._decide(rejected.event, (rejected.reason, None, None, event.offset, at, None))

    def _decide(self, event: EventRecord, decision: Row) -> None:
        waiting = self._waiting.pop((event.partition, event.offset), None)
        if waiting is None:
            self.decided.append((event.partition, event.offset, *decision))
        else:
            row, place = waiting
            row[place] = decision


def _by_name(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _common(record: Record, stream_id: str | None, outcome: str) -> list[Any]:
    return [
        record.partition,
        record.offset,
        _micros(record.time * 1000),
        stream_id,
        outcome,
        None,
        None,
        None,
        None,
        None,
        len(record.key or b"") + len(record.value or b""),
        None if record.origin is None else str(record.origin),
    ]


def _meta(meta: Mapping[str, Any]) -> list[Any]:
    group, condition, trace = meta["append"], meta["precondition"], meta["trace"]
    return [
        meta["event_id"],
        meta["agent_id"],
        meta["actor"],
        _micros(meta["occurred_at"]),
        meta["scope"],
        meta["target"],
        *(_NO_GROUP if group is None else (group["id"], group["index"], group["count"])),
        *(
            _NO_GROUP
            if condition is None
            else (condition["expected_version"], condition["expected_head"], condition["expected_target_version"])
        ),
        *((None, None) if trace is None else (trace["causation_id"], trace["correlation_id"])),
    ]


def _payload(event: EventRecord) -> list[Any]:
    members = _MEMBERS.get(event.type)
    if members is None:
        return [_json(event.payload)]
    payload = event.payload
    if not event.readable:  # It lacks what is looked for, or has it in another form.
        return [None] * len(members)
    for name in _TIMES[event.type]:
        if payload[name] is not None:
            payload = {**payload, name: _micros(payload[name])}
    return [payload[name] for name in members]


def _micros(value: int | None) -> int | None:
    """A time that a column can hold; the fold takes no other either."""
    return value if value is not None and -NUMBER_MAX <= value <= NUMBER_MAX else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text_of(key: bytes | None) -> str | None:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None

"""From records to rows: decode, arbitrate, fold, by the code that every other reader uses.

records up to the next control record -> events, many at once where that can be done (`columnar.py`)
    -> verdict -> effect -> a row each, and what becomes of rows that waited for it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ctxlog.codec.partition import PartitionContext
from ctxlog.model.records import CONTROL_KEY, EventRecord, Record
from ctxlog.model.state import NUMBER_MAX
from ctxlog.projection.columnar import read_groups
from ctxlog.projection.streams import Stream, forget_texts
from ctxlog.projection.tables import (
    ANOMALY,
    CONTROL_TYPE,
    DECIDED_AT,
    DECIDED_OFFSET,
    MEMBERS,
    OUTCOME,
    PAYLOADS,
    RECORDED_AT,
    Row,
)

_MEMBERS = {name: tuple(MEMBERS.get(column.name, column.name) for column in columns) for name, columns in PAYLOADS.items()}
_TIMES = {name: tuple(column.name for column in columns if column.sql == "TIMESTAMP") for name, columns in PAYLOADS.items()}
_NO_GROUP = (None, None, None)


class Batch:
    """The rows that some records amount to.

    Attributes:
        rows: By event type; `control`, and None for what could not be decoded.
        groups: Rows of which only the common part stands here; their other columns stand beside them, after their event type.
        decided: Rows of `tables.DECIDED`: what becomes of rows of earlier batches.
        streams: The streams that changed.
        controls: Control records, which later batches are decoded by.
        records: Number of records.
    """

    def __init__(self) -> None:
        self.rows: dict[str | None, list[Row]] = {}
        self.groups: list[tuple[str, list[Row], pa.Table]] = []
        self.decided: list[Row] = []
        self.streams: dict[tuple[int, str], Stream] = {}
        self.controls: list[Record] = []
        self.records = 0
        self._waiting: dict[tuple[int, int], Row] = {}

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

    def _take_events(self, context: PartitionContext, records: Sequence[Record], stream_of: Callable[[int, str], Stream]) -> None:
        """Add records that are no control records."""
        partition = context.partition
        together: list[tuple[EventRecord, list[Row]] | None] = [None] * len(records)
        for group in read_groups(context, records):
            rows: list[Row] = []
            self.groups.append((group.type_name, rows, group.members))
            for place, event in zip(group.places, group.events, strict=True):
                together[place] = event, rows
        for record, found in zip(records, together, strict=True):
            believed = context.believed(record)
            if found is not None:
                event, rows = found
                stream = stream_of(partition, (record.key or b"").decode())
                row = _common(believed, stream.arbiter.stream_id, "open")
                rows.append(row)
                self._note(stream, record, event.time)
                self._event(stream, event, row)
                continue
            decoded = context.decode(record)
            if isinstance(decoded, EventRecord):
                stream = stream_of(partition, decoded.meta["stream_id"])  # which is its key
                row = self._row(believed, stream.arbiter.stream_id, decoded, "open")
                forget_texts(decoded)
                self._note(stream, record, decoded.time)
                self._event(stream, decoded, row)
                continue
            stream_id = _text_of(record.key)
            row = self._row(believed, stream_id, decoded.event, decoded.reason)
            row[DECIDED_OFFSET], row[DECIDED_AT] = record.offset, row[RECORDED_AT]
            # Under its name in another partition than its own lies nothing of a stream, nor before there is a genesis.
            if stream_id is not None and context.genesis is not None and context.places(record.key or b""):
                stream = stream_of(partition, stream_id)
                self._note(stream, record, believed.time)
                stream.rejected += 1

    def _note(self, stream: Stream, record: Record, time_ms: int) -> None:
        self.streams[stream.partition, stream.arbiter.stream_id] = stream
        stream.records += 1
        stream.bytes += len(record.key or b"") + len(record.value or b"")
        time = _micros(time_ms * 1000)
        if stream.records == 1:
            stream.first_at = time
        stream.last_at = time

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

    def _row(self, record: Record, stream_id: str | None, event: EventRecord | None, outcome: str) -> Row:
        """Make the row of a record."""
        row = _common(record, stream_id, outcome)
        if event is None:
            self.rows.setdefault(None, []).append(row)
            return row
        row += _meta(event.meta)
        row += _payload(event)
        self.rows.setdefault(event.type, []).append(row)
        return row

    def _event(self, stream: Stream, event: EventRecord, row: Row) -> None:
        """Have an event judged, and see to its row and to those that waited for it."""
        verdict = stream.arbiter.offer(event)
        self._waiting[event.partition, event.offset] = row
        at = event.offset, row[RECORDED_AT]
        for accepted in verdict.accepted:
            anomaly = stream.apply(accepted)
            self._decide(accepted.event, ["accepted", accepted.version, accepted.head.hex(), *at, anomaly])
        if verdict.accepted:
            stream.effect_offset, stream.effect_at = at
        for rejected in verdict.rejected:
            stream.rejected += 1
            if rejected.event is not None:
                self._decide(rejected.event, [rejected.reason, None, None, *at, None])

    def _decide(self, event: EventRecord, decision: Row) -> None:
        row = self._waiting.pop((event.partition, event.offset), None)
        if row is None:
            self.decided.append([event.partition, event.offset, *decision])
        else:
            row[OUTCOME : ANOMALY + 1] = decision


def _common(record: Record, stream_id: str | None, outcome: str) -> Row:
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


def _meta(meta: Mapping[str, Any]) -> Row:
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


def _payload(event: EventRecord) -> Row:
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

"""What the tables of the views must hold of a stream, worked out from the log's records once more.

Not by the projector's code: nothing is batched, let go of or taken up again here, and no text is dropped on the way. What the two
share is arbitration and fold, as all readers do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ctxlog.codec.partition import PartitionContext
from ctxlog.core.arbitration import Arbiter
from ctxlog.core.evolve import Evolving
from ctxlog.errors import NewerEventError
from ctxlog.model.records import EventRecord, Record, Rejected
from ctxlog.model.state import NUMBER_MAX
from ctxlog.projection.inspected import EVENT_COLUMNS, PAYLOAD_COLUMNS, TIME_COLUMNS
from ctxlog.replay.reader import LogReader

Row = dict[str, Any]

_OF_PARENT = frozenset({"message_unknown", "fact_unknown", "call_unknown"})
_READ = ("stream_id", "version", "chain_head", "revealed", "withheld")


def micros(value: int | None) -> int | None:
    """A time as a column holds it, µs: none where it is outside of what the fold takes."""
    return value if value is not None and abs(value) <= NUMBER_MAX else None


def blank(record: Record, stream_id: str | None) -> Row:
    """The row of a record of which no more is known; the record is the believed one."""
    return dict.fromkeys(EVENT_COLUMNS) | {
        "partition": record.partition,
        "record_offset": record.offset,
        "recorded_at": micros(record.time * 1000),
        "stream_id": stream_id,
        "bytes": len(record.key or b"") + len(record.value or b""),
        "origin": None if record.origin is None else str(record.origin),
    }


def control_row(context: PartitionContext, record: Record) -> Row:
    """The row of a control record, which `context` takes."""
    taken = context.take(record)
    kind = "" if taken.control is None else f".{taken.control.kind}"
    data = {"void": taken.void} if taken.control is None else taken.control.data
    return blank(context.believed(record), None) | {
        "outcome": "control" if taken.void is None else "void",
        "anomaly": taken.void,
        "type": f"ctxlog:control{kind}",
        "data": json.dumps(data, ensure_ascii=False),
    }


def refused_row(record: Record, stream_id: str | None, refused: Rejected) -> Row:
    """The row of a record that no stream could take."""
    row = blank(record, stream_id)
    if refused.event is not None:
        row |= _said(refused.event)
    return row | {"outcome": refused.reason, "decided_offset": record.offset, "decided_at": row["recorded_at"]}


def _said(event: EventRecord) -> Row:
    """What an event itself says."""
    meta, payload = event.meta, event.payload
    group = meta["append"] or {}
    row: Row = {
        "type": event.type,
        "append_id": group.get("id"),
        "append_index": group.get("index"),
        "append_count": group.get("count"),
        **{name: meta[name] for name in ("event_id", "agent_id", "actor", "occurred_at", "scope", "target")},
        **{name: (meta["precondition"] or {}).get(name) for name in _PRECONDITION},
        **{name: (meta["trace"] or {}).get(name) for name in ("causation_id", "correlation_id")},
    }
    columns = PAYLOAD_COLUMNS.get(event.type)
    if columns is None:
        row["data"] = json.dumps(payload, ensure_ascii=False)
    elif event.readable:
        row |= {column: payload[member] for column, member in columns.items()}
    for name in TIME_COLUMNS & row.keys():
        row[name] = micros(row[name])
    if row.get("streams") is not None:
        row["streams"] = [{name: read[name] for name in _READ} for read in row["streams"]]
    return row


_PRECONDITION = ("expected_version", "expected_head", "expected_target_version")


class ExpectedStream:
    """One stream's rows of `events`, and its row of `streams`, by its records below an offset.

    Attributes:
        rows: By offset.
        row: Its row of `streams`; None where it has none.
        newer_version: The version from which on no state can be made by this release; None where there is none.
        accepted: Offset of the record of each version, oldest first.
    """

    def __init__(self, reader: LogReader, stream_id: str, end: int) -> None:
        self.stream_id = stream_id
        self.rows: dict[int, Row] = {}
        self.accepted: list[int] = []
        self.newer_version: int | None = None
        self._arbiter = Arbiter(stream_id)
        self._evolving = Evolving(stream_id)
        self._newer: str | None = None
        self._agent_id: str | None = None
        self._effect: tuple[int, int | None] = (-1, None)
        partition = reader.partition(stream_id)
        genesis_offset = reader.context(partition, end).genesis_offset
        counted: list[Row] = []
        for record, event in reader.records(stream_id, 0, end):
            if isinstance(event, Rejected):
                row = self.rows[record.offset] = refused_row(record, stream_id, event)
            else:
                row = self.rows[record.offset] = blank(record, stream_id) | _said(event) | {"outcome": "open"}
                self._decide(event, row["recorded_at"])
            if record.offset > genesis_offset:  # Before it there are no streams.
                counted.append(row)
        self.row = self._stream_row(partition, counted) if counted else None

    def _decide(self, event: EventRecord, at: int | None) -> None:
        verdict = self._arbiter.offer(event)
        for accepted in verdict.accepted:
            self.rows[accepted.event.offset] |= {
                "outcome": "accepted",
                "version": accepted.version,
                "chain_head": accepted.head.hex(),
                "decided_offset": event.offset,
                "decided_at": at,
                "anomaly": self._anomaly(accepted),
            }
            self.accepted.append(accepted.event.offset)
            self._effect = event.offset, at
            if accepted.version == 1:
                self._agent_id = accepted.event.meta["agent_id"]
        for rejected in verdict.rejected:
            if rejected.event is not None:
                self.rows[rejected.event.offset] |= {
                    "outcome": rejected.reason, "decided_offset": event.offset, "decided_at": at,
                }  # fmt: skip

    def _anomaly(self, accepted: Any) -> str | None:
        before = len(self._evolving.anomalies)
        try:
            self._evolving.apply(accepted)
        except NewerEventError:
            self._newer = self._newer or accepted.event.type
            self.newer_version = self.newer_version or accepted.version
        if len(self._evolving.anomalies) == before:
            return None
        reason = self._evolving.anomalies[-1].reason
        return "in_parent" if self._evolving.parent is not None and reason in _OF_PARENT else reason

    def _stream_row(self, partition: int, counted: list[Row]) -> Row:
        parent = self._evolving.parent
        outcomes = [row["outcome"] for row in counted]
        return {
            "stream_id": self.stream_id,
            "partition": partition,
            "agent_id": self._agent_id,
            "version": self._arbiter.version,
            "chain_head": self._arbiter.head.hex(),
            "records": len(counted),
            "rejected": sum(outcome not in ("accepted", "open") for outcome in outcomes),
            "open": outcomes.count("open"),
            "bytes": sum(row["bytes"] for row in counted),
            "first_at": counted[0]["recorded_at"],
            "last_at": counted[-1]["recorded_at"],
            "effect_offset": self._effect[0],
            "effect_at": self._effect[1],
            "closed": self._evolving.closed,
            "parent_stream_id": None if parent is None else parent.stream_id,
            "parent_version": None if parent is None else parent.version,
            "parent_chain_head": None if parent is None else parent.chain_head,
            "newer": self._newer,
        }


def differing(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """The first column that differs; None where there is none."""
    return next((name for name, value in expected.items() if found[name] != value), None)

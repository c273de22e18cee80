"""Ways to write to a log that the client does not offer: raw records as other writers send them, and logs that fail or lag."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ctxlog.codec.avro import Decoder, encode_event
from ctxlog.codec.control import encode_control, schema_published
from ctxlog.codec.framing import frame_single_object
from ctxlog.codec.schemas import Schema, shipped
from ctxlog.core.partitioner import partition_of
from ctxlog.log.protocol import Bounds, EventLog, OutcomeUnknownError
from ctxlog.model.records import CONTROL_KEY, NewRecord, Placed, Record

PAYLOADS: dict[str, dict[str, Any]] = {
    "MessageAppended": {"role": "user", "content": None, "parts": None, "name": None, "tool_call_id": None},
    "MessageRedacted": {"message_id": "", "reason": None},
    "FactSet": {"key": "k", "value": "1", "valid_from": None, "valid_to": None, "expires_at": None},
    "FactRemoved": {"key": "k"},
    "ToolCalled": {
        "call_id": "c", "name": "f", "arguments": "{}", "message_id": None, "source_id": None, "idempotency_key": None,
        "lease_expires_at": None,
    },
    "ToolReturned": {"call_id": "c", "failed": False, "content": None, "parts": None, "name": None},
    "StreamForked": {"parent_stream_id": "", "parent_version": 0, "parent_chain_head": ""},
    "StreamClosed": {"reason": None},
    "ExtensionRecorded": {"name": "org.example.Done", "data": "{}"},
}  # fmt: skip
TARGETS = {"MessageRedacted": ("message", "message_id"), "FactSet": ("fact", "key"), "FactRemoved": ("fact", "key")}
TARGETS |= {"ToolCalled": ("call", "call_id"), "ToolReturned": ("call", "call_id")}


def meta_of(stream_id: str, event_id: str, **members: Any) -> dict[str, Any]:
    """Every member of EventMeta."""
    return {
        "event_id": event_id, "stream_id": stream_id, "agent_id": None, "actor": "system:test", "occurred_at": None,
        "scope": "default", "target": None, "append": None, "precondition": None, "trace": None, "privacy": None,
    } | members  # fmt: skip


def expecting(**members: Any) -> dict[str, Any]:
    """A precondition."""
    return {"expected_version": None, "expected_head": None, "expected_target_version": None} | members


def group(append_id: str, index: int, count: int) -> dict[str, Any]:
    """An append's group."""
    return {"id": append_id, "index": index, "count": count}


def raw(log: EventLog, stream_id: str, kind: str, event_id: str, *, partition: int | None = None, **members: Any) -> NewRecord:
    """A record of a shipped type. `members` are those of meta and payload; the target is the right one where not given."""
    payload = PAYLOADS[kind] | {name: members.pop(name) for name in PAYLOADS[kind].keys() & members.keys()}
    if kind in TARGETS:
        what, member = TARGETS[kind]
        members.setdefault("target", f"{what}:{payload[member]}")
    body = encode_event(f"ctxlog.{kind}", meta_of(stream_id, event_id, **members), payload)
    key = stream_id.encode()
    place = partition_of(key, log.partitions) if partition is None else partition
    return NewRecord(place, key, frame_single_object(shipped(f"ctxlog.{kind}").fingerprint, body))


def publish(log: EventLog, *kinds: str) -> None:
    """Publish shipped schemas in every partition; all that `raw` can write where none is named."""
    schemas = [shipped(f"ctxlog.{kind}") for kind in kinds or PAYLOADS]
    for partition in range(log.partitions):
        log.append([encode_control(partition, schema_published(log.log_id, schema, None)) for schema in schemas])


def foreign_schema(name: str) -> Schema:
    """The schema of an event type that this release does not ship: `meta` and one text."""
    source = json.loads(shipped("ctxlog.FactRemoved").text)
    namespace, _, short = name.rpartition(".")
    return Schema(json.dumps(source | {"name": short, "namespace": namespace}))


def foreign(log: EventLog, stream_id: str, name: str, event_id: str) -> list[NewRecord]:
    """A record of another release's event type, after its publication."""
    from io import BytesIO

    import fastavro

    schema = foreign_schema(name)
    body = BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema.node), {"meta": meta_of(stream_id, event_id), "key": "x"})
    Decoder(schema).decode(body.getvalue())
    key = stream_id.encode()
    partition = partition_of(key, log.partitions)
    return [
        encode_control(partition, schema_published(log.log_id, schema, None)),
        NewRecord(partition, key, frame_single_object(schema.fingerprint, body.getvalue())),
    ]


class Wrapped:
    """A log that hands everything on to another one."""

    def __init__(self, log: EventLog) -> None:
        self.inner = log
        self.url, self.log_id, self.partitions = log.url, log.log_id, log.partitions

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        return self.inner.append(records)

    def bounds(self, partition: int) -> Bounds:
        return self.inner.bounds(partition)

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        return self.inner.read(partition, start, end, key=key)

    def offset_at(self, partition: int, time_ms: int) -> int:
        return self.inner.offset_at(partition, time_ms)

    def keys(self, partition: int) -> Iterator[bytes]:
        return self.inner.keys(partition)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        return self.inner.wait(partition, end, timeout_seconds)

    def close(self) -> None:
        self.inner.close()


class LosesAnswers(Wrapped):
    """Loses the answers of the next appends of events: `before` they are written, `after`, or after `half` of the records."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log)
        self.fates: list[str] = []

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        if not self.fates or all(record.key == CONTROL_KEY for record in records):
            return self.inner.append(records)
        written = {"before": 0, "half": len(records) // 2, "after": len(records)}[self.fates.pop(0)]
        if written:
            self.inner.append(records[:written])
        raise OutcomeUnknownError("the answer was lost")


class ShowsLate(Wrapped):
    """Shows what was appended only to those who wait for it, as a broker's follower does."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log)
        self.ends = [log.bounds(partition).end for partition in range(log.partitions)]

    def bounds(self, partition: int) -> Bounds:
        return Bounds(self.inner.bounds(partition).first, self.ends[partition])

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        assert end <= self.ends[partition]
        return self.inner.read(partition, start, end, key=key)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        self.ends[partition] = self.inner.bounds(partition).end
        return self.ends[partition]

    def keys(self, partition: int) -> Iterator[bytes]:
        shown = self.inner.read(partition, 0, self.ends[partition])
        return iter(dict.fromkeys(record.key for record in shown if record.key is not None))

"""What one partition says about itself, and its records decoded in that light.

Feed it the partition's control records in offset order; it then decodes any record below the last of them as every other
reader does: with the schemas that were published before that record, and not with what is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ctxlog.codec.avro import Decoder
from ctxlog.codec.control import PARTITIONER, Control, control_digest, decode_control
from ctxlog.codec.framing import (
    CONFLUENT,
    CONFLUENT_BYTES,
    SINGLE_OBJECT_BYTES,
    confluent_prefix,
    single_object_prefix,
    unframe,
)
from ctxlog.codec.schemas import Schema
from ctxlog.core.arbitration import RULES
from ctxlog.core.digests import record_digest, undecodable_digest
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import SchemaError, UndecodableError
from ctxlog.model.records import CONTROL_KEY, EventRecord, Record, Rejected

_NEVER = 2**63


class Published(NamedTuple):
    """A schema, and the offset from which on it may be used in the partition."""

    offset: int
    decoder: Decoder


class ControlRow(NamedTuple):
    """What a control record amounts to. `void` says why it is without effect; None where it has one."""

    offset: int
    control: Control | None
    void: str | None


@lru_cache(maxsize=512)
def _event_decoder(text: str) -> Decoder:
    schema = Schema(text)
    schema.check_event()
    return Decoder(schema)


class PartitionContext:
    """The control state of one partition.

    Attributes:
        genesis: The control record that the partition begins with; None until it is read.
        next_offset: All control records below it have been taken.
        published: The schemas that may be used, by the prefix that names them; the first valid claim wins.
        copied_from: Log id of the source where the log is a copy.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.genesis: Control | None = None
        self.genesis_offset = _NEVER
        self.next_offset = 0
        self.published: dict[bytes, Published] = {}
        self.copied_from: str | None = None
        self.copy_started_at = _NEVER
        self.copy_finished_at = _NEVER
        self._partitions = 1
        self._last_offset = -1

    @property
    def log_id(self) -> str | None:
        """Id of the log, as the genesis gives it."""
        return self.genesis.data["log_id"] if self.genesis else None

    def take(self, record: Record) -> ControlRow:
        """Take the next control record."""
        try:
            control = decode_control(record.value)
        except UndecodableError as error:
            row = ControlRow(record.offset, None, error.reason)
        else:
            row = ControlRow(record.offset, control, self._apply(record.offset, control))
        # Only now: an interrupt above must not lose the record, and to take it twice does no harm.
        self._last_offset, self.next_offset = record.offset, record.offset + 1
        return row

    def _apply(self, offset: int, control: Control) -> str | None:
        """Let a well-formed control record take effect; why it has none, or None."""
        data = control.data
        if self.genesis is None:
            if control.kind != "Genesis":
                return "it stands before the genesis"
            if data["partitions"] <= self.partition or (data["rules"], data["partitioner"]) != (RULES, PARTITIONER):
                return "it is a genesis of other rules, another partitioner or another partition"
            self.genesis, self.genesis_offset, self._partitions = control, offset, data["partitions"]
            return None
        if data["log_id"] != self.log_id:
            return "it belongs to another log"
        match control.kind:
            case "SchemaPublished":
                return self._publish(offset, control)
            case "CopyStarted":
                # Offsets have gaps. No event can stand in between: no schema is published yet.
                if self._last_offset != self.genesis_offset:
                    return "a copy starts directly after the genesis"
                self.copied_from, self.copy_started_at = data["source_log_id"], offset
            case "CopyFinished":
                if data["source_log_id"] != self.copied_from or self.copy_finished_at != _NEVER:
                    return "no copy from that log is under way"
                self.copy_finished_at = offset
            case "Genesis":
                return "it is repeated"
            case _:
                pass  # TopicAdopted and HeadSigned say nothing about how records are decoded.
        return None

    def _publish(self, offset: int, control: Control) -> str | None:
        data = control.data
        try:
            decoder = _event_decoder(data["schema"])
        except SchemaError as error:
            return error.reason
        schema = decoder.schema
        if (data["name"], data["fingerprint"], data["digest"]) != (schema.name, schema.fingerprint, schema.digest.hex()):
            return "name, fingerprint or digest are not the schema's"
        published = Published(offset, decoder)
        claimed = self.published.setdefault(single_object_prefix(schema.fingerprint), published) is published
        if data["registry_id"] is not None:
            claimed |= self.published.setdefault(confluent_prefix(data["registry_id"]), published) is published
        return None if claimed else "it is repeated"

    @property
    def copying(self) -> bool:
        """Whether a copy was started and is not finished."""
        return self.copy_started_at != _NEVER and self.copy_finished_at == _NEVER

    def believed(self, record: Record) -> Record:
        """A record without an origin that no copy gave it: outside a copy anybody may write one, and move the record in time.

        All control records below `record.offset` must have been taken.
        """
        if record.origin is None or self.copy_started_at < record.offset < self.copy_finished_at:
            return record
        return record._replace(origin=None)

    def places(self, key: bytes) -> bool:
        """Whether records of this key belong into this partition."""
        return partition_of(key, self._partitions) == self.partition

    def framed(self, records: Sequence[Record]) -> dict[Decoder, list[tuple[int, bytes]]]:
        """Those of some records whose framing names a schema that they may use: their places and bodies, by what decodes them.

        All control records below the last of them must have been taken.
        """
        found: dict[Decoder, list[tuple[int, bytes]]] = {}
        lists: dict[bytes, tuple[int, list[tuple[int, bytes]]]] = {}
        for prefix, published in self.published.items():
            lists[prefix] = max(self.genesis_offset, published.offset), found.setdefault(published.decoder, [])
        for place, record in enumerate(records):
            value = record.value
            if value is None:
                continue
            # As `unframe` does, which would cost more than all else here.
            size = CONFLUENT_BYTES if value[:1] == CONFLUENT else SINGLE_OBJECT_BYTES
            usable = lists.get(value[:size])
            if usable is not None and usable[0] <= record.offset:
                usable[1].append((place, value[size:]))
        return found

    def decode(self, record: Record) -> EventRecord | Rejected:
        """The event that a record is, or why it is none that a stream could take.

        All control records below `record.offset` must have been taken.
        """
        found = self._datum(record)
        if found is None:
            return Rejected(record.offset, "undecodable")
        schema, body, payload = found
        meta = payload.pop("meta")
        key = record.key
        event = EventRecord(
            record.partition,
            record.offset,
            self.believed(record).time,
            schema.name,
            meta,
            payload,
            record_digest(schema.digest, key, body),
            len(body),
            schema.readable,
        )
        if (
            key is None
            or key == CONTROL_KEY
            or key != meta["stream_id"].encode()
            or not self.places(key)
            or (record.origin is None and self.copy_started_at < record.offset < self.copy_finished_at)
        ):
            return Rejected(record.offset, "misplaced", event)
        return event

    def digest(self, record: Record) -> bytes:
        """Record digest of any record, a control record or what cannot be decoded among them.

        All control records below `record.offset` must have been taken.
        """
        if record.key == CONTROL_KEY:
            return control_digest(record.value)
        found = self._datum(record)
        if found is None:
            return undecodable_digest(record.key, record.value)
        schema, body, _ = found
        return record_digest(schema.digest, record.key, body)

    def _datum(self, record: Record) -> tuple[Schema, bytes, dict[str, Any]] | None:
        """Schema, body and datum of a record; None where it is undecodable."""
        if record.offset < self.genesis_offset:
            return None
        try:
            prefix, body = unframe(record.value)
            published = self.published.get(prefix)
            if published is None or published.offset > record.offset:
                return None
            return published.decoder.schema, body, published.decoder.decode(body)
        except UndecodableError:
            return None

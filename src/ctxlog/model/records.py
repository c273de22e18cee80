"""Records as a log keeps them, and events as they are decoded from them.

Tuples, because a fold makes one of each for every record of a stream and millions of them pass through.
"""

from __future__ import annotations

from typing import Any, NamedTuple

CONTROL_KEY = b"ctxlog:control"
"""Key of the records that are about the log itself; no stream may have a name that begins with `ctxlog:`."""

ORIGIN_HEADER = "ctxlog-origin"
"""Name of the header in which a copied record carries its origin, where the log has headers."""

MAX_RECORD_BYTES = 1024 * 1024
"""Key, value and headers together. Client and topic limits of Kafka are set to twice this, so that a record that passed
here never fails there."""


class Position(NamedTuple):
    """A coordinate in one partition. Offsets have gaps; they are not versions."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"


class Origin(NamedTuple):
    """Where a copied record stood first, kept on every further copy."""

    log_id: str
    partition: int
    offset: int
    recorded_at_ms: int

    def __str__(self) -> str:
        return f"{self.log_id}/{self.partition}/{self.offset}/{self.recorded_at_ms}"

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read the form that `str` writes, and no other, as the header `ctxlog-origin` carries it. Raises `ValueError`."""
        log_id, partition, offset, recorded_at = text.split("/")
        origin = cls(log_id, int(partition), int(offset), int(recorded_at))
        if str(origin) != text:
            raise ValueError("not as ctxlog writes it")
        return origin


class NewRecord(NamedTuple):
    """A record that is to be appended."""

    partition: int
    key: bytes
    value: bytes
    origin: Origin | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    """For other tools, such as W3C `traceparent`. A log may drop them: nothing that is read from a log depends on them."""

    @property
    def size(self) -> int:
        """Bytes of key, value and headers together."""
        size = len(self.key) + len(self.value)
        if self.origin:
            size += len(ORIGIN_HEADER) + len(str(self.origin))
        return size + sum(len(name) + len(value) for name, value in self.headers) if self.headers else size


class Record(NamedTuple):
    """A record that the log holds. `recorded_at` is the log's clock, in milliseconds since 1970 UTC."""

    partition: int
    offset: int
    recorded_at: int
    key: bytes | None
    value: bytes | None
    origin: Origin | None = None

    @property
    def time(self) -> int:
        """The time that questions of time are about, in ms: the origin's where the record is a copy."""
        return self.origin.recorded_at_ms if self.origin else self.recorded_at


class Placed(NamedTuple):
    """What the log says of a record that it took."""

    position: Position
    recorded_at: int


class EventRecord(NamedTuple):
    """A decoded event. `meta` and `payload` have the members of the Avro schema; `digest` is the record digest, 32 bytes.

    `readable` is False where the schema under a known name lacks what the shipped one has.
    """

    partition: int
    offset: int
    time: int
    type: str
    meta: dict[str, Any]
    payload: dict[str, Any]
    digest: bytes
    size: int
    readable: bool


class Accepted(NamedTuple):
    """An accepted event: its version, and the record that completed its append (where and when it took effect)."""

    version: int
    event: EventRecord
    offset: int
    time: int
    head: bytes


class Rejected(NamedTuple):
    """A record that does not count, and why. `event` is None where the record could not be decoded."""

    offset: int
    reason: str
    event: EventRecord | None = None
    decided_at: int = -1
    """Offset of the record at which the rejection was decided; -1 where it is the record's own."""

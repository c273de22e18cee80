"""What every log does: append, read a partition or one key of it, say where it ends, find a time.

The protocol has Kafka's shape, so that a backend on a broker changes nothing above it: partitions, offsets with gaps, log
time that the log sets, keys, records that stay as they are for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ctxlog.codec.schemas import Schema
from ctxlog.errors import CtxlogError
from ctxlog.model.records import NewRecord, Placed, Record


class OutcomeUnknownError(CtxlogError):
    """The log failed in a way that leaves open whether the records were appended."""


class Bounds(NamedTuple):
    """Offsets of a partition: the first record kept is at or above `first`, the next one will be at or above `end`."""

    first: int
    end: int


@runtime_checkable
class EventLog(Protocol):
    """A partitioned, append-only log.

    Attributes:
        url: How the log was named when it was opened.
        log_id: UUID that the log's genesis carries.
        partitions: Number of partitions, fixed when the log was created.
    """

    url: str
    log_id: str
    partitions: int

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        """Append records, in order within each partition; they are durable when this returns.

        Not atomic in general: after an error some of them may be in the log. Arbitration copes with that.

        Raises:
            LogBusyError, StorageError: Nothing was appended.
            OutcomeUnknownError: It is not known whether anything was appended.
            LogClosedError: `close` was called.
        """
        ...

    def bounds(self, partition: int) -> Bounds:
        """Where the partition begins and ends now. Everything below `end` is stable."""
        ...

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        """The records at offsets `start` <= offset < `end`, in offset order; with `key`, those of this key only.

        `start` may lie before the first offset, also below 0.

        Reads what is there when it comes to it: fix `end` by `bounds` first.
        """
        ...

    def offset_at(self, partition: int, time_ms: int) -> int:
        """Offset of the first record in log order with `recorded_at` >= `time_ms`; the end where there is none."""
        ...

    def keys(self, partition: int) -> Iterator[bytes]:
        """Every key in the partition once, in no particular order. May cost a scan."""
        ...

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        """Wait until the partition ends beyond `end`, or the time is over; its end then, or as much of it as is known."""
        ...

    def close(self) -> None:
        """Let go of files and connections. Further use raises `LogClosedError`."""
        ...


@runtime_checkable
class Scanned(Protocol):
    """A log that says how far its long reads are.

    Attributes:
        scanning: Told how many offsets are done and of how many; None tells nobody.
    """

    scanning: Callable[[int, int], None] | None


class SchemaIds(Protocol):
    """Knows the ids that a schema registry has given to schemas."""

    def id_of(self, schema: Schema) -> int:
        """The id of exactly this schema.

        Raises:
            LogOpenError: The registry does not have it.
            StorageError: The registry cannot be reached, or answers nonsense.
            IntegrityError: It has another schema under the id that it says.
        """
        ...


class StorageProblem(NamedTuple):
    """Something in the storage that is not as the log left it: where, what was expected, what was found."""

    where: str
    expected: str
    found: str


@runtime_checkable
class SelfChecking(Protocol):
    """A log that can check its own storage."""

    def problems(self) -> Iterator[StorageProblem]:
        """Check everything that is stored, and say what is wrong."""
        ...

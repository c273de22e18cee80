"""What happened in a stream: its accepted events, each with the place of the record that let it count.

An audit asks which event came first, and between partitions there is no order. So a place says which log, partition and offset a
record stood at first (a copy keeps that of its origin), and two places are compared by offset where both are of one partition,
and by the log's clock where they are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.core.arbitration import Arbiter
from ctxlog.model.records import Accepted, Record, Rejected
from ctxlog.replay.decisions import DECISIONS
from ctxlog.replay.summaries import matching

if TYPE_CHECKING:
    from collections import Counter

    from ctxlog.replay.replayer import Replayer


class Place(NamedTuple):
    """Where a record stood first: of a copy, in the log that it was copied from. `time` is the log's clock there, in ms."""

    log_id: str
    partition: int
    offset: int
    time: int

    def ordered(self, other: Place) -> bool:
        """Whether offsets say which of two came first; where they do not, the log's clock is asked."""
        return (self.log_id, self.partition) == (other.log_id, other.partition)

    def up_to(self, other: Place) -> bool:
        """Whether this stands at or before another place: by offset in one partition, otherwise by the log's clock."""
        return self.offset <= other.offset if self.ordered(other) else self.time <= other.time


class Happened(NamedTuple):
    """An accepted event of a stream, and the place of the record at which it was accepted."""

    stream_id: str
    accepted: Accepted
    place: Place

    @property
    def event_id(self) -> str:
        """Its id."""
        event_id: str = self.accepted.event.meta["event_id"]
        return event_id

    @property
    def type(self) -> str:
        """Full name of its type."""
        return self.accepted.event.type

    @property
    def version(self) -> int:
        """The version that it made."""
        return self.accepted.version

    @property
    def payload(self) -> dict[str, Any]:
        """What it says, beside `meta`."""
        return self.accepted.event.payload

    @property
    def target(self) -> str | None:
        """What it changes, as it says itself."""
        target: str | None = self.accepted.event.meta["target"]
        return target

    @property
    def cause(self) -> str | None:
        """Id of the event or decision that led to it, as its writer says."""
        trace = self.accepted.event.meta["trace"]
        return None if trace is None else trace["causation_id"]

    @property
    def call_id(self) -> str | None:
        """The tool call that it begins, takes over or ends."""
        if not (self.is_a("ToolCalled") or self.is_a("ToolReturned")):
            return None
        call_id: str = self.payload["call_id"]
        return call_id if self.target == f"call:{call_id}" else None

    def is_a(self, name: str) -> bool:
        """Whether it is an event of a shipped type that a reader of this release can rely on."""
        return self.accepted.event.type == f"ctxlog.{name}" and self.accepted.event.readable


class Evidence(NamedTuple):
    """An event as the evidence of something.

    Attributes:
        stream_id, version: What it made.
        event_id, type: Which event.
        actor: Who wrote it, as the writer claims.
        occurred_at: When it happened by the writer's clock, µs since 1970 UTC; a claim, None where unknown.
        recorded_at: When the log had it, ms since 1970 UTC by the log's clock (the origin's in a copy).
        partition, offset: Where its record stands in this log.
        causation_id, correlation_id: What led to it, and what it belongs to, as the writer claims.
    """

    stream_id: str
    version: int
    event_id: str
    type: str
    actor: str
    occurred_at: int | None
    recorded_at: int
    partition: int
    offset: int
    causation_id: str | None
    correlation_id: str | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return self._asdict()


def evidence(happened: Happened) -> Evidence:
    """An event as evidence."""
    event, meta = happened.accepted.event, happened.accepted.event.meta
    trace = meta["trace"] or {"causation_id": None, "correlation_id": None}
    return Evidence(
        happened.stream_id,
        happened.version,
        meta["event_id"],
        event.type,
        meta["actor"],
        meta["occurred_at"],
        happened.accepted.time,
        event.partition,
        event.offset,
        trace["causation_id"],
        trace["correlation_id"],
    )


def place_of(replayer: Replayer, record: Record) -> Place:
    """Where a record stood first. `record` as the reader gives it, whose origin is believed."""
    if record.origin is not None:
        return Place(*record.origin)
    return Place(replayer.log.log_id, record.partition, record.offset, record.recorded_at)


def happened(
    replayer: Replayer, stream_id: str, end: int | None = None, *, rejected: Counter[str] | None = None
) -> Iterator[Happened]:
    """The accepted events of a stream, oldest first, without folding them.

    Args:
        replayer: The log.
        stream_id: The stream.
        end: Offset to stop before; where the partition ends now unless given.
        rejected: Counts the records that do not count, by reason.
    """
    arbiter = Arbiter(stream_id)
    for record, event in replayer.reader.records(stream_id, 0, replayer.end(stream_id) if end is None else end):
        if isinstance(event, Rejected):
            if rejected is not None:
                rejected[event.reason] += 1
            continue
        verdict = arbiter.offer(event)
        if rejected is not None:
            rejected.update(refused.reason for refused in verdict.rejected)
        for accepted in verdict.accepted:
            yield Happened(stream_id, accepted, place_of(replayer, record))


def decision_streams(replayer: Replayer) -> list[str]:
    """Names of the streams that decisions are recorded in, sorted."""
    return matching(replayer.log, f"{DECISIONS}*")

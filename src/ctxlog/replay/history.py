"""The history of a stream: every record, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.core.arbitration import Arbiter
from ctxlog.core.digests import undecodable_digest
from ctxlog.model.records import EventRecord, Record, Rejected

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer


class Entry(NamedTuple):
    """One record of a stream.

    Attributes:
        outcome: `accepted`, `open` (its append is not complete), or why it was rejected.
        version: The version that an accepted event made; None otherwise.
        partition, offset: Where the record stands.
        effect_offset: The record at which it was decided.
        time: The log's time of the record that decided, ms since 1970 UTC (the origin's in a copy).
        type: Full name of the event type; empty where the record cannot be decoded.
        meta, payload: The event; empty where the record cannot be decoded.
        chain_head: Id of the version, lower-case hex; None where not accepted.
        digest: Record digest, lower-case hex: evidence of the bytes that stand there, accepted or not.
    """

    outcome: str
    version: int | None
    partition: int
    offset: int
    effect_offset: int
    time: int
    type: str
    meta: dict[str, Any]
    payload: dict[str, Any]
    chain_head: str | None
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return self._asdict()


class Historian:
    """Goes through one stream's records; `read_on` can be called again as the log grows."""

    def __init__(self, replayer: Replayer, stream_id: str) -> None:
        self._reader = replayer.reader
        self._arbiter = Arbiter(stream_id)
        self._partition = replayer.reader.partition(stream_id)
        self._next_offset = 0

    def read_on(self, end: int) -> Iterator[Entry]:
        """What was decided by the records below `end` that were not read before."""
        for record, event in self._reader.records(self._arbiter.stream_id, self._next_offset, end):
            self._next_offset = record.offset + 1
            if isinstance(event, Rejected):
                yield self._rejected(event, record)
                continue
            verdict = self._arbiter.offer(event)
            for rejected in verdict.rejected:
                yield self._rejected(rejected, record)
            for accepted in verdict.accepted:
                yield self._entry(
                    "accepted", accepted.event, accepted.offset, record.time, version=accepted.version, head=accepted.head.hex()
                )

    def open(self) -> Iterator[Entry]:
        """The records that open appends hold, as far as was read."""
        for opened in self._arbiter.open.values():
            for event in opened.held.values():
                yield self._entry("open", event, event.offset, event.time)

    def _rejected(self, rejected: Rejected, record: Record) -> Entry:
        """What was rejected at `record`: an event, which may have come before, or bytes that are the record itself."""
        if rejected.event is not None:
            return self._entry(rejected.reason, rejected.event, max(rejected.offset, rejected.decided_at), record.time)
        where = self._partition, record.offset, record.offset
        digest = undecodable_digest(record.key, record.value).hex()
        return Entry(rejected.reason, None, *where, record.time, "", {}, {}, None, digest)

    def _entry(
        self, outcome: str, event: EventRecord, decided_at: int, time: int, *, version: int | None = None, head: str | None = None
    ) -> Entry:
        where = self._partition, event.offset, decided_at
        return Entry(outcome, version, *where, time, event.type, event.meta, event.payload, head, event.digest.hex())


def history(replayer: Replayer, stream_id: str, end: int) -> Iterator[Entry]:
    """Every record of a stream below `end`, in the order in which they were decided; open ones last."""
    historian = Historian(replayer, stream_id)
    yield from historian.read_on(end)
    yield from historian.open()

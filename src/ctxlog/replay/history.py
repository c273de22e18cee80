"""The history of a stream: every record, and what became of it; or a slice of it between two points.

A slice tells what all of the history tells of these records. It begins to read at the latest snapshot that is early enough, as
what became of a record depends on what came before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.core.arbitration import Arbiter
from ctxlog.core.digests import undecodable_digest
from ctxlog.errors import InvalidInputError
from ctxlog.model.points import Point
from ctxlog.model.records import EventRecord, Record, Rejected
from ctxlog.replay.limits import Limits, limits

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
    """Goes through one stream's records; `read_on` can be called again as the log grows.

    Args:
        replayer: Reads the log.
        stream_id: The stream.
        since: Tell what was decided after this point; None: from the beginning.
        until: Tell what was decided up to this point; None: what there is.
        last: How many of the last entries are wanted; fewer may be read, and never fewer than these. None: all.

    Raises:
        PointError: The stream has no such point. Of a version this is said where it was not reached, by `check`.
        InvalidInputError: `last` is no number from 0.
    """

    def __init__(
        self,
        replayer: Replayer,
        stream_id: str,
        *,
        since: Point | None = None,
        until: Point | None = None,
        last: int | None = None,
    ) -> None:
        if last is not None and (type(last) is not int or last < 0):
            raise InvalidInputError(f"last: expected a whole number from 0, found {last!r}; nothing was read")
        self._reader = replayer.reader
        self._arbiter = Arbiter(stream_id)
        self._partition = replayer.reader.partition(stream_id)
        self._next_offset = 0
        self._since = self._until = None
        self._begun, self._done = True, False
        if since is None and until is None and last is None:
            return
        end = replayer.end(stream_id)
        self._since = None if since is None else limits(replayer, stream_id, since, end)
        self._until = None if until is None else limits(replayer, stream_id, until, end)
        time_max = self._begin(replayer, end, last)
        found = self._since
        if found is not None:  # Where it begins may be beyond what it is to begin after.
            self._begun = self._is_past(found, self._next_offset - 1, time_max, self._arbiter.version)
        found = self._until
        if found is not None:
            self._done = self._is_past(found, -1, time_max, self._arbiter.version)

    def _begin(self, replayer: Replayer, end: int, last: int | None) -> int:
        """Begin at the latest snapshot that is early enough; the time of its latest record, in ms."""
        stream_id = self._arbiter.stream_id
        starts = []
        if self._since is not None:
            # Before the version itself: what was rejected directly behind it is told too.
            before = None if self._since.version is None else max(self._since.version - 1, 0)
            starts.append(replayer.open(stream_id, end=self._since.end, stop_version=before, time_us=self._since.time_us))
        if last is not None:
            to = self._until or Limits(end)
            newest = replayer.open(stream_id, end=to.end, stop_version=to.version, time_us=to.time_us).fold.version
            if newest > last:
                starts.append(replayer.open(stream_id, end=to.end, stop_version=newest - last, time_us=to.time_us))
        if not starts:
            return -1
        start = max(starts, key=lambda cursor: cursor.next_offset)
        self._arbiter, self._next_offset = start.fold.arbiter, start.next_offset
        return start.time_max

    @staticmethod
    def _is_past(point: Limits, offset: int, time_ms: int, version: int) -> bool:
        """Whether what was read up to here is all that lies before the point."""
        if point.version is not None:
            return version >= point.version
        if point.time_us is not None:
            return time_ms * 1000 > point.time_us
        return offset >= point.end

    def read_on(self, end: int) -> Iterator[Entry]:
        """What was decided by the records below `end` that were not read before."""
        since, until = self._since, self._until
        if until is not None:
            end = min(end, until.end)
        if self._done:
            return
        for record, event in self._reader.records(self._arbiter.stream_id, self._next_offset, end):
            if until is not None and until.time_us is not None and record.time * 1000 > until.time_us:
                self._done = True
                return
            self._next_offset = record.offset + 1
            if not self._begun and since is not None and since.version is None:
                self._begun = self._is_past(since, record.offset, record.time, 0)
            for entry in self._decided(record, event):
                if self._begun:
                    yield entry
                if entry.version is None:
                    continue
                if since is not None and entry.version == since.version:
                    since.check(self._arbiter.stream_id, entry.version, entry.chain_head or "")
                    self._begun = True
                if until is not None and entry.version == until.version:
                    until.check(self._arbiter.stream_id, entry.version, entry.chain_head or "")
                    self._done = True
                    return

    def _decided(self, record: Record, event: EventRecord | Rejected) -> Iterator[Entry]:
        """What a record decided, which may be about others that came before."""
        if isinstance(event, Rejected):
            yield self._rejected(event, record)
            return
        verdict = self._arbiter.offer(event)
        for rejected in verdict.rejected:
            yield self._rejected(rejected, record)
        for accepted in verdict.accepted:
            yield self._entry(
                "accepted", accepted.event, accepted.offset, record.time, version=accepted.version, head=accepted.head.hex()
            )

    def check(self) -> None:
        """Check that the stream has the versions that were asked for. Raises `PointError`."""
        # A beginning behind the end is no error, and was not looked for.
        point = self._since if self._until is None else self._until
        version = self._arbiter.version
        if point is not None and point.version is not None and version < point.version:
            point.check(self._arbiter.stream_id, version, "")

    def open(self) -> Iterator[Entry]:
        """The records that open appends hold, as far as was read; none where there is an end to what is told."""
        if self._until is not None:
            return
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


def history(
    replayer: Replayer,
    stream_id: str,
    end: int,
    *,
    since: Point | None = None,
    until: Point | None = None,
    last: int | None = None,
) -> Iterator[Entry]:
    """Every record of a stream below `end`, in the order in which they were decided, open ones last; or a slice.

    Arguments and errors as in `Historian`.
    """
    return _told(Historian(replayer, stream_id, since=since, until=until, last=last), end, last)


def _told(historian: Historian, end: int, last: int | None) -> Iterator[Entry]:
    def entries() -> Iterator[Entry]:
        yield from historian.read_on(end)
        historian.check()
        yield from historian.open()

    return entries() if last is None else iter(deque(entries(), maxlen=last))

"""Replay: fold a stream again, without effects, up to a point.

    point -> end of the question (fixed first) -> snapshot, where one fits -> records by key -> fold -> state and manifest

The end is an offset below the partition's end, or the first record that is too late; never "nothing came for a while".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ctxlog.codec.schemas import shipped
from ctxlog.core.arbitration import RULES, Arbiter
from ctxlog.core.digests import prefixed, sha256
from ctxlog.core.evolve import FOLD_VERSION, KNOWN_TYPES
from ctxlog.core.fold import StreamFold
from ctxlog.errors import LineageError
from ctxlog.log.protocol import EventLog
from ctxlog.model.points import AtOccurred, AtTime, Point
from ctxlog.model.records import Accepted, EventRecord, Position, Record, Rejected
from ctxlog.model.state import ContextState, Parent
from ctxlog.replay.chunks import Chunks
from ctxlog.replay.limits import limits
from ctxlog.replay.manifest import Manifest, Replay
from ctxlog.replay.reader import LogReader
from ctxlog.replay.snapshots import (
    SNAPSHOT_BYTES,
    SNAPSHOT_EVENTS,
    SNAPSHOT_FREE_BYTES,
    SNAPSHOT_SHARE,
    Ancestor,
    Snapshot,
    SnapshotStore,
)

LINEAGE_MAX = 64
"""Forks of forks that are composed. Part of the fold's meaning."""

_REDACTED = "ctxlog.MessageRedacted"

Outcome = Accepted | Rejected
Seen = Callable[[Sequence[Outcome], int], None]


class StreamCursor:
    """One stream's fold with the place in the log that it has reached; `Replayer.advance` moves it on."""

    __slots__ = (
        "ancestors",
        "bytes_since",
        "chunks",
        "events_since",
        "fold",
        "next_offset",
        "redacted",
        "started_from",
        "time_max",
        "written",
    )

    def __init__(self, fold: StreamFold, ancestors: list[Ancestor] | None = None) -> None:
        self.fold = fold
        self.ancestors = [] if ancestors is None else ancestors
        self.next_offset = 0
        self.started_from = 0
        self.time_max = -1
        self.events_since = 0
        self.bytes_since = 0
        self.chunks: Chunks = {}
        self.written = 0
        self.redacted: list[tuple[int, int]] = []


class Replayer:
    """Answers what a context held at a point.

    Args:
        log: The log.
        snapshots: Where to keep folds; None works from zero, to the same bytes.
    """

    def __init__(self, log: EventLog, snapshots: SnapshotStore | None = None) -> None:
        self.log = log
        self.reader = LogReader(log)
        self._snapshots = snapshots

    def replay(self, stream_id: str, at: Point) -> Replay:
        """The state of a stream at a point, with its manifest.

        Raises:
            PointError: The stream has no such point.
            NewerEventError: The state needs a newer release.
            IntegrityError: What the log holds cannot be folded; subclasses say what is wrong.
        """
        end = self.end(stream_id)
        found = limits(self, stream_id, at, end)
        cursor = self.open(stream_id, end=found.end, stop_version=found.version, time_us=found.time_us)
        self.advance(cursor, found.end, time_us=found.time_us)
        found.check(stream_id, cursor.fold.version, cursor.fold.head.hex())
        provisional = isinstance(at, AtTime) and not self._has_later(stream_id, at.time_us, end)
        return self._result(cursor, at, provisional=provisional)

    def end(self, stream_id: str) -> int:
        """Where the stream's partition ends now. Raises `BelowHorizonError`."""
        return self.reader.check_horizon(self.reader.partition(stream_id))

    def open(
        self,
        stream_id: str,
        *,
        end: int,
        stop_version: int | None = None,
        time_us: int | None = None,
        lineage: tuple[str, ...] = (),
    ) -> StreamCursor:
        """A cursor at the latest snapshot within the limits, or at the beginning. Nothing is read on yet."""
        cursor = self._new_cursor(stream_id, stop_version, lineage)
        if self._snapshots is None or cursor.fold.done:
            return cursor
        time_max = None if time_us is None else time_us // 1000
        while True:
            snapshot = self._snapshots.load(self.log.log_id, cursor.fold, end=end, version_max=stop_version, time_max=time_max)
            if snapshot is None:
                return cursor
            if self._hold_again(stream_id, snapshot):
                break
            # Of records that the log does not have any more. It would stand before good ones for ever.
            dropped = self._snapshots.drop(self.log.log_id, stream_id, [(cursor.fold.version, cursor.fold.version)])
            cursor = self._new_cursor(stream_id, stop_version, lineage)
            if dropped is None:
                return cursor  # It is there still.
        if not _composes(snapshot.ancestors, (*lineage, stream_id)):
            return self._new_cursor(stream_id, stop_version, lineage)  # From the beginning comes the error, in its own words.
        cursor.ancestors[:] = snapshot.ancestors
        cursor.next_offset, cursor.time_max, cursor.chunks = snapshot.offset + 1, snapshot.time_max, snapshot.chunks
        cursor.started_from, cursor.written = cursor.fold.version, snapshot.written
        cursor.fold.done = cursor.fold.version == stop_version
        return cursor

    def follow(self, stream_id: str) -> StreamCursor:
        """A cursor at the stream's beginning that shows what is accepted and makes no state, and so no snapshots."""
        return self._new_cursor(stream_id, None, (), evolves=False)

    def advance(
        self,
        cursor: StreamCursor,
        end: int,
        *,
        time_us: int | None = None,
        seen: Seen | None = None,
    ) -> None:
        """Offer the stream's records below `end` to the fold, up to, and without, the first one later than `time_us`.

        Args:
            cursor: What `open` gave, as far as it came.
            end: Offset to stop before; at most the partition's end.
            time_us: Instant of the log's clock to stop after, µs since 1970 UTC.
            seen: Called for each record with what it brought about, and the version of the stream after it.
        """
        if cursor.fold.done:
            return
        fold = cursor.fold
        stream_id = fold.arbiter.stream_id
        record = None
        for record, event in self.reader.records(stream_id, cursor.next_offset, end):
            time = record.time
            if time_us is not None and time * 1000 > time_us:
                return
            if isinstance(event, Rejected):
                fold.rejected += 1
                outcomes: Sequence[Outcome] = (event,)
            else:
                verdict = fold.offer(event)
                for accepted in verdict.accepted:
                    if accepted.event.type == _REDACTED:
                        cursor.redacted += _span(fold, accepted)
                outcomes = verdict.accepted + verdict.rejected
            cursor.next_offset = record.offset + 1
            cursor.events_since += 1
            cursor.bytes_since += len(record.value or b"")
            cursor.time_max = max(cursor.time_max, time)
            if seen is not None:
                seen(outcomes, fold.arbiter.version)
            if fold.done:
                return
            due = cursor.events_since >= SNAPSHOT_EVENTS or cursor.bytes_since >= SNAPSHOT_BYTES
            if due and fold.evolves and cursor.bytes_since * SNAPSHOT_SHARE >= cursor.written - SNAPSHOT_FREE_BYTES:
                self._redact(cursor)
                self._save(cursor, record)
        if self._redact(cursor) and record is not None:
            self._save(cursor, record)  # In place of those that are gone.
        cursor.next_offset = max(cursor.next_offset, end)

    def accepted(self, stream_id: str, end: int) -> Iterator[Accepted]:
        """The accepted events of a stream below `end`, without folding them."""
        arbiter = Arbiter(stream_id)
        for _, event in self.reader.records(stream_id, 0, end):
            if isinstance(event, EventRecord):
                yield from arbiter.offer(event).accepted

    def state_at(self, parent: Parent, lineage: tuple[str, ...] = ()) -> ContextState:
        """The state that a fork starts from.

        Raises:
            LineageError: The parent is not what the fork says, or the forks form a cycle or go too deep.
        """
        return self._at_parent(parent, lineage).fold.state()

    def _at_parent(self, parent: Parent, lineage: tuple[str, ...]) -> StreamCursor:
        where = f"stream {lineage[-1]!r} goes on from {parent.stream_id!r}@{parent.version}" if lineage else str(parent)
        refused = _refused(parent.stream_id, parent.version, lineage)
        if refused is not None:
            raise LineageError(f"{where}: the forks {refused}; no state can be made.")
        end = self.end(parent.stream_id)
        cursor = self.open(parent.stream_id, end=end, stop_version=parent.version, lineage=lineage)
        self.advance(cursor, end)
        if cursor.fold.version != parent.version:
            raise LineageError(f"{where}: that stream is at version {cursor.fold.version}; no state can be made.")
        if cursor.fold.head.hex() != parent.chain_head:
            raise LineageError(f"{where}: its chain head there is another than the fork says; no state can be made.")
        return cursor

    def _new_cursor(
        self, stream_id: str, stop_version: int | None, lineage: tuple[str, ...], *, evolves: bool = True
    ) -> StreamCursor:
        ancestors: list[Ancestor] = []

        def parent_state(parent: Parent) -> ContextState:
            above = self._at_parent(parent, (*lineage, stream_id))
            state = above.fold.state()
            if self._snapshots is not None:
                offset = above.fold.effect_offset
                ancestor = Ancestor(parent.stream_id, parent.version, offset, self._fingerprint_at(parent.stream_id, offset))
                ancestors[:] = (ancestor, *above.ancestors)
            return state

        fold = StreamFold(stream_id, parent_state=parent_state, stop_version=stop_version, evolves=evolves)
        return StreamCursor(fold, ancestors)

    def _hold_again(self, stream_id: str, snapshot: Snapshot) -> bool:
        """Check that the snapshot belongs to this log's records, and read what its open appends hold."""
        if self._fingerprint_at(stream_id, snapshot.offset) != snapshot.record:
            return False
        if any(self._fingerprint_at(above.stream_id, above.offset) != above.record for above in snapshot.ancestors):
            return False
        arbiter = snapshot.fold.arbiter
        for append_id, count, offsets in snapshot.held:
            events = [next(self.reader.records(stream_id, offset, offset + 1), (None, None))[1] for offset in offsets]
            if not all(isinstance(event, EventRecord) for event in events):
                return False
            arbiter.hold(append_id, count, [event for event in events if isinstance(event, EventRecord)])
        return True

    def _fingerprint_at(self, stream_id: str, offset: int) -> str:
        if offset < 0:
            return ""  # Of a parent at version 0, which no record made.
        found = next(self.reader.records(stream_id, offset, offset + 1), None)
        return _fingerprint(found[0]) if found is not None else ""

    def _redact(self, cursor: StreamCursor) -> bool:
        """Drop the snapshots that hold what was redacted since the last one; whether there were any."""
        if self._snapshots is None or not cursor.redacted:
            return False
        dropped = self._snapshots.drop(self.log.log_id, cursor.fold.arbiter.stream_id, cursor.redacted, redacted=True)
        if dropped is not None:
            cursor.redacted = []
        return bool(dropped)

    def _save(self, cursor: StreamCursor, record: Record) -> None:
        cursor.events_since = cursor.bytes_since = 0
        if self._snapshots is None or cursor.fold.failure is not None:
            return
        if cursor.redacted:
            return  # Not dropped yet, and whoever starts from here does not come past the redaction.
        if cursor.fold.evolving.parent is not None and not cursor.ancestors:
            return  # A cursor made round another one's fold: what it inherits from is not known.
        held = [
            (append_id, opened.count, [event.offset for event in opened.held.values()])
            for append_id, opened in cursor.fold.arbiter.open.items()
        ]
        snapshot = Snapshot(
            cursor.fold, record.offset, cursor.time_max, _fingerprint(record), held, cursor.ancestors, cursor.chunks
        )
        snapshot = self._snapshots.save(self.log.log_id, snapshot)
        cursor.chunks, cursor.written = snapshot.chunks, snapshot.written

    def _has_later(self, stream_id: str, time_us: int, end: int) -> bool:
        """Whether a record of the stream's partition is later than an instant, so that nothing can come before it any more."""
        partition = self.reader.partition(stream_id)
        context = self.reader.context(partition, end)
        if context.copied_from is None:
            return self.log.offset_at(partition, time_us // 1000 + 1) < end
        # Copies are asked by their origins' times, which follow no order across the source's partitions: while a copy is under
        # way, a record of any time may still come.
        return not context.copying and self.reader.has_later(partition, time_us // 1000, end)

    def _result(self, cursor: StreamCursor, at: Point, *, provisional: bool) -> Replay:
        fold = cursor.fold
        stream_id = fold.arbiter.stream_id
        state = fold.state()
        manifest = Manifest(
            log_id=self.log.log_id,
            stream_id=stream_id,
            at=str(at),
            version=fold.version,
            position=Position(self.reader.partition(stream_id), fold.effect_offset) if fold.version else None,
            recorded_at=fold.effect_time if fold.version else None,
            chain_head=state.chain_head,
            rules=RULES,
            fold_version=FOLD_VERSION,
            schema_digests={name: shipped(name).digest.hex() for name in sorted(KNOWN_TYPES)},
            started_from=cursor.started_from,
            provisional=provisional,
            clock={AtTime: "log", AtOccurred: "writer"}.get(type(at)),
            state=state,
        )
        return Replay(state, manifest, tuple(fold.evolving.anomalies))


def _span(fold: StreamFold, redaction: Accepted) -> list[tuple[int, int]]:
    """The versions, first and last, whose states hold what an event has redacted; none where it had no effect."""
    meta, message_id = redaction.event.meta, redaction.event.payload.get("message_id")
    at = fold.evolving.index.get(message_id) if isinstance(message_id, str) else None
    if at is None or fold.evolving.messages[at].redacted_by != meta["event_id"]:
        return []
    # A fork may have inherited the message, and an id that was forgotten may have come a second time.
    told = fold.evolving.parent is None and not fold.arbiter.forgotten
    return [(fold.arbiter.decided.get(message_id or "", 0) if told else 0, redaction.version - 1)]


def _fingerprint(record: Record) -> str:
    """Digest of a record with its times: a log that was rewound and written again has other ones, be the bytes the same."""
    times = f"{record.recorded_at} {record.origin or ''}".encode()
    return sha256(prefixed(record.key) + prefixed(record.value) + times).hexdigest()


def _refused(stream_id: str, version: int, lineage: tuple[str, ...]) -> str | None:
    """Why the last stream of a lineage cannot go on from another one; None where it can."""
    if version and stream_id in lineage:
        return "form a cycle"
    return f"go deeper than {LINEAGE_MAX} levels" if len(lineage) > LINEAGE_MAX else None


def _composes(ancestors: Sequence[Ancestor], lineage: tuple[str, ...]) -> bool:
    """Whether a fold from the beginning would go through these ancestors too, without a cycle and not too deep."""
    for above in ancestors:
        if _refused(above.stream_id, above.version, lineage):
            return False
        lineage = (*lineage, above.stream_id)
    return True

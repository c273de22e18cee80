"""A log, opened for appending and reading."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from ctxlog.client.context import Context
from ctxlog.client.deciding import Decision
from ctxlog.client.options import Encoded
from ctxlog.client.watching import Watch
from ctxlog.codec.framing import PREFIX_BYTES_MAX
from ctxlog.errors import (
    IndeterminateError,
    InvalidInputError,
    LineageError,
    LogBusyError,
    RecordTooLargeError,
    StorageError,
)
from ctxlog.log.protocol import EventLog, OutcomeUnknownError, SchemaIds
from ctxlog.log.publication import Publisher, wait_until_shown
from ctxlog.model.outcomes import Acknowledged, Committed
from ctxlog.model.points import Point, parse_point
from ctxlog.model.records import MAX_RECORD_BYTES, NewRecord, Position
from ctxlog.model.selection import APPROXIMATE_TOKENS, Selection, TokenCounter, Window
from ctxlog.model.state import ContextState
from ctxlog.replay.cuts import Cut, cut_of
from ctxlog.replay.replayer import Outcome, Replayer, Seen, StreamCursor
from ctxlog.replay.snapshots import SnapshotStore
from ctxlog.replay.summaries import StreamSummary, matching, summarize

T = TypeVar("T")

CURSORS_MAX = 64
"""Streams whose fold a log keeps at hand, so that a read costs what was appended since the last one."""


class Follower(Protocol):
    """Whoever reads a stream on by itself; it is nobody else's while it appends.

    Attributes:
        cursor: How far it has read.
    """

    cursor: StreamCursor

    def see(self, outcomes: Sequence[Outcome], version: int) -> None:
        """Take what a record brought about, as `Replayer.advance` tells it."""
        ...


_NOT_FOUND = "the log took them, and none is found in the stream"


class ContextLog:
    """A log, opened. Threads may share one; `close` it, or use it in a `with` statement.

    Args:
        log: The backend. `ContextLog.open` builds one from a URL.
        snapshots: Where folds are kept to save work; None keeps none.
        registry: Whose ids frame what is appended; None frames with the schemas' fingerprints.
        cloudevents: Whether records get the headers of CloudEvents.
    """

    def __init__(
        self,
        log: EventLog,
        snapshots: SnapshotStore | None = None,
        registry: SchemaIds | None = None,
        cloudevents: bool = False,
    ) -> None:
        self.log = log
        self.snapshots = snapshots
        self.registry = registry
        self.cloudevents = cloudevents
        # Kept in a forked child: it reads what its parent wrote before the fork, however late the log shows it.
        self._written: dict[int, int] = {}
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._replayer = Replayer(self.log, self.snapshots)
        self._publisher = Publisher(self.log, self._replayer.reader, self.registry)
        self._cursors: OrderedDict[str, StreamCursor] = OrderedDict()
        self._lock = threading.RLock()
        self._written_lock = threading.Lock()  # Its own, so that appends do not wait for a long read.

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """Open a log.

        Args:
            url: `embedded:PATH` (created on first use), `kafka://HOST:PORT` or `memory:`; without it the environment's
                `CTXLOG_URL`, then `log` in `./ctxlog.toml`, then `embedded:.ctxlog`.

        Raises:
            LogOpenError: There is no log that can be opened; the message gives the reasons.
        """
        from ctxlog.wiring import open_log

        return cls(*open_log(url))

    @property
    def replayer(self) -> Replayer:
        """Reads contexts up to any point."""
        if self._pid != os.getpid():
            self._start()  # A forked child shares no lock with its parent.
        return self._replayer

    def context(self, stream_id: str, *, agent_id: str | None = None, actor: str | None = None) -> Context:
        """One context. It is born with its first event; nothing is written here.

        Args:
            stream_id: By convention `AGENT/THREAD`, `AGENT`, `shared/NAME` or `decisions/AGENT`.
            agent_id: Who owns it; by the convention where not given.
            actor: Who writes; `agent:AGENT` where not given, `system:ctxlog` where there is no agent.

        Raises:
            InvalidInputError: An id is not allowed.
        """
        return Context(self, stream_id, agent_id=agent_id, actor=actor)

    def decision(
        self,
        kind: str,
        *,
        agent: str,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
    ) -> Decision:
        """A decision to be made inside a `with` statement: what is read there is recorded, and what came of it.

        An error inside is recorded by the name of its type, and goes on. An outer decision is the inner one's cause.

        Args:
            kind: What sort of decision it is.
            agent: Who decides; it is recorded in `decisions/AGENT`.
            model, parameters: The model that is asked, and with what; parameters are anything that JSON can carry.
            correlation_id: What belongs together; everything that is appended inside gets it too.

        Raises:
            InvalidInputError: An argument cannot be used.
        """
        return Decision(self, kind, agent, model, parameters, correlation_id)

    def streams(self, pattern: str = "*", *, progress: Callable[[int], None] | None = None) -> Iterator[StreamSummary]:
        """The streams whose name matches a shell pattern (`agent/*`; `*` matches `/` too), by name.

        `progress` is told how many are done.
        """
        for done, stream_id in enumerate(self.matching(pattern), 1):
            summary = summarize(self.replayer, stream_id)
            if summary is not None:
                yield summary
            if progress is not None:
                progress(done)

    def matching(self, pattern: str = "*") -> list[str]:
        """Names of the streams that match a shell pattern, sorted."""
        self._settle()
        return matching(self.log, pattern)

    def window(self, selection: Selection, *, counter: TokenCounter = APPROXIMATE_TOKENS) -> dict[str, Window]:
        """The parts of several contexts that a model gets to see, by stream; expiry is judged now.

        Each context is read by itself: what others write meanwhile may be in one and not in another.

        Args:
            selection: Which streams, and what of each. A stream that is named and does not exist has an empty part; a pattern
                that none matches brings none.
            counter: Counts tokens.

        Raises:
            InvalidInputError: The selection names no streams, or more than 100.
        """
        from ctxlog.client.windows import windows

        return windows(self, selection, counter)

    def cut(self, pattern: str = "*", at: str | int | Point = "latest") -> Cut:
        """The version of each matching stream at a point, from which `cut:FILE` replays the same states again.

        Raises:
            PointError: The point names a place in one stream only, or a stream has no such point.
            IntegrityError: What the log holds cannot be folded, or is not what it was when the cut was made.
        """
        self._settle()
        return cut_of(self.replayer, pattern, parse_point(at) if isinstance(at, str | int) else at)

    def resolve(self, error: IndeterminateError) -> Committed:
        """Find out what became of an append whose outcome could not be known.

        Looks for the append in the stream, and appends the same bytes again where it was not decided: the first copy decides,
        whichever that is, and another is a duplicate. Looking comes first because a stream forgets ids after 65,536 others, and
        would then accept a second copy.

        Raises:
            InvalidInputError: It is an append to another log; nothing was appended.
            ConflictError, AbandonedError: It was not accepted, and will not be.
            IndeterminateError: It cannot be known yet; call again.
        """
        if error.log_id != self.log.log_id:
            raise InvalidInputError(
                f"stream {error.stream_id!r}: the append went to log {error.log_id}, this is log {self.log.log_id}; "
                "nothing was appended. Open that log and resolve it there."
            )
        replayer = self.replayer
        partition = replayer.reader.partition(error.stream_id)
        watch = Watch(error.event_ids, one=error.conditional)
        try:
            cursor = self._from_zero(error.stream_id, self._caught_up(partition), watch)
            records = watch.undecided(error.records)
            if records:
                # Somebody else may append them too, here and now; then one of the two is a duplicate.
                self._send(records)
                replayer.advance(cursor, self._caught_up(partition), seen=watch)
        except (OutcomeUnknownError, StorageError, LogBusyError) as cause:
            raise self._unknown(error.stream_id, error.records, error.event_ids, error.conditional, cause) from cause
        done = watch.result(error.stream_id, partition, error.event_ids, "what the append asked for")
        if done is None:
            raise self._unknown(error.stream_id, error.records, error.event_ids, error.conditional, _NOT_FOUND)
        return done

    def close(self) -> None:
        """Let go of the log's files and connections."""
        try:
            self.log.close()
        finally:
            if self.snapshots is not None:
                self.snapshots.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(self, stream_id: str) -> ContextState:
        return self._look(stream_id, lambda cursor: cursor.fold.state())

    def _look(self, stream_id: str, take: Callable[[StreamCursor], T]) -> T:
        """What is taken from the stream's newest fold. Raises what says why there is no state, if there is none."""
        with self._holding(stream_id) as end:  # Another thread may read the same cursor on.
            cursor = self._read_on(stream_id, end)
            if cursor.fold.failure is not None:
                raise cursor.fold.failure
            return take(cursor)

    def _read(self, stream_id: str) -> StreamCursor:
        """The stream's cursor, read on to the end of its partition and to all that this log wrote."""
        with self._holding(stream_id) as end:
            return self._read_on(stream_id, end)

    @contextlib.contextmanager
    def _holding(self, stream_id: str, end: int | None = None) -> Iterator[int]:
        """Hold the cursors, once the log shows what a read of the stream needs; the end of its partition, or one that was given.

        What is slow to show is waited for before, so that reads of other streams go on.
        """
        end = self._end(stream_id) if end is None else end
        settled = False
        while True:
            with self._lock:
                if settled or stream_id in self._cursors:
                    yield end
                    return
            self._settle()  # A fork reads its parent in another partition.
            settled = True

    def _read_on(self, stream_id: str, end: int, seen: Seen | None = None) -> StreamCursor:
        """The stream's cursor, read on to `end`, by whoever is `_holding` it."""
        cursor = self._cursors.pop(stream_id, None) or self._replayer.open(stream_id, end=end)
        self._replayer.advance(cursor, end, seen=seen)
        # Kept only now: a cursor whose reading failed half-way is not used again. Nor is one without its parent's state:
        # the parent may come.
        if not isinstance(cursor.fold.failure, LineageError):
            self._cursors[stream_id] = cursor
        if len(self._cursors) > CURSORS_MAX:
            self._cursors.popitem(last=False)
        return cursor

    def _end(self, stream_id: str) -> int:
        """Where the stream's partition ends, once it shows what was written here. Raises `BelowHorizonError`, `StorageError`."""
        replayer = self.replayer  # A forked child takes a lock of its own from here on: its parent's may be held for ever.
        end, partition = replayer.end(stream_id), replayer.reader.partition(stream_id)
        return end if end >= self._written.get(partition, 0) else self._caught_up(partition)

    def _caught_up(self, partition: int) -> int:
        """Wait until the partition shows what was written here; its end then. Raises `StorageError`."""
        return wait_until_shown(self.log, partition, self._written.get(partition, 0) - 1)

    def _settle(self) -> None:
        """Wait until every partition shows what was written here."""
        for partition in list(self._written):
            self._caught_up(partition)

    def _unknown(
        self, stream_id: str, records: Sequence[NewRecord], event_ids: Sequence[str], conditional: bool, cause: object
    ) -> IndeterminateError:
        return IndeterminateError(
            self.log.log_id, stream_id, records, event_ids, conditional=conditional, cause=str(cause).rstrip(".")
        )

    def _send(self, records: Sequence[NewRecord]) -> list[Position]:
        placed = self.log.append(records)
        with self._written_lock:
            for position, _ in placed:
                self._written[position.partition] = max(self._written.get(position.partition, 0), position.offset + 1)
        return [position for position, _ in placed]

    def _append(
        self,
        stream_id: str,
        encoded: Sequence[Encoded],
        event_ids: Sequence[str],
        *,
        conditional: bool,
        expected: str,
        follower: Follower | None = None,
    ) -> Committed | Acknowledged:
        partition = self.replayer.reader.partition(stream_id)
        key, publisher = stream_id.encode(), self._publisher
        for event in encoded:
            size = len(key) + len(event.body) + PREFIX_BYTES_MAX + sum(len(name) + len(value) for name, value in event.headers)
            if size > MAX_RECORD_BYTES:
                raise RecordTooLargeError(stream_id, size, MAX_RECORD_BYTES)
        publisher.ensure(partition, {event.type_name for event in encoded})
        records = [
            NewRecord(partition, key, publisher.prefix(partition, event.type_name) + event.body, None, event.headers)
            for event in encoded
        ]
        try:
            positions = self._send(records)
        except OutcomeUnknownError as error:
            raise self._unknown(stream_id, records, event_ids, conditional, error) from error
        self._replayer.reader.passed(positions)
        if not conditional:
            return Acknowledged(positions[0], tuple(event_ids))
        try:
            done = self._read_back(stream_id, positions, event_ids, expected, follower)
        except (StorageError, LogBusyError) as error:  # The records are in the log; what it decided cannot be read.
            raise self._unknown(stream_id, records, event_ids, conditional, error) from error
        if done is None:
            raise self._unknown(stream_id, records, event_ids, conditional, _NOT_FOUND)
        return done

    def _read_back(
        self, stream_id: str, positions: Sequence[Position], event_ids: Sequence[str], expected: str, follower: Follower | None
    ) -> Committed | None:
        """What the log decided about an append, read from its own records. None: it cannot be seen."""
        (partition, first), last = positions[0], positions[-1].offset
        end = self._caught_up(partition)
        watch = Watch(event_ids)
        if follower is not None:
            passed = follower.cursor.next_offset > first
            self._replayer.advance(follower.cursor, end, seen=_both(watch, follower.see))
        else:
            with self._holding(stream_id, end) as end:
                cursor = self._cursors.get(stream_id)
                # Another thread of this process may have read past the records between the append and here.
                passed = cursor is not None and cursor.next_offset > first
                if not passed:
                    if cursor is None:
                        # Not from a snapshot that another process has taken since: it would hide the records to be seen.
                        self._cursors[stream_id] = self._replayer.open(stream_id, end=first)
                    self._read_on(stream_id, end, watch)
        if passed or watch.repeated:
            # Repeated: the same ids were appended before, and what became of them stands further up.
            watch = Watch(event_ids)
            self._from_zero(stream_id, max(last + 1, self._caught_up(partition)), watch)
        return watch.result(stream_id, partition, event_ids, expected)

    def _from_zero(self, stream_id: str, end: int, watch: Watch) -> StreamCursor:
        """A cursor from the stream's beginning to `end`, past a watch."""
        cursor = self.replayer.open(stream_id, end=0)
        self.replayer.advance(cursor, end, seen=watch)
        return cursor


def _both(one: Seen, other: Seen) -> Seen:
    def seen(outcomes: Sequence[Outcome], version: int) -> None:
        one(outcomes, version)
        other(outcomes, version)

    return seen

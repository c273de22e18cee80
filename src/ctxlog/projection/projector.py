"""The projector: from a log to its views, each record exactly once.

    where the partitions end (fixed first) -> records -> rows -> one transaction with the progress -> the next batch

It starts where the view file says and nowhere else. Where the log is not the one that was projected, it refuses; where disk or
brokers are away, nothing is skipped: what was not kept is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ctxlog.codec.partition import PartitionContext
from ctxlog.errors import BelowHorizonError, ViewsError, ViewsMemoryError
from ctxlog.log.protocol import EventLog
from ctxlog.log.resuming import digest_of, is_same
from ctxlog.model.records import EventRecord, Record
from ctxlog.projection.custom import Projection, SqlViews
from ctxlog.projection.custom_tables import CustomTables
from ctxlog.projection.rows import Batch
from ctxlog.projection.store import Progress, Step, ViewStore
from ctxlog.projection.streams import Residents, Stream, forget_texts
from ctxlog.replay.collecting import uncollected

BATCH_RECORDS = 10_000
BATCH_BYTES = 32 * 1024 * 1024
"""What one transaction holds at most. Larger ones gain little, and are what is done again after a kill."""


class Fetched(NamedTuple):
    """Records of a partition that were read and are not in the file yet.

    Attributes:
        partition: The partition.
        records: The first ones that are not in the file.
        end: Where the partition ended, as it was asked for.
        whole: Whether these are all below `end`.
    """

    partition: int
    records: list[Record]
    end: int
    whole: bool


class Projector:
    """Projects partitions of a log into a view file.

    Args:
        log: The log.
        path: The view file, made where there is none.
        partitions: Which ones; all where not given.
        projections: What people added (`custom.py`); what the file has of others is dropped.
        anew: Name of one of them that is made anew even where it did not change.

    Attributes:
        custom: What was added, and what became of it.
        records: How many it has projected.

    Raises:
        ProjectionError: One of the projections is not in order, or failed at an event.
        ViewsError: See `ViewStore`; or the log is not the one that was projected.
    """

    def __init__(
        self,
        log: EventLog,
        path: Path,
        partitions: Iterable[int] | None = None,
        projections: Sequence[Projection | SqlViews] = (),
        *,
        anew: str | None = None,
    ) -> None:
        self.log = log
        self.path = path
        self.records = 0
        self.store = ViewStore(path, log.log_id, log.partitions)
        self._residents = Residents()
        self._contexts: dict[int, PartitionContext] = {}
        self._progress: dict[int, Progress] = {}
        self._assigned: frozenset[int] = frozenset()
        self._turn = 0
        self._pending: dict[int, tuple[int, int]] = {}
        self._projections = projections
        try:
            self.custom = CustomTables(self.store, projections, anew=anew)
            self.assign(range(log.partitions) if partitions is None else partitions)
        except BaseException:
            self.store.close()
            raise

    @property
    def partitions(self) -> list[int]:
        """Those that it projects."""
        return sorted(self._contexts)

    @property
    def next_offsets(self) -> dict[int, int]:
        """How far each of them is: all below is in the file."""
        return {partition: progress.next_offset for partition, progress in self._progress.items()}

    def assign(self, partitions: Iterable[int]) -> None:
        """Project these partitions from now on, and no others; each from where its progress says."""
        wanted = self._assigned = frozenset(partitions)
        for partition in self._contexts.keys() - wanted:
            del self._contexts[partition], self._progress[partition]
            self._residents.clear(partition)
        known = self.store.progress()
        for partition in sorted(wanted - self._contexts.keys()):
            progress = known.get(partition, Progress())
            self._check(partition, progress)
            context = PartitionContext(partition)
            for record in self.store.controls(partition):
                context.take(record)
            self._contexts[partition], self._progress[partition] = context, progress

    def _check(self, partition: int, progress: Progress) -> None:
        """See that the log still is what was projected: the last record is read again and compared."""
        first, last = self.log.bounds(partition).first, progress.last_offset
        if first > 0:
            raise BelowHorizonError(partition, first)
        if not is_same(self.log, partition, next_offset=progress.next_offset, last_offset=last, last_digest=progress.last_digest):
            raise ViewsError(
                f"{self.path}: partition {partition} of {self.log.url} is not what was projected: record {last} is another "
                "one or gone; nothing was changed. The log was truncated, rewound or replaced: `ctxlog verify` it against a "
                "manifest or a copy, then make the views anew with `ctxlog projector rebuild`."
            )

    def run_once(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Project everything up to the ends that the partitions have now; the number of records.

        Args:
            progress: Told how many offsets are done, and of how many.
        """
        ends = {partition: self.log.bounds(partition).end for partition in self.partitions}
        total = sum(end - self._progress[partition].next_offset for partition, end in ends.items())
        before = self.records
        while self._step(ends):
            if progress is not None:
                left = sum(end - self._progress[partition].next_offset for partition, end in ends.items())
                progress(total - left, total)
        return self.records - before

    def _step(self, ends: dict[int, int]) -> bool:
        try:
            return self.step(ends)
        except ViewsMemoryError:
            self.restart()
            return True

    def step(self, ends: dict[int, int]) -> bool:
        """Project one batch of what lies below `ends`; whether there was anything.

        After an error the file and what is in memory are as they were before, once `restart` was called.
        """
        fetched = self.fetch(ends)
        if fetched:
            self.keep(fetched)
        return bool(fetched)

    def fetch(self, ends: Mapping[int, int]) -> list[Fetched]:
        """Read the next batch of what lies below `ends`, and change nothing.

        Partitions take turns: the one behind the one that filled the last batch is first, so that none waits for the end of
        another's backlog.
        """
        with uncollected():
            return self._fetch(ends)

    def _fetch(self, ends: Mapping[int, int]) -> list[Fetched]:
        found = []
        room, size = BATCH_RECORDS, 0
        for partition in sorted(ends.keys() & self._progress.keys(), key=lambda number: (number < self._turn, number)):
            start, end = self._progress[partition].next_offset, ends[partition]
            if start >= end:
                continue
            records = []
            for record in islice(self.log.read(partition, start, end), room):
                records.append(record)
                size += len(record.value or b"") + len(record.key or b"")
                if size >= BATCH_BYTES:
                    break
            room -= len(records)
            full = room <= 0 or size >= BATCH_BYTES
            found.append(Fetched(partition, records, end, not full))
            if full:
                self._turn = partition + 1
                break
        return found

    def keep(self, fetched: Sequence[Fetched]) -> None:
        """Make what was fetched rows, in one transaction.

        After an error the file is as it was before, and what is in memory is once `restart` was called.
        """
        with uncollected():
            self._keep(fetched)

    def _keep(self, fetched: Sequence[Fetched]) -> None:
        batch, steps = Batch(), {}
        for partition, records, end, whole in fetched:
            steps[partition] = self._take(batch, partition, records, end, whole=whole)
        also = None
        if self.custom.live:
            spans = {
                partition: (self._progress[partition].next_offset, step.progress.next_offset) for partition, step in steps.items()
            }
            also = partial(self.custom.add, spans)
        self._pending = {one.partition: (steps[one.partition].progress.next_offset, len(one.records)) for one in fetched}
        self.store.commit(batch, steps, datetime.now(UTC).replace(tzinfo=None), also)
        self._residents.put(list(batch.streams.values()))
        self._progress.update((partition, step.progress) for partition, step in steps.items())
        self._pending = {}
        self.records += batch.records

    def _take(self, batch: Batch, partition: int, records: Sequence[Record], end: int, *, whole: bool) -> Step:
        context = self._contexts[partition]
        streams = self._streams(partition, context, records)
        batch.take(context, records, lambda _, stream_id: streams[stream_id])
        done, last = self._progress[partition], records[-1] if records else None
        if last is None:
            return Step(done._replace(next_offset=end), end, None)
        progress = Progress(end if whole else last.offset + 1, last.offset, digest_of(last))
        return Step(progress, end, context.believed(last).time)

    def _streams(self, partition: int, context: PartitionContext, records: Iterable[Record]) -> dict[str, Stream]:
        """The streams of some records, as they are before the first of them."""
        found: dict[str, Stream] = {}
        missing = []
        for stream_id in _stream_ids(records):
            stream = self._residents.get(partition, stream_id)
            if stream is None:
                missing.append(stream_id)
            else:
                found[stream_id] = stream
        loaded, held = self.store.load(partition, missing)
        for stream in loaded:
            stream_id = stream.arbiter.stream_id
            self._hold_again(context, stream, held.get(stream_id, ()))
            found[stream_id] = stream
        for stream_id in missing:
            if stream_id not in found:
                found[stream_id] = Stream(stream_id, partition)
        return found

    def _hold_again(self, context: PartitionContext, stream: Stream, held: Iterable[tuple[str, int, int]]) -> None:
        """Read what open appends hold from the log."""
        opened: dict[tuple[str, int], list[EventRecord]] = {}
        for append_id, count, offset in held:
            record = next(self.log.read(context.partition, offset, offset + 1), None)
            event = None if record is None else context.decode(record)
            if not isinstance(event, EventRecord):
                raise ViewsError(
                    f"{self.path}: record {context.partition}@{offset} of {self.log.url} is not what was projected; nothing was "
                    "changed. Make the views anew with `ctxlog projector rebuild`."
                )
            forget_texts(event)
            opened.setdefault((append_id, count), []).append(event)
        for (append_id, count), events in opened.items():
            stream.arbiter.hold(append_id, count, events)

    def restart(self) -> None:
        """Begin again at what the file says, after an error. Where this fails too, it can be called again."""
        partitions = self._assigned
        self.reopen()
        self.assign(partitions)

    def reopen(self) -> None:
        """Open the file anew, without a look at the log: nothing is projected until `restart` or `assign`."""
        self.store.close()
        self._contexts.clear()
        self._progress.clear()
        self._residents.clear()
        self.store = ViewStore(self.path, self.log.log_id, self.log.partitions, self.store.memory_mb)
        self.custom = CustomTables(self.store, self._projections)
        # A commit that failed in its checkpoint was kept, and what it holds is not read again.
        known = self.store.progress()
        for partition, (next_offset, records) in self._pending.items():
            if partition in known and known[partition].next_offset >= next_offset:
                self.records += records
        self._pending = {}

    def close(self) -> None:
        """Let go of the file."""
        self.store.close()


def _stream_ids(records: Iterable[Record]) -> Iterator[str]:
    for key in {record.key: None for record in records}:
        if key is not None:
            try:
                yield key.decode()
            except UnicodeDecodeError:
                continue

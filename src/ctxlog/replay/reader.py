"""One stream of a log, decoded: the control records of its partition first, then its own records by key."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from ctxlog.codec.control import Control
from ctxlog.codec.partition import PartitionContext
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import BelowHorizonError, GenesisError
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import CONTROL_KEY, EventRecord, Position, Record, Rejected

LOOK_RECORDS = 64
"""Offsets that the first look for a late record takes; each further one takes twice as many."""

_BEFORE_ALL = -(2**63)


class LogReader:
    """Decodes the records of a log. Keeps each partition's control state, and reads on from where it stands.

    Raises:
        BelowHorizonError: A partition has lost its first records.
        GenesisError: A partition has no genesis, or another one than partition 0.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self._contexts = {partition: PartitionContext(partition) for partition in range(log.partitions)}
        self._lock = threading.Lock()
        # By partition of a copy: an offset, and the time of an event that no event below the offset is later than. Threads may
        # each set it to what they found: every pair is true by itself.
        self._latest = dict.fromkeys(self._contexts, (0, _BEFORE_ALL))
        for partition in range(log.partitions):
            found = self._genesis(partition, self.check_horizon(partition))
            if found is None:
                raise GenesisError(
                    f"{log.url}: partition {partition} has no genesis of rules that this release knows; nothing was read. "
                    "Restore the log from a copy, or install the ctxlog that wrote it."
                )
            if (found.data["log_id"], found.data["partitions"]) != (log.log_id, log.partitions):
                raise GenesisError(
                    f"{log.url}: partition {partition} belongs to another log than the one that was opened; nothing was read."
                )

    def _genesis(self, partition: int, end: int) -> Control | None:
        """What a partition begins with, nearly always in its first record; all others are read when they are needed."""
        return self.context(partition, min(end, 1)).genesis or self.context(partition, end).genesis

    def partition(self, stream_id: str) -> int:
        """The partition of a stream."""
        return partition_of(stream_id.encode(), self.log.partitions)

    def context(self, partition: int, end: int) -> PartitionContext:
        """The control state of a partition, with all control records below `end` taken."""
        context = self._contexts[partition]
        with self._lock:
            if context.next_offset < end:
                for record in self.log.read(partition, context.next_offset, end, key=CONTROL_KEY):
                    context.take(record)
                context.next_offset = max(context.next_offset, end)
        return context

    def passed(self, positions: Sequence[Position]) -> None:
        """Told where events were appended in a partition, so that control records are not looked for there."""
        (partition, first), end = positions[0], positions[-1].offset + 1
        context = self._contexts[partition]
        with self._lock:
            if context.next_offset == first and end - first == len(positions):
                context.next_offset = end

    def known(self, partition: int) -> PartitionContext:
        """The control state of a partition as far as it was taken, without looking at the log."""
        return self._contexts[partition]

    def check_horizon(self, partition: int) -> int:
        """Refuse to fold a suffix; where the partition ends. Raises `BelowHorizonError`."""
        first, end = self.log.bounds(partition)
        if first > 0:
            raise BelowHorizonError(partition, first)
        return end

    def records(self, stream_id: str, start: int, end: int) -> Iterator[tuple[Record, EventRecord | Rejected]]:
        """The records of one stream at `start` <= offset < `end`, each with what it decodes to."""
        partition = self.partition(stream_id)
        context = self.context(partition, end)
        for record in self.log.read(partition, start, end, key=stream_id.encode()):
            yield context.believed(record), context.decode(record)

    def has_later(self, partition: int, time_ms: int, end: int) -> bool:
        """Whether an event of a partition, below its `end`, is later than a time; for copies, whose times follow no order.

        Control records below `end` must have been taken.
        Looks from the end backwards, as late events mostly stand there. A record that was looked at in vain is not read again.
        """
        (below, latest), context = self._latest[partition], self.known(partition)
        stop, step = end, LOOK_RECORDS
        while latest <= time_ms and below < stop:
            start = max(below, stop - step)
            for record in self.log.read(partition, start, stop):
                if record.key != CONTROL_KEY:
                    latest = max(latest, context.believed(record).time)
            stop, step = start, 2 * step
        self._latest[partition] = (below if latest > time_ms else max(below, end), latest)
        return latest > time_ms

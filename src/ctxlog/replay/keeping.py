"""Stream index and snapshots, kept by a process that reads all of a log anyway, so that replay at any point of it is fast.

Both are caches: whatever goes wrong with them here costs somebody else's time later, and nothing else.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence

from ctxlog.errors import CtxlogError
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import CONTROL_KEY, Record
from ctxlog.replay.index import IndexedLog
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SNAPSHOT_BYTES, SNAPSHOT_EVENTS, SnapshotStore


class CacheKeeper:
    """Told what was read of a log, keeps what its index and its snapshots lack of it.

    Args:
        log: The log, behind its index where it has one.
        snapshots: Where folds are kept; None keeps none.
    """

    def __init__(self, log: EventLog, snapshots: SnapshotStore | None) -> None:
        self._log = log
        self._snapshots = snapshots
        self._replayer: Replayer | None = None
        self._events: Counter[bytes] = Counter()
        self._bytes: Counter[bytes] = Counter()

    def note(self, partition: int, start: int, records: Sequence[Record], next_offset: int) -> None:
        """Take what was read of a partition: all its records at `start` <= offset < `next_offset`."""
        if isinstance(self._log, IndexedLog):
            self._log.take(partition, start, records, next_offset)
        if self._snapshots is None:
            return
        for record in records:
            if record.key is not None and record.key != CONTROL_KEY:
                self._events[record.key] += 1
                self._bytes[record.key] += len(record.value or b"")
        for key in {record.key for record in records if record.key is not None}:
            if self._events[key] >= SNAPSHOT_EVENTS or self._bytes[key] >= SNAPSHOT_BYTES:
                del self._events[key], self._bytes[key]
                with contextlib.suppress(CtxlogError, UnicodeDecodeError):
                    self._fold(key.decode(), partition, next_offset)

    def _fold(self, stream_id: str, partition: int, end: int) -> None:
        """Fold a stream on from its last snapshot; the replayer keeps new ones on the way."""
        if self._replayer is None:
            self._replayer = Replayer(self._log, self._snapshots)
        if self._replayer.reader.partition(stream_id) == partition:
            self._replayer.advance(self._replayer.open(stream_id, end=end), end)

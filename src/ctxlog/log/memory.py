"""The reference log: lists in memory. It is what the other backends are compared with, and nothing outlives the process."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from ctxlog.codec.control import encode_control, genesis
from ctxlog.errors import LogClosedError
from ctxlog.log.protocol import Bounds
from ctxlog.model.records import NewRecord, Placed, Position, Record


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryLog:
    """A log in memory, for tests and for trying things out.

    Args:
        partitions: Number of partitions.
        clock: Gives milliseconds since 1970 UTC. Log time never goes back, whatever it gives.
        offset_step: Distance between offsets; above 1 the offsets have gaps, as on Kafka with transactions.
    """

    def __init__(self, partitions: int = 1, *, clock: Callable[[], int] = _now_ms, offset_step: int = 1) -> None:
        self.url = "memory:"
        self.log_id = str(uuid.uuid4())
        self.partitions = partitions
        self._clock = clock
        self._step = offset_step
        self._records: list[list[Record]] = [[] for _ in range(partitions)]
        self._changed = threading.Condition()
        self._closed = False
        self.append([encode_control(partition, genesis(self.log_id, None, partitions)) for partition in range(partitions)])

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        """See `EventLog.append`."""
        with self._changed:
            self._check_open()
            now = self._clock()
            placed = []
            for new in records:
                partition = self._records[new.partition]
                offset = partition[-1].offset + self._step if partition else 0
                recorded_at = max(now, partition[-1].recorded_at) if partition else now
                partition.append(Record(new.partition, offset, recorded_at, new.key, new.value, new.origin))
                placed.append(Placed(Position(new.partition, offset), recorded_at))
            self._changed.notify_all()
            return placed

    def bounds(self, partition: int) -> Bounds:
        """See `EventLog.bounds`."""
        with self._changed:
            self._check_open()
            records = self._records[partition]
            return Bounds(records[0].offset, records[-1].offset + 1) if records else Bounds(0, 0)

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        """See `EventLog.read`."""
        with self._changed:
            self._check_open()
            records = list(self._records[partition])
        for record in records:
            if start <= record.offset < end and (key is None or record.key == key):
                yield record

    def offset_at(self, partition: int, time_ms: int) -> int:
        """See `EventLog.offset_at`."""
        with self._changed:
            self._check_open()
            for record in self._records[partition]:
                if record.recorded_at >= time_ms:
                    return record.offset
        return self.bounds(partition).end

    def keys(self, partition: int) -> Iterator[bytes]:
        """See `EventLog.keys`."""
        with self._changed:
            self._check_open()
            seen = dict.fromkeys(record.key for record in self._records[partition] if record.key is not None)
        return iter(seen)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        """See `EventLog.wait`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.bounds(partition).end > end, timeout_seconds)
            return self.bounds(partition).end

    def close(self) -> None:
        """See `EventLog.close`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosedError("the log in memory was closed; nothing was read or appended")

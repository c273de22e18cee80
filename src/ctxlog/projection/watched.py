"""The log of a projector that runs: while it is waited for, a stop breaks nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from ctxlog.log.protocol import Bounds, EventLog
from ctxlog.model.records import NewRecord, Placed, Record


class Waits(Protocol):
    """Whose `waiting` says whether it waits for the log."""

    waiting: bool


class WatchedLog(EventLog):
    """The log, which says while it is waited for that a stop breaks nothing."""

    def __init__(self, log: EventLog, running: Waits) -> None:
        self.url, self.log_id, self.partitions = log.url, log.log_id, log.partitions
        self._log = log
        self._running = running

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._running.waiting = True
        try:
            yield
        finally:
            self._running.waiting = False

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        return self._log.append(records)

    def bounds(self, partition: int) -> Bounds:
        with self._waiting():
            return self._log.bounds(partition)

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        running = self._running
        running.waiting = True
        try:
            for record in self._log.read(partition, start, end, key=key):
                running.waiting = False
                yield record
                running.waiting = True
        finally:
            running.waiting = False

    def offset_at(self, partition: int, time_ms: int) -> int:
        with self._waiting():
            return self._log.offset_at(partition, time_ms)

    def keys(self, partition: int) -> Iterator[bytes]:
        return self._log.keys(partition)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        with self._waiting():
            return self._log.wait(partition, end, timeout_seconds)

    def close(self) -> None:
        self._log.close()

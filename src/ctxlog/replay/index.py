"""The stream index: one stream of a partition without reading the others. Kept by tailing, and never the truth.

    read by key -> catch up (what is new in the partition, once) -> the stream's records, side by side in one SQLite file

A log on a broker knows no keys: to find one stream, somebody has to read its whole partition. The index does so once a machine
and keeps what it read, so that the next question costs what the stream costs. It may be deleted at any time; it is resumed after
a kill, made again where the log is not the one that was read, and passed over where it cannot be written. Every row has a
checksum and names the one before it, so what comes out is what the log gave, whole, or the log itself is read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ctxlog.errors import CtxlogError
from ctxlog.log.embedded.connections import Connections
from ctxlog.log.embedded.file import result_code
from ctxlog.log.protocol import Bounds, EventLog
from ctxlog.log.resuming import digest_of, is_same
from ctxlog.model.records import NewRecord, Origin, Placed, Record

DIRECT_OFFSETS_MAX = 2_000
"""A range that short is read from the log: a writer reads its own last records, which are no scan."""

BATCH_RECORDS = 5_000
BATCH_BYTES = 8 * 1024 * 1024
"""What one transaction of a catch-up holds: so much is read again after a kill."""

PAGE_BYTES = 4 * 1024 * 1024
"""About what one read fetches at once."""

BUSY_SECONDS = 5.0
"""How long a write waits for another process."""

TRIES = 2
"""Another process may make the file anew between two questions. Where it happens again, the log itself is read."""

YIELD_SECONDS = 0.1
"""Where another process catches up too, this one waits as long as that one gets on."""

FORMAT = 1
"""Of the file. One of another format is made anew."""

OFFSET_BITS = 38
"""A row's id is its stream's number and its offset: 2^38 offsets a partition, 2^25 streams. Rows of a stream lie side by side."""

_TABLES = f"""
BEGIN IMMEDIATE;
DROP TABLE IF EXISTS records;
DROP TABLE IF EXISTS streams;
DROP TABLE IF EXISTS progress;
CREATE TABLE streams (id INTEGER PRIMARY KEY, partition INTEGER NOT NULL, key BLOB NOT NULL, last INTEGER NOT NULL,
    UNIQUE (partition, key));
CREATE TABLE records (id INTEGER PRIMARY KEY, recorded_at INTEGER NOT NULL, value BLOB, origin TEXT, before INTEGER NOT NULL,
    checksum INTEGER NOT NULL);
CREATE TABLE progress (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, records INTEGER NOT NULL,
    last_offset INTEGER NOT NULL, last_digest BLOB NOT NULL);
PRAGMA user_version = {FORMAT};
COMMIT;
"""


class IndexProgress(NamedTuple):
    """How far the index has come in a partition.

    Attributes:
        partition: The partition.
        next_offset: All records below it are there.
        records: Number of records that were read.
        last_offset: Offset of the last of them; -1 where there is none.
        last_digest: Its digest, by which another log is told from this one.
    """

    partition: int
    next_offset: int = 0
    records: int = 0
    last_offset: int = -1
    last_digest: bytes = b""


class _DamagedError(CtxlogError):
    """A row is not what was written."""


_FAILURES = (sqlite3.Error, OSError, _DamagedError, ValueError, TypeError)
"""What a file can cause that is not as it was written; SQLite's messages from it may not even be text."""


class _PassedError(Exception):
    """Another process has got on with the partition."""


class _BehindError(Exception):
    """The file does not hold any more what this process saw in it: another process has made it anew."""


class IndexedLog:
    """A log whose reads by key go through an index. All else is the log's own.

    Args:
        log: The log. Only its records by key are kept, under its id: another log needs another file.
        path: The file; made on first use, readable by its owner alone.

    Attributes:
        log: The log itself.
        scanning: Told how many offsets of a long catch-up are done, and of how many; None tells nobody.
    """

    def __init__(self, log: EventLog, path: Path) -> None:
        self.log = log
        self.url, self.log_id, self.partitions = log.url, log.log_id, log.partitions
        self.scanning: Callable[[int, int], None] | None = None
        self.path = path.absolute()
        self._off = False
        self._trusted: dict[int, int] = {}
        self._lock = threading.Lock()
        _ALL.add(self)
        self._connections = Connections(self._connect, f"{log.url}: the log was closed; nothing was read. Open it again.")

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        """See `EventLog.append`."""
        return self.log.append(records)

    def bounds(self, partition: int) -> Bounds:
        """See `EventLog.bounds`."""
        return self.log.bounds(partition)

    def offset_at(self, partition: int, time_ms: int) -> int:
        """See `EventLog.offset_at`."""
        return self.log.offset_at(partition, time_ms)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        """See `EventLog.wait`."""
        return self.log.wait(partition, end, timeout_seconds)

    def close(self) -> None:
        """See `EventLog.close`."""
        self._connections.close()
        self.log.close()

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        """See `EventLog.read`. With `key` the index is used, unless the range is short."""
        start = max(start, 0)  # A fork from version 0 asks for the record at -1, which no row can stand for.
        if key is not None and start < end:
            short = end - start <= DIRECT_OFFSETS_MAX and self._trusted.get(partition, 0) < end
            if not short and not self._off:
                end = min(end, self.log.bounds(partition).end)
                for _ in range(TRIES):
                    if not self._ready(partition, end):
                        break
                    try:
                        for record in self._select(partition, start, end, key):
                            yield record
                            start = record.offset + 1
                        return
                    except _BehindError:
                        self._trusted.pop(partition, None)
                    except _FAILURES as error:
                        self._pass_over(error)
                        break
        yield from self.log.read(partition, start, end, key=key)

    def keys(self, partition: int) -> Iterator[bytes]:
        """See `EventLog.keys`."""
        end = self.log.bounds(partition).end
        for _ in range(TRIES):
            if not self._ready(partition, end):
                break
            try:
                with self._connections.reading() as connection:
                    rows = connection.execute(
                        "SELECT streams.key FROM progress LEFT JOIN streams ON streams.partition = progress.partition"
                        " WHERE progress.partition = ? AND progress.next_offset >= ?",
                        (partition, end),
                    ).fetchall()
            except _FAILURES as error:
                self._pass_over(error)
                break
            if rows:
                return iter([bytes(key) for (key,) in rows if key is not None])
            self._trusted.pop(partition, None)
        return self.log.keys(partition)

    def take(self, partition: int, start: int, records: Sequence[Record], next_offset: int) -> None:
        """Keep what somebody has read anyway: all records of a partition at `start` <= offset < `next_offset`, in their order.

        Whatever goes wrong costs time only.
        """
        if self._off:
            return
        try:
            with self._lock:
                if partition not in self._trusted:
                    self._check(partition)
                self._catch_up(partition, start)
                done = self._progress(partition)
                if done.next_offset < next_offset:
                    news = [record for record in records if record.offset >= done.next_offset]
                    with contextlib.suppress(_PassedError):
                        self._trusted[partition] = self._store(done, news, next_offset).next_offset
        except _FAILURES as error:
            self._pass_over(error)

    def progress(self) -> list[IndexProgress]:
        """How far it has come in each partition; empty where nothing can be kept."""
        try:
            with self._connections.reading() as connection:
                return [IndexProgress(*row) for row in connection.execute("SELECT * FROM progress ORDER BY partition")]
        except _FAILURES as error:
            self._pass_over(error)
            return []

    def _pass_over(self, error: Exception) -> None:
        """Whatever is wrong with the file is no error for who reads: the log has it all."""
        if isinstance(error, sqlite3.OperationalError) and result_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return  # The next read tries again.
        self._off = True
        if isinstance(error, sqlite3.OperationalError | OSError):  # Full, not allowed: nothing is wrong with what is there.
            return
        with contextlib.suppress(OSError):  # The next process makes it anew.
            for leftover in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + leftover).unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=0o600)
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            if connection.execute("PRAGMA user_version").fetchone() != (FORMAT,):
                connection.executescript(_TABLES)
        except BaseException:
            connection.close()
            raise
        return connection

    def _ready(self, partition: int, end: int) -> bool:
        """Catch up with a partition; whether all records below `end` are there."""
        if self._off:
            return False
        if self._trusted.get(partition, -1) >= end:
            return True
        try:
            with self._lock:
                if partition not in self._trusted:
                    self._check(partition)
                self._catch_up(partition, end)
        except _FAILURES as error:
            self._pass_over(error)
            return False
        return True

    def _check(self, partition: int) -> None:
        """See that the log is still the one that was read; begin again where it is not."""
        done = self._progress(partition)
        if not is_same(
            self.log, partition, next_offset=done.next_offset, last_offset=done.last_offset, last_digest=done.last_digest
        ):
            with self._connections.writing() as connection:
                connection.executescript(_TABLES)
            self._trusted.clear()

    def _progress(self, partition: int) -> IndexProgress:
        with self._connections.reading() as connection:
            row = connection.execute("SELECT * FROM progress WHERE partition = ?", (partition,)).fetchone()
        return IndexProgress(partition) if row is None else IndexProgress(*row)

    def _catch_up(self, partition: int, end: int) -> None:
        while (done := self._progress(partition)).next_offset < end:
            try:
                self._read_on(done, end)
            except _PassedError:
                self._let_pass(partition, end)
                if self._progress(partition) == done:
                    raise OSError("another file was put in the place of the one that this process writes") from None
        self._trusted[partition] = done.next_offset

    def _let_pass(self, partition: int, end: int) -> None:
        """Wait while another process does the work."""
        last = -1
        while last < (now := self._progress(partition).next_offset) < end:
            last = now
            time.sleep(YIELD_SECONDS)

    def _read_on(self, done: IndexProgress, end: int) -> None:
        first, tell = done.next_offset, self.scanning
        batch: list[Record] = []
        size = 0
        for record in self.log.read(done.partition, first, end):
            batch.append(record)
            size += len(record.value or b"")
            if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
                done = self._store(done, batch, record.offset + 1)
                batch, size = [], 0
                if tell is not None:
                    tell(done.next_offset - first, end - first)
        self._store(done, batch, end)
        if tell is not None:
            tell(end - first, end - first)

    def _store(self, done: IndexProgress, batch: Sequence[Record], next_offset: int) -> IndexProgress:
        """Keep a batch, with the progress that it makes. Raises `_PassedError` where another process was first."""
        last = batch[-1] if batch else None
        new = IndexProgress(
            done.partition,
            next_offset,
            done.records + len(batch),
            last.offset if last else done.last_offset,
            digest_of(last) if last else done.last_digest,
        )
        with self._connections.writing() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                row = connection.execute("SELECT * FROM progress WHERE partition = ?", (done.partition,)).fetchone()
                if (IndexProgress(done.partition) if row is None else IndexProgress(*row)) != done:
                    raise _PassedError
                connection.executemany(
                    "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", self._rows(connection, done.partition, batch)
                )
                connection.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)", new)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise
        return new

    def _rows(self, connection: sqlite3.Connection, partition: int, batch: Sequence[Record]) -> Iterator[tuple[object, ...]]:
        streams: dict[bytes, tuple[int, int]] = {}
        for record in batch:
            key = record.key
            if key is None:
                continue  # Nobody can ask for it by key.
            number, before = streams[key] if key in streams else _stream(connection, partition, key)
            streams[key] = number, record.offset
            origin = None if record.origin is None else str(record.origin)
            checksum = _checksum(partition, key, record.offset, before, record.recorded_at, record.value, origin)
            yield number << OFFSET_BITS | record.offset, record.recorded_at, record.value, origin, before, checksum
        connection.executemany(
            "UPDATE streams SET last = ? WHERE id = ?", [(last, number) for number, last in streams.values()]
        )  # fmt: skip

    def _select(self, partition: int, start: int, end: int, key: bytes) -> Iterator[Record]:
        with self._connections.reading() as connection:
            row = connection.execute(
                "SELECT streams.id, streams.last FROM progress LEFT JOIN streams ON streams.partition = progress.partition"
                " AND streams.key = ? WHERE progress.partition = ? AND progress.next_offset >= ?",
                (key, partition, end),
            ).fetchone()
        if row is None:
            raise _BehindError
        (number, last), limit = row, 64
        if number is None:
            return
        base, expected = number << OFFSET_BITS, None
        while start <= last:
            with self._connections.reading() as connection:
                rows = connection.execute(
                    "SELECT id, recorded_at, value, origin, before, checksum FROM records WHERE id >= ? AND id <= ?"
                    " ORDER BY id LIMIT ?",
                    (base + start, base + last, limit),
                ).fetchall()
            size = 1
            for row_id, recorded_at, value, origin, before, checksum in rows:
                offset = row_id - base
                if checksum != _checksum(partition, key, offset, before, recorded_at, value, origin):
                    raise _DamagedError
                # The first one comes after a record below `start`, each further one after the one that was just given.
                if before >= start if expected is None else before != expected:
                    raise _DamagedError
                if offset >= end:
                    return
                expected = offset
                size += len(value or b"")
                yield Record(partition, offset, recorded_at, key, value, None if origin is None else Origin.parse(origin))
                start = offset + 1
            if not rows:
                raise _DamagedError
            limit = max(16, min(4096, PAGE_BYTES * limit // size))


_ALL: weakref.WeakSet[IndexedLog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in _ALL:
        log._lock = threading.Lock()  # Another thread of the parent may have held it.


os.register_at_fork(after_in_child=_after_fork_in_child)


def _stream(connection: sqlite3.Connection, partition: int, key: bytes) -> tuple[int, int]:
    """A stream's number, and the offset of its last record; -1 where there is none yet."""
    row = connection.execute("SELECT id, last FROM streams WHERE partition = ? AND key = ?", (partition, key)).fetchone()
    if row is None:
        row = connection.execute(
            "INSERT INTO streams (partition, key, last) VALUES (?, ?, -1) RETURNING id, last", (partition, key)
        ).fetchone()
    if row[0] >= 1 << 63 - OFFSET_BITS:
        raise sqlite3.OperationalError("more streams than the index has numbers for")
    return int(row[0]), int(row[1])


def _checksum(
    partition: int, key: bytes, offset: int, before: int, recorded_at: int, value: bytes | None, origin: str | None
) -> int:
    head = b"%d %d %d %d %d %b %b" % (partition, offset, before, recorded_at, value is None, key, (origin or "").encode())
    return zlib.crc32(value or b"", zlib.crc32(head))

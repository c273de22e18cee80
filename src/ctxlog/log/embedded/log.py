"""The embedded log on SQLite: write-ahead log, one writer at a time, any number of readers.

One transaction an append: it takes the write lock, sees the last offset, time and link of each partition, and inserts. So
offsets have no gaps, log time never goes back, and each record is tied to the one before it. COMMIT returns when the disk has
it (`synchronous=FULL`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ctxlog.errors import IntegrityError, LogBusyError, LogOpenError, StorageError
from ctxlog.log.embedded import file
from ctxlog.log.embedded.connections import Connections
from ctxlog.log.embedded.file import OFFSET_BITS, link_of
from ctxlog.log.protocol import Bounds, OutcomeUnknownError, StorageProblem
from ctxlog.model.records import NewRecord, Origin, Placed, Position, Record

_OFFSET_MASK = (1 << OFFSET_BITS) - 1

_VALUES = (bytes, type(None))

PAGE_BYTES = 4 * 1024 * 1024
"""About what one read fetches at once: enough to be fast, little beside a process's memory."""

POLL_SECONDS = 0.02
"""How often `wait` looks. SQLite tells nobody about commits; a look costs some 10 µs."""

_SELECT = "SELECT r.id, r.recorded_at, s.key, r.value, r.origin{} FROM records r JOIN streams s ON s.id = r.stream"


class EmbeddedLog:
    """A log in one SQLite file. Threads may share one; it lives on in both processes of a fork.

    Args:
        path: Folder of the log; the file in it is `log.sqlite`.
        create: Create the log where there is none.
        partitions: For a new log; an existing one keeps its own.

    Raises:
        LogOpenError: There is no log and `create` is False, or what is there is no log or may not be read.
        StorageError: The log cannot be created.
    """

    def __init__(self, path: Path | str, *, create: bool = True, partitions: int = 1) -> None:
        self.folder = Path(path)
        self.url = f"embedded:{path}"
        self._file = (self.folder / file.LOG_FILE).absolute()  # Connections are made later, maybe from another directory.
        try:
            there = self._file.exists()
        except OSError as error:
            raise LogOpenError(f"{self.folder}: cannot be opened: {error.strerror}. Nothing was created.") from error
        if not there:
            if not create:
                raise LogOpenError(f"{self.folder}: there is no log here; nothing was created. `ctxlog init` creates one.")
            file.create(self._file, partitions)
        self.log_id, self.partitions = file.check(self._file)
        self._identity = self._file_identity()
        self._taken = [0] * self.partitions  # Where each partition ended after the last append of this process.
        closed = f"{self.folder}: the log was closed; nothing was read or appended. Open it again."
        self._connections = Connections(partial(file.connect, self._file), closed)

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        """See `EventLog.append`. Here it is atomic too: all of the records or none."""
        try:
            with self._connections.writing() as connection:
                return self._append(connection, records)
        except sqlite3.Error as error:
            raise self._failure(error, "nothing was appended") from error

    def _append(self, connection: sqlite3.Connection, records: Sequence[NewRecord]) -> list[Placed]:
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._check_identity("nothing was appended")
            placed = self._insert(connection, records)
            try:
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise OutcomeUnknownError(f"{self.folder}: the commit failed: {error}") from error
            for (partition, offset), _ in placed:
                self._taken[partition] = offset + 1
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        return placed

    def _check_identity(self, done: str) -> None:
        """SQLite goes on with a file that has no name any more: what it writes is lost, what it reads is no truth."""
        if self._file_identity() != self._identity:
            raise StorageError(f"{self._file}: the file was deleted or replaced; {done}. Open the log again.")

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _insert(self, connection: sqlite3.Connection, records: Sequence[NewRecord]) -> list[Placed]:
        now = time.time_ns() // 1_000_000
        last: dict[int, tuple[int, int, bytes]] = {}
        streams: dict[bytes, int] = {}
        placed, rows = [], []
        for new in records:
            partition = new.partition
            if partition not in last:
                last[partition] = self._last(connection, partition)
            offset, recorded_at, link = last[partition]
            record = Record(partition, offset + 1, max(now, recorded_at), new.key, new.value, new.origin)
            link = link_of(link, record)
            last[partition] = (record.offset, record.recorded_at, link)
            if new.key not in streams:
                streams[new.key] = self._stream(connection, new.key)
            origin = str(new.origin) if new.origin else None
            rows.append((partition << OFFSET_BITS | record.offset, streams[new.key], record.recorded_at, new.value, origin, link))
            placed.append(Placed(Position(partition, record.offset), record.recorded_at))
        connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", rows)
        return placed

    def _last(self, connection: sqlite3.Connection, partition: int) -> tuple[int, int, bytes]:
        if not 0 <= partition < self.partitions:
            raise ValueError(f"partition {partition} of a log that has {self.partitions}")
        row = connection.execute(
            "SELECT id, recorded_at, link FROM records WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1", _span(partition)
        ).fetchone()
        return (-1, 0, b"") if row is None else (row[0] & _OFFSET_MASK, row[1], row[2])

    def _stream(self, connection: sqlite3.Connection, key: bytes) -> int:
        row = connection.execute("SELECT id FROM streams WHERE key = ?", (key,)).fetchone()
        if row is None:
            row = connection.execute("INSERT INTO streams (key) VALUES (?) RETURNING id", (key,)).fetchone()
        return int(row[0])

    def _failure(self, error: sqlite3.Error, done: str) -> LogBusyError | StorageError | IntegrityError:
        if isinstance(error, sqlite3.ProgrammingError):  # Closed before a fork, which a signal handler made inside an append.
            return StorageError(f"{self.folder}: a fork came between; {done}. Try again.")
        if not isinstance(error, sqlite3.OperationalError) or "decode" in str(error):  # Text in the file is not UTF-8.
            return IntegrityError(f"{self.folder}: the file is damaged: {error}; {done}. Restore it from a copy.")
        code = file.result_code(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LogBusyError(
                f"{self.folder}: another process wrote for longer than {file.BUSY_SECONDS:.0f} s; {done}. Try again."
            )
        if code == sqlite3.SQLITE_READONLY:
            return StorageError(
                f"{self.folder}: this process may read the log and not write it; {done}. "
                f"Give its user the right to write the folder and {file.LOG_FILE}, and open the log again."
            )
        return StorageError(f"{self.folder}: {error}; {done}. Check the disk and try again.")

    def bounds(self, partition: int) -> Bounds:
        """See `EventLog.bounds`. Whoever reads asks this first, so this is where a file that was replaced is noticed."""
        first, last = self._query(
            "SELECT (SELECT min(id) FROM records WHERE id BETWEEN ?1 AND ?2),"
            " (SELECT max(id) FROM records WHERE id BETWEEN ?1 AND ?2)",
            _span(partition),
        )[0]
        self._check_identity("nothing was read")
        return Bounds(0, 0) if first is None else Bounds(first & _OFFSET_MASK, (last & _OFFSET_MASK) + 1)

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        """See `EventLog.read`. With `key` the index is used, and only its records are touched."""
        for record, _ in self.read_linked(partition, start, end, key=key):
            yield record

    def read_linked(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[tuple[Record, bytes]]:
        """As `read`, each record with the link that is stored with it, for verification."""
        base, start = partition << OFFSET_BITS, max(start, 0)
        where = " WHERE r.id >= ? AND r.id < ?"
        if key is not None:
            where += " AND r.stream = (SELECT id FROM streams WHERE key = ?)"
        statement = _SELECT.format(", r.link") + where + " ORDER BY r.id LIMIT ?"
        limit = 64
        while start < end:
            bound = (base | start, base | min(end, _OFFSET_MASK), *(() if key is None else (key,)), limit)
            rows = self._query(statement, bound)
            size = 1
            for row_id, recorded_at, row_key, value, origin, link in rows:
                start = (row_id & _OFFSET_MASK) + 1
                if not (type(row_key) is type(link) is bytes and type(recorded_at) is int) or not (
                    type(value) in _VALUES and (origin is None or type(origin) is str)
                ):
                    raise IntegrityError(
                        f"{self.folder}: record {partition}@{start - 1} holds values of other types than a log writes; "
                        "nothing was read. Restore the log from a copy."
                    )
                size += len(value) if value is not None else 0
                first = None if origin is None else self._origin(origin, f"{partition}@{start - 1}")
                yield Record(partition, start - 1, recorded_at, row_key, value, first), link
            if len(rows) < limit:
                return
            limit = max(16, min(4096, PAGE_BYTES * limit // size))

    def _origin(self, text: str, place: str) -> Origin:
        try:
            return Origin.parse(text)
        except ValueError:
            raise IntegrityError(
                f"{self.folder}: record {place}: its origin cannot be read; nothing was read. Restore the log from a copy."
            ) from None

    def offset_at(self, partition: int, time_ms: int) -> int:
        """See `EventLog.offset_at`. Log time never goes back here, so a binary search finds it."""
        low, high = self.bounds(partition)
        while low < high:
            middle = (low + high) // 2
            row = self._query(
                "SELECT id, recorded_at FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                (partition << OFFSET_BITS | middle, partition << OFFSET_BITS | high),
            )
            if not row or row[0][1] >= time_ms:
                high = middle
            else:
                low = (row[0][0] & _OFFSET_MASK) + 1
        return low

    def keys(self, partition: int) -> Iterator[bytes]:
        """See `EventLog.keys`."""
        rows = self._query(
            "SELECT key FROM streams s WHERE EXISTS (SELECT 1 FROM records r WHERE r.stream = s.id AND r.id BETWEEN ? AND ?)"
            " ORDER BY id",
            _span(partition),
        )
        self._check_identity("nothing was read")
        return (key for (key,) in rows)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        """See `EventLog.wait`."""
        if self._taken[partition] > end:
            self._connections.check_open()
            self._check_identity("nothing was read")
            return self._taken[partition]
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self.bounds(partition).end
            left = deadline - time.monotonic()
            if found > end or left <= 0:
                return found
            time.sleep(min(POLL_SECONDS, left))

    def problems(self) -> Iterator[StorageProblem]:
        """Check the file: SQLite's own structures, the offsets without gaps, and every record's link to the one before it."""
        try:
            rows = self._query("PRAGMA integrity_check(20)")
        except IntegrityError as error:
            rows = [(str(error),)]
        for (text,) in rows:
            if text != "ok":
                yield StorageProblem("file", "a sound SQLite file", text)
        for (row_id,) in self._query("SELECT id FROM records WHERE id < 0 OR id >= ?", (self.partitions << OFFSET_BITS,)):
            yield StorageProblem(f"record {row_id >> OFFSET_BITS}@{row_id & _OFFSET_MASK}", "no such partition", "a record")
        for partition in range(self.partitions):
            yield from self._problems(partition)

    def _problems(self, partition: int) -> Iterator[StorageProblem]:
        offset, recorded_at, link, end = 0, 0, b"", self.bounds(partition).end
        try:
            for record, stored in self.read_linked(partition, 0, end):
                if record.offset != offset:
                    yield StorageProblem(f"record {partition}@{offset}", "a record", f"none before {partition}@{record.offset}")
                elif record.recorded_at < recorded_at:
                    yield StorageProblem(_place(record), f"a time from {recorded_at} ms", f"{record.recorded_at} ms")
                elif (expected := link_of(link, record)) != stored:
                    yield StorageProblem(_place(record), f"link {stored.hex()}", expected.hex())
                offset, recorded_at, link = record.offset + 1, record.recorded_at, stored
        except IntegrityError as error:
            yield StorageProblem(f"record {partition}@{offset}", "a record that can be read", str(error))
        else:
            if offset < end:
                yield StorageProblem(f"record {partition}@{offset}", "a record", "none")

    def close(self) -> None:
        """See `EventLog.close`."""
        self._connections.close()

    def _query(self, statement: str, bound: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._connections.reading() as connection:
                return connection.execute(statement, bound).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error, "nothing was read") from error


def _place(record: Record) -> str:
    key = (record.key or b"").decode(errors="backslashreplace")
    return f"record {record.partition}@{record.offset} of stream {key!r}"


def _span(partition: int) -> tuple[int, int]:
    return partition << OFFSET_BITS, partition << OFFSET_BITS | _OFFSET_MASK

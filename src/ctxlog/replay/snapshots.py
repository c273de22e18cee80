"""Snapshots: folds kept to save work. Derived, and thrown away without loss; whatever is wrong with one, replay starts earlier.

A snapshot is a header and lists of chunks. Chunks are content-addressed, so what did not change since the last snapshot is
neither encoded nor stored again. And a snapshot waits until the records since the last one amount to a share of what that one
wrote: so the file grows with what was appended, not with the number of snapshots times the state, and the work that is left is
bounded by events and bytes, or by a share of what reading a snapshot costs. None of them is ever thinned out: replay at an early
point needs early ones. A chunk goes with the last snapshot of the last stream that uses it.

When a reader comes past a redaction, the snapshots between the message and its redaction are dropped, SQLite overwrites what it
deletes, and the file keeps none of these versions any more. That is housekeeping, not erasure: the log keeps the text, and who
asks for a version before the redaction gets it. The work must be bounded there too, so snapshots of these versions are kept in
memory. Forks from before the redaction keep what they inherited.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ctxlog.core.arbitration import RULES
from ctxlog.core.digests import sha256
from ctxlog.core.evolve import FOLD_VERSION
from ctxlog.core.fold import StreamFold
from ctxlog.model.state import Parent
from ctxlog.replay.chunks import Chunks, cut, encoded, fill, read

SNAPSHOT_EVENTS = 1_000
"""A fold leaves a snapshot after this many records: some 10 ms of work that the next one saves."""

SNAPSHOT_BYTES = 1024 * 1024
"""… or after records of this many bytes, so that few large events are bounded too."""

SNAPSHOT_SHARE = 2
"""… and, where the last snapshot wrote much, only after records of one part in so many of that. Keeps the cache small."""

SNAPSHOT_FREE_BYTES = 64 * 1024
"""What a snapshot may write without that: less than `SNAPSHOT_EVENTS` records have."""

MEMORY_BYTES = 64 * 1024 * 1024
"""Most that a process keeps in memory of snapshots that must not be in the file. When it is full, it is thrown away."""

BUSY_SECONDS = 2.0
"""How long one call waits for another process. The next ones do not wait until one got through."""

FORMAT = 4
"""Of the file. One of another format is made anew."""

_MEMORY = Path(":memory:")
T = TypeVar("T")

_TABLES = f"""
BEGIN IMMEDIATE;
DROP TABLE IF EXISTS chunks;
DROP TABLE IF EXISTS uses;
DROP TABLE IF EXISTS snapshots;
DROP TABLE IF EXISTS redacted;
CREATE TABLE chunks (digest BLOB PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE uses (digest BLOB, log_id TEXT, stream_id TEXT, PRIMARY KEY (digest, log_id, stream_id)) WITHOUT ROWID;
CREATE TABLE snapshots (
    log_id TEXT NOT NULL, stream_id TEXT NOT NULL, version INTEGER NOT NULL, rules INTEGER NOT NULL, fold INTEGER NOT NULL,
    offset INTEGER NOT NULL, time_max INTEGER NOT NULL, header BLOB NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (log_id, stream_id, version, rules, fold)
);
CREATE TABLE redacted (log_id TEXT, stream_id TEXT, last INTEGER, first INTEGER, PRIMARY KEY (log_id, stream_id, last, first))
    WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
COMMIT;
"""


class Ancestor(NamedTuple):
    """A stream that a fork goes on from, directly or not: the version, and the record at which it took effect there."""

    stream_id: str
    version: int
    offset: int
    record: str


class Snapshot(NamedTuple):
    """A fold as it stood after the record at `offset`.

    `record` is the fingerprint of that record: it vouches for those before it too, because a log that was rewound gives other
    times to what is written again. `ancestors` are a fork's parent, its parent, and so on: whoever goes on from this stream
    counts their levels. `time_max` is the latest time of all records up to it (ms), `held` the offsets of the records that open
    appends hold, by append id with the append's count. `chunks` is what the next snapshot builds on, `written` the bytes that
    this one took.
    """

    fold: StreamFold
    offset: int
    time_max: int
    record: str
    held: list[tuple[str, int, list[int]]]
    ancestors: Sequence[Ancestor]
    chunks: Chunks
    written: int = 0


class SnapshotStore:
    """Snapshots in one SQLite file, shared by the processes of a machine. A failure of the file turns the store off,
    but not that it is busy: that call does nothing, and the next one tries again.

    Args:
        path: The file; made on first use. None keeps them in memory.
    """

    def __init__(self, path: Path | None) -> None:
        # The connection is made later, maybe from another directory.
        self._path = _MEMORY if path is None else path.absolute()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._off = False
        self._busy = False
        self._unclean = False
        self._in_memory: SnapshotStore | None = None
        _STORES.add(self)

    def save(self, log_id: str, snapshot: Snapshot) -> Snapshot:
        """Keep a snapshot; the same, with what the next one builds on."""
        fold = snapshot.fold
        stream_id = fold.arbiter.stream_id
        chunks, encodings = cut(fold, snapshot.chunks)
        fresh = {bytes.fromhex(digest): zlib.compress(text, 1) for digest, text in encodings.items()}
        written = sum(map(len, fresh.values()))
        header = json.dumps(
            {
                "written": written,
                "head": fold.head.hex(),
                "effect": [fold.effect_offset, fold.effect_time],
                "rejected": fold.rejected,
                "closed": fold.evolving.closed,
                "parent": fold.evolving.parent,
                "forgotten": fold.arbiter.forgotten,
                "record": snapshot.record,
                "held": snapshot.held,
                "ancestors": snapshot.ancestors,
                "sections": {name: [chunk.digest for chunk in parts.values()] for name, parts in chunks.items()},
            }
        ).encode()
        row = (log_id, stream_id, fold.version, RULES, FOLD_VERSION, snapshot.offset, snapshot.time_max)
        packed, digest = zlib.compress(header, 1), sha256(_sealed(row, header)).digest()

        # REPLACE: what is there already may be damaged, and is the same otherwise.
        def write(connection: sqlite3.Connection) -> bool:
            connection.execute("BEGIN IMMEDIATE")
            inside = "SELECT 1 FROM redacted WHERE log_id = ? AND stream_id = ? AND last >= ? AND first <= ?"
            if connection.execute(inside, (log_id, stream_id, fold.version, fold.version)).fetchone():
                return False
            there = "SELECT header FROM snapshots WHERE log_id = ? AND stream_id = ? AND version = ? AND rules = ? AND fold = ?"
            replaced = connection.execute(there, row[:5]).fetchone()
            used = "SELECT 1 FROM uses JOIN chunks USING (digest) WHERE digest = ? AND log_id = ? AND stream_id = ?"
            for chunk in (chunk for parts in chunks.values() for chunk in parts.values()):
                key = bytes.fromhex(chunk.digest)
                if key not in fresh and not connection.execute(used, (key, log_id, stream_id)).fetchone():
                    fresh[key] = zlib.compress(encoded(chunk.items), 1)  # Another process has dropped it.
            connection.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?)", fresh.items())
            connection.executemany("INSERT OR REPLACE INTO uses VALUES (?, ?, ?)", [(key, log_id, stream_id) for key in fresh])
            connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, packed, digest))
            if replaced not in (None, (packed,)):  # An earlier record at the same version.
                _sweep(connection, log_id, stream_id, replaced)
            connection.execute("COMMIT")
            return True

        snapshot = snapshot._replace(chunks=chunks)
        if self._use(write) is False:
            if self._in_memory is None or self._in_memory._off:  # Full.
                self._in_memory = SnapshotStore(None)
            self._in_memory.save(log_id, snapshot)
        return snapshot._replace(written=written + len(packed))

    def load(
        self,
        log_id: str,
        fold: StreamFold,
        *,
        end: int,
        version_max: int | None,
        time_max: int | None,
        version_min: int = 0,
    ) -> Snapshot | None:
        """Fill `fold`, which is new, from the latest snapshot within the limits; None where there is none.

        Args:
            log_id: The log of the stream.
            fold: A fold that nothing was offered to; left untouched where there is no snapshot.
            end: The snapshot has read no record at or above this offset.
            version_max: It is at most at this version.
            time_max: None of its records is later, in ms.
            version_min: It is at least at this version.
        """
        versions = (version_min, 2**62 if version_max is None else version_max)
        limits = (log_id, fold.arbiter.stream_id, *versions, RULES, FOLD_VERSION, end, 2**62 if time_max is None else time_max)

        def read(connection: sqlite3.Connection) -> Snapshot | None:
            rows = connection.execute(
                "SELECT log_id, stream_id, version, rules, fold, offset, time_max, header, digest FROM snapshots WHERE log_id = ?"
                " AND stream_id = ? AND version BETWEEN ? AND ? AND rules = ? AND fold = ? AND offset < ? AND time_max <= ?"
                " ORDER BY version DESC LIMIT 2",
                limits,
            ).fetchall()
            for *row, packed, digest in rows:
                try:
                    found = self._restore(connection, fold, tuple(row), zlib.decompress(packed), digest)
                    return found._replace(written=found.written + len(packed))
                except (ValueError, LookupError, TypeError, zlib.error):
                    continue  # Damaged: an earlier one, or none, gives the same state with more work.
            return None

        found = self._use(read)
        if self._in_memory is None:
            return found
        later = 0 if found is None else fold.version + 1
        return self._in_memory.load(log_id, fold, end=end, version_max=version_max, time_max=time_max, version_min=later) or found

    def versions(self, log_id: str, stream_id: str) -> list[int]:
        """Versions at which snapshots of a stream are in the file, oldest first."""

        def read(connection: sqlite3.Connection) -> list[int]:
            rows = connection.execute(
                "SELECT version FROM snapshots WHERE log_id = ? AND stream_id = ? AND rules = ? AND fold = ? ORDER BY version",
                (log_id, stream_id, RULES, FOLD_VERSION),
            )
            return [version for (version,) in rows]

        return self._use(read) or []

    def drop(self, log_id: str, stream_id: str, spans: Sequence[tuple[int, int]], *, redacted: bool = False) -> bool | None:
        """Forget the snapshots of a stream at these versions, first to last; whether there were any, None where it was not done.

        Those of versions that were `redacted` are not kept in the file again.
        """

        def write(connection: sqlite3.Connection) -> bool:
            connection.execute("BEGIN IMMEDIATE")
            dropped = sum([_drop(connection, log_id, stream_id, first, last) for first, last in spans])
            if redacted:
                rows = [(log_id, stream_id, last, first) for first, last in spans]
                connection.executemany("INSERT OR IGNORE INTO redacted VALUES (?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
            if dropped:
                self._clean(connection)
            return dropped > 0

        if self._in_memory is not None:
            self._in_memory.drop(log_id, stream_id, spans)
        return self._use(write)

    def close(self) -> None:
        """Let go of the file."""
        if self._in_memory is not None:
            self._in_memory.close()
        with self._lock:
            self._off = True
            if self._connection is not None:
                if self._unclean:
                    self._clean(self._connection)
                self._connection.close()

    def before_fork(self) -> None:
        """Close the connection: SQLite's do not survive a fork. The next use opens another one, in both processes."""
        self._lock.acquire()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def after_fork(self) -> None:
        """Let the others go on."""
        self._lock.release()

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do `work`, one caller at a time; None where the file is busy. Its failure ends the use of the store, and no call."""
        with self._lock:
            if self._off:
                return None
            try:
                if self._connection is None:
                    self._connection = self._connect()
                self._connection.execute(f"PRAGMA busy_timeout={0 if self._busy else int(BUSY_SECONDS * 1000)}")
                if self._unclean:
                    self._clean(self._connection)
                done = work(self._connection)
                self._busy = False
                return done
            except sqlite3.Error as error:
                self._busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                self._off = not self._busy
                return None
            finally:
                with contextlib.suppress(sqlite3.Error):
                    if self._connection is not None and self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        wait = 0.0 if self._busy else BUSY_SECONDS
        connection = sqlite3.connect(self._path, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA secure_delete=1")
            if connection.execute("PRAGMA user_version").fetchone() != (FORMAT,):
                connection.executescript(_TABLES)
            if self._path == _MEMORY:
                connection.execute(f"PRAGMA max_page_count={MEMORY_BYTES // 4096}")  # Of SQLite's pages.
        except sqlite3.Error:
            connection.close()  # Never one that was set up half: it would not overwrite what it deletes.
            raise
        return connection

    def _clean(self, connection: sqlite3.Connection) -> None:
        """Empty the write-ahead log: it still holds what was written first. While somebody reads from it, that has to wait."""
        self._unclean = True
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout=0")
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._unclean = bool(busy)

    def _restore(
        self, connection: sqlite3.Connection, fold: StreamFold, row: tuple[Any, ...], header: bytes, digest: bytes
    ) -> Snapshot:
        """Fill `fold`. Raises `ValueError`, `KeyError` or `TypeError` before anything is filled."""
        data = json.loads(header)
        if sha256(_sealed(row, header)).digest() != digest:
            raise ValueError("the snapshot is not what was saved")

        def fetch(digest: str) -> bytes:
            (packed,) = connection.execute("SELECT data FROM chunks WHERE digest = ?", (bytes.fromhex(digest),)).fetchone()
            return zlib.decompress(packed)

        chunks = read(data["sections"], fetch, data["forgotten"])
        ancestors = [Ancestor(*above) for above in data["ancestors"]]
        _, _, version, _, _, offset, time_max = row
        head, parent = bytes.fromhex(data["head"]), Parent(*data["parent"]) if data["parent"] else None
        fill(fold, chunks, version, head, data["forgotten"])
        fold.evolving.closed, fold.evolving.parent = data["closed"], parent
        fold.offset, fold.rejected = offset, data["rejected"]
        fold.effect_offset, fold.effect_time = data["effect"]
        held = [(append_id, count, offsets) for append_id, count, offsets in data["held"]]
        return Snapshot(fold, offset, time_max, data["record"], held, ancestors, chunks, data["written"])


_STORES: weakref.WeakSet[SnapshotStore] = weakref.WeakSet()
_forking: list[SnapshotStore] = []


def _before_fork() -> None:
    _forking[:] = _STORES
    for store in _forking:
        store.before_fork()


def _after_fork() -> None:
    while _forking:
        _forking.pop().after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _sealed(row: Sequence[Any], header: bytes) -> bytes:
    return json.dumps(row).encode() + b"\n" + header


def _drop(connection: sqlite3.Connection, log_id: str, stream_id: str, first: int, last: int) -> int:
    """Delete a stream's snapshots of some versions, and the chunks that nobody uses then; how many they were."""
    within = "FROM snapshots WHERE log_id = ? AND stream_id = ? AND version BETWEEN ? AND ?"
    headers = [header for (header,) in connection.execute(f"SELECT header {within}", (log_id, stream_id, first, last))]
    if headers:
        connection.execute(f"DELETE {within}", (log_id, stream_id, first, last))
        _sweep(connection, log_id, stream_id, headers)
    return len(headers)


def _sweep(connection: sqlite3.Connection, log_id: str, stream_id: str, gone: Sequence[Any]) -> None:
    """Delete the chunks of snapshots that are gone, but for those that the stream's others use, or another stream."""
    rest = connection.execute("SELECT header FROM snapshots WHERE log_id = ? AND stream_id = ?", (log_id, stream_id))
    orphans = _digests(gone) - _digests(header for (header,) in rest)
    uses = [(bytes.fromhex(digest), log_id, stream_id) for digest in orphans]
    connection.executemany("DELETE FROM uses WHERE digest = ? AND log_id = ? AND stream_id = ?", uses)
    unused = "DELETE FROM chunks WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM uses WHERE digest = ?1)"
    connection.executemany(unused, [(key,) for key, _, _ in uses])


def _digests(headers: Iterable[Any]) -> set[str]:
    """The chunks that headers name."""
    found: set[str] = set()
    for packed in headers:
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, zlib.error):  # A damaged one holds nothing.
            for digests in json.loads(zlib.decompress(packed))["sections"].values():
                found.update(digests)
    return found

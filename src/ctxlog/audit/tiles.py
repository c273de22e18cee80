"""The file that keeps Merkle trees: tiles of 256 hashes, of the leaves and of every eighth level above, and the leaves' offsets.

A tile has all that the seven levels above it need, so any node is at hand for at most 127 hashes, and a record costs 32 bytes and
what its offset compresses to. The file is a cache: derived, and thrown away without loss. Every row has a checksum, and whatever
is wrong with one is a `DamagedTilesError`, upon which the file is made anew from the log.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from ctxlog.core.merkle import HASH_BYTES, node_hash
from ctxlog.errors import CtxlogError
from ctxlog.log.embedded.connections import Connections

TILE_LEVELS = 8
"""Levels from one tile to the next one above it."""

TILE_HASHES = 1 << TILE_LEVELS
"""Hashes in a full tile."""

BUSY_SECONDS = 30.0
"""How long a write waits for another process. A batch takes a fraction of a second."""

FORMAT = 1
"""Of the file. One of another format is made anew."""

_TABLES = (
    "DROP TABLE IF EXISTS log",
    "DROP TABLE IF EXISTS progress",
    "DROP TABLE IF EXISTS tiles",
    "CREATE TABLE log (log_id TEXT NOT NULL)",
    "CREATE TABLE progress (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, size INTEGER NOT NULL,"
    " last_offset INTEGER NOT NULL, last_digest BLOB NOT NULL, checksum INTEGER NOT NULL)",
    "CREATE TABLE tiles (partition INTEGER NOT NULL, level INTEGER NOT NULL, number INTEGER NOT NULL, first_offset INTEGER,"
    " hashes BLOB NOT NULL, offsets BLOB, checksum INTEGER NOT NULL, PRIMARY KEY (partition, level, number))",
    "CREATE INDEX tiles_by_offset ON tiles (partition, level, first_offset)",
    f"PRAGMA user_version = {FORMAT}",
)


class DamagedTilesError(CtxlogError):
    """A row is not what was written."""


FAILURES = (sqlite3.Error, OSError, DamagedTilesError, ValueError, TypeError)
"""What a file can cause that is not as it was written; SQLite's messages from it may not even be text."""


class TreeProgress(NamedTuple):
    """How far a partition's tree has come.

    Attributes:
        next_offset: All records below it are in the tree.
        size: Number of leaves.
        last_offset: Offset of the last leaf's record; -1 where there is none.
        last_digest: `digest_of` of that record, by which another log is told from this one.
    """

    next_offset: int = 0
    size: int = 0
    last_offset: int = -1
    last_digest: bytes = b""


class Tile(NamedTuple):
    """Up to 256 hashes of one level, and at level 0 the offsets of their records."""

    hashes: bytes
    offsets: tuple[int, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether nobody adds to it any more."""
        return len(self.hashes) == TILE_HASHES * HASH_BYTES

    def hash(self, index: int) -> bytes:
        """One of them. Raises `DamagedTilesError` where it is not there."""
        found = self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
        if len(found) != HASH_BYTES:
            raise DamagedTilesError("a hash is missing")
        return found


def node_of(level: int, index: int, tile: Callable[[int, int], Tile]) -> bytes:
    """A complete subtree's hash, out of the tile (level and number among tiles) that has it or the hashes below it."""
    above, height = divmod(level, TILE_LEVELS)
    first = index << height
    found, start = tile(above, first // TILE_HASHES), first % TILE_HASHES
    hashes = [found.hash(start + number) for number in range(1 << height)]
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


class TileFile:
    """The trees of one log's partitions in one SQLite file, shared by the processes of a machine.

    Args:
        path: The file; made on first use, readable by its owner alone.
        log_id: The log. A file of another one is made anew.
        readonly: Make and change nothing; a file that is none of this log's is an error.
    """

    def __init__(self, path: Path, log_id: str, *, readonly: bool = False) -> None:
        self.path = path.absolute()
        self._log_id = log_id
        self._readonly = readonly
        self._connections = Connections(self._connect, f"{path}: the tree was closed; nothing was read. Open it again.")

    def progress(self, partition: int) -> TreeProgress:
        """How far a partition is."""
        with self._connections.reading() as connection:
            return _progress(connection, partition)

    def tile(self, partition: int, level: int, number: int) -> Tile:
        """A tile. Raises `DamagedTilesError` where it is not there."""
        with self._connections.reading() as connection:
            found = _tile(connection, partition, level, number)
        if found is None:
            raise DamagedTilesError("a tile is missing")
        return found

    def tile_at(self, partition: int, offset: int) -> int | None:
        """Number of the tile of level 0 in which a record at this offset would be; None where all begin later."""
        with self._connections.reading() as connection:
            row = connection.execute(
                "SELECT number FROM tiles WHERE partition = ? AND level = 0 AND first_offset <= ?"
                " ORDER BY first_offset DESC LIMIT 1",
                (partition, offset),
            ).fetchone()
        return None if row is None else int(row[0])

    @contextlib.contextmanager
    def transaction(self, partition: int) -> Iterator[TileWriter]:
        """A transaction that adds to a partition's tree: what is written in the block is kept when it ends, or nothing is."""
        with self._connections.writing() as connection, _transaction(connection):
            yield TileWriter(connection, partition)

    def clear(self) -> None:
        """Forget all that is kept."""
        with self._connections.writing() as connection, _transaction(connection):
            self._make(connection)

    def close(self) -> None:
        """Let go of the file."""
        self._connections.close()

    def delete(self) -> None:
        """Let go of the file, and take it away."""
        self.close()
        for leftover in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + leftover).unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        if self._readonly:
            connection = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
            if not self._is_ours(connection):
                connection.close()
                raise DamagedTilesError("the file is of another log or format")
            return connection
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=0o600)
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            if not self._is_ours(connection):
                with _transaction(connection):
                    if not self._is_ours(connection):  # Another process may have made it meanwhile.
                        self._make(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        if connection.execute("PRAGMA user_version").fetchone() != (FORMAT,):
            return False
        return connection.execute("SELECT log_id FROM log").fetchall() == [(self._log_id,)]

    def _make(self, connection: sqlite3.Connection) -> None:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO log VALUES (?)", (self._log_id,))


class TileWriter:
    """A transaction under way."""

    def __init__(self, connection: sqlite3.Connection, partition: int) -> None:
        self._connection = connection
        self._partition = partition

    def progress(self) -> TreeProgress:
        """How far the partition is."""
        return _progress(self._connection, self._partition)

    def tile(self, level: int, number: int) -> Tile | None:
        """A tile; None where it is not there."""
        return _tile(self._connection, self._partition, level, number)

    def put(self, level: int, number: int, tile: Tile) -> None:
        """Keep a tile, in the place of a shorter one."""
        first = tile.offsets[0] if tile.offsets else None
        offsets = _packed(tile.offsets) if tile.offsets else None
        place = self._partition, level, number
        self._connection.execute(
            "INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*place, first, tile.hashes, offsets, _checksum(*place, first, tile.hashes, offsets)),
        )

    def advance(self, progress: TreeProgress) -> None:
        """Say how far the partition is now."""
        row = self._partition, *progress
        self._connection.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?, ?)", (*row, _checksum(*row)))


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written in the block is kept when it ends, or nothing of it is."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def _progress(connection: sqlite3.Connection, partition: int) -> TreeProgress:
    row = connection.execute("SELECT * FROM progress WHERE partition = ?", (partition,)).fetchone()
    if row is None:
        return TreeProgress()
    if _checksum(*row[:-1]) != row[-1]:
        raise DamagedTilesError("the progress is not what was written")
    return TreeProgress(*row[1:-1])


def _tile(connection: sqlite3.Connection, partition: int, level: int, number: int) -> Tile | None:
    place = partition, level, number
    row = connection.execute(
        "SELECT first_offset, hashes, offsets, checksum FROM tiles WHERE partition = ? AND level = ? AND number = ?", place
    ).fetchone()
    if row is None:
        return None
    first, hashes, offsets, checksum = row
    if _checksum(*place, first, hashes, offsets) != checksum:
        raise DamagedTilesError("a tile is not what was written")
    return Tile(hashes, _unpacked(offsets) if offsets is not None else ())


def _packed(offsets: tuple[int, ...]) -> bytes:
    """Differences, because most are 1 and nothing compresses better."""
    steps = [after - before for before, after in zip((0, *offsets), offsets, strict=False)]
    return zlib.compress(struct.pack(f">{len(steps)}Q", *steps), 1)


def _unpacked(data: bytes) -> tuple[int, ...]:
    try:
        steps = struct.iter_unpack(">Q", zlib.decompressobj().decompress(data, TILE_HASHES * 8))
    except (zlib.error, struct.error) as error:
        raise DamagedTilesError("offsets are not what was written") from error
    return tuple(accumulate(step for (step,) in steps))


def _checksum(*members: object) -> int:
    found = 0
    for member in members:
        found = zlib.crc32(member if isinstance(member, bytes) else repr(member).encode(), found)
    return found

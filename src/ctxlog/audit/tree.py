"""The Merkle trees of a log, kept beside it as it grows: roots at any size, and proofs, without reading the log again.

    records -> leaves (`PartitionContext.digest`) -> tiles and progress in one transaction -> nodes -> roots and proofs

Only what is new is read. What is kept is a cache and no truth: it is resumed after a kill, made anew where it is damaged, foreign
or of a log that was cut off, and `verify` computes from the log's records alone. A proof is checked before it is given away.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import weakref
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from ctxlog.audit.tiles import (
    FAILURES,
    TILE_HASHES,
    TILE_LEVELS,
    DamagedTilesError,
    Tile,
    TileFile,
    TileWriter,
    TreeProgress,
    node_of,
)
from ctxlog.codec.partition import PartitionContext
from ctxlog.core.merkle import CompactRange, leaf_data, leaf_hash, peaks_of, root_of_peaks
from ctxlog.core.proofs import (
    ConsistencyProof,
    InclusionProof,
    check_consistency,
    check_inclusion,
    prove_consistency,
    prove_inclusion,
)
from ctxlog.errors import BelowHorizonError, InvalidInputError, LogBusyError, ProofError, StorageError
from ctxlog.log.embedded.file import result_code
from ctxlog.log.protocol import EventLog
from ctxlog.log.resuming import digest_of, is_same
from ctxlog.model.records import CONTROL_KEY, Record

BATCH_RECORDS = 5_000
BATCH_BYTES = 8 * 1024 * 1024
"""What one transaction holds: so much is read again after a kill."""

TILES_AT_HAND = 64
"""Tiles that a process keeps in memory, of 8 KiB each: a proof needs one a level, and the next one mostly the same."""

TRIES = 3
"""A file may be damaged, and the one that is made in its place not be writable."""

_REFUSALS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM)
"""SQLite's words for: nothing can be written there. Nothing is wrong with what is there, so it is left alone."""

T = TypeVar("T")


def leaf_of(context: PartitionContext, record: Record) -> bytes:
    """Hash of a record's leaf. All control records below it must have been taken."""
    origin = None if record.origin is None else str(record.origin)
    return leaf_hash(leaf_data(record.offset, record.recorded_at, origin, context.digest(record)))


class Leaves:
    """The leaves of a partition's records, in order.

    Args:
        partition: The partition.
        context: Its control state, where some of its records were taken already.
        next_offset: All records below it were.

    Attributes:
        next_offset: Where the next record stands, or behind it.
    """

    def __init__(self, partition: int, context: PartitionContext | None = None, next_offset: int = 0) -> None:
        self._context = context or PartitionContext(partition)
        self.next_offset = next_offset

    def next(self, record: Record) -> bytes:
        """The leaf of the next record."""
        leaf = leaf_of(self._context, record)
        if record.key == CONTROL_KEY:
            self._context.take(record)
        self.next_offset = record.offset + 1
        return leaf


class LogTree:
    """The trees of a log's partitions.

    Args:
        log: The log.
        path: The file that keeps them; None keeps them for as long as this is open.
    """

    def __init__(self, log: EventLog, path: Path | None) -> None:
        self.log = log
        self._lock = threading.RLock()
        self._temporary: Path | None = None
        self._file = TileFile(self._temporary_path() if path is None else path, log.log_id)
        self._leaves: dict[int, Leaves] = {}
        self._cached: OrderedDict[tuple[int, int, int], Tile] = OrderedDict()
        _ALL.add(self)

    def catch_up(self, partition: int, end: int | None = None) -> TreeProgress:
        """Take the records that are new; how far the tree is then.

        Args:
            partition: The partition.
            end: Up to where; to the partition's end where not given. A tree that is further stays as it is.

        Raises:
            BelowHorizonError: The partition has lost its first records.
            LogBusyError: Another process writes the tree for too long.
            StorageError: The tree cannot be kept anywhere.
        """
        first, bound = self.log.bounds(partition)
        if first > 0:
            raise BelowHorizonError(partition, first)
        return self._use(partition, lambda: self._catch_up(partition, bound if end is None else min(end, bound)))

    def take(self, partition: int, start: int, records: Sequence[Record], next_offset: int) -> None:
        """Take what somebody has read anyway: all records of a partition at `start` <= offset < `next_offset`, in their order."""

        def work() -> None:
            done = self._catch_up(partition, start)
            if done.next_offset < next_offset:
                self._store(partition, done, [record for record in records if record.offset >= done.next_offset], next_offset)

        self._use(partition, work)

    def progress(self, partition: int) -> TreeProgress:
        """How far the tree is, without a look at the log."""
        return self._use(partition, lambda: self._file.progress(partition))

    def root(self, partition: int, size: int) -> bytes:
        """Root of the tree as it was when it had `size` leaves.

        Raises:
            InvalidInputError: It does not have so many.
        """
        return self._use(partition, lambda: self._root(partition, size))

    def index_of(self, partition: int, offset: int) -> int:
        """Number of the leaf of the record at an offset. Offsets have gaps; leaves have none.

        Raises:
            InvalidInputError: No such record is in the tree.
        """
        return self._use(partition, lambda: self._index_of(partition, offset))

    def leaf(self, partition: int, index: int) -> bytes:
        """Hash of a leaf by its number.

        Raises:
            InvalidInputError: The tree has no such leaf.
        """

        def work() -> bytes:
            self._check_size(partition, index + 1 if index >= 0 else -1)
            return self._node(partition, 0, index)

        return self._use(partition, work)

    def offset_of(self, partition: int, leaf: int) -> int:
        """Offset of the record of a leaf.

        Raises:
            InvalidInputError: The tree has no such leaf.
        """
        return self._use(partition, lambda: self._offset_of(partition, leaf))

    def inclusion(self, partition: int, offset: int, size: int) -> InclusionProof:
        """That the record at an offset is in the tree of `size` leaves.

        Raises:
            InvalidInputError: It is not in that tree.
        """

        def work() -> InclusionProof:
            leaf, root = self._index_of(partition, offset), self._root(partition, size)
            proof = prove_inclusion(leaf, size, partial(self._node, partition))
            check_inclusion(proof, self._node(partition, 0, leaf), root)
            return proof

        return self._use(partition, work)

    def consistency(self, partition: int, old_size: int, new_size: int) -> ConsistencyProof:
        """That the tree of `new_size` leaves begins with the one of `old_size` leaves.

        Raises:
            InvalidInputError: There are no such trees.
        """

        def work() -> ConsistencyProof:
            new_root = self._root(partition, new_size)
            proof = prove_consistency(old_size, new_size, partial(self._node, partition))
            check_consistency(proof, self._root(partition, old_size), new_root)
            return proof

        return self._use(partition, work)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _use(self, partition: int, work: Callable[[], T]) -> T:
        """Do `work`. Where the file is damaged, it is made anew; where it cannot be written, another one takes its place."""
        if not 0 <= partition < self.log.partitions:
            raise InvalidInputError(f"partition {partition}: the log has {self.log.partitions}; nothing was proved")
        with self._lock:
            for attempt in range(TRIES):
                try:
                    if attempt:
                        self._catch_up(partition, self.log.bounds(partition).end)
                    return work()
                except InvalidInputError:
                    raise
                except (*FAILURES, ProofError) as error:
                    if attempt + 1 == TRIES:
                        raise StorageError(
                            f"{self._file.path}: the tree cannot be kept ({type(error).__name__}); nothing was proved. "
                            "Check the disk, and try again."
                        ) from error
                    self._replace_file(error)
            raise AssertionError("unreachable")

    def _replace_file(self, error: Exception) -> None:
        """Make the file anew, or use another one where this one cannot be written."""
        path = self._file.path
        code = result_code(error) if isinstance(error, sqlite3.Error) else None
        refused = isinstance(error, OSError) or code in _REFUSALS
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LogBusyError(f"{path}: another process writes the tree; nothing was changed. Try again.") from error
        self._leaves.clear()
        self._cached.clear()
        try:
            if not refused:
                self._file.delete()
        except OSError:
            refused = True
        self._file.close()
        self._file = TileFile(self._temporary_path() if refused else path, self.log.log_id)

    def _temporary_path(self) -> Path:
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="ctxlog-tree-"))
        return self._temporary / "tree.sqlite"

    # What follows is called with the lock held, and raises whatever the file causes.

    def _catch_up(self, partition: int, end: int) -> TreeProgress:
        done = self._file.progress(partition)
        if partition not in self._leaves and not is_same(
            self.log, partition, next_offset=done.next_offset, last_offset=done.last_offset, last_digest=done.last_digest
        ):
            self._file.clear()
            self._cached.clear()
            self._leaves.clear()
            done = TreeProgress()
        while True:
            if partition not in self._leaves or self._leaves[partition].next_offset != done.next_offset:
                self._leaves[partition] = self._leaves_from(partition, done.next_offset)
            if done.next_offset >= end:
                return done
            batch, next_offset = self._batch(self.log.read(partition, done.next_offset, end), end)
            done = self._store(partition, done, batch, next_offset)

    @staticmethod
    def _batch(records: Iterable[Record], end: int) -> tuple[list[Record], int]:
        batch: list[Record] = []
        size = 0
        for record in records:
            batch.append(record)
            size += len(record.value or b"")
            if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
                return batch, record.offset + 1
        return batch, end

    def _leaves_from(self, partition: int, next_offset: int) -> Leaves:
        context = PartitionContext(partition)
        if next_offset:
            for record in self.log.read(partition, 0, next_offset, key=CONTROL_KEY):
                context.take(record)
        return Leaves(partition, context, next_offset)

    def _store(self, partition: int, done: TreeProgress, batch: Sequence[Record], next_offset: int) -> TreeProgress:
        """Add the records to the tree, unless another process did meanwhile; how far it is then."""
        leaves = self._leaves.pop(partition)  # Of no use to anybody where this fails in between.
        with self._file.transaction(partition) as writer:
            found = writer.progress()
            if found == done:
                found = _add(writer, done, leaves, batch, next_offset)
        leaves.next_offset = max(leaves.next_offset, next_offset)
        self._leaves[partition] = leaves  # Those of another process's progress are made when they are needed.
        return found

    def _check_size(self, partition: int, size: int) -> None:
        found = self._file.progress(partition).size
        if not 0 <= size <= found:
            raise InvalidInputError(f"partition {partition}: its tree has {found} leaves, not {size}; nothing was proved")

    def _root(self, partition: int, size: int) -> bytes:
        self._check_size(partition, size)
        return root_of_peaks(peaks_of(size, partial(self._node, partition)))

    def _node(self, partition: int, level: int, index: int) -> bytes:
        return node_of(level, index, partial(self._tile, partition))

    def _tile(self, partition: int, level: int, number: int) -> Tile:
        """A tile. Only full ones are kept at hand: nobody adds to them."""
        place = partition, level, number
        tile = self._cached.pop(place, None) or self._file.tile(*place)
        if tile.is_full:
            self._cached[place] = tile
            if len(self._cached) > TILES_AT_HAND:
                self._cached.popitem(last=False)
        return tile

    def _index_of(self, partition: int, offset: int) -> int:
        number = self._file.tile_at(partition, offset)
        if number is not None:
            offsets = self._tile(partition, 0, number).offsets
            place = bisect_left(offsets, offset)
            if place < len(offsets) and offsets[place] == offset:
                return number * TILE_HASHES + place
        raise InvalidInputError(f"record {partition}@{offset}: the tree has no such record; nothing was proved")

    def _offset_of(self, partition: int, leaf: int) -> int:
        self._check_size(partition, leaf + 1 if leaf >= 0 else -1)
        offsets = self._tile(partition, 0, leaf // TILE_HASHES).offsets
        if leaf % TILE_HASHES >= len(offsets):
            raise DamagedTilesError("an offset is missing")
        return offsets[leaf % TILE_HASHES]


_ALL: weakref.WeakSet[LogTree] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for tree in _ALL:
        tree._lock = threading.RLock()  # Another thread of the parent may have held it.


os.register_at_fork(after_in_child=_after_fork_in_child)


def kept_leaves(path: Path | None, log_id: str, partition: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Offsets and hashes of the first `size` leaves as a file of trees has them, which is left as it is.

    Ends early where the file has no more of them, or none that can be read: whoever asks believes nothing of it anyway.
    """
    if path is None or not path.is_file():
        return
    file = TileFile(path, log_id, readonly=True)
    try:
        for number in range(-(-size // TILE_HASHES)):
            tile = file.tile(partition, 0, number)
            for index in range(min(TILE_HASHES, size - number * TILE_HASHES)):
                yield tile.offsets[index], tile.hash(index)
    except (*FAILURES, IndexError):
        return
    finally:
        file.close()


def _add(writer: TileWriter, done: TreeProgress, leaves: Leaves, batch: Sequence[Record], next_offset: int) -> TreeProgress:
    """Add records to the tree inside a transaction."""

    def tile(level: int, number: int) -> Tile:
        found = writer.tile(level, number)
        if found is None:
            raise DamagedTilesError("a tile is missing")
        return found

    tree = CompactRange(done.size, peaks_of(done.size, partial(node_of, tile=tile)))
    growing: dict[tuple[int, int], tuple[bytearray, list[int]]] = {}

    def put(level: int, index: int, found: bytes, offset: int | None = None) -> None:
        place = level, index // TILE_HASHES
        if place not in growing:
            begun = tile(*place) if index % TILE_HASHES else Tile(b"")
            growing[place] = bytearray(begun.hashes), list(begun.offsets)
        hashes, offsets = growing[place]
        if len(hashes) != index % TILE_HASHES * 32:
            raise DamagedTilesError("a tile has another length than the tree")
        hashes += found
        if offset is not None:
            offsets.append(offset)

    for record in batch:
        index = tree.size
        completed = tree.append(leaves.next(record))
        put(0, index, completed[0], record.offset)
        for above in range(1, (len(completed) - 1) // TILE_LEVELS + 1):
            put(above, index >> above * TILE_LEVELS, completed[above * TILE_LEVELS])
    for (level, number), (hashes, offsets) in growing.items():
        writer.put(level, number, Tile(bytes(hashes), tuple(offsets)))
    last = batch[-1] if batch else None
    new = TreeProgress(
        next_offset,
        tree.size,
        last.offset if last else done.last_offset,
        digest_of(last) if last else done.last_digest,
    )
    writer.advance(new)
    return new

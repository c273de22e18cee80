"""Snapshots: folds kept to save work. Derived, and thrown away without loss; whatever is wrong with one, replay starts earlier.

A snapshot is a header and lists of chunks. Chunks are content-addressed, so what did not change since the last snapshot is
neither encoded nor stored again: disk grows with what was appended, not with the number of snapshots times the state.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ctxlog.core.arbitration import RULES
from ctxlog.core.digests import sha256
from ctxlog.core.evolve import FOLD_VERSION
from ctxlog.core.fold import StreamFold
from ctxlog.model.state import Anomaly, Fact, Lease, Message, Parent, ToolCall

SNAPSHOT_EVENTS = 1_000
"""A fold leaves a snapshot after this many records: some 10 ms of work that the next one saves."""

SNAPSHOT_BYTES = 1024 * 1024
"""… or after records of this many bytes, so that few large events are bounded too."""

CHUNK_ITEMS = 256
FORMAT = 2

T = TypeVar("T")

_TABLES = """
CREATE TABLE IF NOT EXISTS chunks (digest BLOB PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (
    log_id TEXT NOT NULL, stream_id TEXT NOT NULL, version INTEGER NOT NULL, rules INTEGER NOT NULL, fold INTEGER NOT NULL,
    offset INTEGER NOT NULL, time_max INTEGER NOT NULL, header BLOB NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (log_id, stream_id, version, rules, fold)
);
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
    counts their levels. `time_max` the latest time of all records up to it (ms), `held` the
    offsets of the records that open appends hold, by append id with the append's count. `chunks` is what the next snapshot
    builds on.
    """

    fold: StreamFold
    offset: int
    time_max: int
    record: str
    held: list[tuple[str, int, list[int]]]
    ancestors: Sequence[Ancestor]
    chunks: Chunks


Chunks = dict[str, dict[int, tuple[list[Any], str]]]
"""By section and chunk number: the items, and the digest of their encoding."""


class SnapshotStore:
    """Snapshots in one SQLite file, shared by the processes of a machine. Every failure of the file turns the store off.

    Args:
        path: The file; made on first use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # The connection is made later, maybe from another directory.
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._off = False
        _STORES.add(self)

    def save(self, log_id: str, snapshot: Snapshot) -> Chunks:
        """Keep a snapshot; what the next one of this stream can build on."""
        fold = snapshot.fold
        chunks: Chunks = {}
        fresh: list[tuple[bytes, bytes]] = []
        for name, base, items in _sections(fold):
            known = snapshot.chunks.get(name, {})
            chunks[name] = {number: _chunk(part, known.get(number), fresh) for number, part in _parts(items, base)}
        header = json.dumps(
            {
                "format": FORMAT,
                "head": fold.head.hex(),
                "effect": [fold.effect_offset, fold.effect_time],
                "rejected": fold.rejected,
                "closed": fold.evolving.closed,
                "parent": fold.evolving.parent,
                "forgotten": fold.arbiter.forgotten,
                "record": snapshot.record,
                "held": snapshot.held,
                "ancestors": snapshot.ancestors,
                "sections": {name: [digest for _, digest in parts.values()] for name, parts in chunks.items()},
            }
        ).encode()
        row = (log_id, fold.arbiter.stream_id, fold.version, RULES, FOLD_VERSION, snapshot.offset, snapshot.time_max)

        # REPLACE: what is there already may be damaged, and is the same otherwise.
        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?)", fresh)
            connection.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, zlib.compress(header, 1), sha256(_sealed(row, header)).digest()),
            )
            connection.execute("COMMIT")

        self._use(write)
        return chunks

    def load(self, log_id: str, fold: StreamFold, *, end: int, version_max: int | None, time_max: int | None) -> Snapshot | None:
        """Fill `fold`, which is new, from the latest snapshot within the limits; None where there is none.

        Args:
            log_id: The log of the stream.
            fold: A fold that nothing was offered to; left untouched where there is no snapshot.
            end: The snapshot has read no record at or above this offset.
            version_max: It is at most at this version.
            time_max: None of its records is later, in ms.
        """
        limits = (
            log_id,
            fold.arbiter.stream_id,
            2**62 if version_max is None else version_max,
            RULES,
            FOLD_VERSION,
            end,
            2**62 if time_max is None else time_max,
        )

        def read(connection: sqlite3.Connection) -> Snapshot | None:
            rows = connection.execute(
                "SELECT log_id, stream_id, version, rules, fold, offset, time_max, header, digest FROM snapshots WHERE log_id = ?"
                " AND stream_id = ? AND version <= ? AND rules = ? AND fold = ? AND offset < ? AND time_max <= ?"
                " ORDER BY version DESC LIMIT 2",
                limits,
            ).fetchall()
            for *row, packed, digest in rows:
                try:
                    return self._restore(connection, fold, tuple(row), zlib.decompress(packed), digest)
                except (ValueError, LookupError, TypeError, zlib.error):
                    continue  # Damaged: an earlier one, or none, gives the same state with more work.
            return None

        return self._use(read)

    def versions(self, log_id: str, stream_id: str) -> list[int]:
        """Versions at which snapshots of a stream are kept, oldest first."""

        def read(connection: sqlite3.Connection) -> list[int]:
            rows = connection.execute(
                "SELECT version FROM snapshots WHERE log_id = ? AND stream_id = ? AND rules = ? AND fold = ? ORDER BY version",
                (log_id, stream_id, RULES, FOLD_VERSION),
            )
            return [version for (version,) in rows]

        return self._use(read) or []

    def drop(self, log_id: str, stream_id: str, version: int) -> None:
        """Forget a snapshot."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM snapshots WHERE log_id = ? AND stream_id = ? AND version = ?", (log_id, stream_id, version)
            )

        self._use(write)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._off = True
            if self._connection is not None:
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
        """Do `work`, one caller at a time. A failure of the file ends the use of the store, and no call of its users."""
        with self._lock:
            if self._off:
                return None
            try:
                if self._connection is None:
                    self._connection = sqlite3.connect(self._path, timeout=2.0, isolation_level=None, check_same_thread=False)
                    self._connection.execute("PRAGMA journal_mode=WAL")
                    self._connection.execute("PRAGMA synchronous=OFF")
                    self._connection.execute("PRAGMA secure_delete=1")
                    self._connection.executescript(_TABLES)
                return work(self._connection)
            except sqlite3.Error:
                self._off = True
                return None
            finally:
                with contextlib.suppress(sqlite3.Error):
                    if self._connection is not None and self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")

    def _restore(
        self, connection: sqlite3.Connection, fold: StreamFold, row: tuple[Any, ...], header: bytes, digest: bytes
    ) -> Snapshot:
        """Fill `fold`. Raises `ValueError`, `KeyError` or `TypeError` before anything is filled."""
        data = json.loads(header)
        if sha256(_sealed(row, header)).digest() != digest or data["format"] != FORMAT:
            raise ValueError("the snapshot is not what was saved")
        lists: dict[str, list[Any]] = {}
        chunks: Chunks = {}
        for name, digests in data["sections"].items():
            make = _MAKERS[name]
            parts = [[make(item) for item in self._fetch(connection, digest)] for digest in digests]
            first = data["forgotten"] // CHUNK_ITEMS if name == "decided" else 0
            lists[name] = [item for part in parts for item in part]
            chunks[name] = {first + i: (part, digest) for i, (part, digest) in enumerate(zip(parts, digests, strict=True))}
        ancestors = [Ancestor(*above) for above in data["ancestors"]]
        _, _, version, _, _, offset, time_max = row
        head = bytes.fromhex(data["head"])
        fold.arbiter.restore(version, head, dict(lists["targets"]), lists["decided"], data["forgotten"])
        evolving = fold.evolving
        evolving.closed = data["closed"]
        evolving.parent = Parent(*data["parent"]) if data["parent"] else None
        evolving.messages = lists["messages"]
        evolving.index = {message.id: i for i, message in enumerate(evolving.messages)}
        evolving.facts = dict(lists["facts"])
        evolving.tool_calls = dict(lists["tool_calls"])
        evolving.anomalies = lists["anomalies"]
        fold.version, fold.head, fold.offset, fold.rejected = version, head, offset, data["rejected"]
        fold.effect_offset, fold.effect_time = data["effect"]
        held = [(append_id, count, offsets) for append_id, count, offsets in data["held"]]
        return Snapshot(fold, offset, time_max, data["record"], held, ancestors, chunks)

    def _fetch(self, connection: sqlite3.Connection, digest: str) -> list[Any]:
        (data,) = connection.execute("SELECT data FROM chunks WHERE digest = ?", (bytes.fromhex(digest),)).fetchone()
        text = zlib.decompress(data)
        if sha256(text).hexdigest() != digest:
            raise ValueError("a chunk is not what was saved")
        items: list[Any] = json.loads(text)
        return items


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


def _sections(fold: StreamFold) -> Iterator[tuple[str, int, list[Any]]]:
    """The lists that make up a fold, each with the absolute number of its first item."""
    evolving, arbiter = fold.evolving, fold.arbiter
    yield "messages", 0, evolving.messages
    yield "facts", 0, list(evolving.facts.items())
    yield "tool_calls", 0, list(evolving.tool_calls.items())
    yield "anomalies", 0, evolving.anomalies
    yield "targets", 0, list(arbiter.targets.items())
    yield "decided", arbiter.forgotten, arbiter.remembered()


def _parts(items: list[Any], base: int) -> Iterator[tuple[int, list[Any]]]:
    """Cut a list at multiples of the chunk size, counted from item 0 even where the first ones were forgotten."""
    start = 0
    while start < len(items):
        number = (base + start) // CHUNK_ITEMS
        end = min(len(items), (number + 1) * CHUNK_ITEMS - base)
        yield number, items[start:end]
        start = end


def _chunk(part: list[Any], known: tuple[list[Any], str] | None, fresh: list[tuple[bytes, bytes]]) -> tuple[list[Any], str]:
    # Entries are immutable and shared, so the comparison is mostly one of pointers.
    if known is not None and known[0] == part:
        return known
    text = json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()
    digest = sha256(text)
    fresh.append((digest.digest(), zlib.compress(text, 1)))
    return part, digest.hexdigest()


def _message(item: list[Any]) -> Message:
    item[_CALLS] = tuple(item[_CALLS])
    return Message._make(item)


def _tool_call(item: list[Any]) -> tuple[str, ToolCall]:
    call_id, call = item
    if call[_LEASE]:
        call[_LEASE] = Lease(*call[_LEASE])
    return call_id, ToolCall._make(call)


_CALLS = Message._fields.index("tool_calls")
_LEASE = ToolCall._fields.index("lease")


_MAKERS: dict[str, Any] = {
    "messages": _message,
    "facts": lambda item: (item[0], Fact(*item[1])),
    "tool_calls": _tool_call,
    "anomalies": lambda item: Anomaly(*item),
    "targets": tuple,
    "decided": tuple,
}

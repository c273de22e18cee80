"""The floor under the embedded log: the same bytes in the same kind of table, and nothing else.

Same SQLite, same durability (WAL, `synchronous=FULL`, erased bytes overwritten), same columns and index; no schemas, no
validation, no encoding, no links. It does not follow ctxlog's tables when those change: then its ratio shows what the change
brought.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, recorded_at INTEGER NOT NULL, value BLOB, origin TEXT, link BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS records_by_stream ON records (stream);
"""
_INSERT = "INSERT INTO records (stream, recorded_at, value, link) VALUES (?, 1700000000000, ?, ?)"
_LINK = bytes(32)


class RawLog:
    """A SQLite file with one table of records. Several processes may write to it at once."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("PRAGMA secure_delete=1")
        self.connection.executescript(_TABLES)

    def append(self, value: bytes, stream: int = 1) -> None:
        """One durable insert."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute(_INSERT, (stream, value, _LINK))
        self.connection.execute("COMMIT")

    def append_all(self, values: Sequence[bytes], stream: int = 1) -> None:
        """Many inserts in one durable transaction."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(_INSERT, [(stream, value, _LINK) for value in values])
        self.connection.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()

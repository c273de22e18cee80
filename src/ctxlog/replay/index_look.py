"""A look at a stream index without touching it. `IndexedLog` would make one where there is none, and delete a damaged one."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import NamedTuple

from ctxlog.replay.index import BUSY_SECONDS, FORMAT, IndexProgress

CHECKED_BYTES_MAX = 256 * 1024 * 1024
"""A larger file is not read through: a look takes seconds at most. Each row has a checksum, which is checked when it is read."""


class IndexLook(NamedTuple):
    """What an index file is like.

    Attributes:
        bytes: Its size.
        progress: How far it has come, by partition.
        damage: What is wrong with it; None where nothing was found.
        checked: Whether it was read through.
    """

    bytes: int
    progress: dict[int, IndexProgress]
    damage: str | None = None
    checked: bool = False


def look_at_index(path: Path) -> IndexLook | None:
    """Look at an index; None where there is none."""
    beside = path.with_name(f"{path.name}-wal")
    while True:
        try:
            size = path.stat().st_size
        except OSError:
            return None
        # Without that file nobody has the index open, and SQLite would make it to take a lock, even to read.
        alone = not beside.exists()
        found = _look(path, size, alone)
        if found.damage is None or not alone or not beside.exists():
            return found
        # Somebody began to write meanwhile, and no lock kept what was read together.


def _look(path: Path, size: int, alone: bool) -> IndexLook:
    checked = size <= CHECKED_BYTES_MAX
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            connection.text_factory = bytes  # What a damaged file holds need not be text.
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != FORMAT:
                return IndexLook(size, {}, f"its format is {version}, this release knows {FORMAT}")
            if checked and connection.execute("PRAGMA quick_check(1)").fetchone() != (b"ok",):
                return IndexLook(size, {}, "SQLite finds it malformed", True)
            rows = [IndexProgress(*row) for row in connection.execute("SELECT * FROM progress ORDER BY partition")]
    except (sqlite3.Error, TypeError) as error:
        code = getattr(error, "sqlite_errorname", type(error).__name__)
        return IndexLook(size, {}, f"it cannot be read ({code})", checked)
    if not all(isinstance(member, int) for row in rows for member in row[:4]):
        return IndexLook(size, {}, "its progress is no progress", checked)
    return IndexLook(size, {row.partition: row for row in rows}, None, checked)

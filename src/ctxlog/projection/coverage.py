"""What published files cover: per partition how far, as of when. Reads published files only, never an owner's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ctxlog.core.arbitration import RULES
from ctxlog.core.evolve import FOLD_VERSION
from ctxlog.projection import tables


class Coverage(NamedTuple):
    """What one published file holds.

    Attributes:
        path: The file.
        log_id: The log that it is about; None where it cannot be read as views.
        next_offsets: By partition: everything below is in it.
        published_at: When it was published, seconds since 1970 UTC; None where it does not say.
        size: Bytes.
        current: Whether it is of this release's version of the views.
    """

    path: Path
    log_id: str | None
    next_offsets: dict[int, int]
    published_at: float | None
    size: int
    current: bool


def published_files(folder: Path) -> list[Path]:
    """The published files of a folder."""
    return sorted(path for path in folder.glob("*.duckdb") if not path.name.startswith("."))


def coverage_of(path: Path) -> Coverage | None:
    """What a published file holds; None where there is none."""
    import duckdb

    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            found = connection.execute("FROM projection.file").fetchone()
            rows = connection.execute("SELECT partition, next_offset FROM projection.progress").fetchall()
            published = connection.execute("SELECT published_at FROM projection.publication").fetchone()
    except duckdb.Error:  # No views, or damaged.
        return Coverage(path, None, {}, None, size, False)
    if found is None:
        return Coverage(path, None, {}, None, size, False)
    at: datetime | None = published[0] if published else None
    seconds = None if at is None else at.replace(tzinfo=UTC).timestamp()
    current = found[2:] == (RULES, FOLD_VERSION, tables.VIEW_VERSION)
    return Coverage(path, found[0], dict(rows), seconds, size, current)

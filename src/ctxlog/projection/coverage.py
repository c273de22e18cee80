"""What published files cover: per partition how far, as of when. Reads published files only, never an owner's."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ctxlog.core.arbitration import RULES
from ctxlog.core.evolve import FOLD_VERSION
from ctxlog.errors import ViewsError
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
    """The published files of a folder; what bears such a name and is no file is passed over.

    Raises:
        ViewsError: This user may not list the folder, or not read one of them.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(".duckdb") and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _refused(folder, error) from error
    found = []
    for path in paths:
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:  # It was deleted just now, or is a link to nothing.
            continue
        except OSError as error:
            raise _refused(path, error) from error
        if not stat.S_ISREG(mode):
            continue
        # It is not opened to see it: to close it would drop the lock that DuckDB has on it in this process.
        if not os.access(path, os.R_OK):
            raise _refused(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        found.append(path)
    return found


def _refused(path: Path, error: OSError) -> ViewsError:
    """What the system says; where it is about rights, whose it is, and how to get them."""
    said = (error.strerror or type(error).__name__).lower()
    if not isinstance(error, PermissionError):
        return ViewsError(f"{path}: {said}; nothing was read.")
    with contextlib.suppress(OSError):
        found = path.stat()
        said += (
            f": it belongs to {_name(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}, and this is {_name(os.geteuid())}"
        )
    return ViewsError(
        f"{path}: {said}; nothing was read. What is published holds what agents know, and is for its owner alone: let the owner "
        "give a copy (`ctxlog projector publish --merge --to FILE`, and chmod), and name that folder."
    )


def _name(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


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

"""One published file out of several: of each partition what the furthest of them holds.

For people who hand a file on, or open it with a program that takes one. It says of each partition when that was published, so it
is as old as what it was made of.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ctxlog.errors import ViewsBusyError, ViewsError
from ctxlog.projection.coverage import coverage_of
from ctxlog.projection.publish import replacing
from ctxlog.projection.published import Source, attach, copy_schema, files_to_read, furthest, publications
from ctxlog.projection.store import QUIET, STORAGE_VERSION, quoted

if TYPE_CHECKING:
    import duckdb

MERGED = "merged.duckdb"
"""How it is called unless it is named otherwise."""

_MEMORY = "300MB"
"""What DuckDB may take. It copies from file to file."""


def merge(folder: Path, target: Path) -> list[Source]:
    """Publish as `target` what the published files of a folder hold together.

    The target itself is none of them: what is nowhere else any more is not to come back.

    Returns:
        The files that it was made of.

    Raises:
        ViewsBusyError: Another process does the same.
        ViewsFullError: There is no room; what is there stays.
        ViewsError: There is nothing to be made of it; or the target is what an instance publishes, or no file of views.
    """
    import duckdb

    target = target.absolute()
    owned = target.with_name(f".{target.name}")
    if owned.exists():
        raise ViewsError(f"{target}: an instance of the projector publishes this file; nothing was changed. Name another: --to.")
    if target.name.startswith(".") or (target.exists() and not _is_published(target)):
        raise ViewsError(
            f"{target}: this is no published file of views, and is not replaced; nothing was changed. Name another: --to."
        )
    paths = [path for path in files_to_read(folder) if path.absolute() != target]
    if not paths:
        raise ViewsError(f"{folder}: there is nothing to merge but {target.name} itself; nothing was changed.")
    connection = duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": "", "python_enable_replacements": False})
    with contextlib.closing(connection), _alone(target):
        connection.execute(QUIET)
        sources = attach(connection, paths)
        with replacing(target) as draft:
            try:
                _attach_new(connection, draft)
                _fill(connection, sources)
                connection.execute("CHECKPOINT merged")
                connection.execute("DETACH merged")
            except duckdb.Error as error:
                if "No space left" in str(error):
                    raise OSError(errno.ENOSPC, "No space left on device") from error
                raise ViewsError(
                    f"{target}: the files cannot be merged ({type(error).__name__}); nothing was changed."
                ) from error
    return sources


def _is_published(path: Path) -> bool:
    found = coverage_of(path)
    return found is not None and found.log_id is not None


def _attach_new(connection: duckdb.DuckDBPyConnection, draft: Path) -> None:
    draft.unlink()  # DuckDB takes no empty file for one that is to be made, and would let everybody read the one that it makes.
    before = os.umask(0o077)
    try:
        connection.execute(f"ATTACH {quoted(str(draft))} AS merged (STORAGE_VERSION '{STORAGE_VERSION}')")
    finally:
        os.umask(before)


def _fill(connection: duckdb.DuckDBPyConnection, sources: list[Source]) -> None:
    chosen = furthest(sources)
    for table in copy_schema(connection, list(chosen), "merged"):
        connection.execute(f"INSERT INTO merged.{table} {table.rows(chosen)}")
    connection.executemany("INSERT INTO merged.projection.publication VALUES (?, ?)", publications(sources, chosen))


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Nobody else makes this file meanwhile."""
    try:
        descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ViewsError(f"{target}: this cannot be written ({error.strerror}); nothing was changed.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ViewsBusyError(f"{target}: another process makes this file just now; nothing was changed.") from None
        yield
    finally:
        os.close(descriptor)  # which lets go of the lock

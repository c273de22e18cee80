"""An instance of the projector: its name, its files, and that one process alone works on them.

.NAME.duckdb        what the instance owns and writes
NAME.duckdb         what it publishes
.NAME.duckdb.new    what is made anew, until it takes the owned file's place
.NAME.duckdb.lock   held by the process that works on them
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ctxlog.errors import InvalidInputError, ViewsBusyError, ViewsError, ViewsFullError

DEFAULT_NAME = "current"

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class Instance:
    """The files of one instance.

    Args:
        folder: Where the views are.
        name: Letters, digits, dot, dash and underscore, at most 64, and no dot first.

    Attributes:
        file: What it owns.
        published: What readers open.
        draft: What is made anew.

    Raises:
        InvalidInputError: This is no such name.
    """

    def __init__(self, folder: Path, name: str = DEFAULT_NAME) -> None:
        if not NAME.fullmatch(name):
            raise InvalidInputError(
                f"instance {name!r}: expected letters, digits, '.', '-' and '_', at most 64 and no '.' first; nothing was done"
            )
        self.name = name
        self.folder = folder.absolute()
        self.file = self.folder / f".{name}.duckdb"
        self.published = self.folder / f"{name}.duckdb"
        self.draft = self.folder / f".{name}.duckdb.new"

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Nobody else works on these files meanwhile.

        DuckDB's own lock lies on a file that may be replaced; this one lies beside it.

        Raises:
            ViewsBusyError: Another process does.
            ViewsError: The folder cannot be written.
        """
        import fcntl

        lock = self.folder / f"{self.file.name}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            kind = ViewsFullError if error.errno == errno.ENOSPC else ViewsError
            raise kind(f"{self.folder}: the views cannot be written: {error.strerror}; nothing was changed.") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ViewsBusyError(
                    f"{self.file}: another projector works on these views; nothing was changed. Stop it, or give this one a "
                    "name of its own (--instance)."
                ) from error
            yield
        finally:
            os.close(descriptor)  # which lets go of the lock

    @contextlib.contextmanager
    def private(self) -> Iterator[None]:
        """What this process makes meanwhile is for its user alone, DuckDB's log beside a file too. The folder stays as it is."""
        with contextlib.suppress(OSError):  # `owned` says what is wrong.
            self.folder.mkdir(parents=True, exist_ok=True)
        before = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(before)

    def drop_draft(self) -> None:
        """Delete what was begun to be made anew."""
        for path in (self.draft, _wal(self.draft)):
            path.unlink(missing_ok=True)
        shutil.rmtree(
            self.draft.with_name(f"{self.draft.name}.tmp"), ignore_errors=True
        )  # Where DuckDB put what it had no memory for.

    def adopt_draft(self) -> None:
        """Let what was made anew, and was closed, take the place of the owned file.

        Raises:
            ViewsFullError: It was not written to its end; both stay.
        """
        if _wal(self.draft).exists():
            raise ViewsFullError(f"{self.draft}: not all of it could be written into its file; the last one stays. Make room.")
        # First, for DuckDB would take it for the new file's. A kill in between loses what is projected again.
        _wal(self.file).unlink(missing_ok=True)
        self.draft.replace(self.file)


def _wal(path: Path) -> Path:
    """What DuckDB has written and not yet put into the file."""
    return path.with_name(f"{path.name}.wal")

"""Publishing: a consistent copy of the view file under a name that readers know, swapped in one step.

    owner's file, written to its end -> a copy, made by a child process, on the disk -> renamed over the last one

The copy is a child's work, because a process that opens and closes the file it owns drops its lock on it. Readers that have the
last copy open keep it until they close it. It holds what agents know, so its owner alone may read it; who else may, is for the
owner to say, by the folder's rights or by copying it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ctxlog.errors import ViewsError, ViewsFullError
from ctxlog.projection.store import ViewStore

_COPY = """
import shutil, sys
try:
    shutil.copyfile(sys.argv[1], sys.argv[2])
except OSError as error:
    sys.exit(f"{error.errno} {error.strerror}")
"""
"""`copyfile` leaves the copying to the kernel; `copy_file_range` was no faster on ext4 (400 MB in 0.3 s, either way)."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def publish(store: ViewStore, target: Path) -> None:
    """Publish what the store holds now as `target`.

    Raises:
        ViewsFullError: There is no room for the copy; the last one stays.
        ViewsError: The store cannot be written, or no copy can be made for another reason; the last one stays.
    """
    store.note_publication(datetime.now(UTC).replace(tzinfo=None))
    with replacing(target) as draft:
        done = subprocess.run(  # noqa: S603 - this interpreter, a program of ours, two paths
            [sys.executable, "-S", "-c", _COPY, str(store.path), str(draft)],
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # A Ctrl-C is for whoever publishes, who ends in good order.
        )
        if done.returncode:
            number, _, why = done.stderr.strip().rpartition("\n")[2].partition(" ")
            if not number.isdecimal():
                number, why = "0", f"the copying process ended with {done.returncode}"
            raise OSError(int(number), why)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A draft that takes the place of `target` when all went well; otherwise nothing is left of it, and `target` stays.

    One process at a time publishes a target, so a draft that is there is one of a run that was killed.

    Raises:
        ViewsFullError: An `OSError` inside said that there is no room.
        ViewsError: It said something else.
    """
    draft = target.with_name(f".{target.name}.draft")
    try:
        _remove(draft)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield draft
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # Before the name: after a power cut there is the last one or this one, whole.
        finally:
            os.close(descriptor)
        # Whoever opened the last one for writing left this behind, and DuckDB would take it for the new one's.
        _log_of(target).unlink(missing_ok=True)
        draft.replace(target)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise ViewsFullError(f"{target}: there is no room for the copy; the last one stays. Make room.") from error
        raise ViewsError(f"{target}: no copy could be made ({error.strerror}); the last one stays.") from error
    finally:
        with contextlib.suppress(OSError):
            _remove(draft)


def _remove(draft: Path) -> None:
    draft.unlink(missing_ok=True)
    _log_of(draft).unlink(missing_ok=True)


def _log_of(path: Path) -> Path:
    """What DuckDB has written and not yet put into the file."""
    return path.with_name(f"{path.name}.wal")

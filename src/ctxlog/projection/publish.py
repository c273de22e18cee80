"""Publishing: a consistent copy of the view file under a name that readers know, swapped in one step.

    owner's file, written to its end -> a copy, made by a child process -> renamed over the last one

The copy is a child's work, because a process that opens and closes the file it owns drops its lock on it. Readers that have the
last copy open keep it until they close it.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from ctxlog.errors import ViewsError, ViewsFullError
from ctxlog.projection.store import ViewStore

_COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def publish(store: ViewStore, target: Path) -> None:
    """Publish what the store holds now as `target`.

    Raises:
        ViewsFullError: There is no room for the copy; the last one stays.
        ViewsError: The store cannot be written, or no copy can be made for another reason; the last one stays.
    """
    store.note_publication(datetime.now(UTC).replace(tzinfo=None))
    draft = target.with_name(f".{target.name}.draft")
    done = subprocess.run(  # noqa: S603 - this interpreter, a program of ours, two paths
        [sys.executable, "-S", "-c", _COPY, str(store.path), str(draft)],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # A Ctrl-C is for whoever publishes, who ends in good order.
    )
    if done.returncode:
        draft.unlink(missing_ok=True)
        why = done.stderr.strip().rpartition("\n")[2][-300:] or f"the copying process ended with {done.returncode}"
        if "[Errno 28]" in why or "[Errno 122]" in why:  # No space, or no more of it for this user.
            raise ViewsFullError(f"{target}: there is no room for the copy; the last one stays. Make room.")
        raise ViewsError(f"{target}: no copy could be made ({why}); the last one stays.")
    draft.replace(target)

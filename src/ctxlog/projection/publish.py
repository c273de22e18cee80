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

from ctxlog.errors import ViewsFullError
from ctxlog.projection.store import ViewStore

_COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def publish(store: ViewStore, target: Path) -> None:
    """Publish what the store holds now as `target`.

    Raises:
        ViewsFullError: There is no room for the copy; the last one stays.
        ViewsError: The store cannot be written.
    """
    store.note_publication(datetime.now(UTC).replace(tzinfo=None))
    draft = target.with_name(f".{target.name}.draft")
    done = subprocess.run(  # noqa: S603 - this Python, with a program of ours
        [sys.executable, "-S", "-c", _COPY, str(store.path), str(draft)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        draft.unlink(missing_ok=True)
        raise ViewsFullError(f"{target}: no copy could be made ({done.stderr.strip()[-200:]}); the last one stays. Make room.")
    draft.replace(target)

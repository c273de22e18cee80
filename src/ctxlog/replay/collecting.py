"""Work that makes many objects and no cycle among them, done without Python's search for cycles."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Put the search off until the work is done: it would go through all that is there several times, in vain. It is put off for
    the whole process, so this is for work that takes a second or so."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()

"""What a query may take of memory: how it is said, and what holds the process to it.

DuckDB counts what it keeps (tables, sorts, groups) and holds itself to that. Texts and lists that an expression makes on the way
it does not count, so one line of SQL can take all that a machine has. A limit of the process ends that: an allocation
beyond it fails, and DuckDB says that there is no memory.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ctxlog.errors import InvalidInputError

LEAST = 16_000_000
"""Bytes. With half of it DuckDB opens the views of some streams, with a quarter none."""

MOST = 1 << 60
"""Bytes beyond which DuckDB does not count."""

ROOM = 512 * 1024 * 1024
"""Bytes that a process may take beyond twice what is given: libraries that are loaded later, stacks, a batch of rows on its way
from DuckDB to the output, and what allocators keep. A query that DuckDB lets pass is not to fail for want of that."""

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT])(I?)B\s*", re.IGNORECASE)
_POWER = {unit: number for number, unit in enumerate("KMGT", 1)}


def memory_bytes(said: str) -> int:
    """A size as people write it, `2GB` or `1.5GiB`, in bytes.

    Raises:
        InvalidInputError: It is none, or less than it takes to open the views.
    """
    if (found := _SIZE.fullmatch(said)) is None:
        raise InvalidInputError(f"memory {said!r}: expected a size as in 2GB; nothing was read")
    size = float(found[1]) * (1024 if found[3] else 1000) ** _POWER[found[2].upper()]
    if not LEAST <= size <= MOST:
        raise InvalidInputError(f"memory {said!r}: expected a size of 16MB or more, as in 2GB; nothing was read")
    return int(size)


@contextlib.contextmanager
def bounded(size: int) -> Iterator[None]:
    """Let this process take at most twice `size` bytes and some room more than it has now. On Linux; elsewhere nothing is done.

    What goes beyond fails with `MemoryError`, or with DuckDB's error of the same meaning. (The limit is one of private memory
    that can be written. One of the address space would count what is mapped and never used, of which there is much.)
    """
    taken = _taken()
    if sys.platform != "linux" or taken is None:
        yield
        return
    import resource

    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = taken + 2 * size + ROOM
    if any(limit != resource.RLIM_INFINITY and limit < most for limit in (before, hard)):
        yield  # Somebody set a limit that is lower.
        return
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _taken() -> int | None:
    """Bytes that count against the limit now; None where the system does not say."""
    try:
        found = re.search(r"^VmData:\s+([0-9]+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return None if found is None else int(found[1]) * 1024

"""UUIDs of version 7 (RFC 9562): the ids of live events, in the order in which a process made them."""

from __future__ import annotations

import os
import threading
import time

_lock = threading.Lock()
_last = 0


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it, and would hold it here for ever
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def uuid7() -> str:
    """A new id: 48 bits of Unix milliseconds, 12 bits of the millisecond's fraction, 62 random bits. Never the same or an
    earlier time twice in one process, so ids made here sort in their order."""
    global _last  # noqa: PLW0603 - the clock that must not go back is the process's
    with _lock:
        # 4096ths of a millisecond.
        now = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
        _last = now
    milliseconds, fraction = divmod(now, 4096)
    random_bits = int.from_bytes(os.urandom(8), "big") & (2**62 - 1)
    text = f"{milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random_bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

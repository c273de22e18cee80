"""The folds of threads that a saver keeps at hand, so that a put reads on from where the last one was."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from ctxlog.adapters.langgraph.thread import Thread

THREADS_MAX = 64
"""Threads whose fold a saver keeps at hand; any other is read from the log again."""


class HeldThreads:
    """What the clones of a saver share: folds by stream, and the lock over them. A forked child begins anew."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._threads: OrderedDict[str, Thread] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def lock(self) -> threading.RLock:
        """Held while a fold is read on, looked at or appended to."""
        if self._pid != os.getpid():
            self._start()
        return self._lock

    @property
    def threads(self) -> OrderedDict[str, Thread]:
        """By stream, the one used last at the end."""
        return self._threads

"""The folds of threads that a saver keeps at hand, so that a put reads on from where the last one was."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

from ctxlog.adapters.langgraph.encoding import BrokenEventError
from ctxlog.adapters.langgraph.thread import Thread
from ctxlog.client.log import ContextLog
from ctxlog.model.events import Event
from ctxlog.replay.collecting import uncollected

THREADS_MAX = 64
"""Threads whose fold a saver keeps at hand; any other is read from the log again."""


class HeldThreads:
    """Folds by stream, shared by the clones of a saver. Each has a lock of its own, so that no thread of LangGraph waits for
    another one's disk or broker. A forked child begins anew.
    """

    def __init__(self, log: ContextLog) -> None:
        self._log = log
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._guard = threading.Lock()
        self._threads: OrderedDict[str, Thread] = OrderedDict()  # The one used last at the end.
        self._locks: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()  # Those that somebody holds or waits for.

    @contextlib.contextmanager
    def reading(self, stream_id: str) -> Iterator[Thread]:
        """The fold of a stream with all that the log holds, nobody else's meanwhile. Raises what keeps it from being read."""
        if self._pid != os.getpid():
            self._start()
        with self._guard:
            lock = self._locks.setdefault(stream_id, threading.RLock())
        with lock:
            try:
                yield self._read(stream_id)
            except BrokenEventError as error:
                raise error.of(stream_id) from None

    def append(self, thread: Thread, agent: str, events: Sequence[Event], ids: Sequence[str]) -> None:
        """Append to a thread that somebody is `reading`."""
        self._taken(thread.stream_id)
        self._log.context(thread.stream_id, agent_id=agent)._append(events, {"event_ids": ids}, thread)
        self._keep(thread)

    def _read(self, stream_id: str) -> Thread:
        thread = self._taken(stream_id)
        if thread is None:
            thread = Thread(stream_id, self._log.replayer.follow(stream_id))
            with uncollected():
                self._log.replayer.advance(thread.cursor, self._log._end(stream_id), seen=thread.see)
        else:
            self._log.replayer.advance(thread.cursor, self._log._end(stream_id), seen=thread.see)
        self._keep(thread)
        return thread

    def _taken(self, stream_id: str) -> Thread | None:
        """Out of the folds at hand, until it is kept again: one whose reading fails half-way is not used any more."""
        with self._guard:
            return self._threads.pop(stream_id, None)

    def _keep(self, thread: Thread) -> None:
        with self._guard:
            self._threads[thread.stream_id] = thread
            if len(self._threads) > THREADS_MAX:
                self._threads.popitem(last=False)

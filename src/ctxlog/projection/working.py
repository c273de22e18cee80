"""Work of DuckDB done beside the main thread, which stays open to Ctrl-C and to the clock meanwhile.

DuckDB looks at signals itself only now and then, in a call that may take minutes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

GIVE_UP_SECONDS = 3.0
"""How long work may go on that was told to stop. Some functions of DuckDB look up only when they are done."""

_AGAIN_SECONDS = 0.05


class TimeIsUpError(Exception):
    """The work took longer than it may. It has stopped, or was given up."""


class Worker:
    """Does one piece of work at a time.

    Args:
        interrupt: Tells the work to stop, from another thread.

    Attributes:
        stuck: Whether work was given up that did not stop; then there is to be no other, and what it uses is to be left alone.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.stuck = False
        self._interrupt = interrupt
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        # A daemon: the process may end while work does not.
        threading.Thread(target=self._run, daemon=True, name="ctxlog-query").start()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, future = item
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            del item, work, future

    def do(self, work: Callable[[], T], deadline: Deadline) -> T:
        """The result of some work.

        Raises:
            TimeIsUpError: See there.
        """
        future: Future[T] = Future()
        self._work.put((work, future))
        try:
            with deadline:
                done = _wait(future, deadline.left)
        except BaseException:  # Ctrl-C
            self._stop(future)
            raise
        if not done:
            self._stop(future)
            raise TimeIsUpError
        return future.result()

    def _stop(self, future: Future[Any]) -> None:
        until = time.monotonic() + GIVE_UP_SECONDS
        while not future.done():
            if time.monotonic() > until:
                self.stuck = True
                return
            self._interrupt()  # Again and again: what begins just now does not hear it.
            _wait(future, _AGAIN_SECONDS)

    def close(self) -> None:
        """There is no more work."""
        self._work.put(None)


class Deadline:
    """Seconds that work may take, in pieces; what is done between them does not count, as waiting for a reader.

    Attributes:
        left: Seconds that are left.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.left = max(0.0, self.left - (time.monotonic() - self._began))


def _wait(future: Future[Any], seconds: float) -> bool:
    """Wait for it to be done; whether it is."""
    try:
        future.exception(timeout=min(seconds, threading.TIMEOUT_MAX))
    except TimeoutError:
        return future.done()
    return True

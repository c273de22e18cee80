"""The connections of one process to one SQLite file, through threads and forks.

SQLite remembers in a process's memory which locks that process holds. A forked child inherits the memory and not the locks: a
connection that it opens beside an inherited one is locked in its own eyes only, and when the parent closes, SQLite deletes the
write-ahead log under the child's feet, with everything that the child commits from then on. So all connections are closed
before a fork, and opened again, in both processes, when they are needed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator

from ctxlog.errors import LogClosedError

FORK_WAIT_SECONDS = 5.0
"""How long a fork waits for reads under way, which take milliseconds. Bounded, so that a fork from a signal handler that
interrupted a read goes on."""


class Connections:
    """One connection for writing, and as many for reading as threads read at once.

    Args:
        connect: Opens a connection.
        closed: What to say when the connections are used after `close`.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], closed: str) -> None:
        self._connect = connect
        self._said = closed
        self._closed = False
        self._generation = 0
        self._writer: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._reset()
        _ALL.add(self)

    def _reset(self) -> None:
        self._generation += 1
        self._write_lock = threading.RLock()
        self._gate = threading.Condition()
        self._reading = 0
        self._forking = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one query, which no other thread uses meanwhile. Raises `LogClosedError`."""
        with self._gate:
            while self._forking:
                self._gate.wait()
            self.check_open()
            generation = self._generation
            self._reading += 1
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        finally:
            self._give_back(connection, generation)

    def _give_back(self, connection: sqlite3.Connection | None, generation: int) -> None:
        if generation != self._generation:
            # The fork came inside this read, and this is the child: the connection is the parent's. It is neither used again
            # here nor closed, which could take the write-ahead log away from the parent.
            _INHERITED.append(connection)
            return
        with self._gate:
            self._reading -= 1
            self._gate.notify_all()
            if connection is not None:
                self._idle.append(connection)
            if self._closed:
                self._drop()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection for writing, with no transaction open. One thread at a time. Raises `LogClosedError`."""
        with self._write_lock:
            self.check_open()
            if self._writer is None:
                self._writer = self._connect()
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")  # An interrupt (Ctrl-C) can come between any two steps.
            yield self._writer

    def close(self) -> None:
        """Close the connections; those that are reading, when they have read."""
        with self._write_lock, self._gate:
            self._closed = True
            self._drop()

    def check_open(self) -> None:
        """Raises `LogClosedError` after `close`."""
        if self._closed:
            raise LogClosedError(self._said)

    def _drop(self) -> None:
        dropped = [*self._idle, *([self._writer] if self._writer is not None else [])]
        self._idle, self._writer = [], None
        for connection in dropped:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def before_fork(self) -> None:
        """Wait for the others, and close everything.

        A write is waited for however long it takes, and it ends: SQLite waits for another process only as long as the connection
        says. To fork beside one would leave the child a connection with a transaction in it, and what the child commits could be
        lost. A write that a signal handler of its own thread interrupted is not waited for: the lock is this thread's.
        """
        self._write_lock.acquire()
        with self._gate:
            self._forking = True
            self._gate.wait_for(lambda: self._reading == 0, FORK_WAIT_SECONDS)
            self._drop()

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""
        with self._gate:
            self._forking = False
            self._gate.notify_all()
        self._write_lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: there are no other threads here."""
        self._reset()


_INHERITED: list[sqlite3.Connection | None] = []
"""Connections of a parent, kept so that nothing closes them."""

_ALL: weakref.WeakSet[Connections] = weakref.WeakSet()
_forking: list[list[Connections]] = []
_fork_lock = threading.RLock()  # Two threads may fork at once; and a signal handler, inside a fork of its own thread.


def _before_fork() -> None:
    _fork_lock.acquire()
    _forking.append(list(_ALL))
    for connections in _forking[-1]:
        connections.before_fork()


def _after_fork_in_parent() -> None:
    for connections in _forking.pop():
        connections.after_fork_in_parent()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock  # noqa: PLW0603 - the parent's is held
    for connections in _forking.pop():
        connections.after_fork_in_child()
    _fork_lock = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

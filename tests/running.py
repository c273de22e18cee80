"""What tests of the running projector share: a run in a thread, logs that fail on demand, what a view file holds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb

from ctxlog import ContextLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.projection.instance import Instance
from ctxlog.projection.projector import Projector
from ctxlog.projection.running import Running

PATIENCE_SECONDS = 120.0
"""How long something may take that is only to happen at some time."""

TABLES = ("events", "streams", "messages", "facts", "tool_calls", "contexts")


def until(true: Callable[[], Any], what: str = "") -> Any:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := true()):
        assert time.monotonic() < deadline, what or true
        time.sleep(0.01)
    return found


def write(log: EventLog, count: int, *, streams: int = 3, first: int = 0) -> None:
    """Some events: messages and facts, alone and in appends of two."""
    opened = ContextLog(log)
    for number in range(first, first + count):
        context = opened.context(f"agent/{number % streams}")
        if number % 5 == 4:
            context.append([MessageAppended(role="user", content=f"m{number}"), FactSet(key=f"k{number % 7}", value=f"{number}")])
        else:
            context.add_message("user", f"m{number}")


def contents(path: Path) -> dict[str, list[str]]:
    """What a view file holds, in an order of its own, without what depends on the clock of the projector."""
    with duckdb.connect(str(path), read_only=True) as connection:
        found = {name: sorted(map(repr, connection.execute(f"FROM {name}").fetchall())) for name in TABLES}
        progress = "SELECT * EXCLUDE (applied_at, end_offset) FROM projection.progress"
        found["progress"] = sorted(map(repr, connection.execute(progress).fetchall()))
    return found


def expected(log: EventLog, path: Path) -> dict[str, list[str]]:
    """What the views of a log hold: projected in one go into a file of its own."""
    projector = Projector(log, path)
    projector.run_once()
    projector.close()
    found = contents(path)
    path.unlink()
    return found


def rows(path: Path) -> int:
    """Number of rows that are published; 0 where nothing is."""
    if not path.exists():
        return 0
    with duckdb.connect(str(path), read_only=True) as connection:
        (found,) = connection.execute("SELECT count(*) FROM events").fetchone() or (0,)
    return int(found)


def stamp_of(path: Path) -> tuple[int, int]:
    """Of a file that was not replaced and not written. (The time of its last read may be another one.)"""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


class Run:
    """A projector that runs in a thread.

    Attributes:
        said: What it told whoever watches.
        error: What ended it, if anything did.
    """

    def __init__(self, log: EventLog, instance: Instance, **options: Any) -> None:
        self.said: list[str] = []
        self.error: BaseException | None = None
        self.done: bool | None = None
        self.running = Running(log, instance, tell=self.said.append, **{"publish_seconds": 0.05, **options})
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.done = self.running.run()
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self.running.stop()
        self.join()


@contextlib.contextmanager
def run(log: EventLog, instance: Instance, **options: Any) -> Iterator[Run]:
    """A run during the block; it is stopped behind it, and must not have failed."""
    found = Run(log, instance, **options)
    found.start()
    try:
        yield found
    finally:
        found.stop()
    if found.error is not None:
        raise found.error


class Failing:
    """A log that fails as long as it is told to."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.url, self.log_id, self.partitions = log.url, log.log_id, log.partitions
        self.fail: Callable[[str], None] = lambda _: None

    def append(self, records: Any) -> Any:
        return self._log.append(records)

    def bounds(self, partition: int) -> Any:
        self.fail("bounds")
        return self._log.bounds(partition)

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Any]:
        for record in self._log.read(partition, start, end, key=key):
            self.fail("read")
            yield record

    def offset_at(self, partition: int, time_ms: int) -> int:
        return self._log.offset_at(partition, time_ms)

    def keys(self, partition: int) -> Iterator[bytes]:
        return self._log.keys(partition)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        self.fail("wait")
        return self._log.wait(partition, end, timeout_seconds)

    def close(self) -> None:
        self._log.close()


def is_at(following: Run, log: EventLog) -> bool:
    """Whether it has projected all of a log, and does not pause."""
    ends = {partition: log.bounds(partition).end for partition in range(log.partitions)}
    return following.running.figures.next_offsets == ends and following.running.figures.paused is None

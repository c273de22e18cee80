"""What a log that is slow holds up, and what it does not: other streams, other threads, closing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.events import MessageAppended, StreamForked
from ctxlog.model.records import Record
from ctxlog.replay.snapshots import SnapshotStore
from writing import ShowsLate

HI = MessageAppended(role="user", content="hi")


def test_an_append_to_a_fork_reads_the_parent_as_far_as_it_was_written_here() -> None:
    """The parent may be in another partition, which need not show yet what this log wrote to it."""
    log = ContextLog(ShowsLate(backend := MemoryLog(3)))
    assert partition_of(b"a/b", 3) != partition_of(b"a/d", 3)
    log.context("a/b").append(HI)
    forked = StreamForked(
        parent_stream_id="a/b", parent_version=1, parent_chain_head=ContextLog(backend).context("a/b").chain_head
    )
    log.context("a/d").append(forked, expected_version=0)
    assert log._cursors["a/d"].fold.failure is None


class Slow(ShowsLate):
    """Gives no record of one stream, or shows nothing new of one partition, until it may."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log)
        self.key, self.partition = b"", -1
        self.begun, self.may = threading.Event(), threading.Event()

    def _pause(self) -> None:
        self.begun.set()
        assert self.may.wait(60)

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        if key == self.key:
            self._pause()
        return super().read(partition, start, end, key=key)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        if partition == self.partition:
            self._pause()
        return super().wait(partition, end, timeout_seconds)


@pytest.fixture
def slow() -> Slow:
    """A log that holds `a/b` and `a/d`, in different partitions."""
    inner = MemoryLog(3)
    for stream_id in ("a/b", "a/d"):
        ContextLog(inner).context(stream_id).append(HI)
    return Slow(inner)


def beside(slow: Slow, first: Callable[[], Any], then: Callable[[], Any]) -> Any:
    """What `then` comes to, while a thread is held up in `first`."""
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(first)
        assert slow.begun.wait(60)
        try:
            return pool.submit(then).result(30)
        finally:
            slow.may.set()
            held.result(60)


def test_an_append_does_not_wait_for_the_read_of_another_stream(slow: Slow) -> None:
    """A cold read can take long; whoever only appends has nothing to wait for."""
    log = ContextLog(slow)
    slow.key = b"a/b"
    beside(slow, lambda: log.context("a/b").state, lambda: log.context("a/d").append(HI))
    assert (log.context("a/b").version, log.context("a/d").version) == (1, 2)


def test_a_read_does_not_wait_until_another_partition_shows_what_was_written_there(slow: Slow) -> None:
    log = ContextLog(slow)
    assert log.context("a/d").version == 1
    log.context("a/b").append(HI)
    slow.partition = partition_of(b"a/b", 3)
    assert beside(slow, lambda: log.context("a/b").version, lambda: log.context("a/d").version) == 1
    assert log.context("a/b").version == 2


def test_closing_lets_go_of_the_snapshots_though_the_log_cannot_be_closed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ContextLog(MemoryLog(), store := SnapshotStore(tmp_path / "cache.sqlite"))
    closed: list[str] = []
    monkeypatch.setattr(store, "close", lambda: closed.append("snapshots"))

    def fail() -> None:
        raise StorageError("the log cannot be closed")

    monkeypatch.setattr(log.log, "close", fail)
    with pytest.raises(StorageError):
        log.close()
    assert closed == ["snapshots"]

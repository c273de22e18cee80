"""The stream index gives what the log gives, reads nothing twice, and is never in the way."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import Bounds
from ctxlog.model.records import NewRecord, Origin, Record
from ctxlog.replay import index
from ctxlog.replay.index import IndexedLog

SEED = 20261124


class CountingLog(MemoryLog):
    """Counts the records that it gives, and has no short way to one key."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__(partitions)
        self.given = 0

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        for record in super().read(partition, start, end):
            self.given += 1
            if key is None or record.key == key:
                yield record


def fill(log: MemoryLog, count: int, streams: int = 10) -> None:
    log.append([NewRecord(0, b"stream/%d" % (number % streams), b"value %d" % number) for number in range(count)])


def of(log: IndexedLog | MemoryLog, key: bytes) -> list[Record]:
    return list(log.read(0, 0, log.bounds(0).end, key=key))


def plain(log: MemoryLog, key: bytes) -> list[Record]:
    """The oracle: every record looked at."""
    return [record for record in MemoryLog.read(log, 0, 0, 10**9) if record.key == key]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "DIRECT_OFFSETS_MAX", 20)
    monkeypatch.setattr(index, "BATCH_RECORDS", 50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "index.sqlite"


def test_a_partition_is_read_once_and_then_only_what_is_new(path: Path) -> None:
    log = CountingLog()
    fill(log, 1_000)
    indexed = IndexedLog(log, path)
    assert of(indexed, b"stream/3") == plain(log, b"stream/3")
    assert log.given == 1_001
    assert of(indexed, b"stream/4") == plain(log, b"stream/4")
    assert log.given == 1_001
    fill(log, 100)
    assert of(indexed, b"stream/4") == plain(log, b"stream/4")
    assert log.given == 1_101
    indexed.close()


def test_the_next_process_goes_on_where_the_last_one_was(path: Path) -> None:
    log = CountingLog()
    fill(log, 500)
    first = IndexedLog(log, path)
    of(first, b"stream/1")
    first._connections.close()
    log.given = 0
    fill(log, 60)
    again = IndexedLog(log, path)
    assert of(again, b"stream/1") == plain(log, b"stream/1")
    assert log.given == 61  # what is new, and the last record that was known, to see that it is still the same log
    assert [row[:3] for row in again.progress()] == [(0, 561, 561)]


def test_short_ranges_go_to_the_log(path: Path) -> None:
    log = CountingLog()
    fill(log, 500)
    indexed = IndexedLog(log, path)
    assert [record.offset for record in indexed.read(0, 490, 501, key=b"stream/0")] == [491]
    assert log.given == 11
    assert not path.exists()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"\xff", b"ctxlog:control", None]),
            st.one_of(st.none(), st.binary(max_size=30)),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.integers(0, 70),
    st.integers(0, 70),
    st.randoms(use_true_random=False),
)
def test_every_range_of_every_key_is_what_a_list_says(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[bytes | None, bytes | None, bool]],
    start: int,
    end: int,
    dice: random.Random,
) -> None:
    log = MemoryLog(2, offset_step=dice.choice((1, 3)))
    indexed = IndexedLog(log, tmp_path_factory.mktemp("index") / "index.sqlite")
    for number, (key, value, copied) in enumerate(rows):
        origin = Origin("x", 0, number, 7) if copied else None
        log.append([NewRecord(number % 2, key, value, origin)])  # type: ignore[arg-type]
        if dice.random() < 0.2:
            list(indexed.read(number % 2, 0, 10**6, key=b"a"))
    for partition in range(2):
        for key in (b"a", b"b", b"\xff", b"ctxlog:control", b"none"):
            expected = [one for one in log.read(partition, start, end) if one.key == key]
            assert list(indexed.read(partition, start, end, key=key)) == expected
        assert set(indexed.keys(partition)) == set(log.keys(partition))
    indexed.close()


def test_a_range_that_begins_before_the_log_is_no_damage(path: Path) -> None:
    """A fork from before the first event asks for the record before it; the index was thrown away each time."""
    log = CountingLog()
    fill(log, 300)
    indexed = IndexedLog(log, path)
    assert of(indexed, b"stream/3") == plain(log, b"stream/3")
    read = log.given
    assert list(indexed.read(0, -1, 0, key=b"stream/3")) == []
    assert list(indexed.read(0, -5, 10**6, key=b"stream/3")) == plain(log, b"stream/3")
    assert log.given == read
    assert path.exists()


@pytest.mark.parametrize("cut", ["rewound", "replaced"])
def test_another_log_than_the_one_that_was_read_is_read_anew(cut: str, path: Path) -> None:
    """A log that lost its tail, or has other records where the index has some."""
    log = CountingLog()
    fill(log, 300)
    indexed = IndexedLog(log, path)
    of(indexed, b"stream/1")
    indexed._connections.close()
    if cut == "rewound":
        del log._records[0][200:]
    else:
        log._records[0][1:] = [record._replace(value=b"other") for record in log._records[0][1:]]
    again = IndexedLog(log, path)
    assert of(again, b"stream/1") == plain(log, b"stream/1")
    fill(log, 100)
    assert of(again, b"stream/1") == plain(log, b"stream/1")


@pytest.mark.parametrize("how", ["emptied", "filled", "deleted"])
def test_a_file_that_another_process_makes_anew_hides_nothing(how: str, path: Path) -> None:
    """Who had seen all of it does not take an empty table for an empty log."""
    log = CountingLog()
    fill(log, 300)
    indexed = IndexedLog(log, path)
    of(indexed, b"stream/1")
    if how == "deleted":
        path.unlink()
        indexed._connections._idle.clear()  # so that a new file is made, and the writer still has the old one
    else:
        other = IndexedLog(log, path)
        with other._connections.writing() as connection:
            connection.executescript(index._TABLES)
        if how == "filled":
            of(other, b"stream/9")
    for key in (b"stream/1", b"stream/2"):
        assert of(indexed, key) == plain(log, key)
        assert set(indexed.keys(0)) == set(log.keys(0))


class LaggingLog(CountingLog):
    """Shows less than it has until somebody waits: a leader that has just been elected."""

    lag = 0

    def bounds(self, partition: int) -> Bounds:
        first, end = super().bounds(partition)
        return Bounds(first, end - self.lag)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        self.lag = 0
        return super().wait(partition, end, timeout_seconds)


def test_a_log_that_shows_less_for_a_moment_is_not_taken_for_another_one(path: Path) -> None:
    log = LaggingLog()
    fill(log, 300)
    first = IndexedLog(log, path)
    of(first, b"stream/1")
    log.given, log.lag = 0, 10
    again = IndexedLog(log, path)
    of(again, b"stream/1")
    assert (log.given, log.lag) == (1, 0)
    assert of(again, b"stream/1") == plain(log, b"stream/1")


def test_what_is_damaged_is_never_taken_for_what_the_log_says(path: Path) -> None:
    """Random bytes at random places, 60 times: each answer is the log's."""
    dice = random.Random(SEED)
    log = MemoryLog()
    fill(log, 400)
    fine = IndexedLog(log, path)
    of(fine, b"stream/1")
    fine.close()
    log._closed = False
    good = path.read_bytes()
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(dice.choice((1, 3, 50))):
            bad[dice.randrange(len(bad))] = dice.randrange(256)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        path.write_bytes(bad)
        damaged = IndexedLog(log, path)
        for key in (b"stream/1", b"stream/7"):
            assert of(damaged, key) == plain(log, key)
        damaged._connections.close()


@pytest.mark.parametrize("content", [b"not SQLite at all" * 400, b"", b"SQLite format 3\x00" + b"\x00" * 4000])
def test_a_file_that_is_something_else_is_passed_over_and_made_anew(content: bytes, path: Path) -> None:
    log = CountingLog()
    fill(log, 200)
    path.parent.mkdir()
    path.write_bytes(content)
    for _ in range(2):
        indexed = IndexedLog(log, path)
        assert of(indexed, b"stream/5") == plain(log, b"stream/5")
        indexed._connections.close()
    assert [row[:2] for row in IndexedLog(log, path).progress()] == [(0, 201)]


def test_an_index_of_another_format_is_made_anew(path: Path) -> None:
    log = CountingLog()
    fill(log, 200)
    of(IndexedLog(log, path), b"stream/5")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert of(IndexedLog(log, path), b"stream/5") == plain(log, b"stream/5")
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (index.FORMAT,)


def test_where_nothing_can_be_written_the_log_answers(tmp_path: Path) -> None:
    log = CountingLog()
    fill(log, 200)
    (tmp_path / "file").write_text("in the way", "utf-8")
    indexed = IndexedLog(log, tmp_path / "file" / "index.sqlite")
    assert of(indexed, b"stream/5") == plain(log, b"stream/5")
    assert indexed.progress() == []


def test_a_full_disk_costs_time_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = CountingLog()
    fill(log, 300)
    indexed = IndexedLog(log, path)
    with indexed._connections.writing() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    assert of(indexed, b"stream/5") == plain(log, b"stream/5")
    assert set(indexed.keys(0)) == set(log.keys(0))


def test_only_the_owner_may_read_the_file(path: Path) -> None:
    """It holds what agents know."""
    log = MemoryLog()
    fill(log, 100)
    of(IndexedLog(log, path), b"stream/1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_long_work_says_how_far_it_is(path: Path) -> None:
    log = MemoryLog()
    fill(log, 200)
    indexed, told = IndexedLog(log, path), []
    indexed.scanning = lambda done, total: told.append((done, total))
    of(indexed, b"stream/1")
    assert told == [(50, 201), (100, 201), (150, 201), (200, 201), (201, 201)]


def _index(folder: str, path: str, pause: float) -> None:
    index.DIRECT_OFFSETS_MAX, index.BATCH_RECORDS = 20, 50
    log = EmbeddedLog(folder, create=False)
    indexed = IndexedLog(log, Path(path))
    indexed.scanning = lambda _done, _total: time.sleep(pause)
    list(indexed.read(0, 0, log.bounds(0).end, key=b"stream/1"))


def test_killed_in_the_middle_it_goes_on_and_misses_nothing(tmp_path: Path, path: Path) -> None:
    """kill -9 at random moments, two processes at once, until it is done."""
    dice = random.Random(SEED)
    log = EmbeddedLog(tmp_path / "log")
    log.append([NewRecord(0, b"stream/%d" % (number % 7), b"%d" % number) for number in range(4_000)])
    spawn = multiprocessing.get_context("spawn")
    for _ in range(4):
        processes = [spawn.Process(target=_index, args=(str(tmp_path / "log"), str(path), 0.02)) for _ in range(2)]
        for process in processes:
            process.start()
        time.sleep(0.6 + dice.random() * 0.5)
        for process in processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
            process.join()
    indexed = IndexedLog(log, path)
    for number in range(7):
        key = b"stream/%d" % number
        assert of(indexed, key) == list(log.read(0, 0, log.bounds(0).end, key=key))  # type: ignore[arg-type]
    assert indexed.progress()[0].records == 4_001

"""The projector as it runs: follows, publishes, pauses and goes on by itself, and refuses what no waiting mends."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ctxlog.errors import (
    BelowHorizonError,
    InvalidInputError,
    StorageError,
    TopicChangedError,
    ViewsBusyError,
    ViewsError,
)
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import Bounds
from ctxlog.projection import projector as projecting
from ctxlog.projection import running as module
from ctxlog.projection import tables
from ctxlog.projection.instance import Instance
from ctxlog.projection.projector import Projector
from ctxlog.projection.running import Running, StoppedError
from running import Failing, contents, expected, is_at, rows, run, stamp_of, until, write


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(tmp_path / "views")


@pytest.fixture
def memory() -> MemoryLog:
    return MemoryLog(3)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(module, "BACKOFF_SECONDS_MAX", 0.02)


def once(log: Any, instance: Instance, **options: Any) -> Running:
    running = Running(log, instance, **options)
    assert running.run(once=True)
    return running


def test_once_on_an_empty_log_publishes_views_without_events(memory: MemoryLog, instance: Instance) -> None:
    running = once(memory, instance)
    assert running.figures.records == 3  # the genesis of each partition
    assert {stat.S_IMODE(path.stat().st_mode) for path in (instance.file, instance.published)} == {0o600}
    with duckdb.connect(str(instance.published), read_only=True) as connection:
        assert connection.execute("SELECT DISTINCT outcome FROM events").fetchall() == [("control",)]
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)


def test_once_goes_to_the_ends_at_its_beginning_and_no_further(memory: MemoryLog, instance: Instance) -> None:
    """A log that grows faster than it is projected does not keep it for ever."""
    write(memory, 20)
    log = Failing(memory)
    log.fail = lambda what: write(memory, 1) if what == "read" else None
    before = sum(memory.bounds(partition).end for partition in range(3))
    assert once(log, instance).figures.records == before
    assert sum(memory.bounds(partition).end for partition in range(3)) > before


def test_once_again_projects_nothing_twice_and_publishes_nothing_new(
    memory: MemoryLog, instance: Instance, tmp_path: Path
) -> None:
    write(memory, 20)
    once(memory, instance)
    before = stamp_of(instance.published)
    assert once(memory, instance).figures.records == 0
    assert stamp_of(instance.published) == before
    write(memory, 5)
    once(memory, instance)
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


def test_what_is_written_while_it_follows_is_published(instance: Instance, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", partitions=2)
    write(log, 3)
    with run(log, instance) as following:
        until(lambda: rows(instance.published) >= 3)
        write(log, 10, first=3)
        everything = sum(log.bounds(partition).end for partition in range(2))
        until(lambda: rows(instance.published) == everything)
        until(lambda: is_at(following, log))
        assert following.running.figures.lag_events == 0
    assert contents(instance.published) == expected(log, tmp_path / "whole.duckdb")
    assert following.done is False
    assert following.said == []


def test_a_stop_publishes_what_there_is(memory: MemoryLog, instance: Instance, tmp_path: Path) -> None:
    write(memory, 10)
    with run(memory, instance, publish_seconds=1e6) as following:  # the first batch at once, and then never
        until(lambda: rows(instance.published))
        write(memory, 10)
        until(lambda: is_at(following, memory))
        assert rows(instance.published) < following.running.figures.records
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


def test_what_an_earlier_run_did_not_publish_is_published_first(memory: MemoryLog, instance: Instance) -> None:
    write(memory, 5)
    instance.folder.mkdir()
    projector = Projector(memory, instance.file)  # as it is left by kill -9
    projector.run_once()
    projector.close()
    with run(memory, instance) as following:
        until(lambda: rows(instance.published))
        assert following.running.figures.records == 0


def test_publications_are_no_more_than_the_time_allows(
    memory: MemoryLog, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[float] = []
    real = module.publish

    def slow(*arguments: Any) -> None:
        published.append(time.monotonic())
        real(*arguments)

    monkeypatch.setattr(module, "publish", slow)
    with run(memory, instance, publish_seconds=0.4):
        for number in range(12):
            write(memory, 1, first=number)
            time.sleep(0.1)
    *during, _ = published  # the last one is the stop's
    assert all(later - earlier >= 0.4 for earlier, later in pairwise(during))
    assert len(during) >= 2


@pytest.mark.parametrize(
    "error",
    [TopicChangedError("recreated"), BelowHorizonError(0, 7), ViewsError("damaged")],
    ids=lambda error: type(error).__name__,
)
def test_what_no_waiting_mends_ends_it_and_publishes_nothing_more(
    memory: MemoryLog, instance: Instance, error: Exception
) -> None:
    once(memory, instance)
    stamp, log = stamp_of(instance.published), Failing(memory)

    def fail(_: str) -> None:
        raise error

    write(memory, 5)
    log.fail = fail
    with pytest.raises(type(error)):
        Running(log, instance).run()
    assert stamp_of(instance.published) == stamp


def test_a_log_that_lacks_what_was_projected_is_refused(memory: MemoryLog, instance: Instance, monkeypatch: Any) -> None:
    write(memory, 10)
    once(memory, instance)
    for partition in memory._records:
        del partition[1:]
    monkeypatch.setattr("ctxlog.log.resuming.BACK_SECONDS_MAX", 0.1)
    with pytest.raises(ViewsError, match=r"is not what was projected.*`ctxlog projector rebuild`"):
        Running(memory, instance).run()


def test_a_second_projector_of_the_same_views_is_refused(memory: MemoryLog, instance: Instance, tmp_path: Path) -> None:
    with run(memory, instance):
        until(lambda: rows(instance.published))
        with pytest.raises(ViewsBusyError, match=r"another projector works on these views.*--instance"):
            Running(memory, instance).run(join=lambda: pytest.fail("it would put the first one out of the group"))
        other = Instance(instance.folder, "other")
        once(memory, other)
    assert contents(other.published) == contents(instance.published)


def test_views_of_another_version_are_made_anew_and_stay_until_then(
    memory: MemoryLog, instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(memory, 20)
    once(memory, instance)
    before = contents(instance.published)
    write(memory, 20)
    monkeypatch.setattr(tables, "VIEW_VERSION", tables.VIEW_VERSION + 1)
    monkeypatch.setattr(projecting, "BATCH_RECORDS", 5)
    log, seen = Failing(memory), []

    def fail(what: str) -> None:
        if what == "read":
            seen.append(rows(instance.published))
            if len(seen) == 17:
                raise StorageError("away")

    log.fail = fail
    said: list[str] = []
    once(log, instance, tell=said.append, publish_seconds=0)
    assert [sentence.partition(": ")[2].partition(".")[0] for sentence in said if "duckdb" in sentence] == [
        "the views are of another version than this release makes", "made anew",
    ]  # fmt: skip
    assert set(seen) == {len(before["events"])}
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")
    assert not instance.draft.exists()


def test_making_anew_that_was_stopped_goes_on_where_it_was(
    memory: MemoryLog, instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(memory, 20)
    once(memory, instance)
    monkeypatch.setattr(tables, "VIEW_VERSION", tables.VIEW_VERSION + 1)
    monkeypatch.setattr(projecting, "BATCH_RECORDS", 5)
    stamp = stamp_of(instance.published)
    running = Running(memory, instance)
    running._show = lambda figures: running.stop() if figures.batches == 2 else None
    assert running.run() is False
    assert stamp_of(instance.published) == stamp
    again = once(memory, instance)
    assert again.figures.records + running.figures.records == rows(instance.published)
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


def test_a_backlog_in_one_partition_does_not_starve_the_others(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = MemoryLog(4)
    write(log, 100, streams=20)
    monkeypatch.setattr(projecting, "BATCH_RECORDS", 5)
    projector = Projector(log, tmp_path / "views.duckdb")
    ends = {partition: log.bounds(partition).end for partition in range(4)}
    assert all(end > 15 for end in ends.values())
    for _ in range(4):
        projector.step(ends)
    assert all(start > 0 for start in projector.next_offsets.values())
    while projector.step(ends):
        pass
    assert projector.next_offsets == ends
    projector.close()


def test_a_signal_ends_a_wait_for_the_log_at_once(memory: MemoryLog, instance: Instance, tmp_path: Path) -> None:
    """Brokers that are away may keep a read for half a minute. What was projected before is published."""
    write(memory, 10)
    expectation = expected(memory, tmp_path / "whole.duckdb")
    log = Failing(memory)
    running = Running(log, instance, publish_seconds=1e6)
    before = signal.signal(signal.SIGUSR1, lambda *_: running.interrupt())
    timers = []

    def fail(what: str) -> None:
        if what == "wait":
            timers.append(threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)))
            timers[-1].start()
            time.sleep(50)

    log.fail = fail
    started = time.monotonic()
    try:
        assert running.run() is False
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - started < 40
    assert contents(instance.published) == expectation


def test_a_signal_outside_a_wait_breaks_nothing(memory: MemoryLog, instance: Instance) -> None:
    running = Running(memory, instance)
    running.interrupt()
    running.waiting = True
    with pytest.raises(StoppedError):
        running.interrupt()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "ä", "x" * 65, "..", "a\n"])
def test_names_of_instances_are_names_of_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="at most 64"):
        Instance(tmp_path, name)
    assert Instance(tmp_path, "A-1_b.c").published.name == "A-1_b.c.duckdb"


class _Gone(MemoryLog):
    def bounds(self, partition: int) -> Bounds:
        return Bounds(3, super().bounds(partition).end)


def test_a_log_whose_first_records_are_gone_is_refused(instance: Instance) -> None:
    with pytest.raises(BelowHorizonError):
        Running(_Gone(1), instance).run()


def test_readers_do_not_go_back_where_the_file_has_to_be_made_again(
    memory: MemoryLog, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deleted what is not shown; the published file is complete."""
    monkeypatch.setattr(projecting, "BATCH_RECORDS", 7)
    write(memory, 40)
    once(memory, instance)
    complete = rows(instance.published)
    instance.file.unlink()
    seen: list[int] = []
    write(memory, 5)
    once(memory, instance, publish_seconds=0.0, show=lambda _: seen.append(rows(instance.published)))
    assert min(seen) == complete
    assert rows(instance.published) >= complete + 5


def test_a_run_that_is_stopped_before_it_is_as_far_as_what_is_published_leaves_that(
    memory: MemoryLog, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projecting, "BATCH_RECORDS", 7)
    write(memory, 40)
    once(memory, instance)
    before = contents(instance.published)
    instance.file.unlink()
    said: list[str] = []
    running = Running(memory, instance, tell=said.append, publish_seconds=0.0, show=lambda _: running.stop())
    assert not running.run(once=True)
    assert contents(instance.published) == before
    assert running.unpublished
    assert "holds more than was projected again by now" in said[-1]


def test_a_folder_with_views_of_another_log_is_refused(memory: MemoryLog, instance: Instance) -> None:
    """Whoever reads there would be refused from then on."""
    once(MemoryLog(1), Instance(instance.folder, "other"))
    with pytest.raises(ViewsError, match=r"other\.duckdb: these are views of another log; nothing was projected"):
        Running(memory, instance).run(once=True)
    assert not instance.published.exists()

"""Disk and brokers that are away: the projector pauses, says so once, and goes on by itself; every record counts once."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ctxlog import ContextLog
from ctxlog.errors import (
    StorageError,
    ViewsError,
    ViewsFullError,
    ViewsMemoryError,
)
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.memory import MemoryLog
from ctxlog.projection import projector as projecting
from ctxlog.projection import publish as publishing
from ctxlog.projection import running as module
from ctxlog.projection.instance import Instance
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish
from ctxlog.projection.running import Running
from ctxlog.projection.store import ViewStore
from running import Failing, Run, contents, expected, is_at, rows, run, stamp_of, until, write


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


def _full(times: int, real: Any, *, after: bool = False, error: type[ViewsError] = ViewsFullError) -> Any:
    """Fails so many times; before the work is done, or after."""
    left = [times]

    def fails(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            if after:
                real(*arguments)
            raise error("views: there is no room")
        return real(*arguments)

    return fails


@pytest.mark.parametrize("after", [False, True])
def test_a_full_disk_at_a_commit_pauses_and_nothing_is_skipped_or_doubled(
    memory: MemoryLog, instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    write(memory, 30)
    monkeypatch.setattr(projecting, "BATCH_RECORDS", 7)
    monkeypatch.setattr(ViewStore, "commit", _full(3, ViewStore.commit, after=after))
    said: list[str] = []
    running = once(memory, instance, tell=said.append)
    assert [sentence.partition(":")[0] for sentence in said] == ["paused", "goes on."]
    assert running.figures.paused is None
    assert running.figures.records == sum(memory.bounds(partition).end for partition in range(3))
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


@pytest.mark.parametrize("after", [False, True])
def test_records_whose_commit_failed_are_counted_once_whether_it_was_kept_or_not(
    memory: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """A commit is kept where only the checkpoint behind it failed."""
    write(memory, 30)
    monkeypatch.setattr(projecting, "BATCH_RECORDS", 7)
    monkeypatch.setattr(ViewStore, "commit", _full(2, ViewStore.commit, after=after, error=ViewsMemoryError))
    projector = Projector(memory, tmp_path / "views.duckdb")
    assert projector.run_once() == sum(memory.bounds(partition).end for partition in range(3))
    assert projector.run_once() == 0
    projector.close()


def test_a_full_disk_at_a_publication_pauses_and_the_last_one_stays(
    memory: MemoryLog, instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(memory, 10)
    once(memory, instance)
    before = contents(instance.published)
    full, real = [True], module.publish

    def fails(*arguments: Any) -> None:
        if full[0]:
            raise ViewsFullError("views: there is no room")
        real(*arguments)

    monkeypatch.setattr(module, "publish", fails)
    with run(memory, instance) as following:
        write(memory, 10)
        until(lambda: following.running.figures.paused == "disk")
        time.sleep(0.1)  # several tries
        assert len(following.said) == 1
        assert contents(instance.published) == before
        behind = following.running.figures.lag_events
        write(memory, 10)  # Whoever watches the lag sees it grow.
        until(lambda: following.running.figures.lag_events >= behind + 10)
        full[0] = False
        until(lambda: is_at(following, memory))
    assert [sentence.partition(":")[0] for sentence in following.said] == ["paused", "goes on."]
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


def test_a_stop_while_the_disk_is_full_says_that_nothing_was_published(
    memory: MemoryLog, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "publish", _full(10**6, module.publish))
        with run(memory, instance) as following:
            until(lambda: following.running.figures.paused == "disk")
    assert "not published" in following.said[-1]
    assert following.running.unpublished
    assert not instance.published.exists()
    once(memory, instance)
    assert rows(instance.published) == 3


def test_a_stop_while_the_file_cannot_even_be_opened_ends_in_good_order(
    memory: MemoryLog, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(memory, instance)
    with run(memory, instance) as following:
        until(lambda: following.running.figures.next_offsets)
        for name in ("commit", "_open"):
            monkeypatch.setattr(ViewStore, name, _full(10**6, None))
        write(memory, 5)
        until(lambda: following.running.figures.paused == "disk")
        time.sleep(0.1)  # several tries
    assert "not published" in following.said[-1]
    monkeypatch.undo()
    once(memory, instance)
    assert rows(instance.published) >= 8


def test_a_projector_that_could_not_be_restarted_can_be_restarted_again(memory: MemoryLog, tmp_path: Path) -> None:
    write(memory, 10)
    projector = Projector(memory, tmp_path / "views.duckdb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ViewStore, "_open", _full(2, None))
        for _ in range(2):
            with pytest.raises(ViewsFullError):
                projector.restart()
    projector.restart()
    assert projector.partitions == [0, 1, 2]
    projector.close()


@pytest.mark.parametrize(("number", "error"), [(28, ViewsFullError), (122, ViewsFullError), (13, ViewsError)])
def test_only_a_full_disk_counts_as_one_when_a_copy_cannot_be_made(
    memory: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[ViewsError]
) -> None:
    """Anything else would be waited for in vain."""
    projector = Projector(memory, tmp_path / "views.duckdb")
    publish(projector.store, tmp_path / "published.duckdb")
    stamp = stamp_of(tmp_path / "published.duckdb")
    monkeypatch.setattr(publishing, "_COPY", f"import sys; sys.exit('{number} no')")
    with pytest.raises(ViewsError, match="the last one stays") as raised:
        publish(projector.store, tmp_path / "published.duckdb")
    assert type(raised.value) is error
    assert stamp_of(tmp_path / "published.duckdb") == stamp
    projector.close()


def test_ctrl_c_in_a_terminal_does_not_reach_the_copy_that_is_being_made(
    memory: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal sends it to all processes of a group, and a copy that it broke off would look like a full disk."""
    projector = Projector(memory, tmp_path / "views.duckdb")
    monkeypatch.setattr(publishing, "_COPY", "import os, sys; open(sys.argv[2], 'w').write(str(os.getpgid(0)))")
    publish(projector.store, tmp_path / "published.duckdb")
    assert (tmp_path / "published.duckdb").read_text() != str(os.getpgid(0))
    projector.close()


def test_a_transaction_that_was_kept_though_it_seemed_to_fail_is_published(
    memory: MemoryLog, instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(memory, instance)
    with run(memory, instance) as following:
        until(lambda: is_at(following, memory))
        monkeypatch.setattr(ViewStore, "commit", _full(1, ViewStore.commit, after=True))
        write(memory, 1)
        until(lambda: rows(instance.published) == sum(memory.bounds(partition).end for partition in range(3)))
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_in_between_every_record_counts_once(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The log away, in the middle of a read too; the disk full before or after a commit, at a publication, at opening again."""
    dice = random.Random(seed)
    inner = MemoryLog(3, offset_step=dice.choice((1, 3)))
    log = Failing(inner)
    monkeypatch.setattr(projecting, "BATCH_RECORDS", dice.choice((1, 3, 11)))

    def maybe(error: Exception, chance: float) -> None:
        if dice.random() < chance:
            raise error

    full, away = ViewsFullError("full"), StorageError("away")
    log.fail = lambda what: maybe(away, 0.01 if what == "read" else 0.05)
    commit, opening, publishing = ViewStore.commit, ViewStore._open, module.publish

    def commits(*arguments: Any) -> None:
        maybe(full, 0.1)
        commit(*arguments)
        maybe(full, 0.1)

    def opens(store: ViewStore) -> Any:
        maybe(full, 0.3)
        return opening(store)

    def publishes(*arguments: Any) -> None:
        maybe(full, 0.3)
        publishing(*arguments)

    monkeypatch.setattr(ViewStore, "commit", commits)
    monkeypatch.setattr(ViewStore, "_open", opens)
    monkeypatch.setattr(module, "publish", publishes)
    with run(log, instance) as following:
        for number in range(0, 60, 6):
            write(inner, 6, first=number)
            time.sleep(0.02)
        until(lambda: is_at(following, inner) and following.said.count("goes on.") > 2)
        log.fail = lambda _: None
        for place, name, real in ((ViewStore, "commit", commit), (ViewStore, "_open", opening), (module, "publish", publishing)):
            monkeypatch.setattr(place, name, real)
    assert contents(instance.published) == expected(inner, tmp_path / "whole.duckdb")


def test_brokers_that_are_away_pause_it_and_it_goes_on_by_itself(memory: MemoryLog, instance: Instance, tmp_path: Path) -> None:
    log, away = Failing(memory), [False]

    def fail(_: str) -> None:
        if away[0]:
            raise StorageError("no broker answers")

    log.fail = fail
    with run(log, instance) as following:
        until(lambda: rows(instance.published))
        away[0] = True
        until(lambda: following.running.figures.paused == "log")
        write(memory, 10)
        away[0] = False
        until(lambda: is_at(following, memory))
    assert following.said == ["paused: no broker answers It is tried again by itself.", "goes on."]
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


def test_a_stop_while_the_log_is_away_publishes_what_there_is(memory: MemoryLog, instance: Instance, tmp_path: Path) -> None:
    write(memory, 5)
    log, away = Failing(memory), [False]

    def fail(_: str) -> None:
        if away[0]:
            raise StorageError("no broker answers")

    log.fail = fail
    with run(log, instance, publish_seconds=1e6) as following:
        until(lambda: rows(instance.published))
        write(memory, 5)
        until(lambda: is_at(following, memory))
        assert following.running.figures.records > rows(instance.published)
        away[0] = True
        until(lambda: following.running.figures.paused == "log")
    assert contents(instance.published) == expected(memory, tmp_path / "whole.duckdb")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with little room; only root may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_real_disk_that_is_full_pauses_it_and_room_lets_it_go_on(small_disk: Path, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log")
    write(log, 200)
    instance = Instance(small_disk / "views")
    ballast = small_disk / "ballast"
    with run(log, instance) as following:
        until(lambda: rows(instance.published))
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        write(log, 2_000, first=200)
        until(lambda: following.running.figures.paused == "disk" or following.error)
        time.sleep(0.3)  # many tries
        assert following.error is None
        ballast.unlink()
        until(lambda: is_at(following, log) or following.error)
    assert following.said.count("goes on.") == len(following.said) / 2 >= 1
    assert contents(instance.published) == expected(log, tmp_path / "whole.duckdb")


@pytest.mark.parametrize("damage", ["changed", "cut short"])
def test_a_damaged_file_is_made_anew(memory: MemoryLog, instance: Instance, tmp_path: Path, damage: str) -> None:
    """All that it held is in the log."""
    write(memory, 30)
    once(memory, instance)
    damaged = bytearray(instance.file.read_bytes())
    if damage == "changed":
        damaged[3 * 4096 + 100 :: 4096] = bytes(byte ^ 0xFF for byte in damaged[3 * 4096 + 100 :: 4096])
    else:
        del damaged[len(damaged) // 3 :]
    instance.file.write_bytes(damaged)
    told: list[str] = []
    once(memory, instance, tell=told.append)
    assert "the file is damaged" in told[0]
    assert contents(instance.published) == expected(memory, tmp_path / "expected.duckdb")


def test_records_that_need_more_memory_get_it(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB may take little, which a few large records in one file are more than it can bring there with."""
    monkeypatch.setattr(ViewStore.__init__, "__defaults__", (25,))
    log = MemoryLog()
    dice = random.Random(1)
    text = "".join(dice.choices("abcdefghijklmnopqrstuvwxyz ", k=500_000))
    context = ContextLog(log).context("a/1")
    for number in range(150):
        context.add_message("user", f"{number}{text}")
    told: list[str] = []
    running = once(log, instance, tell=told.append)
    assert any("DuckDB needs more than the 25 MB" in one for one in told)
    assert running.figures.paused is None
    with contextlib.closing(duckdb.connect(str(instance.published), read_only=True)) as connection:
        found = connection.execute("SELECT count(*), min(length(content)), max(version) FROM messages").fetchone()
    assert found == (150, 500_001, 150)
    projector = Projector(log, tmp_path / "direct.duckdb")
    assert projector.run_once() == log.bounds(0).end
    projector.close()


def test_a_disk_that_is_full_from_the_beginning_pauses_it_too(small_disk: Path, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log")
    write(log, 20)
    instance = Instance(small_disk / "views")
    instance.folder.mkdir()
    (small_disk / "ballast").write_bytes(b"x" * (11_900 * 1024))
    following = Run(log, instance)
    following.start()
    try:
        until(lambda: following.running.figures.paused == "disk" or following.error)
        (small_disk / "ballast").unlink()
        until(lambda: rows(instance.published) or following.error)
    finally:
        following.stop()
    assert following.error is None
    assert contents(instance.published) == expected(log, tmp_path / "whole.duckdb")

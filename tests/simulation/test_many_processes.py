"""Several processes on one log at once: writers that contend, readers that follow, children of a fork."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from ctxlog import ContextLog
from ctxlog.audit.verify import verify

Start = Callable[..., "subprocess.Popen[str]"]
Finish = Callable[["subprocess.Popen[str]"], str]


def test_eight_processes_that_expect_versions_win_each_version_once(start: Start, finish: Finish, tmp_path: Path) -> None:
    """Optimistic concurrency: retry on ConflictError, and the history has no gaps and no version twice."""
    wins = 10
    processes = [start("contend", tmp_path / "log", name, wins) for name in range(8)]
    told = [line.split() for process in processes for line in finish(process).splitlines()]
    won = {int(version): event_id for version, event_id in told}
    assert len(told) == 8 * wins
    assert sorted(won) == list(range(1, 8 * wins + 1))
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        context = log.context("shared/counter")
        assert {found.version: found.event.meta["event_id"] for found in context.accepted()} == won
        texts = [message.content or "" for message in context.state.messages]
        for name in range(8):
            assert [text for text in texts if text.startswith(f"{name} ")] == [f"{name} {number}" for number in range(wins)]
        assert verify(log).problems == []


def test_readers_see_a_beginning_of_what_writers_write_and_it_stays(start: Start, finish: Finish, tmp_path: Path) -> None:
    """No torn group, no step back, no version that changes; by kept cursors, from snapshots and from zero."""
    messages = 150
    readers = [start("watch", tmp_path / "log", "a,b", messages) for _ in range(2)]
    writers = [start("count", tmp_path / "log", name, messages) for name in "ab"]
    for process in writers:
        finish(process)
    for process in readers:
        assert int(finish(process).split()[1]) > 0
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        assert verify(log).problems == []


def test_children_of_a_fork_go_on_with_the_handle_that_they_inherit(start: Start, finish: Finish, tmp_path: Path) -> None:
    """Agents run in worker processes, and these fork. Nobody should have to know that a log must be opened anew."""
    said = json.loads(finish(start("forks", tmp_path / "log")))
    assert said == {"codes": [0, 0, 0, 0], "version": 1 + 4 + 40 + 30 + 1}
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        texts = [message.content or "" for message in log.context("shared/forks").state.messages]
        for name in ("0", "1", "2", "3", "pool-0", "pool-1", "pool-2"):
            assert log.context(f"child/{name}").version == 10
            assert [text for text in texts if text.startswith(f"{name} ")] == [f"{name} {number}" for number in range(10)]
        assert (texts[0], texts[-1]) == ("before", "after")
        assert verify(log).problems == []


def test_a_child_that_outlives_the_handle_of_its_parent_loses_nothing(start: Start, finish: Finish, tmp_path: Path) -> None:
    """SQLite deletes the write-ahead log with the last connection that it knows of; a child's must be known."""
    assert finish(start("outlives", tmp_path / "log")) == "0\n"
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        assert log.context("child/0").version == 11
        assert verify(log).problems == []

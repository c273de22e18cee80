"""kill -9 while projections that people add are kept up, and while they are made anew."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ctxlog import ContextLog
from ctxlog.model.events import MessageAppended

CHILD = Path(__file__).with_name("custom_projector.py")


class Killed:
    """Projectors in processes of their own, each killed at some event or transaction or soon after."""

    def __init__(self, url: str, path: Path, seed: int) -> None:
        self.url, self.path, self.dice = url, path, random.Random(seed)

    def run(self, version: int, words: int | None) -> bool:
        """Run one until it has said so many words, and kill it; without a number, to its end. Whether it was killed."""
        command = [sys.executable, str(CHILD), self.url, str(self.path), str(version)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            said = 0
            while child.stdout.readline():
                said += 1
                if said == words:
                    if self.dice.random() < 0.5:  # Not where it waits, but somewhere behind it.
                        child.stdin.write("\n")
                        child.stdin.flush()
                        time.sleep(self.dice.random() * 0.01)
                    child.kill()
                    break
                child.stdin.write("\n")
                child.stdin.flush()
            child.stdin.close()
            child.wait()
        assert child.returncode in (0, -signal.SIGKILL)
        return child.returncode != 0

    def versions(self) -> list[Any]:
        with duckdb.connect(str(self.path), read_only=True) as connection:
            return connection.execute("SELECT version, content FROM texts.said ORDER BY rowid").fetchall()


@pytest.mark.slow
def test_killed_again_and_again_it_projects_each_event_once(tmp_path: Path) -> None:
    """Live, and while tables are made anew: until that is done they are what they were."""
    url = f"embedded:{tmp_path / 'log'}"
    texts = [f"text {number}" for number in range(60)]
    with ContextLog.open(url) as log:
        log.context("a/1").append_each([(MessageAppended(role="user", content=text), {}) for text in texts])
    expected = {
        version: [(number, f"{text}, by version {version}") for number, text in enumerate(texts, 1)] for version in (1, 2)
    }
    killed = Killed(url, tmp_path / "v.duckdb", 20261125)
    kills = 0
    while kills < 12:
        kills += killed.run(1, killed.dice.randint(2, 9))
        kept = killed.versions()
        assert kept == expected[1][: len(kept)]
    killed.run(1, None)
    assert killed.versions() == expected[1]
    for words in (1, 5, 30, 59, 60):
        assert killed.run(2, words)
        assert killed.versions() in ([expected[1]] if words < 60 else [expected[1], expected[2]])
    killed.run(2, None)
    assert killed.versions() == expected[2]

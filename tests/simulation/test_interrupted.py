"""Ctrl-C at any moment leaves a log that opens, verifies and goes on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from simulation import ledger

Start = Callable[..., "subprocess.Popen[str]"]
Finish = Callable[["subprocess.Popen[str]"], str]

RUNS, MESSAGES = 60, 25


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A folder of recorded chats, some with several writes' worth of text."""
    folder = tmp_path / "chats"
    folder.mkdir()
    for run in range(RUNS):
        messages = [{"role": "user", "content": f"run {run}, message {i}" * (1 + 500 * (run % 9 == 0))} for i in range(MESSAGES)]
        (folder / f"run-{run:02}.json").write_text(json.dumps(messages), encoding="utf-8")
    return folder


def test_an_import_that_is_stopped_is_finished_by_the_next_one(start: Start, finish: Finish, tmp_path: Path, chats: Path) -> None:
    """What is in is a beginning of each run; the same import again adds the rest and nothing twice."""
    folder, dice = tmp_path / "log", random.Random(7)
    stopped = 0
    for _ in range(5):
        process = start("imports", folder, chats)
        assert process.stdout is not None
        for _ in range(dice.randrange(1, 30)):
            process.stdout.readline()
        time.sleep(dice.random() * 0.01)
        process.send_signal(signal.SIGINT)
        process.communicate()
        stopped += process.returncode != 0
        with ContextLog.open(f"embedded:{folder}") as log:
            assert verify(log).problems == []
            for stream in log.streams():
                texts = [message.content for message in log.context(stream.stream_id).state.messages]
                run = json.loads((chats / f"{stream.stream_id.removeprefix('shop/')}.json").read_text("utf-8"))
                assert texts == [message["content"] for message in run][: len(texts)]
    assert stopped > 0
    report = json.loads(finish(start("imports", folder, chats)).splitlines()[-1].removeprefix("report "))
    assert report["failed"] == 0
    assert report["appended"] + report["skipped"] == RUNS * MESSAGES
    with ContextLog.open(f"embedded:{folder}") as log:
        assert {stream.stream_id: stream.version for stream in log.streams()} == {
            f"shop/run-{run:02}": MESSAGES for run in range(RUNS)
        }
        assert verify(log).problems == []


def test_a_process_that_survives_ctrl_c_goes_on_with_the_same_handle(start: Start, finish: Finish, tmp_path: Path) -> None:
    """As in a notebook: the interrupt hits anywhere in an append, and the next append is as good as ever."""
    folder, notes, dice = tmp_path / "log", tmp_path / "ledger", random.Random(11)
    process = start("interrupted", folder, notes, stdin=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(60):
        for _ in range(dice.choice((1, 1, 3))):
            assert process.stdout.readline() == "done\n"
        time.sleep(dice.random() * 0.004)
        process.send_signal(signal.SIGINT)
        # Only then the next one: two in a row would hit what handles the first.
        while (said := process.stdout.readline()) == "done\n":
            pass
        assert said == "interrupted\n"
    finish(process)
    with ContextLog.open(f"embedded:{folder}") as log:
        assert ledger.check(log, ledger.entries([notes])) > 40

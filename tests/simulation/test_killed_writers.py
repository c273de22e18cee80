"""kill -9: no acknowledged event is lost, none is there twice, and whoever comes next goes on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.importers import import_path
from simulation import ledger

Start = Callable[..., "subprocess.Popen[str]"]


def kill_writers(start: Start, tmp_path: Path, *, kills: int, look_every: int) -> None:
    """Two writers at a time on the same streams; one of them is killed and started again, `kills` times."""
    folder, chats_folder = tmp_path / "log", tmp_path / "chats"
    chats_folder.mkdir()
    chats = {}
    for number in range(6):
        texts = [f"chat {number}, message {i}" for i in range(40)]
        chats[f"chat-{number}.json"] = texts
        messages = [{"role": "user", "content": text} for text in texts]
        (chats_folder / f"chat-{number}.json").write_text(json.dumps(messages), encoding="utf-8")
    dice = random.Random(20261124)
    ledgers = []
    started_at = time.monotonic()

    def writer(name: str) -> subprocess.Popen[str]:
        ledgers.append(tmp_path / f"ledger-{len(ledgers)}")
        return start("mixed", folder, ledgers[-1], name, len(ledgers), chats_folder)

    writers = {"a": writer("a"), "b": writer("b")}
    for kill in range(kills):
        name = dice.choice("ab")
        process = writers[name]
        assert process.stdout is not None
        for _ in range(dice.choice((1, 1, 2, 5, 20))):
            if not process.stdout.readline():
                pytest.fail(f"a writer ended by itself: {process.communicate()[1]}")
        time.sleep(dice.random() * 0.02)  # so that it is hit anywhere, and not just after it spoke
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        if kill % look_every == 0:
            survivor = writers["b" if name == "a" else "a"]
            survivor.send_signal(signal.SIGSTOP)  # maybe in the middle of a transaction; readers need nothing of it
            with ContextLog.open(f"embedded:{folder}") as log:
                ledger.check(log, [])
            survivor.send_signal(signal.SIGCONT)
        writers[name] = writer(name)
    for process in writers.values():
        process.kill()
        process.communicate()
    with ContextLog.open(f"embedded:{folder}") as log:
        notes = ledger.entries(path for path in ledgers if path.exists())
        acknowledged = ledger.check(log, notes, chats)
        # A killed writer's import is finished by the next one.
        for name in "ab":
            assert not import_path(log, chats_folder, agent=f"import-{name}").failed
            for file, texts in chats.items():
                stream_id = f"import-{name}/{Path(file).stem}"
                assert [message.content for message in log.context(stream_id).state.messages] == texts
    assert acknowledged > 2 * kills
    answered = {note["ids"][0] for note in notes if "acknowledged" in note or "refused" in note}
    cut_off = sum(1 for note in notes if "tried" in note and note["ids"][0] not in answered)
    assert cut_off > kills // 10 or kills < 100  # kills that all hit between two appends would show little
    seconds = time.monotonic() - started_at
    print(f"{kills} kills, {cut_off} in an append, {acknowledged:,} acknowledged events, {seconds:.0f} s", file=sys.stderr)


def test_writers_killed_in_a_loop_lose_nothing_and_double_nothing(start: Start, tmp_path: Path) -> None:
    kill_writers(start, tmp_path, kills=12, look_every=4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_three_hundred_kills_lose_nothing_and_double_nothing(start: Start, tmp_path: Path) -> None:
    kill_writers(start, tmp_path, kills=300, look_every=50)


def test_a_log_whose_creator_is_killed_opens(start: Start, tmp_path: Path) -> None:
    """At any moment of the creation: either there is no log yet, or a whole one."""
    chats = tmp_path / "chats"
    chats.mkdir()
    (chats / "chat.json").write_text('[{"role": "user", "content": "hello"}]', encoding="utf-8")
    for number in range(5):
        folder = tmp_path / f"log-{number}"
        process = start("mixed", folder, tmp_path / f"ledger-{number}", "a", number, chats)
        while process.poll() is None and not folder.exists():
            time.sleep(0.001)
        time.sleep(0.004 * number)
        process.kill()
        process.communicate()
        with ContextLog.open(f"embedded:{folder}") as log:
            log.context("writer/a").add_message("user", "after")
            ledger.check(log, [])

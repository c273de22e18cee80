"""kill -9 while a log is signed: whatever is there afterwards is right, and the next run completes it."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.audit.heads import HeadFile, heads_in_log
from ctxlog.audit.notes import SigningKey
from ctxlog.audit.signing import Signer
from ctxlog.audit.tree import LogTree
from ctxlog.audit.verify import VERIFIED, Seals, verify
from ctxlog.model.events import MessageAppended

SIGNS = """
import sys
from pathlib import Path
from ctxlog.audit import tree
from ctxlog.audit.heads import HeadFile
from ctxlog.audit.notes import SigningKey
from ctxlog.audit.signing import Signer
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.model.records import NewRecord

tree.BATCH_RECORDS = 7
log, folder = EmbeddedLog(sys.argv[1]), Path(sys.argv[2])
key = SigningKey("example.org/audit", bytes(range(32)))
signer = Signer(log, tree.LogTree(log, folder / "tree.sqlite"), key, HeadFile(folder, log.log_id))
print("ready", flush=True)
while True:
    log.append([NewRecord(0, b"s", b"x")] * 20)
    signer.sign(0)
"""
KEY = SigningKey("example.org/audit", bytes(range(32)))


@pytest.mark.slow
def test_signing_that_is_killed_at_any_moment_leaves_nothing_wrong(tmp_path: Path, folder: Path) -> None:
    beside, dice, seen = tmp_path / "beside", random.Random(20261125), set()
    with ContextLog.open(f"embedded:{folder}") as log:
        log.context("s").append([MessageAppended(role="user", content="hi")] * 50)
        file = HeadFile(beside, log.log.log_id)
        for _ in range(12):
            process = subprocess.Popen([sys.executable, "-c", SIGNS, folder, beside], stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(dice.random() * 0.08)
            process.kill()
            process.communicate()
            outside = [found.head for found in file.heads([])]
            inside = [found.head for found in heads_in_log(log.log, 0, 0, log.log.bounds(0).end, [])]
            assert set(inside) <= set(outside), "first outside, then in the log"
            seen.add((len(set(outside)) - len(set(inside)), bool(outside)))
            report = verify(log, seals=Seals([KEY.verify_key], file.heads([]), None))
            assert report.problems == []
        with contextlib.closing(LogTree(log.log, beside / "tree.sqlite")) as tree:
            last = Signer(log.log, tree, KEY, file).sign(0)
        assert last is not None
        report = verify(log, seals=Seals([KEY.verify_key], file.heads([]), None))
        assert (report.verdict, report.heads[0].size, report.heads[0].unsigned) == (VERIFIED, last.head.size, 0)
        for found in (file.heads([]), list(heads_in_log(log.log, 0, 0, log.log.bounds(0).end, []))):
            assert found[-1].head == last.head
    assert seen - {(0, False)}, "the kills hit nothing"


@pytest.mark.parametrize("place", ["tree", "head outside", "head in the log"])
def test_a_stop_between_any_two_steps_is_made_good_by_the_next_run(
    tmp_path: Path, folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree is written and no head; the head is outside and not in the log; it is in both and nobody was told."""

    class Stopped(BaseException):
        pass

    with ContextLog.open(f"embedded:{folder}") as log:
        log.context("s").add_message("user", "hi")
        file = HeadFile(tmp_path / "heads", log.log.log_id)
        append, put = type(log.log).append, HeadFile.append

        def stop(self: object, what: object) -> None:
            if place == "head in the log":
                append(log.log, what)  # type: ignore[arg-type]
            raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(HeadFile if place == "tree" else type(log.log), "append", stop)
            with pytest.raises(Stopped), contextlib.closing(LogTree(log.log, tmp_path / "tree.sqlite")) as tree:
                Signer(log.log, tree, KEY, file).sign(0)
        assert HeadFile.append is put
        assert len(file.heads([])) == (place != "tree")
        with contextlib.closing(LogTree(log.log, tmp_path / "tree.sqlite")) as tree:
            signed = Signer(log.log, tree, KEY, file).sign(0)
        assert signed is not None
        assert signed.new == (place == "tree")
        assert [found.head for found in file.heads([])] == [signed.head]
        assert [found.head for found in heads_in_log(log.log, 0, 0, 99, [])] == [signed.head]

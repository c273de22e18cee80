"""Somebody who may read a log and not write it, as auditors do. Root may write everywhere, unless it gives that up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import PROGRAM, Program, environment
from rights import give_up_rights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gives up a right of root, by a call of Linux")


def lock(folder: Path) -> None:
    """Nobody may write here any more."""
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


class Reader(Program):
    """The program as somebody who may not write."""

    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=environment(self.folder),
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=give_up_rights,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def reader(refunds: Program) -> Iterator[Reader]:
    """The log of `refunds`, locked."""
    lock(refunds.folder / ".ctxlog")
    yield Reader(refunds.folder)
    (refunds.folder / ".ctxlog").chmod(0o755)


@pytest.mark.parametrize(
    "arguments",
    [
        ("streams",),
        ("show", "refunds/1"),
        ("log", "refunds/1"),
        ("replay", "refunds/1"),
        ("verify",),
        ("copy", "embedded:copy"),
        ("doctor",),
    ],
)
def test_every_command_that_reads_works_and_says_the_same(refunds: Program, arguments: tuple[str, ...]) -> None:
    expected = refunds(*arguments).out if arguments[0] not in ("copy", "doctor") else ""
    folder = refunds.folder / ".ctxlog"
    (folder / "cache.sqlite").unlink(missing_ok=True)
    lock(folder)
    before = sorted(path.name for path in folder.iterdir())
    code, out, err = Reader(refunds.folder).run(*arguments)
    assert (code, err) == (0, "")
    assert not expected or out == expected
    assert sorted(path.name for path in folder.iterdir()) == before


def test_appending_fails_and_says_why(reader: Reader) -> None:
    for arguments in (("append", "refunds/1", "--message", "user", "x"), ("init", "--log", "embedded:.ctxlog/inner")):
        code, out, err = reader.run(*arguments)
        assert (code, out) == (1, "")
        assert (
            "may read the log and not write it; nothing was appended. Give its user the right" in err
            or "Permission denied" in err
        )


def test_a_reader_sees_what_a_writer_appends_meanwhile(refunds: Program) -> None:
    """While somebody has the log open there are locks to take, and appends to see that are not in the file itself yet."""
    from ctxlog import ContextLog

    folder = refunds.folder / ".ctxlog"
    with ContextLog.open(f"embedded:{folder}") as log:
        log.context("refunds/1").set_fact("late", 1)
        lock(folder)
        code, out, _ = Reader(refunds.folder).run("show", "refunds/1")
        folder.chmod(0o755)
        assert code == 0
        assert "late" in out

"""Runs the program as a user does: as a process, in an empty folder, with an environment that says nothing of ctxlog."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROGRAM = Path(sys.executable).with_name("ctxlog")
TIMEOUT_SECONDS = 120


def environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the program sees of the environment."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("CTXLOG", "_CTXLOG", "NO_COLOR"))}
    return {
        **found,
        "HOME": str(folder),
        "COLUMNS": "110",
        "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}",
        "PYTHONUTF8": "1",
        **(more or {}),
    }


class Done(NamedTuple):
    """What a run of the program showed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, parsed."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its output, each line parsed."""
        return [json.loads(row) for row in self.out.splitlines()]


class Program:
    """`ctxlog` in a folder; `program("streams", "-o", "json")` runs it and checks the exit code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, code: int = 0, typed: str | bytes = "", env: Mapping[str, str] | None = None) -> Done:
        done = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=environment(self.folder, env),
            input=typed.encode() if isinstance(typed, str) else typed,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
        )
        found = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert found.code == code, f"ctxlog {' '.join(arguments)}: exit {found.code}\n{found.out}\n{found.err}"
        assert "Traceback" not in found.err
        assert "fault in ctxlog" not in found.err
        return found

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """The program, started, with pipes."""
        return subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=environment(self.folder, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty folder."""
    return Program(tmp_path)


@pytest.fixture
def refunds(program: Program) -> Program:
    """A folder with a log: `refunds/1` at version 4, `refunds/2` at version 1, `support/1` at version 1."""
    program("append", "refunds/1", "--message", "user", "Please refund order W-204.")
    program("append", "refunds/1", "--fact", "order.total", "129.90", "--actor", "tool:shop")
    program("append", "refunds/1", "--message", "assistant", "Done.", "--fact", "refunded", "true")
    program("append", "refunds/2", "--message", "user", "Hello")
    program("append", "support/1", "--message", "user", "Hello")
    return program


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes OpenAI-style chats as JSON Lines, one run a line."""

    def write(name: str, *runs: object) -> Path:
        path = tmp_path / name
        path.write_text("".join(run if isinstance(run, str) else json.dumps(run) + "\n" for run in runs), "utf-8")
        return path

    return write

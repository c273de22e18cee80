"""Real processes: started here, and ended here whatever happens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROCESSES = Path(__file__).parent / "processes.py"
WAIT_SECONDS = 240


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process of `processes.py` in a role; kills what is left of them in the end."""
    started: list[subprocess.Popen[str]] = []

    def start_it(role: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROCESSES), role, *map(str, arguments)]
        started.append(subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options))
        return started[-1]

    yield start_it
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def finish() -> Callable[[subprocess.Popen[str]], str]:
    """Waits until a process has ended well; what it said."""

    def finish_it(process: subprocess.Popen[str]) -> str:
        out, err = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, err
        return out

    return finish_it

"""How far long work is, on stderr: a bar on a terminal, a line now and then elsewhere, nothing where the work is short."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from ctxlog.cli.output import coloured, note
from ctxlog.cli.text import visible

QUIET_SECONDS = 0.5
"""Work that is done by then shows nothing, and does not import the bar."""

LINE_SECONDS = 10.0
"""How often a line is written where stderr is no terminal: often enough to see that it goes on, rare enough for a log file."""

Step = Callable[[int, int], None]
"""Told how much is done, and of how much."""


@contextlib.contextmanager
def progress(label: str) -> Iterator[Step]:
    """Gives a function to be told how much is done, and of how much. All done, it may begin again with other work.

    Where one stands inside another, the inner one shows nothing while the outer one's bar is up: a terminal has room for one.
    """
    shown = _Shown(label)
    try:
        yield shown.step
    finally:
        shown.stop()


class _Shown:
    up: ClassVar[_Shown | None] = None
    """The one whose bar is up."""

    def __init__(self, label: str) -> None:
        self._label = visible(label)
        self._terminal = sys.stderr.isatty()
        self._wait = QUIET_SECONDS if self._terminal else LINE_SECONDS
        self._next: float | None = None
        self._bar: Any = None
        self._task: Any = None

    def step(self, done: int, total: int) -> None:
        """See `progress`."""
        if self._next is None:
            self._next = time.monotonic() + self._wait
        if done >= total:
            self.stop()
        elif self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() >= self._next:
            if not self._terminal:
                note(f"{done:,} of {total:,}", kind=self._label)
                self._next = time.monotonic() + LINE_SECONDS
            elif _Shown.up is None:
                self._start(done, total)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = _Shown.up = None
        self._next = None

    def _start(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, color_system="auto" if coloured(sys.stderr) else None)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(self._label, completed=done, total=total)
        self._bar.start()
        _Shown.up = self

"""How a projector gets on, on stderr: one line that is written again and again on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from ctxlog.cli import text
from ctxlog.cli.output import note

if TYPE_CHECKING:
    from ctxlog.projection.figures import Figures

TERMINAL_SECONDS = 0.25
"""How often the line is written again on a terminal: as often as somebody can read it."""

LINE_SECONDS = 30.0
"""How often a line is written at most where stderr is no terminal."""

RATE_SECONDS = 5.0
"""Over how long the rate is taken."""


class Watch:
    """Shows figures, and sentences between them."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        # Short work says nothing where nobody watches.
        self._next = 0.0 if self._terminal else time.monotonic() + LINE_SECONDS
        self._published: float | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def tell(self, sentence: str) -> None:
        """A sentence on a line of its own."""
        self._clear()
        note(sentence, kind="Projector")

    def show(self, figures: Figures) -> None:
        """The figures, where it is time to."""
        now = time.monotonic()
        if not self._seen or now >= self._seen[-1][0] + TERMINAL_SECONDS:
            self._seen.append((now, figures.records))
            while len(self._seen) > 2 and self._seen[1][0] < now - RATE_SECONDS:
                self._seen.popleft()
        if now < self._next:
            return
        if self._terminal:
            self._next = now + TERMINAL_SECONDS
            self._write(self._line(figures))
        elif figures.published_at != self._published:  # What nobody watches says that it published.
            self._next, self._published = now + LINE_SECONDS, figures.published_at
            note(self._line(figures), kind="Projector")

    def _line(self, figures: Figures) -> str:
        (first, before), (last, records) = self._seen[0], self._seen[-1]
        rate = (records - before) / (last - first) if last > first else 0.0
        published = "not published yet"
        if figures.published_at is not None:
            published = f"published {text.clock(int(figures.published_at * 1000))[11:19]}"
        found = (
            f"{text.count(figures.records, 'record')}, {rate:,.0f}/s, {figures.lag_events:,} behind "
            f"({figures.lag_seconds_max:,.1f} s), {published}"
        )
        return f"{found}, paused ({figures.paused})" if figures.paused else found

    def _write(self, line: str) -> None:
        from shutil import get_terminal_size

        shown = text.clip(line, max(20, get_terminal_size().columns - 1))
        sys.stderr.write("\r" + text.pad(shown, self._width))
        sys.stderr.flush()
        self._width = text.width_of(shown)

    def _clear(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0

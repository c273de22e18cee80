"""What every format hands over: runs, and the drafts of their events.

An event's id is a UUID of version 5 of (format, stream, message, part), so it is the same on every machine and from whatever path
the file was read. A format is a module that has what `Format` has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid5

from ctxlog.errors import ImportFailedError
from ctxlog.importers.sources import Source
from ctxlog.model.events import Event

NAMESPACE = UUID("6f1ac9a5-2d0c-5a55-8d3e-7b1f7c0d9e42")
"""Of the ids of imported events. Never changes: another one would import every file a second time."""


class Run(NamedTuple):
    """One recorded run.

    Attributes:
        key: Names the run among the runs of an agent.
        place: Where in its file; empty where it is the whole file.
        messages: Source messages, as parsed; one that is an `ImportFailedError` could not be.
        lines: Line of each message, where each has its own.
    """

    key: str
    place: str
    messages: Sequence[Any]
    lines: Sequence[int] | None = None

    def place_of(self, index: int) -> str:
        """How an error names a message; the first is 0."""
        where = f"message {index}" if self.lines is None else f"message {index} (line {self.lines[index]})"
        return f"{self.place}, {where}" if self.place else where


class Draft(NamedTuple):
    """An event that a run asks for. `message` and `part` say where it comes from: a message is part 0, its calls are 1, 2, 3 …"""

    message: int
    part: int
    event_id: str
    event: Event
    occurred_at: int | None
    actor: str


class Target(NamedTuple):
    """Where a run goes: format, stream, and the agent that owns it."""

    format: str
    stream_id: str
    agent_id: str

    def event_id(self, message: int, part: int) -> str:
        """Id of one event of the run."""
        # No stream id holds a NUL, so no two places share a name.
        return str(uuid5(NAMESPACE, f"{self.format}\0{self.stream_id}\0{message}\0{part}"))


class Format(Protocol):
    """A format of recorded runs.

    Attributes:
        NAME: What people call it, and the default agent of its runs.
    """

    NAME: str

    def detect(self, source: Source) -> bool:
        """Whether a file looks like this format."""
        ...

    def runs(self, source: Source) -> Iterator[Run | ImportFailedError]:
        """The runs in a file, each broken one as the error that it is."""
        ...

    def drafts(self, run: Run, target: Target) -> list[Draft]:
        """The events of a run, in order. Raises `ImportFailedError`."""
        ...

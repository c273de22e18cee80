"""Logs with published views, for tests that read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ctxlog import ContextLog
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.projection.custom import Projection, SqlViews
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish
from ctxlog.projection.query import Views

STREAMS = tuple(f"agent-{number}/thread" for number in range(12))
"""Enough to be in each of four partitions."""


def log_of(partitions: int = 4, streams: Iterable[str] = STREAMS) -> EventLog:
    """A log in memory, with a message, a fact and a call in each stream."""
    log = MemoryLog(partitions)
    for stream_id in streams:
        context = ContextLog(log).context(stream_id)
        context.add_message("user", f"Hello from {stream_id}")
        context.set_fact("limit", 250)
        context.add_tool_call("look", {"at": stream_id})
    return log


def write_more(log: EventLog, streams: Iterable[str] = STREAMS) -> None:
    """One more message in each stream."""
    for stream_id in streams:
        ContextLog(log).context(stream_id).add_message("user", "And another thing.")


def published(
    log: EventLog,
    folder: Path,
    name: str = "current",
    partitions: Iterable[int] | None = None,
    projections: Sequence[Projection | SqlViews] = (),
) -> Path:
    """The views of a log, or of some of its partitions, published by an instance of this name."""
    projector = Projector(log, folder / f".{name}.duckdb", partitions, projections)
    projector.run_once()
    publish(projector.store, folder / f"{name}.duckdb")
    projector.close()
    return folder / f"{name}.duckdb"


def asked(views: Views, sql: str, **options: Any) -> list[tuple[Any, ...]]:
    """All rows of an answer."""
    return [row for batch in views.ask(sql, **options).batches for row in batch]


def all_of(folder: Path) -> dict[str, list[str]]:
    """All that the published views of a folder say, in an order of its own."""
    with Views(folder) as views:
        names = [name for (name,) in asked(views, "SHOW TABLES")]
        # How old it is, and when it was applied and published, is not what it says.
        columns = {"coverage": "partition, next_offset, last_at"}
        return {name: sorted(map(repr, asked(views, f"SELECT {columns.get(name, '*')} FROM {name}"))) for name in names}

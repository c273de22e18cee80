"""A projector with a projection of its own, in a process that can be killed at every event that it shows it.

`python custom_projector.py LOG FILE VERSION`: at each event and after each transaction it says a line, and waits for one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctxlog import ContextLog
from ctxlog.projection import custom_tables, projector
from ctxlog.projection.custom import ProjectedEvent, Projection
from ctxlog.projection.projector import Projector


class Texts(Projection):
    """What was said, and how often it was projected."""

    name = "texts"
    version = 1
    tables = "CREATE TABLE said (stream_id VARCHAR, version BIGINT, content VARCHAR)"
    types = ("ctxlog.MessageAppended",)

    def project(self, event: ProjectedEvent) -> Iterator[tuple[str, tuple[Any, ...]]]:
        yield "said", (event.stream_id, event.version, f"{event.payload['content']}, by version {self.version}")


class Watched(Texts):
    """The same, stopping at each event."""

    def project(self, event: ProjectedEvent) -> Iterator[tuple[str, tuple[Any, ...]]]:
        yield from super().project(event)
        wait("event")


def wait(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


def main(url: str, path: str, version: str) -> None:
    projector.BATCH_RECORDS = 7
    custom_tables.CHUNK_ROWS = 3
    Watched.version = int(version)
    with ContextLog.open(url) as log:
        running = Projector(log.log, Path(path), projections=[Watched()])
        wait("step")
        ends = {partition: log.log.bounds(partition).end for partition in running.partitions}
        while running.step(ends):
            wait("step")
        running.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

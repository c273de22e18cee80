"""A reader of published views who asks again and again, whatever becomes of those who write them."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from ctxlog.projection.coverage import published_files
from ctxlog.projection.query import Views
from views_made import asked

PAUSE_SECONDS = 0.1

CONSISTENT = """
SELECT
    (SELECT sum(records) FROM streams) = (SELECT count(*) FROM events WHERE stream_id IS NOT NULL),
    (SELECT coalesce(bool_and(c.next_offset > e.last), true) FROM coverage c
        JOIN (SELECT partition, max(record_offset) AS last FROM events GROUP BY partition) e USING (partition)),
    (SELECT count(DISTINCT partition) FROM events) = (SELECT count(*) FROM coverage),
    (SELECT bool_and(n = high AND low = 1) FROM
        (SELECT count(version) AS n, min(version) AS low, max(version) AS high FROM events WHERE outcome = 'accepted'
            GROUP BY stream_id)),
    (SELECT bool_and(s.version = e.high AND s.chain_head = e.head) FROM streams s JOIN
        (SELECT stream_id, max(version) AS high, arg_max(chain_head, version) AS head FROM events WHERE outcome = 'accepted'
            GROUP BY stream_id) e USING (stream_id)),
    (SELECT count(*) FROM messages) = (SELECT count(*) FROM events WHERE outcome = 'accepted' AND anomaly IS NULL
        AND type IN ('ctxlog.MessageAppended', 'ctxlog.ToolReturned'))
"""
"""Each must be true of any state that a projector committed."""


class Reader(threading.Thread):
    """Asks while a block is run; at its end no query has failed, none saw a torn state, and none saw less than the one before.

    Attributes:
        seen: How far the views were, in offsets of all partitions, at each look.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.seen: list[int] = []
        self._folder, self._ended = folder, threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._ended.wait(PAUSE_SECONDS):
                if published_files(self._folder):
                    self._look()
        except BaseException as error:
            self._failure = error

    def _look(self) -> None:
        with Views(self._folder) as views:
            assert asked(views, CONSISTENT) == [(True,) * 6], f"torn, after {self.seen[-1:]}"
            ((offset,),) = asked(views, "SELECT sum(next_offset) FROM coverage")
            assert not self.seen or offset >= self.seen[-1], "readers went back"
            self.seen.append(offset)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self.join(60)
        if self._failure is not None and kind is None:
            raise self._failure

"""Following the end of a log, and letting go of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ctxlog.errors import LogClosedError
from ctxlog.log.protocol import EventLog
from ctxlog.testing.conformance.base import LogCase, everything, numbered, values

LONG_SECONDS = 60.0
"""A wait that nobody sits through: what ends it is an event."""


class FollowingCase(LogCase):
    """`wait` and `close`."""

    def test_waiting_for_what_is_there_gives_the_end_at_once(self, log: EventLog) -> None:
        end = log.bounds(0).end
        log.append(numbered(0, [1]))
        assert log.wait(0, end, LONG_SECONDS) == log.bounds(0).end

    def test_waiting_in_vain_gives_the_end_as_it_is(self, log: EventLog) -> None:
        end = log.bounds(0).end
        assert log.wait(0, end, 0) == end
        assert log.wait(0, end, 0.05) == end

    def test_waiting_ends_when_something_is_appended(self, log: EventLog) -> None:
        end = log.bounds(0).end
        found: list[int] = []
        waiting = threading.Thread(target=lambda: found.append(log.wait(0, end, LONG_SECONDS)))
        waiting.start()
        log.append(numbered(0, [1]))
        waiting.join(LONG_SECONDS / 2)
        assert found
        assert found[0] > end

    def test_an_append_to_another_partition_does_not_move_the_end(self, log: EventLog) -> None:
        end = log.bounds(0).end
        for partition in range(1, log.partitions):
            log.append(numbered(partition, [1]))
        assert log.wait(0, end, 0.02) == end

    def test_following_the_end_meets_each_record_once(self, log: EventLog) -> None:
        start = end = log.bounds(0).end
        writer = threading.Thread(target=lambda: [log.append(numbered(0, [number])) for number in range(30)])
        writer.start()
        found: list[bytes | None] = []
        while len(found) < 30 and (end := log.wait(0, start, LONG_SECONDS)) > start:
            found += values(list(log.read(0, start, end)))
            start = end
        writer.join()
        assert found == [b"value %d" % number for number in range(30)]

    def test_a_closed_log_refuses_every_use(self, log: EventLog) -> None:
        log.append(numbered(0, [1]))
        log.close()
        log.close()  # again does no harm
        uses: tuple[Callable[[], object], ...] = (
            lambda: log.append(numbered(0, [2])),
            lambda: log.bounds(0),
            lambda: everything(log, 0),
            lambda: list(log.read(0, 0, 10)),
            lambda: log.offset_at(0, 0),
            lambda: list(log.keys(0)),
            lambda: log.wait(0, 10_000, 0.01),
        )
        for use in uses:
            with pytest.raises(LogClosedError):
                use()

    def test_closing_ends_a_wait(self, log: EventLog) -> None:
        end = log.bounds(0).end
        found: list[object] = []

        def wait() -> None:
            try:
                found.append(log.wait(0, end, LONG_SECONDS))
            except LogClosedError as error:
                found.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        log.close()
        waiting.join(LONG_SECONDS / 2)
        assert len(found) == 1
        assert found[0] == end or isinstance(found[0], LogClosedError)

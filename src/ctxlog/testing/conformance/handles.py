"""Several handles on one log, in one process and in several: one order, one truth."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ctxlog.log.protocol import EventLog
from ctxlog.testing.conformance.base import LogCase, everything, numbered, values

JOIN_SECONDS = 240.0


class HandlesCase(LogCase):
    """For backends with a `reopener`; the tests are skipped for the others."""

    def test_what_one_handle_wrote_another_reads_byte_for_byte(self, log: EventLog, reopen: Callable[[], EventLog]) -> None:
        log.append(numbered(0, range(5)))
        other = reopen()
        try:
            assert (other.log_id, other.partitions) == (log.log_id, log.partitions)
            for partition in range(log.partitions):
                assert everything(other, partition) == everything(log, partition)
                assert other.bounds(partition) == log.bounds(partition)
        finally:
            other.close()

    def test_a_log_that_was_closed_goes_on_where_it_was(self, log: EventLog, reopen: Callable[[], EventLog]) -> None:
        log.append(numbered(0, range(3)))
        before = everything(log, 0)
        log.close()
        again = reopen()
        try:
            assert everything(again, 0) == before
            (placed,) = again.append(numbered(0, [3]))
            assert placed.position.offset > before[-1].offset
            assert placed.recorded_at >= before[-1].recorded_at
            assert everything(again, 0)[:-1] == before
        finally:
            again.close()

    def test_handles_that_take_turns_see_each_other(self, log: EventLog, reopen: Callable[[], EventLog]) -> None:
        other = reopen()
        try:
            for number in range(10):
                (log, other)[number % 2].append(numbered(0, [number]))
                assert values(everything(log, 0)[1:]) == values(everything(other, 0)[1:])
                assert everything(other, 0)[-1].value == b"value %d" % number
        finally:
            other.close()

    def test_waiting_sees_what_another_handle_appends(self, log: EventLog, reopen: Callable[[], EventLog]) -> None:
        other = reopen()
        try:
            end = log.bounds(0).end
            other.append(numbered(0, [1]))
            assert log.wait(0, end, 60.0) > end
        finally:
            other.close()

    def test_closing_one_handle_leaves_the_other_as_it_is(self, log: EventLog, reopen: Callable[[], EventLog]) -> None:
        other = reopen()
        other.append(numbered(0, [1]))
        other.close()
        log.append(numbered(0, [2]))
        assert values(everything(log, 0)[1:]) == [b"value 1", b"value 2"]

    def test_processes_that_append_at_once_lose_and_mix_nothing(self, log: EventLog, reopen: Callable[[], EventLog]) -> None:
        """One order for everybody; what each of them was told is where its records stand."""
        start = log.bounds(0).end
        told = _in_processes([(_append_pairs, reopen, process, 15) for process in range(4)])
        records = everything(log, 0)[1:]
        assert Counter(values(records)) == {b"value %d" % number: 4 for number in range(30)}
        stands = {(record.key, record.value): record.offset for record in records}
        for process, offsets in enumerate(told):
            key = b"process %d" % process
            assert offsets == [stands[key, b"value %d" % number] for number in range(30)]
            assert offsets == sorted(offsets)
        times = [record.recorded_at for record in records]
        assert times == sorted(times)
        assert log.wait(0, start, 0) > start

    def test_a_process_that_follows_meets_each_record_of_another_once(
        self, log: EventLog, reopen: Callable[[], EventLog]
    ) -> None:
        start = log.bounds(0).end
        found, _ = _in_processes([(_follow, reopen, start, 40), (_append_pairs, reopen, 0, 20)])
        assert found == [b"value %d" % number for number in range(40)]


def _append_pairs(open_it: Callable[[], EventLog], process: int, appends: int) -> list[int]:
    log = open_it()
    try:
        offsets = []
        for number in range(0, 2 * appends, 2):
            placed = log.append(numbered(0, (number, number + 1), b"process %d" % process))
            offsets += [position.offset for position, _ in placed]
        return offsets
    finally:
        log.close()


def _follow(open_it: Callable[[], EventLog], start: int, count: int) -> list[bytes | None]:
    log = open_it()
    try:
        found: list[bytes | None] = []
        while len(found) < count and (end := log.wait(0, start, 60.0)) > start:
            found += values(list(log.read(0, start, end)))
            start = end
        return found
    finally:
        log.close()


def _in_processes(calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Each call in a process of its own, at once; what they returned.

    A fresh interpreter each: a fork would share what the handle holds, and be another question.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(calls)) as pool:
        pending = [pool.apply_async(function, arguments) for function, *arguments in calls]
        return [result.get(JOIN_SECONDS) for result in pending]

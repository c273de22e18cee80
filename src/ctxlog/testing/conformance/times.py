"""Log time: set by the log, never back, and the way into the log for questions about time."""

from __future__ import annotations

import time

import pytest

from ctxlog.log.protocol import EventLog
from ctxlog.testing.conformance.base import LogCase, everything, numbered


class TimesCase(LogCase):
    """`recorded_at` and `offset_at`."""

    def test_log_time_never_goes_back_within_a_partition(self, log: EventLog) -> None:
        for number in range(20):
            log.append(numbered(0, [number]))
        times = [record.recorded_at for record in everything(log, 0)]
        assert times == sorted(times)

    def test_log_time_stands_still_where_the_clock_goes_back(self, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """As of T must mean the same to everybody, whatever the machine's clock does."""
        now = everything(log, 0)[-1].recorded_at
        found = []
        for time_ms in (now + 5000, now - 60_000, now + 5001, now):
            if not self.set_clock(log, monkeypatch, time_ms):
                pytest.skip("the clock of this backend cannot be set")
            found.append(log.append(numbered(0, [1]))[0].recorded_at)
        assert found == [now + 5000, now + 5000, now + 5001, now + 5001]

    def test_the_offset_at_a_time_is_that_of_the_first_record_not_earlier(self, log: EventLog) -> None:
        for number in range(12):
            log.append(numbered(0, [number]))
            time.sleep(0.002 * (number % 3 == 0))  # so that some records share a time, and some do not
        records, end = everything(log, 0), log.bounds(0).end
        times = {record.recorded_at for record in records}
        for time_ms in sorted(times | {at + 1 for at in times} | {min(times) - 1, 0, -5}):
            expected = next((record.offset for record in records if record.recorded_at >= time_ms), end)
            assert log.offset_at(0, time_ms) == expected

    def test_a_time_after_the_last_record_is_the_end(self, log: EventLog) -> None:
        """Kafka says -1 there; whoever stops before -1 reads nothing."""
        for partition in range(log.partitions):
            assert log.offset_at(partition, everything(log, partition)[-1].recorded_at + 1) == log.bounds(partition).end

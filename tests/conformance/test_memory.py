"""The log in memory passes the kit, with offsets one after the other and with gaps between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.testing.conformance import EventLogConformance


class TestMemoryLog(EventLogConformance):
    """Offsets 0, 1, 2 …"""

    holds_nulls = True
    offset_step = 1

    def create_log(self, folder: Path, partitions: int) -> EventLog:
        return MemoryLog(partitions, offset_step=self.offset_step)

    def set_clock(self, log: EventLog, monkeypatch: pytest.MonkeyPatch, time_ms: int) -> bool:
        monkeypatch.setattr(log, "_clock", lambda: time_ms)
        return True


class TestMemoryLogWithGaps(TestMemoryLog):
    """Offsets 0, 3, 6 …, as on Kafka where transactions leave markers."""

    offset_step = 3

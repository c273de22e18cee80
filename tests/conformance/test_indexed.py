"""A log behind the stream index passes the kit as the log itself does, also where every read goes through the index."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ctxlog.log.kafka import KafkaLog
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.replay import index
from ctxlog.replay.index import IndexedLog
from ctxlog.testing.conformance import EventLogConformance


class TestIndexedMemoryLog(EventLogConformance):
    """Gaps between the offsets, and no short way."""

    holds_nulls = True

    @pytest.fixture(autouse=True)
    def _always(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(index, "DIRECT_OFFSETS_MAX", 0)
        monkeypatch.setattr(index, "BATCH_RECORDS", 3)

    def create_log(self, folder: Path, partitions: int) -> EventLog:
        return IndexedLog(MemoryLog(partitions, offset_step=3), folder / "index.sqlite")

    def set_clock(self, log: EventLog, monkeypatch: pytest.MonkeyPatch, time_ms: int) -> bool:
        assert isinstance(log, IndexedLog)
        monkeypatch.setattr(log.log, "_clock", lambda: time_ms)
        return True


def open_indexed(url: str, path: Path) -> IndexedLog:
    index.DIRECT_OFFSETS_MAX = 0
    return IndexedLog(KafkaLog(url), path)


class TestIndexedKafkaLog(EventLogConformance):
    """As `ContextLog.open` puts it together; all handles of all processes share one index."""

    holds_nulls = True

    @pytest.fixture(autouse=True)
    def _always(self, kafka: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kafka = kafka
        monkeypatch.setattr(index, "DIRECT_OFFSETS_MAX", 0)

    def create_log(self, folder: Path, partitions: int) -> EventLog:
        log, _ = KafkaLog.create(self.kafka.url(), partitions)
        return IndexedLog(log, folder / "index.sqlite")

    def reopener(self, log: EventLog) -> Callable[[], EventLog]:
        assert isinstance(log, IndexedLog)
        return partial(open_indexed, log.url, log.path)

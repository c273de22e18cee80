"""The embedded log passes the kit, its storage check included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.protocol import EventLog, SelfChecking
from ctxlog.testing.conformance import EventLogConformance
from ctxlog.testing.conformance.base import numbered


class TestEmbeddedLog(EventLogConformance):
    """One SQLite file."""

    def create_log(self, folder: Path, partitions: int) -> EventLog:
        return EmbeddedLog(folder, partitions=partitions)

    def reopener(self, log: EventLog) -> Callable[[], EventLog]:
        assert isinstance(log, EmbeddedLog)
        return partial(EmbeddedLog, log.folder, create=False)

    def set_clock(self, log: EventLog, monkeypatch: pytest.MonkeyPatch, time_ms: int) -> bool:
        monkeypatch.setattr("ctxlog.log.embedded.log.time.time_ns", lambda: time_ms * 1_000_000)
        return True

    def test_a_log_that_was_only_appended_to_has_no_storage_problems(self, log: EventLog) -> None:
        for partition in range(log.partitions):
            log.append(numbered(partition, range(100)))
        assert isinstance(log, SelfChecking)
        assert list(log.problems()) == []

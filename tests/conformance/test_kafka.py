"""The log on Kafka passes the kit, on a real broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ctxlog.log.kafka import KafkaLog
from ctxlog.log.protocol import EventLog
from ctxlog.testing.conformance import EventLogConformance


class TestKafkaLog(EventLogConformance):
    """A topic a log."""

    holds_nulls = True

    @pytest.fixture(autouse=True)
    def _broker(self, kafka: Any) -> None:
        self.kafka = kafka

    def create_log(self, folder: Path, partitions: int) -> EventLog:
        del folder
        return KafkaLog.create(self.kafka.url(), partitions)[0]

    def reopener(self, log: EventLog) -> Callable[[], EventLog]:
        return partial(KafkaLog, log.url)

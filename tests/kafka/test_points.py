"""Random points of streams on Kafka and of copies there and from there: the same states and heads, with and without the index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from careless import fill, import_runs
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.protocol import EventLog
from ctxlog.replay.copying import copy_log
from points import check_points

SEED = 20261126


@contextmanager
def logs(kafka: Any, folder: Path, source: str, steps: int, runs: int = 0) -> Iterator[tuple[EventLog, EventLog]]:
    """A log that was filled, on Kafka or embedded, and a copy of it on the other one."""
    topic, embedded = KafkaLog.create(kafka.url(), 4)[0], EmbeddedLog(folder / "log", partitions=3)
    with closing(topic), closing(embedded):
        first, second = (topic, embedded) if source == "kafka" else (embedded, topic)
        if runs:
            import_runs(first, runs)
        fill(first, SEED, steps)
        copy_log(first, second)
        yield first, second


@pytest.mark.parametrize("source", ["embedded", "kafka"])
def test_random_points_are_the_same_on_kafka_by_every_path(source: str, kafka: Any, tmp_path: Path) -> None:
    with logs(kafka, tmp_path, source, steps=300) as (log, copied):
        on_kafka, beside = ("zero", "snapshots", "index", "both"), ("zero",)
        here, there = (on_kafka, beside) if source == "kafka" else (beside, on_kafka)
        check_points(log, here, copied, there, tmp_path, points=64)


@pytest.mark.soak
@pytest.mark.parametrize("source", ["embedded", "kafka"])
def test_a_thousand_random_points_are_the_same_on_kafka_by_every_path(source: str, kafka: Any, tmp_path: Path) -> None:
    with logs(kafka, tmp_path, source, steps=1_500, runs=2) as (log, copied):
        on_kafka, beside = ("zero", "snapshots", "index", "both"), ("zero", "snapshots")
        here, there = (on_kafka, beside) if source == "kafka" else (beside, on_kafka)
        check_points(log, here, copied, there, tmp_path, points=1_000, times=2)

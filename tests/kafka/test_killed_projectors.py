"""A projector on Kafka killed -9 at any moment: no row missing, doubled or changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ctxlog.log.kafka import KafkaLog
from killed_projectors import kill_in_a_loop
from writing import publish


def kill(kafka: Any, tmp_path: Path, kills: int) -> None:
    url = f"{kafka.url()}&cache={tmp_path / 'cache'}"
    log, _ = KafkaLog.create(url, 3)
    publish(log)
    log.close()
    records, hit = kill_in_a_loop(url, tmp_path / "views", kills, 20261125)
    print(f"{kills} kills, {hit} of a projector that had kept a batch, {records:,} records", file=sys.stderr)
    assert hit > kills // 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_projector_killed_in_a_loop_misses_doubles_and_changes_nothing(kafka: Any, tmp_path: Path) -> None:
    kill(kafka, tmp_path, 25)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_kills_of_a_projector_miss_double_and_change_nothing(kafka: Any, tmp_path: Path) -> None:
    kill(kafka, tmp_path, 100)

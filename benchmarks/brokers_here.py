"""A real broker for a benchmark, started for speed: the one of the tests, from Kafka's jars (Java 17 and Maven)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import brokers

RAW = {"enable.idempotence": "true", "acks": "all", "message.max.bytes": "2097152", "log_level": "0"}
"""A producer that loses nothing and doubles nothing, as librdkafka comes otherwise."""


@contextlib.contextmanager
def one_broker(folder: Path) -> Iterator[str]:
    """Its bootstrap servers. Data goes to `folder`."""
    with brokers.Cluster(folder, benchmark=True) as cluster:
        yield cluster.bootstrap

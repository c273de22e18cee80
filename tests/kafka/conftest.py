"""The program, logs and a schema registry, for tests that need a broker too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import brokers
import registry as real
from cli.conftest import Program
from conftest import no_broker
from ctxlog.log.kafka import KafkaLog
from kafka_doctor import Findings


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty folder."""
    return Program(tmp_path)


@pytest.fixture(scope="module")
def registry_url() -> Iterator[str]:
    """A registry of one test module."""
    try:
        started = real.started()
        url = started.__enter__()
    except brokers.NoBrokerError as error:
        no_broker(error)
        raise AssertionError from error
    yield url
    started.__exit__(None, None, None)


@pytest.fixture
def topic(kafka: Any) -> str:
    """A new log of two partitions."""
    name = kafka.topic()
    KafkaLog.create(kafka.url(name), 2)[0].close()
    return name


@pytest.fixture
def doctor(program: Program) -> Callable[..., Findings]:
    """Runs `ctxlog doctor` on a URL; it must exit with 1 where something failed, and with 0 otherwise; None takes both."""

    def run(url: str, code: int | None = 0) -> Findings:
        if code is None:
            out, _ = program.start("doctor", "--log", url, "-o", "json").communicate(timeout=120)
            return Findings(json.loads(out)["checks"])
        found = Findings(program("doctor", "--log", url, "-o", "json", code=code).json["checks"])
        assert bool(found.failed) == bool(code)
        return found

    return run

"""The program and a schema registry, for tests that need a broker too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import brokers
import registry as real
from cli.conftest import Program
from conftest import no_broker


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

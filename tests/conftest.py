"""What all tests share: how hard Hypothesis tries, and logs to write to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import brokers
from ctxlog import ContextLog
from ctxlog.log.embedded import EmbeddedLog

pytest.register_assert_rewrite("ctxlog.testing.conformance")

# No deadline: machines that are shared take their time, and a test that fails for it says nothing. `dev` finds something new each
# day, `ci` the same every time; what either finds is printed as a blob that `@reproduce_failure` takes.
_SHARED = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("dev", **_SHARED)
settings.register_profile("ci", **_SHARED, derandomize=True)
settings.register_profile("soak", **_SHARED, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


_tests = count()


@pytest.fixture(autouse=True)
def _homes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Index and snapshots of logs on Kafka do not go to the home of whoever runs the tests; nor do keys, of which no test sees
    another one's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "caches"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / f"config-{next(_tests)}"))
    monkeypatch.delenv("CTXLOG_KEYS", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for an embedded log; nothing is there yet."""
    return tmp_path / "log"


@pytest.fixture
def log(folder: Path) -> Iterator[ContextLog]:
    """An embedded log, with snapshots."""
    with ContextLog.open(f"embedded:{folder}") as opened:
        yield opened


@pytest.fixture
def open_embedded(folder: Path) -> Iterator[Callable[..., EmbeddedLog]]:
    """Opens the embedded log in `folder`, again and again; all are closed in the end."""
    opened: list[EmbeddedLog] = []

    def open_it(**options: bool | int) -> EmbeddedLog:
        opened.append(EmbeddedLog(folder, **options))
        return opened[-1]

    yield open_it
    for log in opened:
        log.close()


KAFKA_FIXTURES = frozenset({"kafka", "three_nodes", "users", "proxied", "own_broker"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a broker are marked, so that `-m kafka` runs them and no others."""
    for item in items:
        if KAFKA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("kafka")


class Kafka:
    """A broker that tests share; each takes topics of its own."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._numbers = count()

    def topic(self) -> str:
        """A name that no other test has."""
        return f"test-{os.getpid()}-{time.time_ns()}-{next(self._numbers)}"

    def url(self, topic: str | None = None) -> str:
        """URL of a log in a topic, a new one where not given."""
        return f"kafka://{self.bootstrap}?topic={topic or self.topic()}"


def no_broker(reason: object) -> None:
    """Skip, or fail where a broker is required."""
    if os.environ.get("CTXLOG_REQUIRE_KAFKA") == "1":
        pytest.fail(f"a broker is required: {reason}")
    pytest.skip(f"no Kafka: {reason}")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Kafka:
    """A real broker: `CTXLOG_TEST_KAFKA`, or Docker, or Java with Maven; one for all processes of this run."""
    given = os.environ.get("CTXLOG_TEST_KAFKA")
    if given:
        return Kafka(given)
    worker = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    try:
        return Kafka(brokers.shared(base.parent if worker else base, os.getppid() if worker else os.getpid()))
    except brokers.NoBrokerError as error:
        no_broker(error)
        raise AssertionError from error


def cluster(factory: pytest.TempPathFactory, **options: object) -> Iterator[brokers.Cluster]:
    """Brokers of one test module."""
    try:
        started = brokers.Cluster(factory.mktemp("kafka"), **options)  # type: ignore[arg-type]
    except brokers.NoBrokerError as error:
        no_broker(error)
        raise AssertionError from error
    with started:
        yield started


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Cluster]:
    """Three brokers, of which tests may kill some."""
    yield from cluster(tmp_path_factory, nodes=3)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Cluster]:
    """A broker whose clients are users and are held to ACLs."""
    yield from cluster(tmp_path_factory, scram=True)

"""What all tests share: how hard Hypothesis tries, and logs to write to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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

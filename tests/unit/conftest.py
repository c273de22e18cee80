"""Fixtures that several modules share."""

from __future__ import annotations

import pytest

from ctxlog import Context, ContextLog
from ctxlog.log.memory import MemoryLog


@pytest.fixture
def shared() -> MemoryLog:
    """A log that several handles are opened on, as processes do."""
    return MemoryLog()


@pytest.fixture
def ctx(shared: MemoryLog) -> Context:
    return ContextLog(shared).context("refunds/case-1")


@pytest.fixture
def other(shared: MemoryLog) -> Context:
    """The same context in another process."""
    return ContextLog(shared).context("refunds/case-1")

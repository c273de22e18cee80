"""Many processes that call one tool with one key, in seeded disorder: at any access to the log another one may come between, the
clock may run on, or the process may be killed."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.client import once
from ctxlog.errors import CallHeldError, LeaseLostError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import Bounds
from ctxlog.model.records import Placed
from writing import Wrapped

SEEDS = 150
LEASE_SECONDS = 10.0
DEPTH_MAX = 4


class KilledError(BaseException):
    """The process is gone."""


class Disorder:
    """What happens to the processes.

    Attributes:
        ran: Numbers of the runs, each of which returns its own.
        got: What came back, to whoever got something.
        killed, lost: How often that happened.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.log = MemoryLog()
        self.now = time.time_ns() // 1000
        self.ran: list[int] = []
        self.got: list[int] = []
        self.killed = self.lost = 0
        self.processes: list[Meddled] = []

    def between(self) -> None:
        """Comes between two accesses of a process to the log."""
        dice = self.dice.random()
        if dice < 0.03:
            self.killed += 1
            self.processes[-1].dead = True
            raise KilledError
        if dice < 0.15:
            self.now += round(self.dice.random() * 1.5 * LEASE_SECONDS * 1_000_000)
        elif dice < 0.3 and len(self.processes) < DEPTH_MAX:
            self.process()

    def process(self) -> None:
        """One process, from its beginning to its end."""
        self.processes.append(Meddled(self))
        try:
            context = ContextLog(self.processes[-1]).context("worker/job")
            self.got.append(
                context.tool_once("work", {}, run=self.run, key="once", lease_seconds=LEASE_SECONDS, timeout_seconds=0)
            )
        except LeaseLostError:
            self.lost += 1
        except (CallHeldError, KilledError, ValueError):
            pass
        finally:
            self.processes.pop()

    def run(self, _: Any) -> int:
        call = ContextLog(self.log).context("worker/job").state.tool_calls["once"]
        assert call.status == "open", "it ran though there is a result"
        assert call.lease is not None
        assert call.lease.expires_at > self.now, "it ran without a lease"
        self.ran.append(len(self.ran))
        number = self.ran[-1]
        for _ in range(4):
            self.between()
        if self.dice.random() < 0.2:
            raise ValueError("the tool failed")
        return number


class Meddled(Wrapped):
    """The log as one process has it."""

    def __init__(self, disorder: Disorder) -> None:
        super().__init__(disorder.log)
        self.disorder = disorder
        self.dead = False

    def append(self, records: Any) -> list[Placed]:
        self.between()
        placed = self.inner.append(records)
        self.between()
        return placed

    def bounds(self, partition: int) -> Bounds:
        self.between()
        return self.inner.bounds(partition)

    def between(self) -> None:
        if self.dead:
            raise KilledError
        self.disorder.between()


@pytest.mark.parametrize("part", range(3))
def test_a_tool_runs_under_a_lease_and_one_result_counts_whatever_comes_between(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, killed, lost = 0, 0, 0
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        disorder = Disorder(seed)
        monkeypatch.setattr(once, "_now", lambda at=disorder: at.now)
        for _ in range(4):
            disorder.process()
        context = ContextLog(disorder.log).context("worker/job")
        disorder.now += round(LEASE_SECONDS * 1_000_000)
        result = context.tool_once("work", {}, run=lambda _: -1, key="once")
        assert set(disorder.got) <= {result}, f"seed {seed}"
        assert not context.replay().anomalies, f"seed {seed}"
        returned = [
            found
            for found in context.accepted()
            if found.event.type == "ctxlog.ToolReturned" and not found.event.payload["failed"]
        ]
        assert len(returned) == 1, f"seed {seed}"
        ran, killed, lost = ran + len(disorder.ran), killed + disorder.killed, lost + disorder.lost
    assert min(ran, killed, lost) > 20  # A disorder in which nothing happens shows nothing.

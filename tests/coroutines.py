"""Coroutines under test: one that hangs fails, and a log that takes no event before it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ctxlog.log.memory import MemoryLog
from ctxlog.model.records import NewRecord, Placed
from writing import Wrapped

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a test; one that hangs fails."""

    async def bounded() -> T:
        return await asyncio.wait_for(main(), 60)

    return asyncio.run(bounded())


class Gated(Wrapped):
    """Takes events for `slow/…` only when the gate is open."""

    def __init__(self) -> None:
        super().__init__(MemoryLog())
        self.begun, self.gate = threading.Event(), threading.Event()
        self.waiting, self._counting = 0, threading.Lock()

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        if any((record.key or b"").startswith(b"slow/") for record in records):
            with self._counting:
                self.waiting += 1
            self.begun.set()
            assert self.gate.wait(30), "nobody opened the gate"
        return super().append(records)


async def until(what: Callable[[], object]) -> None:
    while not what():
        await asyncio.sleep(0.001)

"""Durable appends: single, batched, and from eight processes at once, over raw SQLite.

The floor inserts the same bytes into the same kind of table with the same durability (`rawlog.py`). Both do the same number of
transactions, so the disk's part is the same, and the ratio is what ctxlog adds.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from itertools import count
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from harness import Report, Work, arguments, in_turns, percentile, scratch, timed
from rawlog import RawLog
from workload import Workload

from ctxlog import Context, ContextLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.outcomes import Committed

SINGLE = 50
"""Single appends in one turn: some 25 ms, so that a burst of someone else's work meets both."""

BATCH = 1000
GROUP = 100
PROCESSES = 8
TEXT = Workload().text(570, 570)
"""Makes a record of about 700 bytes."""


def stored_values(log: ContextLog, stream_id: str) -> list[bytes]:
    """The bytes that a stream's records have in the log."""
    partition = log.replayer.reader.partition(stream_id)
    end = log.log.bounds(partition).end
    return [record.value or b"" for record in log.log.read(partition, 0, end, key=stream_id.encode())]


class Single:
    """One append, one transaction."""

    def __init__(self, folder: Path) -> None:
        self.log = ContextLog.open(f"embedded:{folder / 'single'}")
        self.raw = RawLog(folder / "single.sqlite")
        self.plain = self.log.context("bench/plain")
        self.checked = self.log.context("bench/checked")
        self.plain.add_message("user", TEXT)
        self.checked.add_message("user", TEXT)
        self.value = stored_values(self.log, "bench/plain")[0]
        self.version = 1
        self.latencies: dict[str, list[float]] = {"plain": [], "checked": [], "raw": []}

    def _block(self, name: str, step: Callable[[], object]) -> float:
        return timed(step, SINGLE, self.latencies[name])

    def floor(self) -> float:
        """One insert a transaction."""
        return self._block("raw", lambda: self.raw.append(self.value))

    def unconditional(self) -> float:
        """`add_message`."""
        return self._block("plain", lambda: self.plain.add_message("user", TEXT))

    def conditional(self) -> float:
        """`add_message` with the version that the stream must be at; the outcome is read back."""

        def step() -> None:
            done = self.checked.add_message("user", TEXT, expected_version=self.version)
            assert isinstance(done, Committed)
            self.version = done.version

        return self._block("checked", step)

    def close(self) -> None:
        """Let go of both files."""
        self.log.close()
        self.raw.close()


class Batched:
    """Many events in one transaction. Making and validating the events is part of it."""

    def __init__(self, folder: Path) -> None:
        self.log = ContextLog.open(f"embedded:{folder / 'batched'}")
        self.raw = RawLog(folder / "batched.sqlite")
        self.names = count()
        context = self._context()
        context.append_each([(MessageAppended(role="user", content=TEXT), {}) for _ in range(BATCH)])
        self.values = stored_values(self.log, context.stream_id)
        self.group = self._context()
        self.group.append([MessageAppended(role="user", content=TEXT) for _ in range(GROUP)])
        self.group_values = stored_values(self.log, self.group.stream_id)

    def _context(self) -> Context:
        return self.log.context(f"bench/batch-{next(self.names)}")

    def floor_each(self) -> float:
        """All in one transaction."""
        started = time.perf_counter()
        self.raw.append_all(self.values)
        return (time.perf_counter() - started) / BATCH

    def each(self) -> float:
        """`append_each`: independent events."""
        context = self._context()
        started = time.perf_counter()
        context.append_each([(MessageAppended(role="user", content=TEXT), {}) for _ in range(BATCH)])
        return (time.perf_counter() - started) / BATCH

    def floor_group(self) -> float:
        """Groups, each in one transaction."""
        started = time.perf_counter()
        for _ in range(5):
            self.raw.append_all(self.group_values)
        return (time.perf_counter() - started) / (5 * GROUP)

    def groups(self) -> float:
        """`append` of a group, all or nothing, with an expected version; the outcome is read back."""
        context = self._context()
        started = time.perf_counter()
        for number in range(5):
            batch = [MessageAppended(role="user", content=TEXT) for _ in range(GROUP)]
            context.append(batch, expected_version=number * GROUP)
        return (time.perf_counter() - started) / (5 * GROUP)

    def close(self) -> None:
        """Let go of both files."""
        self.log.close()
        self.raw.close()


def process(number: int, folder: str, value: bytes, appends: int, turns: int, barrier: Barrier, results: Any) -> None:
    """One of the processes that append at once: in each turn both logs, all processes starting together."""
    log = ContextLog.open(f"embedded:{Path(folder) / 'many'}")
    raw = RawLog(Path(folder) / "many.sqlite")
    context = log.context(f"bench/process-{number}")
    context.add_message("user", TEXT)
    steps: dict[str, Callable[[], object]] = {
        "ctxlog": lambda: context.add_message("user", TEXT),
        "raw": lambda: raw.append(value),
    }
    for turn in range(turns):
        for name in sorted(steps, reverse=bool(turn % 2)):
            barrier.wait(timeout=300)
            started = time.monotonic()
            for _ in range(appends):
                steps[name]()
            results.put((name, turn, started, time.monotonic()))
    log.close()
    raw.close()


def many_processes(folder: Path, value: bytes, appends: int, turns: int) -> dict[str, list[float]]:
    """Seconds an append, from the first start to the last end, in each turn."""
    ContextLog.open(f"embedded:{folder / 'many'}").close()
    RawLog(folder / "many.sqlite").close()
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(PROCESSES), spawn.Queue()
    arguments_of = [(number, str(folder), value, appends, turns, barrier, results) for number in range(PROCESSES)]
    running = [spawn.Process(target=process, args=given) for given in arguments_of]
    for one in running:
        one.start()
    spans: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(2 * turns * PROCESSES):
        name, turn, started, ended = results.get(timeout=300)
        spans.setdefault((name, turn), []).append((started, ended))
    for one in running:
        one.join()
    return {
        name: [
            (max(end for _, end in spans[name, turn]) - min(start for start, _ in spans[name, turn])) / (appends * PROCESSES)
            for turn in range(turns)
        ]
        for name in ("ctxlog", "raw")
    }


def main() -> None:
    """Measure, print and write."""
    options = arguments(__doc__)
    report = Report("append", quick=options.quick, unit="event")
    with scratch() as folder:
        single = Single(folder)
        works: dict[str, Work] = {"raw": single.floor, "plain": single.unconditional, "checked": single.conditional}
        found = in_turns(works, options.repetitions or (4 if options.quick else 30))
        floor = "one insert, one transaction"
        p99 = {name: percentile(values, 99) for name, values in single.latencies.items()}
        for name, work in (("plain", "add_message"), ("checked", "add_message, expected_version")):
            report.add(work, found[name], floor, found["raw"], p99_seconds=p99[name], floor_p99_seconds=p99["raw"])
        report.note("p99: " + ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in p99.items()))
        single.close()

        batched = Batched(folder)
        works = {
            "raw": batched.floor_each,
            "each": batched.each,
            "raw group": batched.floor_group,
            "group": batched.groups,
        }
        found = in_turns(works, options.repetitions or (3 if options.quick else 15))
        report.add(f"append_each of {BATCH:,}", found["each"], f"{BATCH:,} inserts, one transaction", found["raw"])
        floor = f"{GROUP} inserts, one transaction"
        report.add(f"append of {GROUP} as a group, expected_version", found["group"], floor, found["raw group"])
        batched.close()

        turns = options.repetitions or (2 if options.quick else 9)
        found = many_processes(folder, single.value, 15 if options.quick else 50, turns)
        report.add(f"add_message by {PROCESSES} processes", found["ctxlog"], f"the same by {PROCESSES} processes", found["raw"])
        report.note(f"Records of {len(single.value)} bytes. Each process appends to a stream of its own.")
    report.finish()


if __name__ == "__main__":
    main()

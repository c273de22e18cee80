"""Projection: exactly-once rows in DuckDB, publishing, queries while it writes, and memory over a large log.

Two floors for projecting, in the same turns: fastavro decodes the same bodies, and DuckDB takes the same rows from Arrow, in the
same batches and transactions. Readers are processes that query the published file in a loop.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import shutil
import statistics
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import duckdb
from harness import Report, arguments, duration, in_turns, memory_bytes, percentile, scratch
from workload import Workload, interleaved, lengths, new_record, publish

from ctxlog.codec.framing import unframe
from ctxlog.codec.schemas import shipped
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import Bounds
from ctxlog.model.records import CONTROL_KEY, Record
from ctxlog.projection.projector import BATCH_RECORDS, Projector
from ctxlog.projection.publish import publish as publish_views
from ctxlog.projection.store import MEMORY_MB, STORAGE_VERSION

EVENTS = 100_000
"""Projected in one turn."""

LARGE = 1_000_000
"""Of the file that is published, and that is made anew."""

ENDLESS = 5_000_000
"""Over which memory is watched."""

QUERIES = {
    "one context": "SELECT role, content FROM messages WHERE stream_id = 'bench/stream-00001' ORDER BY position",
    "agents": "FROM agents",
    "calls by tool": "SELECT name, state, count(*), avg(duration_ms) FROM tool_calls GROUP BY ALL",
}


class GeneratedLog(MemoryLog):
    """A log of any size that takes no room: its records are made when they are read, once, in their order."""

    def __init__(self, events: int) -> None:
        super().__init__(1)
        publish(self)
        self._head = [*super().read(0, 0, 10**9)]
        self._end = len(self._head) + events
        rng = random.Random(7)
        self._events = interleaved(lengths(events, rng), rng, Workload())
        self._next = len(self._head)
        self._last: Record | None = None

    def bounds(self, partition: int) -> Bounds:
        """See `EventLog.bounds`."""
        del partition
        return Bounds(0, self._end if hasattr(self, "_end") else len(self._records[0]))

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        """See `EventLog.read`, from where the last read ended."""
        if not hasattr(self, "_next"):
            yield from super().read(partition, start, end, key=key)
            return
        if key == CONTROL_KEY or end <= len(self._head):
            yield from (record for record in self._head if start <= record.offset < end)
            return
        if self._last is not None and start == self._last.offset:
            yield self._last
            start += 1
        yield from (record for record in self._head if start <= record.offset < end)
        while self._next < end:
            _, event = next(self._events)
            made = new_record(event)
            self._last = Record(0, self._next, 1_760_000_000_000 + self._next // 20, made.key, made.value)
            self._next += 1
            yield self._last


def build(folder: Path, events: int) -> EmbeddedLog:
    """A log with so many events."""
    log = EmbeddedLog(folder)
    publish(log)
    rng = random.Random(7)
    batch = []
    for _, event in interleaved(lengths(events, rng), rng, Workload()):
        batch.append(new_record(event))
        if len(batch) == 5_000:
            log.append(batch)
            batch = []
    log.append(batch)
    return log


class Projecting:
    """One log, projected again and again, and its floors."""

    def __init__(self, folder: Path, events: int) -> None:
        self.folder, self.log = folder, build(folder / "log", events)
        self.end = self.log.bounds(0).end
        self.records = [record for record in self.log.read(0, 0, self.end) if record.key != CONTROL_KEY]
        self.project()
        with contextlib.closing(duckdb.connect(str(self.views / "v.duckdb"), read_only=True)) as connection:
            self.rows = [
                connection.sql(
                    f"SELECT * FROM events WHERE record_offset >= {at} AND record_offset < {at + BATCH_RECORDS}"
                ).to_arrow_table()
                for at in range(0, self.end, BATCH_RECORDS)
            ]

    @property
    def views(self) -> Path:
        """Where they are."""
        return self.folder / "views"

    def project(self) -> float:
        """All of the log into a new file."""
        shutil.rmtree(self.views, ignore_errors=True)
        projector = Projector(self.log, self.views / "v.duckdb")
        started = time.perf_counter()
        projector.run_once()
        seconds = time.perf_counter() - started
        projector.close()
        return seconds / self.end

    def decode(self) -> float:
        """fastavro decodes the bodies."""
        from io import BytesIO

        import fastavro

        names = ("MessageAppended", "ToolCalled", "ToolReturned", "FactSet")
        schemas = {
            unframe(b"\xc3\x01" + bytes.fromhex(shipped(f"ctxlog.{name}").fingerprint))[0]: fastavro.parse_schema(
                shipped(f"ctxlog.{name}").node
            )
            for name in names
        }
        started = time.perf_counter()
        for record in self.records:
            prefix, body = unframe(record.value)
            fastavro.schemaless_reader(BytesIO(body), schemas[prefix], None)
        return (time.perf_counter() - started) / self.end

    def insert(self) -> float:
        """DuckDB takes the rows."""
        path = self.folder / "floor.duckdb"
        path.unlink(missing_ok=True)
        connection = duckdb.connect(config={"memory_limit": f"{MEMORY_MB}MB", "threads": "2"})
        connection.execute(f"ATTACH '{path}' AS views (STORAGE_VERSION '{STORAGE_VERSION}')")
        connection.execute("USE views")
        connection.register("rows", self.rows[0])
        connection.execute("CREATE TABLE events AS SELECT * FROM rows LIMIT 0")
        connection.unregister("rows")
        started = time.perf_counter()
        for rows in self.rows:
            connection.register("batch", rows)
            connection.execute("BEGIN")
            connection.execute("INSERT INTO events SELECT * FROM batch")
            connection.execute("COMMIT")
            connection.unregister("batch")
        seconds = time.perf_counter() - started
        connection.close()
        return seconds / self.end


def ask(path: str, stop: Event, results: Any) -> None:
    """A reader: opens the published file, asks, closes, again and again."""
    found: dict[str, list[float]] = {name: [] for name in QUERIES}
    while not stop.is_set():
        for name, query in QUERIES.items():
            started = time.perf_counter()
            with contextlib.closing(duckdb.connect(path, read_only=True, config={"threads": "1"})) as connection:
                connection.execute(query).fetchall()
            found[name].append(time.perf_counter() - started)
        time.sleep(0.05)
    results.put(found)


class Beside:
    """Projecting with the published file being read, or not."""

    def __init__(self, projecting: Projecting) -> None:
        self.projecting = projecting
        self.published = projecting.folder / "current.duckdb"
        projector = Projector(projecting.log, projecting.views / "v.duckdb")
        publish_views(projector.store, self.published)
        projector.close()
        self.latencies: dict[str, list[float]] = {name: [] for name in QUERIES}

    def read(self) -> float:
        """One reader."""
        spawn = multiprocessing.get_context("spawn")
        stop, results = spawn.Event(), spawn.Queue()
        reader = spawn.Process(target=ask, args=(str(self.published), stop, results))
        reader.start()
        time.sleep(1.5)
        seconds = self.projecting.project()
        stop.set()
        for name, times in results.get(timeout=60).items():
            self.latencies[name] += times
        reader.join()
        return seconds


def large(report: Report, folder: Path, events: int) -> None:
    """Making a large file anew, and publishing it."""
    log = build(folder / "large", events)
    started = time.perf_counter()
    projector = Projector(log, folder / "large.duckdb")
    projector.run_once()
    seconds = time.perf_counter() - started
    report.note(f"rebuild of {events:,} events: {seconds:.0f} s, {events / seconds:,.0f} events/s")
    times = []
    for _ in range(5):
        started = time.perf_counter()
        publish_views(projector.store, folder / "published.duckdb")
        times.append(time.perf_counter() - started)
    size = (folder / "published.duckdb").stat().st_size
    report.note(f"publishing them: {duration(statistics.median(times))}, {size / 1e9:.2f} GB")
    projector.close()
    log.close()


def endless(events: int, results: Any, folder: str) -> None:
    """Memory while a log of many events is projected, in a process of its own: at each fifth."""
    log = GeneratedLog(events)
    projector = Projector(log, Path(folder) / "endless.duckdb")
    peaks = []
    for fifth in range(1, 6):
        while projector.step({0: log.bounds(0).end * fifth // 5}):
            pass
        peaks.append(memory_bytes())
    projector.close()
    results.put(peaks)


def main() -> None:
    """Measure, print and write."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", choices=("speed", "large", "memory"), help="one part alone")

    options = arguments(__doc__, add)
    quick = options.quick
    report = Report("projection", quick=quick, unit="event")
    with scratch() as folder:
        if options.only in (None, "speed"):
            projecting = Projecting(folder, 20_000 if quick else EVENTS)
            beside = Beside(projecting)
            works = {
                "project": projecting.project,
                "decode": projecting.decode,
                "insert": projecting.insert,
                "read": beside.read,
            }
            found = in_turns(works, options.repetitions or (2 if quick else 7))
            both = [one + other for one, other in zip(found["decode"], found["insert"], strict=True)]
            report.add("project, exactly once", found["project"], "decode and insert, nothing else", both)
            report.add("project, exactly once", found["project"], "DuckDB inserts from Arrow", found["insert"])
            report.add("project beside a reader", found["read"], "project alone", found["project"])
            for name, times in beside.latencies.items():
                report.note(
                    f"query beside it, {name}: p50 {duration(percentile(times, 50))}, p99 {duration(percentile(times, 99))}"
                )
            shutil.rmtree(folder / "log")
        if options.only in (None, "large"):
            large(report, folder, 50_000 if quick else LARGE)
        if options.only in (None, "memory"):
            spawn = multiprocessing.get_context("spawn")
            results, events = spawn.Queue(), 100_000 if quick else ENDLESS
            process = spawn.Process(target=endless, args=(events, results, str(folder)))
            process.start()
            peaks = ", ".join(f"{peak / 1e6:.0f}" for peak in results.get(timeout=3600))
            process.join()
            report.note(f"peak memory after each fifth of {events:,} events, MB: {peaks}")
    report.finish()


if __name__ == "__main__":
    main()

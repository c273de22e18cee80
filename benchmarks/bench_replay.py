"""Replay of one stream at a random offset of a large log: latency at the median and at 99 %, and the process's memory.

The floor reads the same rows of the same file by the same index, in the same process, and does nothing with them. Each kind
of stream is measured in a process of its own, so that its memory can be told. "Snapshots" replays the same points from a log
whose streams were folded once before; "and digest" makes the state digest too, which a replay leaves until it is asked for;
"pages evicted" has the operating system forget the file before each replay and each
floor.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Report, arguments, duration, memory_bytes, percentile, scratch
from workload import LONGEST, MEDIUM, SMALL, Sample, Workload, interleaved, lengths, new_record, points, publish

from ctxlog import ContextLog
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.model.records import NewRecord
from ctxlog.replay.snapshots import SnapshotStore

EVENTS = 1_000_000
EVENTS_QUICK = 20_000
WRITE = 5000
"""Events in one transaction while the log is built: some 4 MB."""

KINDS = {SMALL: (200, 10), MEDIUM: (60, 4), LONGEST: (20, 2)}
"""Kinds of streams by length, with how many points are replayed in a full run and in a smoke run."""

MODES = {
    "cold": "no snapshots",
    "snapshots": "snapshots",
    "digest": "snapshots, and digest",
    "evicted": "no snapshots, pages evicted",
}


def build(folder: Path, events: int, quick: bool) -> dict[str, list[Sample]]:
    """Build the log; the points to replay, by kind. Events are encoded and appended in large batches, not by the client."""
    rng = random.Random(7)
    workload = Workload()
    log = EmbeddedLog(folder)
    publish(log)
    of_streams = lengths(events, rng)
    offsets = [array("q") for _ in of_streams]
    batch: list[NewRecord] = []
    at = log.bounds(0).end
    for number, event in interleaved(of_streams, rng, workload):
        batch.append(new_record(event))
        offsets[number].append(at + len(batch) - 1)
        if len(batch) == WRITE:
            log.append(batch)
            at += len(batch)
            batch = []
    log.append(batch)
    log.close()
    return points(offsets, rng, {kind: few if quick else many for kind, (many, few) in KINDS.items()})


def evict(path: Path) -> None:
    """Have the operating system forget the file's pages; the next read comes from the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def child(folder: Path, mode: str, samples: list[Sample]) -> dict[str, Any]:
    """Replay the points in this process. Each is preceded, or followed, by its floor."""
    path = folder / "log.sqlite"
    store = SnapshotStore(folder / "cache.sqlite") if mode in ("snapshots", "digest") else None
    log = ContextLog(EmbeddedLog(folder, create=False), store)
    raw = sqlite3.connect(path.as_uri() + "?mode=ro", uri=True, isolation_level=None)
    if store is not None:
        for stream_id in sorted({stream_id for stream_id, _ in samples}):
            log.replayer.replay(stream_id, parse("latest"))
    memory_before = memory_bytes()
    taken: dict[str, list[float]] = {"floor": [], "ours": []}
    versions = 0

    def floor(stream_id: str, offset: int) -> None:
        query = "SELECT id, recorded_at, value FROM records WHERE stream = (SELECT id FROM streams WHERE key = ?) AND id <= ?"
        for _ in raw.execute(query, (stream_id.encode(), offset)):
            pass

    def ours(stream_id: str, offset: int) -> None:
        nonlocal versions
        replay = log.context(stream_id).replay(f"offset:{offset}")
        if mode == "digest":
            assert replay.manifest.state_digest
        versions += replay.state.version

    steps: dict[str, Callable[[str, int], None]] = {"floor": floor, "ours": ours}
    ours(*samples[0])
    versions = 0
    for turn, (stream_id, offset) in enumerate(samples):
        for name in sorted(steps, reverse=bool(turn % 2)):
            if mode == "evicted":
                evict(path)
            started = time.perf_counter()
            steps[name](stream_id, offset)
            taken[name].append(time.perf_counter() - started)
    log.close()
    return {**taken, "memory_before": memory_before, "memory": memory_bytes(), "events": versions / len(samples)}


def parse(point: str) -> Any:
    """A point, as the replayer takes it."""
    from ctxlog.model.points import parse_point

    return parse_point(point)


def main() -> None:
    """Build, measure, print and write."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--events", type=int, help=f"size of the log (default {EVENTS:,}; smoke run {EVENTS_QUICK:,})")
        parser.add_argument("--keep", type=Path, help="build the log in this folder and keep it, or use the one that is there")
        parser.add_argument("--child", nargs=2, metavar=("FOLDER", "MODE"), help=argparse.SUPPRESS)

    options = arguments(__doc__, add)
    if options.child:
        folder, mode = options.child
        json.dump(child(Path(folder).absolute(), mode, [(name, at) for name, at in json.load(sys.stdin)]), sys.stdout)
        return
    events = options.events or (EVENTS_QUICK if options.quick else EVENTS)
    report = Report("replay", quick=options.quick, unit="replay")
    with scratch() as temporary:
        folder = options.keep or temporary / "log"
        kept = folder / "samples.json"
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            started = time.perf_counter()
            samples = build(folder, events, options.quick)
            kept.write_text(json.dumps(samples), "ascii")
            size = (folder / "log.sqlite").stat().st_size
            report.note(f"{events:,} events, {size / 1e9:.2f} GB, built in {time.perf_counter() - started:.0f} s.")
        measure(report, folder, json.loads(kept.read_text("ascii")))
    report.finish()


def measure(report: Report, folder: Path, samples: dict[str, list[Sample]]) -> None:
    """Replay each kind of stream in each mode, in a process of its own."""
    for kind, chosen in samples.items():
        for mode, words in MODES.items():
            if not chosen or (mode == "evicted" and not hasattr(os, "posix_fadvise")):
                continue
            work = f"{kind}, {words}"
            found = replay_in_child(folder, mode, chosen if mode != "evicted" else chosen[:20])
            memory = {"memory_bytes": found["memory"], "memory_before_bytes": found["memory_before"]}
            p99, floor_p99 = percentile(found["ours"], 99), percentile(found["floor"], 99)
            more = {"p99_seconds": p99, "floor_p99_seconds": floor_p99, "events": found["events"], **memory}
            report.add(work, found["ours"], "raw read by index", found["floor"], **more)
            report.note(
                f"{work}: p99 {duration(p99)} (floor {duration(floor_p99)}), {found['events']:,.0f} events a replay, "
                f"peak memory {found['memory'] / 1e6:.0f} MB"
            )


def replay_in_child(folder: Path, mode: str, samples: list[Sample]) -> dict[str, Any]:
    """What `child` gives, from a process of its own."""
    command = [sys.executable, __file__, "--child", str(folder), mode]
    done = subprocess.run(command, input=json.dumps(samples), stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()

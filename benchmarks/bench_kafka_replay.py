"""Replay of one stream at a random offset of a large topic, with the stream index and without: p50, p99, and memory.

Without the index a replay reads the stream's whole partition, and the floor consumes the same partition and does nothing with it.
With it the floor is what Kafka itself can do for a reader who knows where to look: seek to the offset and consume 500 records.
Each kind of replay is measured in a process of its own, so that its memory can be told.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brokers_here import RAW, one_broker
from confluent_kafka import Consumer, Producer, TopicPartition
from harness import Report, arguments, duration, memory_bytes, percentile, scratch
from workload import LONGEST, MEDIUM, SMALL, TYPES, Sample, Workload, interleaved, lengths, new_record, points, stream_id_of

from ctxlog import ContextLog
from ctxlog.core.partitioner import partition_of
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.publication import Publisher
from ctxlog.replay.reader import LogReader

EVENTS = 1_000_000
EVENTS_QUICK = 20_000
TOPIC = "bench"
KINDS = {SMALL: (200, 5), MEDIUM: (60, 2), LONGEST: (20, 1)}
"""Kinds of streams by length, with how many points are replayed in a full run and in a smoke run."""

SCANS = {SMALL: (15, 2), MEDIUM: (5, 1), LONGEST: (5, 1)}
"""The same without the index, where each replay reads a partition."""

SEEK_RECORDS = 500
MODES = {"off": "no index", "fresh": "index", "snapshots": "index, snapshots"}


def build(url: str, servers: str, events: int) -> list[array[int]]:
    """Fill the topic; each stream's offsets. Events are encoded and produced by the quickest way, not by the client."""
    log, _ = KafkaLog.create(url)
    publisher = Publisher(log, LogReader(log))
    for partition in range(log.partitions):
        publisher.ensure(partition, TYPES)
    rng = random.Random(7)
    of_streams = lengths(events, rng)
    places = [partition_of(stream_id_of(number).encode(), log.partitions) for number in range(len(of_streams))]
    offsets = [array("q") for _ in of_streams]
    ends = [log.bounds(partition).end for partition in range(log.partitions)]
    producer = Producer({**RAW, "bootstrap.servers": servers, "linger.ms": "20"})
    for number, event in interleaved(of_streams, rng, Workload()):
        record = new_record(event, places[number])
        while True:
            try:
                producer.produce(TOPIC, record.value, record.key, record.partition)
                break
            except BufferError:
                producer.poll(0.1)
        offsets[number].append(ends[record.partition])
        ends[record.partition] += 1
    producer.flush()
    assert [log.bounds(partition).end for partition in range(log.partitions)] == ends
    log.close()
    return offsets


def child(url: str, servers: str, mode: str, samples: list[Sample]) -> dict[str, Any]:
    """Replay the points in this process. Each is preceded, or followed, by its floor."""
    taken: dict[str, list[float]] = {"floor": [], "ours": []}
    versions = 0
    settings = {
        "bootstrap.servers": servers,
        "group.id": "raw",
        "fetch.wait.max.ms": "10",
        "fetch.queue.backoff.ms": "10",
        "log_level": "0",
    }
    raw = Consumer({**settings, "isolation.level": "read_committed", "enable.auto.commit": "false", "check.crcs": "true"})
    log = ContextLog.open(url)
    ends = [log.log.bounds(partition).end for partition in range(log.log.partitions)]
    if mode == "snapshots":
        for stream_id in sorted({stream_id for stream_id, _ in samples}):
            log.context(stream_id).replay()
    else:  # The first read builds the index, or finds it.
        log.context(samples[0][0]).replay()
    memory_before = memory_bytes()

    def floor(stream_id: str, offset: int) -> None:
        partition = partition_of(stream_id.encode(), len(ends))
        start = 0 if mode == "off" else max(0, offset - SEEK_RECORDS)
        last = ends[partition] if mode == "off" else offset
        raw.assign([TopicPartition(TOPIC, partition, start)])
        seen = start - 1
        while seen < last - 1:
            for message in raw.consume(1_000, 0.02):
                seen = max(seen, message.offset() or 0)
        raw.unassign()

    def ours(stream_id: str, offset: int) -> None:
        nonlocal versions, log
        if mode == "off":  # A handle that has read nothing yet, as that of a new process.
            log.close()
            log = ContextLog.open(url)
        started = time.perf_counter()
        versions += log.context(stream_id).replay(f"offset:{offset}").state.version
        taken["ours"].append(time.perf_counter() - started)

    for turn, (stream_id, offset) in enumerate(samples):
        if turn % 2:
            ours(stream_id, offset)
        started = time.perf_counter()
        floor(stream_id, offset)
        taken["floor"].append(time.perf_counter() - started)
        if not turn % 2:
            ours(stream_id, offset)
    log.close()
    raw.close()
    return {**taken, "memory_before": memory_before, "memory": memory_bytes(), "events": versions / len(samples)}


def measure(report: Report, folder: Path, servers: str, offsets: list[array[int]], quick: bool) -> None:
    """Each kind of stream in each mode, in a process of its own."""
    base = f"kafka://{servers}?topic={TOPIC}"
    urls = {
        "off": f"{base}&cache=off",
        "fresh": f"{base}&cache={folder / 'index'}",
        "snapshots": f"{base}&cache={folder / 'index'}",
    }
    for mode, words in MODES.items():
        counts = {kind: few if quick else many for kind, (many, few) in (SCANS if mode == "off" else KINDS).items()}
        for kind, samples in points(offsets, random.Random(11), counts).items():
            if not samples:
                continue
            if mode == "fresh":
                forget_snapshots(folder / "index")
            command = [sys.executable, __file__, "--child", urls[mode], servers, mode]
            done = subprocess.run(command, input=json.dumps(samples), stdout=subprocess.PIPE, check=True, text=True)
            found: dict[str, Any] = json.loads(done.stdout)
            p99, floor_p99 = percentile(found["ours"], 99), percentile(found["floor"], 99)
            memory = {"memory_bytes": found["memory"], "memory_before_bytes": found["memory_before"]}
            more = {"p99_seconds": p99, "floor_p99_seconds": floor_p99, "events": found["events"], **memory}
            name = "consume the partition" if mode == "off" else f"seek, consume {SEEK_RECORDS}"
            report.add(f"{kind}, {words}", found["ours"], name, found["floor"], **more)
            report.note(
                f"{kind}, {words}: p99 {duration(p99)} (floor {duration(floor_p99)}), {found['events']:,.0f} events a replay, "
                f"peak memory {found['memory'] / 1e6:.0f} MB"
            )


def caches(folder: Path) -> Iterator[Path]:
    """The files of snapshots in a folder of caches."""
    yield from folder.glob("*/cache.sqlite*")


def forget_snapshots(folder: Path) -> None:
    """Delete them."""
    for path in caches(folder):
        path.unlink()


def build_index(report: Report, folder: Path, servers: str) -> None:
    """Read the whole topic into the index, as the first reads of each partition do."""
    url = f"kafka://{servers}?topic={TOPIC}&cache={folder / 'index'}"
    started = time.perf_counter()
    with ContextLog.open(url) as log:
        records = 0
        for partition in range(log.log.partitions):
            list(log.log.read(partition, 0, 10**9, key=b"none"))
            records += log.log.bounds(partition).end
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in (folder / "index").glob("*/index.sqlite*"))
    report.note(
        f"The index of {records:,} records took {seconds:.0f} s ({records / seconds:,.0f} records/s) and {size / 1e9:.2f} GB."
    )


def main() -> None:
    """Build, measure, print and write."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--events", type=int, help=f"size of the topic (default {EVENTS:,}; smoke run {EVENTS_QUICK:,})")
        parser.add_argument("--child", nargs=3, metavar=("URL", "SERVERS", "MODE"), help=argparse.SUPPRESS)

    options = arguments(__doc__, add)
    if options.child:
        json.dump(child(*options.child, [(name, at) for name, at in json.load(sys.stdin)]), sys.stdout)
        return
    events = options.events or (EVENTS_QUICK if options.quick else EVENTS)
    report = Report("kafka_replay", quick=options.quick, unit="replay")
    with scratch() as folder, one_broker(folder / "kafka") as servers:
        started = time.perf_counter()
        offsets = build(f"kafka://{servers}?topic={TOPIC}&cache=off", servers, events)
        report.note(f"{events:,} events in 12 partitions, written in {time.perf_counter() - started:.0f} s.")
        build_index(report, folder, servers)
        measure(report, folder, servers, offsets, options.quick)
    report.finish()


if __name__ == "__main__":
    main()

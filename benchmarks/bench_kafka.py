"""Appends to Kafka and reads from it, over the plainest use of confluent-kafka on the same broker.

The floor of an append produces the same bytes with the same guarantees (idempotent, `acks=all`): singly, waiting for each
delivery report, and in bulk without a callback a message, until all are flushed. The floor of a read consumes the same partition.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import count

from bench_append import TEXT, stored_values
from brokers_here import RAW, one_broker
from confluent_kafka import Consumer, Producer, TopicPartition
from harness import Report, Work, arguments, in_turns, percentile, scratch, timed

from ctxlog import ContextLog
from ctxlog.log.kafka import KafkaLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.outcomes import Committed

SINGLE = 50
"""Single appends in one turn."""

BATCH = 10_000
GROUP = 100
READ = 100_000
"""Records that are read in one turn."""


class Single:
    """One append, acknowledged by the broker before the next."""

    def __init__(self, servers: str, url: str, topic: str) -> None:
        self.log = ContextLog.open(url)
        self.plain, self.checked = self.log.context("bench/plain"), self.log.context("bench/checked")
        self.plain.add_message("user", TEXT)
        self.checked.add_message("user", TEXT)
        self.value = stored_values(self.log, "bench/plain")[0]
        self.version = 1
        self.raw, self.topic = Producer({**RAW, "bootstrap.servers": servers, "linger.ms": "0"}), topic
        self.latencies: dict[str, list[float]] = {"plain": [], "checked": [], "raw": []}
        self.floor()

    def _block(self, name: str, step: Callable[[], object]) -> float:
        return timed(step, SINGLE, self.latencies[name])

    def floor(self) -> float:
        """Produce, and wait for the delivery report."""

        def step() -> None:
            reported: list[object] = []
            self.raw.produce(self.topic, self.value, b"bench/raw", 0, on_delivery=lambda *_: reported.append(1))
            while not reported:
                self.raw.poll(1)

        return self._block("raw", step)

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


class Batched:
    """Many events at once. Making and validating the events is part of it."""

    def __init__(self, servers: str, log: ContextLog, value: bytes, topic: str) -> None:
        self.log, self.value, self.topic = log, value, topic
        self.raw = Producer({**RAW, "bootstrap.servers": servers, "queue.buffering.max.messages": "1000000"})
        self.names = count()

    def floor(self) -> float:
        """Produce all, then flush."""
        started = time.perf_counter()
        for _ in range(BATCH):
            self.raw.produce(self.topic, self.value, b"bench/raw", 0)
        self.raw.flush()
        return (time.perf_counter() - started) / BATCH

    def each(self) -> float:
        """`append_each`: independent events."""
        context = self.log.context(f"bench/batch-{next(self.names)}")
        started = time.perf_counter()
        context.append_each([(MessageAppended(role="user", content=TEXT), {}) for _ in range(BATCH)])
        return (time.perf_counter() - started) / BATCH

    def groups(self) -> float:
        """`append` of groups, all or nothing, with an expected version; each outcome is read back."""
        context = self.log.context(f"bench/batch-{next(self.names)}")
        started = time.perf_counter()
        for number in range(20):
            batch = [MessageAppended(role="user", content=TEXT) for _ in range(GROUP)]
            context.append(batch, expected_version=number * GROUP)
        return (time.perf_counter() - started) / (20 * GROUP)


class Reading:
    """A whole partition from its beginning."""

    def __init__(self, servers: str, url: str, value: bytes, topic: str) -> None:
        self.servers, self.url, self.topic = servers, url, topic
        raw = Producer({**RAW, "bootstrap.servers": servers, "queue.buffering.max.messages": "1000000"})
        for _ in range(READ):
            raw.produce(topic, value, b"bench/raw", 0)
        raw.flush()
        self.log = KafkaLog(url)
        self.end = self.log.bounds(0).end

    def floor(self) -> float:
        """`consume` in batches of 1,000."""
        settings = {
            "bootstrap.servers": self.servers,
            "group.id": "raw",
            "check.crcs": "true",
            "fetch.message.max.bytes": "2097152",
        }
        consumer = Consumer({**settings, "isolation.level": "read_committed", "enable.auto.commit": "false"})
        consumer.assign([TopicPartition(self.topic, 0, 0)])
        started, found = time.perf_counter(), 0
        while found < self.end:
            found += len(consumer.consume(1_000, 0.05))
        seconds = time.perf_counter() - started
        consumer.close()
        return seconds / self.end

    def read(self) -> float:
        """`EventLog.read`: records with their origins, up to an end that was fixed first."""
        log = KafkaLog(self.url)
        started = time.perf_counter()
        found = sum(1 for _ in log.read(0, 0, self.end))
        seconds = time.perf_counter() - started
        assert found == self.end
        log.close()
        return seconds / self.end


def main() -> None:
    """Measure, print and write."""
    global BATCH, READ
    options = arguments(__doc__)
    if options.quick:
        BATCH, READ = 1_000, 10_000
    report = Report("kafka", quick=options.quick, unit="event")
    with scratch() as folder, one_broker(folder / "kafka") as servers:
        urls = {topic: f"kafka://{servers}?topic={topic}&cache=off" for topic in ("one", "read")}
        for url in urls.values():
            KafkaLog.create(url, 1)[0].close()
        single = Single(servers, urls["one"], "one")
        works: dict[str, Work] = {"raw": single.floor, "plain": single.unconditional, "checked": single.conditional}
        found = in_turns(works, options.repetitions or (4 if options.quick else 30))
        p99 = {name: percentile(values, 99) for name, values in single.latencies.items()}
        for name, work in (("plain", "add_message"), ("checked", "add_message, expected_version")):
            more = {"p99_seconds": p99[name], "floor_p99_seconds": p99["raw"]}
            report.add(work, found[name], "produce, report awaited", found["raw"], **more)
        report.note("p99: " + ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in p99.items()))

        batched = Batched(servers, single.log, single.value, "one")
        works = {"raw": batched.floor, "each": batched.each, "group": batched.groups}
        found = in_turns(works, options.repetitions or (2 if options.quick else 9))
        floor = f"{BATCH:,} produced, flushed"
        report.add(f"append_each of {BATCH:,}", found["each"], floor, found["raw"])
        report.add(f"append of {GROUP} as a group, expected_version", found["group"], floor, found["raw"])
        shares = [floor_seconds / ours for ours, floor_seconds in zip(found["each"], found["raw"], strict=True)]
        report.note(f"append_each as a share of raw idempotent produce: {statistics.median(shares):.2f}")

        reading = Reading(servers, urls["read"], single.value, "read")
        found = in_turns({"raw": reading.floor, "read": reading.read}, options.repetitions or (2 if options.quick else 7))
        report.add(f"read of {READ:,} records", found["read"], "consume", found["raw"])
        report.note(f"Records of {len(single.value)} bytes, one broker, one partition, clients and broker on the same cores.")
    report.finish()


if __name__ == "__main__":
    main()

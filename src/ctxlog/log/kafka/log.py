"""The log on Kafka: what `EventLog` promises, kept by a topic.

    append -> Sender -> brokers          bounds -> last stable offset          read -> Tail near the end, `bulk` elsewhere

The topic is looked at when the log is opened and now and then later: one that was recreated, rewound or given more partitions is
not this log any more, and is refused.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from confluent_kafka import TopicPartition

from ctxlog.errors import StorageError, TopicChangedError
from ctxlog.log.kafka import topic as topics
from ctxlog.log.kafka.clients import Clients
from ctxlog.log.kafka.location import Location, Properties
from ctxlog.log.kafka.reading import TAIL_OFFSETS, Tail, bulk
from ctxlog.log.kafka.sending import Sender
from ctxlog.log.protocol import Bounds
from ctxlog.model.records import NewRecord, Placed, Record

LOOK_SECONDS = 10.0
"""How often an open log looks whether its topic is still the same one: a question of a millisecond."""

BACK_SECONDS_MAX = 5.0
"""A new leader may know less of the end for a moment than the last one did. Longer, and the partition has lost records."""

SCAN_OFFSETS = 20_000
"""Reads of as many offsets are long enough to say how far they are."""

Scanning = Callable[[int, int], None]
"""Told how many offsets of a long read are done, and of how many."""


class KafkaLog:
    """A log in a Kafka topic. Threads may share one; both processes of a fork may go on with it.

    Args:
        url: `kafka://HOST:PORT[,HOST:PORT…][?topic=NAME&properties=FILE…]`.

    Attributes:
        scanning: Told how far long reads are; None tells nobody.

    Raises:
        InvalidInputError: The URL cannot be read.
        LogOpenError: The topic is no log, or not this one; the message gives each reason. Nothing is ever created here.
        StorageError: No broker answers.
    """

    def __init__(self, url: str) -> None:
        self.location = Location.parse(url)
        self.url = self.location.name
        self.properties = Properties.read(self.location.properties)
        self.scanning: Scanning | None = None
        self._start()
        try:
            self.log_id, self.topic, self._first = topics.check(self._clients)
        except BaseException:
            self._clients.close()
            raise
        self.partitions = self.topic.partitions
        self._seen = dict.fromkeys(range(self.partitions), 0)
        self._looked_at = time.monotonic()
        self._changed: TopicChangedError | None = None

    def _start(self) -> None:
        self._clients = Clients(self.location, self.properties)
        self._sender = Sender(self._clients)
        self._tail = Tail(self._clients)
        self._looking = threading.Lock()

    @classmethod
    def create(cls, url: str, partitions: int | None = None, *, adopt: bool = False) -> tuple[Self, bool]:
        """Create the log, or complete what was begun, and open it; and whether anything was done.

        Args:
            url: Where.
            partitions: Of a new topic; 12 where not given.
            adopt: Take over a topic that was restored and so has another id.

        Raises:
            LogOpenError: What is there cannot become a log; nothing was changed.
        """
        location = Location.parse(url)
        clients = Clients(location, Properties.read(location.properties))
        try:
            done = topics.create(clients, partitions, adopt=adopt)
        finally:
            clients.close()
        return cls(url), done

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        """See `EventLog.append`. Acknowledged by all brokers in sync (`acks=all`); not atomic."""
        for record in records:
            if not 0 <= record.partition < self.partitions:
                raise ValueError(f"partition {record.partition} of a log that has {self.partitions}")
        self._look()
        reached = dict(self._seen)
        placed = self._sender.append(records)
        for (partition, offset), _ in placed:
            if offset < reached[partition]:
                raise self._gone(
                    f"partition {partition} gave offset {offset} to a new record and had reached {reached[partition]} before: "
                    "the topic was recreated or rewound, and the records lie in a topic that is not this log"
                )
        return placed

    def bounds(self, partition: int) -> Bounds:
        """See `EventLog.bounds`. The end is the last stable offset."""
        self._look()
        return self._bounds(partition)

    def _bounds(self, partition: int) -> Bounds:
        deadline = None
        while True:
            found = topics.bounds(self._here(), partition)
            if found.end >= self._seen[partition]:
                self._seen[partition] = max(self._seen[partition], found.end)
                return found
            deadline = deadline or time.monotonic() + BACK_SECONDS_MAX
            if time.monotonic() >= deadline:
                raise self._gone(
                    f"partition {partition} ends at offset {found.end}, and had reached {self._seen[partition]} before: "
                    "the topic was recreated, rewound, or lost records with a broker; nothing was read"
                )
            time.sleep(0.1)

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        """See `EventLog.read`. With `key` the records of others are read and left out: on Kafka that costs a scan."""
        clients = self._here()
        clients.check_open()
        start = max(start, 0)  # To the client -1 is the end, and whoever read on from there would miss all that came before.
        head = self._first.get(partition)
        if head is not None and start <= head.offset < end:
            if key is None or head.key == key:
                yield head
            start = head.offset + 1
        if start < end and end > self._seen[partition]:
            end = min(end, self.bounds(partition).end)
        for record in self._read(clients, partition, start, end):
            if key is None or record.key == key:
                yield record

    def _read(self, clients: Clients, partition: int, start: int, end: int) -> Iterator[Record]:
        if start >= end:
            return
        if start < self._seen[partition] - TAIL_OFFSETS and not self._tail.holds(partition, start):
            tell = self.scanning if end - start >= SCAN_OFFSETS else None
            for number, record in enumerate(bulk(clients, partition, start, end)):
                if tell is not None and number % 1_000 == 0:
                    tell(record.offset - start, end - start)
                yield record
            if tell is not None:
                tell(end - start, end - start)
            return
        tail = self._tail
        while start < end:
            records, start = tail.read(partition, start, end)
            yield from records

    def offset_at(self, partition: int, time_ms: int) -> int:
        """See `EventLog.offset_at`."""
        clients = self._here()
        end = self.bounds(partition).end
        where = [TopicPartition(self.location.topic, partition, max(time_ms, 0))]
        found: int = clients.ask(
            "look-up by time", lambda timeout: clients.query().offsets_for_times(where, timeout=timeout)[0].offset
        )
        if found < 0:
            return end
        # It may be a record that no reader sees, of a transaction that was aborted.
        visible = (record.offset for record in self.read(partition, found, end) if record.recorded_at >= time_ms)
        return next(visible, end)

    def keys(self, partition: int) -> Iterator[bytes]:
        """See `EventLog.keys`. Reads the whole partition."""
        first, end = self.bounds(partition)
        seen: set[bytes] = set()
        for record in self.read(partition, first, end):
            if record.key is not None and record.key not in seen:
                seen.add(record.key)
                yield record.key

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        """See `EventLog.wait`. Where the tail is at hand, what it has seen is the answer, and no broker is asked."""
        self._here()
        self._look()
        at_hand = self._tail.holds(partition, end)
        if not at_hand:
            found = self.bounds(partition).end
            if found > end or timeout_seconds <= 0:
                return found
        seen = self._tail.wait(partition, end, timeout_seconds)
        if seen <= end:
            return self.bounds(partition).end
        self._seen[partition] = max(self._seen[partition], seen)
        return seen

    def close(self) -> None:
        """See `EventLog.close`."""
        self._here().close()

    def _here(self) -> Clients:
        """This process's own clients."""
        if self._clients.pid != os.getpid():
            self._start()
        return self._clients

    def _look(self) -> None:
        """See now and then whether the topic is still the one that was opened."""
        clients = self._here()
        clients.check_open()
        if self._changed is not None:
            raise self._changed
        if time.monotonic() - self._looked_at < LOOK_SECONDS or not self._looking.acquire(blocking=False):
            return
        try:
            self._looked_at = time.monotonic()
            try:
                found = topics.describe(clients, seconds=1.0)
            except StorageError:
                return  # Whoever reads or appends will say so.
            if found is None or (found.topic_id, found.partitions) != (self.topic.topic_id, self.topic.partitions):
                now = "is gone" if found is None else f"has id {found.topic_id} and {found.partitions} partitions"
                raise self._gone(
                    f"the topic {now}, and had id {self.topic.topic_id} and {self.partitions} partitions when it was opened; "
                    "nothing was read or appended"
                )
        finally:
            self._looking.release()

    def _gone(self, why: str) -> TopicChangedError:
        """The error that every further use of this handle raises too."""
        self._changed = TopicChangedError(f"{self.url}: {why}. Compare the topic with a copy, and open the log again.")
        return self._changed

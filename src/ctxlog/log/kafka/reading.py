"""Reading a topic's partitions: in bulk from anywhere, and at the tail, where most reads are.

What a reader takes is settled: `read_committed`, so the records of transactions that are open or were aborted never show, and the
end is the last stable offset. A read is over at a record or an end-of-partition at or beyond the end that was asked for, and
never because nothing came for a while.
"""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ctxlog.errors import StorageError, TopicChangedError
from ctxlog.log.kafka.clients import Clients
from ctxlog.log.kafka.messages import record_of
from ctxlog.model.records import Record

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

POLL_SECONDS = 0.1
"""How long one wait for messages lasts; between them a Ctrl-C gets through."""

SILENCE_SECONDS_MAX = 30.0
"""How long a read goes without a record before it fails: longer than an election takes."""

RENEW_SECONDS = 4.0
"""How long a read goes without a record before it asks again with a new client."""

BATCH_MESSAGES = 1_000

TAIL_OFFSETS = 2_000
"""A read that begins so near to the end goes to the tail: it is a writer that reads its own records, or somebody who follows."""

TAIL_BYTES = 4 * 1024 * 1024
"""What the tail keeps in memory of a partition at most, so that readers who come one after the other need no further fetch."""

_OFFSET = attrgetter("offset")
_GONE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
_DENIED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED})
_DAMAGED = frozenset({KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._LOG_TRUNCATION})


class _Silence:
    """Notices when nothing comes any more."""

    def __init__(self, clients: Clients, partition: int) -> None:
        self._clients = clients
        self._partition = partition
        self._renewed = time.monotonic()
        self.broken()

    def renew(self) -> bool:
        """Whether to go on with a new client: this one may believe for long what a broker that had just started told it."""
        now = time.monotonic()
        due = now - max(self._since, self._renewed) > RENEW_SECONDS
        if due:
            self._renewed = now
        return due

    def broken(self) -> None:
        """Something came."""
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise where it has lasted too long."""
        self._clients.check_refused()
        if time.monotonic() - self._since > SILENCE_SECONDS_MAX:
            cause = self._clients.unreachable or "the brokers send nothing"
            raise StorageError(
                f"{self._clients.location.name}: partition {self._partition}: {cause}, for {SILENCE_SECONDS_MAX:.0f} s; "
                "the read was given up. Check the brokers and try again."
            )


def _check(clients: Clients, partition: int, error: KafkaError) -> None:
    """Raise where an error is one that does not pass by itself."""
    name = clients.location.name
    if error.code() in _GONE:
        raise TopicChangedError(
            f"{name}: partition {partition} does not have the offsets any more that were read before: the topic was recreated, "
            "cut off or rewound; the read was stopped. Open the log again, and `ctxlog verify` against a manifest that was kept."
        )
    if error.code() in _DENIED:
        raise StorageError(f"{name}: {error.str()}; nothing was read. Give this client the ACLs of a reader.")
    if error.code() in _DAMAGED:
        raise StorageError(f"{name}: partition {partition}: {error.str()}; the read was stopped there. Check the brokers' disks.")


def bulk(clients: Clients, partition: int, start: int, end: int) -> Iterator[Record]:
    """The records of a partition from `start` up to `end`, which is at or below its last stable offset."""
    consumer = clients.borrow()
    try:
        consumer.assign([TopicPartition(clients.location.topic, partition, start)])
        silence = _Silence(clients, partition)
        position = start
        while position < end:
            batch = _poll(consumer, clients, POLL_SECONDS)
            if batch:
                silence.broken()
            else:
                silence.check()
                if silence.renew():
                    with contextlib.suppress(KafkaException, RuntimeError):
                        consumer.close()
                    consumer = clients.borrow(new=True)
                    consumer.assign([TopicPartition(clients.location.topic, partition, position)])
            for message in batch:
                if message.partition() not in (partition, None):
                    continue
                error = message.error()
                if error is None:
                    record = record_of(message)
                    position = record.offset + 1
                    if record.offset >= end:
                        break
                    yield record
                elif error.code() == KafkaError._PARTITION_EOF:
                    position = max(position, message.offset() or 0)
                else:
                    _check(clients, partition, error)
    finally:
        with contextlib.suppress(KafkaException, RuntimeError):
            clients.give_back(consumer)


def _poll(consumer: Consumer, clients: Clients, timeout_seconds: float) -> list[Message]:
    """What has come, or comes within the time. (`consume` alone would wait for a full batch.)"""
    clients.check_open()
    try:
        found = consumer.consume(BATCH_MESSAGES, 0)
        if not found:
            first = consumer.poll(timeout_seconds)
            found = [first] if first is not None else []
        return found
    except RuntimeError:  # It was closed meanwhile.
        clients.check_open()
        raise


class _Part:
    """The tail of one partition: its records at `first` <= offset < `next`, all of them."""

    __slots__ = ("bytes", "first", "next", "records")

    def __init__(self, start: int) -> None:
        self.records: list[Record] = []
        self.first = self.next = start
        self.bytes = 0

    def take(self, record: Record) -> None:
        if record.offset < self.next:
            return  # fetched before the reader went elsewhere
        self.records.append(record)
        self.next = record.offset + 1
        self.bytes += _size(record)

    def trim(self) -> None:
        """Let go of the older half where there is too much."""
        while self.bytes > TAIL_BYTES and len(self.records) > 1:
            half = len(self.records) // 2
            self.first = self.records[half].offset
            self.bytes -= sum(map(_size, self.records[:half]))
            del self.records[:half]

    def between(self, start: int, end: int) -> list[Record]:
        low = bisect_left(self.records, start, key=_OFFSET)
        return self.records[low : bisect_left(self.records, end, low, key=_OFFSET)]


def _size(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"") + 100


class Tail:
    """One consumer at the ends of all partitions that are read in this process; threads share it."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._lock = threading.Lock()
        self._parts: dict[int, _Part] = {}
        self._stopped = False

    def holds(self, partition: int, start: int) -> bool:
        """Whether a read from `start` on needs nothing that was let go of."""
        part = self._parts.get(partition)
        return part is not None and part.first <= start <= part.next

    def read(self, partition: int, start: int, end: int) -> tuple[list[Record], int]:
        """Records from `start` on and up to `end`, as many as there are by now or come first; and how far they go.

        Waits until there is one, or until it is certain that there is none before `end`.
        """
        with self._lock:
            silence = _Silence(self._clients, partition)
            part = self._at(partition, start)
            while part.next <= start:
                if self._receive(part):
                    silence.broken()
                else:
                    silence.check()
                    if silence.renew():
                        self._renew()
            upto = min(end, part.next)
            found = part.between(start, upto)
            part.trim()  # Not before: what came in one go may be more than is kept.
            return found, upto

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        """Wait until a record at or beyond `end` has come, or the time is over; the offset that the tail has reached.

        Everything below it is settled, so a partition ends there or beyond.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            with self._lock:  # given up between the looks, so that other readers get through
                part = self._at(partition, end)
                left = deadline - time.monotonic()
                if part.next > end or left <= 0:
                    return part.next
                self._receive(part, min(left, POLL_SECONDS))
                part.trim()

    def _renew(self) -> None:
        """Go on with another consumer, where this one was."""
        old = self._clients.tail()
        self._clients.drop("tail")
        with contextlib.suppress(KafkaException, RuntimeError):
            old.close()
        self._go_on()

    def _go_on(self) -> None:
        """Have the consumer begin anew where each part ends."""
        topic = self._clients.location.topic
        self._clients.tail().assign([TopicPartition(topic, number, part.next) for number, part in self._parts.items()])
        self._stopped = False

    def _at(self, partition: int, start: int) -> _Part:
        """The partition's tail, moved where a read needs it."""
        if self._stopped:
            self._go_on()
        part = self._parts.get(partition)
        if part is not None and part.first <= start <= part.next + TAIL_OFFSETS:
            return part
        consumer = self._clients.tail()
        where = [TopicPartition(self._clients.location.topic, partition, start)]
        if part is not None:
            consumer.incremental_unassign([TopicPartition(self._clients.location.topic, partition)])
        consumer.incremental_assign(where)
        self._parts[partition] = part = _Part(start)
        return part

    def _receive(self, wanted: _Part, timeout_seconds: float = POLL_SECONDS) -> bool:
        """Take what has come for any partition; whether there was something. All but the wanted one are trimmed."""
        self._stopped = True  # Should this be left in the middle, then what the consumer gave and nobody took is fetched again.
        found = _poll(self._clients.tail(), self._clients, timeout_seconds)
        for message in found:
            self._take(message)
        self._stopped = False
        for part in self._parts.values():
            if part is not wanted:
                part.trim()
        return bool(found)

    def _take(self, message: Message) -> None:
        error = message.error()
        partition = message.partition()
        number = -1 if partition is None else partition
        part = self._parts.get(number)
        if error is None:
            if part is not None:
                part.take(record_of(message))
        elif error.code() != KafkaError._PARTITION_EOF:
            if error.code() in _GONE:
                self._parts.pop(number, None)
            _check(self._clients, number, error)
        elif part is not None:
            part.next = max(part.next, message.offset() or 0)

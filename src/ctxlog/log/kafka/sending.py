"""Appends: many records at once, each with its delivery report, and an answer to what became of them.

    records -> librdkafka, which batches and retries without doubling or swapping -> delivery reports -> Placed, or an error

Whoever waits for reports serves the reports of all: one thread polls, and hands over when its own records are done. So there is
no thread of ours that a fork would lose, and a single append waits for nobody but the broker.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from ctxlog.errors import StorageError
from ctxlog.log.kafka.clients import DENIED, Clients
from ctxlog.log.kafka.messages import headers_of
from ctxlog.log.protocol import OutcomeUnknownError
from ctxlog.model.records import NewRecord, Placed, Position

if TYPE_CHECKING:
    from confluent_kafka import Message, Producer

POLL_SECONDS = 0.1
"""How long one wait for reports lasts; between them a Ctrl-C gets through."""

SILENCE_SECONDS_MAX = 120.0
"""librdkafka reports on every message when its time is over. Without any report for so long it is not at work any more."""

_NOT_TAKEN = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._PURGE_QUEUE, KafkaError._INVALID_ARG,
    }
)  # fmt: skip
"""Errors after which a record is certainly not in the log. After any other it may be, or may yet get there."""


class _Append:
    """Records on their way."""

    __slots__ = ("errors", "left", "placed", "reported_at")

    def __init__(self, count: int) -> None:
        self.left = count
        self.placed: list[Placed | None] = [None] * count
        self.errors: list[KafkaError] = []
        self.reported_at = time.monotonic()

    def report(self, index: int) -> Callable[[KafkaError | None, Message], None]:
        """What is called when a record is delivered, or is not."""

        def reported(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.errors.append(error)
            else:
                partition: Any = message.partition()
                offset: Any = message.offset()
                self.placed[index] = Placed(Position(partition, offset), message.timestamp()[1])
            self.reported_at = time.monotonic()
            self.left -= 1

        return reported


class Sender:
    """Appends of one process to one topic."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._topic = clients.location.topic
        self._turn = threading.Condition()
        self._polling = False
        self._broken: Producer | None = None

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        """See `EventLog.append`."""
        self._clients.check_refused()
        producer = self._clients.producer()
        under_way = _Append(len(records))
        sent = 0
        try:
            for index, record in enumerate(records):
                self._produce(producer, record, under_way.report(index))
                sent += 1
        except KafkaException as error:
            self._replace(producer, error.args[0])
            under_way.left -= len(records) - sent
            self._wait(producer, under_way)
            raise self._failure(under_way, error.args[0], sent) from error
        self._wait(producer, under_way)
        if under_way.errors:
            self._replace(producer, under_way.errors[0])
            raise self._failure(under_way, under_way.errors[0], len(records))
        placed = [one for one in under_way.placed if one is not None]
        if any(one.position.offset < 0 for one in placed):
            # The broker had them from an earlier try, and did not keep where.
            raise OutcomeUnknownError(f"{self._clients.location.name}: the brokers have the records and do not say where")
        return placed

    def _produce(self, producer: Producer, record: NewRecord, report: Callable[[KafkaError | None, Message], None]) -> None:
        while True:
            try:
                producer.produce(
                    self._topic, record.value, record.key, record.partition, on_delivery=report, headers=headers_of(record)
                )
                return
            except BufferError:  # librdkafka's own queue is full: wait until some of it is on its way.
                producer.poll(POLL_SECONDS)

    def _wait(self, producer: Producer, under_way: _Append) -> None:
        """Until every record of an append was reported on."""
        while under_way.left > 0:
            with self._turn:
                while self._polling and under_way.left > 0:
                    self._turn.wait(POLL_SECONDS)
                    self._check_process()
                if under_way.left <= 0:
                    return
                if self._broken is producer:
                    raise OutcomeUnknownError(f"{self._clients.location.name}: the producer broke down")
                self._polling = True
            try:
                while under_way.left > 0:
                    self._check_process()
                    if self._poll(producer):
                        with self._turn:
                            self._turn.notify_all()
                    elif time.monotonic() > under_way.reported_at + SILENCE_SECONDS_MAX:
                        name, left = self._clients.location.name, under_way.left
                        raise OutcomeUnknownError(f"{name}: no report on {left} record(s) for {SILENCE_SECONDS_MAX:.0f} s")
            finally:
                with self._turn:
                    self._polling = False
                    self._turn.notify_all()

    def _poll(self, producer: Producer) -> int:
        """Serve reports that have come. Raises `OutcomeUnknownError` where the producer can do nothing any more."""
        try:
            return producer.poll(POLL_SECONDS)
        except (KafkaException, SystemError) as error:  # SystemError: a report was served with the other error pending.
            self._broken = producer
            self._clients.drop_producer(producer)
            cause = error if isinstance(error, KafkaException) else error.__cause__
            reason = cause.args[0].str() if isinstance(cause, KafkaException) else "the producer broke down"
            raise OutcomeUnknownError(f"{self._clients.location.name}: {reason}") from error

    def _check_process(self) -> None:
        """Raise in a child that a signal handler forked inside an append: its parent goes on with that, and hears the reports."""
        if self._clients.pid != os.getpid():
            raise OutcomeUnknownError(f"{self._clients.location.name}: a fork came between")

    def _replace(self, producer: Producer, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._clients.drop_producer(producer)

    def _failure(self, under_way: _Append, error: KafkaError, sent: int) -> Exception:
        """What to raise: the append did not happen, or nobody knows."""
        name = self._clients.location.name
        failed = all(one.code() in _NOT_TAKEN for one in under_way.errors) and len(under_way.errors) == sent
        if failed:
            advice = " Give this client the ACLs of a writer." if error.code() in DENIED else ""
            return StorageError(f"{name}: {error.str()}; nothing was appended.{advice}")
        taken = sum(1 for one in under_way.placed if one is not None)
        return OutcomeUnknownError(f"{name}: {error.str()}, {taken} of {len(under_way.placed)} records are known to be taken")

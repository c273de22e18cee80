"""The Kafka clients of one process: made when they are needed, never shared with a forked child.

librdkafka does its work in threads of its own, which a fork does not take along. So each process makes its own clients, and a
child leaves those of its parent alone, for ever, whatever it does and however it ends: to ask them would wait for threads that do
not exist, and to let go of them would too, or crash.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]

from ctxlog.errors import LogClosedError, LogOpenError, StorageError
from ctxlog.log.kafka.location import COMMON, CONSUMER, PRODUCER, Location, Properties

T = TypeVar("T", Producer, Consumer, AdminClient)

ANSWER_SECONDS_MAX = 30.0
"""How long a question to the brokers may take, their elections included, before it fails; …"""

FIRST_ANSWER_SECONDS_MAX = 10.0
"""… and the first one of all, when nothing says yet that there are brokers; …"""

REFUSED_SECONDS_MAX = 3.0
"""… or as little, where every connection was refused: brokers that start may need so long."""

TRY_SECONDS = 2.0
"""How long one try may take before the question is asked again."""

CONNECT_SECONDS = 5.0
"""How long a new producer waits for its first connection before it is used without one."""

IDLE_MAX = 2
"""Readers that are kept for the next read. Each has threads and connections."""

READ_WAIT_MS = 10
"""How long a broker holds a fetch that finds nothing. A reader that moves elsewhere waits for it: one connection, one fetch."""

_LOGGER = logging.getLogger("ctxlog.kafka")
logging.getLogger("ctxlog").addHandler(logging.NullHandler())  # A library says nothing unless it is asked to.

_REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL})
DENIED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
"""An ACL is missing."""

_INVALID = re.compile(r'Invalid value.* for configuration property ("[a-z0-9._]+")')


class Clients:
    """The clients of one process.

    Attributes:
        pid: The process whose they are.
        location: The log.
    """

    def __init__(self, location: Location, properties: Properties) -> None:
        self.pid = os.getpid()
        self.location = location
        self._properties = properties.client
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}
        self._idle: list[Consumer] = []
        self._closed = False
        self._answered = False
        self.refused: str | None = None
        self.unreachable: str | None = None

    def admin(self) -> AdminClient:
        """For questions about topics."""
        return self._one("admin", lambda: self._make(AdminClient, {}))

    def producer(self) -> Producer:
        """For appends. Raises `StorageError` where this client may not write."""
        if "producer" not in self._made:
            self._check_may_write()
        return self._one("producer", self._make_producer)

    def _check_may_write(self) -> None:
        """Ask before there is a producer: one that may not write fails at a moment of its own, and says nothing of ACLs."""
        topic = self.location.topic

        def question(timeout: float) -> Any:
            options = {"include_authorized_operations": True, "request_timeout": timeout}
            return self.admin().describe_topics(TopicCollection([topic]), **options)[topic].result().authorized_operations

        allowed = self.ask(f"topic {topic!r}", question)
        if allowed is not None and AclOperation.WRITE not in allowed:
            raise StorageError(
                f"{self.location.name}: this client may not write to the topic; nothing was appended. "
                "Give it the ACLs of a writer, or append as another user."
            )

    def query(self) -> Consumer:
        """For questions about offsets; nothing is ever assigned to it, so no fetch that waits is in their way."""
        return self._one("query", lambda: self._make(Consumer, CONSUMER))

    def drop(self, name: str) -> None:
        """Make another client for the next question. Not closed: another thread may be asking it."""
        with self._lock:
            self._made.pop(name, None)

    def drop_producer(self, failed: Producer) -> None:
        """Make another producer for the next append; this one cannot go on."""
        with self._lock:
            if self._made.get("producer") is failed:
                del self._made["producer"]

    def borrow(self, *, new: bool = False) -> Consumer:
        """A consumer for one read; give it back, or close it."""
        self.check_open()
        with self._lock:
            self.check_open()
            if self._idle and not new:
                return self._idle.pop()
        return self._make(Consumer, {**CONSUMER, "fetch.wait.max.ms": str(READ_WAIT_MS)})

    def give_back(self, consumer: Consumer) -> None:
        """Take a consumer, whatever it has assigned."""
        if self.pid != os.getpid():
            return
        try:
            consumer.unassign()  # What it fetched ahead is gone with it.
        except (KafkaException, RuntimeError):
            return  # It was closed, or cannot go on: nobody is to get it again.
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_MAX:
                self._idle.append(consumer)
                return
        consumer.close()

    def tail(self) -> Consumer:
        """A consumer that stays at the ends of partitions."""
        return self._one("tail", lambda: self._make(Consumer, {**CONSUMER, "fetch.wait.max.ms": "100"}))

    def member(self, settings: dict[str, str]) -> Consumer:
        """A consumer that joins a group; whoever asked for it closes it."""
        return self._make(Consumer, {**CONSUMER, **settings})

    def close(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._closed = True
            made, self._made = self._made, {}
            idle, self._idle = self._idle, []
        for client in [*made.values(), *idle]:
            if isinstance(client, Consumer):
                client.close()

    def ask(self, what: str, question: Callable[[float], Any], *, seconds: float = ANSWER_SECONDS_MAX) -> Any:
        """The answer to a question to the brokers; asked again while they are away or elect a leader.

        Args:
            what: The question, for the message of an error.
            question: Called with the seconds that one try may take.
            seconds: How long all tries may take.

        Raises:
            StorageError: There is no answer.
            LogOpenError: The brokers refuse this client.
        """
        started = time.monotonic()
        if not self._answered:
            seconds = min(seconds, FIRST_ANSWER_SECONDS_MAX)
        while True:
            left = started + seconds - time.monotonic()
            try:
                answer = question(max(0.1, min(left, TRY_SECONDS)))
                self._answered, self.unreachable = True, None
                return answer
            except KafkaException as error:
                self.check_open()
                self._listen()
                self.check_refused()
                cause: KafkaError = error.args[0]
                if cause.code() in DENIED:
                    raise StorageError(
                        f"{self.location.name}: {what}: the brokers do not allow it to this client ({cause.str().rstrip('.')}); "
                        "nothing was changed. Give it the ACLs of what it does: reader, writer or init."
                    ) from error
                if cause.code() in _FORGOTTEN:
                    self.drop("query")
                gone = self.unreachable is not None and not self._answered
                waited = time.monotonic() + 0.2 - started
                # `retriable` of librdkafka covers produce alone.
                if cause.code() not in _AGAIN or waited >= seconds or (gone and waited >= REFUSED_SECONDS_MAX):
                    reason = self.unreachable if cause.code() in _AWAY and self.unreachable else cause.str()
                    raise StorageError(f"{self.location.name}: {what}: {reason}; nothing was changed. Try again.") from error
            time.sleep(0.1)

    def _listen(self) -> None:
        """Let the clients tell what happened to their connections; never the tail, whose next message a poll would take away."""
        for name in ("admin", "producer", "query"):
            client = self._made.get(name)
            if client is not None:
                client.poll(0)

    def check_refused(self) -> None:
        """Raise `LogOpenError` where the brokers do not take this client's credentials."""
        if self.refused is not None:
            raise LogOpenError(
                f"{self.location.name}: the brokers refuse this client: {self.refused}; nothing was changed. "
                "Correct the file that ?properties= names."
            )

    def _one(self, name: str, make: Callable[[], T]) -> T:
        self.check_open()
        with self._lock:
            self.check_open()
            if name not in self._made:
                self._made[name] = make()
            found: T = self._made[name]
            return found

    def check_open(self) -> None:
        """Raise `LogClosedError` where the log was closed, `StorageError` in a child that was forked inside a call."""
        if self.pid != os.getpid():
            raise StorageError(f"{self.location.name}: a fork came between; this process read and appended nothing. Try again.")
        if self._closed:
            raise LogClosedError(f"{self.location.name}: the log was closed; nothing was read or appended. Open it again.")

    def _make_producer(self) -> Producer:
        producer = self._make(Producer, PRODUCER)
        # A message that is there before a broker is connected makes librdkafka wait half a second for its producer id.
        with contextlib.suppress(KafkaException):
            for _ in range(2):
                producer.list_topics(self.location.topic, timeout=CONNECT_SECONDS)
        return producer

    def _make(self, kind: type[T], settings: dict[str, str]) -> T:
        servers = {"bootstrap.servers": self.location.servers}
        handlers: dict[str, Any] = {"error_cb": self._heard, "logger": _LOGGER}
        try:
            return _kept(kind, {**COMMON, **settings, **self._properties, **servers, **handlers})
        except (KafkaException, ValueError, TypeError) as error:
            raise LogOpenError(f"{self.location.properties}: {_reason(error)}; nothing was opened") from None

    def _heard(self, error: KafkaError) -> None:
        """What librdkafka says of its connections: authentication that fails is not tried for ever."""
        if error.code() in _REFUSED:
            self.refused = error.str()
        elif error.code() in _AWAY:
            self.unreachable = error.str()


class _Consumer(Consumer):
    """A consumer that can be named in a weak set."""


class _Producer(Producer):
    """A producer that can be named in a weak set."""


_KINDS: dict[type[Any], type[Any]] = {Consumer: _Consumer, Producer: _Producer}

_ALL: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every client of this process."""


def _kept(kind: type[T], settings: dict[str, Any]) -> T:
    client: T = _KINDS.get(kind, kind)(settings)
    _ALL.add(client)
    return client


def _after_fork_in_child() -> None:
    """Let nothing ever let go of the parent's clients, not even the end of the interpreter."""
    for client in list(_ALL):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
    _ALL.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

_AWAY = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT, KafkaError._WAIT_COORD}
)
"""No broker answered."""

_FORGOTTEN = frozenset({KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC})
"""A broker that had just started told a client that it knows no such topic, and the client believes it until it is asked anew."""

_AGAIN = _AWAY | {
    KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE, KafkaError.REPLICA_NOT_AVAILABLE, KafkaError.NETWORK_EXCEPTION,
    KafkaError.OFFSET_NOT_AVAILABLE, KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.KAFKA_STORAGE_ERROR, KafkaError._WAIT_CACHE, KafkaError._IN_PROGRESS, KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError._NO_OFFSET, KafkaError._DESTROY_BROKER,
}  # fmt: skip
"""Errors that pass when a leader is elected or a broker comes back."""


def _reason(error: Exception) -> str:
    """What is wrong with a property, without its value, which may be a secret."""
    cause = error.args[0] if error.args else None
    text = cause.str() if isinstance(cause, KafkaError) else str(error)
    if found := _INVALID.search(text):
        return f"invalid value of {found[1]}"
    return text

"""Several projectors of one log share its partitions: a consumer group says who has which, and nothing else.

    subscribe -> partitions assigned, and paused at once -> told to the projector          how far it is -> committed, as a lag

No record is ever read here, and no committed offset is ever read: a projector starts where its own file says. What is committed
is for those who watch the group's lag. Members are static, under their instance's names: one that is started again within
`SESSION_MS` gets its partitions back, and nobody else has begun with them meanwhile. The assignment is sticky, because whoever
gets a partition projects it from where its own file is, which may be the beginning.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from ctxlog.errors import CtxlogError, LogOpenError, StorageError, ViewsBusyError
from ctxlog.log.kafka.clients import DENIED, Clients
from ctxlog.log.kafka.log import KafkaLog

SESSION_MS = 10_000
"""How long a member may be silent, or away to be started again, before others get its partitions. (Brokers: at least 6 s.)"""

POLL_SECONDS = 0.2
"""How long one wait for news of the group lasts; far below max.poll.interval.ms, whatever the projector does meanwhile."""

COMMIT_SECONDS = 5.0
"""How often progress is committed at most."""

CLOSE_SECONDS_MAX = 5.0

MEMBER = {
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": str(SESSION_MS),
    "heartbeat.interval.ms": "2000",
    "enable.partition.eof": "false",
}

_DENIED = DENIED | {KafkaError.GROUP_AUTHORIZATION_FAILED}
_FENCED = frozenset({KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError._FATAL})
_LOGGER = logging.getLogger("ctxlog.kafka")


class Group:
    """This instance's membership in the group of a log's projectors. Polled by a thread of its own.

    Args:
        log: The log.
        instance: Name of the instance, which no other process has.

    Attributes:
        name: Name of the group.
    """

    def __init__(self, log: KafkaLog, instance: str) -> None:
        self.name = f"ctxlog-projector-{log.log_id}"
        self._instance = instance
        self._topic = log.location.topic
        self._clients = Clients(log.location, log.properties)
        self._consumer = self._clients.member({**MEMBER, "group.id": self.name, "group.instance.id": instance})
        self._lock = threading.Lock()
        self._assigned: frozenset[int] = frozenset()
        self._lost = False
        self._failure: CtxlogError | None = None
        self._next_offsets: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._commit_at = 0.0
        self._closing = False
        self._consumer.subscribe([self._topic], on_assign=self._gained, on_revoke=self._gave_up, on_lost=self._lost_all)
        self._thread = threading.Thread(target=self._poll, name="ctxlog-group", daemon=True)
        self._thread.start()

    def partitions(self) -> frozenset[int]:
        """The partitions that are this instance's. Those of a group that cannot be reached stay: to go on does no harm.

        Raises:
            StorageError: The brokers do not allow the group to this client.
            ViewsBusyError: Another process has joined under this instance's name.
        LogOpenError: The client cannot go on.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            return self._assigned

    def note(self, next_offsets: Mapping[int, int]) -> None:
        """Commit how far partitions are, soon."""
        with self._lock:
            self._next_offsets = dict(next_offsets)

    def close(self) -> None:
        """Commit a last time and stop. The partitions stay this instance's for `SESSION_MS`."""
        self._closing = True
        self._thread.join(CLOSE_SECONDS_MAX)

    def _poll(self) -> None:
        consumer = self._consumer
        try:
            while not self._closing and not isinstance(self._failure, ViewsBusyError | LogOpenError):
                try:
                    message = consumer.poll(POLL_SECONDS)
                    error = None if message is None else message.error()
                except KafkaException as raised:
                    error = raised.args[0]
                    time.sleep(POLL_SECONDS)
                if error is not None:
                    self._heard(error)
                if self._clients.refused is not None:
                    self._fail(StorageError(f"group {self.name!r}: the brokers refuse this client: {self._clients.refused}."))
                if time.monotonic() >= self._commit_at:
                    self._commit(consumer, wait=False)
            self._commit(consumer, wait=True)
        finally:
            with contextlib.suppress(KafkaException, RuntimeError):
                consumer.close()

    def _heard(self, error: KafkaError) -> None:
        """What the group says. All but these errors pass by themselves."""
        if error.code() == KafkaError._FATAL and "fenced" not in error.str():
            self._fail(LogOpenError(f"group {self.name!r}: {error.str()}; this projector ends. Start it again."))
        elif error.code() in _FENCED:
            self._fail(
                ViewsBusyError(
                    f"group {self.name!r}: another projector has the name {self._instance!r}; this one ends. Give each a name of "
                    "its own (--instance)."
                )
            )
        elif error.code() in _DENIED:
            self._fail(
                StorageError(
                    f"group {self.name!r}: the brokers do not allow it to this client ({error.str().rstrip('.')}); nothing is "
                    "projected. Give it the ACLs of a projector."
                )
            )
        else:
            _LOGGER.debug("group %s: %s", self.name, error.str())

    def _fail(self, error: CtxlogError) -> None:
        with self._lock:
            self._failure = error

    def _places(self, partitions: frozenset[int], offset: int = OFFSET_END) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition, offset) for partition in sorted(partitions)]

    def _gained(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """More partitions than before. At their ends and paused: nothing is fetched."""
        gained = frozenset(place.partition for place in partitions)
        consumer.incremental_assign(self._places(gained))
        if gained:
            consumer.pause(self._places(gained))
        with self._lock:
            self._assigned = gained if self._lost else self._assigned | gained
            self._lost, self._failure = False, None

    def _gave_up(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Others get these."""
        consumer.incremental_unassign(partitions)
        with self._lock:
            self._assigned -= {place.partition for place in partitions}

    def _lost_all(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group went on without this member, which goes on too until it is in again: to project what others do is no harm."""
        consumer.incremental_unassign(partitions)
        self._lost = True

    def _commit(self, consumer: Consumer, *, wait: bool) -> None:
        self._commit_at = time.monotonic() + COMMIT_SECONDS
        with self._lock:
            mine = {one: offset for one, offset in self._next_offsets.items() if one in self._assigned and not self._lost}
        news = [TopicPartition(self._topic, one, offset) for one, offset in mine.items() if self._committed.get(one) != offset]
        if not news:
            return
        try:
            if wait:
                consumer.commit(offsets=news, asynchronous=False)
            else:
                consumer.commit(offsets=news)
            self._committed |= {place.partition: place.offset for place in news}
        except (KafkaException, RuntimeError) as error:  # Nothing depends on it.
            _LOGGER.debug("group %s: nothing was committed: %s", self.name, type(error).__name__)

"""What `ctxlog doctor` says of a log on Kafka: brokers, topic, settings, genesis, records, clocks, consumer groups.

One check that fails does not stop the others, unless they could say nothing without it. Nothing is scanned: what a large topic
holds is told by its offsets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ctxlog.cli import text
from ctxlog.cli.doctor import Check
from ctxlog.cli.doctor_topic import listed, numbers, settings_checks
from ctxlog.errors import CtxlogError

if TYPE_CHECKING:
    from ctxlog.log.kafka.clients import Clients
    from ctxlog.log.kafka.location import Location
    from ctxlog.log.kafka.topic import Topic

CLOCK_TOLERANCE_MS = 1_000
"""Clocks that are kept by NTP differ by less."""


def kafka_checks(url: str, origin: str) -> Iterator[Check]:
    """Every check of a log on Kafka. `origin` says where its URL comes from."""
    from ctxlog.log.kafka.location import Location

    try:
        location = Location.parse(url)
    except CtxlogError as error:  # The URL is not shown: it may hold what it should not.
        yield Check("log", "failed", f"{error}; the URL is from {origin}", "Correct the URL.")
        return
    yield Check("log", "ok", f"{location.name}, from {origin}")
    visit = _Visit(location)
    try:
        yield from visit.everything()
    finally:
        visit.close()


class _Visit:
    """One look at a log. What one check finds out, the next ones go on with."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._clients: Clients | None = None
        self._away: set[int] = set()
        self._topic: Topic | None = None
        self._log_id: str | None = None
        self._ends: dict[int, int] = {}

    def close(self) -> None:
        if self._clients is not None:
            self._clients.close()

    def everything(self) -> Iterator[Check]:
        from ctxlog.cli.doctor_beside import index_checks, registry_checks

        yield from _guarded("client", self._client)
        yield from _guarded("brokers", self._brokers)
        clients = self._clients
        if clients is not None:
            yield from _guarded("topic", lambda: self._describe(clients))
        if clients is not None and self._topic is not None:
            topic = self._topic
            yield from _guarded("settings", lambda: settings_checks(self.location, clients, topic))
            unled = [number for number, part in enumerate(topic.parts) if part.leader is None or part.leader in self._away]
            if unled:
                yield Check("genesis", "failed", f"not looked at: no leader can be reached of {numbers(unled)}")
            else:
                yield from _guarded("genesis", lambda: self._genesis(clients, topic))
            led = [number for number in range(topic.partitions) if number not in unled]
            yield from _guarded("records", lambda: self._records(clients, led))
            yield from _guarded("clock", lambda: _clock(clients, led))
        yield from _guarded("index", lambda: index_checks(self.location, self._log_id, self._ends))
        yield from _guarded("registry", lambda: registry_checks(self.location, clients, self._ends))
        if clients is not None and self._ends:
            yield from _guarded("group", lambda: _groups(clients, self._ends))

    def _client(self) -> Iterator[Check]:
        from ctxlog.log.kafka import health

        self._clients = health.connect(self.location)
        said = f", properties of {self.location.properties}" if self.location.properties else ""
        yield Check("client", "ok", f"{health.client_version()}{said}")

    def _brokers(self) -> Iterator[Check]:
        from ctxlog.log.kafka import health

        addresses = self.location.servers.split(",")
        faults = {address: fault for address in addresses if (fault := health.unreachable(address)) is not None}
        if len(faults) == len(addresses):
            self._drop()
        for address, fault in faults.items():
            status = "failed" if self._clients is None else "warning"
            yield Check("brokers", status, f"{address}: {fault}", "Start the broker there, or correct the address in the URL.")
        if self._clients is None:
            return
        try:
            found = health.brokers(self._clients)
        except CtxlogError:
            self._drop()
            raise
        for broker in found:
            if broker.address in faults:  # Said above; the cluster does not know yet.
                self._away.add(broker.number)
            elif broker.address not in addresses and (fault := health.unreachable(broker.address)) is not None:
                self._away.add(broker.number)
                yield Check(
                    "brokers",
                    "failed",
                    f"broker {broker.number} sends clients to {broker.address}: {fault}",
                    "Correct its advertised.listeners, or the network between here and there.",
                )
        if all(broker.number in self._away for broker in found):
            self._drop()
            return
        shown = ", ".join(f"{broker.number} at {broker.address}" for broker in found)
        yield Check("brokers", "ok", f"{text.count(len(found), 'broker')}: {shown}")

    def _drop(self) -> None:
        """Ask the brokers nothing more."""
        if self._clients is not None:
            self._clients.close()
        self._clients = None

    def _describe(self, clients: Clients) -> Iterator[Check]:
        from ctxlog.log.kafka.topic import describe

        name = self.location.topic
        self._topic = found = describe(clients)
        if found is None:
            yield Check("topic", "failed", f"there is no topic {name}", "`ctxlog init` creates it; or correct topic= in the URL.")
            return
        replicas = text.count(min(len(part.replicas) for part in found.parts), "replica")
        counts = f"{text.count(found.partitions, 'partition')}, {replicas}"
        yield Check("topic", "ok", f"{name}, id {found.topic_id}: {counts}")
        if found.leaderless:
            held = sorted({number for partition in found.leaderless for number in found.parts[partition].replicas})
            yield Check(
                "topic",
                "failed",
                f"no broker leads {numbers(found.leaderless)}: nothing there can be read or appended",
                f"Start one of the brokers that hold {'it' if len(found.leaderless) == 1 else 'them'}: {listed(held)}.",
            )

    def _genesis(self, clients: Clients, topic: Topic) -> Iterator[Check]:
        from ctxlog.log.kafka.topic import beginning

        found = beginning(clients, topic)
        if found.genesis is not None:
            self._log_id = found.genesis.data["log_id"]
        if found.empty:
            yield Check("genesis", "failed", "; ".join(found.faults), "`ctxlog init` makes the topic a log.")
        elif found.faults:
            advice = (
                "Restore the topic that the log was made in, or a copy of it; name the right one with topic= in the URL."
                if found.changed
                else "Name a topic of its own with topic= in the URL, or restore this one from a copy."
            )
            for number, fault in enumerate(found.faults, 1):
                yield Check("genesis", "failed", fault, advice if number == len(found.faults) else "")
        else:
            yield Check("genesis", "ok", f"log {self._log_id}, the same in {text.count(topic.partitions, 'partition')}")

    def _records(self, clients: Clients, partitions: Sequence[int]) -> Iterator[Check]:
        from ctxlog.log.kafka.topic import bounds

        found = {partition: bounds(clients, partition) for partition in partitions}
        self._ends = {partition: end for partition, (_, end) in found.items()}
        if found:
            total = sum(end - first for first, end in found.values())
            fullest = max(found, key=lambda partition: found[partition].end)
            yield Check(
                "records",
                "ok",
                f"{text.count(total, 'record')} at most, by offsets; the fullest partition is {fullest}, with offsets "
                f"{found[fullest].first:,} to {found[fullest].end:,}",
            )


def _guarded(check: str, questions: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """What is asked; where that fails, it is a failed check, and the next one follows."""
    try:
        yield from questions()
    except CtxlogError as error:
        yield Check(check, "failed", str(error))


def now_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000


def _clock(clients: Clients, partitions: Sequence[int]) -> Iterator[Check]:
    from ctxlog.log.kafka.health import newest

    found = newest(clients, partitions)
    if found is None:
        return
    old = now_ms() - found.recorded_at
    if old < -CLOCK_TOLERANCE_MS:
        yield Check(
            "clock",
            "warning",
            f"record {found.position} is of {text.clock(found.recorded_at)}, {_seconds(-old)} in the future by this machine's "
            "clock: that is behind a broker's, or was when the record came",
            "Set the clocks by NTP; which one is wrong cannot be seen from here. Points as `time:…` go by the brokers' clocks.",
        )
    else:
        yield Check(
            "clock",
            "ok",
            f"the latest record, {found.position}, is {_seconds(max(old, 0))} old by this machine's clock: a broker's was behind "
            "by that at most (how far ahead cannot be seen by reading)",
        )


def _groups(clients: Clients, ends: dict[int, int]) -> Iterator[Check]:
    from ctxlog.log.kafka.health import groups

    found, unasked = groups(clients, len(ends))
    for name, offsets in found:
        lags = {partition: ends[partition] - offset for partition, offset in offsets.items() if partition in ends}
        ahead = [partition for partition, lag in lags.items() if lag < 0]
        if ahead:
            yield Check(
                "group",
                "warning",
                f"{name}: its offsets are beyond the end of {numbers(ahead)}: they are those of another topic of this name",
                "Reset the group's offsets with kafka-consumer-groups.",
            )
        else:
            yield Check("group", "ok", f"{name}: {lag_of(lags)}")
    if unasked:
        yield Check("group", "note", f"{text.count(unasked, 'more group')} of the cluster not asked")


def lag_of(lags: dict[int, int]) -> str:
    """How many events somebody is behind, in all and by partition."""
    behind = sorted(((lag, partition) for partition, lag in lags.items() if lag > 0), key=lambda one: (-one[0], one[1]))
    parts = [f"partition {partition}: {lag:,}" for lag, partition in behind]
    return f"lag_events {sum(lag for lag, _ in behind):,}" + (f" ({listed(parts)})" if parts else "")


def _seconds(milliseconds: int) -> str:
    """A length of time for people."""
    seconds = milliseconds / 1000
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s"

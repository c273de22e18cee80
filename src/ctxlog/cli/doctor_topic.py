"""What `ctxlog doctor` says of a topic's settings and replicas: what is wrong, why that matters, and what mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ctxlog.cli.doctor import Check

if TYPE_CHECKING:
    from ctxlog.log.kafka.clients import Clients
    from ctxlog.log.kafka.location import Location
    from ctxlog.log.kafka.topic import Topic

SHOWN_MAX = 8
"""Partitions or schemas that are named; of more, the first ones are."""

_WHY = {
    "cleanup.policy": "compaction takes records away",
    "message.timestamp.type": "a log's times are the brokers'",
    "retention.ms": "records that are older are deleted",
    "retention.bytes": "the oldest records are deleted",
    "max.message.bytes": "records that ctxlog takes would be refused",
}


def settings_checks(location: Location, clients: Clients, topic: Topic) -> Iterator[Check]:
    """The settings without which a topic is no log, then those that decide what is lost with a broker, and its replicas."""
    from ctxlog.log.kafka.topic import faults, settings

    found = settings(clients)
    faulty = list(faults(found))
    for fault in faulty:
        yield Check("settings", "failed", f"{fault}: {_WHY[fault.setting]}", _command(location, fault.setting, fault.expected))
    if not faulty:
        yield Check("settings", "ok", ", ".join(f"{name}={found[name]}" for name in _WHY))
    least = int(found.get("min.insync.replicas", "1"))
    replicas = min(len(part.replicas) for part in topic.parts)
    yield from _in_sync(topic, least)
    if replicas == 1:
        yield Check(
            "replicas",
            "warning",
            "each record is on one broker only: a disk that is lost takes it along",
            "On three brokers or more: `ctxlog init` a topic there (3 replicas), and `ctxlog copy` this log into it.",
        )
    elif least == 1:
        yield Check(
            "replicas",
            "warning",
            "min.insync.replicas is 1: an append can be acknowledged that one broker has alone, and be lost with it",
            _command(location, "min.insync.replicas", str(max(2, replicas - 1))),
        )
    if found.get("unclean.leader.election.enable") == "true":
        yield Check(
            "replicas",
            "warning",
            "unclean.leader.election.enable is true: a broker that lacks the last records may lead, and they are lost",
            _command(location, "unclean.leader.election.enable", "false"),
        )


def _in_sync(topic: Topic, least: int) -> Iterator[Check]:
    """Whether replicas are behind or away."""
    short = [number for number, part in enumerate(topic.parts) if part.leader is not None and len(part.in_sync) < least]
    behind = [number for number, part in enumerate(topic.parts) if set(part.in_sync) < set(part.replicas)]
    missing = sorted({one for number in behind for one in set(topic.parts[number].replicas) - set(topic.parts[number].in_sync)})
    advice = f"Start broker {listed(missing)}, or see why it lags behind." if missing else ""
    if short:
        yield Check(
            "replicas",
            "failed",
            f"{numbers(short)}: fewer replicas in sync than min.insync.replicas ({least}): appends there fail",
            advice or "Give the topic more replicas: kafka-reassign-partitions.",
        )
    if rest := [number for number in behind if number not in short]:
        yield Check("replicas", "warning", f"{numbers(rest)}: not all replicas are in sync", advice)
    if not behind and not short:
        yield Check("replicas", "ok", f"all in sync, min.insync.replicas={least}")


def _command(location: Location, setting: str, value: str) -> str:
    """The command line of Kafka's own tool that sets a setting of the topic."""
    client = " --command-config FILE" if location.properties else ""
    return (
        f"kafka-configs --bootstrap-server {location.servers}{client} --alter --entity-type topics "
        f"--entity-name {location.topic} --add-config {setting}={value}"
    )


def numbers(partitions: Sequence[int]) -> str:
    """`partition 3`, `partitions 1, 2, 3`."""
    return f"partition{'s' if len(partitions) > 1 else ''} {listed(partitions)}"


def listed(items: Sequence[object]) -> str:
    """Some items, and how many more there are."""
    more = f" and {len(items) - SHOWN_MAX} more" if len(items) > SHOWN_MAX else ""
    return ", ".join(map(str, items[:SHOWN_MAX])) + more

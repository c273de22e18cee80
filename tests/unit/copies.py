"""Logs to copy, copies that are broken off, and what must be equal between a log and its copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.codec.control import encode_control, schema_published
from ctxlog.codec.framing import frame_confluent
from ctxlog.codec.schemas import shipped
from ctxlog.errors import StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.events import FactSet
from ctxlog.model.points import AtVersion, Latest
from ctxlog.model.records import CONTROL_KEY, NewRecord, Placed, Record
from ctxlog.replay.copying import copy_log
from ctxlog.replay.replayer import Replayer
from writing import Wrapped, foreign, group, publish, raw

STREAMS = ("a/1", "a/2", "b", "shared/x", "fork")
T0 = 1_760_000_000_000


def source_log(partitions: int = 3) -> MemoryLog:
    """A log with something of everything, in memory."""
    now = iter(range(T0, T0 + 1_000_000, 1000))
    backend = MemoryLog(partitions, clock=lambda: next(now), offset_step=2)
    fill(backend)
    return backend


def fill(backend: EventLog) -> None:
    """Groups, rejected records, a fork, another release's type, both framings, and records that nobody can read."""
    log, partitions = ContextLog(backend), backend.partitions
    for number in range(8):
        for name in STREAMS[:4]:
            log.context(name).add_message("user", f"{name} {number}")
    log.context("a/1").append([FactSet(key=key, value="1") for key in "xyz"])
    log.context("a/1").fork("fork").add_message("user", "in the fork")
    publish(backend)
    backend.append([raw(backend, "b", "FactSet", "dup"), raw(backend, "b", "FactSet", "dup")])
    backend.append([raw(backend, "b", "FactSet", "open", append=group("open", 0, 2))])
    backend.append(foreign(backend, "b", "org.example.Note", "n"))
    schema = shipped("ctxlog.FactSet")
    record = raw(backend, "b", "FactSet", "confluent", key="c")
    backend.append([encode_control(record.partition, schema_published(backend.log_id, schema, 7))])
    backend.append([record._replace(value=frame_confluent(7, record.value[10:]))])
    backend.append([NewRecord(0, b"b", b"garbage"), NewRecord(0, CONTROL_KEY, b"garbage"), record._replace(key=b"a/1")])
    if partitions > 1:
        backend.append([record._replace(partition=(record.partition + 1) % partitions)])


def told(log: EventLog, streams: Sequence[str] = STREAMS) -> dict[str, Any]:
    """All that must be equal: every version's state, head and time, the anomalies, and what became of each record."""
    replayer = Replayer(log)
    found: dict[str, Any] = {}
    for name in streams:
        last = replayer.replay(name, Latest())
        states = [replayer.replay(name, AtVersion(version)) for version in range(last.state.version + 1)]
        found[name] = [
            (one.state.to_dict(), one.manifest.chain_head, one.manifest.state_digest, one.manifest.recorded_at) for one in states
        ]
        found[name].append(last.anomalies)
        entries = ContextLog(log).context(name).history()
        found[name].append([(e.outcome, e.version, e.meta, e.payload, e.time) for e in entries if e.outcome != "undecodable"])
    return found


def without_misplaced(found: dict[str, Any]) -> dict[str, Any]:
    return {name: [*rest, [row for row in rows if row[0] != "misplaced"]] for name, (*rest, rows) in found.items()}


def without_rejected(found: dict[str, Any]) -> dict[str, Any]:
    return {name: [*rest, [row for row in rows if row[0] in ("accepted", "open")]] for name, (*rest, rows) in found.items()}


def events_of(log: Any) -> list[Record]:
    return [
        record
        for partition in range(log.partitions)
        for record in log.read(partition, 0, log.bounds(partition).end)
        if record.key != CONTROL_KEY
    ]


class Breaks(Wrapped):
    """Fails at the n-th append, after the first records of it were written."""

    def __init__(self, log: MemoryLog, appends: int, written: int) -> None:
        super().__init__(log)
        self.left, self.written = appends, written

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        if self.left == 0:
            self.inner.append(records[: self.written])
            raise StorageError("the disk is full")
        self.left -= 1
        return self.inner.append(records)


def stopped_copy(partitions: int = 2) -> tuple[MemoryLog, MemoryLog]:
    """A source, and a copy of it that was stopped after some records."""
    source, target = source_log(), MemoryLog(partitions)
    with pytest.raises(StorageError):
        copy_log(source, Breaks(target, 9, 1))
    assert 0 < len(events_of(target)) < len(events_of(source)) / 2
    return source, target

"""Events that are read together are those that every other reader decodes, one by one, and all others are left to it."""

from __future__ import annotations

import pytest

from ctxlog import ContextLog
from ctxlog.codec.partition import PartitionContext
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import CONTROL_KEY, EventRecord
from ctxlog.projection import columnar
from ctxlog.projection.columnar import read_groups
from ctxlog.projection.streams import forget_texts
from ctxlog.replay.copying import copy_log
from unit.copies import source_log, stopped_copy
from writing import raw


def source(partitions: int) -> MemoryLog:
    return source_log(partitions)


def conditions() -> MemoryLog:
    """Every group of meta that may be null."""
    log = MemoryLog()
    context = ContextLog(log).context("a/1")
    context.add_message("user", "1", expected_version=0, causation_id="cause")
    context.set_fact("limit", 1, expected_targets={"fact:limit": 0}, expected_head=context.chain_head, correlation_id="all")
    context.add_tool_call("pay", {"order": 1})
    log.append([raw(log, "a/1", "FactSet", "private", privacy={"data_subjects": ["one"], "sealed": []})])
    return log


def copy(partitions: int) -> MemoryLog:
    target = MemoryLog(partitions)
    copy_log(source_log(), target)
    return target


def written_into_a_copy() -> MemoryLog:
    """Records without origin while a copy is under way are misplaced."""
    _, target = stopped_copy()
    target.append([raw(target, "a/1", "FactSet", f"in between {number}") for number in range(3)])
    return target


LOGS = {
    "one partition": lambda: source(1),
    "three partitions": lambda: source(3),
    "conditions": conditions,
    "copy": lambda: copy(2),
    "written into a copy": written_into_a_copy,
}


def differences(log: EventLog) -> tuple[int, list[str]]:
    """How many events were read together, and where they are not what `decode` gives."""
    read, wrong = 0, []
    for partition in range(log.partitions):
        context = PartitionContext(partition)
        records = list(log.read(partition, 0, log.bounds(partition).end))
        for record in records:
            if record.key == CONTROL_KEY:
                context.take(record)
        for group in read_groups(context, records):
            assert group.members.num_rows == len(group.events) == len(group.places)
            for place, event, row in zip(group.places, group.events, group.members.to_pylist(), strict=True):
                read += 1
                expected = context.decode(records[place])
                if not isinstance(expected, EventRecord):
                    wrong.append(f"{records[place].offset}: {expected.reason}")
                    continue
                whole = expected.meta | expected.payload
                forget_texts(expected)
                meta = {name: expected.meta[name] for name in event.meta} | {"occurred_at": None}
                payload = {name: expected.payload[name] for name in event.payload}
                if event != expected._replace(meta=meta, payload=payload):
                    wrong.append(f"{event} is not {expected}")
                texts = {name: value for name, value in whole.items() if isinstance(value, str)}
                if {name: row[name] for name in texts if name not in ("stream_id", "outcome")} != {
                    name: value for name, value in texts.items() if name not in ("stream_id", "outcome")
                }:
                    wrong.append(f"{row} is not {whole}")
    return read, wrong


@pytest.mark.parametrize("name", LOGS)
def test_events_read_together_are_those_decoded_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "RECORDS_MIN", 1)
    monkeypatch.setattr("ctxlog.replay.copying.BATCH_RECORDS", 3)
    read, wrong = differences(LOGS[name]())
    assert wrong == []
    assert read > 2


def test_a_text_that_is_no_utf_8_leaves_its_neighbours_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "RECORDS_MIN", 1)
    log = source_log(1)
    broken = raw(log, "a/1", "FactSet", "broken", key="kkkk")
    log.append([broken._replace(value=broken.value.replace(b"kkkk", b"\xff\xfe\xfd\xfc"))])
    _, wrong = differences(log)
    assert wrong == []

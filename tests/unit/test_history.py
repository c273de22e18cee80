"""The history of a stream: every record once, with what became of it, as far as the log was read."""

from __future__ import annotations

import hashlib
import json

import pytest
from fastavro.schema import to_parsing_canonical_form

import oracle
from ctxlog import ContextLog
from ctxlog.codec.schemas import shipped
from ctxlog.log.memory import MemoryLog
from ctxlog.model.records import NewRecord
from ctxlog.replay.history import Historian, history
from writing import expecting, group, publish, raw


@pytest.fixture
def log() -> ContextLog:
    now = iter(range(1000, 9000))
    backend = MemoryLog(clock=lambda: next(now), offset_step=3)
    publish(backend)
    return ContextLog(backend)


def told(log: ContextLog) -> list[tuple[str, str, int | None]]:
    return [(entry.meta.get("event_id", ""), entry.outcome, entry.version) for entry in log.context("s").history()]


def test_each_record_is_told_once_where_it_was_decided_and_open_ones_last(log: ContextLog) -> None:
    backend = log.log
    backend.append(
        [
            raw(backend, "s", "FactSet", "open", append=group("open", 0, 3)),
            raw(backend, "s", "FactSet", "g", append=group("g", 0, 2)),
            raw(backend, "s", "FactSet", "one"),
            raw(backend, "s", "FactSet", "one"),
            raw(backend, "s", "FactSet", "late", precondition=expecting(expected_version=0)),
            raw(backend, "s", "FactSet", "bad", append=group("bad", 5, 2)),
            NewRecord(0, b"s", b"garbage"),
            raw(backend, "t", "FactSet", "foreign")._replace(key=b"s"),
            raw(backend, "s", "FactSet", "g2", append=group("g", 1, 2)),
        ]
    )
    assert told(log) == [
        ("one", "accepted", 1),
        ("one", "duplicate", None),
        ("late", "conflict", None),
        ("bad", "malformed", None),
        ("", "undecodable", None),
        ("foreign", "misplaced", None),
        ("g", "accepted", 2),
        ("g2", "accepted", 3),
        ("open", "open", None),
    ]


def test_an_entry_says_where_the_record_stands_and_where_and_when_it_was_decided(log: ContextLog) -> None:
    backend = log.log
    first = backend.append([raw(backend, "s", "FactSet", "g", append=group("g", 0, 2))])[0]
    second = backend.append([raw(backend, "s", "FactSet", "g2", append=group("g", 1, 2))])[0]
    one, two = log.context("s").history()
    assert (one.offset, one.effect_offset, one.time) == (first.position.offset, second.position.offset, second.recorded_at)
    assert (two.offset, two.effect_offset) == (second.position.offset, second.position.offset)
    assert two.chain_head == log.context("s").chain_head
    assert one.chain_head == log.context("s").replay(1).manifest.chain_head
    assert one.to_dict()["payload"] == {"key": "k", "value": "1", "valid_from": None, "valid_to": None, "expires_at": None}


def test_a_conflict_of_a_group_names_the_completing_record(log: ContextLog) -> None:
    backend = log.log
    members = {"precondition": expecting(expected_version=7)}
    backend.append([raw(backend, "s", "FactSet", "g", append=group("g", 0, 2), **members)])
    last = backend.append([raw(backend, "s", "FactSet", "g2", append=group("g", 1, 2))])[0].position
    assert [(entry.outcome, entry.effect_offset) for entry in log.context("s").history()] == [("conflict", last.offset)] * 2


def test_an_append_that_is_pushed_out_is_told_as_abandoned_where_that_happened(log: ContextLog) -> None:
    backend = log.log
    for number in range(64):
        backend.append([raw(backend, "s", "FactSet", f"o{number}", append=group(f"o{number}", 0, 2))])
    assert {outcome for _, outcome, _ in told(log)} == {"open"}
    last = backend.append([raw(backend, "s", "FactSet", "o64", append=group("o64", 0, 2))])[0].position
    entries = list(log.context("s").history())
    assert (entries[0].meta["event_id"], entries[0].outcome, entries[0].effect_offset) == ("o0", "abandoned", last.offset)
    assert [entry.outcome for entry in entries[1:]] == ["open"] * 64
    backend.append([raw(backend, "s", "FactSet", "o0-b", append=group("o0", 1, 2))])
    assert told(log)[1] == ("o0-b", "duplicate", None)


def test_read_on_tells_what_is_new_and_nothing_twice(log: ContextLog) -> None:
    backend = log.log
    historian = Historian(log.replayer, "s")
    seen = []
    for number in range(6):
        kind = {"append": group("g0", number, 6)} if number != 3 else {}
        backend.append([raw(backend, "s", "FactSet", f"g{number}", **kind)])
        seen += [entry.meta["event_id"] for entry in historian.read_on(backend.bounds(0).end)]
    assert seen == ["g3"]
    assert [entry.meta["event_id"] for entry in historian.open()] == ["g0", "g1", "g2", "g4", "g5"]
    backend.append([raw(backend, "s", "FactSet", "g3b", append=group("g0", 3, 6))])
    assert [entry.version for entry in historian.read_on(backend.bounds(0).end)] == [2, 3, 4, 5, 6, 7]
    assert list(historian.open()) == []
    assert list(historian.read_on(backend.bounds(0).end)) == []


def test_a_history_below_an_offset_is_what_was_known_then(log: ContextLog) -> None:
    backend = log.log
    first = backend.append([raw(backend, "s", "FactSet", "g", append=group("g", 0, 2))])[0].position.offset
    backend.append([raw(backend, "s", "FactSet", "g2", append=group("g", 1, 2))])
    assert [entry.outcome for entry in history(log.replayer, "s", first)] == []
    assert [entry.outcome for entry in history(log.replayer, "s", first + 1)] == ["open"]
    assert [entry.outcome for entry in history(log.replayer, "s", first + 4)] == ["accepted", "accepted"]


def test_each_entry_has_the_digest_of_the_bytes_that_stand_there(log: ContextLog) -> None:
    """Evidence of what was written, counted or not; the oracle says it a second time."""
    backend = log.log
    accepted, repeated = [raw(backend, "s", "FactSet", "one")] * 2
    alien, held = (
        raw(backend, "t", "FactSet", "foreign")._replace(key=b"s"),
        raw(backend, "s", "FactSet", "o", append=group("o", 0, 2)),
    )
    backend.append([accepted, repeated, alien, NewRecord(0, b"s", b"garbage"), NewRecord(0, b"s", b""), held])
    schema = hashlib.sha256(to_parsing_canonical_form(json.loads(shipped("ctxlog.FactSet").text)).encode()).digest()
    decoded = [oracle.record_digest(schema, b"s", record.value[10:]) for record in (accepted, repeated, alien, held)]
    bytes_ = [oracle.undecodable_digest(b"s", value) for value in (b"garbage", b"")]
    entries = list(log.context("s").history())
    assert [entry.outcome for entry in entries] == ["accepted", "duplicate", "misplaced", "undecodable", "undecodable", "open"]
    assert [bytes.fromhex(entry.digest) for entry in entries] == [*decoded[:3], *bytes_, decoded[3]]

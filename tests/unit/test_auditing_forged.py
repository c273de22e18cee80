"""An audit finds every record of a read that is not what it must be, and says where."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ctxlog.audit.auditing import audit_decision
from ctxlog.audit.decisions import Wanted, find_decisions
from ctxlog.codec.avro import encode_event
from ctxlog.codec.framing import frame_single_object
from ctxlog.codec.schemas import shipped
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import PointError
from ctxlog.log.protocol import EventLog
from ctxlog.model.events import ContextRead, DecisionRecorded, StreamRead
from ctxlog.model.records import NewRecord
from unit.forging import forged, honest
from writing import Wrapped, foreign, meta_of


def test_a_read_that_is_recorded_again_as_it_was_verifies() -> None:
    """Otherwise the forgeries below would be found for another reason."""
    log, read, stream = honest()
    forged(log, read, stream)
    assert audit_decision(log.log, "forged").failed == ()


FORGERIES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "head": ({}, {"chain_head": "f" * 64}, "chain head"),
    "version below": ({}, {"version": 4}, "chain head"),
    "version above": ({}, {"version": 6}, "chain head"),
    "version that is not there": ({}, {"version": 7}, "replay"),
    "version 0": ({}, {"version": 0}, "chain head"),
    "another stream": ({}, {"stream_id": "refunds/none"}, "replay"),
    "digest": ({"selection_digest": "0" * 64}, {}, "selection digest"),
    "an id less": ({}, {"revealed": ["f1"]}, "selection digest"),
    "an id more": ({}, {"revealed": ["m1", "f1", "f3"]}, "selection digest"),
    "an unknown id": ({}, {"revealed": ["m1", "f1", "nobody"]}, "revealed ids are in that version"),
    "an id of later": ({}, {"revealed": ["m1", "f1", "m3"]}, "revealed ids are in that version"),
    "an id out of scope": ({}, {"revealed": ["m1", "m2", "f1"]}, "revealed ids were not to be kept back"),
    "an expired fact": ({}, {"revealed": ["m1", "f1", "f2"]}, "revealed ids were not to be kept back"),
    "an unknown id withheld": ({}, {"withheld": ["m2", "f2", "nobody"]}, "withheld ids"),
    "an id withheld for nothing": ({}, {"withheld": ["m2", "f2", "f3"]}, "withheld ids"),
    "an expired fact passed over": ({}, {"withheld": ["m2"]}, "facts asked for"),
    "other scopes": ({"selection": '{"scopes": ["internal"], "fact_prefixes": ["order."]}'}, {}, "revealed ids were not"),
    "no scopes": ({"selection": '{"fact_prefixes": ["order."]}'}, {}, "withheld ids"),
    "more facts asked for": ({"selection": '{"scopes": ["default"]}'}, {}, "facts asked for"),
    "all asked for": ({"selection": '{"all": true}'}, {}, "selection digest"),
    "no selection": ({"selection": "what you like"}, {}, "selection"),
    "a deep selection": ({"selection": "[" * 100_000}, {}, "selection"),
    "scopes that are none": ({"selection": '{"scopes": [[]]}'}, {}, "selection"),
    "judged before it expired": ({"judged_at": 4}, {}, "withheld ids"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_every_forgery_of_a_read_is_found_and_its_place_named(name: str) -> None:
    read_members, stream_members, said = FORGERIES[name]
    log, read, stream = honest()
    stream |= stream_members
    read_id = forged(log, read | read_members, stream)
    report = audit_decision(log.log, "forged")
    assert report.verdict.startswith("NOT VERIFIED: ")
    found = [check for check in report.failed if said in check.what]
    assert found, report.failed
    assert found[0].where == f"read {read_id} of {stream['stream_id']}@{stream['version']}"


def test_a_read_of_several_streams_has_no_digest_that_could_be_recomputed() -> None:
    log, read, stream = honest()
    forged(log, read, stream, stream)
    assert "one stream in a read" in audit_decision(log.log, "forged").verdict


def test_reads_and_calls_that_are_nowhere_are_named() -> None:
    log, read, stream = honest()
    receipts = log.context("decisions/forger")
    late = DecisionRecorded(decision_id="d", kind="k", reads=("r-none", "r-late"), tool_calls=("c-none",))
    receipts.append(late)
    receipts.append(ContextRead(**read, streams=(StreamRead(**stream),)), event_ids=["r-late"])
    failed = {(check.expected, check.found) for check in audit_decision(log.log, "d").failed}
    assert failed == {
        ("read r-none", "no such read in the log"),
        ("read r-late", "it behind the decision, at version 2"),
        ("call c-none", "no such call in the log"),
    }


def test_a_read_that_says_it_is_of_another_decision_is_named() -> None:
    log, read, stream = honest()
    read_id = forged(log, read | {"decision_id": "other"}, stream)
    assert (
        f"read {read_id}: the read is this decision's: expected forged, found other" in audit_decision(log.log, "forged").verdict
    )


def test_an_id_that_two_agents_recorded_is_refused_and_one_recorded_twice_with_other_content_is_not_verified() -> None:
    log, _, _ = honest()
    receipts = log.context("decisions/a")
    same = DecisionRecorded(decision_id="d", kind="k")
    for event in (same, same):
        receipts.append(event)
    report = audit_decision(log.log, "d")
    assert report.failed == ()
    assert "the same is recorded 2 times" in report.notes[0]
    receipts.append(DecisionRecorded(decision_id="d", kind="k", outcome="1"))
    assert "with other content at version 3 too" in audit_decision(log.log, "d").verdict
    log.context("decisions/b").append(same)
    with pytest.raises(PointError, match=r"'decisions/a', 'decisions/b'; nothing was audited"):
        audit_decision(log.log, "d")
    with pytest.raises(PointError, match="no such decision"):
        audit_decision(log.log, "e")


class Rewritten(Wrapped):
    """A log in which some bytes were written over."""

    def __init__(self, log: EventLog, old: bytes, new: bytes) -> None:
        super().__init__(log)
        self._old, self._new = old, new

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Any:
        for record in self.inner.read(partition, start, end, key=key):
            yield record._replace(value=record.value.replace(self._old, self._new))


def test_a_context_that_was_rewritten_is_found_by_the_chain_head_that_the_read_saw() -> None:
    log, read, stream = honest()
    forged(log, read, stream)
    report = audit_decision(Rewritten(log.log, b"129.9", b"729.9"), "forged")
    assert {check.what.split()[0] for check in report.failed} == {"chain", "selection"}
    assert "of refunds/1@5: chain head recomputed from the first record" in report.verdict


def test_what_a_newer_release_wrote_is_not_verified_and_says_what_to_install() -> None:
    log, read, stream = honest()
    backend = log.log
    backend.append(foreign(backend, "refunds/1", "ctxlog.Sealed", "s1"))
    head = [one.head.hex() for one in log.context("refunds/1").accepted()][-1]
    forged(log, read, stream | {"version": 7, "chain_head": head})
    assert "Install a newer ctxlog" in audit_decision(backend, "forged").verdict


def hostile(log: EventLog, kind: str, event_id: str, payload: dict[str, Any]) -> NewRecord:
    key = b"decisions/hostile"
    body = encode_event(f"ctxlog.{kind}", meta_of(key.decode(), event_id), payload)
    return NewRecord(partition_of(key, log.partitions), key, frame_single_object(shipped(f"ctxlog.{kind}").fingerprint, body))


@pytest.mark.parametrize("number", [-(2**63), -1, 2**53, 2**63 - 1])
@pytest.mark.parametrize("stream_id", ["refunds/1", "", "ctxlog:control", "decisions/hostile", "\u202e\x00"])
def test_a_hostile_read_is_not_verified_and_nothing_else_happens(number: int, stream_id: str) -> None:
    log, read, stream = honest()
    backend = log.log
    decision = {
        "decision_id": "d", "kind": "\x1b[2J", "reads": ["r", "r"], "model": None, "parameters": "{", "outcome": "[" * 1000,
        "rationale": None, "tool_calls": [""], "failed": True, "failure": None, "started_at": number, "ended_at": -number - 1,
    }  # fmt: skip
    streams = [stream | {"version": number, "stream_id": stream_id, "chain_head": ""}]
    backend.append([
        hostile(backend, "ContextRead", "r", read | {"streams": streams, "judged_at": number}),
        hostile(backend, "DecisionRecorded", "d", decision),
    ])  # fmt: skip
    report = audit_decision(backend, "d")
    assert report.failed
    assert [one.decision_id for one in find_decisions(log.replayer, Wanted(agent="hostile"))] == ["d"]


def test_names_without_measure_cost_neither_time_nor_room_in_a_report() -> None:
    log, _, _ = honest()
    names = [f"{number:x}" for number in range(30_000)]
    decision = {
        "decision_id": "d", "kind": "k", "reads": names, "model": None, "parameters": None, "outcome": None, "rationale": None,
        "tool_calls": [*names, "c" * 500_000], "failed": False, "failure": None, "started_at": None, "ended_at": None,
    }  # fmt: skip
    log.log.append([hostile(log.log, "DecisionRecorded", "d", decision)])
    before = time.process_time()
    report = audit_decision(log.log, "d")
    assert len(report.failed) == 60_001
    assert max(len(str(check)) for check in report.failed) < 1500
    assert time.process_time() - before < 10  # Seconds; compared one with another, they take minutes.

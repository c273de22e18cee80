"""The point `decision:ID`: the version that a recorded decision had read, or a refusal; never an answer about something else."""

from __future__ import annotations

from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.codec.avro import encode_event
from ctxlog.codec.framing import frame_single_object
from ctxlog.codec.schemas import shipped
from ctxlog.errors import IntegrityError, PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import ContextRead, DecisionRecorded, StreamRead
from ctxlog.model.records import NewRecord
from writing import meta_of


def filled(log: ContextLog) -> Context:
    """A context at version 5."""
    context = log.context("a/b")
    for number in range(5):
        context.set_fact("n", number)
    return context


def decide(
    log: ContextLog,
    reads: list[tuple[str, int]],
    decision_id: str,
    agent: str = "refunds",
    head: str | None = None,
) -> None:
    """Record a decision and its reads, with the chain heads that the log has, or with `head`."""
    receipts = log.context(f"decisions/{agent}")
    ids = []
    for stream_id, version in reads:
        seen = head or (log.context(stream_id).replay(version).state.chain_head if log.context(stream_id).version else "0" * 64)
        read = StreamRead(stream_id=stream_id, version=version, chain_head=seen)
        event = ContextRead(selection="{}", streams=(read,), judged_at=1, selection_digest="0" * 64)
        ids.append(receipts.append(event).event_id)
    receipts.append(DecisionRecorded(decision_id=decision_id, kind="refund", reads=tuple(ids)))


def test_a_decision_names_the_version_that_it_had_read(log: ContextLog) -> None:
    context = filled(log)
    decide(log, [("a/b", 3), ("a/b", 1), ("other", 9)], "d-1")
    decide(log, [("a/b", 4)], "d-2")
    decide(log, [("a/b", 2)], "d-3", agent="someone-else")
    found = {decision: context.replay(f"decision:{decision}").state.version for decision in ("d-1", "d-2", "d-3")}
    assert found == {"d-1": 3, "d-2": 4, "d-3": 2}


def test_a_decision_that_did_not_read_the_stream_is_no_point_of_it(log: ContextLog) -> None:
    filled(log)
    decide(log, [("other", 1)], "d-1")
    with pytest.raises(PointError, match="did not read"):
        log.context("a/b").replay("decision:d-1")


def test_a_decision_that_read_another_history_than_the_log_holds_is_not_replayed(log: ContextLog) -> None:
    """What was read is named by its chain head; a state of the same version would be presented as what the decision saw."""
    context = filled(log)
    decide(log, [("a/b", 3)], "d-1", head="f" * 64)
    with pytest.raises(IntegrityError, match=r"'a/b'@3: decision 'd-1' read chain head f{64}, .* restore"):
        context.replay("decision:d-1")
    decide(log, [("a/b", 0)], "d-2", head="f" * 64)
    with pytest.raises(IntegrityError, match="'a/b'@0"):
        context.replay("decision:d-2")
    decide(log, [("a/b", 0)], "d-3")
    assert context.replay("decision:d-3").state.version == 0


def test_reads_of_one_version_that_saw_two_histories_cannot_both_be_right(log: ContextLog) -> None:
    context = filled(log)
    heads = [context.replay(3).state.chain_head, "f" * 64]
    reads = tuple(StreamRead(stream_id="a/b", version=3, chain_head=head) for head in heads)
    receipts = log.context("decisions/refunds")
    event = ContextRead(selection="{}", streams=reads, judged_at=1, selection_digest="0" * 64)
    receipts.append(DecisionRecorded(decision_id="d-1", kind="refund", reads=(receipts.append(event).event_id,)))
    with pytest.raises(IntegrityError, match="f" * 64):
        context.replay("decision:d-1")


def test_an_id_that_two_agents_gave_their_decisions_is_refused_and_both_are_named(log: ContextLog) -> None:
    """An answer about the wrong decision would be worse than none."""
    context = filled(log)
    decide(log, [("a/b", 3)], "d-1", agent="one")
    decide(log, [("a/b", 2)], "d-1", agent="two")
    with pytest.raises(PointError, match="'decisions/one', 'decisions/two'"):
        context.replay("decision:d-1")


def test_the_first_decision_of_an_id_in_a_stream_is_the_one(log: ContextLog) -> None:
    context = filled(log)
    decide(log, [("a/b", 3)], "d-1")
    decide(log, [("a/b", 2)], "d-1")
    assert context.replay("decision:d-1").state.version == 3


def test_decisions_and_reads_that_are_anomalies_say_nothing() -> None:
    """A target that disagrees with the payload makes an event an anomaly: it has no effect, here either."""
    log = ContextLog(backend := MemoryLog())
    context = filled(log)
    head = context.replay(2).state.chain_head
    decide(log, [("a/b", 1)], "d-0")
    read: dict[str, Any] = {
        "selection": "{}", "judged_at": 1, "selection_digest": "0" * 64, "decision_id": None, "token_counter": None,
        "token_counter_version": None,
        "streams": [{"stream_id": "a/b", "version": 2, "chain_head": head, "revealed": [], "withheld": []}],
    }  # fmt: skip
    decision: dict[str, Any] = {
        "kind": "k", "reads": ["r"], "model": None, "parameters": None, "outcome": None, "rationale": None, "tool_calls": [],
        "failed": False, "failure": None, "started_at": None, "ended_at": None,
    }  # fmt: skip
    for kind, event_id, target, payload in (
        ("ContextRead", "r", "fact:x", read),
        ("DecisionRecorded", "d", None, {**decision, "decision_id": "d-1"}),
        ("DecisionRecorded", "e", "fact:x", {**decision, "decision_id": "d-2"}),
    ):
        body = encode_event(f"ctxlog.{kind}", meta_of("decisions/x", event_id, target=target), payload)
        value = frame_single_object(shipped(f"ctxlog.{kind}").fingerprint, body)
        backend.append([NewRecord(0, b"decisions/x", value)])
    with pytest.raises(PointError, match="did not read"):
        context.replay("decision:d-1")
    with pytest.raises(PointError, match="no such decision"):
        context.replay("decision:d-2")

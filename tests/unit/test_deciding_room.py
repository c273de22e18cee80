"""What a decision's record cannot hold is refused where it is set, read or begun, and never when all is done."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.client import deciding
from ctxlog.errors import InvalidInputError, RecordTooLargeError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import ToolCalled
from ctxlog.model.records import MAX_RECORD_BYTES

ROOM = MAX_RECORD_BYTES - deciding.OTHER_BYTES_MAX
"""Bytes of texts and ids that a record holds."""


@pytest.fixture
def log() -> ContextLog:
    return ContextLog(MemoryLog())


def recorded(log: ContextLog, agent: str = "refunds") -> list[dict[str, Any]]:
    """What the records of an agent's stream say, reads and decisions."""
    return [one.event.payload for one in log.context(f"decisions/{agent}").accepted()]


WRONG: list[tuple[str, Any, type[Exception]]] = [
    ("rationale", ["below the limit"], InvalidInputError),
    ("rationale", 5, InvalidInputError),
    ("rationale", "\ud83d", InvalidInputError),
    ("rationale", "x" * ROOM, RecordTooLargeError),
    ("outcome", {1, 2}, InvalidInputError),
    ("outcome", "é" * (ROOM // 2), RecordTooLargeError),
]


@pytest.mark.parametrize(("member", "value", "error"), WRONG)
def test_what_cannot_be_recorded_is_refused_where_it_is_set_and_what_was_done_is_recorded(
    log: ContextLog, member: str, value: Any, error: type[Exception]
) -> None:
    ctx = log.context("refunds/1")

    def decide() -> None:
        with log.decision("refund", agent="refunds") as decision:
            decision.read(ctx)
            ctx.add_tool_call("pay", {}, event_ids=["call"])
            setattr(decision, member, "before")
            setattr(decision, member, value)

    with pytest.raises(error) as raised:
        decide()
    assert not hasattr(raised.value, "__notes__")
    read, last = recorded(log)
    assert read["decision_id"] == last["decision_id"]
    assert (last["failure"], last["tool_calls"], len(last["reads"])) == (error.__name__, ["call"], 1)
    assert last[member] == ("before" if member == "rationale" else '"before"')


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"kind": "\ud83d"}, InvalidInputError),
        ({"model": "\ud83d"}, InvalidInputError),
        ({"kind": "x" * (ROOM + 1)}, RecordTooLargeError),
        ({"model": "x" * ROOM}, RecordTooLargeError),
        ({"parameters": {"text": "x" * ROOM}}, RecordTooLargeError),
    ],
)
def test_what_a_decision_is_begun_with_is_checked_before_it_begins(log: ContextLog, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="nothing was"):
        log.decision(**{"kind": "refund", "agent": "refunds", **wrong})
    assert recorded(log) == []


def test_texts_share_the_room_and_what_is_set_anew_gives_it_back(log: ContextLog) -> None:
    half = "x" * (ROOM // 2)
    with log.decision("k", agent="refunds") as decision:
        decision.outcome = half
        decision.rationale = half[:-10]
        decision.outcome = half[1:]
        with pytest.raises(RecordTooLargeError):
            decision.rationale = half
        decision.outcome = None
        decision.rationale = half
        decision.rationale = None
        decision.outcome = half
    (last,) = recorded(log)
    assert (json.loads(last["outcome"]), last["rationale"]) == (half, None)


@pytest.mark.parametrize("calls", [0, 1000])
def test_a_record_that_is_full_to_the_last_byte_is_written(log: ContextLog, calls: int) -> None:
    """With the longest of all that is not counted."""
    sync, agent, long = ContextLog(log.log, cloudevents=True), "a" * 245, "c" * 255
    ctx = sync.context("refunds/1")
    with sync.decision("outer", agent=agent, correlation_id=long), sync.decision("k", agent=agent) as decision:
        if calls:
            ctx.append_each([(ToolCalled(call_id=f"{number:0255}", name="f", arguments="{}"), {}) for number in range(calls)])
        decision.outcome = "x" * (ROOM - calls * (255 + deciding.ID_BYTES_MAX) - len('k""'))
        with pytest.raises(RecordTooLargeError):
            decision.rationale = "x"
        with pytest.raises(RecordTooLargeError):
            ctx.window()
        with pytest.raises(RecordTooLargeError):
            ctx.add_tool_call("pay", {})
        with pytest.raises(RecordTooLargeError):
            ctx.append_each([(ToolCalled(call_id="one", name="f", arguments="{}"), {})])
        ctx.add_message("assistant", "This begins no call.")
    inner, _ = recorded(sync, agent)
    assert (inner["kind"], len(inner["tool_calls"]), inner["failure"]) == ("k", calls, None)
    assert len(list(ctx.accepted())) == calls + 1  # What was refused had no effect.


def test_a_read_that_the_decision_cannot_name_is_refused_and_those_before_are_named(
    log: ContextLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "MAX_RECORD_BYTES", deciding.OTHER_BYTES_MAX + deciding.IDS_BYTES_MAX + 200)
    ctx = log.context("refunds/1")
    with log.decision("k", agent="refunds") as decision:
        decision.outcome = "x" * (deciding.IDS_BYTES_MAX + 50)
        ctx.window()
        decision.read(ctx)
        for _ in range(2):
            with pytest.raises(RecordTooLargeError):
                ctx.state  # noqa: B018 - not told once and then given without a note.
    *reads, last = recorded(log)
    assert (len(reads), len(last["reads"])) == (2, 2)


def test_a_read_whose_own_record_would_be_too_large_is_refused_and_in_nobodys_way(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    with log.decision("k", agent="refunds") as decision:
        with pytest.raises(RecordTooLargeError):
            decision.read(ctx, fact_prefixes=["x" * MAX_RECORD_BYTES])
        ctx.add_message("assistant", "done")
    assert [one["reads"] for one in recorded(log)] == [[]]


def test_after_its_end_nothing_is_set_any_more(log: ContextLog) -> None:
    with log.decision("k", agent="refunds") as decision:
        decision.outcome, decision.rationale = {}, "why"
        decision.outcome["refund"] = 5  # A copy: the outcome is what it was when it was set.
        assert decision.outcome == {}
    for member in ("outcome", "rationale"):
        with pytest.raises(InvalidInputError, match=f"{member} is set inside"):
            setattr(decision, member, "late")
    assert (decision.outcome, decision.rationale) == ({}, "why")
    (last,) = recorded(log)
    assert (last["outcome"], last["rationale"]) == ("{}", "why")

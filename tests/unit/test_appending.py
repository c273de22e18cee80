"""What an append writes, and what it comes to: the promises about writing as a caller meets them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.errors import (
    ConflictError,
    InvalidInputError,
)
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.outcomes import Acknowledged, Committed
from writing import expecting, group

HI = MessageAppended(role="user", content="hi")
SET = FactSet(key="limit", value="5")


def metas(context: Context) -> list[dict[str, Any]]:
    return [entry.meta for entry in context.history()]


# What is written


def test_each_method_writes_one_event_with_the_target_that_it_changes(log: ContextLog) -> None:
    context = log.context("refunds/case-1")
    message = context.add_message("user", "hello").event_id
    context.set_fact("limit", 5)
    context.remove_fact("limit")
    call = context.add_tool_call("pay", {"to": "x"}, message_id=message).event_id
    context.add_tool_result(call, "done")
    context.redact_message(message)
    context.close(reason="over")
    found = [(entry.type, entry.meta["target"], entry.outcome) for entry in context.history()]
    assert found == [
        ("ctxlog.MessageAppended", None, "accepted"),
        ("ctxlog.FactSet", "fact:limit", "accepted"),
        ("ctxlog.FactRemoved", "fact:limit", "accepted"),
        ("ctxlog.ToolCalled", f"call:{call}", "accepted"),
        ("ctxlog.ToolReturned", f"call:{call}", "accepted"),
        ("ctxlog.MessageRedacted", f"message:{message}", "accepted"),
        ("ctxlog.StreamClosed", None, "accepted"),
    ]
    assert context.replay().anomalies == ()


def test_a_plain_append_writes_no_group_no_precondition_and_no_trace(log: ContextLog) -> None:
    """Each absent group costs a byte; each present one costs every reader time."""
    context = log.context("refunds/case-1")
    context.add_message("user", "hello")
    (meta,) = metas(context)
    assert (meta["agent_id"], meta["actor"], meta["scope"]) == ("refunds", "agent:refunds", "default")
    assert [meta[name] for name in ("append", "precondition", "trace", "privacy", "target")] == [None] * 5


@pytest.mark.parametrize(
    ("stream_id", "agent", "actor"),
    [
        ("refunds/case-1", "refunds", "agent:refunds"),
        ("refunds", "refunds", "agent:refunds"),
        ("decisions/refunds", "refunds", "agent:refunds"),
        ("shared/plan", None, "system:ctxlog"),
    ],
)
def test_owner_and_actor_come_from_the_name_of_the_stream(log: ContextLog, stream_id: str, agent: str | None, actor: str) -> None:
    context = log.context(stream_id)
    context.add_message("user", "x")
    (meta,) = metas(context)
    assert (meta["agent_id"], meta["actor"]) == (agent, actor)


def test_owner_and_actor_that_are_given_are_written_and_an_option_beats_them(log: ContextLog) -> None:
    context = log.context("shared/plan", agent_id="planner", actor="person:ann")
    context.add_message("user", "x")
    context.add_message("user", "y", actor="tool:search")
    assert [(meta["agent_id"], meta["actor"]) for meta in metas(context)] == [
        ("planner", "person:ann"),
        ("planner", "tool:search"),
    ]


def test_options_are_written_into_meta(log: ContextLog) -> None:
    context = log.context("a/b")
    context.add_message(
        "user",
        "x",
        scope="private",
        occurred_at=datetime(2026, 11, 22, 14, 2, 0, 5, tzinfo=UTC),
        causation_id="cause",
        event_ids=["mine"],
    )
    context.add_message("user", "y", occurred_at=None, correlation_id="case")
    context.add_message("user", "z", occurred_at=-1)
    first, second, third = metas(context)
    assert (first["event_id"], first["scope"], first["occurred_at"]) == ("mine", "private", 1_795_356_120_000_005)
    assert first["trace"] == {"causation_id": "cause", "correlation_id": None}
    assert (second["occurred_at"], third["occurred_at"]) == (None, -1)
    assert second["trace"] == {"causation_id": None, "correlation_id": "case"}


def test_a_group_is_one_append_whose_id_is_that_of_its_first_event(log: ContextLog) -> None:
    context = log.context("a/b")
    done = context.append([HI, SET], expected_version=0, expected_targets={"fact:limit": 0})
    assert isinstance(done, Committed)
    assert done.version == 2
    first, second = metas(context)
    assert first["append"] == group(done.event_id, 0, 2)
    assert second["append"] == group(done.event_id, 1, 2)
    assert first["precondition"] == expecting(expected_version=0)
    assert second["precondition"] == expecting(expected_target_version=0)


# Outcomes


def test_an_append_without_precondition_is_acknowledged_and_one_with_a_precondition_is_committed(log: ContextLog) -> None:
    context = log.context("a/b")
    first = context.append(HI)
    assert isinstance(first, Acknowledged)
    second = context.append(HI, expected_version=1)
    assert isinstance(second, Committed)
    assert second.version == 2
    assert second.position.offset == first.position.offset + 1
    assert context.replay().manifest.position == second.position


def test_the_id_of_the_first_event_is_at_hand_from_either_outcome(log: ContextLog) -> None:
    context = log.context("a/b")
    assert context.append(HI, event_ids=["m1"]).event_id == "m1"
    assert context.append([HI, HI], event_ids=["m2", "m3"]).event_id == "m2"


@pytest.mark.parametrize("options", [{"expected_version": 0}, {"expected_version": 2}, {"expected_head": "0" * 64}])
def test_a_precondition_that_does_not_hold_is_a_conflict_that_says_where_the_log_is(
    log: ContextLog, options: dict[str, Any]
) -> None:
    context = log.context("a/b")
    context.append(HI)
    with pytest.raises(ConflictError) as caught:
        context.append([HI, SET], **options)
    assert caught.value.actual == 1
    assert caught.value.stream_id == "a/b"
    assert caught.value.position == "0@5", "where the last record of the group stands"
    assert context.version == 1
    assert context.state.facts == {}


def test_an_expected_head_holds_only_for_the_very_history_that_the_writer_saw(log: ContextLog) -> None:
    context = log.context("a/b")
    context.append(HI)
    head = context.chain_head
    assert context.append(HI, expected_head=head).version == 2  # type: ignore[union-attr]
    with pytest.raises(ConflictError):
        context.append(HI, expected_head=head)


def test_writers_of_different_targets_do_not_disturb_each_other(log: ContextLog) -> None:
    context = log.context("a/b")
    context.set_fact("limit", 5)
    context.set_fact("other", 1)
    context.set_fact("limit", 6, expected_targets={"fact:limit": 1})
    with pytest.raises(ConflictError, match="fact:limit at version 1, log is at 3"):
        context.set_fact("limit", 7, expected_targets={"fact:limit": 1})
    assert context.state.facts["limit"].value == "6"


def test_one_failed_precondition_of_a_group_leaves_nothing_of_it(log: ContextLog) -> None:
    context = log.context("a/b")
    context.set_fact("limit", 1)
    with pytest.raises(ConflictError):
        context.append([HI, FactSet(key="new", value="1"), SET], expected_targets={"fact:limit": 0})
    assert context.version == 1
    assert [entry.outcome for entry in context.history()] == ["accepted", "conflict", "conflict", "conflict"]


def test_the_same_ids_again_come_to_the_same_outcome_and_change_nothing(log: ContextLog) -> None:
    """A caller that died after its append can append again; the first copy decides."""
    context = log.context("a/b")
    context.append(HI)
    done = context.append([HI, SET], expected_version=1, event_ids=["x", "y"])
    context.append(HI)
    again = context.append([HI, SET], expected_version=1, event_ids=["x", "y"])
    assert again == done
    assert context.version == 4


def test_the_same_ids_again_after_a_conflict_are_a_conflict_again(log: ContextLog) -> None:
    """After a conflict a retry takes new ids: these were decided."""
    context = log.context("a/b")
    for _ in range(2):
        with pytest.raises(ConflictError):
            context.append(HI, expected_version=1, event_ids=["x"])
        context.append(HI)
    assert context.version == 2


def test_a_group_with_an_id_that_another_append_used_is_no_success(log: ContextLog) -> None:
    """The id that was accepted alone says nothing about the group."""
    context = log.context("a/b")
    context.append(HI, event_ids=["x"])
    for ids in (["x", "y"], ["z", "x"]):
        with pytest.raises(ConflictError):
            context.append([HI, SET], event_ids=ids)
    assert context.version == 1


def test_append_each_decides_each_event_on_its_own(log: ContextLog) -> None:
    context = log.context("a/b")
    context.append(HI, event_ids=["known"])
    done = context.append_each([(HI, {"event_ids": ["known"]}), (SET, {}), (HI, {"scope": "private"})])
    assert len(done.event_ids) == 3
    assert [entry.outcome for entry in context.history()] == ["accepted", "duplicate", "accepted", "accepted"]
    assert [entry.meta["append"] for entry in context.history()] == [None] * 4


def test_append_each_refuses_preconditions_and_nothing_at_all(log: ContextLog) -> None:
    context = log.context("a/b")
    with pytest.raises(InvalidInputError, match="no preconditions"):
        context.append_each([(HI, {}), (HI, {"expected_version": 0})])
    with pytest.raises(InvalidInputError, match="at least 1"):
        context.append_each([])
    assert log.matching() == []

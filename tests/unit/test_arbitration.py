"""Arbitration where generated histories seldom come: the limits of rules 1 at their edge, and redactions of results.

What histories do reach is compared with the oracle in test_core_against_oracle.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.core.arbitration import ABANDONED, APPEND_EVENTS_MAX, CONFLICT, OPEN_APPENDS_MAX, Arbiter, Verdict
from ctxlog.core.fold import StreamFold
from ctxlog.errors import PositionError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.records import EventRecord
from ctxlog.model.state import ContextState, Parent
from writing import expecting, group, meta_of


class Stream:
    """Offers events to an arbiter, at offsets 0, 1, 2, …"""

    def __init__(self, **limits: int) -> None:
        self.arbiter = Arbiter("s", **limits)
        self.offset = -1

    def offer(self, event_id: str, append: tuple[str, int, int] | None = None, **members: Any) -> Verdict:
        self.offset += 1
        meta = meta_of("s", event_id, append=group(*append) if append else None, **members)
        digest = event_id.encode().ljust(32, b".")[:32]
        return self.arbiter.offer(EventRecord(0, self.offset, 0, "x.Y", meta, {}, digest, 1, True))

    def decide(self, event_id: str, append: tuple[str, int, int] | None = None, **members: Any) -> str:
        """What becomes of the offered record itself, or of the append that it completes."""
        verdict = self.offer(event_id, append, **members)
        own = [one for one in (*verdict.accepted, *verdict.rejected) if one.event.meta["event_id"] == event_id]  # type: ignore[union-attr]
        return "held" if not own else getattr(own[0], "reason", "accepted")


# Abandoned appends


def test_the_65th_open_append_pushes_out_the_one_opened_earliest_and_no_other() -> None:
    stream = Stream()
    for number in range(OPEN_APPENDS_MAX):
        assert stream.offer(f"a{number}", (f"a{number}", 0, 3)) == Verdict()
    verdict = stream.offer("new", ("new", 0, 2))
    assert [(one.reason, one.offset, one.decided_at) for one in verdict.rejected] == [("abandoned", 0, 64)]
    assert len(stream.arbiter.open) == OPEN_APPENDS_MAX
    assert "a0" not in stream.arbiter.open
    assert stream.decide("late", ("a0", 1, 3)) == "duplicate"
    assert stream.decide("a1b", ("a1", 1, 3)) == "held"


def test_events_that_stand_alone_and_records_of_open_appends_push_out_nothing() -> None:
    stream = Stream(open_max=2)
    stream.offer("a", ("a", 0, 3))
    stream.offer("b", ("b", 0, 3))
    assert stream.decide("alone") == "accepted"
    assert stream.decide("one", ("one", 0, 1)) == "accepted"
    assert stream.decide("a1", ("a", 1, 3)) == "held"
    assert stream.decide("bad", ("c", 0, 2)) == "malformed"
    assert stream.decide("alone", ("c", 1, 2)) == "duplicate"
    assert list(stream.arbiter.open) == ["a", "b"]


def test_an_abandoned_append_decides_its_id_and_then_its_held_ids_in_index_order_whatever_came_first() -> None:
    """With room for three remembered ids, the order says which are forgotten."""
    stream = Stream(decided_max=3, open_max=1)
    for index in (3, 0, 2):
        stream.offer(f"e{index}", ("e0", index, 5))
    verdict = stream.offer("new", ("new", 0, 2))
    assert [one.event.meta["event_id"] for one in verdict.rejected] == ["e0", "e2", "e3"]  # type: ignore[union-attr]
    assert stream.arbiter.remembered() == [("e0", ABANDONED), ("e2", ABANDONED), ("e3", ABANDONED)]
    stream = Stream(decided_max=2, open_max=1)
    for index in (3, 1, 2):
        stream.offer(f"e{index}", ("e0", index, 5))
    stream.offer("new", ("new", 0, 2))
    assert stream.arbiter.remembered() == [("e2", ABANDONED), ("e3", ABANDONED)]
    assert stream.arbiter.forgotten == 2
    assert stream.decide("e1") == "accepted"


def test_a_record_that_opens_an_append_is_held_though_the_one_pushed_out_decided_its_id() -> None:
    """It was valid when it was read; as its id is decided by the time its append is judged, that one is a conflict."""
    stream = Stream(open_max=1)
    stream.offer("x", ("old", 1, 2))
    verdict = stream.offer("x", ("new", 1, 2))
    assert [one.reason for one in verdict.rejected] == ["abandoned"]
    assert stream.decide("new", ("new", 0, 2)) == "conflict"


def test_an_id_that_is_decided_keeps_its_place_and_its_outcome() -> None:
    stream = Stream(decided_max=3)
    stream.offer("a")
    stream.offer("b")
    stream.offer("g", ("g", 0, 2))
    assert stream.decide("a") == "duplicate"
    assert stream.decide("a", ("g", 1, 2)) == "duplicate"
    stream.offer("c")
    assert stream.arbiter.remembered() == [("a", 1), ("b", 2), ("c", 3)]
    stream.offer("d")
    assert stream.arbiter.remembered() == [("b", 2), ("c", 3), ("d", 4)]
    assert stream.decide("a") == "accepted"


# Groups


def test_an_append_has_up_to_1000_events() -> None:
    stream = Stream()
    for index in reversed(range(APPEND_EVENTS_MAX)):
        verdict = stream.offer(f"e{index}", ("e0", index, APPEND_EVENTS_MAX))
    assert [one.version for one in verdict.accepted] == list(range(1, APPEND_EVENTS_MAX + 1))
    assert [one.event.meta["event_id"] for one in verdict.accepted[:2]] == ["e0", "e1"]
    assert {one.offset for one in verdict.accepted} == {APPEND_EVENTS_MAX - 1}
    assert stream.decide("x0", ("x0", 0, APPEND_EVENTS_MAX + 1)) == "malformed"


MALFORMED = [
    (("g", -1, 2), {}),
    (("g", 2, 2), {}),
    (("g", 0, 0), {}),
    (("g", 0, 2), {}),
    (("g", 1, 2), {"precondition": expecting(expected_version=0)}),
    (("g", 1, 2), {"precondition": expecting(expected_head="x")}),
    (("g", 1, 2), {"precondition": expecting(expected_target_version=0)}),
    (None, {"precondition": expecting(expected_target_version=0)}),
]


@pytest.mark.parametrize(("append", "members"), MALFORMED)
def test_what_is_malformed_is_not_held_and_decides_nothing(append: tuple[str, int, int] | None, members: dict[str, Any]) -> None:
    stream = Stream()
    assert stream.decide("e", append, **members) == "malformed"
    assert (stream.arbiter.open, stream.arbiter.decided) == ({}, {})
    assert stream.decide("e") == "accepted"


def test_another_count_than_the_open_append_has_is_malformed_and_so_is_an_event_alone_with_its_id() -> None:
    stream = Stream()
    stream.offer("g1", ("g", 1, 2))
    assert stream.decide("g", ("g", 0, 3)) == "malformed"
    assert stream.decide("g") == "malformed"
    assert stream.decide("again", ("g", 1, 2)) == "duplicate"
    assert stream.decide("g", ("g", 0, 2)) == "accepted"


def test_preconditions_of_a_group_are_judged_against_the_state_before_it() -> None:
    stream = Stream()
    target = {"target": "fact:k"}
    stream.offer("g", ("g", 0, 2), **target, precondition=expecting(expected_version=1, expected_target_version=1))
    stream.offer("between", **target)
    verdict = stream.offer("g1", ("g", 1, 2), **target, precondition=expecting(expected_target_version=1))
    assert [one.version for one in verdict.accepted] == [2, 3]
    assert stream.arbiter.targets == {"fact:k": 3}


@pytest.mark.parametrize(
    "condition", [{"expected_version": 0}, {"expected_head": "0" * 64}, {"expected_target_version": 0}, {"expected_version": 2}]
)
def test_a_conflict_decides_the_ids_of_the_whole_append_and_changes_nothing_else(condition: dict[str, Any]) -> None:
    stream = Stream()
    stream.offer("first", target="fact:k")
    head = stream.arbiter.head
    stream.offer("g1", ("g", 1, 2), target="fact:k")
    verdict = stream.offer("g", ("g", 0, 2), target="fact:k", precondition=expecting(**condition))
    assert [(one.reason, one.offset, one.decided_at) for one in verdict.rejected] == [("conflict", 2, 2), ("conflict", 1, 2)]
    assert (stream.arbiter.version, stream.arbiter.head, stream.arbiter.targets) == (1, head, {"fact:k": 1})
    assert stream.arbiter.remembered()[1:] == [("g", CONFLICT), ("g1", CONFLICT)]


def test_an_id_that_stands_twice_in_a_group_makes_all_of_it_a_conflict() -> None:
    stream = Stream()
    stream.offer("g", ("g", 0, 2))
    assert stream.decide("g", ("g", 1, 2)) == "conflict"
    assert stream.arbiter.version == 0


def test_the_head_that_is_expected_is_compared_as_stored_text() -> None:
    stream = Stream()
    stream.offer("a")
    head = stream.arbiter.head.hex()
    assert stream.decide("b", precondition=expecting(expected_head=head.upper())) == "conflict"
    assert stream.decide("c", precondition=expecting(expected_head=head)) == "accepted"


# The fold


def test_a_record_that_is_repeated_or_out_of_order_is_refused_by_the_fold() -> None:
    """A fold never skips: the caller knows whether the log explains it, the fold cannot."""

    def no_parent(_: Parent) -> ContextState:
        raise AssertionError

    fold = StreamFold("s", parent_state=no_parent)
    event = EventRecord(0, 5, 0, "x.Y", meta_of("s", "e"), {}, b"." * 32, 1, True)
    fold.offer(event)
    for offset in (5, 4):
        with pytest.raises(PositionError, match=f"0@{offset} follows 0@5"):
            fold.offer(event._replace(offset=offset))
    assert fold.version == 1


@pytest.mark.parametrize("result", ["text", {"rows": [1]}])
def test_redacting_the_message_of_a_result_clears_the_result_of_the_call_too(result: Any) -> None:
    """Or the text would stay where nobody looks for it."""
    context = ContextLog(MemoryLog()).context("s")
    call = context.add_tool_call("f", {}).event_id
    message = context.add_tool_result(call, result).event_id
    context.redact_message(message)
    state = context.state
    settled = state.tool_calls[call]
    assert (settled.status, settled.result, settled.result_parts, settled.result_id) == ("returned", None, None, message)
    assert (state.messages[0].content, state.messages[0].parts) == (None, None)
    assert "rows" not in str(state.to_dict())


def test_redacting_a_message_that_only_names_a_call_leaves_its_result() -> None:
    """Here: the result of an attempt that failed before the one that counts."""
    from ctxlog.model.events import ToolCalled

    context = ContextLog(MemoryLog()).context("s")
    call = ToolCalled(call_id="c", name="f", arguments="{}", idempotency_key="k")
    context.append(call)
    first = context.add_tool_result("c", "failed", failed=True).event_id
    context.append(call)
    context.add_tool_result("c", "done")
    context.redact_message(first)
    assert context.state.tool_calls["c"].result == "done"
    assert [message.content for message in context.state.messages] == [None, "done"]

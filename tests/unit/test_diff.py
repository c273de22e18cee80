"""Differences between two states, against a naive model of them that knows nothing of the library's way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxlog import ContextLog
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import Event, FactRemoved, FactSet, MessageAppended, MessageRedacted, ToolCalled, ToolReturned
from ctxlog.model.state import ContextState, Fact, Lease, Message, ToolCall
from ctxlog.replay.diff import Diff, MessageChange, diff

EMPTY = ContextState("s", 0, "")


def message(id: str, content: str | None = "text", **members: Any) -> Message:
    defaults = {
        "role": "user", "parts": None, "name": None, "tool_calls": (), "tool_call_id": None, "scope": "default",
        "occurred_at": None, "redacted_by": None,
    }  # fmt: skip
    return Message(**{"id": id, "content": content, **defaults, **members})


def call(status: str = "open", **members: Any) -> ToolCall:
    defaults = {
        "name": "f", "arguments": "{}", "result": None, "result_parts": None, "result_id": None, "message_id": None,
        "source_id": None, "idempotency_key": None, "lease": None, "scope": "default",
    }  # fmt: skip
    return ToolCall(**{"status": status, **defaults, **members})


def fact(value: str = "1", **members: Any) -> Fact:
    defaults = {"scope": "default", "valid_from": None, "valid_to": None, "expires_at": None, "event_id": "e"}
    return Fact(**{"value": value, **defaults, **members})


def state(
    *messages: Message, stream_id: str = "s", facts: dict[str, Fact] | None = None, calls: dict[str, ToolCall] | None = None
) -> ContextState:
    return ContextState(stream_id, 1, "", messages=messages, facts=facts or {}, tool_calls=calls or {})


def facts_between(old: str, new: str) -> list[str]:
    return [change.change for change in diff(state(facts={"k": fact(old)}), state(facts={"k": fact(new, event_id="e2")})).facts]


def calls_between(old: ToolCall, new: ToolCall) -> list[str]:
    return [change.change for change in diff(state(calls={"c": old}), state(calls={"c": new})).tool_calls]


# Facts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"a":1}', '{ "a": 1 }'),
        ('{"a":1,"b":[true,null]}', '{"b": [true, null], "a": 1}'),
        ('"\\u00e9"', '"é"'),
        ("[1e400, NaN]", "[ 1e400,NaN ]"),
        ("9007199254740993", " 9007199254740993"),
        ("not JSON", "not JSON"),
    ],
)
def test_json_that_says_the_same_is_no_change_of_a_fact(old: str, new: str) -> None:
    assert facts_between(old, new) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1", "2"),
        ("9007199254740993", "9007199254740992"),
        ("1", "1.0"),
        ("1", '"1"'),
        ("1", "true"),
        ("null", "0"),
        ("[1,2]", "[2,1]"),
        ('{"a":1}', '{"a":1,"b":null}'),
        ("1", '["number","1"]'),
        ('{"a":1}', '{"a":["number","1"]}'),
        ('{"a":1}', '[["a",1]]'),
        ("[]", "{}"),
        ("text", '"text"'),
        ("[" * 100_000, "[" * 99_999),
    ],
    ids=lambda text: text[:20],
)
def test_json_that_says_something_else_is_a_change_of_a_fact(old: str, new: str) -> None:
    assert facts_between(old, new) == facts_between(new, old) == ["changed"]


@pytest.mark.parametrize("member", ["scope", "valid_from", "valid_to", "expires_at"])
def test_what_stands_beside_the_value_of_a_fact_counts_and_the_event_that_set_it_does_not(member: str) -> None:
    changed = fact(**{member: "x" if member == "scope" else 5})
    (change,) = diff(state(facts={"k": fact()}), state(facts={"k": changed})).facts
    assert (change.change, change.before, change.after) == ("changed", fact(), changed)
    assert not diff(state(facts={"k": fact()}), state(facts={"k": fact(event_id="other")}))


def test_facts_come_by_key() -> None:
    found = diff(state(facts={"b": fact(), "c": fact()}), state(facts={"c": fact("2"), "a": fact()}))
    assert [(change.change, change.key) for change in found.facts] == [("set", "a"), ("removed", "b"), ("changed", "c")]


# Calls


LEASE, LATER = Lease("e1", 5), Lease("e2", 9)
CALLS = [
    (call(), call("returned", result="r"), "returned", "reopened"),
    (call(lease=LEASE), call("returned", result="r"), "returned", "reopened"),
    (call(), call("failed", result="r"), "failed", "reopened"),
    (call(lease=LEASE), call(lease=LATER), "taken_over", "taken_over"),
    (call(), call(lease=LEASE), "taken_over", "changed"),
    (call("failed", result="r"), call(lease=LATER), "taken_over", "failed"),
    (call("failed", result="r"), call(), "reopened", "failed"),
    (call("failed", result="r"), call("returned", result="s"), "returned", "failed"),
    (call("returned", result="r"), call("returned"), "changed", "changed"),
    (call("returned", result_parts="[]"), call("returned"), "changed", "changed"),
    (call("returned", result="r", name="f"), call("returned", result="r", name="g"), "changed", "changed"),
    (call(arguments='{"a":1}'), call(arguments='{"a":2}'), "changed", "changed"),
]


@pytest.mark.parametrize(("old", "new", "forward", "backward"), CALLS, ids=[f"{n}-{case[2]}" for n, case in enumerate(CALLS)])
def test_each_way_in_which_a_call_changes_has_its_name(old: ToolCall, new: ToolCall, forward: str, backward: str) -> None:
    assert calls_between(old, new) == [forward]
    assert calls_between(new, old) == [backward]


def test_a_call_that_is_new_and_has_ended_is_called() -> None:
    (change,) = diff(state(), state(calls={"c": call("failed")})).tool_calls
    assert (change.change, change.before_id, change.after_id) == ("called", None, "c")
    (change,) = diff(state(calls={"c": call("failed")}), state()).tool_calls
    assert (change.change, change.before_id, change.after_id) == ("removed", "c", None)


# Messages, by id


def test_a_redaction_is_told_as_such_and_not_as_a_change_of_text() -> None:
    before, after = state(message("m")), state(message("m", None, redacted_by="e"))
    assert [(c.change, c.fields) for c in diff(before, after).messages] == [("redacted", ())]
    assert [(c.change, c.fields) for c in diff(after, before).messages] == [("restored", ())]


def test_a_message_that_asked_for_a_call_since_is_changed() -> None:
    (change,) = diff(state(message("m")), state(message("m", tool_calls=("c",)))).messages
    assert (change.change, change.fields) == ("changed", ("tool_calls",))


def test_closed_and_parent_are_told_where_they_differ() -> None:
    parent = ContextLog(MemoryLog()).context("p").fork("s").state.parent
    open_, closed = ContextState("s", 1, ""), ContextState("s", 2, "", closed=True, parent=parent)
    found = diff(open_, closed)
    assert (found.closed, found.parent) == ((False, True), (None, parent))
    assert found.to_dict()["closed"] == {"before": False, "after": True}
    assert (diff(closed, closed).closed, diff(closed, closed).parent) == (None, None)
    assert not diff(closed, closed)


# Histories, against a naive model


def naive(before: ContextState, after: ContextState) -> dict[str, Any]:
    """What changed, by looking at each id in turn."""
    old, new = ({m.id: m for m in side.messages} for side in (before, after))
    return {
        "removed": [m for m in old if m not in new],
        "added": [m for m in new if m not in old],
        "redacted": {m for m in old if m in new and old[m].redacted_by is None and new[m].redacted_by is not None},
        "restored": {m for m in old if m in new and old[m].redacted_by is not None and new[m].redacted_by is None},
        "asked": {m for m in old if m in new and old[m].tool_calls != new[m].tool_calls},
        "facts": {
            key: "set" if key not in before.facts else "removed" if key not in after.facts else "changed"
            for key in before.facts.keys() | after.facts.keys()
            if (json.loads(before.facts[key].value) if key in before.facts else None)
            != (json.loads(after.facts[key].value) if key in after.facts else None)
        },
        "calls": {
            key
            for key in before.tool_calls.keys() | after.tool_calls.keys()
            if before.tool_calls.get(key) != after.tool_calls.get(key)
        },
    }


def told(found: Diff) -> dict[str, Any]:
    by: dict[str, list[str]] = {name: [] for name in ("removed", "added", "redacted", "restored", "changed")}
    for change in found.messages:
        by[change.change].append((change.after or change.before).id)  # type: ignore[union-attr]
    return {
        "removed": by["removed"],
        "added": by["added"],
        "redacted": set(by["redacted"]),
        "restored": set(by["restored"]),
        "asked": set(by["changed"]),
        "facts": {change.key: change.change for change in found.facts},
        "calls": {change.after_id or change.before_id for change in found.tool_calls},
    }


MOVES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 3)), max_size=25)


def played(moves: list[tuple[int, int, int]]) -> list[ContextState]:
    """Every state of a stream that was written by chance."""
    log = ContextLog(MemoryLog())
    context = log.context("s")
    events: list[tuple[Event, Any]] = []
    for number, (kind, one, two) in enumerate(moves):
        event: Event
        match kind:
            case 0 | 1:
                event = MessageAppended(role="user", content=f"{number}")
            case 2:
                event = MessageRedacted(message_id=f"m{one * 3}")
            case 3:
                event = FactSet(key=f"k{one}", value=f"{two}")
            case 4:
                event = FactRemoved(key=f"k{one}")
            case 5:
                asks = f"m{two * 2}" if two else None
                event = ToolCalled(call_id=f"c{one}", name="f", arguments="{}", message_id=asks, idempotency_key="i")
            case _:
                event = ToolReturned(call_id=f"c{one}", failed=two > 1, content=f"{number}")
        events.append((event, {"event_ids": [f"m{number}"]}))
    if events:
        context.append_each(events)
    return [context.replay(version).state for version in range(len(moves) + 1)]


@given(MOVES, st.data())
def test_two_versions_of_a_stream_differ_as_the_naive_model_says_in_both_directions(
    moves: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    states = played(moves)
    one, two = (states[data.draw(st.integers(0, len(states) - 1))] for _ in "ab")
    for before, after in ((one, two), (two, one)):
        found = diff(before, after)
        assert found.aligned_by == "id"
        assert told(found) == naive(before, after)
        assert bool(found) == any(naive(before, after).values())
        json.dumps(found.to_dict())


def test_a_fork_and_its_parent_are_aligned_by_id() -> None:
    log = ContextLog(MemoryLog())
    parent = log.context("p")
    parent.add_message("user", "same")
    fork = parent.fork("q")
    parent.add_message("user", "parent's")
    fork.add_message("user", "fork's")
    found = diff(parent.state, fork.state)
    assert found.aligned_by == "id"
    assert [(c.change, (c.after or c.before).content) for c in found.messages] == [  # type: ignore[union-attr]
        ("removed", "parent's"),
        ("added", "fork's"),
    ]


# By content


def run(*texts: str, name: str) -> ContextState:
    return state(*(message(f"{name}{number}", text) for number, text in enumerate(texts)), stream_id=name)


TEXTS = st.lists(st.sampled_from("abc"), max_size=8)


@given(TEXTS, TEXTS)
def test_runs_that_share_no_ids_are_aligned_by_what_they_say(one: list[str], two: list[str]) -> None:
    """Whatever the alignment: what is not told stands in both, once and in the same order."""
    before, after = run(*one, name="x"), run(*two, name="y")
    found = diff(before, after)
    if before.messages or after.messages:
        assert found.aligned_by == "content"
    removed = {change.before.id for change in found.messages if change.change == "removed" and change.before}
    added = {change.after.id for change in found.messages if change.change == "added" and change.after}
    assert {change.change for change in found.messages} <= {"removed", "added"}
    kept = [m.content for m in before.messages if m.id not in removed]
    assert kept == [m.content for m in after.messages if m.id not in added]
    assert bool(found) == (one != two)
    assert len(kept) >= common_ends(one, two)


def common_ends(one: list[str], two: list[str]) -> int:
    """What both begin with, and what both end with beyond that."""
    head = 0
    while head < min(len(one), len(two)) and one[head] == two[head]:
        head += 1
    tail = 0
    while tail < min(len(one), len(two)) - head and one[-1 - tail] == two[-1 - tail]:
        tail += 1
    return head + tail


def test_parts_and_arguments_are_compared_without_json_noise() -> None:
    one = state(message("a", None, parts='[{"type":"text"}]', tool_calls=("c",)), calls={"c": call(arguments='{"a":1}')})
    two = state(
        message("b", None, parts='[ {"type": "text"} ]', tool_calls=("d",)),
        stream_id="t",
        calls={"d": call(arguments='{ "a": 1 }', source_id="x", message_id="b")},
    )
    assert not diff(one, two)


def test_messages_that_ask_for_other_calls_are_not_the_same() -> None:
    one = state(message("a", tool_calls=("c",)), calls={"c": call(arguments="1")})
    two = state(message("b", tool_calls=("d",)), stream_id="t", calls={"d": call(arguments="2")})
    found = diff(one, two)
    assert [change.change for change in found.messages] == ["removed", "added"]
    assert [change.change for change in found.tool_calls] == ["removed", "called"]


def test_a_call_that_ended_otherwise_is_told_by_both_ids() -> None:
    one = state(calls={"c": call("returned", result="1", result_id="x")})
    two = state(calls={"d": call("returned", result="2", result_id="y")}, stream_id="t")
    (change,) = diff(one, two).tool_calls
    assert (change.change, change.before_id, change.after_id) == ("changed", "c", "d")
    three = state(calls={"d": call("failed", result="1")}, stream_id="t")
    assert [change.change for change in diff(one, three).tool_calls] == ["failed"]


def test_a_message_in_another_scope_is_the_same_message_changed() -> None:
    one, two = state(message("a", parts="[1]")), state(message("b", parts="[ 1]", scope="private"), stream_id="t")
    assert diff(one, two).messages == (MessageChange("changed", one.messages[0], two.messages[0], ("scope",)),)


def test_states_that_are_too_long_to_align_are_aligned_at_their_ends_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.replay.diff.ALIGNED_PAIRS_MAX", 3)
    found = diff(run("a", "x", "b", "b", "z", name="x"), run("a", "b", "b", "y", "z", name="y"))
    assert found.approximate
    assert [(c.change, (c.after or c.before).content) for c in found.messages] == [  # type: ignore[union-attr]
        ("removed", "x"), ("removed", "b"), ("removed", "b"), ("added", "b"), ("added", "b"), ("added", "y"),
    ]  # fmt: skip


def test_two_empty_contexts_do_not_differ() -> None:
    assert not diff(EMPTY, ContextState("other", 0, ""))

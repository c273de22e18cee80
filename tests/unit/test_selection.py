"""Selections: what of a state a model gets to see, and in which form."""

from __future__ import annotations

from typing import Any

import pytest

from ctxlog.errors import InvalidInputError
from ctxlog.model.selection import APPROXIMATE_TOKENS, REDACTED, Selection, TokenCounter, Window, select
from ctxlog.model.state import ContextState, Fact, Message, ToolCall

WORDS = TokenCounter("words", "2", lambda text: len(text.split()))


def message(id: str, content: str | None = None, **members: Any) -> Message:
    defaults = {
        "role": "user", "parts": None, "name": None, "tool_calls": (), "tool_call_id": None, "scope": "default",
        "occurred_at": None, "redacted_by": None,
    }  # fmt: skip
    return Message(**{"id": id, "content": content, **defaults, **members})


def call(message_id: str | None, name: str = "f", arguments: str = "{}") -> ToolCall:
    return ToolCall(name, arguments, "returned", "r", None, "r", message_id, None, None, None, "default")


def fact(**members: Any) -> Fact:
    return Fact(
        **{"value": "1", "scope": "default", "valid_from": None, "valid_to": None, "expires_at": None, **members}, event_id="e"
    )


STATE = ContextState(
    "s",
    7,
    "ab" * 32,
    messages=(
        message("m1", "one two"),
        message("m2", None, role="assistant", tool_calls=("c1", "c2")),
        message("m3", "three", role="tool", tool_call_id="c1"),
        message("m4", "four", role="tool", tool_call_id="c2", scope="private"),
        message("m5", "five five five", scope="private"),
        message("m6", "six", role="tool", tool_call_id="c3"),
    ),
    facts={
        "a.x": fact(),
        "a.y": fact(scope="private"),
        "b": fact(expires_at=100),
    },
    tool_calls={"c1": call("m2", "look up", '"x y z"'), "c2": call("m2"), "c3": call(None)},
)


def shown(**asked: Any) -> list[str]:
    return [one.id for one in window(**asked).messages]


def window(**asked: Any) -> Window:
    counter = asked.pop("counter", WORDS)
    return select(STATE, Selection(**asked), judged_at=asked.pop("judged_at", 50), counter=counter)


def test_without_limits_everything_is_selected() -> None:
    everything = window()
    assert everything.messages == STATE.messages
    assert everything.facts == STATE.facts
    assert everything.tool_calls == STATE.tool_calls
    assert (everything.stream_id, everything.version, everything.chain_head) == ("s", 7, "ab" * 32)
    assert (everything.judged_at, everything.token_counter) == (50, "words:2")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (0, []),
        (1, ["m6"]),
        (3, ["m5", "m6"]),
        (4, ["m5", "m6"]),
        (5, ["m2", "m3", "m4", "m5", "m6"]),
        (6, ["m1", "m2", "m3", "m4", "m5", "m6"]),
        (99, ["m1", "m2", "m3", "m4", "m5", "m6"]),
    ],
)
def test_the_newest_messages_are_taken_and_results_of_calls_outside_are_left_out(limit: int, expected: list[str]) -> None:
    """Providers refuse a result whose call they do not see. A call that no message asked for is not outside."""
    assert shown(max_messages=limit) == expected


def test_scopes_select_messages_and_facts() -> None:
    assert shown(scopes=["default"]) == ["m1", "m2", "m3", "m6"]
    assert shown(scopes=["private"]) == ["m5"]
    assert shown(scopes=[]) == []
    assert list(window(scopes=["private"]).facts) == ["a.y"]
    assert list(window(scopes=["default", "private"]).facts) == ["a.x", "a.y", "b"]


def test_prefixes_select_facts_and_no_messages() -> None:
    assert list(window(fact_prefixes=["a."]).facts) == ["a.x", "a.y"]
    assert list(window(fact_prefixes=["a.y", "b"]).facts) == ["a.y", "b"]
    assert window(fact_prefixes=[]).facts == {}
    assert len(window(fact_prefixes=[]).messages) == 6


def test_a_fact_is_left_out_from_the_instant_at_which_it_expires() -> None:
    for judged_at, there in ((99, True), (100, False), (101, False)):
        found = select(STATE, Selection(), judged_at=judged_at, counter=WORDS)
        assert ("b" in found.facts) is there


def test_tokens_count_texts_and_the_calls_that_a_message_asks_for() -> None:
    """m1: 2; m2: 'look up', 'x y z', 'f', '{}': 7; m3, m4, m6: 1 each; m5: 3."""
    assert window().tokens == 15
    assert [window(max_tokens=n).tokens for n in (15, 14, 13, 12, 4, 3, 0)] == [15, 13, 13, 4, 4, 1, 0]


def test_the_newest_messages_that_fit_are_taken() -> None:
    assert shown(max_tokens=15) == ["m1", "m2", "m3", "m4", "m5", "m6"]
    assert shown(max_tokens=14) == ["m2", "m3", "m4", "m5", "m6"]
    assert shown(max_tokens=6) == ["m5", "m6"]
    assert shown(max_tokens=0) == []


def test_only_calls_that_the_messages_ask_for_or_answer_are_in_the_window() -> None:
    assert list(window(max_messages=1).tool_calls) == ["c3"]
    assert list(window(max_messages=5).tool_calls) == ["c1", "c2", "c3"]
    assert window(max_messages=0).tool_calls == {}


@pytest.mark.parametrize(
    "wrong", [{"max_messages": -1}, {"max_tokens": 1.5}, {"max_messages": True}, {"scopes": "default"}, {"fact_prefixes": "a."}]
)
def test_a_selection_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Selection(**wrong)


def test_the_counter_that_is_always_there_takes_four_characters_for_a_token() -> None:
    assert [APPROXIMATE_TOKENS.count("x" * n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_messages_are_given_in_the_form_of_chat_completions() -> None:
    assert window(max_messages=5).as_openai() == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look up", "arguments": '"x y z"'}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "content": "three", "tool_call_id": "c1"},
        {"role": "tool", "content": "four", "tool_call_id": "c2"},
        {"role": "user", "content": "five five five"},
        {"role": "tool", "content": "six", "tool_call_id": "c3"},
    ]


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ('[{"type": "text", "text": "x"}]', [{"type": "text", "text": "x"}]),
        ('{"a": 1}', '{"a": 1}'),
        ("not JSON", "not JSON"),
        ("[" * 100_000, "[" * 100_000),
        ("[]", "[]"),
    ],
    ids=["list", "object", "no JSON", "too deep", "empty list"],
)
def test_parts_are_given_as_a_list_or_else_as_text(parts: str, content: Any) -> None:
    """No reader has checked that parts are JSON at all."""
    state = ContextState("s", 1, "", messages=(message("m", None, parts=parts, name="ann"),))
    (given,) = select(state, Selection(), judged_at=0).as_openai()
    assert given == {"role": "user", "content": content, "name": "ann"}


def test_a_redacted_message_shows_that_something_was_there() -> None:
    state = ContextState("s", 1, "", messages=(message("m", None, redacted_by="e"),))
    assert select(state, Selection(), judged_at=0).as_openai() == [{"role": "user", "content": REDACTED}]


def test_a_call_that_the_state_does_not_know_is_left_out() -> None:
    """Damaged or foreign streams must not keep an agent from reading."""
    state = ContextState("s", 1, "", messages=(message("m", "x", tool_calls=("gone",)), message("r", "y", tool_call_id="gone")))
    found = select(state, Selection(max_tokens=99), judged_at=0)
    assert "tool_calls" not in found.as_openai()[0]

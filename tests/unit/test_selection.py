"""Selections: what of a state a model gets to see, and in which form."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("1s", ["new", "untimed", "older again"]),
        (timedelta(seconds=2), ["middle", "new", "untimed", "older again"]),
        ("1d", ["old", "middle", "new", "untimed", "older again"]),
        ("0s", []),
    ],
)
def test_the_last_of_time_begins_at_the_first_message_within_it(last: Any, expected: list[str]) -> None:
    """Messages are never sorted by time: what follows the first one is as new as that."""
    times = {"old": 1_000_000, "middle": 8_000_000, "new": 9_000_000, "untimed": None, "older again": 2_000_000}
    state = ContextState("s", 5, "ab" * 32, messages=tuple(message(name, name, occurred_at=at) for name, at in times.items()))
    found = select(state, Selection(last=last), judged_at=10_000_000)
    assert [one.id for one in found.messages] == expected


def test_a_fact_is_left_out_from_the_instant_at_which_it_expires() -> None:
    for judged_at, there in ((99, True), (100, False), (101, False)):
        found = select(STATE, Selection(), judged_at=judged_at, counter=WORDS)
        assert ("b" in found.facts) is there


def test_tokens_count_texts_and_the_calls_that_a_message_asks_for() -> None:
    """m1: 2; m2: 'look up', 'x y z', 'f', '{}': 7; m3, m4: 1 each; m5: 3; m6: 1, and 'f', '{}' of a call of its own: 2."""
    assert window().tokens == 17
    assert [window(max_tokens=n).tokens for n in (17, 16, 15, 14, 6, 5, 3, 2)] == [17, 15, 15, 6, 6, 3, 3, 0]


def test_tokens_count_what_is_shown_of_a_redacted_message_and_of_results_that_are_not_selected() -> None:
    redacted = message("r", None, redacted_by="e")
    assert select(ContextState("s", 1, "", messages=(redacted,)), Selection(), judged_at=0, counter=WORDS).tokens == 1
    assert window(scopes=["private"]).tokens == 3
    assert window(scopes=["default"]).tokens == 2 + (5 + 1) + 3, "without the call whose result is private"


def test_a_message_is_not_left_out_for_a_result_that_is_not_shown() -> None:
    """The result of a call outside takes no room."""
    state = ContextState(
        "s",
        3,
        "",
        messages=(
            message("a", None, role="assistant", tool_calls=("c",)),
            message("u", "one two"),
            message("r", "a long result", role="tool", tool_call_id="c"),
        ),
        tool_calls={"c": call("a")},
    )
    found = select(state, Selection(max_tokens=4), judged_at=0, counter=WORDS)
    assert ([one.id for one in found.messages], found.tokens) == (["u"], 2)


def test_only_what_may_fit_is_counted_however_long_the_context() -> None:
    """Tokenizers are slow. A sum for each message that is left out would take hours here."""
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text)

    counter = TokenCounter("all", "1", count)
    state = ContextState("s", 1, "", messages=tuple(message(str(number), "x" * 10) for number in range(200_000)))
    assert len(select(state, Selection(max_tokens=35), judged_at=0, counter=counter).messages) == 3
    assert len(counted) == 4
    assert len(select(state, Selection(max_tokens=1_000_000), judged_at=0, counter=counter).messages) == 100_000


def test_the_newest_messages_that_fit_are_taken() -> None:
    assert shown(max_tokens=17) == ["m1", "m2", "m3", "m4", "m5", "m6"]
    assert shown(max_tokens=16) == ["m2", "m3", "m4", "m5", "m6"]
    assert shown(max_tokens=14) == ["m5", "m6"]
    assert shown(max_tokens=5) == ["m6"]
    assert shown(max_tokens=0) == []


def test_only_calls_that_the_messages_ask_for_or_answer_are_in_the_window() -> None:
    assert list(window(max_messages=1).tool_calls) == ["c3"]
    assert list(window(max_messages=5).tool_calls) == ["c1", "c2", "c3"]
    assert window(max_messages=0).tool_calls == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_messages": -1},
        {"max_tokens": 1.5},
        {"max_messages": True},
        {"scopes": "default"},
        {"fact_prefixes": "a."},
        {"last": "30"},
        {"last": "-3d"},
        {"last": 30},
        {"last": timedelta(days=-1)},
        {"last": "999999999w"},
    ],
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
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c3", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
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


# What providers take


def check_acceptable(shown: list[dict[str, Any]]) -> None:
    """The rules of OpenAI's chat completions about calls and contents."""
    waiting: list[str] = []
    for one in shown:
        if one["role"] == "tool":
            assert one["tool_call_id"] in waiting, "a result whose call does not stand just before"
            waiting.remove(one["tool_call_id"])
        else:
            assert waiting == [], "a call that is not followed by its result"
            waiting = [asked["id"] for asked in one.get("tool_calls", [])]
            assert one["role"] == "assistant" or "tool_calls" not in one
            assert one.get("tool_calls") != []
            assert "tool_call_id" not in one
        assert one["content"] is not None or one.get("tool_calls")
        assert one["content"] != []
    assert waiting == []
    ids = [asked["id"] for one in shown for asked in one.get("tool_calls", [])]
    assert len(set(ids)) == len(ids)


SCOPES = st.sampled_from(["default", "private"])


@st.composite
def states(draw: st.DrawFn) -> ContextState:
    """Any context that the fold can make of messages and calls, and some that it cannot."""
    messages: list[Message] = []
    calls: dict[str, ToolCall] = {}
    for number in range(draw(st.integers(0, 14))):
        id, content = f"m{number}", draw(st.sampled_from([None, "", "some text"]))
        scope, redacted = draw(SCOPES), draw(st.sampled_from([None, None, None, "e"]))
        members: dict[str, Any] = {"scope": scope, "redacted_by": redacted}
        match draw(st.sampled_from(["message", "asks", "called", "result", "result"])):
            case "asks":
                ids = tuple(f"c{number}.{index}" for index in range(draw(st.integers(1, 3))))
                members |= {"role": draw(st.sampled_from(["assistant", "assistant", "assistant", "user"])), "tool_calls": ids}
                calls |= {one: call(id)._replace(scope=draw(SCOPES)) for one in ids if draw(st.integers(0, 9))}
            case "called":
                calls[f"c{number}"] = call(None)._replace(scope=draw(SCOPES))
                continue
            case "result":
                answers = draw(st.sampled_from([*calls, "unknown", None]))
                members |= {"role": draw(st.sampled_from(["tool", "tool", "tool", "user"])), "tool_call_id": answers}
                if answers in calls:
                    calls[answers] = calls[answers]._replace(result_id=id, result=f"said in {scope}")
            case _:
                members |= {"role": draw(st.sampled_from(["system", "user", "assistant"]))}
        messages.append(message(id, content, **members))
    return ContextState("s", len(messages), "", messages=tuple(messages), tool_calls=calls)


@settings(max_examples=500)
@given(
    states(),
    st.none() | st.integers(0, 15),
    st.none() | st.lists(SCOPES, max_size=2),
    st.none() | st.integers(0, 40),
)
def test_what_is_shown_is_always_acceptable_and_its_tokens_are_those_that_are_said(
    state: ContextState, max_messages: int | None, scopes: list[str] | None, max_tokens: int | None
) -> None:
    """Every call is followed by its result, and every result follows its call, whatever was selected."""
    selection = Selection(max_messages=max_messages, scopes=scopes, max_tokens=max_tokens)
    found = select(state, selection, judged_at=0, counter=WORDS)
    shown = found.as_openai()
    check_acceptable(shown)
    texts = [one["content"] or "" for one in shown]
    texts += [part for one in shown for asked in one.get("tool_calls", ()) for part in asked["function"].values()]
    assert found.tokens == sum(map(WORDS.count, texts))
    assert max_tokens is None or found.tokens <= max_tokens
    answered = {one.tool_call_id for one in found.messages if one.role == "tool"} & state.tool_calls.keys()
    assert answered <= found.tool_calls.keys(), "a result is there with its call or not at all"
    allowed = {"default", "private"} if scopes is None else set(scopes)
    assert {one.scope for one in found.messages} | {one.scope for one in found.tool_calls.values()} <= allowed
    assert all(
        one.result in (None, "r") or str(one.result).removeprefix("said in ") in allowed for one in found.tool_calls.values()
    )


def test_without_limits_nothing_but_the_unanswerable_is_left_out_of_what_is_shown() -> None:
    """An open call, a message that is all open calls, and a tool message without a call have no form that is taken."""
    state = ContextState(
        "s",
        1,
        "",
        messages=(
            message("1", "look", role="assistant", tool_calls=("a", "b")),
            message("2", "meanwhile"),
            message("3", "failed", role="tool", tool_call_id="b"),
            message("4", "again", role="tool", tool_call_id="b"),
            message("5", "whose?", role="tool", tool_call_id=None),
            message("6", None, role="assistant", tool_calls=("c",)),
        ),
        tool_calls={"a": call("1"), "b": call("1"), "c": call("6")},
    )
    found = select(state, Selection(), judged_at=0)
    assert found.messages == state.messages
    assert found.tool_calls == state.tool_calls
    shown = found.as_openai()
    assert [(one["role"], one["content"]) for one in shown] == [("assistant", "look"), ("tool", "again"), ("user", "meanwhile")]
    assert [asked["id"] for asked in shown[0]["tool_calls"]] == ["b"]


def test_calls_are_shown_in_the_order_in_which_they_were_asked_for() -> None:
    results = (message("3", "z", role="tool", tool_call_id="b"), message("4", "y", role="tool", tool_call_id="a"))
    asking = message("1", "", role="assistant", tool_calls=("a", "b"))
    state = ContextState("s", 1, "", messages=(asking, *results), tool_calls={"a": call("1"), "b": call("1")})
    shown = select(state, Selection(), judged_at=0).as_openai()
    assert [asked["id"] for asked in shown[0]["tool_calls"]] == ["a", "b"]
    assert [one["tool_call_id"] for one in shown[1:]] == ["a", "b"]


def test_a_result_that_another_scope_may_not_see_does_not_come_with_its_call() -> None:
    asking = message("1", "look", role="assistant", tool_calls=("a",))
    result = message("2", "secret", role="tool", tool_call_id="a", scope="private")
    told = {"a": call("1")._replace(result="secret", result_parts='["secret"]', result_id="2")}
    state = ContextState("s", 1, "", messages=(asking, result), tool_calls=told)
    assert "secret" not in repr(select(state, Selection(scopes=["default"]), judged_at=0))
    assert select(state, Selection(scopes=["default", "private"]), judged_at=0).tool_calls == told

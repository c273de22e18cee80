"""Windows of one context and of several: the same selection means the same everywhere, and a decision names what was read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ctxlog.client.windows
from ctxlog import ContextLog, Selection
from ctxlog.errors import InvalidInputError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.selection import TokenCounter


def filled() -> ContextLog:
    log = ContextLog(MemoryLog(3))
    for name in ("refunds/1", "refunds/2", "shared/policy"):
        ctx = log.context(name)
        for number in range(4):
            ctx.add_message("user", f"{name} {number}", scope="internal" if number == 2 else "default")
        ctx.set_fact("order.total", 130)
        ctx.set_fact("mood", "good")
    return log


@pytest.fixture
def log() -> ContextLog:
    return filled()


def receipts(log: ContextLog) -> list[dict[str, Any]]:
    return [one.event.payload for one in log.context("decisions/refunds").accepted() if one.event.type == "ctxlog.ContextRead"]


SELECTIONS = st.builds(
    Selection,
    max_messages=st.none() | st.integers(0, 5),
    scopes=st.none() | st.lists(st.sampled_from(["default", "internal"])),
    fact_prefixes=st.none() | st.lists(st.sampled_from(["order.", "m", ""])),
    max_tokens=st.none() | st.integers(0, 20),
    last=st.none() | st.sampled_from(["1d", "0s"]),
)


@given(SELECTIONS)
def test_a_selection_its_members_as_keywords_and_a_window_of_several_give_the_same(selection: Selection) -> None:
    log = filled()
    members = {
        name: value
        for name in ("max_messages", "scopes", "fact_prefixes", "max_tokens", "last")
        if (value := getattr(selection, name)) is not None
    }
    names = ["shared/policy", "refunds/1"]
    several = log.window(replace(selection, streams=names))
    assert list(several) == names
    for name in names:
        ctx = log.context(name)
        by_selection, by_keywords = ctx.window(selection), ctx.window(**members)
        assert replace(by_selection, judged_at=0) == replace(by_keywords, judged_at=0) == replace(several[name], judged_at=0)
    assert len({window.judged_at for window in several.values()}) == 1


def test_streams_are_names_and_patterns_in_the_order_asked_and_each_once(log: ContextLog) -> None:
    found = log.window(Selection(streams=["shared/policy", "refunds/*", "refunds/1", "new/one", "none/*"]))
    assert list(found) == ["shared/policy", "refunds/1", "refunds/2", "new/one"]
    assert (found["new/one"].version, found["new/one"].messages) == (0, ())
    assert log.window(Selection(streams=[])) == {}


def test_a_decision_reads_several_contexts_and_each_read_names_all_of_them(log: ContextLog) -> None:
    with log.decision("refund", agent="refunds") as decision:
        seen = decision.read(Selection(streams=["refunds/*", "shared/policy"], max_messages=1, last="1d"))
    names = ["refunds/1", "refunds/2", "shared/policy"]
    assert list(seen) == names
    found = receipts(log)
    assert [[stream["stream_id"] for stream in read["streams"]] for read in found] == [[name] for name in names]
    for read, window in zip(found, seen.values(), strict=True):
        assert json.loads(read["selection"]) == {
            "streams": names,
            "max_messages": 1,
            "occurred_from": window.judged_at - 86_400_000_000,
        }
        assert read["streams"][0]["revealed"] == [window.messages[0].id, *(fact.event_id for fact in window.facts.values())]
    assert log.context("refunds/2").replay(f"decision:{decision.id}").state.version == 6


@pytest.mark.parametrize(
    "counter",
    [
        len,
        "words",
        ("words", "2", len),
        TokenCounter("words", "2", 5),  # type: ignore[arg-type]
        TokenCounter("words", 2, len),  # type: ignore[arg-type]
        TokenCounter("\ud83d", "2", len),
        TokenCounter("w" * 300, "2", len),
    ],
    ids=range(7),
)
def test_what_is_no_token_counter_is_refused_and_nothing_is_recorded(log: ContextLog, counter: Any) -> None:
    """A name that cannot be recorded is refused too: otherwise every later append inside would fail for it."""
    with log.decision("k", agent="refunds") as decision:
        for read in (
            lambda: log.context("refunds/1").window(max_tokens=5, counter=counter),
            lambda: log.window(Selection(streams=["refunds/1"]), counter=counter),
            lambda: decision.read(log.context("refunds/1"), counter=counter),
        ):
            with pytest.raises(InvalidInputError, match=r"^counter: .*; nothing was read"):
                read()
    assert receipts(log) == []


def test_the_window_of_a_log_is_recorded_inside_a_decision_too_and_of_a_counter_its_name(log: ContextLog) -> None:
    counter = TokenCounter("words", "2", lambda text: len(text.split()))
    with log.decision("refund", agent="refunds") as decision:
        window = log.window(Selection(streams=["refunds/1"], max_tokens=2), counter=counter)["refunds/1"]
        decision.read(log.context("refunds/1"), Selection(max_tokens=2), counter=counter)
    assert [one.content for one in window.messages] == ["refunds/1 3"]
    several, one = receipts(log)
    assert (several["token_counter"], several["token_counter_version"]) == ("words", "2")
    assert several["selection_digest"] == one["selection_digest"]
    assert json.loads(several["selection"]) == {"streams": ["refunds/1"], "max_tokens": 2}
    assert json.loads(one["selection"]) == {"max_tokens": 2}


def test_what_cannot_be_meant_is_refused_and_nothing_is_read(log: ContextLog, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = log.context("refunds/1")
    with log.decision("refund", agent="refunds") as decision:
        for ask in (ctx.window, lambda *args, **options: decision.read(ctx, *args, **options)):
            with pytest.raises(InvalidInputError, match="found both"):
                ask(Selection(), max_messages=1)
            with pytest.raises(InvalidInputError, match="alone"):
                ask(Selection(streams=["refunds/*"]))
            with pytest.raises(InvalidInputError, match="expected a Selection, found int"):
                ask(20)
            with pytest.raises(TypeError, match="max_message"):
                ask(max_message=1)
        with pytest.raises(InvalidInputError, match="expected names or patterns"):
            decision.read(Selection())
        with pytest.raises(InvalidInputError, match="says all"):
            decision.read(Selection(streams=["a"]), max_messages=1)  # type: ignore[call-overload]
        with pytest.raises(InvalidInputError, match="control character"):
            log.window(Selection(streams=["a\n*"]))
        with pytest.raises(InvalidInputError, match="expected text"):
            log.window(Selection(streams=[5]))  # type: ignore[list-item]
        with pytest.raises(InvalidInputError, match="found one text"):
            Selection(streams="refunds/*")
        monkeypatch.setattr(ctxlog.client.windows, "STREAMS_MAX", 2)
        with pytest.raises(InvalidInputError, match="at most 2, found 3"):
            log.window(Selection(streams=["*"]))
    assert receipts(log) == []

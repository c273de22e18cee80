"""Ids: what writers may use, who owns a stream by its name, and ids that sort in the order in which they were made."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxlog.errors import InvalidInputError
from ctxlog.model.ids import agent_of, check_actor, check_agent_id, check_id, check_stream_id
from ctxlog.uuids import uuid7


@pytest.mark.parametrize("value", ["a", "x" * 255, "é" * 127, "a b", "\u00e9", "日本", "\U0001f600", "a/b:c@d#?%", "\u200b"])
def test_an_id_is_text_of_1_to_255_bytes_in_nfc(value: str) -> None:
    assert check_id("id", value) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "1 to 255"),
        ("x" * 256, "1 to 255"),
        ("é" * 128, "1 to 255"),
        ("a\x00", "control"),
        ("a\n", "control"),
        ("\x7f", "control"),
        ("\x85", "control"),
        ("e\u0301", "NFC"),
        ("\u212b", "NFC"),
        ("\ud800", "surrogate"),
        (None, "NoneType"),
        (b"a", "bytes"),
        (5, "int"),
    ],
)
def test_what_is_no_id_is_refused_by_its_rule(value: Any, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        check_id("id", value)


@given(st.text(max_size=300))
def test_an_id_is_taken_as_it_is_or_refused(value: str) -> None:
    error = ""
    try:
        assert check_id("id", value) is value
    except InvalidInputError as refusal:
        error = str(refusal)
    assert len(value) < 3 or value not in error


def test_names_of_the_log_itself_are_not_for_streams() -> None:
    assert check_stream_id("ctxlog/x") == "ctxlog/x"
    for name in ("ctxlog:", "ctxlog:control"):
        with pytest.raises(InvalidInputError, match="log's own"):
            check_stream_id(name)


def test_an_agent_is_no_path_and_no_reserved_word() -> None:
    assert check_agent_id("refunds") == "refunds"
    for name in ("a/b", "/", "shared", "decisions"):
        with pytest.raises(InvalidInputError):
            check_agent_id(name)


@pytest.mark.parametrize("actor", ["agent:a", "person:ann", "tool:search", "system:ctxlog", "agent:a:b"])
def test_an_actor_is_a_kind_and_an_id(actor: str) -> None:
    assert check_actor(actor) == actor


@pytest.mark.parametrize("actor", ["agent", "agent:", ":a", "Agent:a", "robot:a", " agent:a", "a"])
def test_an_actor_of_no_kind_is_refused(actor: str) -> None:
    with pytest.raises(InvalidInputError):
        check_actor(actor)


@pytest.mark.parametrize(
    ("stream_id", "agent"),
    [
        ("refunds/case-1", "refunds"),
        ("refunds/a/b", "refunds"),
        ("refunds", "refunds"),
        ("decisions/refunds", "refunds"),
        ("decisions/refunds/x", None),
        ("decisions", None),
        ("decisions/", None),
        ("decisions/shared", None),
        ("shared/plan", None),
        ("shared", None),
        ("/x", None),
    ],
)
def test_the_owner_of_a_stream_follows_from_its_name(stream_id: str, agent: str | None) -> None:
    assert agent_of(stream_id) == agent


@given(st.text(min_size=1, max_size=20))
def test_the_owner_is_always_an_agent_that_a_writer_may_name(stream_id: str) -> None:
    try:
        check_stream_id(stream_id)
    except InvalidInputError:
        return
    agent = agent_of(stream_id)
    assert agent is None or check_agent_id(agent) == agent


def test_ids_made_here_are_version_7_and_sort_in_the_order_in_which_they_were_made() -> None:
    ids = [uuid7() for _ in range(5_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    parsed = [uuid.UUID(text) for text in ids[:50]]
    assert all((one.version, one.variant) == (7, uuid.RFC_4122) for one in parsed)


def test_ids_carry_the_milliseconds_of_the_clock_and_never_go_back_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.uuids._last", 0)
    now = 1_795_356_120_123 * 1_000_000
    monkeypatch.setattr("ctxlog.uuids.time.time_ns", lambda: now)
    first = uuid7()
    assert uuid.UUID(first).int >> 80 == 1_795_356_120_123
    now -= 10**12
    assert uuid7() > first


def test_threads_make_different_ids() -> None:
    made: list[list[str]] = []
    threads = [threading.Thread(target=lambda: made.append([uuid7() for _ in range(500)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for ids in made for one in ids}) == 2_000

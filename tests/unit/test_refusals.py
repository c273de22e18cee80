"""What an append refuses, with a typed error and nothing written; and values at the edge of what it takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.errors import (
    InvalidInputError,
    LogOpenError,
    RecordTooLargeError,
)
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import ExtensionRecorded, FactRemoved, FactSet, MessageAppended
from ctxlog.model.records import CONTROL_KEY, MAX_RECORD_BYTES

HI = MessageAppended(role="user", content="hi")
SET = FactSet(key="limit", value="5")


def records(log: ContextLog) -> int:
    """How many records of streams the log holds."""
    backend = log.log
    return sum(
        record.key != CONTROL_KEY
        for partition in range(backend.partitions)
        for record in backend.read(partition, 0, backend.bounds(partition).end)
    )


# What is refused


WRONG: list[tuple[str, Callable[[Context], Any]]] = [
    ("id not NFC", lambda c: c.set_fact("e\u0301", 1)),
    ("id with a control character", lambda c: c.set_fact("a\nb", 1)),
    ("id empty", lambda c: c.set_fact("", 1)),
    ("id too long", lambda c: c.set_fact("x" * 256, 1)),
    ("id too long in bytes", lambda c: c.set_fact("é" * 128, 1)),
    ("id with a surrogate", lambda c: c.append(HI, event_ids=["\ud800"])),
    ("id of another type", lambda c: c.set_fact(5, 1)),  # type: ignore[arg-type]
    ("message id of another type", lambda c: c.redact_message(None)),  # type: ignore[arg-type]
    ("role empty", lambda c: c.add_message("", "x")),
    ("role of another type", lambda c: c.add_message(None, "x")),  # type: ignore[arg-type]
    ("name with a surrogate", lambda c: c.add_message("user", "x", name="\ud800")),
    ("NaN", lambda c: c.set_fact("k", float("nan"))),
    ("infinity inside", lambda c: c.set_fact("k", {"a": [float("inf")]})),
    ("no JSON", lambda c: c.set_fact("k", object())),
    ("no JSON in a message", lambda c: c.add_message("user", b"bytes")),
    ("no JSON in arguments", lambda c: c.add_tool_call("f", {1, 2})),
    ("no JSON in a result", lambda c: c.add_tool_result("c", object())),
    ("nested without end", lambda c: c.set_fact("k", endless())),
    ("time without a zone", lambda c: c.add_message("user", "x", occurred_at=datetime(2026, 1, 1))),  # noqa: DTZ001
    ("time as text", lambda c: c.add_message("user", "x", occurred_at="2026-01-01")),  # type: ignore[arg-type]
    ("time as float", lambda c: c.add_message("user", "x", occurred_at=1.5)),  # type: ignore[arg-type]
    ("time out of range", lambda c: c.add_message("user", "x", occurred_at=2**53)),
    ("expiry without a zone", lambda c: c.set_fact("k", 1, expires_at=datetime(2026, 1, 1))),  # noqa: DTZ001
    ("expiry out of range", lambda c: c.set_fact("k", 1, expires_at=2**53)),
    ("actor of no kind", lambda c: c.add_message("user", "x", actor="ann")),
    ("actor of another kind", lambda c: c.add_message("user", "x", actor="robot:ann")),
    ("actor without id", lambda c: c.add_message("user", "x", actor="agent:")),
    ("scope empty", lambda c: c.add_message("user", "x", scope="")),
    ("scope of another type", lambda c: c.add_message("user", "x", scope=None)),  # type: ignore[arg-type]
    ("causation of another type", lambda c: c.add_message("user", "x", causation_id=5)),  # type: ignore[arg-type]
    ("version as text", lambda c: c.append(HI, expected_version="0")),  # type: ignore[arg-type]
    ("version as a bool", lambda c: c.append(HI, expected_version=False)),
    ("version negative", lambda c: c.append(HI, expected_version=-1)),
    ("version beyond a long", lambda c: c.append(HI, expected_version=2**63)),
    ("head of another form", lambda c: c.append(HI, expected_head="A" * 64)),
    ("head empty", lambda c: c.append(HI, expected_head="")),
    ("head of another type", lambda c: c.append(HI, expected_head=b"0" * 64)),  # type: ignore[arg-type]
    ("target that is not changed", lambda c: c.append(SET, expected_targets={"fact:other": 0})),
    ("target of an event that has none", lambda c: c.append(HI, expected_targets={"fact:limit": 0})),
    ("target without version", lambda c: c.append(SET, expected_targets={"fact:limit": None})),  # type: ignore[dict-item]
    ("targets as a list", lambda c: c.append(SET, expected_targets=["fact:limit"])),  # type: ignore[arg-type]
    ("too few ids", lambda c: c.append([HI, SET], event_ids=["x"])),
    ("no ids", lambda c: c.append(HI, event_ids=[])),
    ("an id twice", lambda c: c.append([HI, SET], event_ids=["x", "x"])),
    ("ids as one text", lambda c: c.append([HI, SET], event_ids="xy")),
    ("ids of another type", lambda c: c.append(HI, event_ids=[5])),  # type: ignore[list-item]
    ("ids that have no hash", lambda c: c.append(HI, event_ids=[["x"]])),  # type: ignore[list-item]
    ("ids of a call as one text", lambda c: c.add_tool_call("f", {}, event_ids="x")),
    ("two ids of one call", lambda c: c.add_tool_call("f", {}, event_ids=["x", "y"])),
    ("no events", lambda c: c.append([])),
    ("too many events", lambda c: c.append([HI] * 1001)),
    ("what is no event", lambda c: c.append([HI, {"role": "user"}])),  # type: ignore[list-item]
]


def endless() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(("what", "call"), WRONG, ids=[what for what, _ in WRONG])
def test_bad_input_is_a_typed_error_and_nothing_is_written(log: ContextLog, what: str, call: Callable[[Context], Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call(log.context("a/b"))
    assert "nothing was appended" in str(caught.value)
    assert log.log.bounds(0).end == 1


def test_a_refusal_names_the_field_and_the_rule_once(log: ContextLog) -> None:
    said = []
    for call in (
        lambda c: c.set_fact("e\u0301", 1),
        lambda c: c.set_fact("k", 1, expires_at=datetime(2026, 1, 1)),  # noqa: DTZ001
        lambda c: c.append(HI, event_ids=["a\nb"]),
    ):
        with pytest.raises(InvalidInputError) as caught:
            call(log.context("a/b"))
        said.append(str(caught.value))
    assert said == [
        "FactSet: key: is not in Unicode normal form NFC; nothing was appended",
        "FactSet: expires_at: a time without a zone; use datetime.now(UTC); nothing was appended",
        "event id: holds a control character; nothing was appended",
    ]


@pytest.mark.parametrize("size", [249, 250, 255])
def test_an_agent_whose_id_is_too_long_to_be_an_actors_is_read_and_writes_as_somebody_else(log: ContextLog, size: int) -> None:
    """An actor is an id as any other: 255 bytes with its `agent:`. Streams of such a name may be there, and can be read."""
    context = log.context("x" * size)
    assert context.version == 0
    if size > 249:
        with pytest.raises(InvalidInputError, match=rf"actor.*found {size + 6}; nothing was appended"):
            context.append(HI)
        assert records(log) == 0
    context.append(HI, actor="system:test")
    assert context.version == 1


def test_an_option_that_does_not_exist_is_refused(log: ContextLog) -> None:
    """A precondition that is spelled wrong must not be one that is left out."""
    with pytest.raises(TypeError, match="expected_versoin"):
        log.context("a/b").append(HI, expected_versoin=0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="if_version"):
        log.context("a/b").append_each([(HI, {"if_version": 0})])  # type: ignore[typeddict-unknown-key]
    assert records(log) == 0


def test_errors_name_the_rule_and_never_the_value(log: ContextLog) -> None:
    """Messages end up in other people's logs."""
    for call in (
        lambda c: c.set_fact("secret\n", 1),
        lambda c: c.add_message("user", {"secret": object()}),
        lambda c: c.append(HI, actor="secret"),
        lambda c: c.set_fact("k", 1, expires_at="secret"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            call(log.context("a/b"))
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "stream_id", ["ctxlog:control", "ctxlog:", "", "a\x00b", "e\u0301", "x" * 256, "\ud800", None, 5], ids=repr
)
def test_a_stream_id_that_is_not_allowed_is_refused_when_the_context_is_made(log: ContextLog, stream_id: Any) -> None:
    with pytest.raises(InvalidInputError):
        log.context(stream_id)


@pytest.mark.parametrize("agent_id", ["a/b", "shared", "decisions", "", "a\n", 5], ids=repr)
def test_an_agent_id_that_is_not_allowed_is_refused(log: ContextLog, agent_id: Any) -> None:
    with pytest.raises(InvalidInputError):
        log.context("a/b", agent_id=agent_id)


def test_a_record_of_the_largest_size_is_taken_and_one_byte_more_is_refused(log: ContextLog) -> None:
    context = log.context("a/b")
    context.add_message("user", "x" * (MAX_RECORD_BYTES // 2))
    (record,) = [record for record in log.log.read(0, 0, log.log.bounds(0).end) if record.key != CONTROL_KEY]
    room = MAX_RECORD_BYTES - len(record.key or b"") - len(record.value or b"")
    longest = "x" * (MAX_RECORD_BYTES // 2 + room)
    context.add_message("user", longest)
    with pytest.raises(RecordTooLargeError) as caught:
        context.add_message("user", longest + "x")
    with pytest.raises(RecordTooLargeError):
        context.append([HI, MessageAppended(role="user", content=longest)])
    assert (caught.value.size, caught.value.limit) == (MAX_RECORD_BYTES + 1, MAX_RECORD_BYTES)
    assert records(log) == 2
    assert [message.content for message in context.state.messages][1] == longest


def test_values_at_the_edge_come_back_as_they_were_written(log: ContextLog) -> None:
    """Large integers and lone surrogates are in real data, and are never parsed and printed again."""
    context = log.context("a/b")
    context.set_fact("big", 2**53 + 1)
    context.set_fact("text", "\ud800")
    context.set_fact("null", None)
    context.add_message("user", "\ud800")
    context.add_message("user", "")
    context.add_message("assistant", None)
    context.add_tool_call("f", '{ "a":  1 }')
    state = context.state
    assert {key: fact.value for key, fact in state.facts.items()} == {
        "big": "9007199254740993",
        "text": '"\\ud800"',
        "null": "null",
    }
    assert [(message.content, message.parts) for message in state.messages] == [
        (None, '"\\ud800"'),
        ("", None),
        (None, None),
    ]
    assert [call.arguments for call in state.tool_calls.values()] == ['{ "a":  1 }']


def test_the_id_of_a_call_is_that_of_its_event(log: ContextLog) -> None:
    context = log.context("a/b")
    done = context.add_tool_call("f", {}, event_ids=["call-1"])
    assert done.event_id == "call-1"
    context.add_tool_result("call-1", {"ok": True}, failed=True)
    call = context.state.tool_calls["call-1"]
    assert (call.status, call.result, call.result_parts) == ("failed", None, '{"ok": true}')


def test_an_unfinished_copy_takes_no_other_appends() -> None:
    from ctxlog.codec.control import copy_started, encode_control

    backend = MemoryLog()
    backend.append([encode_control(0, copy_started(backend.log_id, "elsewhere"))])
    with pytest.raises(LogOpenError, match="not finished"):
        ContextLog(backend).context("a/b").append(HI)


def test_an_extension_is_kept_and_changes_nothing(log: ContextLog) -> None:
    context = log.context("a/b")
    context.append(ExtensionRecorded(name="org.example.Approved", data="{}"))
    context.append(FactRemoved(key="never set"))
    replay = context.replay()
    assert replay.state.version == 2
    assert [(anomaly.version, anomaly.reason) for anomaly in replay.anomalies] == [(2, "fact_unknown")]

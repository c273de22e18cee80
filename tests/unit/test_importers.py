"""What becomes of a recorded run: each message once, in order, its text unchanged; calls and their results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chats import CHAT, write
from ctxlog import ContextLog
from ctxlog.importers import import_path
from ctxlog.samples import TAU_BENCH_TASK_14


@pytest.fixture
def log() -> Iterator[ContextLog]:
    with ContextLog.open("memory:") as opened:
        yield opened


def test_each_message_is_one_entry_and_each_call_one_event_after_its_message(log: ContextLog, tmp_path: Path):
    report = import_path(log, write(tmp_path / "oslo.json", CHAT))
    state = log.context("openai/oslo").state
    assert (report.files, report.streams, report.events_appended, report.failed) == (1, ("openai/oslo",), 8, ())
    assert [message.content for message in state.messages] == [message["content"] for message in CHAT]
    assert [message.role for message in state.messages] == [message["role"] for message in CHAT]
    types = [entry.type.removeprefix("ctxlog.") for entry in log.context("openai/oslo").history()]
    assert types == [
        "MessageAppended",
        "MessageAppended",
        "MessageAppended",
        "ToolCalled",
        "ToolCalled",
        "ToolReturned",
        "ToolReturned",
        "MessageAppended",
    ]
    assert {call.message_id for call in state.tool_calls.values()} == {state.messages[2].id}
    assert log.context("openai/oslo").replay().anomalies == ()


def test_results_go_to_the_earliest_open_call_when_one_id_names_several(log: ContextLog, tmp_path: Path):
    import_path(log, write(tmp_path / "oslo.json", CHAT))
    calls = log.context("openai/oslo").state.tool_calls
    assert [(call.arguments, call.result, call.source_id) for call in calls.values()] == [
        ('{"city":"Oslo"}', "3 degrees", "call_1"),
        ('{"city": "Rome"}', "Error: no such city", "call_1"),
    ]


def test_a_result_that_answers_no_open_call_is_a_message_of_role_tool(log: ContextLog, tmp_path: Path):
    lone = [CHAT[1], {"role": "tool", "tool_call_id": "call_9", "content": "late"}]
    import_path(log, write(tmp_path / "lone.json", lone))
    state = log.context("openai/lone").state
    assert state.tool_calls == {}
    assert (state.messages[1].role, state.messages[1].content, state.messages[1].tool_call_id) == ("tool", "late", "call_9")


@pytest.mark.parametrize(
    ("mark", "status"),
    [
        ({}, "returned"),
        ({"is_error": True}, "failed"),
        ({"is_error": False}, "returned"),
        ({"status": "error"}, "failed"),
        ({"status": "success"}, "returned"),
        ({"error": {"type": "timeout"}}, "failed"),
        ({"error": None}, "returned"),
        ({"extra": {"returncode": 1, "exception_info": ""}}, "returned"),
        ({"extra": {"returncode": -1, "exception_info": "timed out"}}, "failed"),
    ],
)
def test_a_call_failed_where_a_field_of_the_source_says_so(log: ContextLog, tmp_path: Path, mark: dict[str, Any], status: str):
    """A text that begins with "Error" is no mark: what failed is not guessed."""
    chat = [{**CHAT[2], "tool_calls": CHAT[2]["tool_calls"][:1]}, {**CHAT[4], **mark}]
    import_path(log, write(tmp_path / "marked.json", chat))
    assert [call.status for call in log.context("openai/marked").state.tool_calls.values()] == [status]


def test_function_calls_from_before_there_were_call_ids_are_matched_by_name(log: ContextLog, tmp_path: Path):
    chat = [
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "other", "content": "not asked for"},
        {"role": "function", "name": "weather", "content": "sun"},
    ]
    import_path(log, write(tmp_path / "old.json", chat))
    state = log.context("openai/old").state
    assert [(call.name, call.result, call.source_id) for call in state.tool_calls.values()] == [("weather", "sun", None)]
    assert [message.content for message in state.messages] == [None, "not asked for", "sun"]


def test_calls_in_other_shapes_keep_their_arguments_as_the_source_writes_them(log: ContextLog, tmp_path: Path):
    text = """[{"role": "assistant", "content": "", "tool_calls": [
        {"id": "a", "function": "go", "arguments": {"n": 9007199254740993, "x": 1.10, "y": 1e400}},
        {"id": "b", "type": "custom", "custom": {"name": "sql", "input": "select 1"}},
        {"id": "c", "function": {"name": "f", "arguments": "not JSON {"}},
        {"id": "d", "function": {"name": "f", "arguments": {"t": "a \\ud800 b"}}},
        {"id": "e", "function": {"name": "f", "arguments": null}}]}]"""
    import_path(log, write(tmp_path / "shapes.json", text))
    calls = log.context("openai/shapes").state.tool_calls.values()
    assert [(call.name, call.arguments) for call in calls] == [
        ("go", '{"n": 9007199254740993, "x": 1.10, "y": 1e400}'),
        ("sql", '"select 1"'),
        ("f", "not JSON {"),
        ("f", '{"t": "a \\ud800 b"}'),
        ("f", "null"),
    ]


def test_content_that_is_not_one_plain_string_is_kept_as_json_text(log: ContextLog, tmp_path: Path):
    text = """[{"role": "user", "content": [{"type": "text", "text": "caf\\u00e9", "n": 1.50}]},
               {"role": "user", "content": "half \\ud83d a pair"},
               {"role": "user", "content": ""}, {"role": "user"}, {"role": "user", "content": 12345678901234567890},
               {"role": "assistant", "content": null, "refusal": "I cannot."}]"""
    import_path(log, write(tmp_path / "parts.json", text))
    assert [(message.content, message.parts) for message in log.context("openai/parts").state.messages] == [
        (None, '[{"type": "text", "text": "café", "n": 1.50}]'),
        (None, '"half \\ud83d a pair"'),
        ("", None),
        (None, None),
        (None, "12345678901234567890"),
        (None, '[{"type": "refusal", "refusal": "I cannot."}]'),
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"timestamp": 1775784986.6786294}, 1775784986678629),
        ({"extra": {"timestamp": 1775784986}}, 1775784986000000),
        ({"created_at": "2026-04-10T02:16:26.5+02:00"}, 1775780186500000),
        ({"created_at": "2026-04-10T02:16:26.5"}, None),  # no zone: no time
        ({"timestamp": 17}, None),
        ({"timestamp": 1e400}, None),
        ({"timestamp": "yesterday"}, None),
    ],
)
def test_a_time_is_taken_only_where_the_source_says_it_beyond_doubt(
    log: ContextLog, tmp_path: Path, fields: dict[str, Any], expected: int | None
):
    text = json.dumps([{**CHAT[1], **fields}]).replace("Infinity", "1e400")
    import_path(log, write(tmp_path / "timed.json", text))
    assert log.context("openai/timed").state.messages[0].occurred_at == expected


def test_ids_of_imported_events_never_change(log: ContextLog):
    """They are in logs already: other ids would bring every file in a second time."""
    import_path(log, TAU_BENCH_TASK_14)
    state = log.context("tau-bench/task-14-trial-0").state
    assert [state.messages[0].id, *state.tool_calls][:2] == [
        "4eeb7602-3ff5-585e-9e07-47af3a8a1eac",
        "acf344f9-66ca-5ffb-a2a8-53039109d9c4",
    ]


def test_the_sample_holds_four_runs_and_a_call_id_that_repeats_within_one(log: ContextLog):
    report = import_path(log, TAU_BENCH_TASK_14)
    assert report.streams == tuple(f"tau-bench/task-14-trial-{trial}" for trial in range(4))
    calls = log.context(report.streams[0]).state.tool_calls.values()
    repeated = [(call.name, call.result) for call in calls if call.source_id == "call_VusDN6ekzbqpoU5uT6i3QRAH"]
    assert [name for name, _ in repeated] == ["calculate", "update_reservation_flights"]
    assert repeated[0][1] == "1200.0"
    assert (TAU_BENCH_TASK_14.parent / "NOTICE.md").read_text("utf-8").count("Copyright (c) 2024 Sierra") == 2

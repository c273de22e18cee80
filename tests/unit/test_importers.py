"""What an import promises: once, in order, unchanged, and what is broken fails alone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.errors import InvalidInputError
from ctxlog.importers import Progress, import_path
from ctxlog.importers import sources as sources_module
from ctxlog.samples import TAU_BENCH_TASK_14

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Oslo and Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "3 degrees"},
    {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "Error: no such city"},
    {"role": "assistant", "content": "3 degrees in Oslo."},
]


@pytest.fixture
def log() -> Iterator[ContextLog]:
    with ContextLog.open("memory:") as opened:
        yield opened


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def contents(log: ContextLog, stream_id: str) -> list[str | None]:
    return [message.content for message in log.context(stream_id).state.messages]


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


def test_the_same_file_again_changes_nothing_from_whatever_path(log: ContextLog, tmp_path: Path):
    import_path(log, write(tmp_path / "here/oslo.json", CHAT))
    head = log.context("openai/oslo").chain_head
    packed = tmp_path / "there/oslo.json.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(json.dumps(CHAT).encode()))
    report = import_path(log, [tmp_path / "here", packed])
    assert (report.events_appended, report.events_skipped, report.failed) == (0, 16, ())
    assert log.context("openai/oslo").chain_head == head


def test_a_grown_file_adds_its_tail_to_the_same_ids_as_the_whole(log: ContextLog, tmp_path: Path):
    for length in range(len(CHAT) + 1):
        report = import_path(log, write(tmp_path / "oslo.json", CHAT[:length]))
        assert report.failed == ()
    grown = log.context("openai/oslo").state
    with ContextLog.open("memory:") as other:
        import_path(other, tmp_path / "oslo.json")
        assert other.context("openai/oslo").state == grown


def test_a_file_shorter_than_the_stream_adds_nothing(log: ContextLog, tmp_path: Path):
    import_path(log, write(tmp_path / "oslo.json", CHAT))
    report = import_path(log, write(tmp_path / "oslo.json", CHAT[:3]))
    assert (report.events_appended, report.events_skipped, report.failed) == (0, 5, ())


def test_a_changed_file_fails_naming_the_message_and_quotes_no_text(log: ContextLog, tmp_path: Path):
    import_path(log, write(tmp_path / "oslo.json", CHAT))
    before = log.context("openai/oslo").state
    changed = [*CHAT[:3], {**CHAT[3], "content": "SECRET degrees"}, *CHAT[4:], {"role": "user", "content": "more"}]
    report = import_path(log, write(tmp_path / "oslo.json", changed))
    (failure,) = report.failed
    assert (failure.path, failure.place) == (str(tmp_path / "oslo.json"), "message 3")
    assert "content" in failure.reason
    assert "version 6" in failure.reason
    assert "SECRET" not in str(failure)
    assert log.context("openai/oslo").state == before


def test_a_stream_that_somebody_else_wrote_takes_no_run(log: ContextLog, tmp_path: Path):
    log.context("openai/oslo").add_message("user", "live")
    report = import_path(log, write(tmp_path / "oslo.json", CHAT))
    assert report.failed[0].place == "message 0"
    assert contents(log, "openai/oslo") == ["live"]


def test_an_imported_stream_can_be_written_on_and_the_file_still_grows(log: ContextLog, tmp_path: Path):
    import_path(log, write(tmp_path / "oslo.json", CHAT[:2]))
    log.context("openai/oslo").set_fact("checked", True)
    report = import_path(log, write(tmp_path / "oslo.json", CHAT))
    assert (report.events_appended, report.failed) == (6, ())


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('[{"role": "user"', "line 1, column 17", "not JSON"),
        ('[{"role": "user"},\n {"role": }]', "line 2, column 11", "not JSON"),
        ('[{"role": "user", "n": NaN}]', "line 1, column 24", "NaN"),
        ('[{"role": "NaN", "n": -Infinity}]', "line 1, column 23", "NaN"),
        ("[" * 100_000, "", "deep"),
        ("", "", "empty"),
        ('{"a": 1}', "", "known format"),
        ('[{"role": "user"}, 5]', "message 1", "a role"),
        ('[{"role": "user"}, {"content": "x"}]', "message 1", "role"),
        ('[{"role": ""}]', "message 0", "role"),
        ('[{"role": "user", "name": ["x"]}]', "message 0", "name"),
        ('[{"role": "\\ud800"}]', "message 0", "surrogate"),
        ('[{"role": "assistant", "tool_calls": {}}]', "message 0", "tool_calls"),
        ('[{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]', "message 0", "tool_calls[0].function.name"),
        ('[{"role": "user", "content": ' + "[" * 900 + "]" * 900 + "}]", "message 0", "deep"),
        ('[{"role": "user", "content": "' + "x" * 1_100_000 + '"}]', "message 0", "1,048,576"),
        ('{"id": "a\\u0000b", "messages": []}', "", "control character"),
    ],
    ids=range(17),
)
def test_a_broken_file_fails_alone_naming_the_place(log: ContextLog, tmp_path: Path, text: str, place: str, reason: str):
    """The files around it go in; nothing of it does."""
    for name in ("a", "z"):
        write(tmp_path / f"{name}.json", CHAT)
    broken = write(tmp_path / "m.json", text)
    report = import_path(log, [tmp_path / "a.json", broken, tmp_path / "z.json"])
    (failure,) = report.failed
    assert (failure.path, failure.place) == (str(broken), place)
    assert reason in failure.reason
    assert report.streams == ("openai/a", "openai/z")
    assert log.matching() == ["openai/a", "openai/z"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gzip.compress(json.dumps(CHAT).encode())[:-20], "too early"),
        (gzip.compress(json.dumps(CHAT).encode())[:10] + b"damage", "gzip data"),
        (b'[{"role": "user", "content": "\xff"}]', "not UTF-8"),
        (gzip.compress(b" " * 3_000), "bytes unpacked"),
    ],
    ids=["cut off", "damaged", "latin-1", "bomb"],
)
def test_bytes_that_are_no_text_fail_alone(log: ContextLog, tmp_path: Path, monkeypatch, data: bytes, reason: str):
    monkeypatch.setattr(sources_module, "MAX_FILE_BYTES", 2_000)
    (tmp_path / "bad.json").write_bytes(data)
    write(tmp_path / "good.json", CHAT)
    report = import_path(log, tmp_path)
    assert reason in report.failed[0].reason
    assert report.streams == ("openai/good",)


def test_a_path_that_is_not_there_and_an_empty_folder_are_failures(log: ContextLog, tmp_path: Path):
    report = import_path(log, [tmp_path / "none.json", tmp_path])
    assert [(failure.path, failure.place) for failure in report.failed] == [
        (str(tmp_path / "none.json"), ""),
        (str(tmp_path), ""),
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_no_error(log: ContextLog, tmp_path: Path):
    (tmp_path / "win.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(message).encode() for message in CHAT))
    import_path(log, tmp_path)
    assert len(contents(log, "openai/win")) == len(CHAT)


def test_json_lines_hold_one_chat_of_messages_or_one_chat_a_line(log: ContextLog, tmp_path: Path):
    write(tmp_path / "one.jsonl", "\n".join(json.dumps(message) for message in CHAT) + "\n")
    write(tmp_path / "many.jsonl", "\n".join([json.dumps({"messages": CHAT}), "", json.dumps({"id": 7, "messages": CHAT[:2]})]))
    report = import_path(log, tmp_path)
    assert report.streams == ("openai/7", "openai/many-1", "openai/one")
    assert len(contents(log, "openai/one")) == len(CHAT)


def test_a_list_of_chats_is_a_run_each(log: ContextLog, tmp_path: Path):
    write(tmp_path / "list.json", [{"messages": CHAT}, CHAT[:2], {"conversation_id": "c-3", "messages": CHAT[:1]}, 5])
    report = import_path(log, tmp_path)
    assert report.streams == ("openai/c-3", "openai/list-1", "openai/list-2")
    assert [failure.place for failure in report.failed] == ["chat 4"]


def test_a_broken_line_of_chats_fails_alone_and_one_of_messages_fails_its_chat(log: ContextLog, tmp_path: Path):
    chats = write(
        tmp_path / "chats.jsonl", json.dumps({"messages": CHAT}) + '\n{"messages": [}\n' + json.dumps({"messages": CHAT})
    )
    messages = write(tmp_path / "messages.jsonl", json.dumps(CHAT[0]) + '\n{"role": "user", "content": "\n' + json.dumps(CHAT[1]))
    nobody = write(tmp_path / "nobody.jsonl", json.dumps(CHAT[0]) + '\n\n{"content": "x"}')
    report = import_path(log, tmp_path)
    assert report.streams == ("openai/chats-1", "openai/chats-3")
    assert [(failure.path, failure.place) for failure in report.failed] == [
        (str(chats), "line 2, column 15"),
        (str(messages), "line 2, column 29"),
        (str(nobody), "message 1 (line 3)"),
    ]


def test_a_folder_is_searched_for_json_and_other_json_in_it_is_only_mentioned(log: ContextLog, tmp_path: Path):
    write(tmp_path / "b/deep/oslo.json", CHAT)
    write(tmp_path / "a.jsonl", json.dumps(CHAT[0]))
    settings = write(tmp_path / "b/settings.json", {"a": 1})
    write(tmp_path / "notes.txt", "none of ours")
    report = import_path(log, tmp_path)
    assert (report.streams, report.failed, report.ignored) == (("openai/a", "openai/oslo"), (), (str(settings),))


def test_one_bad_run_among_good_ones_fails_alone(log: ContextLog, tmp_path: Path):
    records = [
        {"task_id": 1, "trial": 0, "traj": CHAT},
        {"task_id": 2, "trial": 0, "traj": [*CHAT, {"role": None}]},
        {"task_id": 3, "trial": 0},
        {"trial": 0, "traj": CHAT},
        {"task_id": 5, "trial": 1, "traj": CHAT[:1]},
    ]
    report = import_path(log, write(tmp_path / "tau.json", records))
    assert report.streams == ("tau-bench/task-1-trial-0", "tau-bench/task-5-trial-1")
    assert [failure.place for failure in report.failed] == ["run 1 (task-2-trial-0), message 6", "run 2", "run 3"]


def test_the_same_run_twice_in_a_file_goes_in_once_and_another_one_under_its_key_fails(log: ContextLog, tmp_path: Path):
    records = [{"task_id": 1, "trial": 0, "traj": traj} for traj in (CHAT, CHAT, [CHAT[1]])]
    report = import_path(log, write(tmp_path / "tau.json", records))
    assert (report.events_appended, report.events_skipped) == (8, 8)
    assert [failure.place for failure in report.failed] == ["run 2 (task-1-trial-0), message 0"]


def test_agent_and_format_can_be_named(log: ContextLog, tmp_path: Path):
    path = write(tmp_path / "oslo.json", CHAT)
    assert import_path(log, path, format="openai", agent="weatherman").streams == ("weatherman/oslo",)
    context = log.context("weatherman/oslo")
    actors = [entry.meta["actor"] for entry in context.history()]
    assert actors == ["system:import", "person:user", *["agent:weatherman"] * 3, *["tool:weather"] * 2, "agent:weatherman"]
    assert {entry.meta["agent_id"] for entry in context.history()} == {"weatherman"}
    assert "traj" in import_path(log, path, format="tau-bench").failed[0].reason
    for wrong in ({"format": "csv"}, {"agent": "a/b"}, {"agent": "shared"}):
        with pytest.raises(InvalidInputError):
            import_path(log, path, **wrong)


def test_progress_is_told_after_each_run_and_each_file(log: ContextLog, tmp_path: Path):
    write(tmp_path / "a.json", CHAT)
    write(tmp_path / "b.json", CHAT)
    seen: list[Progress] = []
    import_path(log, tmp_path, progress=seen.append)
    assert [(step.files_done, step.files_total, step.stream_id, step.events) for step in seen] == [
        (0, 2, "openai/a", 8),
        (1, 2, None, 8),
        (1, 2, "openai/b", 16),
        (2, 2, None, 16),
    ]


def test_an_import_that_was_stopped_is_completed_by_the_next(tmp_path: Path, monkeypatch):
    """Stopped between two writes of one run: what is in is a beginning of it, and stays as it is."""
    monkeypatch.setattr("ctxlog.importers.importing.WRITE_EVENTS", 3)
    path = write(tmp_path / "oslo.json", CHAT)
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        append, writes = log.log.append, []

        def stopped(records: Any) -> Any:
            if len(writes) == 2:
                raise KeyboardInterrupt
            if records[0].key != b"ctxlog:control":
                writes.append(len(records))
            return append(records)

        monkeypatch.setattr(log.log, "append", stopped)
        with pytest.raises(KeyboardInterrupt):
            import_path(log, path)
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        assert writes == [3, 3]
        assert log.context("openai/oslo").version == 6
        report = import_path(log, path)
        assert (report.events_appended, report.events_skipped, report.failed) == (2, 6, ())
        assert contents(log, "openai/oslo") == [message["content"] for message in CHAT]


def test_two_imports_at_once_double_nothing(tmp_path: Path, monkeypatch):
    """Both look before either writes: the log itself takes each event once."""
    path = write(tmp_path / "oslo.json", CHAT)
    url = f"embedded:{tmp_path / 'log'}"
    with ContextLog.open(url) as first, ContextLog.open(url) as second:
        append = first.log.append

        def late(records: Any) -> Any:
            monkeypatch.setattr(first.log, "append", append)
            import_path(second, path)
            return append(records)

        monkeypatch.setattr(first.log, "append", late)
        assert import_path(first, path).failed == ()
        assert contents(first, "openai/oslo") == [message["content"] for message in CHAT]


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

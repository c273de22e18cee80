"""What an import promises: once, however often and however stopped, and what is broken fails alone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chats import CHAT, contents, write
from ctxlog import ContextLog
from ctxlog.errors import InvalidInputError
from ctxlog.importers import Progress, import_path
from ctxlog.importers import sources as sources_module


@pytest.fixture
def log() -> Iterator[ContextLog]:
    with ContextLog.open("memory:") as opened:
        yield opened


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

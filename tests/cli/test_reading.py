"""`ctxlog streams`, `ctxlog log`, `ctxlog show`: what people and programs see."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.conftest import PROGRAM, Program, environment

HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202eturned\u200b hidden\x9b2J\r\nnext"


def test_streams_lists_each_with_version_and_events(refunds: Program) -> None:
    found = refunds("streams", "-o", "json").json["streams"]
    assert [(s["stream_id"], s["version"], s["events"]) for s in found] == [
        ("refunds/1", 4, 4),
        ("refunds/2", 1, 1),
        ("support/1", 1, 1),
    ]
    assert refunds("streams", "-o", "jsonl").lines == found
    shown = refunds("streams").out.splitlines()
    assert shown[0].split() == ["STREAM", "VERSION", "REJECTED", "SIZE", "LAST", "RECORD"]
    assert shown[1].split()[:2] == ["refunds/1", "4"]


def test_streams_takes_a_pattern(refunds: Program) -> None:
    assert [s["stream_id"] for s in refunds("streams", "refunds/*", "-o", "jsonl").lines] == ["refunds/1", "refunds/2"]
    none = refunds("streams", "nothing*")
    assert (none.out, "no stream matches 'nothing*'" in none.err) == ("", True)


def test_an_empty_log_has_no_streams_and_says_how_to_get_some(program: Program) -> None:
    program("init")
    assert "ctxlog import" in program("streams").err
    assert program("streams", "-o", "json").json == {"streams": []}


def test_log_shows_each_event_in_order(refunds: Program) -> None:
    rows = refunds("log", "refunds/1").out.splitlines()
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4"]
    assert "order.total = 129.90" in rows[1]
    found = refunds("log", "refunds/1", "-o", "json").json
    assert found["stream_id"] == "refunds/1"
    assert [entry["version"] for entry in found["entries"]] == [1, 2, 3, 4]
    assert [entry["version"] for entry in refunds("log", "refunds/1", "-n", "2", "-o", "jsonl").lines] == [3, 4]


def test_log_says_what_it_does_not_show_and_shows_it_when_asked(refunds: Program) -> None:
    refunds("append", "refunds/1", "--fact", "x", "1", "--expected-version", "9", code=1)
    hidden = refunds("log", "refunds/1")
    assert "1 rejected record not shown (1 conflict)" in hidden.err
    assert "conflict" in refunds("log", "refunds/1", "--rejected").out


def test_log_shows_a_slice_between_two_points(refunds: Program) -> None:
    def versions(*options: str) -> list[int]:
        return [entry["version"] for entry in refunds("log", "refunds/1", *options, "-o", "jsonl").lines]

    assert versions("--since", "1", "--until", "version:3") == [2, 3]
    assert versions("--since", "1", "-n", "1") == [4]
    assert versions("--until", "time:2001-01-01T00:00:00Z") == []
    assert "there is no version 9" in refunds("log", "refunds/1", "--since", "9", code=2).err
    assert "expected one of latest, N" in refunds("log", "refunds/1", "--until", "yesterday", code=2).err
    assert "use one of the two" in refunds("log", "refunds/1", "-f", "--until", "3", code=2).err


def test_log_counts_what_it_hides_inside_of_a_slice_only(refunds: Program) -> None:
    refunds("append", "refunds/1", "--fact", "x", "1", "--expected-version", "9", code=1)
    refunds("append", "refunds/1", "--fact", "x", "1")
    refunds("append", "refunds/1", "--fact", "x", "2")
    assert "1 rejected record not shown" in refunds("log", "refunds/1", "-n", "3").err
    assert "1 rejected record not shown" in refunds("log", "refunds/1", "--since", "4").err
    for options in (("-n", "2"), ("-n", "1"), ("--since", "5"), ("--until", "4")):
        assert "not shown" not in refunds("log", "refunds/1", *options).err


def test_log_follows_until_ctrl_c_and_shows_what_comes(refunds: Program) -> None:
    running = refunds.start("log", "refunds/2", "-f", "-o", "jsonl")
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["version"] == 1
    refunds("append", "refunds/2", "--message", "user", "late")
    late = json.loads(running.stdout.readline())
    assert (late["version"], late["payload"]["content"]) == (2, "late")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 0
    refunds("log", "refunds/2", "-f", "-o", "json", code=2)


def test_log_follows_a_stream_that_is_not_there_yet(refunds: Program) -> None:
    refunds("log", "refunds/9", code=1)
    running = refunds.start("log", "refunds/9", "-f", "-o", "jsonl")
    assert running.stderr is not None
    assert running.stdout is not None
    assert "Waiting for its first event" in running.stderr.readline()
    refunds("append", "refunds/9", "--message", "user", "first")
    assert json.loads(running.stdout.readline())["payload"]["content"] == "first"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)


def test_show_prints_the_context_at_a_point(refunds: Program) -> None:
    latest = refunds("show", "refunds/1").out
    assert "order.total" in latest
    assert "Please refund order W-204." in latest
    assert "version 4" in latest
    assert refunds("show", "refunds/1@1", "-o", "json").json["facts"] == {}
    assert "empty context" in refunds("show", "refunds/1@0").out
    assert "empty context" in refunds("show", "refunds/1@time:2001-01-01T00:00:00Z").out
    assert "there is no version 5" in refunds("show", "refunds/1@5", code=2).err
    assert "expected one of latest, N" in refunds("show", "refunds/1@yesterday", code=2).err


def test_show_leaves_out_what_was_redacted_and_marks_it(refunds: Program) -> None:
    (message, *_) = refunds("show", "refunds/1", "-o", "json").json["messages"]
    redaction = {"type": "MessageRedacted", "message_id": message["id"], "reason": "asked for"}
    refunds("append", "refunds/1", "--events", "-", typed=json.dumps(redaction))
    shown = refunds("show", "refunds/1").out
    assert "W-204" not in shown
    assert "[redacted]" in shown
    assert "W-204" in refunds("show", "refunds/1@4").out


@pytest.mark.parametrize("command", ["show", "log", "replay"])
def test_nothing_that_a_log_holds_can_drive_a_terminal(program: Program, command: str) -> None:
    events = [
        {"type": "MessageAppended", "role": HOSTILE.replace("\r\n", " "), "content": HOSTILE, "name": HOSTILE},
        {"type": "FactSet", "key": "key", "value": json.dumps(HOSTILE, ensure_ascii=False)},
        {"type": "ToolCalled", "call_id": "c", "name": HOSTILE, "arguments": HOSTILE},
        {"type": "ExtensionRecorded", "name": "acme.note", "data": HOSTILE},
    ]
    program("append", "a/1", "--events", "-", typed="\n".join(map(json.dumps, events)))
    for output in ("table", "json", "jsonl"):
        if (command, output) == ("replay", "jsonl"):
            continue
        shown = program(command, "a/1", "-o", output).out
        assert not set(shown) & set("\x1b\x07\x9b\u202e\u200b\r")
    state = program("show", "a/1", "-o", "json").json
    assert state["messages"][0]["content"] == HOSTILE


@contextmanager
def terminal(folder: Path, *arguments: str, columns: int = 80, **env: str) -> Iterator[int]:
    """The program in a terminal; gives its file descriptor."""
    import fcntl
    import struct
    import termios

    pid, descriptor = pty.fork()
    if pid == 0:
        os.chdir(folder)
        found = {**environment(folder), "TERM": "xterm-256color", **env}
        found.pop("COLUMNS", None)
        os.execve(PROGRAM, ["ctxlog", *arguments], found)  # noqa: S606 - no shell is wanted
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        os.waitpid(pid, 0)


def shown_in(descriptor: int, seconds: float = 60.0) -> str:
    """Everything until the program ends."""
    out, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.5)[0]:
            try:
                part = os.read(descriptor, 65_536)
            except OSError:
                break
            if not part:
                break
            out += part
    return out.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="terminals of other systems end differently")
@pytest.mark.parametrize("columns", [60, 79, 80, 120, 200])
def test_lines_fit_into_the_terminal(refunds: Program, columns: int) -> None:
    refunds("append", "refunds/1", "--message", "user", "word " * 100 + "漢字" * 40, "--fact", "k", json.dumps("long " * 60))
    from ctxlog.cli.text import width_of

    for command in ("log", "show", "diff"):
        arguments = (command, "refunds/1@1", "refunds/1") if command == "diff" else (command, "refunds/1")
        with terminal(refunds.folder, *arguments, columns=columns, NO_COLOR="1") as descriptor:
            shown = shown_in(descriptor)
        assert "\x1b" not in shown
        rows = [row for row in shown.replace("\r\n", "\n").split("\n") if not row.startswith(("Note:", "---", "+++"))]
        assert max(map(width_of, rows)) <= columns, (command, max(rows, key=width_of))


def test_colour_is_for_terminals_that_want_it(refunds: Program) -> None:
    with terminal(refunds.folder, "show", "refunds/1") as descriptor:
        assert "\x1b[" in shown_in(descriptor)
    with terminal(refunds.folder, "show", "refunds/1", NO_COLOR="1") as descriptor:
        assert "\x1b[" not in shown_in(descriptor)
    assert "\x1b[" not in refunds("show", "refunds/1").out

"""`ctxlog demo`: one screen, true in every line."""

from __future__ import annotations

import json
import shlex
import sqlite3

from cli.conftest import Program
from ctxlog.samples import TAU_BENCH_TASK_14


def test_the_demo_tells_the_story_on_one_screen(program: Program) -> None:
    shown = program("demo").out
    assert len(shown.splitlines()) <= 45
    assert max(map(len, shown.splitlines())) <= 110
    for said in ("up to $600", "= 1200.0", "exactly $600", "payment of 1200", "**$600** has been processed", "498 + 1200"):
        assert said in shown, said
    assert "consistent, unsigned" in shown
    assert not (program.folder / ".ctxlog").exists()
    assert [path.name for path in program.folder.iterdir()] == ["ctxlog-demo"]


def test_what_the_demo_quotes_stands_in_the_run_at_that_version(program: Program) -> None:
    """The figures are looked up, not written into the program: each quotation is found in the source file."""
    rows = [row for row in program("demo").out.splitlines() if row[:5].strip().isdigit()]
    (run,) = [run for run in json.loads(TAU_BENCH_TASK_14.read_text("utf-8")) if run["trial"] == 0]
    said = [message["content"] or "" for message in run["traj"]]
    quotations = [row.split("“")[1].rstrip("”…") for row in rows if "“" in row]
    assert len(quotations) == 4
    assert all(any(quotation in text for text in said) for quotation in quotations)


def test_the_three_commands_that_it_names_work(program: Program) -> None:
    shown = program("demo").out
    commands = [row.strip() for row in shown.splitlines() if row.startswith("  ctxlog ") or "/ctxlog --log" in row]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        done = program(*words[1:])
        assert "update_reservation_flights" in done.out or "replay" in words
    charged = program(*shlex.split(commands[2])[1:]).out
    assert "update_reservation_flights" in charged


def test_the_same_demo_again_changes_nothing(program: Program) -> None:
    first = program("demo").out
    again = program("demo").out
    assert "140 new events, 0 there already" in first
    assert "0 new events, 140 there already" in again
    assert first.splitlines()[4:] == again.splitlines()[4:]


def test_the_demo_keeps_out_of_other_folders(program: Program) -> None:
    (program.folder / "mine").mkdir()
    (program.folder / "mine" / "letter.txt").write_text("x")
    assert "holds other files" in program("demo", "--folder", "mine", code=2).err
    assert "found a file" in program("demo", "--folder", "mine/letter.txt", code=2).err
    program("demo", "--log", "embedded:mine", code=2)
    program("demo", "-o", "json", code=2)
    assert [path.name for path in (program.folder / "mine").iterdir()] == ["letter.txt"]


def test_a_demo_log_that_was_tampered_with_fails_the_verification(program: Program) -> None:
    program("demo")
    with sqlite3.connect(program.folder / "ctxlog-demo" / "log.sqlite") as connection:
        connection.execute("UPDATE records SET recorded_at = recorded_at + 1 WHERE id = 20")
    connection.close()
    done = program("demo", code=3)
    assert "broken" in done.out

"""`ctxlog import`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cli.conftest import Program
from ctxlog.samples import TAU_BENCH_TASK_14

NOTHING = {"files": 1, "streams": 4, "events_appended": 0, "events_skipped": 140, "failed": [], "ignored": []}


def test_recorded_runs_go_in_once(program: Program) -> None:
    first = program("import", str(TAU_BENCH_TASK_14), "-o", "json").json
    assert first == {**NOTHING, "events_appended": 140, "events_skipped": 0}
    assert program("import", str(TAU_BENCH_TASK_14), "-o", "json").json == NOTHING
    shown = program("import", str(TAU_BENCH_TASK_14)).out
    assert shown == "1 file, 4 streams: 0 events appended, 140 there already\n"


def test_the_same_file_under_another_name_or_packed_changes_nothing(program: Program) -> None:
    """An event's id comes of what a run is, never of the path."""
    program("import", str(TAU_BENCH_TASK_14))
    (program.folder / "elsewhere").mkdir()
    shutil.copy(TAU_BENCH_TASK_14, program.folder / "elsewhere" / "other-name.json")
    assert program("import", "elsewhere", "-o", "json").json == NOTHING
    subprocess.run(["gzip", program.folder / "elsewhere" / "other-name.json"], check=True)
    assert program("import", "elsewhere", "-o", "json").json == NOTHING


def test_every_source_message_is_one_entry_in_order_with_its_text(program: Program) -> None:
    program("import", str(TAU_BENCH_TASK_14), "--agent", "airline")
    for run in json.loads(TAU_BENCH_TASK_14.read_text("utf-8")):
        state = program("replay", f"airline/task-{run['task_id']}-trial-{run['trial']}", "-o", "json").json["state"]
        assert [(m["role"], m["content"]) for m in state["messages"]] == [(m["role"], m["content"]) for m in run["traj"]]
        asked = [call for message in run["traj"] for call in message.get("tool_calls") or ()]
        assert [call["name"] for call in state["tool_calls"].values()] == [call["function"]["name"] for call in asked]
        assert [call["arguments"] for call in state["tool_calls"].values()] == [call["function"]["arguments"] for call in asked]


def test_a_grown_file_adds_its_tail(program: Program, write_run: Callable[..., Path]) -> None:
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    path = write_run("chat.json", {"messages": messages})
    program("import", str(path))
    before = program("replay", "openai/chat", "-o", "json").json["manifest"]
    write_run("chat.json", {"messages": [*messages, {"role": "user", "content": "three"}]})
    done = program("import", str(path), "-o", "json").json
    assert (done["events_appended"], done["events_skipped"]) == (1, 2)
    assert program("replay", "openai/chat@2", "-o", "json").json["manifest"]["chain_head"] == before["chain_head"]


def test_a_file_that_differs_fails_naming_the_message_and_the_rest_goes_in(
    program: Program, write_run: Callable[..., Path]
) -> None:
    one = write_run("one.json", {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "secret text"}]})
    program("import", str(one))
    write_run("one.json", {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "another text"}]})
    write_run("broken.json", '{"messages": [{"role": "user", "content": "x"}\n')
    write_run("good.json", {"messages": [{"role": "user", "content": "b"}]})
    done = program("import", ".", "-o", "json", code=1)
    failed = {Path(failure["path"]).name: failure for failure in done.json["failed"]}
    assert failed.keys() == {"one.json", "broken.json"}
    assert "message 1" in failed["one.json"]["place"]
    assert "content" in failed["one.json"]["reason"]
    assert "line 2" in failed["broken.json"]["place"]
    assert done.json["events_appended"] == 1
    assert "secret text" not in done.out + done.err
    shown = program("import", ".", code=1)
    assert "Error: " in shown.err
    assert "by --agent" in shown.err
    assert [failure["differs"] for failure in done.json["failed"]] == [False, True]
    assert "broken.json: line 2" in shown.err
    assert program("show", "openai/one", "-o", "json").json["messages"][1]["content"] == "secret text"


def test_what_is_no_run_is_ignored_in_a_folder_and_refused_by_name(program: Program) -> None:
    (program.folder / "settings.json").write_text('{"theme": "dark"}')
    done = program("import", ".", code=1)
    assert "0 files, 0 streams" in done.out
    assert "1 JSON file ignored" in done.err
    assert "no recorded runs of a known format" in program("import", "settings.json", code=1).err


def test_an_empty_folder_is_said_to_be_empty(program: Program) -> None:
    (program.folder / "empty").mkdir()
    assert "no .json or .jsonl file" in program("import", "empty", code=1).err


def test_an_interrupted_import_leaves_a_log_that_opens_and_can_be_gone_on_with(
    program: Program, write_run: Callable[..., Path]
) -> None:
    runs = [{"id": f"run-{n}", "messages": [{"role": "user", "content": f"{n} " + "x" * 2000}] * 50} for n in range(400)]
    path = write_run("many.jsonl", *runs)
    running = program.start("import", str(path))
    log = program.folder / ".ctxlog" / "log.sqlite"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and Path(f"{log}-wal").exists() and log.stat().st_size > 100_000):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "the same command goes on from there" in err
    assert program("verify", "-o", "json").json["verdict"] == "consistent, unsigned"
    there = sum(stream["events"] for stream in program("streams", "-o", "json").json["streams"])
    assert 0 < there < 20_000
    done = program("import", str(path), "-o", "json").json
    assert (done["events_skipped"], done["events_appended"]) == (there, 20_000 - there)
    assert program("import", str(path), "-o", "json").json["events_appended"] == 0

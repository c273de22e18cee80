"""The program as a whole: help, version, mistakes, exit codes, settings, pipes, Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import PROGRAM, Program
from ctxlog.cli.app import COMMANDS, _error_of
from ctxlog.errors import IndeterminateError
from ctxlog.model.records import NewRecord


def test_help_fits_on_one_screen_and_names_every_command(program: Program) -> None:
    shown = program("--help").out
    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) <= 80
    assert all(re.search(rf"\b{name}\b", shown) for name in COMMANDS)
    assert program("-h").out == program().out == shown


def test_the_program_starts_without_what_the_help_does_not_use() -> None:
    """`ctxlog --help` has 150 ms: no heavy library is imported for it."""
    code = (
        "import sys\nfrom ctxlog.cli import main\nsys.argv = ['ctxlog', '--help']\n"
        "try:\n main()\nexcept SystemExit:\n pass\n"
        "heavy = {'pydantic', 'fastavro', 'rich', 'sqlite3', 'asyncio', 'rfc8785'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = (
        "import sys, ctxlog\n"
        "heavy = {'pydantic', 'fastavro', 'click', 'rich', 'sqlite3'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(program: Program, name: str) -> None:
    shown = program(name, "--help").out
    assert shown.startswith(f"Usage: ctxlog {name} ")
    assert name == "demo" or "Example" in shown


def test_version_is_the_installed_one(program: Program) -> None:
    from importlib.metadata import version

    assert program("--version").out == f"ctxlog {version('ctxlog')}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stream",), "Did you mean streams"),
        (("streams", "--wrong"), "No such option"),
        (("streams", "-o", "xml"), "xml"),
        (("show",), "Missing argument"),
        (("append", "refunds/1"), "nothing to append"),
        (("append", "bad\nname", "--message", "user", "x"), "control character"),
        (("append", "refunds/1", "--fact", "key", "no json"), "expected JSON"),
        (("--log", "postgres:x", "streams"), "expected embedded:PATH"),
        (("import", "no-such-file.json"), "does not exist"),
        (("import", ".", "--format", "nonsense"), "expected one of tau-bench, openai"),
        (("import", ".", "--agent", "a/b"), "agent id"),
        (("init", "--partitions", "0"), "partitions"),
        (("completion", "tcsh"), "tcsh"),
    ],
)
def test_a_mistake_is_named_exits_with_2_and_creates_nothing(program: Program, arguments: tuple[str, ...], said: str) -> None:
    done = program(*arguments, code=2)
    assert said in done.err
    assert done.out == ""
    assert list(program.folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("streams",),
        ("show", "a/1"),
        ("log", "a/1"),
        ("replay", "a/1"),
        ("diff", "a/1", "a/2"),
        ("verify",),
        ("copy", "embedded:to"),
    ],
)
def test_reading_a_log_that_is_not_there_fails_and_creates_nothing(program: Program, arguments: tuple[str, ...]) -> None:
    done = program(*arguments, code=1)
    assert "there is no log here" in done.err
    assert "ctxlog init" in done.err
    assert list(program.folder.iterdir()) == []


def test_a_name_that_is_nearly_right_is_suggested(refunds: Program) -> None:
    assert "Did you mean 'refunds/1'" in refunds("show", "refund/1", code=1).err
    assert "a pattern, expected one stream" in refunds("show", "refunds/*", code=1).err
    assert "no point is taken here; there is 'refunds/1'" in refunds("log", "refunds/1@2", code=1).err


def test_a_stream_with_an_at_sign_in_its_name_can_be_asked_for(program: Program) -> None:
    program("append", "a/me@home", "--message", "user", "x")
    program("append", "a/me@3", "--message", "user", "x")
    assert "'a/me@home@latest'" in program("show", "a/me@home", code=2).err
    assert "'a/me@3@latest'" in program("show", "a/me@3", code=1).err
    assert program("show", "a/me@3@latest", "-o", "json").json["stream_id"] == "a/me@3"


def test_flag_beats_environment_beats_file_beats_default(program: Program) -> None:
    def place(*arguments: str, env: dict[str, str] | None = None) -> str:
        return str(program("init", "-o", "json", *arguments, env=env).json["log"])

    assert place() == "embedded:.ctxlog"
    (program.folder / "ctxlog.toml").write_text('log = "embedded:by-file"\n')
    assert place() == "embedded:by-file"
    assert place(env={"CTXLOG_URL": "embedded:by-environment"}) == "embedded:by-environment"
    assert place("--log", "embedded:by-flag", env={"CTXLOG_URL": "embedded:by-environment"}) == "embedded:by-flag"
    (program.folder / "ctxlog.toml").write_text("log = 5\n")
    assert "ctxlog.toml" in program("streams", code=1).err


def test_a_setting_that_is_spelled_wrong_is_no_other_log(program: Program) -> None:
    (program.folder / "ctxlog.toml").write_text('lgo = "embedded:mine"\n')
    assert "found lgo" in program("append", "a/1", "--message", "user", "x", code=1).err
    assert [path.name for path in program.folder.iterdir()] == ["ctxlog.toml"]


def test_programs_get_errors_as_an_object_with_coordinates(refunds: Program) -> None:
    done = refunds("append", "refunds/1", "--fact", "x", "1", "--expected-version", "3", "-o", "json", code=1)
    error = done.json["error"]
    assert (error["type"], error["stream_id"], error["actual"]) == ("ConflictError", "refunds/1", 4)
    assert error["message"] in done.err
    assert refunds("show", "refunds/9", "-o", "jsonl", code=1).json["error"]["type"] == "UnknownStreamError"
    assert refunds("show", "refunds/1@9", "-o", "jsonl", code=2).json["error"]["type"] == "PointError"


def test_an_error_that_is_to_be_resolved_names_the_events_and_shows_no_record() -> None:
    """A script finds by their ids what became of them; the records are what somebody wrote."""
    error = IndeterminateError("L", "a/b", [NewRecord(0, b"a/b", b"secret")], ["x", "y"], conditional=True, cause="it failed")
    told = json.loads(json.dumps(_error_of(error)))["error"]
    assert told.pop("message") == str(error)
    assert told == {"type": "IndeterminateError", "log_id": "L", "stream_id": "a/b", "event_ids": ["x", "y"], "conditional": True}


def test_output_that_cannot_be_written_is_a_failure_that_says_so(refunds: Program) -> None:
    for arguments in (("streams",), ("show", "refunds/1", "-o", "json"), ("verify",)):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [PROGRAM, *arguments], cwd=refunds.folder, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
            )
        assert done.returncode == 1
        assert "the output cannot be written: No space left on device" in done.stderr
        assert "fault" not in done.stderr


def test_log_and_output_are_taken_before_the_command_and_behind_it(refunds: Program) -> None:
    behind = refunds("streams", "--log", "embedded:.ctxlog", "-o", "json").out
    assert refunds("--log", "embedded:.ctxlog", "-o", "json", "streams").out == behind
    assert refunds("--log", "embedded:elsewhere", "streams", "--log", "embedded:.ctxlog", "--output", "json").out == behind


def test_a_reader_that_goes_away_ends_the_program_quietly(refunds: Program) -> None:
    for number in range(3):
        refunds("append", "long/1", *(["--message", "user", f"{number} " + "x" * 90_000]))
    running = refunds.start("log", "long/1", "-o", "jsonl")
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.read(10)
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(60) == 141


def test_ctrl_c_ends_a_command_with_130_and_one_word(program: Program, tmp_path: Path) -> None:
    """`append` waits for stdin here: nothing was appended, and no log was made."""
    running = subprocess.Popen(
        [Path(sys.executable).with_name("ctxlog"), "append", "a/1", "--events", "-"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        running.wait(1.5)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.strip() == "Interrupted."
    assert not (tmp_path / ".ctxlog").exists()


def test_a_file_that_is_no_log_is_refused_and_left_alone(program: Program) -> None:
    folder = program.folder / ".ctxlog"
    folder.mkdir()
    other = sqlite3.connect(folder / "log.sqlite")
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    before = (folder / "log.sqlite").read_bytes()
    assert "another SQLite file" in program("streams", code=1).err
    assert "another SQLite file" in program("append", "a/1", "--message", "user", "x", code=1).err
    assert (folder / "log.sqlite").read_bytes() == before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_the_shell_can_read(program: Program, shell: str) -> None:
    script = program("completion", shell).out
    assert "_CTXLOG_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)


def test_completion_offers_commands_options_and_streams(refunds: Program) -> None:
    def offered(line: str) -> str:
        words = line.split(" ")
        env = {"_CTXLOG_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return refunds(env=env).out

    assert "streams" in offered("ctxlog st")
    assert "--last" in offered("ctxlog show --l")
    assert "refunds/1" in offered("ctxlog show ref")
    assert "support/1" not in offered("ctxlog show ref")


def test_completion_is_silent_where_there_is_no_log(program: Program) -> None:
    env = {"_CTXLOG_COMPLETE": "bash_complete", "COMP_WORDS": "ctxlog show x", "COMP_CWORD": "2"}
    done = program(env=env)
    assert (done.out.strip(), done.err) == ("", "")
    assert list(program.folder.iterdir()) == []

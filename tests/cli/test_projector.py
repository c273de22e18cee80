"""`ctxlog projector` as a process: runs, is stopped by signals, says how far it is, makes views anew."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cli.conftest import Program
from ctxlog.cli.app import app
from ctxlog.projection.figures import Figures
from ctxlog.projection.metrics import Metrics, render
from running import contents, rows, until

VIEWS = Path(".ctxlog/views")


@contextmanager
def started(program: Program, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ctxlog projector run`, killed at the end where it still runs."""
    process = program.start("projector", "run", *arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_run_once_publishes_views_that_can_be_queried(refunds: Program) -> None:
    done = refunds("projector", "run", "--once")
    assert re.fullmatch(r"projected: \d+ records; published in .*/\.ctxlog/views/current\.duckdb\n", done.out)
    assert done.err == ""
    with duckdb.connect(str(refunds.folder / VIEWS / "current.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT version FROM contexts WHERE stream_id = 'refunds/1'").fetchone() == (4,)
    found = refunds("projector", "run", "--once", "-o", "json").json
    assert (found["records"], found["partitions"][0]["lag_events"]) == (0, 0)


def test_run_creates_no_log(program: Program) -> None:
    assert "there is no log here" in program("projector", "run", "--once", code=1).err
    assert not (program.folder / ".ctxlog").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_it_has_published(refunds: Program, number: signal.Signals, code: int) -> None:
    published = refunds.folder / VIEWS / "current.duckdb"
    with started(refunds, "--publish-seconds", "1000", "--metrics-port", "0") as process:
        url = metrics_of(process)
        until(lambda: rows(published))
        before = rows(published)
        refunds("append", "refunds/9", "--message", "user", "Late")
        until(lambda: scrape(url)["ctxlog_projector_records_total"][""] == before + 1)
        assert rows(published) == before
        found, out, err = ended(process, number)
    assert found == code, err
    assert "Traceback" not in err
    assert ("Interrupted." in err) == (number == signal.SIGINT)
    assert ("projected: " in out) == (number == signal.SIGTERM)
    assert rows(published) == before + 1


def test_a_kill_loses_and_doubles_nothing(refunds: Program) -> None:
    published = refunds.folder / VIEWS / "current.duckdb"
    for number in range(3):
        with started(refunds, "--publish-seconds", "0.1") as process:
            refunds("append", f"refunds/{number}", "--message", "user", "Hello")
            if number:
                until(lambda: rows(published))
            process.kill()
            process.wait()
    refunds("projector", "run", "--once")
    refunds("projector", "run", "--once", "--instance", "whole")
    assert contents(published) == contents(published.with_name("whole.duckdb"))


def test_a_second_projector_says_so_and_leaves_and_so_does_rebuild(refunds: Program) -> None:
    with started(refunds) as process:
        until(lambda: rows(refunds.folder / VIEWS / "current.duckdb"))
        for command in (["run"], ["run", "--once"], ["rebuild"]):
            assert "another projector works on these views" in refunds("projector", *command, code=1).err
        refunds("projector", "run", "--once", "--instance", "b")
        assert ended(process, signal.SIGTERM)[0] == 0
    refunds("projector", "rebuild")


def test_status_tells_how_far_the_published_files_are(refunds: Program) -> None:
    assert "`ctxlog projector run` makes them" in refunds("projector", "status", code=1).err
    refunds("projector", "run", "--once", "--instance", "old")
    refunds("append", "refunds/1", "--message", "user", "More")
    refunds("projector", "run", "--once")
    refunds("append", "refunds/1", "--message", "user", "And more")
    refunds("append", "refunds/1", "--message", "user", "And more")
    found = refunds("projector", "status", "-o", "json").json
    (row,) = found["partitions"]
    assert (row["lag_events"], row["end_offset"] - row["next_offset"]) == (2, 2)
    assert 0 < row["lag_seconds"] < 60
    assert 0 <= row["age_seconds"] < 60
    assert row["file"].endswith("/current.duckdb")
    assert row["size_bytes"] == (refunds.folder / row["file"]).stat().st_size
    (line,) = refunds("projector", "status", "-o", "jsonl").lines
    assert line.keys() == row.keys()
    head, body = refunds("projector", "status").out.splitlines()
    assert head.split() == ["PARTITION", "NEXT", "OFFSET", "LAG", "EVENTS", "LAG", "TIME", "AGE", "SIZE", "FILE"]
    assert body.endswith("current.duckdb")


def test_status_reads_what_is_published_while_a_projector_runs(refunds: Program) -> None:
    with started(refunds) as process:
        until(lambda: rows(refunds.folder / VIEWS / "current.duckdb"))
        assert refunds("projector", "status", "-o", "json").json["partitions"][0]["next_offset"] > 0
        assert ended(process, signal.SIGTERM)[0] == 0


def test_status_passes_over_files_that_are_no_views_of_this_log(refunds: Program) -> None:
    folder = refunds.folder / VIEWS
    refunds("append", "a", "--message", "user", "Hello", "--log", "embedded:other")
    refunds("projector", "run", "--once", "--log", "embedded:other", "--views", str(folder), "--instance", "other")
    (folder / "broken.duckdb").write_bytes(b"no database")
    assert "there are no views of this log" in refunds("projector", "status", code=1).err
    assert "other.duckdb: these are views of another log" in refunds("projector", "run", "--once", code=1).err
    (folder / "other.duckdb").rename(folder / "other")
    refunds("projector", "run", "--once")
    (folder / "other").rename(folder / "other.duckdb")
    done = refunds("projector", "status")
    assert "broken.duckdb: no views that can be read" in done.err
    assert "other.duckdb: views of another log" in done.err
    message = refunds("projector", "run", "--once", "--instance", "other", code=1).err
    assert "these are views of log" in message


def test_rebuild_makes_damaged_views_right_again(refunds: Program) -> None:
    refunds("projector", "run", "--once")
    folder = refunds.folder / VIEWS
    before = contents(folder / "current.duckdb")
    with duckdb.connect(str(folder / ".current.duckdb")) as connection:
        connection.execute("DELETE FROM events WHERE stream_id = 'refunds/1'")
    refunds("append", "refunds/1", "--message", "user", "More")
    found = refunds("projector", "rebuild", "-o", "json").json
    assert found["records"] == len(before["events"]) + 1
    refunds("projector", "run", "--once", "--instance", "whole")
    assert contents(folder / "current.duckdb") == contents(folder / "whole.duckdb")
    assert sorted(path.name for path in folder.glob(".current*")) == [".current.duckdb", ".current.duckdb.lock"]


def test_rebuild_takes_the_place_of_a_file_that_is_no_database(refunds: Program) -> None:
    folder = refunds.folder / VIEWS
    folder.mkdir(parents=True)
    (folder / ".current.duckdb").write_bytes(b"no database" * 1000)
    assert "cannot be used" in refunds("projector", "run", "--once", code=1).err
    refunds("projector", "rebuild")
    refunds("projector", "run", "--once")
    assert rows(folder / "current.duckdb") > 0


@pytest.mark.parametrize("name", [".x", "a/b", "", "x" * 65])
def test_names_that_are_none_are_usage_errors(refunds: Program, name: str) -> None:
    assert "at most 64" in refunds("projector", "run", "--once", "--instance", name, code=2).err


def metrics_of(process: subprocess.Popen[str]) -> str:
    """Where a projector says that its metrics are."""
    assert process.stderr is not None
    found = re.fullmatch(r"Metrics: (http://127\.0\.0\.1:\d+/metrics)\n", process.stderr.readline())
    assert found is not None
    return found[1]


def scrape(url: str) -> dict[str, dict[str, float]]:
    """Samples by metric and labels; checks that each metric has HELP and TYPE, once and in this order, before its samples."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - a projector's
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    assert text.endswith("\n")
    lines = iter(text.splitlines())
    name = ""
    for line in lines:
        if match := re.fullmatch(r"# HELP ([a-z_]+) \S.*", line):
            name = match[1]
            assert name not in found
            found[name] = {}
            kind = re.fullmatch(rf"# TYPE {name} (counter|gauge)", next(lines))
            assert kind is not None
            assert (kind[1] == "counter") == name.endswith("_total")
        else:
            sample = re.fullmatch(rf'{name}((?:\{{[a-z]+="[a-z0-9]+"\}})?) (-?[0-9.e+]+)', line)
            assert sample is not None, line
            found[name][sample[1]] = float(sample[2])
    return found


def test_metrics_are_served_on_this_machine_for_prometheus(refunds: Program) -> None:
    before = time.time()
    with started(refunds, "--metrics-port", "0", "--publish-seconds", "0.1") as process:
        url = metrics_of(process)
        refunds("append", "refunds/1", "--message", "user", "More")
        end = refunds("projector", "run", "--once", "--instance", "b", "-o", "json").json["partitions"][0]["next_offset"]
        until(lambda: scrape(url)["ctxlog_projector_next_offset"].get('{partition="0"}') == end)
        until(lambda: scrape(url)["ctxlog_projector_published_timestamp_seconds"][""])
        found = scrape(url)
        assert found["ctxlog_projector_records_total"][""] == end
        assert found["ctxlog_projector_batches_total"][""] >= 1
        assert found["ctxlog_projector_lag_events"] == {'{partition="0"}': 0}
        assert found["ctxlog_projector_lag_seconds"] == {'{partition="0"}': 0}
        assert found["ctxlog_projector_paused"] == {'{reason="disk"}': 0, '{reason="memory"}': 0, '{reason="log"}': 0}
        assert before < found["ctxlog_projector_published_timestamp_seconds"][""] < time.time()
        assert 0 < found["ctxlog_projector_last_publish_seconds"][""] < 60
        assert before - 1 < found["process_start_time_seconds"][""] < time.time()
        for path in ("/", "/metrics/x", "/favicon.ico"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url.removesuffix("/metrics") + path, timeout=10)  # noqa: S310
            assert refused.value.code == 404
        taken = refunds(
            "projector", "run", "--once", "--instance", "b", "--metrics-port", url.split(":")[2].split("/")[0], code=1
        )
        assert "cannot be listened on" in taken.err
        assert ended(process, signal.SIGTERM)[0] == 0


def test_metrics_tell_what_waits_and_why() -> None:
    figures = Figures()
    figures.measure({0: 7, 3: 5}, {0: 7, 3: 9}, {3: time.time() - 100})
    figures.paused = "disk"
    with Metrics(figures, 0) as metrics:
        found = scrape(metrics.url)
    assert found["ctxlog_projector_lag_events"] == {'{partition="0"}': 0, '{partition="3"}': 4}
    assert found["ctxlog_projector_lag_seconds"]['{partition="0"}'] == 0
    assert 100 <= found["ctxlog_projector_lag_seconds"]['{partition="3"}'] < 200
    assert found["ctxlog_projector_paused"] == {'{reason="disk"}': 1, '{reason="memory"}': 0, '{reason="log"}': 0}
    assert found["ctxlog_projector_published_timestamp_seconds"] == {"": 0}
    assert "\n\n" not in render(figures)


def test_a_terminal_shows_one_line_that_is_written_again_and_again(refunds: Program) -> None:
    from cli.conftest import PROGRAM, environment

    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [PROGRAM, "projector", "run", "--publish-seconds", "0.1"], cwd=refunds.folder, env=environment(refunds.folder),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown = b""

    def has_published() -> Any:
        nonlocal shown
        shown += os.read(controller, 4096)
        return re.search(rb"\r\d+ records, [\d,]+/s, 0 behind \(0\.0 s\), published \d\d:\d\d:\d\d", shown)

    try:
        until(has_published)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
        os.close(controller)
    assert b"\n" not in shown


def test_views_of_an_older_release_are_made_anew_by_run(refunds: Program) -> None:
    refunds("projector", "run", "--once")
    folder = refunds.folder / VIEWS
    for name in (".current.duckdb", "current.duckdb"):
        with duckdb.connect(str(folder / name)) as connection:
            connection.execute("UPDATE projection.file SET view_version = 0")
    assert "of another version of the views" in refunds("projector", "status").err
    done = refunds("projector", "run", "--once")
    assert "They are made anew; what is published stays until they are complete." in done.err
    assert refunds("projector", "status").err == ""
    assert json.loads(refunds("projector", "status", "-o", "jsonl").out)["lag_events"] == 0


def test_what_duckdb_keeps_beside_the_file_is_for_its_owner_alone(refunds: Program) -> None:
    refunds("projector", "run", "--once")
    with started(refunds, "--publish-seconds", "60"):
        views = refunds.folder / VIEWS
        beside = views / ".current.duckdb.wal"
        until(lambda: refunds("append", "refunds/1", "--message", "user", "hi") and beside.exists())
        assert {path.name: path.stat().st_mode & 0o077 for path in views.glob(".current.duckdb*") if path.suffix != ".lock"} == {
            ".current.duckdb": 0,
            ".current.duckdb.wal": 0,
        }


@pytest.mark.parametrize("option", ["--publish-seconds", "--sign-seconds"])
def test_nan_is_no_number_of_seconds(refunds: Program, option: str) -> None:
    assert "is not a finite number" in refunds("projector", "run", option, "nan", code=2).err


def test_a_ctrl_c_in_duckdb_is_an_interruption_and_no_fault(refunds: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB makes this of it, where it looks at signals in time; it does not always."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Query interrupted")

    monkeypatch.setattr("ctxlog.projection.rebuild.rebuild", fails)
    monkeypatch.chdir(refunds.folder)
    with pytest.raises(SystemExit) as ended_with:
        app.main(["projector", "rebuild"])
    assert ended_with.value.code == 130

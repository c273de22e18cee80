"""`ctxlog query`: forms of output, sizes, mistakes, Ctrl-C, terminals."""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from cli.conftest import PROGRAM, Program, environment
from ctxlog import ContextLog
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.wiring import views_folder
from views_made import published

RUNS_LONG = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log and its views, to be copied."""
    folder: Path = tmp_path_factory.mktemp("views")
    with ContextLog.open(f"embedded:{folder / '.ctxlog'}") as log:
        context = log.context("refunds/1")
        context.add_message("user", "Please refund order W-204.")
        context.set_fact("order.total", 129.90)
        context.add_message("assistant", "Done.")
        context.set_fact("refunded", True)
        for stream_id in ("refunds/2", "support/1"):
            log.context(stream_id).add_message("user", "Hello")
    make_views(folder / ".ctxlog")
    return folder


def make_views(folder: Path) -> None:
    """Project the log of a folder and publish its views."""
    log = EmbeddedLog(folder, create=False)
    published(log, folder / "views")
    log.close()


@pytest.fixture
def views(program: Program, made: Path) -> Program:
    """A folder with a log and its views: `refunds/1` at version 4, `refunds/2` and `support/1` at version 1."""
    shutil.copytree(made / ".ctxlog", program.folder / ".ctxlog")
    return program


def raw(program: Program, *arguments: str) -> bytes:
    """Stdout, as bytes."""
    return subprocess.run(
        [PROGRAM, "query", *arguments], cwd=program.folder, env=environment(program.folder), capture_output=True, check=True
    ).stdout


def test_a_table_is_aligned_and_says_nothing_else(views: Program) -> None:
    done = views("query", "SELECT stream_id, version, closed, parent_stream_id FROM contexts ORDER BY 1")
    assert done.out.splitlines() == [
        "stream_id  version  closed  parent_stream_id",
        "refunds/1        4  false   NULL",
        "refunds/2        1  false   NULL",
        "support/1        1  false   NULL",
    ]
    assert done.err == ""


def test_json_is_one_object_with_columns_rows_and_coverage(views: Program) -> None:
    found = views("query", "SELECT stream_id, version, NULL AS nothing FROM contexts ORDER BY 1 LIMIT 1", "-o", "json").json
    assert found["columns"] == [
        {"name": "stream_id", "type": "VARCHAR"},
        {"name": "version", "type": "BIGINT"},
        {"name": "nothing", "type": '"NULL"'},
    ]
    assert found["rows"] == [["refunds/1", 4, None]]
    (partition,) = found["coverage"]
    assert partition["next_offset"] == partition["end_offset"] > 6
    assert (partition["partition"], partition["lag_events"], partition["lag_seconds"]) == (0, 0, 0)
    assert 0 <= partition["age_seconds"] < 120
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", partition["published_at"])
    assert views("query", "SELECT 1 WHERE false", "-o", "json").json["rows"] == []


def test_jsonl_is_one_object_a_row(views: Program) -> None:
    assert views("query", "SELECT 1 AS a, 2 AS a, 'x' AS a_1", "-o", "jsonl").lines == [{"a": 1, "a_1": 2, "a_1_1": "x"}]
    assert views("query", "SELECT 1 WHERE false", "-o", "jsonl").out == ""


def test_csv_tells_null_from_an_empty_text_and_quotes_what_must_be(views: Program) -> None:
    sql = """SELECT NULL AS n, '' AS e, 'a,"b"' AS "q,", 'two' || chr(10) || 'lines' AS l, true AS t, 1.5 AS d, [1, NULL] AS i"""
    assert views("query", sql, "-o", "csv").out == 'n,e,"q,",l,t,d,i\n,"","a,""b""","two\nlines",true,1.5,"[1, null]"\n'
    back = duckdb.connect().execute("FROM read_csv($1, nullstr = '', allow_quoted_nulls = false)", [_kept(views, sql)]).fetchall()
    assert back[0][:4] == (None, "", 'a,"b"', "two\nlines")


def _kept(program: Program, sql: str) -> str:
    path = program.folder / "kept.csv"
    path.write_bytes(raw(program, sql, "-o", "csv"))
    return str(path)


def test_parquet_is_read_back_as_it_was_asked_for(views: Program) -> None:
    table = pq.read_table(io.BytesIO(raw(views, "SELECT stream_id, version, version, recorded_at, fact_values FROM contexts "
        "JOIN (SELECT stream_id, max(recorded_at) AS recorded_at FROM messages GROUP BY 1) USING (stream_id) ORDER BY 1",
        "-o", "parquet")))  # fmt: skip
    assert table.column_names == ["stream_id", "version", "version_1", "recorded_at", "fact_values"]
    assert table["version"].to_pylist() == [4, 1, 1]
    assert table["fact_values"].to_pylist()[0] == [("order.total", "129.9"), ("refunded", "true")]
    big = pq.read_table(io.BytesIO(raw(views, "SELECT sum(range) * 10000000000000000000 AS s FROM range(10)", "-o", "parquet")))
    assert int(big["s"].to_pylist()[0]) == 45 * 10**19


@pytest.mark.parametrize("value", ["INTERVAL 1 DAY", "'101'::BIT", "'1'::BIGNUM", "{'a': [INTERVAL 1 DAY]}"])
def test_what_parquet_has_no_form_for_is_refused(views: Program, value: str) -> None:
    done = views("query", f"SELECT {value} AS v", "-o", "parquet", code=2)
    assert "Parquet has no" in done.err
    assert done.out == ""


VALUES = [
    ("TIMESTAMP '2026-11-22 14:02:00'", "2026-11-22T14:02:00Z"),
    ("TIMESTAMP '2026-11-22 14:02:00.123'", "2026-11-22T14:02:00.123Z"),
    ("TIMESTAMP '2026-11-22 14:02:00.123456'", "2026-11-22T14:02:00.123456Z"),
    ("TIMESTAMPTZ '2026-11-22 14:02:00+05:30'", "2026-11-22T08:32:00Z"),
    ("DATE '2026-11-22'", "2026-11-22"),
    ("TIME '14:02:00'", "14:02:00"),
    ("INTERVAL '1 day 2.5 seconds'", "P1DT2.5S"),
    ("-INTERVAL '90 minutes'", "-PT5400S"),
    ("INTERVAL 0 DAY", "PT0S"),
    ("'nan'::DOUBLE", "NaN"),
    ("'inf'::FLOAT", "Infinity"),
    ("-'inf'::DOUBLE", "-Infinity"),
    ("170141183460469231731687303715884105727", 2**127 - 1),
    ("9007199254740993", 2**53 + 1),
    ("1.10", 1.1),
    ("12345678901234567.123", "12345678901234567.123"),
    ("'\\xAB\\x00'::BLOB", "ab00"),
    ("'c0ffee00-0000-4000-8000-000000000001'::UUID", "c0ffee00-0000-4000-8000-000000000001"),
    ("[[1], NULL]", [[1], None]),
    ("{'a': 1, 'b': {'c': [TIMESTAMP '2026-01-01']}}", {"a": 1, "b": {"c": ["2026-01-01T00:00:00Z"]}}),
    ("MAP {'a': 1.5}", {"a": 1.5}),
    ("MAP {1: 'x'}", {"1": "x"}),
    ("""'{"a": [1, 2]}'::JSON""", '{"a": [1, 2]}'),
    ("true", True),
]


def test_values_as_programs_read_them(views: Program) -> None:
    """Whatever zone the machine is in."""
    asked = ", ".join(value for value, _ in VALUES)
    (row,) = views("query", f"SELECT {asked}", "-o", "json", env={"TZ": "America/New_York"}).json["rows"]
    assert [(value, found) for (value, _), found in zip(VALUES, row, strict=True)] == VALUES


def test_sql_is_read_from_stdin(views: Program) -> None:
    assert views("query", "-", "-o", "csv", typed="SELECT 'ü' AS a -- and so on\n").out == "a\nü\n"
    assert "UTF-8" in views("query", "-", typed=b"SELECT '\xff'", code=2).err
    assert "at most" in views("query", "-", typed=b" " * 1_000_001, code=2).err


def test_explain_is_shown_as_it_is_drawn(views: Program) -> None:
    assert len(views("query", "EXPLAIN FROM facts").out.splitlines()) > 5


def test_a_mistake_exits_with_2_and_shows_the_place(views: Program) -> None:
    done = views("query", "SELECT stream_id,\n  versoin FROM contexts", code=2)
    assert "LINE 2:   versoin FROM contexts" in done.err
    assert 'Candidate bindings: "version"' in done.err
    assert done.out == ""
    assert views("query", "SELECT x", "-o", "json", code=2).json["error"]["type"] == "InvalidInputError"
    assert views("query", "SELECT x", "-o", "csv", code=2).out == ""
    for sql, said in (("SELECT 1; SELECT 2", "2 statements"), ("DROP TABLE events", "expected a statement that reads")):
        assert said in views("query", sql, code=2).err


@pytest.mark.parametrize(
    "arguments",
    [("-o", "xml"), ("--timeout", "0"), ("--timeout", "nan"), ("--timeout", "x"), ("--memory", "much"), ("--memory", "1KB")],
)
def test_an_option_that_is_wrong_is_named(views: Program, arguments: tuple[str, ...]) -> None:
    assert arguments[1] in views("query", "SELECT 1", *arguments, code=2).err


def test_where_no_views_are_it_is_said_how_to_make_them(program: Program) -> None:
    done = program("query", "SELECT 1", code=1)
    assert "projector run --once" in done.err
    assert list(program.folder.iterdir()) == []
    (program.folder / "elsewhere").mkdir()
    assert "no views are published here" in program("query", "SELECT 1", "--views", "elsewhere", code=1).err


def test_the_log_is_not_opened(views: Program) -> None:
    """An analyst may have the views and nothing else; no broker is asked either."""
    (views.folder / ".ctxlog" / "views").rename(views.folder / "given")
    (views.folder / ".ctxlog" / "log.sqlite").unlink()
    assert views("query", "SELECT count(*) AS n FROM contexts", "--views", "given", "-o", "csv").out == "n\n3\n"
    url = "kafka://127.0.0.1:9"
    of_kafka = views.folder / views_folder(url)
    of_kafka.parent.mkdir(parents=True)
    (views.folder / "given").rename(of_kafka)
    assert views("query", "SELECT count(*) AS n FROM contexts", "--log", url, "-o", "csv").out == "n\n3\n"


def test_no_log_is_answered_from_the_views_of_another_one(views: Program) -> None:
    """Each has a folder of its own, and the answer in JSON says whose it is."""
    for url in ("kafka://127.0.0.1:9", "kafka://127.0.0.1:9?topic=other", "embedded:second"):
        assert "so no views" in views("query", "SELECT 1", "--log", url, code=1).err
    for url in ("memory:", "nowhere", "embedded:", "kafka://"):
        assert "Error: " in views("query", "SELECT 1", "--log", url, code=2).err
    of_log = views("projector", "status", "-o", "json").json["log_id"]
    assert views("query", "SELECT 1", "-o", "json").json["log_id"] == of_log


def test_of_another_log_the_views_of_that_one_are_asked(views: Program) -> None:
    views("append", "other/1", "--message", "user", "x", "--log", "embedded:second")
    make_views(views.folder / "second")
    assert views("query", "SELECT stream_id AS s FROM streams", "--log", "embedded:second", "-o", "csv").out == "s\nother/1\n"


def test_old_views_are_said_to_be_to_people_and_in_json(views: Program) -> None:
    path = views.folder / ".ctxlog" / "views" / "current.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE projection.publication SET published_at = published_at - INTERVAL 3 HOUR")
        connection.execute("UPDATE projection.progress SET end_offset = end_offset + 1200")
    done = views("query", "SELECT 1 AS one")
    assert done.out == "one\n  1\n"
    assert "published 3 hours ago and were 1,200 records behind the log then" in done.err
    coverage = views("query", "SELECT 1", "-o", "json").json["coverage"]
    assert coverage[0]["lag_events"] == 1200
    assert 3 * 3600 <= coverage[0]["age_seconds"] < 3 * 3600 + 120
    assert "published 3 hours ago" in views("query", "SELECT 1", "-o", "csv").err  # what is kept is told from what is new


HOSTILE = "SELECT 'a' || chr(27) || ']0;x' || chr(7) || chr(8238) || chr(10) || 'b' AS h"


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
def test_values_cannot_drive_a_terminal(views: Program, form: str) -> None:
    out = views("query", HOSTILE, "-o", form).out
    assert not set("\x1b\x07\u202e") & set(out)
    error = views("query", "SELECT error('a' || chr(27) || '[2J')", code=2).err
    assert "\x1b" not in error


def on_terminal(program: Program, *arguments: str, columns: int = 60) -> str:
    """What a terminal gets to see."""
    import fcntl
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    seen = {**environment(program.folder), "NO_COLOR": "1", "TERM": "xterm"}
    seen.pop("COLUMNS")
    with subprocess.Popen(
        [PROGRAM, "query", *arguments], cwd=program.folder, env=seen, stdin=follower, stdout=follower, stderr=follower
    ):
        os.close(follower)
        out = b""
        try:
            while data := os.read(leader, 65536):
                out += data
        except OSError:  # The other end is closed.
            pass
    os.close(leader)
    return out.decode()


def test_on_a_terminal_rows_fit_and_what_does_not_is_said(views: Program) -> None:
    out = on_terminal(views, "SELECT stream_id, repeat('long ', 100) AS text, version FROM contexts ORDER BY 1")
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].startswith("refunds/1  long long")
    assert lines[1].endswith("…        4")
    assert "columns more did not fit" in on_terminal(views, "FROM events")


def test_on_a_terminal_csv_cannot_drive_it_and_parquet_is_refused(views: Program) -> None:
    assert "\x1b" not in on_terminal(views, HOSTILE, "-o", "csv")
    assert "\x1b" in views("query", HOSTILE, "-o", "csv").out  # A file gets what was asked for.
    out = on_terminal(views, "FROM facts", "-o", "parquet")
    assert "Parquet is not for terminals" in out
    assert "PAR1" not in out


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "parquet"])
def test_a_reader_that_goes_away_ends_it_quietly(views: Program, form: str) -> None:
    with views.start("query", "SELECT range, repeat('x', 1000) AS x FROM range(100000000)", "-o", form) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.buffer.read(3)  # type: ignore[attr-defined]
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""


def test_ctrl_c_ends_it(views: Program) -> None:
    with views.start("query", f"SELECT range FROM range(100000) UNION ALL {RUNS_LONG}", "-o", "jsonl") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(90_000)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert lines[-1] == '{"range": 89999}\n'
    assert (process.returncode, err.strip()) == (130, "Interrupted.")


def test_what_takes_too_long_is_stopped(views: Program) -> None:
    begin = time.monotonic()
    done = views("query", RUNS_LONG, "--timeout", "0.5", "-o", "json", code=1)
    assert done.json["error"]["type"] == "QueryStoppedError"
    assert time.monotonic() - begin < 60


def test_what_does_not_stop_is_left_behind(views: Program) -> None:
    """Some functions of DuckDB look up only when they are done."""
    begin = time.monotonic()
    done = views(
        "query", "SELECT list_reduce(range(100000000), lambda x, y: x + y)", "--timeout", "0.5", "--memory", "2GB", code=1
    )
    assert "longer than 0.5 s" in done.err
    assert time.monotonic() - begin < 60


MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:], stdout=open(sys.argv[1], "wb")).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""In a small process of its own: what a process takes at most counts from what the one took that started it."""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such limit")
@pytest.mark.parametrize("form", ["json", "parquet"])
def test_texts_that_sql_makes_on_the_way_do_not_take_the_memory_of_the_machine(views: Program, form: str) -> None:
    """DuckDB does not count them. This would take three gigabytes."""
    sql = "SELECT count(*) AS n FROM (SELECT repeat(range::VARCHAR, 100000000) AS x FROM range(1, 20)) WHERE length(x) > 5"
    command = [sys.executable, "-S", "-c", MEASURE, os.devnull, str(PROGRAM), "query", sql, "-o", form, "--memory", "100MB"]
    done = subprocess.run(command, cwd=views.folder, env=environment(views.folder), capture_output=True, text=True, check=True)
    code, peak = map(int, done.stdout.split())
    assert code == 1
    assert peak * 1024 < 1.1e9
    assert form == "json" or "more memory than 100MB; it was stopped" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "parquet"])
def test_an_answer_of_any_size_takes_little_memory(views: Program, form: str) -> None:
    """Two million rows, a quarter of a gigabyte; it need not fit anywhere."""
    sql = "SELECT repeat('y', 100) AS y, range AS a FROM range(2000000)"
    made = views.folder / "out"
    command = [sys.executable, "-S", "-c", MEASURE, str(made), str(PROGRAM), "query", sql, "-o", form, "--timeout", "600"]
    done = subprocess.run(command, cwd=views.folder, env=environment(views.folder), capture_output=True, text=True, check=True)
    code, peak = map(int, done.stdout.split())
    assert code == 0
    assert peak * (1 if sys.platform == "darwin" else 1024) < 400e6
    if form == "parquet":
        assert pq.read_metadata(made).num_rows == 2_000_000
        return
    with made.open("rb") as file:
        file.seek(-100, os.SEEK_END)
        last = file.read().decode()
        file.seek(0)
        assert sum(1 for _ in file) == {"table": 1, "csv": 1, "json": 4, "jsonl": 0}[form] + 2_000_000
    assert "1999999" in last
    assert form != "json" or last.endswith("\n]}\n")

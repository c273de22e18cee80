"""Published views opened for reading: one file or several, the furthest of each partition, and what is refused."""

from __future__ import annotations

import io
import math
import random
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ctxlog import ContextLog
from ctxlog.errors import InvalidInputError, QueryStoppedError, ViewsBusyError, ViewsError, ViewsOutdatedError
from ctxlog.projection import published as published_files
from ctxlog.projection.projector import Projector
from ctxlog.projection.query import Views
from views_made import STREAMS, all_of, asked, log_of, published, write_more

RUNS_LONG = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"


@pytest.fixture
def views_folder(tmp_path: Path) -> Path:
    """Views of a log, published by one instance."""
    published(log_of(), tmp_path)
    return tmp_path


def test_one_file_is_read_under_its_documented_names(views_folder: Path) -> None:
    with Views(views_folder) as views:
        assert asked(views, "SELECT count(*) FROM messages") == [(12,)]
        assert asked(views, "SELECT value FROM facts WHERE stream_id = 'agent-3/thread'") == [("250",)]
        assert [partition.partition for partition in views.coverage] == [0, 1, 2, 3]
        assert all(partition.lag_events == 0 and 0 <= partition.age_seconds < 60 for partition in views.coverage)


def test_several_files_say_together_what_one_says(tmp_path: Path) -> None:
    """Each partition is read where it is furthest: behind in one file, in two, or only in one."""
    log = log_of()
    published(log, tmp_path / "several", "a", [0, 1, 2])
    write_more(log)
    published(log, tmp_path / "several", "b", [1, 3])
    write_more(log)
    published(log, tmp_path / "several", "c", [0])
    published(log, tmp_path / "several", "d", [1, 2])
    published(log, tmp_path / "several", "b", [3])
    published(log, tmp_path / "one")
    expected = all_of(tmp_path / "one")
    assert all_of(tmp_path / "several") == expected
    assert len(expected) >= 11
    assert all(expected[name] for name in ("events", "streams", "facts", "tool_calls", "contexts", "agents", "coverage"))


def test_a_stale_file_beside_a_fresh_one_does_no_harm(tmp_path: Path) -> None:
    log = log_of()
    published(log, tmp_path, "stale")
    write_more(log)
    published(log, tmp_path, "fresh")
    with Views(tmp_path) as views:
        assert asked(views, "SELECT count(*) FROM messages") == [(24,)]


def test_of_files_that_are_equally_far_the_newer_one_says_how_old_it_is(tmp_path: Path) -> None:
    log = log_of()
    published(log, tmp_path, "b")
    published(log, tmp_path, "a", [0, 1])
    with Views(tmp_path) as views:
        times = {source.path.name: source.published_at[None] for source in views.sources}
        found = {partition.partition: partition.published_at for partition in views.coverage}
    assert times["a.duckdb"] > times["b.duckdb"]
    assert found == dict.fromkeys((0, 1), times["a.duckdb"]) | dict.fromkeys((2, 3), times["b.duckdb"])


def test_a_file_that_is_swapped_stays_as_it_was_opened(tmp_path: Path) -> None:
    log = log_of()
    published(log, tmp_path)
    with Views(tmp_path) as views:
        before = asked(views, "FROM streams ORDER BY ALL")
        write_more(log)
        published(log, tmp_path)
        assert asked(views, "FROM streams ORDER BY ALL") == before
        assert asked(views, "SELECT count(*) FROM messages") == [(12,)]
        with Views(tmp_path) as later:
            assert asked(later, "SELECT count(*) FROM messages") == [(24,)]


def test_a_file_that_is_deleted_while_it_is_open_can_be_read(views_folder: Path) -> None:
    with Views(views_folder) as views:
        (views_folder / "current.duckdb").unlink()
        assert asked(views, "SELECT count(*) FROM messages") == [(12,)]


@pytest.mark.parametrize("made", [False, True])
def test_where_nothing_is_published_it_is_said_how_to_publish(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "views"
    if made:
        folder.mkdir()
        (folder / ".current.duckdb").touch()
    with pytest.raises(ViewsError, match="projector run --once"):
        Views(folder)


def test_views_of_another_log_are_refused_by_name(views_folder: Path) -> None:
    published(log_of(), views_folder, "other")
    with pytest.raises(ViewsError, match=r"other\.duckdb: these are views of log .*current\.duckdb beside it"):
        Views(views_folder)


@pytest.mark.parametrize("column", ["rules", "fold_version", "view_version"])
def test_views_of_another_version_are_refused_by_name(views_folder: Path, column: str) -> None:
    shutil.copy(views_folder / "current.duckdb", views_folder / "old.duckdb")
    with duckdb.connect(str(views_folder / "old.duckdb")) as connection:
        connection.execute(f"UPDATE projection.file SET {column} = 99")
    with pytest.raises(ViewsOutdatedError, match=r"old\.duckdb: .*99"):
        Views(views_folder)


def test_a_projectors_own_file_is_refused(tmp_path: Path) -> None:
    projector = Projector(log_of(), tmp_path / "mine.duckdb")
    projector.run_once()
    projector.close()
    with pytest.raises(ViewsError, match="never published"):
        Views(tmp_path)


def test_files_that_are_no_views_are_refused_by_name(views_folder: Path) -> None:
    foreign = views_folder / "zoo.duckdb"
    for content in (b"", b"SQLite format 3\0" + bytes(5000), random.Random(1).randbytes(100_000)):
        foreign.write_bytes(content)
        with pytest.raises(ViewsError, match=r"zoo\.duckdb: this is no published file"):
            Views(views_folder)
    foreign.unlink()
    for made in ("CREATE TABLE events (a INTEGER)", "CREATE SCHEMA projection; CREATE TABLE projection.file (a INTEGER)"):
        with duckdb.connect(str(foreign)) as connection:
            connection.execute(made)
        with pytest.raises(ViewsError, match=r"zoo\.duckdb: this is no published file"):
            Views(views_folder)
        foreign.unlink()


def test_a_damaged_file_never_gives_wrong_data(tmp_path: Path) -> None:
    """Cut off or overwritten anywhere, it says what it said before, or that it is damaged."""
    path = published(log_of(), tmp_path)
    whole, expected, dice, told = path.read_bytes(), all_of(tmp_path), random.Random(7), 0
    for number in range(30):
        place = dice.randrange(len(whole))
        path.write_bytes(whole[:place] if number % 3 == 0 else whole[:place] + dice.randbytes(64) + whole[place + 64 :])
        try:
            assert all_of(tmp_path) == expected
        except ViewsError as error:
            told += "damaged" in str(error) or "cannot be read to their end" in str(error)
    assert told > 5


def test_a_file_that_somebody_wrote_to_is_refused(views_folder: Path) -> None:
    """DuckDB keeps what it has not put into the file beside it, and would show it as published."""
    writer = duckdb.connect(str(views_folder / "current.duckdb"))
    with pytest.raises(ViewsError):
        Views(views_folder)
    writer.execute("SET checkpoint_threshold = '1TB'; PRAGMA disable_checkpoint_on_shutdown; DELETE FROM events")
    writer.close()
    with pytest.raises(ViewsError, match="opened it for writing"):
        Views(views_folder)


def test_a_file_that_another_process_has_open_for_writing_is_busy(views_folder: Path) -> None:
    import subprocess
    import sys

    code = f"import duckdb, sys; c = duckdb.connect({str(views_folder / 'current.duckdb')!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(ViewsBusyError, match="readonly"):
            Views(views_folder)
        holder.communicate("\n")
    with Views(views_folder) as views:
        assert asked(views, "SELECT count(*) FROM streams") == [(12,)]


def test_readers_do_not_hinder_each_other(views_folder: Path) -> None:
    with Views(views_folder) as one, Views(views_folder) as other:
        assert asked(one, "FROM facts ORDER BY ALL") == asked(other, "FROM facts ORDER BY ALL")


@pytest.mark.parametrize("sql", ["", " ;; ", "-- nothing"])
def test_no_statement_is_refused(views_folder: Path, sql: str) -> None:
    with Views(views_folder) as views, pytest.raises(InvalidInputError, match="no statement"):
        views.ask(sql)


def test_of_several_statements_none_is_taken(views_folder: Path) -> None:
    with Views(views_folder) as views:
        with pytest.raises(InvalidInputError, match="found 2 statements"):
            views.ask("SELECT 1; SELECT 2")
        assert asked(views, "SELECT 1; -- and no other\n;") == [(1,)]


@pytest.mark.parametrize(
    "sql",
    ["FROM facts", "WITH x AS (SELECT 1) FROM x", "VALUES (1)", "(SELECT 1)", "TABLE facts", "DESCRIBE facts", "SUMMARIZE facts",
     "SHOW ALL TABLES", "EXPLAIN SELECT 1", "explain (format json) SELECT 1", "/* a */ SELECT 1",
     "EXPLAIN\nANALYZE FROM facts", "PIVOT facts ON key IN ('limit') USING count(*)", "SELECT 1;"],
)  # fmt: skip
def test_whatever_reads_is_taken(views_folder: Path, sql: str) -> None:
    with Views(views_folder) as views:
        assert asked(views, sql)


def test_a_mistake_is_told_with_its_place(views_folder: Path) -> None:
    with Views(views_folder) as views:
        with pytest.raises(InvalidInputError, match=r"LINE 2: FROM factz\s+\^"):
            views.ask("SELECT 1\nFROM factz")
        with pytest.raises(InvalidInputError, match="Conversion Error"):
            asked(views, "SELECT content::INTEGER FROM messages")
        assert asked(views, "SELECT 1") == [(1,)]


def test_a_query_that_takes_too_long_is_stopped_and_the_next_one_is_answered(views_folder: Path) -> None:
    with Views(views_folder) as views:
        with pytest.raises(QueryStoppedError, match=r"longer than 0\.3 s.*--timeout"):
            asked(views, RUNS_LONG, timeout_seconds=0.3)
        answer = views.ask("SELECT a.range FROM range(1000000) a, range(1000000) b", timeout_seconds=0.3)
        with pytest.raises(QueryStoppedError):
            for _ in answer.batches:
                pass
        assert asked(views, "SELECT 1") == [(1,)]


def test_time_that_the_reader_of_an_answer_takes_does_not_count(views_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxlog.projection import working

    clock = [0.0]
    monkeypatch.setattr(working.time, "monotonic", lambda: clock[0])
    with Views(views_folder) as views:
        rows = 0
        for batch in views.ask("FROM range(30000)", timeout_seconds=60).batches:
            rows += len(batch)
            clock[0] += 50.0
        assert rows == 30_000
        clock[0] = 0.0


def test_a_function_that_does_not_stop_is_given_up(views_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctxlog.projection import working

    monkeypatch.setattr(working, "GIVE_UP_SECONDS", 0.2)
    with Views(views_folder, memory="2GB") as views:
        views._worker._interrupt = lambda: None
        with pytest.raises(QueryStoppedError):
            asked(
                views, "SELECT count(*) FROM range(100000) a, range(20000) b WHERE a.range * b.range % 7 = 3", timeout_seconds=0.1
            )
        assert views._worker.stuck
        with pytest.raises(QueryStoppedError, match="has not stopped yet"):
            views.ask("SELECT 1")


def test_an_answer_need_not_be_taken_to_its_end(views_folder: Path) -> None:
    """What is still being looked for is stopped by the next query, and when the views are closed."""
    endless = "SELECT range FROM range(1000000000000)"
    with Views(views_folder) as views:
        for _ in range(2):
            answer = views.ask(endless)
            assert next(answer.batches)[0] == (0,)
            assert asked(views, "SELECT 1") == [(1,)]
        answer = views.ask(endless)
        assert next(answer.batches)[0] == (0,)


def test_a_query_that_needs_too_much_memory_is_stopped(views_folder: Path) -> None:
    with Views(views_folder, memory="100MB") as views:
        with pytest.raises(QueryStoppedError, match=r"more memory than 100MB.*--memory"):
            asked(views, "SELECT list(range) FROM range(100000000)")
        assert asked(views, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("memory", ["much", "", "-1GB", "0GB", "1KB", "8MB", "nanGB", "none", "80%", "1000", "9999999999TB"])
def test_what_is_no_size_or_far_too_small_is_refused(views_folder: Path, memory: str) -> None:
    """DuckDB takes a negative one for no limit at all, and with a kilobyte the file would pass for damaged."""
    with pytest.raises(InvalidInputError, match="expected a size"):
        Views(views_folder, memory=memory)


@pytest.mark.parametrize("memory", ["16MB", "100 mb", "1.5GiB", "2TB"])
def test_sizes_are_taken_as_people_write_them(views_folder: Path, memory: str) -> None:
    with Views(views_folder, memory=memory) as views:
        assert asked(views, "SELECT count(*) FROM streams") == [(12,)]


@pytest.mark.parametrize("seconds", [math.nan, 0.0, -1.0])
def test_what_is_no_time_is_refused(views_folder: Path, seconds: float) -> None:
    with Views(views_folder) as views:
        with pytest.raises(InvalidInputError, match=r"timeout .*: expected seconds"):
            views.ask("SELECT 1", timeout_seconds=seconds)
        with pytest.raises(InvalidInputError, match=r"timeout .*: expected seconds"):
            views.write_parquet("SELECT 1", io.BytesIO(), timeout_seconds=seconds)
        assert asked(views, "SELECT 1", timeout_seconds=math.inf) == [(1,)]


def test_json_text_that_duckdb_cannot_take_apart_can_be_passed_over(tmp_path: Path) -> None:
    """Half of a surrogate pair, as JSON may hold it. `docs/reference/views.md` says what to do."""
    log = log_of(1, ["posts/1"])
    ContextLog(log).context("posts/1").set_fact("post", {"likes": 5, "text": "cut \ud83d"})
    published(log, tmp_path)
    with Views(tmp_path) as views:
        with pytest.raises(InvalidInputError, match="no low surrogate"):
            asked(views, "SELECT value ->> 'likes' FROM facts")
        assert asked(views, "SELECT key, try(value ->> 'likes') FROM facts WHERE key = 'post'") == [("post", None)]
        assert asked(views, "SELECT key FROM facts WHERE json_valid(value) AND value ->> 'likes' IS NULL") == [("limit",)]


def test_an_instance_without_partitions_can_be_read_alone_and_beside_others(tmp_path: Path) -> None:
    log = log_of()
    published(log, tmp_path, "idle", [])
    assert all_of(tmp_path)["coverage"] == []
    published(log, tmp_path, "busy")
    with Views(tmp_path) as views:
        assert asked(views, "SELECT count(*) FROM streams") == [(12,)]


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(
    views_folder: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    real, tries = published_files._attach, []

    def attach(connection: Any, path: Path, name: str) -> Any:
        tries.append(path)
        if len(tries) == 1:
            if replaced:
                shutil.copyfile(path, path.with_suffix(".new"))
                path.with_suffix(".new").replace(path)
            raise ViewsError("cut off in the middle")
        return real(connection, path, name)

    monkeypatch.setattr(published_files, "_attach", attach)
    if replaced:
        with Views(views_folder) as views:
            assert len(asked(views, "FROM streams")) == len(STREAMS)
    else:
        with pytest.raises(ViewsError, match="cut off"):
            Views(views_folder)
    assert len(tries) == 1 + replaced

"""`verify --views`: what a projector made agrees with the log, and whatever is changed in the file afterwards is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxlog import ContextLog
from ctxlog.audit.views import ViewsReport, verify_views
from ctxlog.errors import ViewsError, ViewsOutdatedError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.records import Origin
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish as publish_views
from unit.every_row import filled
from unit.lineages import forked_play
from unit.test_core_against_oracle import Play, plays
from writing import publish, raw

CLOCKS = {
    ("projection.progress", "end_offset"), ("projection.progress", "applied_at"), ("projection.publication", "published_at"),
}  # fmt: skip
"""What only a clock said, or the log at an earlier time: nothing in the log says whether it is true."""

OF_WHICH = {("projection.publication", "partition")}
"""Of which partition that was said; null: of all."""

Change = Callable[[duckdb.DuckDBPyConnection], Any]


def published(log: ContextLog, folder: Path, upto: int | None = None) -> Path:
    """The views of a log, published."""
    projector = Projector(log.log, folder / ".current.duckdb")
    if upto is None:
        projector.run_once()
    else:
        projector.step(dict.fromkeys(range(log.log.partitions), upto))
    publish_views(projector.store, folder / "current.duckdb")
    projector.close()
    return folder / "current.duckdb"


def after(path: Path, change: Change, log: ContextLog, **options: Any) -> ViewsReport:
    """What is said of a file that somebody changed."""
    changed = path.with_name("changed.duckdb")
    shutil.copyfile(path, changed)
    with duckdb.connect(str(changed)) as connection:
        change(connection)
    try:
        return verify_views(log.log, changed, **options)
    finally:
        changed.unlink()


def executing(statement: str, *values: Any) -> Change:
    return lambda connection: connection.execute(statement, list(values))


@settings(max_examples=15)
@given(play=plays())
def test_what_was_projected_of_any_history_agrees(play: Play, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = ContextLog(play.log)
    report = verify_views(play.log, published(log, tmp_path_factory.mktemp("views")))
    assert report.problems == []
    assert report.records == sum(1 for partition in range(play.log.partitions) for _ in play.log.read(partition, 0, 10**9))
    assert report.verdict == "views agree with the log"


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32))
def test_what_was_projected_of_forks_agrees(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = ContextLog(forked_play(seed).log)
    assert verify_views(log.log, published(log, tmp_path_factory.mktemp("views"))).problems == []


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> tuple[ContextLog, Path]:
    log = filled()
    return log, published(log, tmp_path_factory.mktemp("views"))


def test_a_log_with_every_kind_of_row_agrees(every: tuple[ContextLog, Path]) -> None:
    log, path = every
    report = verify_views(log.log, path)
    assert report.problems == []
    assert report.streams == len(log.matching())
    assert [note for note in report.notes if "newer" in note]


_OTHER = {
    "VARCHAR": "coalesce({0}, '') || 'x'",
    "BIGINT": "coalesce({0}, 0) + 1",
    "INTEGER": "coalesce({0}, 0) + 1",
    "BOOLEAN": "NOT coalesce({0}, false)",
    "TIMESTAMP": "coalesce({0}, TIMESTAMP '2020-01-01') + INTERVAL 1 MILLISECOND",
    "VARCHAR[]": "list_append(coalesce({0}, []), 'x')",
    "BLOB": "coalesce({0}, ''::BLOB) || 'x'::BLOB",
}


def columns(path: Path) -> list[tuple[str, str, str]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(
            "SELECT CASE c.schema_name WHEN 'main' THEN '' ELSE c.schema_name || '.' END || c.table_name, column_name, data_type "
            "FROM duckdb_columns() c JOIN duckdb_tables() t USING (database_name, table_oid) "
            "WHERE database_name = current_database() AND NOT t.internal ORDER BY ALL"
        ).fetchall()


@pytest.mark.parametrize(("there", "columns_min"), [("IS NOT NULL", 80), ("IS NULL", 60)])
def test_a_value_that_was_changed_is_found_in_every_column_of_every_table(
    every: tuple[ContextLog, Path], there: str, columns_min: int
) -> None:
    """Where there was a value, and where there was none; or it is a time that only a clock said."""
    log, path = every
    silent, changed = set(), 0
    for table, column, kind in columns(path):
        with duckdb.connect(str(path), read_only=True) as connection:
            where = f"{column} {there} ORDER BY rowid DESC LIMIT 1"
            found = connection.execute(f"SELECT rowid FROM {table} WHERE {where}").fetchone()
        if found is None:
            continue
        changed += 1
        of_structs = "list_append({0}, {0}[1])" if there == "IS NOT NULL" else "[]"
        other = _OTHER.get(kind, of_structs).format(column)
        try:
            report = after(path, executing(f"UPDATE {table} SET {column} = {other} WHERE rowid = ?", *found), log)
        except ViewsError:  # It does not even look like a file of views any more.
            assert table == "projection.file"
            continue
        if not report.problems:
            silent.add((table, column))
    assert silent == (CLOCKS if there == "IS NOT NULL" else OF_WHICH)
    assert changed > columns_min


@pytest.mark.parametrize("table", ["events", "streams", "projection.progress", "projection.controls", "projection.file"])
def test_a_row_that_is_lost_or_doubled_is_found_in_every_table(every: tuple[ContextLog, Path], table: str) -> None:
    log, path = every
    with duckdb.connect(str(path), read_only=True) as connection:
        kinds = {"events": "GROUP BY type, outcome", "projection.controls": "GROUP BY partition"}
        rows = connection.execute(f"SELECT max(rowid) FROM {table} {kinds.get(table, 'GROUP BY rowid')}").fetchall()
    for (rowid,) in rows:
        for statement in (f"DELETE FROM {table} WHERE rowid = ?", f"INSERT INTO {table} SELECT * FROM {table} WHERE rowid = ?"):
            try:
                assert after(path, executing(statement, rowid), log).problems, (statement, rowid)
            except ViewsError:
                assert table == "projection.file"


def test_a_row_of_nothing_is_found(every: tuple[ContextLog, Path]) -> None:
    log, path = every
    for statement in (
        "INSERT INTO events (partition, record_offset) VALUES (0, 900)",
        "INSERT INTO events (partition, record_offset) VALUES (7, 1)",
        "INSERT INTO events (partition, record_offset) VALUES (NULL, NULL)",
        "INSERT INTO events (partition, record_offset, stream_id, outcome) VALUES (0, 900, 'a', 'accepted')",
        "INSERT INTO streams (stream_id, partition) VALUES ('nobody', 0)",
        "INSERT INTO streams (stream_id, partition) VALUES (NULL, 0)",
        "INSERT INTO projection.progress (partition, next_offset) VALUES (7, 1)",
    ):
        assert after(path, executing(statement), log).problems, statement


def test_views_and_macros_that_were_written_anew_are_found(every: tuple[ContextLog, Path]) -> None:
    log, path = every
    with duckdb.connect(str(path), read_only=True) as connection:
        views = [name for (name,) in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()]
    assert len(views) == 11
    redefined = "CREATE OR REPLACE VIEW facts AS SELECT * REPLACE ('1' AS value) FROM fact_history"
    assert after(path, executing(redefined), log).problems[0].where == "view main.facts"
    lost = "DROP MACRO TABLE messages_at"
    assert "view main.messages_at" in [problem.where for problem in after(path, executing(lost), log, pattern="b").problems]


def test_the_first_version_that_differs_is_named(every: tuple[ContextLog, Path]) -> None:
    log, path = every
    change = "UPDATE events SET scope = 'other' WHERE stream_id = 'a' AND version >= 3"
    problem, fork = after(path, executing(change), log).problems
    assert fork.where == "branch@1"  # Of what it has of its parent.
    assert problem.where.startswith("a@3, record ")
    assert problem.where.endswith(" scope")
    assert problem.found == "something else (and 9 more rows of it)"
    assert "other" not in str(problem)  # It may be what people said.
    redefined = (
        "CREATE OR REPLACE MACRO facts_at(s, v) AS TABLE SELECT * FROM facts WHERE stream_id = 'b' AND s = 'branch' AND v > 1"
    )
    places = [problem.where for problem in after(path, executing(redefined), log).problems]
    assert places == ["view main.facts_at", "branch@2"]


def test_a_view_that_says_something_else_than_its_rows_is_found_at_the_first_version(every: tuple[ContextLog, Path]) -> None:
    log, path = every
    with duckdb.connect(str(path), read_only=True) as connection:
        text = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'messages'").fetchone()
    assert text is not None
    changed = text[0].replace("CREATE VIEW", "CREATE OR REPLACE VIEW").replace("'tool'", "'user'")
    wrong = [problem.where for problem in after(path, executing(changed), log).problems]
    assert wrong == ["view main.messages", "a@12"]


def test_a_sample_is_drawn_by_its_seed_and_finds_what_lies_in_it(every: tuple[ContextLog, Path]) -> None:
    log, path = every
    change = executing("UPDATE events SET actor = 'x' WHERE stream_id = 'b' AND version = 1")
    found = [bool(after(path, change, log, sample=2, seed=seed).problems) for seed in range(12)]
    assert set(found) == {True, False}
    assert found == [bool(after(path, change, log, sample=2, seed=seed).problems) for seed in range(12)]
    assert verify_views(log.log, path, sample=2).streams == 2
    assert verify_views(log.log, path, sample=99).streams == len(log.matching())
    assert after(path, change, log, pattern="b").problems
    assert not after(path, change, log, pattern="a").problems


def test_views_that_lag_agree_as_far_as_they_go_and_it_is_said(tmp_path: Path) -> None:
    log = filled()
    end = min(log.log.bounds(partition).end for partition in range(2)) - 2
    report = verify_views(log.log, published(log, tmp_path, end))
    assert report.problems == []
    assert report.coverage == {0: end, 1: end}
    assert any("what lies behind was not compared" in note for note in report.notes)


def test_a_fork_whose_parent_lags_has_no_state_and_is_no_fault(tmp_path: Path) -> None:
    log = filled()
    partition = log.replayer.reader.partition("branch")
    assert partition != log.replayer.reader.partition("a")
    projector = Projector(log.log, tmp_path / ".current.duckdb", [partition])
    projector.run_once()
    publish_views(projector.store, tmp_path / "current.duckdb")
    projector.close()
    report = verify_views(log.log, tmp_path / "current.duckdb")
    assert report.problems == []
    assert any("goes on from, a, is at version 0 in these views" in note for note in report.notes)


def test_a_coverage_beyond_the_log_and_a_log_that_was_rewound_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.log.resuming.BACK_SECONDS_MAX", 0)
    log = ContextLog(MemoryLog())
    log.context("a").set_fact("k", 1)
    log.context("a").set_fact("k", 2)
    path = published(log, tmp_path)
    kept = log.log._records[0].pop()
    assert "at most offset" in verify_views(log.log, path).problems[0].expected
    log.log._records[0].append(kept._replace(recorded_at=kept.recorded_at + 1))
    assert verify_views(log.log, path).problems[0].where == "coverage of partition 0"


def test_views_of_another_log_are_found_and_those_of_another_version_are_not_judged(every: tuple[ContextLog, Path]) -> None:
    log, path = every
    other = ContextLog(MemoryLog(2))
    (problem,) = verify_views(other.log, path).problems
    assert (problem.where, log.log.log_id in problem.found) == ("log", True)
    with pytest.raises(ViewsOutdatedError):
        after(path, executing("UPDATE projection.file SET view_version = 99"), log)
    with pytest.raises(ViewsError):
        verify_views(log.log, path.with_name("nothing.duckdb"))
    path.with_name("text.duckdb").write_text("no file of views")
    with pytest.raises(ViewsError):
        verify_views(log.log, path.with_name("text.duckdb"))


def test_a_record_with_an_origin_that_nobody_believes_neither_moves_nor_stops_the_views(tmp_path: Path) -> None:
    """Anybody may write the header `ctxlog-origin`, with any number in it."""
    log = ContextLog(MemoryLog())
    publish(log.log)
    record = raw(log.log, "a", "FactSet", "e")
    log.log.append([record._replace(origin=Origin("no", 0, 0, 10**19))])
    path = published(log, tmp_path)
    assert verify_views(log.log, path).problems == []
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT year(last_at) < 2200 FROM coverage").fetchall() == [(True,)]

"""`verify --views`: what it says of views that people added, and of views that cover nothing. The log knows of neither."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ctxlog.audit.views import ViewsReport, verify_views
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.projection.custom import ProjectedEvent, Projection, SqlViews
from ctxlog.projection.merge import merge
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish
from views_made import log_of, published

SQL = """
CREATE VIEW refunds AS SELECT stream_id, arguments->>'order' AS order_id FROM tool_calls WHERE name = 'refund';
CREATE VIEW by_order AS SELECT order_id, count(*) AS times FROM refunds GROUP BY order_id;
CREATE MACRO twice(x) AS x * 2, (x, y) AS (x + y) * 2;
"""

EMPTIED = "DELETE FROM projection.progress; DELETE FROM events; DELETE FROM streams; DELETE FROM projection.controls"


class Lengths(Projection):
    """How long the messages are."""

    name = "lengths"
    version = 1
    tables = (
        "CREATE TABLE lengths (stream_id VARCHAR, length BIGINT); CREATE VIEW longest AS SELECT max(length) AS l FROM lengths"
    )
    types = ("ctxlog.MessageAppended",)

    def project(self, event: ProjectedEvent) -> Iterator[tuple[str, tuple[Any, ...]]]:
        yield "lengths", (event.stream_id, len(event.payload["content"] or ""))


@pytest.fixture
def added(tmp_path: Path) -> tuple[EventLog, Path]:
    """A log, and views of it with two projections that somebody added."""
    log = log_of(1)
    projector = Projector(log, tmp_path / ".added.duckdb", projections=[SqlViews("refunds", SQL, "refunds.sql"), Lengths()])
    projector.run_once()
    publish(projector.store, tmp_path / "added.duckdb")
    projector.close()
    return log, tmp_path / "added.duckdb"


def after(path: Path, change: str, log: EventLog) -> ViewsReport:
    """What is said of a file that somebody changed."""
    changed = path.with_name("changed")
    shutil.copyfile(path, changed)
    with duckdb.connect(str(changed)) as connection:
        connection.execute(change)
    return verify_views(log, changed)


def test_of_what_people_added_it_is_said_that_it_was_not_compared_with_the_log(added: tuple[EventLog, Path]) -> None:
    log, path = added
    report = verify_views(log, path)
    assert (report.problems, report.not_compared) == ([], ["lengths", "refunds"])
    of_tables, of_sql = report.notes
    assert "schema 'lengths'" in of_tables
    assert "tables: 1, views and macros: 1" in of_tables
    assert "not compared" in of_tables
    assert "schema 'refunds'" in of_sql
    assert f"SHA-256 begins with {sha256(SQL.encode()).hexdigest()[:16]}" in of_sql
    merge(path.parent, path.with_name("merged.duckdb"))
    assert verify_views(log, path.with_name("merged.duckdb")).problems == []


def test_whatever_is_there_beside_the_views_is_told(added: tuple[EventLog, Path]) -> None:
    log, path = added
    for change in ("CREATE TABLE main.payments (a INTEGER)", "CREATE SCHEMA z; CREATE VIEW z.v AS SELECT 1 AS a"):
        report = after(path, change, log)
        assert (report.problems, len(report.not_compared), len(report.notes)) == ([], 3, 3)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE OR REPLACE VIEW refunds.by_order AS SELECT 'W-204' AS order_id, 7 AS times",
        "CREATE OR REPLACE MACRO refunds.twice(x) AS x * 3, (x, y) AS (x + y) * 2",
        "CREATE VIEW refunds.more AS SELECT 1 AS a",
        "DROP VIEW refunds.by_order",
        "DROP SCHEMA refunds CASCADE",
        "UPDATE projection.custom SET definition = definition || ' '",
        "UPDATE projection.custom SET definition = NULL",
        "UPDATE projection.custom SET definition = 'CREATE TABLE refunds (a INTEGER)'",
        "UPDATE projection.custom SET definition = 'CREATE VIEW refunds AS FROM nowhere'",
        "UPDATE projection.custom SET version = '0' WHERE kind = 'sql'",
    ],
)
def test_views_that_are_not_as_the_sql_beside_them_makes_them_differ(added: tuple[EventLog, Path], change: str) -> None:
    log, path = added
    report = after(path, change, log)
    assert report.verdict == "views differ from the log"
    assert all("refunds" in problem.where for problem in report.problems)


def test_views_that_cover_nothing_agree_with_nothing(added: tuple[EventLog, Path]) -> None:
    """Other than those of an empty log: its genesis is a record like any other."""
    log, path = added
    assert after(path, EMPTIED, log).verdict == "nothing was compared"
    assert verify_views(log, path, "nobody*").verdict == "nothing was compared"
    empty = MemoryLog(2)
    assert verify_views(empty, published(empty, path.parent)).verdict == "views agree with the log"

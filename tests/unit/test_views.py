"""Every column of every view is what lists and loops over the history give; and the page about them names them all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxlog import ContextLog
from ctxlog.importers import import_path
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.projection import tables
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish as publish_views
from ctxlog.projection.views import VIEWS
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.summaries import matching, summarize
from unit import views_oracle
from unit.lineages import forked_play
from unit.test_core_against_oracle import Play, plays
from unit.views_oracle import Row, Told
from writing import foreign, publish, raw

DATA = Path(__file__).parents[3] / "shared" / "data"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "views.md"

OF_STREAMS = ("fact_history", "facts", "messages", "tool_calls", "decisions", "reads", "contexts")


def rows(connection: duckdb.DuckDBPyConnection, view: str) -> list[Row]:
    """A view's rows, times in µs."""
    described = connection.execute(f"DESCRIBE {view}").fetchall()
    listed = ", ".join(f"epoch_us({name})" if kind == "TIMESTAMP" else name for name, kind, *_ in described)
    names = [name for name, *_ in described]
    return [dict(zip(names, row, strict=True)) for row in connection.execute(f"SELECT {listed} FROM {view}").fetchall()]


def ordered(found: list[Row]) -> list[Any]:
    return sorted((sorted(row.items()) for row in found), key=repr)


def check(log: EventLog, path: Path) -> None:
    projector = Projector(log, path / "views.duckdb")
    projector.run_once()
    replayer, connection = Replayer(log), projector.store.connection
    every = [Told(replayer, stream_id) for stream_id in matching(log)]
    every = [told for told in every if told.entries]
    for view in OF_STREAMS:
        expected = [row for told in every for row in getattr(views_oracle, view)(told)]
        assert ordered(rows(connection, view)) == ordered(expected), view
    if every:
        assert ordered(rows(connection, "agents")) == ordered(views_oracle.agents(log, every))
    for row in rows(connection, "streams"):
        summary = summarize(replayer, row["stream_id"])
        assert summary is not None
        found = summary._replace(first_at=summary.first_at * 1000, last_at=summary.last_at * 1000)._asdict()
        assert found.pop("events") == found["version"]
        assert {name: row[name] for name in found} == found
    for row in rows(connection, "coverage"):
        end = log.bounds(row["partition"]).end
        assert (row["next_offset"], row["end_offset"], row["lag_events"], row["lag_seconds"]) == (end, end, 0, 0)
    projector.close()


@settings(max_examples=20)
@given(play=plays())
def test_views_show_what_lists_and_loops_give_of_any_history(play: Play, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(play.log, tmp_path_factory.mktemp("views"))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_views_show_the_own_events_of_forks(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(forked_play(seed).log, tmp_path_factory.mktemp("views"))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"recorded runs are not at {DATA}")
def test_views_show_what_lists_and_loops_give_of_recorded_runs(log: ContextLog, tmp_path: Path) -> None:
    import_path(log, [DATA / "tau-bench", DATA / "mini-swe-agent"])
    check(log.log, tmp_path)


@pytest.fixture
def memory() -> ContextLog:
    return ContextLog(MemoryLog(clock=iter(range(1_000, 10**9, 1_000)).__next__))


def projected(log: ContextLog, tmp_path: Path) -> Projector:
    projector = Projector(log.log, tmp_path / "views.duckdb")
    projector.run_once()
    return projector


def test_the_last_content_is_that_of_the_last_message_even_where_it_has_none(memory: ContextLog, tmp_path: Path) -> None:
    context = memory.context("a")
    context.add_message("user", "one")
    context.redact_message(context.add_message("user", "two").event_id)
    projector = projected(memory, tmp_path)
    assert projector.store.connection.execute("SELECT last_content FROM contexts").fetchall() == [(None,)]
    projector.close()


def test_a_stream_with_an_event_of_a_newer_release_is_marked_and_shown(memory: ContextLog, tmp_path: Path) -> None:
    memory.context("a").set_fact("k", 1)
    memory.log.append(foreign(memory.log, "a", "ctxlog.FromTheFuture", "n"))
    memory.context("a").set_fact("k", 2)
    projector = projected(memory, tmp_path)
    found = projector.store.connection.execute("SELECT version, newer, fact_values['k'] FROM contexts").fetchall()
    assert found == [(3, "ctxlog.FromTheFuture", "2")]
    projector.close()


def test_an_event_type_that_is_named_as_control_records_are_is_a_row_as_any_other(memory: ContextLog, tmp_path: Path) -> None:
    for name in ("control.Genesis", "control.Started", "controls.Odd"):
        memory.log.append(foreign(memory.log, "a", name, name))
    projector = projected(memory, tmp_path)
    asked = "SELECT type, data FROM events WHERE stream_id = 'a' ORDER BY version"
    assert projector.store.connection.execute(asked).fetchall() == [
        (name, '{"key": "x"}') for name in ("control.Genesis", "control.Started", "controls.Odd")
    ]
    projector.close()


def test_ages_do_not_depend_on_the_time_zone_of_the_session(memory: ContextLog, tmp_path: Path) -> None:
    memory.context("a").set_fact("k", 1)
    projector = projected(memory, tmp_path)
    publish_views(projector.store, tmp_path / "current.duckdb")
    for zone in ("UTC", "America/New_York", "Asia/Tokyo"):
        projector.store.connection.execute(f"SET TimeZone = '{zone}'")
        (age,) = projector.store.connection.execute("SELECT age_seconds FROM coverage").fetchone() or ()
        assert 0 <= age < 600
    projector.close()


def test_records_under_the_name_of_a_stream_in_another_partition_are_nobodys(tmp_path: Path) -> None:
    log = ContextLog(MemoryLog(2))
    publish(log.log)
    own = log.replayer.reader.partition("a")
    log.log.append([raw(log.log, "a", "FactSet", "e1"), raw(log.log, "a", "FactSet", "e2", partition=1 - own)])
    projector = projected(log, tmp_path)
    found = projector.store.connection.execute("SELECT events, rejected, records_last_day, bytes = bytes_last_day FROM agents")
    assert found.fetchall() == [(1, 0, 1, True)]
    projector.close()


# The page


def documented() -> dict[str, list[str]]:
    """Names of views and macros on the page, each with the columns that its table lists."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in PAGE.read_text("utf-8").splitlines():
        if heading := re.match(r"#+ `(\w+)", line):
            name = heading[1]
            found[name] = []
        elif line.startswith("#"):
            name = ""
        elif name and (row := re.match(r"\| ((?:`\w+`(?:, )?)+) \|", line)):
            found[name] += re.findall(r"`(\w+)`", row[1])
    return found


def test_the_page_names_every_column_of_every_view_and_none_that_there_is_not() -> None:
    with duckdb.connect() as connection:
        connection.execute(tables.TABLES)
        connection.execute(VIEWS)
        names = connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal UNION "
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main'"
        ).fetchall()
        expected = {name: [row[0] for row in connection.execute(f"DESCRIBE {name}").fetchall()] for (name,) in names}
        macros = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE schema_name = 'main' AND NOT internal "
            "AND function_type LIKE '%macro' AND database_name = current_database()"
        ).fetchall()
    found = documented()
    assert {name: sorted(found[name]) for name in expected} == {name: sorted(columns) for name, columns in expected.items()}
    assert {name for name in found if name not in expected} == {name for (name,) in macros}

"""Projections that people add hold what they would hold had they been there from the first event on, whatever happened since."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from ctxlog import ContextLog
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import ProjectionError, ViewsFullError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import MessageAppended
from ctxlog.projection import custom_tables
from ctxlog.projection import projector as module
from ctxlog.projection.custom import ProjectedEvent, Projection, SqlViews
from ctxlog.projection.custom_tables import CustomTables
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish
from ctxlog.projection.streams import Residents
from unit.custom_projector import Texts
from unit.test_core_against_oracle import Play, plays

Rows = Iterator[tuple[str, tuple[Any, ...]]]


class Everything(Projection):
    """All that it is shown."""

    name = "everything"
    version = 1
    tables = """
        CREATE TABLE seen (stream_id VARCHAR, version BIGINT, event_id VARCHAR, at_offset BIGINT, shown VARCHAR);
        CREATE VIEW latest AS SELECT stream_id, max(version) AS version FROM seen GROUP BY stream_id;
    """

    def project(self, event: ProjectedEvent) -> Rows:
        yield "seen", (event.stream_id, event.version, event.event_id, event.record_offset, repr(event))


class Keys(Projection):
    """What is in the payloads of some types; two tables, some events in neither."""

    name = "keys"
    version = 1
    tables = "CREATE TABLE set_keys (key VARCHAR, value VARCHAR); CREATE TABLE called (name VARCHAR, happened_at TIMESTAMP)"
    types = ("ctxlog.FactSet", "ctxlog.ToolCalled")

    def project(self, event: ProjectedEvent) -> Rows:
        if event.type == "ctxlog.ToolCalled":
            yield "called", (event.payload["name"], event.decided_at)
        elif event.anomaly is None:
            yield "set_keys", (event.payload["key"], event.payload["value"])


LENGTHS = SqlViews("lengths", "CREATE VIEW lengths AS SELECT stream_id, length(content) AS n FROM messages", "lengths.sql")


def messages(*texts: str, log: MemoryLog | None = None, stream_id: str = "a/1") -> MemoryLog:
    log = log or MemoryLog(1)
    ContextLog(log).context(stream_id).append_each([(MessageAppended(role="user", content=text), {}) for text in texts])
    return log


def projected(log: MemoryLog, path: Path, *projections: Projection | SqlViews) -> Projector:
    projector = Projector(log, path, projections=projections)
    projector.run_once()
    return projector


def query(projector: Projector, statement: str) -> list[Any]:
    return projector.store.connection.execute(statement).fetchall()


def contents(projector: Projector) -> dict[str, list[Any]]:
    tables = ("everything.seen", "everything.latest", "keys.set_keys", "keys.called", "lengths.lengths", "projection.custom")
    return {table: sorted(query(projector, f"FROM {table}"), key=repr) for table in tables}


def in_pieces(play: Play, path: Path, dice: random.Random) -> Projector:
    """In small batches and chunks, with restarts, and with projections that come later, go, and come again."""
    all_of_them: Sequence[Projection | SqlViews] = (Everything(), Keys(), LENGTHS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_RECORDS", dice.choice((1, 2, 7)))
        patch.setattr(module, "Residents", lambda: Residents(dice.choice((1, 30))))
        patch.setattr(custom_tables, "CHUNK_ROWS", dice.choice((1, 2, 5)))
        patch.setattr(custom_tables, "CHUNK_BYTES", dice.choice((1, 500, 10_000)))
        patch.setattr(custom_tables, "WINDOW", dice.choice((1, 3, 100)))
        projector = Projector(play.log, path, projections=dice.sample(all_of_them, dice.randint(0, 3)))
        ends = {partition: play.log.bounds(partition).end for partition in projector.partitions}
        while projector.step(ends):
            if dice.random() < 0.15:
                projector.close()
                projector = Projector(play.log, path, projections=dice.sample(all_of_them, dice.randint(0, 3)))
            elif dice.random() < 0.1:
                projector.restart()
        projector.close()
        return Projector(play.log, path, projections=all_of_them)


@settings(max_examples=10)
@given(play=plays(), seed=st.integers(0, 2**32))
def test_tables_do_not_depend_on_batches_restarts_and_when_a_projection_came(
    play: Play, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("views")
    whole = projected(play.log, folder / "a.duckdb", Everything(), Keys(), LENGTHS)
    pieces = in_pieces(play, folder / "b.duckdb", random.Random(seed))
    assert contents(whole) == contents(pieces)
    for projector in (whole, pieces):
        # And what they were shown is what was accepted, in that order.
        for stream_id, told in play.told.items():
            accepted = oracle.arbitrate(stream_id, told).accepted
            partition = partition_of(stream_id.encode(), play.log.partitions)
            rows = projector.store.connection.execute(
                "SELECT version, event_id, at_offset, partition FROM everything.seen WHERE stream_id = ? ORDER BY rowid",
                [stream_id],
            ).fetchall()
            assert rows == [(version, one.meta["event_id"], one.offset, partition) for version, _, one in accepted]
        projector.close()


@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("chunk_bytes", [1, 700, 100_000])
@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 100])
def test_an_old_file_is_gone_through_once_whatever_fits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int, chunk_bytes: int, window: int
) -> None:
    log = messages(*("x" * (number * 37 % 400) for number in range(23)))
    projected(log, tmp_path / "v.duckdb").close()
    monkeypatch.setattr(custom_tables, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(custom_tables, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(custom_tables, "WINDOW", window)
    projector = Projector(log, tmp_path / "v.duckdb", projections=[Texts()])
    assert query(projector, "SELECT version FROM texts.said ORDER BY rowid") == [(version,) for version in range(1, 24)]
    projector.close()


def test_events_have_the_members_and_times_that_the_views_have(tmp_path: Path) -> None:
    log = MemoryLog(1)
    context = ContextLog(log).context("a/1")
    context.set_fact("limit", 100, valid_from=1_767_225_600_000_000)
    call = context.add_tool_call("refund", {"amount": 5})
    context.add_tool_result(call.event_id, "done", failed=False)
    seen: list[ProjectedEvent] = []

    class Spy(Everything):
        def project(self, event: ProjectedEvent) -> Rows:
            seen.append(event)
            return iter(())

    projector = projected(log, tmp_path / "v.duckdb", Spy())
    assert seen[0].payload == {
        "key": "limit", "value": "100", "valid_to": None, "expires_at": None,
        "valid_from": query(projector, "SELECT valid_from FROM facts")[0][0],
    }  # fmt: skip
    assert json.loads(seen[1].payload["arguments"]) == {"amount": 5}
    assert [(event.type, event.version, event.stream_id) for event in seen] == query(
        projector, "SELECT type, version, stream_id FROM events WHERE outcome = 'accepted' ORDER BY version"
    )
    assert query(projector, "SELECT decided_at FROM events ORDER BY record_offset DESC LIMIT 1") == [(seen[2].decided_at,)]
    projector.close()


def test_a_projection_whose_version_changed_is_made_anew_and_goes_on(tmp_path: Path) -> None:
    log, path = messages("one", "two"), tmp_path / "v.duckdb"
    projected(log, path, Texts()).close()

    class Changed(Texts):
        version = 2

    messages("three", log=log)
    projector = Projector(log, path, projections=[Changed()])
    assert projector.custom.notes == ["projection texts: made anew, because it changed (2 events)"]
    assert query(projector, "SELECT content FROM texts.said ORDER BY version") == [("one, by version 2",), ("two, by version 2",)]
    projector.run_once()
    assert len(query(projector, "FROM texts.said")) == 3
    projector.restart()
    assert projector.custom.notes == []
    projector.close()

    class OtherTable(Changed):
        """A table of another form is another version, too."""

        tables = "CREATE TABLE said (stream_id VARCHAR, version BIGINT, content VARCHAR, more VARCHAR)"

        def project(self, event: ProjectedEvent) -> Rows:
            yield "said", (event.stream_id, event.version, "", "more")

    projector = Projector(log, path, projections=[OtherTable()])
    assert query(projector, "SELECT DISTINCT more FROM texts.said") == [("more",)]
    projector.close()


def test_a_projection_that_is_no_longer_named_is_dropped_and_said_so(tmp_path: Path) -> None:
    log, path = messages("one"), tmp_path / "v.duckdb"
    projected(log, path, Texts(), LENGTHS).close()
    projector = Projector(log, path, projections=[LENGTHS])
    assert projector.custom.notes == ["projection texts: dropped, because it is not named any more"]
    assert query(projector, "SELECT schema_name FROM duckdb_schemas() WHERE schema_name = 'texts'") == []
    assert query(projector, "FROM lengths.lengths") == [("a/1", 3)]
    projector.close()


def test_what_is_published_holds_the_tables_and_views(tmp_path: Path) -> None:
    projector = projected(messages("one"), tmp_path / ".v.duckdb", Texts(), LENGTHS)
    publish(projector.store, tmp_path / "v.duckdb")
    with duckdb.connect(str(tmp_path / "v.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT * FROM texts.said, lengths.lengths").fetchall() == [
            ("a/1", 1, "one, by version 1", 0, "a/1", 3)
        ]
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{tmp_path / 'v.duckdb'}' AS other (READ_ONLY)")
        connection.execute("USE other")
        assert connection.execute("FROM lengths.lengths").fetchall() == [("a/1", 3)]
    projector.close()


def test_an_sql_file_that_changed_is_read_again(tmp_path: Path) -> None:
    log, path = messages("one"), tmp_path / "v.duckdb"
    projected(log, path, LENGTHS).close()
    projector = projected(
        log, path, LENGTHS._replace(text="CREATE VIEW doubled AS SELECT 2 * length(content) AS n FROM messages")
    )
    assert query(projector, "FROM lengths.doubled") == [(6,)]
    assert query(projector, "SELECT view_name FROM duckdb_views() WHERE schema_name = 'lengths'") == [("doubled",)]
    projector.close()


class Faulty(Texts):
    """Fails at one text."""

    def project(self, event: ProjectedEvent) -> Rows:
        yield "said", (event.stream_id, event.version, event.payload["content"])
        if event.payload["content"] == "secret":
            raise ValueError(event.payload["content"])


def test_a_projection_that_fails_stops_the_projector_before_the_batch_and_says_where(tmp_path: Path) -> None:
    log, path = messages("one"), tmp_path / "v.duckdb"
    projector = projected(log, path, Faulty())
    progress = projector.store.progress()
    messages("two", "secret", "four", log=log)
    with pytest.raises(ProjectionError) as raised:
        projector.run_once()
    assert "Faulty" in raised.value.projection
    assert raised.value.place.startswith("stream 'a/1' version 3 (0@")
    assert raised.value.reason.startswith("ValueError at test_custom_projections.py:")
    assert "secret" not in str(raised.value)
    projector.restart()
    assert projector.store.progress() == progress
    assert len(query(projector, "FROM texts.said")) == len(query(projector, "FROM messages")) == 1
    projector.close()
    projector = projected(log, path, Texts())  # Repaired: it goes on there.
    assert len(query(projector, "FROM texts.said")) == 4
    projector.close()


def test_a_projection_that_fails_on_an_old_file_changes_nothing_in_it(tmp_path: Path) -> None:
    log, path = messages("one", "secret"), tmp_path / "v.duckdb"
    projected(log, path, Texts()).close()

    class Changed(Faulty):
        version = 2

    with pytest.raises(ProjectionError, match=r"version 2 \(0@"):
        Projector(log, path, projections=[Changed()])
    projector = Projector(log, path, projections=[Texts()])
    assert projector.custom.notes == []
    assert query(projector, "SELECT content FROM texts.said ORDER BY version") == [
        ("one, by version 1",),
        ("secret, by version 1",),
    ]
    projector.close()


@pytest.mark.parametrize(
    ("given_rows", "reason"),
    [
        ([("said", ("a", 1, 2, 3))], "expected pairs of a table and a tuple of its values (said of 3), found another"),
        ([("other", ("a", 1, "x"))], "expected pairs of a table and a tuple of its values (said of 3), found another"),
        (["said"], "expected pairs of a table and a tuple of its values (said of 3), found another"),
        (None, "TypeError"),
        ([("said", ("a", "x", "x"))], "column said.version: a str that is no int64"),
        ([("said", ("a", 2**63, "x"))], "column said.version: a int that is no int64"),
        ([("said", ("a", 1.5, "x"))], "column said.version: a float that is no int64"),
        ([("said", ("a", 1, "\ud800"))], "column said.content: a str that is no string"),
    ],
)
def test_rows_that_are_none_of_its_tables_are_refused_with_their_event(tmp_path: Path, given_rows: Any, reason: str) -> None:
    class Wrong(Texts):
        def project(self, event: ProjectedEvent) -> Any:
            return given_rows if event.version == 2 else [("said", (event.stream_id, event.version, "x"))]

    with pytest.raises(ProjectionError) as raised:
        projected(messages("one", "two", "three"), tmp_path / "v.duckdb", Wrong())
    assert raised.value.reason == reason
    assert raised.value.place.startswith("stream 'a/1' version 2 (0@")


def test_a_projection_cannot_keep_anything_between_events(tmp_path: Path) -> None:
    class Counting(Texts):
        def project(self, event: ProjectedEvent) -> Rows:
            self.count = getattr(self, "count", 0) + 1
            yield "said", (event.stream_id, self.count, "")

    with pytest.raises(ProjectionError, match="AttributeError at test_custom"):
        projected(messages("one"), tmp_path / "v.duckdb", Counting())


def test_after_a_failed_commit_and_a_restart_nothing_is_missing_or_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, path = messages(*map(str, range(30))), tmp_path / "v.duckdb"
    monkeypatch.setattr(module, "BATCH_RECORDS", 7)
    add, fails = CustomTables.add, iter((False, True, False, True, True))

    def failing(self: CustomTables, spans: Any) -> None:
        add(self, spans)
        if next(fails, False):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(CustomTables, "add", failing)
    projector = Projector(log, path, projections=[Texts()])
    failed = 0
    while True:
        try:
            projector.run_once()
            break
        except ViewsFullError:
            failed += 1
            projector.restart()
    assert failed == 3
    assert query(projector, "SELECT version FROM texts.said ORDER BY rowid") == [(version,) for version in range(1, 31)]
    projector.close()


class Leaves(Texts):
    def project(self, event: ProjectedEvent) -> Any:
        sys.exit(0)


def test_a_projection_that_leaves_the_process_failed(tmp_path: Path) -> None:
    with pytest.raises(ProjectionError, match="SystemExit"):
        projected(messages("a"), tmp_path / "views.duckdb", Leaves())


class Short(Texts):
    types = ("MessageAppended",)


def test_a_type_without_its_namespace_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectionError, match=r"there is no event type MessageAppended.*ctxlog\.MessageAppended"):
        projected(messages("a"), tmp_path / "views.duckdb", Short())

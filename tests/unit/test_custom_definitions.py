"""What a projection that people add may be, and what is said of one that it may not be; where refused, the file is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ctxlog import ContextLog
from ctxlog.errors import ProjectionError
from ctxlog.log.memory import MemoryLog
from ctxlog.projection.custom import ProjectedEvent, Projection, SqlViews, definition_of, load_projections
from ctxlog.projection.projector import Projector
from unit.custom_projector import Texts

LENGTHS = SqlViews("lengths", "CREATE VIEW lengths AS SELECT stream_id, length(content) AS n FROM messages", "lengths.sql")

REFUSED = [
    ("DROP TABLE events", "statement 1 (line 1)", "found DROP TABLE"),
    ("CREATE VIEW a AS SELECT 1;\n\n-- and\nCOPY events TO 'x.csv'", "statement 2 (line 4)", "found COPY EVENTS"),
    ("CREATE TABLE t (a INTEGER)", "statement 1 (line 1)", "found CREATE TABLE"),
    ("CREATE TEMP VIEW v AS SELECT 1", "statement 1 (line 1)", "found CREATE TEMP"),
    ("CREATE OR REPLACE TEMP MACRO v() AS 1", "statement 1 (line 1)", "found CREATE OR"),
    ("/* VIEW */ CREATE SCHEMA more", "statement 1 (line 1)", "found CREATE SCHEMA"),
    ("ATTACH 'x.duckdb'", "statement 1 (line 1)", "found ATTACH 'X.DUCKDB'"),
    ("SET memory_limit = '1GB'", "statement 1 (line 1)", "found SET MEMORY_LIMIT"),
    ("CREATE VIEW main.v AS SELECT 1", "statement 1 (line 1)", "found main.v, a name of another schema"),
    ('CREATE VIEW views."lengths".v AS SELECT 1', "statement 1 (line 1)", 'found views."lengths".v, a name of another schema'),
    ("CREATE MACRO projection.f() AS 1", "statement 1 (line 1)", "found projection.f, a name of another schema"),
    ("CREATE VIEW IF NOT EXISTS v AS SELECT 1", "statement 1 (line 1)", "found IF NOT EXISTS, which would leave what is there"),
    (
        "CREATE VIEW v AS SELECT 1;\nCREATE VIEW v AS FROM nothing",
        "statement 2 (line 2)",
        "Catalog Error: Table with name nothing",
    ),
    ("CREATE VIEW v AS FROM '/etc/passwd'", "statement 1 (line 1)", "Catalog Error: Table with name /etc/passwd"),
    ("CREATE VIEW v AS FROM read_csv('/etc/passwd')", "statement 1 (line 1)", "Permission Error: "),
    ("CREATE VIEW v AS FROM texts", "statement 1 (line 1)", "Catalog Error: Table with name texts"),
    ("CREATE VIEW v AS\nSELECT FROM WHERE", "line 2", "Parser Error: "),
    ("-- nothing", "", "expected statements, found none"),
]


@pytest.mark.parametrize(("text", "place", "reason"), REFUSED, ids=[text for text, _, _ in REFUSED])
def test_statements_that_an_sql_file_may_not_hold_are_refused_and_change_nothing(
    tmp_path: Path, text: str, place: str, reason: str
) -> None:
    log, path = MemoryLog(1), tmp_path / "v.duckdb"
    Projector(log, path, projections=[LENGTHS]).close()
    with pytest.raises(ProjectionError) as raised:
        Projector(log, path, projections=[LENGTHS._replace(text=text)])
    assert (raised.value.projection, raised.value.place) == ("lengths.sql", place)
    assert raised.value.reason.startswith(reason)
    projector = Projector(log, path, projections=[LENGTHS])
    assert projector.custom.notes == []
    projector.close()


def test_an_sql_file_may_define_views_and_macros_in_its_schema_in_terms_of_each_other(tmp_path: Path) -> None:
    text = """
        -- One; a comment may hold anything.
        CREATE /* VIEW x; */ VIEW -- here, too (
            lengths /* and here */ . "two -- /*" AS SELECT 2;
        CREATE OR REPLACE VIEW one AS SELECT count(*) AS n, 'a;b' AS text FROM events;
        CREATE MACRO lengths.more(x) AS (SELECT n + x FROM lengths.one);
        CREATE FUNCTION listed(x) AS TABLE SELECT * FROM range(x);
        CREATE VIEW "lengths"."Quoted ""name"" view" (a) AS SELECT lengths.more(2) FROM projection.progress
    """
    projector = Projector(MemoryLog(1), tmp_path / "v.duckdb", projections=[LENGTHS._replace(text=text)])
    projector.run_once()
    connection = projector.store.connection
    assert connection.execute('FROM lengths."Quoted ""name"" view"').fetchall() == [(3,)]
    assert connection.execute("SELECT lengths.more(1)").fetchall() == [(2,)]
    assert connection.execute("FROM lengths.listed(2)").fetchall() == [(0,), (1,)]
    projector.close()


TABLES = [
    ("CREATE TABLE t (a INTEGER DEFAULT 3)", "table t", "a column has more than a name and a type"),
    ("CREATE TABLE t (a INTEGER PRIMARY KEY)", "table t", "a column has more than a name and a type"),
    ("CREATE TABLE t (a INTEGER NOT NULL)", "table t", "a column has more than a name and a type"),
    ("CREATE TABLE t (a INTEGER, b INTEGER AS (a + 1))", "table t", "a column has more than a name and a type"),
    ("CREATE TABLE t (a JSON)", "table t", "column a is of type JSON"),
    ("CREATE TABLE t (a STRUCT(b UUID)[])", "table t", "column a is of type STRUCT(b UUID)[]"),
    ("CREATE TABLE t (a TIMESTAMPTZ)", "table t", "column a is of type TIMESTAMP WITH TIME ZONE"),
    ("CREATE TABLE t AS SELECT 1 AS a", "statement 1 (line 1)", "found a table that is not a list of columns"),
    ("CREATE TABLE t (a) AS SELECT 1", "statement 1 (line 1)", "found a table that is not a list of columns"),
    ("CREATE TABLE t (a INTEGER, partition INTEGER)", "statement 1 (line 1)", "Catalog Error: Column with name "),
    ('CREATE TABLE "a b" (a INTEGER)', "statement 1 (line 1)", 'found a table "a b", a name of more than letters'),
    ("CREATE TABLE main.t (a INTEGER)", "statement 1 (line 1)", "found main.t, a name of another schema"),
    ("INSERT INTO t VALUES (1)", "statement 1 (line 1)", "found INSERT INTO"),
    ("CREATE INDEX i ON events (partition)", "statement 1 (line 1)", "found CREATE INDEX"),
]


@pytest.mark.parametrize(("tables", "place", "reason"), TABLES, ids=[tables for tables, _, _ in TABLES])
def test_tables_that_are_more_than_columns_are_refused(tmp_path: Path, tables: str, place: str, reason: str) -> None:
    """What a row holds is what `project` gave, checked before it is written; nothing comes from the database."""
    wrong = type("Wrong", (Texts,), {"tables": tables})
    with pytest.raises(ProjectionError) as raised:
        Projector(MemoryLog(1), tmp_path / "v.duckdb", projections=[wrong()])
    assert (raised.value.place, raised.value.reason[: len(reason)]) == (place, reason)
    projector = Projector(MemoryLog(1), tmp_path / "w.duckdb", projections=[Texts()])
    projector.close()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("INTEGER", [1, None], 1.5),
        ("INTEGER[]", [[1, None], None], [1.0]),
        ("STRUCT(a INTEGER, b VARCHAR)", [{"a": 1}, None], {"a": 1, "c": 2}),
        ("STRUCT(a INTEGER)[]", [[{"a": 1}]], [{"a": 1.5}]),
        ("STRUCT(a INTEGER)", [{"a": 1}], (1,)),
        ("MAP(VARCHAR, BIGINT)", [{"a": 1}, [("a", None)]], {"a": 1.5}),
    ],
)
def test_no_part_of_a_value_is_cut_off_or_left_out(tmp_path: Path, kind: str, good: list[Any], bad: Any) -> None:
    class One(Projection):
        name = "one"
        version = 1
        tables = f"CREATE TABLE one (a {kind})"
        values: ClassVar[list[Any]] = good

        def project(self, event: ProjectedEvent) -> Iterator[tuple[str, tuple[Any, ...]]]:
            yield from (("one", (value,)) for value in self.values)

    log = MemoryLog(1)
    ContextLog(log).context("a/1").add_message("user", "one")
    projector = Projector(log, tmp_path / "v.duckdb", projections=[One()])
    projector.run_once()
    assert len(projector.store.connection.execute("FROM one.one").fetchall()) == len(good)
    projector.close()
    One.values, One.version = [*good, bad], 2
    with pytest.raises(ProjectionError, match=r"version 1 .* column one.a: a \w+ that is no "):
        Projector(log, tmp_path / "v.duckdb", projections=[One()])


def test_values_of_all_types_of_columns_come_back_as_they_were_given(tmp_path: Path) -> None:
    values = (True, 1, 2**63 - 1, 255, 0.1, "text", b"\x00", ["a", None], {"x": 1, "y": [2.5]}, None)

    class Typed(Projection):
        name = "typed"
        version = 1
        tables = """CREATE TABLE "Order" (a BOOLEAN, b INTEGER, c BIGINT, d UTINYINT, e DOUBLE, f VARCHAR, g BLOB, h VARCHAR[],
            i STRUCT(x INTEGER, y DOUBLE[]), j DECIMAL(10, 2) -- )
            ); /* ; */"""

        def project(self, event: ProjectedEvent) -> Iterator[tuple[str, tuple[Any, ...]]]:
            yield "Order", values

    log = MemoryLog(1)
    ContextLog(log).context("a/1").add_message("user", "one")
    projector = Projector(log, tmp_path / "v.duckdb", projections=[Typed()])
    projector.run_once()
    assert projector.store.connection.execute('FROM typed."Order"').fetchall() == [(*values, 0)]
    projector.close()


@pytest.mark.parametrize("name", ["", "Big", "main", "projection", "current", "a b", "a;DROP", "1a", "x" * 64, None, 3])
def test_a_name_that_is_no_schema_of_its_own_is_refused(name: Any) -> None:
    for projection in (LENGTHS._replace(name=name), type("Named", (Texts,), {"name": name})()):
        with pytest.raises(ProjectionError, match="cannot be the name of a schema"):
            definition_of(projection)


@pytest.mark.parametrize("members", [{"version": "1"}, {"version": True}, {"tables": None}, {"types": "a"}, {"types": (1,)}])
def test_a_class_whose_members_have_another_form_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(ProjectionError, match="expected"):
        definition_of(type("Wrong", (Texts,), members)())


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectionError, match="another one is named texts"):
        Projector(MemoryLog(1), tmp_path / "v.duckdb", projections=[Texts(), LENGTHS._replace(name="texts")])


def test_projections_are_loaded_by_file_and_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "refunds.sql").write_text("CREATE VIEW a AS SELECT 1")
    (tmp_path / "my_projections.py").write_text("from unit.custom_projector import Texts\nclass Mine(Texts): name = 'mine'\n")
    monkeypatch.syspath_prepend(tmp_path)
    file, own = load_projections([str(tmp_path / "refunds.sql"), "my_projections:Mine"])
    assert isinstance(file, SqlViews)
    assert (file.name, file.text, own.name) == ("refunds", "CREATE VIEW a AS SELECT 1", "mine")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.sql", "cannot be read: No such file or directory"),
        ("latin.sql", "cannot be read: it is no UTF-8 text"),
        ("module", r"expected FILE.sql or module:Class"),
        ("no_such_module:Class", "importing no_such_module failed: ModuleNotFoundError"),
        (":Class", "importing  failed: ValueError"),
        ("json:JSONDecoder", "json has no class JSONDecoder that is a Projection"),
        ("json:Nothing", "json has no class Nothing that is a Projection"),
        ("ctxlog.projection.custom:Projection", "it cannot be made: TypeError"),
    ],
)
def test_a_name_that_is_no_projection_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.sql").write_bytes(b"-- \xe9")
    with pytest.raises(ProjectionError) as raised:
        load_projections([name])
    assert raised.value.projection == name
    assert raised.value.reason.startswith(reason)

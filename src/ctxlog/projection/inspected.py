"""A published file as those read it who want to check it: its rows as plain values, times in µs, nothing believed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.core.arbitration import RULES
from ctxlog.core.evolve import FOLD_VERSION
from ctxlog.errors import ProjectionError, ViewsError, ViewsOutdatedError
from ctxlog.model.state import ContextState
from ctxlog.projection import states, tables
from ctxlog.projection.custom import SqlViews, definition_of, said
from ctxlog.projection.store import QUIET
from ctxlog.projection.views import VIEWS

if TYPE_CHECKING:
    import duckdb

EVENT_COLUMNS = dict(tables.columns_of_events())
"""Columns of `events`, with their types in DuckDB."""

STREAM_COLUMNS = tuple(tables.STREAMS.names)

PAYLOAD_COLUMNS = {
    name: {column.name: tables.MEMBERS.get(column.name, column.name) for column in columns}
    for name, columns in tables.PAYLOADS.items()
}
"""By event type: the columns of its members, each with the name of the member."""

TIME_COLUMNS = frozenset(name for name, kind in EVENT_COLUMNS.items() if kind == "TIMESTAMP")

_DEFINITIONS = (
    "SELECT schema_name || '.' || view_name, sql FROM duckdb_views() WHERE NOT internal AND database_name = current_database() "
    "UNION ALL SELECT schema_name || '.' || function_name, parameters::VARCHAR || macro_definition FROM duckdb_functions() "
    "WHERE NOT internal AND database_name = current_database()"
)


_TABLES = (
    "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal AND database_name = current_database() ORDER BY ALL"
)


class Covered(NamedTuple):
    """How far a partition was projected, as the file says it."""

    partition: int
    next_offset: int
    last_offset: int
    last_digest: bytes
    last_at: int | None


class Added(NamedTuple):
    """A schema, or the part of one, that is none of this release's making.

    Attributes:
        schema: Its name.
        tables, views: Numbers of tables, and of views and macros.
        version: Of the SQL that the file says its views are made by; None where it says no such thing.
        altered: Names of views and macros that this SQL makes otherwise, or not at all.
    """

    schema: str
    tables: int
    views: int
    version: str | None
    altered: list[str]


@cache
def _definitions() -> dict[str, str]:
    """Views and macros of this release, as DuckDB writes them down."""
    with contextlib.closing(_fresh()) as fresh:
        return dict(fresh.execute(_DEFINITIONS).fetchall())


@cache
def _tables() -> list[tuple[str, str]]:
    """Schemas and names of the tables of this release."""
    with contextlib.closing(_fresh()) as fresh:
        return fresh.execute(_TABLES).fetchall()


def _fresh() -> duckdb.DuckDBPyConnection:
    """Views of this release without a row. SQL reaches nothing else from there."""
    import duckdb

    fresh = duckdb.connect(config={"python_enable_replacements": False, "temp_directory": ""})
    fresh.execute("ATTACH ':memory:' AS views; USE views")
    fresh.execute(tables.TABLES)
    fresh.execute(VIEWS)
    fresh.execute("SET enable_external_access = false")
    return fresh


def _by_name(definitions: Iterable[tuple[str, str]], schema: str) -> dict[str, list[str]]:
    """What a schema defines, by name; a macro may stand there more than once."""
    found: dict[str, list[str]] = {}
    for name, text in sorted(definitions):
        if name.partition(".")[0] == schema:
            found.setdefault(name, []).append(text)
    return found


def _made_by(name: str, text: str) -> tuple[str, dict[str, list[str]]]:
    """Version of an SQL file that people added, and what it defines. It stands in the file that is doubted."""
    import duckdb

    definition = definition_of(SqlViews(name, text, name))
    with contextlib.closing(_fresh()) as fresh:
        try:
            fresh.execute(f"CREATE SCHEMA {name}; SET search_path = 'views.{name},views.main'")
            for _, statement in definition.statements:
                fresh.execute(statement)
            fresh.execute("USE views")
            return definition.version, _by_name(fresh.execute(_DEFINITIONS).fetchall(), name)
        except duckdb.Error as error:
            raise ProjectionError(name, "", said(error), "") from error


class Published:
    """A published file, opened for reading.

    Raises:
        ViewsError: It cannot be opened, or is no file of views.
        ViewsOutdatedError: Its views are of another version.
    """

    def __init__(self, path: Path) -> None:
        import duckdb

        self.path = path
        try:
            self.connection = duckdb.connect(str(path), read_only=True)
            self.connection.execute(QUIET)
        except (duckdb.Error, OSError) as error:
            raise self._failure(error) from None
        try:
            rows = self._all("SELECT log_id, partitions, rules, fold_version, view_version FROM projection.file")
            if len(rows) != 1:
                raise ViewsError(f"{path}: expected one row in projection.file, found {len(rows)}; nothing was checked")
            self.log_id, self.partitions, *versions = rows[0]
            made = [RULES, FOLD_VERSION, tables.VIEW_VERSION]
            if versions != made:
                raise ViewsOutdatedError(
                    f"{path}: the views are of version {versions} (rules, fold, views), this release makes {made}; nothing was "
                    "checked. They are made anew: `ctxlog projector rebuild`."
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def _all(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        import duckdb

        try:
            return self.connection.execute(statement, list(values)).fetchall()
        except (duckdb.Error, OSError) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> ViewsError:
        # The message of an error may quote what is stored.
        return ViewsError(f"{self.path}: cannot be read as views ({type(error).__name__}); nothing more was checked")

    def coverage(self) -> list[Covered]:
        """One row a partition that was projected, if nobody doubled one."""
        rows = self._all(
            "SELECT partition, next_offset, last_offset, last_digest, epoch_us(last_at) FROM projection.progress ORDER BY ALL"
        )
        return [Covered(*row) for row in rows]

    def controls(self, partition: int) -> list[tuple[Any, ...]]:
        """Offset, time, key and value of the control records that are kept of a partition."""
        return self._all(
            "SELECT record_offset, recorded_at, key, value FROM projection.controls WHERE partition = ? ORDER BY ALL", [partition]
        )

    def altered(self) -> list[str]:
        """Names of views and macros that are not those of this release."""
        found = dict(self._all(_DEFINITIONS))
        return [name for name, text in sorted(_definitions().items()) if found.get(name) != text]

    def added(self) -> list[Added]:
        """What people added. The log does not say what it should be; views from an SQL file are compared with its text, which is
        kept beside them.
        """
        definitions, recorded = (
            self._all(_DEFINITIONS),
            self._all("SELECT name, kind, version, definition FROM projection.custom"),
        )
        views = Counter(name.partition(".")[0] for name, _ in definitions if name not in _definitions())
        others = Counter(schema for schema, name in self._all(_TABLES) if (schema, name) not in _tables())
        of_sql = {name: (version, text) for name, kind, version, text in recorded if name and kind == "sql"}
        found = []
        for schema in sorted(views.keys() | others.keys() | of_sql.keys()):
            version, altered = None, []
            if schema in of_sql:
                version, there = of_sql[schema][0], _by_name(definitions, schema)
                try:
                    made, wanted = _made_by(schema, of_sql[schema][1])
                except (ProjectionError, TypeError, AttributeError):  # It is no SQL that could have been added.
                    made, wanted = "", {}
                names = sorted(wanted.keys() | there.keys())
                altered = (
                    [name for name in names if wanted.get(name) != there.get(name)] if made == version else names or [schema]
                )
            found.append(Added(schema, others[schema], views[schema], version, altered))
        return found

    def streams(self) -> list[dict[str, Any]]:
        """The rows of `streams`."""
        listed = ", ".join(
            f"epoch_us({name})" if str(kind).startswith("timestamp") else name
            for name, kind in zip(STREAM_COLUMNS, tables.STREAMS.types, strict=True)
        )
        rows = self._all(f"SELECT {listed} FROM streams ORDER BY stream_id, partition")  # noqa: S608 - names of columns
        return [dict(zip(STREAM_COLUMNS, row, strict=True)) for row in rows]

    def offsets(self) -> Iterator[tuple[int, list[int]]]:
        """The offsets that there are rows of, by partition, in their order."""
        for (partition,) in self._all("SELECT DISTINCT partition FROM events ORDER BY ALL"):
            rows = self._all("SELECT record_offset FROM events WHERE partition IS NOT DISTINCT FROM ? ORDER BY ALL", [partition])
            yield partition, [offset for (offset,) in rows]

    def events_of(self, stream_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of some streams, in all partitions."""
        return self._events(
            "SEMI JOIN (SELECT unnest(?::VARCHAR[]) AS stream_id) USING (stream_id) ORDER BY stream_id, record_offset",
            [list(stream_ids)],
        )

    def events_at(self, partition: int, offsets: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of some records."""
        return self._events(
            "SEMI JOIN (SELECT unnest(?::BIGINT[]) AS record_offset) USING (record_offset) "
            "WHERE partition = ? ORDER BY record_offset",
            [list(offsets), partition],
        )

    def _events(self, rest: str, values: list[Any]) -> list[dict[str, Any]]:
        listed = ", ".join(f"epoch_us({name})" if name in TIME_COLUMNS else name for name in EVENT_COLUMNS)
        rows = self._all(f"SELECT {listed} FROM events {rest}", values)  # noqa: S608 - names of columns
        return [dict(zip(EVENT_COLUMNS, row, strict=True)) for row in rows]

    def states(self, stream_ids: Sequence[str]) -> dict[str, ContextState]:
        """Current states by the views; see `states.states_of`."""
        import duckdb

        try:
            return states.states_of(self.connection, stream_ids)
        except duckdb.Error as error:
            raise self._failure(error) from None

    def state_at(self, stream_id: str, version: int) -> ContextState | str:
        """The state at a version by the macros, or why they have none."""
        import duckdb

        try:
            return states.state_at(self.connection, stream_id, version)
        except duckdb.InvalidInputException as error:
            return str(error).splitlines()[0].removeprefix("Invalid Input Error: ")
        except duckdb.Error as error:
            raise self._failure(error) from None

"""The projections that people added, in a view file: kept up with it, in its transactions, and made anew when they changed.

What their tables hold is made from rows of `events` alone, by the same code whether these are of this batch or were there before:

    rows accepted at offsets of a span, in that order -> project -> rows of the projection's tables

So after every transaction the tables are what they would be had the projection been there from the first event on.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from numbers import Integral
from pathlib import Path
from typing import Any

import pyarrow as pa

from ctxlog.errors import ProjectionError
from ctxlog.projection.custom import Definition, ProjectedEvent, Projection, SqlViews, definition_of, said
from ctxlog.projection.store import ViewStore, quoted
from ctxlog.projection.tables import MEMBERS, PAYLOADS

CHUNK_ROWS = 20_000
CHUNK_BYTES = 32 * 1024 * 1024
"""What is in memory at once, of events that are read and of rows that are to be written."""

_SCALARS = {
    *("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "FLOAT", "DOUBLE"),
    *("VARCHAR", "BLOB", "DATE", "TIME", "TIMESTAMP"),
}
"""Types of columns whose values are converted before DuckDB sees them, so that of what does not fit the event is known."""

WINDOW = 100_000
"""Offsets that are looked through at once, so that finding the next events does not look at all of them."""

_COLUMNS = ProjectedEvent._fields[:-1]
_TYPE = _COLUMNS.index("type")
_UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)


class CustomTables:
    """What was added to a view file.

    Args:
        store: The file, which nobody reads before this is made: it brings the projections up to the file's progress, or changes
            nothing.
        projections: All that there are from now on. Others that the file has are dropped: what is kept but not kept up to date
            would pass for what it is not.
        anew: Name of one that is made anew even where it did not change.

    Attributes:
        notes: What was made or dropped, for people.
        live: Whether there is one that has tables to fill.

    Raises:
        ProjectionError: One is not in order, or failed at an event.
        ViewsError: The file cannot be written.
    """

    def __init__(self, store: ViewStore, projections: Sequence[Projection | SqlViews], *, anew: str | None = None) -> None:
        self.notes: list[str] = []
        self._store = store
        self._connection = store.connection
        definitions: dict[str, Definition] = {}
        for projection in projections:
            definition = definition_of(projection)
            if definition.name in definitions:
                raise ProjectionError(definition.source, "", f"another one is named {definition.name}, too", "Rename one of them")
            definitions[definition.name] = definition
        self._forms: dict[str, dict[str, pa.Schema]] = {}
        self._settle(definitions, anew)
        self._filled = [definition for definition in definitions.values() if definition.project is not None]
        self.live = bool(self._filled)

    def add(self, spans: Mapping[int, tuple[int, int]]) -> None:
        """Add what was accepted at offsets from the first up to the second, by partition; inside the transaction that adds it."""
        for partition, (start, stop) in spans.items():
            self._project(self._filled, partition, start, stop)

    def _settle(self, definitions: Mapping[str, Definition], anew: str | None) -> None:
        """Let the file have these projections and no others."""
        rows = self._connection.execute("SELECT name, kind, version FROM projection.custom").fetchall()
        found = {name: (kind, version) for name, kind, version in rows}
        stale = [one for one in definitions.values() if one.name == anew or found.get(one.name) != (one.kind, one.version)]
        gone = sorted(found.keys() - definitions.keys())
        if definitions:
            # A view is over what the file has; never over a file beside it, or over something in this process.
            self._connection.execute("SET python_enable_replacements = false")
            self._connection.execute("SET enable_external_access = false")
        if stale or gone:
            with self._store.transaction():
                for name in (*gone, *(one.name for one in stale if one.name in found)):
                    self._connection.execute(f"DROP SCHEMA {name} CASCADE")
                    self._connection.execute("DELETE FROM projection.custom WHERE name = ?", [name])
                for definition in stale:
                    self._create(definition)
                counted = self._fill([one for one in stale if one.project is not None])
            self.notes += [f"projection {name}: dropped, because it is not named any more" for name in gone]
            for one in stale:
                why = "" if one.name == anew else ", because it changed"
                made = f"made anew{why}" if one.name in found else "made"
                self.notes.append(f"projection {one.name}: {made}" + (f" ({counted[one.name]:,} events)" if one.project else ""))
        for definition in definitions.values():
            if definition.project is not None and definition.name not in self._forms:
                self._forms[definition.name] = self._forms_of(definition)

    def _create(self, definition: Definition) -> None:
        import duckdb

        name, source = definition.name, definition.source
        self._connection.execute(f"CREATE SCHEMA {name}")
        self._connection.execute(f"SET search_path = 'views.{name},views.main'")
        for place, statement in definition.statements:
            try:
                self._connection.execute(statement)
            except duckdb.Error as error:
                raise ProjectionError(source, place, said(error), "Correct it") from error
        self._connection.execute("USE views")
        if definition.project is not None:
            self._forms[name] = self._forms_of(definition)
        self._connection.execute(
            "INSERT INTO projection.custom VALUES (?, ?, ?, ?)", [name, definition.kind, definition.version, definition.text]
        )

    def _forms_of(self, definition: Definition) -> dict[str, pa.Schema]:
        """The form of rows of each of its tables."""
        import duckdb

        name = definition.name
        more = self._connection.execute(
            "SELECT table_name FROM duckdb_constraints() WHERE database_name = 'views' AND schema_name = $1 "
            "UNION ALL SELECT table_name FROM duckdb_columns() "
            "WHERE database_name = 'views' AND schema_name = $1 AND column_default IS NOT NULL",
            [name],
        ).fetchone()
        if more is not None:
            raise ProjectionError(
                definition.source,
                f"table {more[0]}",
                "a column has more than a name and a type",
                "Leave out constraints, defaults and expressions; a view can have them",
            )
        columns = self._connection.execute(
            "SELECT c.table_name, c.column_name, c.data_type FROM duckdb_columns() c "
            "SEMI JOIN duckdb_tables() t ON t.database_name = c.database_name AND t.table_oid = c.table_oid "
            "WHERE c.database_name = 'views' AND c.schema_name = ?",
            [name],
        ).fetchall()
        for table, column, kind in columns:
            if not _is_converted(duckdb.sqltype(kind)):
                allowed = ", ".join(sorted(_SCALARS - {"VARCHAR"}))
                raise ProjectionError(
                    definition.source,
                    f"table {table}",
                    f"column {column} is of type {kind}",
                    f"Use VARCHAR, for JSON too, DECIMAL, {allowed}, or lists, structs and maps of them",
                )
        tables = dict.fromkeys(table for table, _, _ in columns)
        return {table: self._connection.sql(f"FROM {name}.{_name(table)} LIMIT 0").to_arrow_table().schema for table in tables}

    def _fill(self, definitions: Sequence[Definition]) -> dict[str, int]:
        """Go through all events that the file has, for projections that have seen none; how many there were for each."""
        counted = dict.fromkeys((definition.name for definition in definitions), 0)
        if definitions:
            for partition, stop in self._connection.execute("SELECT partition, next_offset FROM projection.progress").fetchall():
                for name, count in self._project(definitions, partition, 0, stop).items():
                    counted[name] += count
        return counted

    def _project(self, definitions: Sequence[Definition], partition: int, start: int, stop: int) -> dict[str, int]:
        """Let projections see what was accepted at offsets from `start` up to `stop`; how many events each saw."""
        counted = dict.fromkeys((definition.name for definition in definitions), 0)
        pending = [(definition, Pending(definition, self._forms[definition.name])) for definition in definitions]
        reading = Reading(definitions)
        for rows in self._chunks(reading, partition, start, stop):
            for row in rows:
                for definition, made in pending:
                    if not definition.types or row[_TYPE] in definition.types:
                        counted[definition.name] += 1
                        made.take(reading.event(row))  # One for each, so that none can change what another sees.
                        if made.count >= CHUNK_ROWS:
                            self._write(made)
            for _, made in pending:
                self._write(made)
        return counted

    def _chunks(self, reading: Reading, partition: int, start: int, stop: int) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of what was accepted in a span, in that order, so many at once as fit in memory."""
        for low in range(start, stop, WINDOW):
            done, high = (low, 0), min(low + WINDOW, stop)
            while True:
                keys = self._connection.execute(reading.keys, [partition, low, high, *done, CHUNK_ROWS]).fetchall()
                sizes = accumulate(size for _, _, size in keys)
                fitting = keys[: max(1, sum(size <= CHUNK_BYTES for size in sizes))]
                if not fitting:
                    break
                last = fitting[-1][:2]
                yield self._connection.execute(reading.rows, [partition, low, high, *done, *last]).fetchall()
                done = last
                if len(fitting) == len(keys) < CHUNK_ROWS:
                    break

    def _write(self, pending: Pending) -> None:
        for table, batch in pending.batches():
            # Not registered under a name: the transaction, which may be long, would keep each of them to its end.
            self._connection.from_arrow(batch).insert_into(f"{pending.name}.{_name(table)}")


class Reading:
    """How rows of `events` are read for projections.

    Attributes:
        keys: Statement that gives where events stand in the order in which they were accepted, and their sizes; for partition,
            offsets from and up to, the place after which, and how many.
        rows: Statement that gives them; for the same and the place up to which.
    """

    def __init__(self, definitions: Iterable[Definition]) -> None:
        wanted = [definition.types for definition in definitions]
        types = frozenset[str]().union(*wanted) if all(wanted) else None
        kinds = PAYLOADS if types is None else types & PAYLOADS.keys()
        members = dict.fromkeys(column.name for kind in sorted(kinds) for column in PAYLOADS[kind])
        columns = list(dict.fromkeys((*_COLUMNS, *members, "data")))
        # At one offset, events of one stream are accepted: so offset and version order those of a partition.
        order = "ORDER BY decided_offset, version"
        span = (
            "FROM events WHERE partition = $1 AND outcome = 'accepted' AND decided_offset >= $2 AND decided_offset < $3 "
            "AND (decided_offset > $4 OR (decided_offset = $4 AND version > $5))"
        )
        if types is not None:
            span += f" AND type IN ({', '.join(map(quoted, sorted(types)))})"
        self.keys = f"SELECT decided_offset, version, bytes {span} {order} LIMIT $6"
        up_to = "(decided_offset < $6 OR (decided_offset = $6 AND version <= $7))"
        self.rows = f"SELECT {', '.join(columns)} {span} AND {up_to} {order}"
        self._data = columns.index("data")
        self._members = {
            kind: [(MEMBERS.get(column.name, column.name), columns.index(column.name)) for column in PAYLOADS[kind]]
            for kind in kinds
        }

    def event(self, row: tuple[Any, ...]) -> ProjectedEvent:
        """The event of a row."""
        members = self._members.get(row[_TYPE])
        payload = json.loads(row[self._data]) if members is None else {name: row[place] for name, place in members}
        return ProjectedEvent._make((*row[: len(_COLUMNS)], payload))


class Pending:
    """Rows of one projection that are not written yet.

    Attributes:
        name: Of the projection.
        count: Number of rows.
    """

    def __init__(self, definition: Definition, forms: Mapping[str, pa.Schema]) -> None:
        self.name = definition.name
        self.count = 0
        self._definition = definition
        self._forms = forms
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        self._events: dict[str, list[tuple[Any, ...]]] = {}

    def take(self, event: ProjectedEvent) -> None:
        """Add the rows that an event amounts to."""
        project = self._definition.project
        assert project is not None  # noqa: S101 - such projections alone are asked
        try:
            given = list(project(event))
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)[1:2]
            where = "".join(f" at {Path(frame.filename).name}:{frame.lineno}" for frame in frames)
            raise self._failure(_place(event), f"{type(error).__name__}{where}") from error
        for each in given:
            table, values = _pair(each)
            form = self._forms.get(table)
            if form is None or len(values) != len(form) - 1:
                tables = ", ".join(f"{name} of {len(form) - 1}" for name, form in self._forms.items())
                raise self._failure(
                    _place(event), f"expected pairs of a table and a tuple of its values ({tables}), found another"
                )
            self._rows.setdefault(table, []).append((*values, event.partition))
            self._events.setdefault(table, []).append(_place(event))
            self.count += 1

    def batches(self) -> Iterator[tuple[str, pa.Table]]:
        """The rows of each table, which are no longer pending then."""
        for table, rows in self._rows.items():
            form = self._forms[table]
            arrays = [self._array(table, field, column) for field, column in zip(form, zip(*rows, strict=True), strict=True)]
            yield table, pa.Table.from_arrays(arrays, schema=form)
        self._rows, self._events, self.count = {}, {}, 0

    def _array(self, table: str, field: pa.Field, column: Sequence[Any]) -> pa.Array:
        try:
            return _exactly(column, field.type)
        except _UNFIT as error:
            for place, value in zip(self._events[table], column, strict=True):
                try:
                    _exactly([value], field.type)
                except _UNFIT:
                    fault = f"column {table}.{field.name}: a {type(value).__name__} that is no {field.type}"
                    raise self._failure(place, fault) from error
            raise  # Each fits and all do not: there is no such case.

    def _failure(self, place: tuple[Any, ...], reason: str) -> ProjectionError:
        stream_id, version, partition, offset = place
        return ProjectionError(
            self._definition.source, f"stream {stream_id!r} version {version} ({partition}@{offset})", reason,
            "Correct the projection; then it goes on there"
        )  # fmt: skip


def _pair(given: Any) -> tuple[str, tuple[Any, ...]]:
    """A table and values, as they should be given; no table where something else was."""
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], (tuple, list)):
        return given[0], tuple(given[1])
    return "", ()


def _exactly(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    array = pa.array(values, kind)
    if (pa.types.is_integer(kind) or pa.types.is_nested(kind)) and not all(_is_whole(value, kind) for value in values):
        raise TypeError("pyarrow would cut off what is behind the point, and leave out members that a struct has not")
    return array


def _is_whole(value: Any, kind: pa.DataType) -> bool:
    """Whether there is an integer wherever one belongs, and no member that would be left out."""
    if value is None:
        return True
    if pa.types.is_integer(kind):
        return isinstance(value, Integral)
    if pa.types.is_list(kind):
        return all(_is_whole(each, kind.value_type) for each in value)
    if pa.types.is_struct(kind):
        members = {member.name: member.type for member in kind}
        return isinstance(value, Mapping) and all(
            name in members and _is_whole(each, members[name]) for name, each in value.items()
        )
    if pa.types.is_map(kind):
        pairs = value.items() if isinstance(value, Mapping) else value
        return all(_is_whole(key, kind.key_type) and _is_whole(each, kind.item_type) for key, each in pairs)
    return True


def _place(event: ProjectedEvent) -> tuple[str, int, int, int]:
    return event.stream_id, event.version, event.partition, event.record_offset


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_converted(kind: Any) -> bool:
    """Whether values of a column's type come to DuckDB as what they are."""
    match kind.id:
        case "list" | "struct" | "map":
            return all(_is_converted(child) for _, child in kind.children)
        case "decimal":
            return True
        case _:
            return str(kind) in _SCALARS

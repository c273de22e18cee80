"""Published files, attached for reading: checked to be views of one log and of this release, and compared partition by partition.

What a file holds of a partition depends on the partition and how far it is, and on nothing else. So of several files the one that
is furthest says all that the others say of a partition, and stale ones do no harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctxlog.core.arbitration import RULES
from ctxlog.core.evolve import FOLD_VERSION
from ctxlog.errors import ViewsBusyError, ViewsError, ViewsOutdatedError
from ctxlog.projection.coverage import published_files
from ctxlog.projection.store import quoted
from ctxlog.projection.tables import VIEW_VERSION

if TYPE_CHECKING:
    import duckdb

_NEVER = datetime(1970, 1, 1)  # noqa: DTZ001 - as DuckDB gives times: UTC, without saying so
_MAKE = "`ctxlog projector run --once` makes them"


class Source(NamedTuple):
    """A published file that is attached.

    Attributes:
        path: The file.
        name: Under which it is attached.
        log_id: The log that it is about.
        next_offsets: How far each partition is.
        published_at: When it was published, by partition; None: one that is not named.
    """

    path: Path
    name: str
    log_id: str
    next_offsets: dict[int, int]
    published_at: dict[int | None, datetime]

    def reach(self, partition: int) -> tuple[int, datetime]:
        """How far a partition is, and by when; the greater one is to be read."""
        published_at = self.published_at.get(partition, self.published_at.get(None, _NEVER))
        return self.next_offsets.get(partition, 0), published_at


def files_to_read(folder: Path) -> list[Path]:
    """The published files of a folder.

    Raises:
        ViewsError: There are none.
    """
    found = published_files(folder)
    if not found:
        what = "no views are published here" if folder.is_dir() else "there is no such folder, so no views"
        raise ViewsError(f"{folder}: {what}; {_MAKE}, or name the folder that has them: --views FOLDER.")
    return found


def attach(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> list[Source]:
    """Attach published files for reading. They stay as they are now, also when others take their place.

    Raises:
        ViewsBusyError: Another program has one open for writing.
        ViewsOutdatedError: One is of another version of the views.
        ViewsError: One is no published file, or they are not all of one log.
    """
    sources = [_attached(connection, path, f"published_{number}") for number, path in enumerate(paths)]
    for source in sources[1:]:
        if source.log_id != sources[0].log_id:
            raise ViewsError(
                f"{source.path}: these are views of log {source.log_id}, and {sources[0].path.name} beside it of log "
                f"{sources[0].log_id}; nothing was read. Views of one log belong in a folder: move the others."
            )
    return sources


def _attached(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> Source:
    """As `_attach`; once more where another file took this one's place meanwhile, which need not be noticed by whoever reads."""
    before = _identity(path)
    try:
        return _attach(connection, path, name)
    except ViewsError:
        if _identity(path) == before:
            raise
    connection.execute(f"DETACH DATABASE IF EXISTS {name}")
    return _attach(connection, path, name)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _attach(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> Source:
    import duckdb

    if path.with_name(f"{path.name}.wal").exists():
        raise ViewsError(
            f"{path}: another program opened it for writing, so it need not be what was published; nothing was read. Publish it "
            "again, and open published files read-only (duckdb -readonly)."
        )
    try:
        connection.execute(f"ATTACH {quoted(str(path.absolute()))} AS {name} (READ_ONLY)")
        versions = connection.execute(
            f"SELECT log_id, rules, fold_version, view_version FROM {name}.projection.file"  # noqa: S608 - a name of ours
        ).fetchall()
        progress = connection.execute(
            f"SELECT partition, next_offset FROM {name}.projection.progress"  # noqa: S608 - likewise
        ).fetchall()
        # Of another version it may be any table.
        publication = connection.execute(f"FROM {name}.projection.publication").fetchall()  # likewise
    except duckdb.Error as error:
        raise _failure(path, error) from error
    if len(versions) != 1:
        raise ViewsError(f"{path}: this is no file of views; nothing was read. Move it to another folder.")
    log_id, *found = versions[0]
    if found != [RULES, FOLD_VERSION, VIEW_VERSION]:
        raise ViewsOutdatedError(
            f"{path}: the views are of version {found}, this release reads {[RULES, FOLD_VERSION, VIEW_VERSION]}; nothing was "
            "read. Make them anew with this release (`ctxlog projector rebuild`), or delete the file if nobody publishes it."
        )
    if not publication:
        raise ViewsError(f"{path}: this was never published: it is a projector's own file; nothing was read. Move it away.")
    return Source(path, name, str(log_id), dict(progress), {partition: at for at, partition in publication})


def _failure(path: Path, error: Exception) -> ViewsError:
    import duckdb

    if "lock on file" in str(error):
        return ViewsBusyError(
            f"{path}: another program has it open for writing; nothing was read. Close that one, and open published files "
            "read-only (duckdb -readonly)."
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return ViewsError(f"{path}: opening it takes more memory than was given; nothing was read. Give it more: --memory SIZE.")
    # What the system says of a file. Other errors may quote what is stored.
    said = f": {str(error).splitlines()[0][:200]}" if isinstance(error, duckdb.IOException) else ""
    return ViewsError(
        f"{path}: this is no published file of views, or it is damaged ({type(error).__name__}{said}); nothing was read. Move it "
        "away, or have it published again."
    )


def furthest(sources: Sequence[Source]) -> dict[str, list[int]]:
    """Which partitions are read from which file, by its name; files that are behind in everything are left out."""
    partitions = sorted({partition for source in sources for partition in source.next_offsets})
    chosen: dict[str, list[int]] = {}
    for partition in partitions:
        best = max(sources, key=lambda source: source.reach(partition))
        chosen.setdefault(best.name, []).append(partition)
    return chosen or {sources[0].name: []}


class Table(NamedTuple):
    """A table that several files have."""

    schema: str
    name: str

    def rows(self, chosen: Mapping[str, Sequence[int]]) -> str:
        """SQL for its rows in the files, each partition's from the file that is read for it."""
        return " UNION ALL ".join(
            f"SELECT * FROM {source}.{self} WHERE partition IN ({', '.join(map(str, partitions)) or 'NULL'})"  # noqa: S608
            for source, partitions in chosen.items()
        )

    def __str__(self) -> str:
        return ".".join('"' + part.replace('"', '""') + '"' for part in self)


def copy_schema(connection: duckdb.DuckDBPyConnection, files: Sequence[str], to: str) -> list[Table]:
    """Make the tables, views and macros of files in another database, and fill in what says something about the views.

    Left out is what people added and nobody can put together: what not all files have in the same version, and tables without a
    partition's rows.

    Returns:
        Tables with rows by partition, without these.
    """
    first = files[0]
    connection.execute(f"COPY FROM DATABASE {first} TO {to} (SCHEMA)")
    added = [connection.execute(f"SELECT name, kind, version FROM {name}.projection.custom").fetchall() for name in files]  # noqa: S608
    apart = sorted({name for name, *_ in added[0]} - {name for name, *_ in set(added[0]).intersection(*added[1:])})
    for name in apart:
        connection.execute(f"DROP SCHEMA {to}.{name} CASCADE")
    rows = connection.execute(
        "SELECT t.schema_name, t.table_name, bool_or(c.column_name = 'partition') FROM duckdb_tables() t "
        "JOIN duckdb_columns() c USING (database_name, schema_name, table_name) WHERE t.database_name = ? "
        "GROUP BY ALL ORDER BY ALL",
        [to],
    ).fetchall()
    for schema, name, parted in rows:
        if not parted and schema == "projection":
            connection.execute(f"INSERT INTO {to}.{Table(schema, name)} FROM {first}.{Table(schema, name)}")
        elif not parted:
            connection.execute(f"DROP TABLE {to}.{Table(schema, name)}")
    connection.executemany(f"DELETE FROM {to}.projection.custom WHERE name = ?", [[name] for name in ["", *apart]])  # noqa: S608
    return [Table(schema, name) for schema, name, parted in rows if parted and name != "publication"]


def publications(sources: Sequence[Source], chosen: Mapping[str, Sequence[int]]) -> list[tuple[datetime, int]]:
    """When what is read of each partition was published."""
    named = {source.name: source for source in sources}
    return [(named[source].reach(partition)[1], partition) for source, partitions in chosen.items() for partition in partitions]

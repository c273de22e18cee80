"""SQL over what is published: opened for reading, and for nothing else.

    folder -> published files, attached -> one, or per partition the furthest, under the same names -> locked -> one SELECT

The log itself is not opened. SQL reaches the views and nothing else: no file, no network, no setting, no other program's data.
What is open stays as it is while newer files are published.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from ctxlog.errors import InvalidInputError, QueryStoppedError, ViewsError
from ctxlog.projection.memory import memory_bytes
from ctxlog.projection.published import attach, copy_schema, files_to_read, furthest, publications
from ctxlog.projection.store import QUIET
from ctxlog.projection.working import Deadline, TimeIsUpError, Worker

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

MEMORY = "1GB"
TIMEOUT_SECONDS = 60.0

BATCH_ROWS = 500
"""Rows of an answer that are in memory at once, beside DuckDB's own. One may be a megabyte; taking more was no faster."""

GROUP_ROWS = 50_000
"""The same, of Parquet: its readers like larger groups."""

_EXPLAIN = re.compile(r"\s*EXPLAIN(\s+ANALYZE|\s*\([^()]*\))?\s", re.IGNORECASE)

_NO_PARQUET = re.compile(r"\b(BIT|BIGNUM|INTERVAL|TIME WITH TIME ZONE|UNION|VARIANT)\b")
"""Types that Parquet does not have, and that would be written as something else."""


class Column(NamedTuple):
    """A column of an answer, by its name and DuckDB's name of its type."""

    name: str
    type: str


class Coverage(NamedTuple):
    """How far a partition is in what is read; see the view of this name."""

    partition: int
    next_offset: int
    end_offset: int
    lag_events: int
    lag_seconds: float
    published_at: datetime | None
    age_seconds: float


class Answer(NamedTuple):
    """What a query gives.

    Attributes:
        columns: The columns.
        batches: The rows, some at a time, as they are found. To be taken once, before the next query.
        explained: Whether it is how DuckDB would go about it.
    """

    columns: list[Column]
    batches: Generator[list[tuple[Any, ...]]]
    explained: bool


class Views:
    """The published views of a log.

    Args:
        folder: Where they are.
        memory: What DuckDB may keep, as in `2GB`. It takes no disk. Texts and lists that SQL makes on the way are not counted;
            `memory.bounded` holds a process that does nothing else to a limit.

    Attributes:
        sources: The files that were found.
        log_id: The log that they are about.
        coverage: How far the partitions are.
        memory_bytes: What DuckDB may keep.

    Raises:
        ViewsError: There are none, or they cannot be read; the message says which, and why.
        InvalidInputError: `memory` is no size, or less than it takes to open the views.
    """

    def __init__(self, folder: Path, *, memory: str = MEMORY) -> None:
        self._folder, self._memory, self.memory_bytes = folder, memory, memory_bytes(memory)
        paths = files_to_read(folder)
        self.connection = self._connect()
        try:
            self.sources = attach(self.connection, paths)
            self.log_id = self.sources[0].log_id
            self._present()
            self.coverage = [Coverage(*row) for row in self.connection.execute(_COVERAGE).fetchall()]
            self._lock()
        except BaseException as error:
            self.connection.close()
            if isinstance(error, _duckdb().Error):
                raise self._failure(error) from error
            raise
        self._worker = Worker(self.connection.interrupt)
        self._asking = False

    def _connect(self) -> duckdb.DuckDBPyConnection:
        connection: duckdb.DuckDBPyConnection = _duckdb().connect(
            config={
                "temp_directory": "",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_persistent_secrets": False,
                "python_enable_replacements": False,  # No variable of this process is a table.
            }
        )
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(QUIET)
        connection.execute(f"SET memory_limit = '{self.memory_bytes}B'")
        return connection

    def _present(self) -> None:
        """Let what is read stand under its documented names."""
        chosen = furthest(self.sources)
        if len(chosen) == 1:
            self.connection.execute(f"USE {next(iter(chosen))}")
            return
        for table in copy_schema(self.connection, list(chosen), "memory"):
            self.connection.execute(f"DROP TABLE memory.{table}")
            self.connection.execute(f"CREATE VIEW memory.{table} AS {table.rows(chosen)}")
        self.connection.executemany("INSERT INTO projection.publication VALUES (?, ?)", publications(self.sources, chosen))

    def _lock(self) -> None:
        """Close everything but what is open already."""
        for setting in (
            "enable_external_access = false",
            "disabled_filesystems = 'LocalFileSystem'",
            "lock_configuration = true",
        ):
            self.connection.execute(f"SET {setting}")

    def ask(self, sql: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Answer:
        """Ask something.

        Args:
            sql: One SELECT, or what comes to the same: FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN.
            timeout_seconds: What finding the answer may take.

        Raises:
            InvalidInputError: DuckDB cannot answer it; its message says where, and why. Or `timeout_seconds` is no time.
            QueryStoppedError: It takes too long, or too much memory. May come with a later batch, too.
            ViewsError: The file is damaged. Likewise.
        """
        self._settle()
        deadline = _deadline(timeout_seconds)
        self._check(sql)
        self._asking = True
        self._do(lambda: self.connection.execute(sql), deadline, timeout_seconds)
        columns = [Column(name, str(kind)) for name, kind, *_ in self.connection.description or ()]
        explained = [column.name for column in columns] == ["explain_key", "explain_value"]
        return Answer(columns, self._batches(deadline, timeout_seconds), explained)

    def _batches(self, deadline: Deadline, timeout_seconds: float) -> Generator[list[tuple[Any, ...]]]:
        while rows := self._do(lambda: self.connection.fetchmany(BATCH_ROWS), deadline, timeout_seconds):
            yield rows
        self._asking = False

    def write_parquet(self, sql: str, sink: BinaryIO, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Write an answer as a Parquet file.

        Args:
            sql: See `ask`.
            sink: Where to. What stands there after an error has no end, and no reader takes it for a file.
            timeout_seconds: See `ask`.

        Raises:
            InvalidInputError: See `ask`; or Parquet has no such type.
            QueryStoppedError: See `ask`.
            ViewsError: See `ask`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._settle()
        deadline = _deadline(timeout_seconds)
        self._check(sql)
        self._asking = True
        relation = self._do(lambda: self.connection.sql(sql), deadline, timeout_seconds)
        for name, kind in zip(relation.columns, relation.types, strict=True):
            if _NO_PARQUET.search(str(kind)):
                raise InvalidInputError(f"column {name!r}: Parquet has no {kind}; cast it, as in {name}::VARCHAR")
        reader = self._do(lambda: relation.to_arrow_reader(GROUP_ROWS), deadline, timeout_seconds)
        names = unique(relation.columns)
        schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])
        with pq.ParquetWriter(_Counted(sink), schema, compression="zstd") as writer:
            while (batch := self._do(lambda: next(reader, None), deadline, timeout_seconds)) is not None:
                writer.write_batch(batch.rename_columns(names))
        self._asking = False

    def _check(self, sql: str) -> None:
        """See that it is one statement, which reads. (DuckDB itself refuses the others on what is open for reading only.)"""
        kinds = self._kinds(sql)
        if len(kinds) != 1:
            found = f"{len(kinds)} statements" if kinds else "no statement"
            raise InvalidInputError(f"expected one statement of SQL, found {found}; nothing was read")
        if kinds == ["EXPLAIN"] and (begin := _EXPLAIN.match(sql)) is not None:
            kinds = self._kinds(sql[begin.end() :])  # With ANALYZE it would be done.
        if kinds != ["SELECT"]:
            raise InvalidInputError(
                "expected a statement that reads, as SELECT, FROM, WITH, DESCRIBE, SUMMARIZE or EXPLAIN SELECT; nothing was read"
            )

    def _kinds(self, sql: str) -> list[str]:
        try:
            return [statement.type.name for statement in self.connection.extract_statements(sql)]
        except _duckdb().Error as error:
            raise self._failure(error) from error
        except ValueError:  # One that DuckDB's own Python does not know.
            return ["UNKNOWN"]

    def _do(self, work: Callable[[], T], deadline: Deadline, timeout_seconds: float) -> T:
        try:
            return self._worker.do(work, deadline)
        except TimeIsUpError:
            raise QueryStoppedError(
                f"the answer would take longer than {timeout_seconds:g} s; it was stopped. Ask for less, or give it more time: "
                "--timeout SECONDS."
            ) from None
        except _duckdb().Error as error:
            raise self._failure(error) from error
        except MemoryError:
            raise self.too_much() from None
        except (OverflowError, ValueError) as error:  # of Python, not of DuckDB
            raise InvalidInputError(f"a value of the answer cannot be shown ({error}); cast it to VARCHAR") from error

    def _failure(self, error: Exception) -> Exception:
        duckdb = _duckdb()
        if isinstance(error, duckdb.OutOfMemoryException):
            return self.too_much()
        damaged = duckdb.IOException, duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException
        if isinstance(error, damaged) or "Corrupt database file" in str(error):
            return ViewsError(
                f"{self._folder}: the published views cannot be read to their end ({type(error).__name__}); what was read of the "
                "answer is not all of it. Have them published again."
            )
        return InvalidInputError(str(error))

    def too_much(self) -> QueryStoppedError:
        """What is to be said where there is no more memory."""
        return QueryStoppedError(
            f"the answer would take more memory than {self._memory}; it was stopped. Ask for less, or give it more: "
            "--memory SIZE."
        )

    def _settle(self) -> None:
        """End a query whose answer was not taken to its end: DuckDB goes on with it, and waits for that before anything else."""
        if self._asking and not self._worker.stuck:
            with contextlib.suppress(TimeIsUpError, _duckdb().Error):
                self._worker.do(lambda: self.connection.execute("SELECT 1"), Deadline(0))
            self._asking = False
        if self._worker.stuck:
            raise QueryStoppedError("an earlier query has not stopped yet; nothing was read. Open the views again.")

    def close(self) -> None:
        """Let go of the files."""
        with contextlib.suppress(QueryStoppedError):
            self._settle()
        self._worker.close()
        if not self._worker.stuck:
            self.connection.close()

    def __enter__(self) -> Views:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_COVERAGE = f"SELECT {', '.join(Coverage._fields)} FROM coverage ORDER BY partition"  # noqa: S608 - names of columns


def _deadline(seconds: float) -> Deadline:
    if math.isnan(seconds) or seconds <= 0:
        raise InvalidInputError(f"timeout {seconds:g}: expected seconds, more than 0; nothing was read")
    return Deadline(seconds)


def unique(names: list[str]) -> list[str]:
    """The names, with a number behind those that were there before."""
    found: dict[str, None] = {}
    for name in names:
        other, number = name, 0
        while other in found:
            number += 1
            other = f"{name}_{number}"
        found[other] = None
    return list(found)


class _Counted:
    """A file that says where it is, which pipes do not."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._written = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self._sink.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self.closed = True


def _duckdb() -> Any:
    import duckdb

    return duckdb

"""The file that a projector owns: rows, progress, and what is needed to go on, in one transaction a batch.

DuckDB lets one process write a file or many read it. This one is written, by one process; what others read are copies of it
(`publish.py`). Opening or copying it by its path inside the process that owns it would drop DuckDB's lock, so nobody does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from ctxlog.core.arbitration import RULES
from ctxlog.core.evolve import FOLD_VERSION
from ctxlog.errors import ViewsBusyError, ViewsDamagedError, ViewsError, ViewsFullError, ViewsMemoryError, ViewsOutdatedError
from ctxlog.model.records import Record
from ctxlog.model.state import NUMBER_MAX
from ctxlog.projection import tables
from ctxlog.projection.rows import Batch
from ctxlog.projection.streams import DecidedRow, Stream
from ctxlog.projection.views import VIEWS

if TYPE_CHECKING:
    import duckdb

STORAGE_VERSION = "v1.5.0"
"""Of the file, so that tools built on DuckDB 1.5 read it."""

QUIET = "SET enable_progress_bar = false"
"""DuckDB shows a bar on the terminal where a statement takes two seconds, and a projector has a line of its own there."""

MEMORY_MB, MEMORY_MB_MAX = 130, 8320
"""What DuckDB may take at first, and at most. Batches are small, and a larger cache would only hold what nobody reads here. But
thousands of records of a megabyte make it ask for more when it brings them into the file; then it gets twice as much."""

CHECKPOINT_ROWS = 100_000
"""How many rows stand in the file's WAL before DuckDB brings them into the file, as a row group of their own. Several that are
much smaller than the 122,880 rows that a row group can have (up to three quarters of it) are made one later, and so is what is
left where there are more: then DuckDB reads, compresses and writes them again. With a checkpoint at every 64 MB of WAL its part
took twice as long over 600,000 events, and the file half as much room again."""

CHECKPOINT = "192MB"
"""How much stands there at most, where rows are long. What DuckDB may not have in memory meanwhile, it puts aside on the disk."""

_RECALLED = (
    "stream_id", "record_offset", "type", "outcome", "version", "anomaly", "event_id", "scope", "target", "append_id",
    "role", "name", "tool_call_id", "message_id", "key", "call_id", "idempotency_key", "source_id", "failed",
    "parent_stream_id", "parent_version", "parent_chain_head",
)  # fmt: skip
"""Columns by which the fold of a stream is taken up again. (Texts it does not look at, but for those below.)"""


ROWS_AT_ONCE = 2048
"""Rows that are taken from DuckDB at once where there may be millions: as many as it keeps together."""


class Progress(NamedTuple):
    """How far a partition was projected.

    Attributes:
        next_offset: Everything below it is in the file.
        last_offset, last_digest: The last record below it, and its digest, by which another log is told from this one; -1 and
            nothing where there is none.
    """

    next_offset: int = 0
    last_offset: int = -1
    last_digest: bytes = b""


class Step(NamedTuple):
    """What one transaction adds to a partition's progress.

    Attributes:
        progress: What it is then.
        end_offset: Where the partition ended when its records were read.
        last_at: Time of the last record, ms since 1970 UTC; None where there is none.
    """

    progress: Progress
    end_offset: int
    last_at: int | None


class ViewStore:
    """A view file, opened by the process that owns it.

    Args:
        path: The file; made where there is none.
        log_id: The log that it is about.
        partitions: Of the log.
        memory_mb: What DuckDB may take at first; more where the file cannot be opened with that.

    Attributes:
        memory_mb: What it should get when the file is opened again: twice as much after a `ViewsMemoryError`.

    Raises:
        ViewsBusyError: Another process owns it.
        ViewsOutdatedError: It is of another version of the views, or damaged: it is to be made anew.
        ViewsError: It cannot be opened.
    """

    def __init__(self, path: Path, log_id: str, partitions: int, memory_mb: int = MEMORY_MB) -> None:
        self.path = path.absolute()
        self.log_id = log_id
        self.partitions = partitions
        self.memory_mb = memory_mb
        while True:
            try:
                self.connection = self._open()
                self._fresh_rows = 0  # Of the WAL; what was there before does not matter for long.
                return
            except ViewsMemoryError:  # What stands in its WAL was more than the file could be opened with.
                continue

    def _open(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            settings: dict[str, Any] = {
                "memory_limit": f"{self.memory_mb}MB",
                "threads": "1",
                "preserve_insertion_order": "true",
                "temp_directory": f"{self.path}.tmp",  # By default it is in whatever folder the process runs.
            }
            connection = duckdb.connect(config=settings)
            connection.execute(QUIET)
            connection.execute(f"SET checkpoint_threshold = {quoted(CHECKPOINT)}")
        except (duckdb.Error, OSError) as error:
            raise self.failure(error) from error
        try:
            connection.execute(f"ATTACH {quoted(str(self.path))} AS views (STORAGE_VERSION '{STORAGE_VERSION}')")
            self.path.chmod(0o600)  # It holds what agents know.
            connection.execute("USE views")
            known = connection.execute("SELECT 1 FROM duckdb_tables() WHERE database_name = 'views' AND table_name = 'file'")
            if known.fetchone() is None:
                self._create(connection)
            self._check(connection)
        except (duckdb.Error, OSError) as error:
            connection.close()  # Of two that are open in one process, neither would see the other's lock.
            raise self.failure(error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("BEGIN")
        connection.execute(tables.TABLES)
        connection.execute(
            "INSERT INTO projection.file VALUES (?, ?, ?, ?, ?)",
            (self.log_id, self.partitions, RULES, FOLD_VERSION, tables.VIEW_VERSION),
        )
        connection.execute(VIEWS)
        connection.execute("COMMIT")

    def _check(self, connection: duckdb.DuckDBPyConnection) -> None:
        found = connection.execute("SELECT * FROM projection.file").fetchone()
        expected = (self.log_id, self.partitions, RULES, FOLD_VERSION, tables.VIEW_VERSION)
        if found is not None and found[:2] != expected[:2]:
            raise ViewsError(
                f"{self.path}: these are views of log {found[0]} ({found[1]} partitions), this is log {self.log_id} "
                f"({self.partitions}); nothing was changed. Name another folder, or delete them."
            )
        if found != expected:
            raise ViewsOutdatedError(
                f"{self.path}: the views are of version {found}, this release makes {expected}; nothing was changed. "
                "They are made anew: `ctxlog projector rebuild`."
            )

    def progress(self) -> dict[int, Progress]:
        """How far each partition is."""
        rows = self._all("SELECT partition, next_offset, last_offset, last_digest FROM projection.progress")
        return {
            partition: Progress(next_offset, last_offset, last_digest)
            for partition, next_offset, last_offset, last_digest in rows
        }

    def controls(self, partition: int) -> list[Record]:
        """The control records of a partition, in their order."""
        rows = self._all(
            "SELECT record_offset, recorded_at, key, value FROM projection.controls WHERE partition = ? ORDER BY record_offset",
            (partition,),
        )
        return [Record(partition, offset, recorded_at, key, value) for offset, recorded_at, key, value in rows]

    def load(self, partition: int, stream_ids: Sequence[str]) -> tuple[list[Stream], dict[str, list[tuple[str, int, int]]]]:
        """Streams that are there, as they were after the last transaction, without what their open appends hold.

        Returns:
            The streams, and by stream their held records: append id, count and offset, oldest append first.
        """
        if not stream_ids:
            return [], {}
        wanted = pa.table({"stream_id": pa.array(stream_ids, pa.string())})
        self.connection.register("wanted", wanted)
        try:
            found = self._all(
                "SELECT s.stream_id, s.agent_id, s.version, s.chain_head, s.records, s.rejected, s.bytes, epoch_us(s.first_at), "
                "epoch_us(s.last_at), s.effect_offset, epoch_us(s.effect_at), s.newer, s.open FROM streams s "
                "SEMI JOIN wanted USING (stream_id) WHERE s.partition = ?",
                (partition,),
            )
            if not found:
                return [], {}
            streams = {row[0]: Stream(row[0], partition) for row in found}
            for stream_id, decided in self._decided(partition):
                streams[stream_id].recall(decided)
            held = self._held(partition) if any(row[12] for row in found) else {}
        finally:
            self.connection.unregister("wanted")
        for stream_id, agent_id, _, head, records, rejected, size, first_at, last_at, effect, effect_at, newer, _ in found:
            stream = streams[stream_id]
            stream.arbiter.head, stream.agent_id, stream.newer = bytes.fromhex(head), agent_id, newer
            stream.records, stream.rejected, stream.bytes = records, rejected, size
            stream.first_at, stream.last_at, stream.effect_offset, stream.effect_at = first_at, last_at, effect, effect_at
        return list(streams.values()), held

    def _decided(self, partition: int) -> Iterator[tuple[str, DecidedRow]]:
        """The decided rows of the wanted streams, each stream's in the order in which they were decided, a few at a time."""
        rows = self._each(
            f"SELECT {', '.join('e.' + column for column in _RECALLED)}, "  # noqa: S608 - names of columns
            "CASE WHEN idempotency_key IS NOT NULL THEN arguments ELSE '' END, epoch_us(lease_expires_at) FROM events e "
            "SEMI JOIN wanted USING (stream_id) WHERE partition = ? AND outcome IN ('accepted', 'conflict', 'abandoned') "
            "ORDER BY stream_id, decided_offset, append_index NULLS FIRST, record_offset",
            (partition,),
        )
        for row in rows:
            named = dict(zip((*_RECALLED, "arguments", "lease_expires_at"), row, strict=True))
            group = None if named["append_id"] is None else {"id": named["append_id"]}
            meta = {
                "event_id": named["event_id"], "agent_id": None, "target": named["target"], "scope": named["scope"],
                "append": group, "occurred_at": None,
            }  # fmt: skip
            payload = {**named, "content": None, "parts": None, "value": "", **dict.fromkeys(_NOT_LOOKED_AT)}
            yield (
                named["stream_id"],
                DecidedRow(
                    named["record_offset"], named["type"], named["outcome"], named["version"], named["anomaly"], meta, payload
                ),
            )

    def _held(self, partition: int) -> dict[str, list[tuple[str, int, int]]]:
        rows = self._all(
            "SELECT stream_id, append_id, append_count, record_offset FROM events SEMI JOIN wanted USING (stream_id) "
            "WHERE partition = ? AND outcome = 'open' ORDER BY stream_id, record_offset",
            (partition,),
        )
        found: dict[str, list[tuple[str, int, int]]] = {}
        for stream_id, append_id, append_count, offset in rows:
            found.setdefault(stream_id, []).append((append_id, append_count, offset))
        return found

    def commit(
        self, batch: Batch, steps: Mapping[int, Step], applied_at: datetime, also: Callable[[], None] | None = None
    ) -> None:
        """Keep a batch and the progress that it makes: all of it, or nothing.

        Args:
            batch: The rows.
            steps: By partition.
            applied_at: Now, without a zone, UTC.
            also: What else belongs to it; called when the rows are there.

        Raises:
            ViewsFullError: The disk is full; the file must be opened again.
            ViewsMemoryError: It needs more memory; likewise.
            ViewsError: It cannot be written; likewise.
        """
        with self.transaction():
            self._write(batch, steps, applied_at)
            if also is not None:
                also()
        self._fresh_rows += batch.records
        if self._fresh_rows >= CHECKPOINT_ROWS:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Bring all into the file, and to the disk."""
        import duckdb

        try:
            self.connection.execute("CHECKPOINT views")
        except duckdb.Error as error:
            raise self.failure(error) from error
        self._fresh_rows = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is done inside, or nothing. Raises as `commit` does."""
        import duckdb

        try:
            self.connection.execute("BEGIN")
            yield
            self.connection.execute("COMMIT")
        except (duckdb.Error, OSError) as error:
            with contextlib.suppress(duckdb.Error):
                self.connection.execute("ROLLBACK")
            raise self.failure(error) from error
        except BaseException:  # Ctrl-C
            with contextlib.suppress(duckdb.Error):
                self.connection.execute("ROLLBACK")
            raise

    def _write(self, batch: Batch, steps: Mapping[int, Step], applied_at: datetime) -> None:
        if batch.rows or batch.groups:
            self._execute("INSERT INTO events BY NAME SELECT * FROM batch", batch.table())
        if batch.decided:
            self._execute(
                "UPDATE events SET outcome = b.outcome, version = b.version, chain_head = b.chain_head, "
                "decided_offset = b.decided_offset, decided_at = b.decided_at, anomaly = b.anomaly FROM batch b "
                "WHERE events.partition = b.partition AND events.record_offset = b.record_offset",
                tables.table_of(batch.decided, tables.DECIDED),
            )
        if batch.streams:
            streams = tables.table_of([stream.row() for stream in batch.streams.values()], tables.STREAMS)
            self._execute(
                "DELETE FROM streams USING batch b WHERE streams.stream_id = b.stream_id AND streams.partition = b.partition",
                streams,
            )
            self._execute("INSERT INTO streams BY NAME SELECT * FROM batch", streams)
        for record in batch.controls:
            self.connection.execute(
                "INSERT INTO projection.controls VALUES (?, ?, ?, ?, ?)",
                (record.partition, record.offset, record.recorded_at, record.key, record.value),
            )
        # Rows before the progress row, which says that they are there.
        for partition, step in steps.items():
            self.connection.execute("DELETE FROM projection.progress WHERE partition = ?", (partition,))
            self.connection.execute(
                "INSERT INTO projection.progress VALUES (?, ?, ?, ?, ?, make_timestamp(?), ?)",
                (partition, *step.progress, step.end_offset, _held(step.last_at), applied_at),
            )

    def _execute(self, statement: str, batch: pa.Table) -> None:
        """Execute a statement about `batch`."""
        self.connection.register("batch", batch)
        self.connection.execute(statement)
        self.connection.unregister("batch")  # Not after an error: the transaction that failed would have another one.

    def _all(self, statement: str, values: Iterable[Any] = ()) -> list[Any]:
        import duckdb

        try:
            return self.connection.execute(statement, list(values)).fetchall()
        except duckdb.Error as error:
            raise self.failure(error) from error

    def _each(self, statement: str, values: Iterable[Any]) -> Iterator[Any]:
        """As `_all`, without all of them in memory at once. Nothing else may be executed meanwhile."""
        import duckdb

        try:
            result = self.connection.execute(statement, list(values))
            while rows := result.fetchmany(ROWS_AT_ONCE):
                yield from rows
        except duckdb.Error as error:
            raise self.failure(error) from error

    def note_publication(self, published_at: datetime) -> None:
        """Note when the file is published, and bring all of it to the disk, so that a copy of the file alone is whole."""
        import duckdb

        try:
            self.connection.execute("DELETE FROM projection.publication")
            self.connection.execute("INSERT INTO projection.publication VALUES (?, NULL)", [published_at])
        except duckdb.Error as error:
            raise self.failure(error) from error
        self._checkpoint()

    def close(self) -> None:
        """Let go of the file; another process may own it then."""
        self.connection.close()

    def failure(self, error: Exception) -> ViewsError:
        """What an error of DuckDB means, without any of the data."""
        text = str(error)
        if "lock on file" in text:
            return ViewsBusyError(
                f"{self.path}: another projector writes these views; nothing was changed. Stop it, or give this one a name "
                "of its own (--instance)."
            )
        if "No space left" in text or "disk full" in text.lower() or getattr(error, "errno", None) == 28:
            return ViewsFullError(f"{self.path}: the disk is full; nothing of the batch was kept. Make room.")
        if any(said in text for said in ("Corrupt database file", "checksum", "Could not read enough bytes")):
            return ViewsDamagedError(
                f"{self.path}: the file is damaged; nothing was changed. All that it held is in the log, so it is made anew: "
                "`ctxlog projector rebuild`."
            )
        short = any(said in text.lower() for said in ("memory_limit", "out of memory", "failed to pin", "could not allocate"))
        if short and self.memory_mb < MEMORY_MB_MAX:
            self.memory_mb *= 2
            return ViewsMemoryError(
                f"{self.path}: DuckDB needs more than the {self.memory_mb // 2} MB that it got; nothing was changed. It gets "
                "twice as much when the views are opened again."
            )
        # Other errors may quote what is stored.
        said = f": {text.splitlines()[0][:200]}" if isinstance(error, OSError) or "IO Error" in text[:40] else ""
        return ViewsError(
            f"{self.path}: the views cannot be used ({type(error).__name__}{said}); nothing was changed. Where the file is "
            "none of views, `ctxlog projector rebuild` makes them."
        )


def _held(time_ms: int | None) -> int | None:
    """A time as a column can hold it, µs: a copied record brings what another log called its time."""
    return None if time_ms is None or abs(time_ms) * 1000 > NUMBER_MAX else time_ms * 1000


_NOT_LOOKED_AT = ("valid_from", "valid_to", "expires_at", "reason", "data")


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"

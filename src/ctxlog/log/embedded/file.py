"""The file of the embedded log: its tables, its creation, its connections.

A log is created whole under another name and then linked into place, so that a process killed in between leaves no half log, and
of several that create at once one wins.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from pathlib import Path

from ctxlog.codec.control import encode_control, genesis
from ctxlog.core.digests import prefixed, sha256
from ctxlog.errors import DamagedLogError, LogBusyError, LogOpenError, StorageError
from ctxlog.model.records import Record

LOG_FILE = "log.sqlite"

APPLICATION_ID = 0x6378_746C
"""'cxtl' in SQLite's header: says whose file it is."""

FORMAT = 1
"""SQLite's user_version; raised when the tables change."""

OFFSET_BITS = 40
"""A record's id is partition << 40 | offset, so that a partition is one range of SQLite's own b-tree. Room for 10^12
records a partition and 2^22 partitions."""

PARTITIONS_MAX = 65_535
"""Each costs memory in every process that opens the log; a file that names more is damaged."""

BUSY_SECONDS = 30.0
"""How long a writer waits for the others. A batch takes milliseconds; whoever waits longer faces a stuck process."""

_TABLES = """
CREATE TABLE log (log_id TEXT NOT NULL, partitions INTEGER NOT NULL);
CREATE TABLE streams (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE);
CREATE TABLE records (
    id INTEGER PRIMARY KEY,          -- partition << 40 | offset
    stream INTEGER NOT NULL,         -- streams.id
    recorded_at INTEGER NOT NULL,    -- ms since 1970 UTC
    value BLOB,
    origin TEXT,                     -- log_id/partition/offset/recorded_at of the first log, where copied
    link BLOB NOT NULL               -- SHA-256 over the previous record's link and this record
);
CREATE INDEX records_by_stream ON records (stream);
"""


def link_of(previous: bytes, record: Record) -> bytes:
    """The hash that ties a record to the one before it in its partition; `previous` is empty for the first."""
    return sha256(
        prefixed(previous)
        + record.partition.to_bytes(8, "big")
        + record.offset.to_bytes(8, "big")
        + record.recorded_at.to_bytes(8, "big", signed=True)
        + prefixed(str(record.origin).encode() if record.origin else None)
        + prefixed(record.key)
        + prefixed(record.value)
    ).digest()


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """A connection with the settings that every connection needs: durable commits, erased bytes overwritten.

    `path` is absolute. Without `create`, a file that is gone is an error; SQLite would put an empty one in its place. Where this
    process may not write, the connection is one for reading.
    """
    uri = f"{path.as_uri()}?{'mode=rwc' if create else _mode(path)}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # Nothing that a damaged file holds makes reading fail in SQLite's words, which would quote it.
    connection.text_factory = _text
    try:
        connection.execute("PRAGMA synchronous=FULL")  # reads the schema; what is wrong with it is quoted, and may not be text
        connection.execute("PRAGMA secure_delete=1")
        connection.execute("PRAGMA foreign_keys=0")
    except UnicodeDecodeError:
        connection.close()
        raise sqlite3.DatabaseError("malformed database schema") from None
    except BaseException:
        connection.close()
        raise
    return connection


def result_code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code (https://www.sqlite.org/rescode.html); None for an error that Python raised itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _mode(path: Path) -> str:
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "mode=rw"
    # Even a reader takes locks, in files beside the log that only a writer can make. While a writer has the log open they are
    # there. Where there is none, nothing is in them, and the file can be read without locks.
    return "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"


def create(path: Path, partitions: int) -> None:
    """Create a log at `path` unless one is there.

    Raises:
        StorageError: The folder cannot be written.
    """
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise LogOpenError(f"a log has 1 to 65,535 partitions, not {partitions}; nothing was created")
    draft = path.with_name(f"{path.name}.new-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(connect(draft, create=True)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
            connection.executescript(_TABLES)
            log_id = str(uuid.uuid4())
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO log VALUES (?, ?)", (log_id, partitions))
            for partition in range(partitions):
                new = encode_control(partition, genesis(log_id, None, partitions))
                connection.execute("INSERT OR IGNORE INTO streams VALUES (1, ?)", (new.key,))
                record = Record(partition, 0, time.time_ns() // 1_000_000, new.key, new.value)
                connection.execute(
                    "INSERT INTO records VALUES (?, 1, ?, ?, NULL, ?)",
                    (partition << OFFSET_BITS, record.recorded_at, record.value, link_of(b"", record)),
                )
            connection.execute("COMMIT")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        sync_folder(path.parent)
    except (OSError, ValueError, sqlite3.Error) as error:
        raise StorageError(f"{path}: the log cannot be created: {error}. Nothing was created.") from error
    finally:
        for leftover in (draft, draft.with_name(draft.name + "-wal"), draft.with_name(draft.name + "-shm")):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)


def check(path: Path) -> tuple[str, int]:
    """Log id and number of partitions of the log at `path`.

    Raises:
        LogOpenError: The file is no log of this format.
        LogBusyError: The file stays locked.
    """
    try:
        with contextlib.closing(connect(path)) as connection:
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if application_id != APPLICATION_ID:
                raise LogOpenError(f"{path}: expected a ctxlog log, found another SQLite file; nothing was read or changed")
            if found != FORMAT:
                raise LogOpenError(
                    f"{path}: expected file format {FORMAT}, found {found}; nothing was changed. "
                    "Install the ctxlog that wrote it."
                )
            rows = connection.execute("SELECT log_id, partitions FROM log").fetchall()
    except sqlite3.OperationalError as error:
        if result_code(error) == sqlite3.SQLITE_BUSY:
            raise LogBusyError(f"{path}: locked by another process for {BUSY_SECONDS:.0f} s; nothing was changed") from error
        raise LogOpenError(f"{path}: cannot be opened: {error}. Nothing was changed.") from error
    except sqlite3.DatabaseError as error:
        raise DamagedLogError(
            f"{path}: expected a ctxlog log, found something else or a damaged one: {error}. Nothing was changed. "
            "Restore it from a copy."
        ) from error
    if len(rows) != 1:
        raise DamagedLogError(f"{path}: the log does not say which log it is; nothing was changed. Restore it from a copy.")
    log_id, partitions = rows[0]
    if type(log_id) is not str or type(partitions) is not int or not 1 <= partitions <= PARTITIONS_MAX:
        raise DamagedLogError(f"{path}: what it says of itself cannot be read; nothing was changed. Restore it from a copy.")
    return log_id, partitions


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def sync_folder(folder: Path) -> None:
    """Make a new name in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

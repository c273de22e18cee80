"""Redacted text leaves the cache and does not come back, whatever is read afterwards and however busy the file is."""

from __future__ import annotations

import random
import sqlite3
import zlib
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.points import AtOffset, AtTime, AtVersion
from ctxlog.replay.snapshots import SnapshotStore
from unit.snapshot_checks import rows, through, versions_of

EVERY = 10
SECRET = "correct horse battery staple"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot after every tenth record."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", EVERY)


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "cache.sqlite")


@pytest.fixture(autouse=True)
def _closed(store: SnapshotStore) -> object:
    yield
    store.close()


def redacted(store: SnapshotStore) -> tuple[MemoryLog, ContextLog]:
    """A log whose first message was redacted after 39 others, as a reader that comes to the end leaves it."""
    now = iter(range(1_000_000))
    backend = MemoryLog(clock=lambda: next(now))
    log = ContextLog(backend, store)
    first = log.context("s").add_message("user", SECRET).event_id
    log.context("s").append_each([(MessageAppended(role="user", content="x"), {})] * 39)
    _ = log.context("s").state
    log.context("s").redact_message(first)
    _ = log.context("s").state
    return backend, log


def holds_secret(store: SnapshotStore) -> bool:
    return any(SECRET.encode() in zlib.decompress(data) for (data,) in rows(store, "SELECT data FROM chunks"))


def test_a_replay_before_a_redaction_brings_nothing_of_it_back_into_the_file(store: SnapshotStore) -> None:
    """Whatever stops the replay there: later reads start after the redaction, and would not drop it again."""
    backend, log = redacted(store)
    records = list(backend.read(0, 0, 99, key=b"s"))
    log.context("s").fork("fork", at=35)
    for at in (AtVersion(35), AtOffset(records[30].offset), AtTime(records[34].recorded_at * 1000)):
        assert through(backend, store, at)[:2] == through(backend, None, at)[:2]
        assert versions_of(backend, store) == [41]
    assert log.context("fork").state.version == 1
    assert versions_of(backend, store) == [41]
    other = SnapshotStore(store._path)  # Another process, which has not seen the redaction.
    assert through(backend, other, AtVersion(35))[2] == 0
    other.close()
    assert versions_of(backend, store) == [41]
    assert not holds_secret(store)


def test_replays_before_a_redaction_are_bounded_by_snapshots_in_memory(store: SnapshotStore) -> None:
    backend, _ = redacted(store)
    started = [through(backend, store, AtVersion(version))[2] for version in (25, 35, 40, 41)]
    assert started == [0, 20, 30, 41]
    assert not holds_secret(store)


def test_snapshots_in_memory_are_thrown_away_when_they_take_too_much(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctxlog.replay.snapshots.MEMORY_BYTES", 20 * 4096)
    backend = MemoryLog()
    context = ContextLog(backend, store).context("s")
    first = context.add_message("user", SECRET).event_id
    rng = random.Random(1)
    context.append_each([(MessageAppended(role="user", content=rng.randbytes(4000).hex()), {}) for _ in range(59)])
    context.redact_message(first)
    _ = context.state
    started = []
    for _ in range(2):
        for version in range(15, 60, 10):
            state, _, start = through(backend, store, AtVersion(version))
            assert state == through(backend, None, AtVersion(version))[0]
            started.append(start)
    assert 0 < max(started) < 50
    assert max(started[5:]) > 0  # It begins anew, and goes on to bound the work.
    assert versions_of(backend, store) == [61]


def test_what_was_redacted_while_the_file_was_busy_is_dropped_when_it_is_free(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then no snapshot is kept either: whoever starts from one would not come past the redaction."""
    monkeypatch.setattr("ctxlog.replay.snapshots.BUSY_SECONDS", 0.0)
    backend = MemoryLog()
    context = ContextLog(backend, store).context("s")
    first = context.add_message("user", SECRET).event_id
    context.append_each([(MessageAppended(role="user", content="x"), {})] * 29)
    _ = context.state
    assert holds_secret(store)
    other = sqlite3.connect(store._path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    context.redact_message(first)
    context.append_each([(MessageAppended(role="user", content="x"), {})] * 20)
    _ = context.state
    assert versions_of(backend, store) == [10, 20, 30]
    other.execute("COMMIT")
    other.close()
    _ = context.state
    assert not holds_secret(store)
    assert through(backend, store)[:2] == through(backend, None)[:2]


def test_no_snapshot_is_kept_past_a_redaction_whose_text_is_still_there(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryLog()
    context = ContextLog(backend, store).context("s")
    first = context.add_message("user", SECRET).event_id
    context.append_each([(MessageAppended(role="user", content="x"), {})] * 29)
    _ = context.state
    context.redact_message(first)
    with monkeypatch.context() as patch:
        patch.setattr(store, "drop", lambda *_, **__: None)
        context.append_each([(MessageAppended(role="user", content="x"), {})] * 20)
        _ = context.state
        assert versions_of(backend, store) == [10, 20, 30]
    _ = ContextLog(backend, store).context("s").state  # A new process: it comes past the redaction again.
    assert not holds_secret(store)


@pytest.mark.parametrize("closed", [False, True])
def test_the_write_ahead_log_is_emptied_once_nobody_reads_from_it(store: SnapshotStore, closed: bool) -> None:
    """A reader that stands before the redaction keeps it from being emptied at once, and SQLite says so in a row only."""
    log = ContextLog(MemoryLog(), store)
    first = log.context("s").add_message("user", SECRET).event_id
    log.context("s").append_each([(MessageAppended(role="user", content="x"), {})] * 39)
    _ = log.context("s").state
    texts = [data for (data,) in rows(store, "SELECT data FROM chunks") if SECRET.encode() in zlib.decompress(data)]
    reader = sqlite3.connect(store._path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM chunks").fetchone()
    log.context("s").redact_message(first)
    _ = log.context("s").state
    wal = store._path.with_name(store._path.name + "-wal")
    assert any(text[:60] in wal.read_bytes() for text in texts)
    reader.execute("COMMIT")
    if closed:
        store.close()
    else:
        store.versions(log.log.log_id, "another")
    assert not any(text[:60] in path.read_bytes() for text in texts for path in store._path.parent.glob("cache.sqlite*"))
    assert not closed or wal.exists()  # The reader's connection is open still: SQLite itself did not empty it.
    reader.close()

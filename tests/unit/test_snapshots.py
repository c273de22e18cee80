"""Snapshots save work and change no answer: whatever is wrong with one, replay starts earlier and comes to the same bytes."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.core.arbitration import Arbiter
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet, MessageAppended, ToolCalled, ToolReturned
from ctxlog.model.points import AtOffset, AtTime, AtVersion, Latest
from ctxlog.model.records import NewRecord, Origin
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore
from unit.snapshot_checks import rows, through, versions_of
from writing import group, publish, raw

EVERY = 10


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot after every tenth record."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", EVERY)


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "cache.sqlite")


@pytest.fixture
def backend() -> MemoryLog:
    """A log with one stream of 45 events of every kind, with what is inherited, open, rejected and without effect."""
    now = iter(range(1_000_000))
    backend = MemoryLog(clock=lambda: next(now))
    publish(backend)
    log = ContextLog(backend)
    parent = log.context("p")
    first = parent.add_message("user", "inherited", occurred_at=None).event_id
    context = parent.fork("s")
    context.redact_message(first)
    for number in range(14):
        message = context.add_message("assistant", [number]).event_id
        call = ToolCalled(
            call_id=f"c{number}", name="f", arguments="{}", message_id=message, idempotency_key="k", lease_expires_at=number
        )
        context.append(call, occurred_at=number)
        if number % 2:
            context.append(ToolReturned(call_id=f"c{number}", content="r", failed=number % 4 == 1))
        if number == 3:
            held = raw(backend, "s", "FactSet", "open", key="late", append=group("open", 0, 2))
            backend.append([held, raw(backend, "s", "FactSet", "dup"), raw(backend, "s", "FactSet", "dup")])
    context.append(FactSet(key="k", value="1", valid_from=-1, valid_to=5, expires_at=6))
    return backend


@pytest.fixture(autouse=True)
def _closed(store: SnapshotStore) -> object:
    yield
    store.close()


def test_states_manifests_and_anomalies_are_the_same_from_zero_and_from_snapshots(
    backend: MemoryLog, store: SnapshotStore
) -> None:
    latest = through(backend, None)
    for attempt in range(2):
        state, anomalies, started = through(backend, store)
        assert (state, anomalies) == latest[:2]
        assert (started > 0) == (attempt == 1)
    kept = versions_of(backend, store)
    assert len(kept) >= 3
    for version in range(latest[0]["state"]["version"] + 1):
        state, anomalies, started = through(backend, store, AtVersion(version))
        assert (state, anomalies) == through(backend, None, AtVersion(version))[:2]
        assert started == max([0, *(at for at in kept if at <= version)])


def test_a_snapshot_is_not_used_for_a_time_before_its_records(backend: MemoryLog, store: SnapshotStore) -> None:
    through(backend, store)
    times = [record.recorded_at for record in backend.read(0, 0, 999)]
    used = set()
    for time in times:
        state, anomalies, started = through(backend, store, AtTime(time * 1000))
        assert (state, anomalies) == through(backend, None, AtTime(time * 1000))[:2]
        used.add(started)
    assert len(used) >= 3


def test_a_snapshot_is_not_used_for_an_offset_before_its_last_record(backend: MemoryLog, store: SnapshotStore) -> None:
    through(backend, store)
    used = set()
    for record in backend.read(0, 0, 999):
        state, anomalies, started = through(backend, store, AtOffset(record.offset))
        assert (state, anomalies) == through(backend, None, AtOffset(record.offset))[:2]
        used.add(started)
    assert len(used) >= 3


def test_ids_that_were_forgotten_stay_forgotten_through_a_snapshot(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ids are remembered decides what is a duplicate: a snapshot keeps them in the order in which they were decided."""
    monkeypatch.setitem(Arbiter.__init__.__kwdefaults__, "decided_max", 7)
    monkeypatch.setattr("ctxlog.replay.chunks.CHUNK_ITEMS", 4)
    backend = MemoryLog()
    publish(backend)
    for number in range(60):
        backend.append([raw(backend, "s", "FactSet", f"e{number % 6 if number % 3 else number}")])
        if number % 10 == 9:
            through(backend, store)
    zero, kept = through(backend, None), through(backend, store)
    assert kept[:2] == zero[:2]
    assert kept[2] > 0
    assert 30 < zero[0]["state"]["version"] < 60
    arbiters = []
    for replayer in (Replayer(backend), Replayer(backend, store)):
        cursor = replayer.open("s", end=backend.bounds(0).end)
        replayer.advance(cursor, backend.bounds(0).end)
        arbiters.append((cursor.fold.arbiter.remembered(), cursor.fold.arbiter.forgotten))
    assert arbiters[0] == arbiters[1]


def test_arbitration_goes_on_from_a_snapshot_with_what_was_held_decided_and_changed(
    backend: MemoryLog, store: SnapshotStore
) -> None:
    """The second half of an open append, a copy of a decided id and a precondition on a target, all after the snapshot."""
    through(backend, store)
    backend.append(
        [
            raw(backend, "s", "FactSet", "dup"),
            raw(backend, "s", "FactSet", "open-2", key="later", append=group("open", 1, 2)),
        ]
    )
    context = ContextLog(backend, store).context("s")
    context.append(FactSet(key="late", value="2"), expected_targets={"fact:late": context.version - 1})
    zero, from_snapshot = through(backend, None), through(backend, store)
    assert from_snapshot[:2] == zero[:2]
    assert from_snapshot[2] > 0
    assert zero[0]["state"]["facts"].keys() >= {"late", "later"}


def test_snapshots_are_bounded_by_records_and_by_bytes(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ContextLog(MemoryLog(), store)
    context = log.context("few")
    context.append_each([(MessageAppended(role="user", content="x"), {})] * (EVERY - 1))
    _ = context.state
    assert store.versions(log.log.log_id, "few") == []
    context.append(MessageAppended(role="user", content="x"))
    _ = context.state
    assert store.versions(log.log.log_id, "few") == [EVERY]
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_BYTES", 10_000)
    large = log.context("large")
    for _ in range(3):
        large.add_message("user", "x" * 6_000)
        _ = large.state
    assert store.versions(log.log.log_id, "large") == [2]


def test_what_did_not_change_is_not_stored_again(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk grows with what was appended, not with the number of snapshots times the state."""
    monkeypatch.setattr("ctxlog.replay.chunks.CHUNK_ITEMS", 10)
    log = ContextLog(MemoryLog(), store)
    context = log.context("s")
    for _ in range(10):
        context.append_each([(MessageAppended(role="user", content="x" * 50), {})] * EVERY)
        _ = context.state
    assert len(store.versions(log.log.log_id, "s")) == 10
    (chunks,) = rows(store, "SELECT count(*) FROM chunks")[0]
    assert chunks <= 20  # Ten of messages and ten of decided ids; all of each again would be 110.


DAMAGES = {
    "header": "UPDATE snapshots SET header = zeroblob(20)",
    "header of another": "UPDATE snapshots SET header = (SELECT header FROM snapshots ORDER BY version LIMIT 1)",
    "version": "UPDATE snapshots SET version = version - 1",
    "offset": "UPDATE snapshots SET offset = offset - 1",
    "time": "UPDATE snapshots SET time_max = 0",
    "digest": "UPDATE snapshots SET digest = zeroblob(32)",
    "chunks gone": "DELETE FROM chunks",
    "chunks changed": "UPDATE chunks SET data = zeroblob(9)",
    "chunks swapped": "UPDATE chunks SET data = (SELECT data FROM chunks ORDER BY digest LIMIT 1)",
    "text for bytes": "UPDATE chunks SET data = 'text'",
    "text for header": "UPDATE snapshots SET header = 'text'",
    "null offset": "UPDATE snapshots SET offset = 'x'",
}


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_snapshot_is_ignored_and_never_believed(backend: MemoryLog, store: SnapshotStore, statement: str) -> None:
    expected = through(backend, None)
    through(backend, store)
    rows(store, statement)
    for _ in range(2):
        assert through(backend, store)[:2] == expected[:2]
    assert verify(ContextLog(backend, store)).problems == []


def test_a_chunk_that_was_changed_together_with_its_packing_is_still_found_out(backend: MemoryLog, store: SnapshotStore) -> None:
    expected = through(backend, None)
    through(backend, store)
    for digest, data in rows(store, "SELECT digest, data FROM chunks"):
        text = zlib.decompress(data).replace(b"inherited", b"forged").replace(b'"r"', b'"R"')
        rows(store, "UPDATE chunks SET data = ? WHERE digest = ?", zlib.compress(text), digest)
    assert through(backend, store)[:2] == expected[:2]


def test_where_the_latest_snapshot_is_damaged_an_earlier_one_is_used(backend: MemoryLog, store: SnapshotStore) -> None:
    through(backend, store)
    kept = versions_of(backend, store)
    rows(store, "UPDATE snapshots SET header = zeroblob(9) WHERE version = ?", kept[-1])
    state, _, started = through(backend, store)
    assert started == kept[-2]
    assert state == through(backend, None)[0]


def test_a_damaged_snapshot_is_made_again_when_the_stream_is_read_from_further_up(
    backend: MemoryLog, store: SnapshotStore
) -> None:
    through(backend, store)
    rows(store, "UPDATE chunks SET data = zeroblob(9)")
    through(backend, store)
    assert through(backend, store)[2] > 0


def test_a_cache_that_is_no_database_is_as_good_as_none(backend: MemoryLog, tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is not SQLite" * 100)
    for path in (broken, tmp_path / "no" / "such" / "folder", tmp_path):
        assert through(backend, SnapshotStore(path)) == through(backend, None)


def test_a_cache_may_be_deleted_between_two_uses_of_the_log(folder: Path) -> None:
    for round_ in (1, 2):
        with ContextLog.open(f"embedded:{folder}") as log:
            log.context("s").append_each([(MessageAppended(role="user", content="x"), {})] * 25)
            assert log.context("s").state.version == 25 * round_
            assert log.snapshots is not None
            assert log.snapshots.versions(log.log.log_id, "s")
        (folder / "cache.sqlite").unlink()


def test_a_cache_of_another_log_is_not_used(backend: MemoryLog, store: SnapshotStore) -> None:
    """Also where that log says it is this one, as a restored older copy would: the record at the place must be the same."""
    through(backend, store)
    other = MemoryLog()
    publish(other)
    context = ContextLog(other).context("s")
    for _ in range(60):
        context.append(FactSet(key="k", value="2"))
    assert through(other, store)[2] == 0
    other.log_id = backend.log_id
    rows(store, "DELETE FROM snapshots WHERE version >= 30")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxlog.replay.reader.LogReader.__init__", trusting)
        assert through(other, store)[:2] == through(other, None)[:2]


def rewound(backend: MemoryLog, to: int, seconds: int) -> None:
    """Restore the log from a copy of its first records, and write the same bytes again, some seconds later."""
    lost = backend._records[0][to:]
    del backend._records[0][to:]
    backend._clock = lambda: lost[-1].recorded_at + seconds * 1000
    backend.append([NewRecord(0, record.key or b"", record.value or b"", record.origin) for record in lost])


def test_a_snapshot_of_a_log_that_was_rewound_and_written_again_is_not_used(backend: MemoryLog, store: SnapshotStore) -> None:
    """Imports write the same bytes again, at the same offsets; only the times tell."""
    before = through(backend, store)[0]["manifest"]["recorded_at"]
    rewound(backend, 30, seconds=5)
    between = AtTime((before + 2500) * 1000)
    for at in (between, Latest(), AtVersion(30)):
        assert through(backend, store, at)[:2] == through(backend, None, at)[:2]
    assert through(backend, store)[0]["manifest"]["recorded_at"] > before
    assert verify(ContextLog(backend, store)).notes == []


def test_in_a_log_that_was_rewound_the_snapshots_before_that_are_used_and_the_others_made_again(
    backend: MemoryLog, store: SnapshotStore
) -> None:
    through(backend, store)
    kept = versions_of(backend, store)
    rewound(backend, len(backend._records[0]) - 8, seconds=5)
    assert [through(backend, store)[2] for _ in range(2)] == kept[-2:]


def test_a_copy_of_a_record_from_elsewhere_is_not_the_record(backend: MemoryLog, store: SnapshotStore) -> None:
    """The origin of a record says when it was written first, and questions of time go by that."""
    through(backend, store)
    last = versions_of(backend, store)[-1]
    for index, record in enumerate(backend._records[0]):
        origin = Origin("elsewhere", 0, record.offset, record.recorded_at + 7)
        backend._records[0][index] = record._replace(origin=origin) if record.key == b"s" else record
    assert through(backend, store, AtVersion(last))[:2] == through(backend, None, AtVersion(last))[:2]


def trusting(self: object, log: MemoryLog) -> None:
    """A reader that does not compare the genesis with the log's id."""
    import threading

    from ctxlog.codec.partition import PartitionContext

    self.__dict__.update(log=log, _contexts={0: PartitionContext(0)}, _lock=threading.Lock())


@pytest.mark.parametrize("name", ["RULES", "FOLD_VERSION"])
def test_a_snapshot_of_other_rules_or_another_fold_is_not_used(
    backend: MemoryLog, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    through(backend, store)
    assert through(backend, store)[2] > 0
    monkeypatch.setattr(f"ctxlog.replay.snapshots.{name}", 2)
    assert through(backend, store)[2] == 0


def test_no_snapshot_is_taken_of_a_fork_whose_parent_is_not_there(store: SnapshotStore) -> None:
    """It would hide the parent's state for ever once the parent comes."""
    from ctxlog.core.digests import chain_start

    backend = MemoryLog()
    publish(backend)
    head = chain_start("p").hex()
    backend.append([raw(backend, "s", "StreamForked", "f", parent_stream_id="p", parent_version=1, parent_chain_head=head)])
    backend.append([raw(backend, "s", "FactSet", f"e{number}") for number in range(40)])
    cursor = (replayer := Replayer(backend, store)).open("s", end=99)
    replayer.advance(cursor, backend.bounds(0).end)
    assert cursor.fold.failure is not None
    assert versions_of(backend, store) == []


def test_a_state_from_a_snapshot_is_not_changed_by_what_comes_after(backend: MemoryLog, store: SnapshotStore) -> None:
    """Chunks are shared between the store and the fold; a fold that goes on must not write into what was kept."""
    through(backend, store)
    replayer = Replayer(backend, store)
    before = replayer.replay("s", Latest()).state
    seen = before.to_dict()
    context = ContextLog(backend, store).context("s")
    context.append_each([(MessageAppended(role="user", content="x"), {})] * 30)
    _ = context.state
    assert before.to_dict() == seen
    assert through(backend, store)[:2] == through(backend, None)[:2]


def test_a_file_that_is_busy_is_used_again_when_it_is_free(
    backend: MemoryLog, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lock of another process is no reason to read from zero for the rest of this one's life."""
    monkeypatch.setattr("ctxlog.replay.snapshots.BUSY_SECONDS", 0.0)
    through(MemoryLog(), store)
    other = sqlite3.connect(store._path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert through(backend, store)[:2] == through(backend, None)[:2]
    other.execute("COMMIT")
    other.close()
    assert versions_of(backend, store) == []
    through(backend, store)
    assert through(backend, store)[2] > 0


def test_a_snapshot_that_cannot_be_dropped_now_is_not_tried_for_ever(
    backend: MemoryLog, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctxlog.replay.snapshots.BUSY_SECONDS", 0.0)
    through(backend, store)
    rewound(backend, 30, seconds=5)
    other = sqlite3.connect(store._path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert through(backend, store) == through(backend, None)
    other.close()

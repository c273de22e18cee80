"""What snapshots take and keep on disk: as much as was appended, a small number of times, and nothing that was redacted."""

from __future__ import annotations

import json
import random
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.core.arbitration import Arbiter
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactRemoved, FactSet, MessageAppended, ToolCalled, ToolReturned
from ctxlog.model.points import AtVersion, Latest, Point
from ctxlog.model.records import NewRecord
from ctxlog.replay.manifest import Replay
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore
from writing import expecting, publish, raw

EVERY = 10
SECRET = "correct horse battery staple"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot after every tenth record."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", EVERY)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ContextLog]:
    store = SnapshotStore(tmp_path / "cache.sqlite")
    yield ContextLog(MemoryLog(), store)
    store.close()


@pytest.fixture
def cache(tmp_path: Path, log: ContextLog) -> sqlite3.Connection:
    """The cache's file, looked at from outside."""
    log.context("first").append_each([(MessageAppended(role="user", content="x"), {})] * EVERY)
    _ = log.context("first").state
    return sqlite3.connect(tmp_path / "cache.sqlite", isolation_level=None)


def filler(log: ContextLog, count: int = EVERY, stream_id: str = "s") -> None:
    """Messages, and a read that comes by."""
    log.context(stream_id).append_each([(MessageAppended(role="user", content="x" * 20), {})] * count)
    _ = log.context(stream_id).state


def versions(log: ContextLog, stream_id: str = "s") -> list[int]:
    assert log.snapshots is not None
    return log.snapshots.versions(log.log.log_id, stream_id)


def replayed(log: ContextLog, at: Point | None = None, stream_id: str = "s") -> Replay:
    """A replay that was compared with the one that uses no snapshot."""
    replay = Replayer(log.log, log.snapshots).replay(stream_id, at or Latest())
    zero = Replayer(log.log).replay(stream_id, at or Latest())
    assert (replay.state, replay.anomalies) == (zero.state, zero.anomalies)
    assert replay.manifest.state_digest == zero.manifest.state_digest
    return replay


def kept_text(cache: sqlite3.Connection) -> str:
    """All that is in the chunks."""
    return "".join(zlib.decompress(data).decode() for (data,) in cache.execute("SELECT data FROM chunks"))


def cached_bytes(cache: sqlite3.Connection) -> int:
    chunks = cache.execute("SELECT coalesce(sum(length(data)), 0) FROM chunks").fetchone()[0]
    return chunks + cache.execute("SELECT coalesce(sum(length(header)), 0) FROM snapshots").fetchone()[0]


def log_bytes(log: ContextLog) -> int:
    return sum(len(record.value or b"") for record in log.log.read(0, 0, log.log.bounds(0).end))


def noise(rng: random.Random, length: int) -> str:
    """Text that does not get smaller when it is packed."""
    return '"' + "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(length // 3)) + '"'


def test_one_large_fact_that_changes_is_all_that_is_stored_again(log: ContextLog, cache: sqlite3.Connection) -> None:
    """Forty facts of 90 kB: their chunk has a bound of bytes, not of entries only."""
    rng = random.Random(1)
    context = log.context("s")
    for number in range(40):
        context.append(FactSet(key=f"k{number}", value=noise(rng, 90_000)))
    _ = context.state
    for _ in range(4):
        before = cached_bytes(cache)
        for _ in range(EVERY):
            context.append(FactSet(key="k7", value=noise(rng, 90_000)))
        _ = context.state
        assert cached_bytes(cache) - before < 2 * 90_000
    assert versions(log) == [10, 20, 30, 40, 50, 60, 70, 80]
    assert replayed(log).manifest.started_from == 80


def test_a_chunk_that_is_not_full_takes_up_what_follows(log: ContextLog, cache: sqlite3.Connection) -> None:
    """Otherwise a chunk would come with each snapshot, however little was appended since."""
    for _ in range(5):
        filler(log)
    assert versions(log) == [10, 20, 30, 40, 50]
    snapshots = cache.execute("SELECT header FROM snapshots WHERE stream_id = 's' ORDER BY version").fetchall()
    sections = json.loads(zlib.decompress(snapshots[-1][0]))["sections"]
    assert (len(sections["messages"]), len(sections["decided"])) == (1, 1)


def test_a_snapshot_waits_until_the_records_are_worth_what_the_last_one_wrote(
    log: ContextLog, cache: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts that change at random touch every chunk: the state would be written again every few records."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_FREE_BYTES", 0)
    rng = random.Random(2)
    context = log.context("s")
    context.append([FactSet(key=f"k{number}", value=noise(rng, 300)) for number in range(600)])
    for _ in range(120):
        context.append_each([(FactSet(key=f"k{rng.randrange(600)}", value=noise(rng, 300)), {}) for _ in range(EVERY)])
        _ = context.state
    assert cached_bytes(cache) < 3 * log_bytes(log)
    kept = [version for version in versions(log) if version]  # At version 0 stands the first append, as far as it came.
    assert len(kept) > 4
    assert max(later - earlier for earlier, later in zip(kept, [*kept[1:], context.version], strict=True)) < 600
    # Another process that goes on from the last one knows what that wrote.
    replayer = Replayer(log.log, log.snapshots)
    assert replayer.open("s", end=log.log.bounds(0).end).written > 100_000


def test_records_that_nobody_can_read_count_for_the_next_snapshot_too(log: ContextLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost every reader a look, and whoever may append can write any number of them."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_FREE_BYTES", 0)
    filler(log)
    log.log.append([NewRecord(0, b"s", b"\xc3\x01" + bytes(500))] * 3 * EVERY)
    filler(log, 1)
    end = log.log.bounds(0).end
    assert end - Replayer(log.log, log.snapshots).open("s", end=end).next_offset < EVERY


@pytest.mark.parametrize("seed", range(6))
def test_however_the_entries_grow_and_go_snapshots_give_the_same_states(
    log: ContextLog, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("ctxlog.replay.chunks.CHUNK_ITEMS", 8)
    monkeypatch.setattr("ctxlog.replay.chunks.CHUNK_BYTES", 60)
    rng = random.Random(seed)
    context = log.context("s")
    for _ in range(25):
        for _ in range(EVERY):
            key, text = f"k{rng.randrange(14)}", "x" * rng.choice([0, 5, 30, 200])
            events = [FactSet(key=key, value=f'"{text}"'), FactRemoved(key=key), MessageAppended(role="user", content=text)]
            context.append(rng.choice(events))
        _ = context.state
    kept = versions(log)
    assert len(kept) == 25
    for version in [*kept, *rng.sample(range(250), 20)]:
        replayed(log, AtVersion(version))
    assert replayed(log).manifest.started_from == 250


def test_what_was_redacted_leaves_the_cache_when_a_reader_has_read_past_the_redaction(
    log: ContextLog, cache: sqlite3.Connection, tmp_path: Path
) -> None:
    filler(log, 2 * EVERY)
    message = log.context("s").add_message("user", SECRET).event_id
    filler(log, 2 * EVERY)
    assert versions(log) == [10, 20, 30, 40]
    assert SECRET in kept_text(cache)
    chunks = [data for (data,) in cache.execute("SELECT data FROM chunks") if SECRET.encode() in zlib.decompress(data)]
    log.context("s").redact_message(message)
    _ = log.context("s").state
    assert versions(log) == [10, 20, 42]
    assert SECRET not in kept_text(cache)
    files = b"".join(path.read_bytes() for path in tmp_path.glob("cache.sqlite*"))
    assert not any(data[:60] in files for data in chunks)
    assert replayed(log).manifest.started_from == 42
    assert verify(log).notes == []


def test_a_replay_at_an_earlier_version_shows_what_was_redacted_and_its_work_stays_bounded(log: ContextLog) -> None:
    """The log holds the text for ever, so the cache may hold it again where somebody asks for a version that has it."""
    filler(log, 2 * EVERY)
    messages = [log.context("s").add_message("user", SECRET).event_id for _ in range(2)]
    filler(log, 3 * EVERY)
    log.context("s").redact_message(messages[0])
    _ = log.context("s").state
    assert versions(log) == [10, 20, 53]
    started = []
    for version in (22, 35, 51, 53):
        replay = replayed(log, AtVersion(version))
        assert [message.content for message in replay.state.messages[20:22]] == [SECRET if version < 53 else None, SECRET]
        started.append(replay.manifest.started_from)
    assert started == [20, 20, 30, 53]
    log.context("s").redact_message(messages[1])
    _ = log.context("s").state
    assert versions(log) == [10, 20, 54]


def test_the_result_of_a_call_that_was_redacted_leaves_the_cache_too(log: ContextLog, cache: sqlite3.Connection) -> None:
    context = log.context("s")
    context.append(ToolCalled(call_id="c", name="f", arguments="{}"))
    context.append(ToolReturned(call_id="c", content=SECRET), event_ids=["r"])
    filler(log, 2 * EVERY)
    assert SECRET in kept_text(cache)
    context.redact_message("r")
    _ = context.state
    assert SECRET not in kept_text(cache)
    assert replayed(log).state.tool_calls["c"].result is None


def test_a_redaction_without_effect_drops_nothing(log: ContextLog) -> None:
    message = log.context("s").add_message("user", "x").event_id
    filler(log, 2 * EVERY)
    log.context("s").redact_message(message)
    filler(log, EVERY)
    kept = versions(log)
    for target in (message, "unknown"):
        log.context("s").redact_message(target)
        _ = log.context("s").state
        assert versions(log) == kept


def test_a_replay_that_ends_after_a_redaction_drops_what_was_redacted_before_it_keeps_a_snapshot(
    log: ContextLog, cache: sqlite3.Connection
) -> None:
    """Later readers start from that snapshot, and do not come past the redaction."""
    message = log.context("s").add_message("user", SECRET).event_id
    filler(log, 2 * EVERY)
    writer = ContextLog(log.log).context("s")
    writer.redact_message(message)
    writer.append_each([(MessageAppended(role="user", content="x"), {})] * 2 * EVERY)
    replayed(log, AtVersion(35))
    _ = log.context("s").state
    assert SECRET not in kept_text(cache)
    assert replayed(log).manifest.started_from == 40


def test_an_id_that_was_forgotten_and_came_again_does_not_hide_where_a_message_came_first(
    log: ContextLog, cache: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Arbiter.__init__.__kwdefaults__, "decided_max", 7)
    message = log.context("s").add_message("user", SECRET).event_id
    filler(log, EVERY)
    assert SECRET in kept_text(cache)
    publish(log.log)
    log.log.append([raw(log.log, "s", "MessageAppended", message), raw(log.log, "s", "MessageRedacted", "r", message_id=message)])
    assert [anomaly.reason for anomaly in replayed(log).anomalies] == ["message_exists"]
    assert SECRET not in kept_text(cache)


def test_a_snapshot_in_the_place_of_another_leaves_nothing_of_it(log: ContextLog, cache: sqlite3.Connection) -> None:
    """Conflicts change what is remembered, and no version."""
    filler(log)
    publish(log.log)
    for number in range(EVERY):
        log.log.append([raw(log.log, "s", "FactSet", f"late{number}", precondition=expecting(expected_version=3))])
    assert replayed(log).state.version == EVERY
    assert versions(log) == [EVERY]
    used = set()
    for (header,) in cache.execute("SELECT header FROM snapshots"):
        used |= {digest for digests in json.loads(zlib.decompress(header))["sections"].values() for digest in digests}
    assert {digest.hex() for (digest,) in cache.execute("SELECT digest FROM chunks")} == used


def test_a_fork_keeps_what_it_inherited_though_the_parent_redacts_it(
    log: ContextLog, cache: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are shared: they go with the last stream that uses them. The fork's own redaction is of what it inherited."""
    monkeypatch.setattr("ctxlog.replay.chunks.CHUNK_ITEMS", 4)
    message = log.context("s").add_message("user", SECRET).event_id
    filler(log, 2 * EVERY + EVERY - 1)
    log.context("s").fork("fork")
    filler(log, 2 * EVERY, "fork")
    log.context("s").redact_message(message)
    _ = log.context("s").state
    assert versions(log) == [31]
    assert SECRET in kept_text(cache)
    assert replayed(log, stream_id="fork").manifest.started_from == 20
    # An event of the fork may bear the same id; it has no effect, and says nothing about when the message came.
    log.context("fork").append(MessageAppended(role="user", content="x"), event_ids=[message])
    log.context("fork").redact_message(message)
    _ = log.context("fork").state
    assert SECRET not in kept_text(cache)
    assert replayed(log, stream_id="fork").manifest.started_from == 23


def test_a_chunk_that_another_process_has_dropped_is_written_again(log: ContextLog) -> None:
    """What a cursor knows from before is looked up when it is kept, not believed to be there."""
    filler(log, 2 * EVERY)
    filler(log, EVERY - 1)
    assert log.snapshots is not None
    other = SnapshotStore(log.snapshots._path)
    assert other.drop(log.log.log_id, "s", [(0, 25)])
    other.close()
    filler(log, 1)
    assert versions(log) == [30]
    assert replayed(log).manifest.started_from == 30


def test_nothing_is_left_of_a_snapshot_that_was_dropped(log: ContextLog, cache: sqlite3.Connection) -> None:
    filler(log, 3 * EVERY)
    assert log.snapshots is not None
    for stream_id in ("s", "first"):
        for version in versions(log, stream_id):
            assert log.snapshots.drop(log.log.log_id, stream_id, [(version, version)])
    assert [cache.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("chunks", "uses", "snapshots")] == [
        0,
        0,
        0,
    ]


def test_a_cache_of_another_release_is_made_anew(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "old.sqlite", isolation_level=None)
    connection.execute("CREATE TABLE chunks (digest BLOB PRIMARY KEY, data BLOB NOT NULL)")
    connection.execute("CREATE TABLE snapshots (log_id TEXT, header BLOB)")
    connection.execute("INSERT INTO chunks VALUES (x'00', x'01')")
    log = ContextLog(MemoryLog(), SnapshotStore(tmp_path / "old.sqlite"))
    filler(log, EVERY)
    assert replayed(log).manifest.started_from == EVERY
    assert connection.execute("SELECT count(*) FROM chunks WHERE digest = x'00'").fetchone() == (0,)

"""A process that reads all of a log keeps index and snapshots: who replays then reads little, and reads the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.core.digests import state_digest
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.points import AtVersion, Latest
from ctxlog.model.records import Record
from ctxlog.projection.instance import Instance
from ctxlog.projection.running import Running
from ctxlog.replay import index, keeping, replayer
from ctxlog.replay.index import IndexedLog
from ctxlog.replay.keeping import CacheKeeper
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore
from unit.test_index import CountingLog, fill, of, plain

SEED = 20261125


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "DIRECT_OFFSETS_MAX", 20)
    monkeypatch.setattr(keeping, "SNAPSHOT_EVENTS", 50)
    monkeypatch.setattr(replayer, "SNAPSHOT_EVENTS", 50)


def records(log: CountingLog, start: int, end: int) -> list[Record]:
    return list(MemoryLog.read(log, 0, start, end))


def test_what_was_read_anyway_is_not_read_again_for_the_index(tmp_path: Path) -> None:
    log = CountingLog()
    fill(log, 1_000)
    indexed = IndexedLog(log, tmp_path / "index.sqlite")
    keeper, end = CacheKeeper(indexed, None), log.bounds(0).end
    for start in range(0, end, 70):
        keeper.note(0, start, records(log, start, min(start + 70, end)), min(start + 70, end))
    log.given = 0
    assert of(indexed, b"stream/3") == plain(log, b"stream/3")
    assert log.given == 0
    indexed.close()


def test_an_index_that_is_behind_or_ahead_misses_and_doubles_nothing(tmp_path: Path) -> None:
    """Random batches, some of them twice or not at all, and readers in between."""
    dice = random.Random(SEED)
    log = CountingLog()
    fill(log, 600)
    indexed, end = IndexedLog(log, tmp_path / "index.sqlite"), log.bounds(0).end
    start = 0
    while start < end:
        stop = min(end, start + dice.randrange(1, 90))
        if dice.random() < 0.7:
            indexed.take(0, start, records(log, start, stop), stop)
        if dice.random() < 0.2:
            assert of(indexed, b"stream/2") == plain(log, b"stream/2")
        start = max(0, stop - dice.choice((0, 0, 0, 30)))
    for number in range(10):
        assert of(indexed, b"stream/%d" % number) == plain(log, b"stream/%d" % number)
    assert indexed.progress()[0].records == end
    indexed.close()


def test_long_streams_have_snapshots_after_a_projector_and_replays_begin_there(tmp_path: Path) -> None:
    log = MemoryLog()
    context = ContextLog(log).context("agent/long")
    context.append_each([(MessageAppended(role="user", content=f"{number}"), {}) for number in range(500)])
    ContextLog(log).context("agent/short").add_message("user", "hello")
    store = SnapshotStore(tmp_path / "cache.sqlite")
    Running(log, Instance(tmp_path / "views"), caches=CacheKeeper(log, store)).run(once=True)
    assert len(store.versions(log.log_id, "agent/long")) > 3
    assert not store.versions(log.log_id, "agent/short")
    fast, slow = Replayer(log, store), Replayer(log)
    assert fast.replay("agent/long", Latest()).manifest.started_from > 0
    for version in (49, 130, 500):
        found, expected = (one.replay("agent/long", AtVersion(version)) for one in (fast, slow))
        assert state_digest(found.state.to_dict()) == state_digest(expected.state.to_dict())
    store.close()

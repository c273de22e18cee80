"""What tests of snapshots ask: the same point with and without a store, what the file holds."""

from __future__ import annotations

import sqlite3

from ctxlog.log.memory import MemoryLog
from ctxlog.model.points import Latest
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore


def through(backend: MemoryLog, store: SnapshotStore | None, at: object = None) -> tuple[dict, tuple, int]:
    replay = Replayer(backend, store).replay("s", at or Latest())  # type: ignore[arg-type]
    manifest = replay.manifest.to_dict()
    started = manifest.pop("started_from")
    return {"state": replay.state.to_dict(), "manifest": manifest}, replay.anomalies, started


def rows(store: SnapshotStore, statement: str, *bound: object) -> list:
    connection = sqlite3.connect(store._path)
    found = connection.execute(statement, bound).fetchall()
    connection.commit()
    connection.close()
    return found


def versions_of(backend: MemoryLog, store: SnapshotStore) -> list[int]:
    return store.versions(backend.log_id, "s")

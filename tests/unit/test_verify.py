"""Verify computes everything again: what was changed in the file is named with its place, and what was not is no problem."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.audit.verify import BROKEN, CONSISTENT, verify, verify_manifest
from ctxlog.errors import InvalidInputError, NewerEventError
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.points import Latest
from ctxlog.model.records import NewRecord
from ctxlog.replay.snapshots import SnapshotStore
from writing import foreign, group, publish, raw

HI = MessageAppended(role="user", content="hi")


@pytest.fixture
def opened(folder: Path) -> Iterator[ContextLog]:
    """An embedded log: genesis and a publication at 0@0 and 0@1, then records of two streams in turn at 0@2 … 0@11."""
    with ContextLog(EmbeddedLog(folder)) as log:
        for number in range(10):
            log.context(f"s/{number % 2}").add_message("user", str(number))
        yield log


def tamper(folder: Path, *statements: str) -> None:
    """Change the file as somebody does who has SQLite and knows nothing of ctxlog."""
    connection = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def places(log: ContextLog) -> list[str]:
    report = verify(log)
    assert report.verdict == (BROKEN if report.problems else CONSISTENT)
    return [problem.where for problem in report.problems]


def test_a_log_that_nobody_changed_is_consistent(opened: ContextLog) -> None:
    report = verify(opened)
    assert (report.verdict, report.problems, report.notes) == ("consistent, unsigned", [], [])
    assert (report.streams, report.records, report.log_id) == (2, 12, opened.log.log_id)
    assert report.to_dict()["verdict"] == "consistent, unsigned"


def test_all_that_arbitration_has_an_answer_for_is_no_problem() -> None:
    """Rejected, misplaced, undecodable and open records are part of a sound log, as are forks without parents."""
    backend = MemoryLog(3)
    publish(backend)
    log = ContextLog(backend)
    log.context("s").append([HI, HI])
    dup = raw(backend, "s", "FactSet", "dup")
    backend.append([dup, dup, raw(backend, "s", "FactSet", "g", append=group("g", 0, 2)), NewRecord(0, b"s", b"garbage")])
    backend.append([dup._replace(partition=(dup.partition + 1) % 3), dup._replace(partition=(dup.partition + 2) % 3)])
    backend.append([dup._replace(key=b"other"), dup._replace(key=b"\xff\xfe")])
    head = "0" * 64
    backend.append([raw(backend, "f", "StreamForked", "f", parent_stream_id="none", parent_version=1, parent_chain_head=head)])
    backend.append(foreign(backend, "n", "ctxlog.FromTheFuture", "new"))
    report = verify(log)
    assert report.problems == []
    assert len(report.notes) == 2
    assert any("none" in note for note in report.notes)
    assert any("ctxlog.FromTheFuture" in note for note in report.notes)


COPY = "INSERT INTO records SELECT {}, stream, recorded_at, value, origin, link FROM records WHERE id = 11".format
ROW = "(SELECT id FROM records WHERE id & 1099511627775 = {})".format
TAMPERINGS: dict[str, tuple[list[str], str]] = {
    "value": ([f"UPDATE records SET value = CAST(replace(value, '3', '4') AS BLOB) WHERE id = {ROW(5)}"], "record 0@5"),
    "value of the first": ([f"UPDATE records SET value = x'00' WHERE id = {ROW(0)}"], "record 0@0"),
    "value null": ([f"UPDATE records SET value = NULL WHERE id = {ROW(5)}"], "record 0@5"),
    "value as text": ([f"UPDATE records SET value = 'text' WHERE id = {ROW(5)}"], "record 0@5"),
    "value as number": ([f"UPDATE records SET value = 5 WHERE id = {ROW(5)}"], "record 0@5"),
    "time": ([f"UPDATE records SET recorded_at = recorded_at + 1 WHERE id >= {ROW(5)}"], "record 0@5"),
    "time back": ([f"UPDATE records SET recorded_at = 5 WHERE id = {ROW(5)}"], "record 0@5"),
    "time as text": ([f"UPDATE records SET recorded_at = 'x' WHERE id = {ROW(5)}"], "record 0@5"),
    "origin": ([f"UPDATE records SET origin = 'log/0/1/2' WHERE id = {ROW(5)}"], "record 0@5"),
    "origin unreadable": ([f"UPDATE records SET origin = 'nonsense' WHERE id = {ROW(5)}"], "record 0@5"),
    "origin as bytes": ([f"UPDATE records SET origin = x'00' WHERE id = {ROW(5)}"], "record 0@5"),
    "link": ([f"UPDATE records SET link = zeroblob(32) WHERE id = {ROW(5)}"], "record 0@5"),
    "link as text": ([f"UPDATE records SET link = 'x' WHERE id = {ROW(5)}"], "record 0@5"),
    "stream of a record": ([f"UPDATE records SET stream = 3 WHERE id = {ROW(4)}"], "record 0@4"),
    "stream that is none": ([f"UPDATE records SET stream = 99 WHERE id = {ROW(5)}"], "record 0@5"),
    "stream of the last": ([f"UPDATE records SET stream = 99 WHERE id = {ROW(11)}"], "record 0@11"),
    "name of a stream": (["UPDATE streams SET key = CAST('s/9' AS BLOB) WHERE id = 2"], "record 0@2"),
    "name as text": (["UPDATE streams SET key = 's/9' WHERE id = 2"], "record 0@2"),
    "row gone": ([f"DELETE FROM records WHERE id = {ROW(5)}"], "record 0@5"),
    "rows gone": (["DELETE FROM records WHERE id BETWEEN 3 AND 6"], "record 0@3"),
    "rows swapped": (
        [
            f"UPDATE records SET id = 1000000 WHERE id = {ROW(5)}",
            f"UPDATE records SET id = 5 WHERE id = {ROW(7)}",
            f"UPDATE records SET id = 7 WHERE id = {ROW(1000000)}",
        ],
        "record 0@5",
    ),
    "row added": ([COPY(12)], "record 0@12"),
    "row added where there is no partition": ([COPY(7 << 40)], "record 7@0"),
}  # fmt: skip


@pytest.mark.parametrize(("statements", "place"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_what_was_changed_in_the_file_is_named_with_its_place(
    opened: ContextLog, folder: Path, statements: list[str], place: str
) -> None:
    tamper(folder, *statements)
    assert places(opened)[0].startswith(place)


def test_each_of_several_changes_is_named(opened: ContextLog, folder: Path) -> None:
    tamper(folder, "UPDATE records SET value = x'00' WHERE id IN (3, 8)")
    assert places(opened) == ["record 0@3 of stream 's/1'", "record 0@8 of stream 's/0'"]


def test_an_index_that_lies_is_found(opened: ContextLog, folder: Path) -> None:
    """What is read through it would be a stream without some of its records."""
    connection = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, '(stream)', '(stream) WHERE id <> 4') WHERE type = 'index' AND sql NOT NULL"
    )
    connection.close()
    tamper(folder, "REINDEX records_by_stream")
    connection = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ' WHERE id <> 4', '') WHERE type = 'index' AND sql NOT NULL")
    connection.close()
    opened.close()
    with ContextLog(EmbeddedLog(folder)) as again:
        found = places(again)
    assert "file" in found
    assert "index of stream 's/0'" in found


def test_a_file_whose_pages_are_damaged_is_named_and_does_not_end_the_check(opened: ContextLog, folder: Path) -> None:
    opened.context("s/0").add_message("user", "x" * 100_000)
    tamper(folder, "PRAGMA wal_checkpoint(TRUNCATE)")
    opened.close()
    path = folder / "log.sqlite"
    data = bytearray(path.read_bytes())
    with ContextLog(EmbeddedLog(folder)) as again:
        for page in range(8, len(data) // 4096):
            data[page * 4096 : page * 4096 + 100] = b"\xff" * 100
        path.write_bytes(data)
        assert "file" in places(again)


def test_a_tail_that_was_cut_off_shows_against_what_was_kept_elsewhere(opened: ContextLog, folder: Path) -> None:
    """Nothing in an unsigned log says how long it was: hence `unsigned`."""
    manifest = opened.context("s/1").replay().to_dict()
    tamper(folder, "DELETE FROM records WHERE id = 11")
    assert verify(opened).verdict == CONSISTENT
    report = verify_manifest(opened, manifest)
    assert report.verdict == BROKEN
    assert "version 5" in str(report.problems[0])


def test_only_streams_that_match_are_folded_and_the_file_is_checked_all_the_same(opened: ContextLog, folder: Path) -> None:
    told: list[tuple[int, int]] = []
    report = verify(opened, "s/0", progress=lambda done, total: told.append((done, total)))
    assert (report.streams, report.records) == (1, 12)
    assert told == [(1, 1)]
    tamper(folder, "UPDATE records SET value = x'00' WHERE id = 3")
    assert [problem.where for problem in verify(opened, "s/0").problems] == ["record 0@3 of stream 's/1'"]


# Snapshots


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContextLog]:
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 5)
    store = SnapshotStore(tmp_path / "cache.sqlite")
    log = ContextLog(MemoryLog(), store)
    log.context("s").append_each([(HI, {})] * 12)
    _ = log.context("s").state
    yield log
    store.close()


def test_snapshots_are_compared_with_a_fold_from_zero(kept: ContextLog) -> None:
    report = verify(kept)
    assert (report.snapshots, report.problems, report.notes) == (2, [], [])


def test_a_snapshot_that_was_made_wrong_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed and whole, but not what the log says: as a broken fold of an earlier build would leave it."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 5)
    store = SnapshotStore(tmp_path / "cache.sqlite")
    log = ContextLog(MemoryLog(), store)
    log.context("s").append_each([(HI, {})] * 5)
    with monkeypatch.context() as patch:
        patch.setattr("ctxlog.core.evolve.Evolving.add_message", lambda *_: None)
        log.replayer.replay("s", Latest())
    assert [problem.where for problem in verify(log).problems] == ["snapshot s@5"]
    store.close()


def test_a_damaged_snapshot_is_a_note_because_no_answer_depends_on_it(kept: ContextLog, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "cache.sqlite", isolation_level=None)
    connection.execute("UPDATE snapshots SET header = zeroblob(9) WHERE version = 10")
    connection.close()
    report = verify(kept)
    assert report.problems == []
    assert ["s@10" in note for note in report.notes] == [True]


def test_a_snapshot_of_a_version_that_the_stream_does_not_have_is_a_problem(kept: ContextLog, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "cache.sqlite", isolation_level=None)
    connection.execute("UPDATE snapshots SET version = 99 WHERE version = 10")
    connection.close()
    assert places(kept) == ["snapshot s@99"]


# Manifests


def change(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def work(shown: dict[str, Any]) -> None:
        for name in path[:-1]:
            shown = shown[name]
        assert shown[path[-1]] != to
        shown[path[-1]] = to

    return work


CHANGES = {
    "chain head": (change("manifest", "chain_head", to="0" * 64), "s/0@3 chain_head"),
    "state digest": (change("manifest", "state_digest", to="0" * 64), "s/0@3 state_digest"),
    "position": (change("manifest", "position", "offset", to=1), "s/0@3 position"),
    "position gone": (change("manifest", "position", to=None), "s/0@3 position"),
    "time": (change("manifest", "recorded_at", to=5), "s/0@3 recorded_at"),
    "rules": (change("manifest", "rules", to=2), "s/0@3 rules"),
    "version": (change("manifest", "version", to=2), "s/0@2 position"),
    "version beyond": (change("manifest", "version", to=99), "s/0@99"),
    "stream": (change("manifest", "stream_id", to="s/1"), "s/1@3 position"),
    "stream that is none": (change("manifest", "stream_id", to="x"), "x@3"),
    "text of a message": (lambda shown: shown["state"]["messages"][0].update(content="forged"), "s/0@3 state"),
    "state that JSON cannot carry": (lambda shown: shown["state"].update(version=float("nan")), "s/0@3 state"),
}


def shown(log: ContextLog) -> dict[str, Any]:
    return copy.deepcopy(log.context("s/0").replay(3).to_dict())


def test_a_manifest_that_nobody_changed_is_what_the_log_says(opened: ContextLog) -> None:
    replay = shown(opened)
    assert verify_manifest(opened, replay).problems == []
    assert verify_manifest(opened, replay["manifest"]).problems == []
    opened.context("s/0").add_message("user", "later")
    assert verify_manifest(opened, replay).verdict == CONSISTENT


@pytest.mark.parametrize(("work", "place"), CHANGES.values(), ids=CHANGES.keys())
def test_each_member_that_was_changed_is_named(opened: ContextLog, work: Callable[[dict[str, Any]], None], place: str) -> None:
    replay = shown(opened)
    work(replay)
    assert place in [problem.where for problem in verify_manifest(opened, replay).problems]


NO_MANIFEST: list[Any] = [
    {}, [], None, {"manifest": None}, {"manifest": []}, {"stream_id": "s"},
]  # fmt: skip


@pytest.mark.parametrize("data", NO_MANIFEST, ids=repr)
def test_what_is_no_manifest_is_refused(opened: ContextLog, data: Any) -> None:
    with pytest.raises(InvalidInputError, match="nothing was checked"):
        verify_manifest(opened, data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_id", "other"),
        ("fold_version", 2),
        ("version", -1),
        ("version", "3"),
        ("version", True),
        ("version", 2.5),
        ("stream_id", 5),
    ],
)
def test_a_manifest_that_cannot_be_of_this_log_is_refused(opened: ContextLog, name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match="nothing was checked"):
        verify_manifest(opened, shown(opened)["manifest"] | {name: value})


@pytest.mark.parametrize("name", ["chain_head", "state_digest", "version", "log_id", "stream_id", "fold_version"])
def test_a_manifest_that_says_nothing_to_check_is_no_manifest(opened: ContextLog, name: str) -> None:
    """Otherwise leaving out what is wrong would make it right."""
    manifest = shown(opened)["manifest"]
    del manifest[name]
    with pytest.raises(InvalidInputError):
        verify_manifest(opened, manifest)


def test_a_manifest_of_a_fork_whose_parent_is_gone_is_broken_and_one_of_a_newer_release_is_not_judged() -> None:
    backend = MemoryLog()
    publish(backend)
    log = ContextLog(backend)
    members = {"parent_stream_id": "p", "parent_version": 1, "parent_chain_head": "0" * 64}
    backend.append([raw(backend, "s", "StreamForked", "f", **members)])
    manifest = {"log_id": backend.log_id, "fold_version": 1, "stream_id": "s", "version": 1, "chain_head": "", "state_digest": ""}
    assert verify_manifest(log, manifest).verdict == BROKEN
    backend.append(foreign(backend, "n", "ctxlog.FromTheFuture", "new"))
    with pytest.raises(NewerEventError):
        verify_manifest(log, manifest | {"stream_id": "n"})

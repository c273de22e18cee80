"""The kept tree gives what the definition gives, reads nothing twice, and whatever happens to its file costs time only."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import merkle_oracle
import oracle
from ctxlog import ContextLog
from ctxlog.audit.tree import LogTree, kept_leaves
from ctxlog.codec.control import encode_control, head_signed, topic_adopted
from ctxlog.codec.framing import frame_single_object
from ctxlog.codec.schemas import shipped
from ctxlog.core.merkle import leaf_hash
from ctxlog.core.proofs import check_consistency, check_inclusion
from ctxlog.errors import BelowHorizonError, InvalidInputError, StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.records import CONTROL_KEY, NewRecord, Origin, Record
from writing import PAYLOADS, Wrapped, publish, raw

HI = MessageAppended(role="user", content="hi")


class CountingLog(MemoryLog):
    """Counts the records that it gives to whoever reads all keys."""

    def __init__(self, partitions: int = 1, **options: int) -> None:
        super().__init__(partitions, **options)
        self.given = 0

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        for record in super().read(partition, start, end, key=key):
            self.given += key is None
            yield record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "tree.sqlite"


def fill(log: MemoryLog, count: int) -> None:
    """Records that nobody can decode: the tree has them all the same."""
    log.append([NewRecord(0, b"s/%d" % (number % 7), b"value %d" % number) for number in range(count)])


def definition(log: MemoryLog, partition: int = 0) -> list[bytes]:
    """Leaves of a log of records that nobody can decode, behind a genesis, as `docs/reference/log-format.md` defines them."""
    found = []
    for record in MemoryLog.read(log, partition, 0, 2**62):
        digest = oracle.undecodable_digest(record.key, record.value)
        if record.key == CONTROL_KEY:
            assert record.value is not None
            digest = oracle.record_digest(shipped("ctxlog.ControlRecord").digest, record.key, record.value[10:])
        found.append(leaf(record, digest))
    return found


def leaf(record: Record, digest: bytes) -> bytes:
    origin = b"\xff\xff\xff\xff"
    if record.origin is not None:
        text = str(record.origin).encode()
        origin = len(text).to_bytes(4, "big") + text
    return record.offset.to_bytes(8, "big") + record.recorded_at.to_bytes(8, "big") + origin + digest


def test_a_leaf_is_made_of_every_record_whatever_it_is(path: Path) -> None:
    """Events in both framings, misplaced ones, control records in effect and void, and what nobody can decode."""
    log = MemoryLog(2)
    publish(log)
    before = len(list(log.read(0, 0, 2**62)))
    event = raw(log, "s", "FactSet", "one", partition=0)
    body, fact = event.value[10:], shipped("ctxlog.FactSet").digest
    control, controls = shipped("ctxlog.ControlRecord"), []
    for found in (head_signed(log.log_id, "x\n"), topic_adopted("another", "t")):
        controls.append(encode_control(0, found))
    bad = NewRecord(0, CONTROL_KEY, frame_single_object(control.fingerprint, b"\xff"))
    broken = NewRecord(0, CONTROL_KEY, b"noise")
    an_event = event._replace(key=CONTROL_KEY)
    origin = Origin(log.log_id, 3, 4, 5)
    expected = [
        (event, oracle.record_digest(fact, event.key, body)),
        (event, oracle.record_digest(fact, event.key, body)),
        (event._replace(origin=origin), oracle.record_digest(fact, event.key, body)),
        (event._replace(key=b"other"), oracle.record_digest(fact, b"other", body)),
        (event._replace(key=b"\xff"), oracle.record_digest(fact, b"\xff", body)),
        (event._replace(value=event.value + b"x"), oracle.undecodable_digest(event.key, event.value + b"x")),
        (event._replace(value=b""), oracle.undecodable_digest(event.key, b"")),
        *((record, oracle.record_digest(control.digest, CONTROL_KEY, record.value[10:])) for record in controls),
        (bad, oracle.undecodable_digest(CONTROL_KEY, bad.value)),
        (broken, oracle.undecodable_digest(CONTROL_KEY, broken.value)),
        (an_event, oracle.undecodable_digest(CONTROL_KEY, event.value)),
    ]
    log.append([record for record, _ in expected])
    records = list(log.read(0, 0, 2**62))
    digests = [oracle.record_digest(control.digest, CONTROL_KEY, record.value[10:]) for record in records[:before]]  # type: ignore[index]
    digests += [digest for _, digest in expected]
    leaves = [leaf(record, digest) for record, digest in zip(records, digests, strict=True)]
    tree = LogTree(log, path)
    assert tree.catch_up(0).size == len(leaves) == before + len(expected)
    assert [found for _, found in kept_leaves(path, log.log_id, 0, len(leaves))] == [leaf_hash(data) for data in leaves]
    assert tree.root(0, len(leaves)) == merkle_oracle.mth(leaves)
    tree.close()


def test_a_record_is_undecodable_until_its_schema_is_published(path: Path) -> None:
    """So the same bytes are two leaves before and after the publication: the control records on the way count."""
    log = MemoryLog()
    event = raw(log, "s", "FactSet", "one")
    log.append([event])
    publish(log, *PAYLOADS)
    log.append([event])
    records = list(log.read(0, 0, 2**62))
    tree = LogTree(log, path)
    tree.catch_up(0, 2)  # The publications are read by another catch-up than the events behind them,
    tree.catch_up(0, len(records) - 1)
    tree.close()
    tree = LogTree(log, path)  # and by another process.
    tree.catch_up(0)
    found = dict(kept_leaves(path, log.log_id, 0, len(records)))
    last = records[-1]
    assert found[1] == leaf_hash(leaf(records[1], oracle.undecodable_digest(b"s", event.value)))
    assert found[last.offset] == leaf_hash(
        leaf(last, oracle.record_digest(shipped("ctxlog.FactSet").digest, b"s", event.value[10:]))
    )
    tree.close()


@pytest.mark.parametrize("step", [1, 3], ids=["no gaps", "gaps"])
def test_roots_and_proofs_at_every_size_are_those_of_the_definition(path: Path, step: int) -> None:
    log = CountingLog(offset_step=step)
    dice = random.Random(step)
    tree = LogTree(log, path)
    while len(definition(log)) < 1500:  # More than five tiles, so that there is a level above them.
        fill(log, dice.choice((1, 3, 60, 255, 256, 257)))
        tree.catch_up(0)
        if dice.random() < 0.3:
            tree.close()
            tree = LogTree(log, path)
    leaves = definition(log)
    hashes = [leaf_hash(data) for data in leaves]
    assert log.given - tree.progress(0).size <= 8 * 1  # Each record once, and one a handle to see that the log is the same.
    sizes = [1, 2, 255, 256, 257, 511, 512, 513, 1024, len(leaves), *dice.sample(range(1, len(leaves)), 10)]
    roots = {size: merkle_oracle.mth(leaves[:size]) for size in sizes}
    for size in sizes:
        assert tree.root(0, size) == roots[size]
        for index in {0, size // 2, size - 1, dice.randrange(size)}:
            proof = tree.inclusion(0, index * step, size)
            assert (proof.leaf, proof.size, list(proof.path)) == (index, size, merkle_oracle.path(index, leaves[:size]))
            check_inclusion(proof, hashes[index], roots[size])
            assert (tree.index_of(0, index * step), tree.offset_of(0, index)) == (index, index * step)
            assert tree.leaf(0, index) == hashes[index]
        for old in sizes:
            if old < size:
                between = tree.consistency(0, old, size)
                assert list(between.path) == merkle_oracle.proof(old, leaves[:size])
                check_consistency(between, roots[old], roots[size])
    given = log.given
    tree.inclusion(0, 0, len(leaves))
    assert log.given == given  # Proofs read nothing of the log.
    tree.close()


def test_what_is_not_in_the_tree_is_not_proved(path: Path) -> None:
    log = MemoryLog(offset_step=2)
    fill(log, 3)
    tree = LogTree(log, path)
    tree.catch_up(0)
    for ask in (
        lambda: tree.root(0, 5),
        lambda: tree.root(0, -1),
        lambda: tree.inclusion(0, 6, 3),
        lambda: tree.inclusion(0, 1, 4),
        lambda: tree.inclusion(0, 8, 4),
        lambda: tree.consistency(0, 3, 5),
        lambda: tree.consistency(0, 3, 2),
        lambda: tree.offset_of(0, 4),
        lambda: tree.leaf(0, 4),
        lambda: tree.leaf(0, -1),
        lambda: tree.offset_of(0, -1),
        lambda: tree.index_of(0, 3),
        lambda: tree.root(1, 0),
    ):
        with pytest.raises(InvalidInputError):
            ask()
    assert tree.progress(0).size == 4
    tree.close()


def test_what_somebody_read_anyway_is_not_read_again(path: Path) -> None:
    log = CountingLog()
    fill(log, 100)
    tree = LogTree(log, path)
    records = list(MemoryLog.read(log, 0, 0, 101))
    tree.take(0, 0, records[:40], 40)
    tree.take(0, 30, records[30:101], 101)
    assert (log.given, tree.progress(0).size, tree.progress(0).next_offset) == (0, 101, 101)
    assert tree.root(0, 101) == merkle_oracle.mth(definition(log))
    fill(log, 10)
    tree.take(0, 105, list(MemoryLog.read(log, 0, 105, 111)), 111)
    assert log.given == 4  # what it had not been told of
    assert tree.root(0, 111) == merkle_oracle.mth(definition(log))
    tree.close()


def test_a_tree_without_a_file_is_kept_while_it_is_open() -> None:
    log = MemoryLog()
    fill(log, 10)
    tree = LogTree(log, None)
    tree.catch_up(0)
    assert tree.root(0, 11) == merkle_oracle.mth(definition(log))
    where = tree._file.path
    tree.close()
    assert not where.exists()


PLACES = [
    ("tiles", "hashes", "level = 0 AND number = 0"),
    ("tiles", "hashes", "level = 0 AND number = 2"),
    ("tiles", "hashes", "level = 1"),
    ("tiles", "offsets", "number = 1"),
    ("tiles", "number", "number = 2"),
    ("tiles", "first_offset", "number = 1"),
    ("progress", "next_offset", "true"),
    ("progress", "size", "true"),
    ("progress", "last_offset", "true"),
    ("progress", "last_digest", "true"),
]


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
@pytest.mark.parametrize("seed", range(3))
def test_a_file_with_a_changed_bit_is_made_anew(path: Path, place: tuple[str, str, str], seed: int) -> None:
    log, dice = MemoryLog(), random.Random(seed)
    fill(log, 700)
    tree = LogTree(log, path)
    tree.catch_up(0)
    tree.close()
    table, column, where = place
    with sqlite3.connect(path) as connection:
        row, value = connection.execute(f"SELECT rowid, {column} FROM {table} WHERE {where}").fetchone()
        if isinstance(value, bytes):
            bit = dice.randrange(8 * len(value))
            value = bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(value))
        else:
            value ^= 1 << dice.randrange(3, 7)
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
    connection.close()
    tree, leaves = LogTree(log, path), definition(log)
    tree.catch_up(0)
    assert tree.root(0, 701) == merkle_oracle.mth(leaves)
    for index in range(0, 701, 50):
        assert tree.leaf(0, index) == leaf_hash(leaves[index])
        assert (tree.offset_of(0, index), tree.index_of(0, index)) == (index, index)
        assert list(tree.inclusion(0, index, 701).path) == merkle_oracle.path(index, leaves)
    tree.close()


@pytest.mark.parametrize("what", ["noise", "empty", "half", "format", "another log", "a folder", "rows gone", "tables gone"])
def test_a_file_that_is_none_of_this_log_is_made_anew(path: Path, what: str) -> None:
    log = MemoryLog()
    fill(log, 600)
    tree = LogTree(log, path)
    tree.catch_up(0)
    tree.close()
    content = path.read_bytes()
    if what == "a folder":
        path.unlink()
        path.mkdir()
    elif what == "another log":
        other = LogTree(MemoryLog(), path)
        other.catch_up(0)
        other.close()
    elif what in ("format", "rows gone", "tables gone"):
        with sqlite3.connect(path) as connection:
            if what == "tables gone":
                connection.executescript("DROP TABLE log; DROP TABLE tiles")
            else:
                connection.execute("PRAGMA user_version = 77" if what == "format" else "DELETE FROM tiles WHERE number = 1")
        connection.close()
    else:
        path.write_bytes({"noise": random.Random(1).randbytes(9000), "empty": b"", "half": content[: len(content) // 2]}[what])
    tree = LogTree(log, path)
    tree.catch_up(0)
    assert tree.root(0, 601) == merkle_oracle.mth(definition(log))
    assert (tree._file.path == path) == (what != "a folder")
    tree.close()


def test_a_log_that_was_cut_off_or_replaced_gets_a_tree_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.log.resuming.BACK_SECONDS_MAX", 0.01)
    log = MemoryLog()
    fill(log, 20)
    tree = LogTree(log, path)
    tree.catch_up(0)
    tree.close()
    del log._records[0][12:]
    tree = LogTree(log, path)
    assert tree.catch_up(0).size == 12
    assert tree.root(0, 12) == merkle_oracle.mth(definition(log))
    tree.close()


def test_a_partition_that_lost_its_first_records_has_no_tree(path: Path) -> None:
    log = MemoryLog()
    fill(log, 5)
    del log._records[0][:2]
    tree = LogTree(log, path)
    with pytest.raises(BelowHorizonError):
        tree.catch_up(0)
    tree.close()


def test_two_handles_add_to_one_tree_in_turn(path: Path) -> None:
    log = MemoryLog()
    handles = [LogTree(log, path), LogTree(log, path)]
    dice = random.Random(7)
    for turn in range(30):
        if turn == 10:
            publish(log, "FactSet")
        fill(log, dice.choice((1, 2, 100)))
        log.append([raw(log, "s", "FactSet", f"{turn}")])
        handles[dice.randrange(2)].catch_up(0)
    for handle in handles:
        size = handle.catch_up(0).size
        whole = LogTree(log, None)
        whole.catch_up(0)
        assert handle.root(0, size) == whole.root(0, size)
        for each in (handle, whole):
            each.close()


def test_handles_that_make_the_file_at_once_share_it(path: Path) -> None:
    log = MemoryLog()
    fill(log, 300)
    handles = [LogTree(log, path) for _ in range(8)]
    threads = [threading.Thread(target=handle.catch_up, args=(0,)) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (1,)
    connection.close()
    for handle in handles:
        assert handle.root(0, 301) == merkle_oracle.mth(definition(log))
        assert handle._file.path == path
        handle.close()


def test_a_handle_that_another_one_overtakes_adds_nothing_twice(path: Path) -> None:
    """Between the look at the file and the transaction, another process may have added the same records, or more."""
    log = MemoryLog()
    fill(log, 10)
    other = LogTree(log, path)

    class Overtaken(Wrapped):
        def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
            yield from list(self.inner.read(partition, start, end, key=key))
            fill(log, 3)
            other.catch_up(0)

    tree = LogTree(Overtaken(log), path)
    assert tree.catch_up(0).size >= 14
    size = tree.catch_up(0).size
    assert tree.root(0, size) == merkle_oracle.mth(definition(log)[:size])
    for handle in (tree, other):
        handle.close()


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = MemoryLog()
    fill(log, 10)
    tree = LogTree(log, tmp_path / "file" / "tree.sqlite")
    tree.catch_up(0)
    assert tree.root(0, 11) == merkle_oracle.mth(definition(log))
    tree.close()


def test_where_nothing_can_be_kept_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(LogTree, "_temporary_path", lambda _: tmp_path / "file" / "tree.sqlite")
    tree = LogTree(MemoryLog(), tmp_path / "file" / "tree.sqlite")
    with pytest.raises(StorageError, match="cannot be kept"):
        tree.catch_up(0)


KILLED = """
import sys
from pathlib import Path
from ctxlog.audit import tree
from ctxlog.log.embedded import EmbeddedLog

tree.BATCH_RECORDS = 5
log = EmbeddedLog(sys.argv[1])
print("ready", flush=True)
tree.LogTree(log, Path(sys.argv[2])).catch_up(0)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path, folder: Path, path: Path) -> None:
    log = ContextLog.open(f"embedded:{folder}")
    context = log.context("s")
    dice, sizes = random.Random(20261125), set()
    for _ in range(10):
        context.append([HI] * 200)
        process = subprocess.Popen([sys.executable, "-c", KILLED, folder, path], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(dice.random() * 0.03)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        copy = tmp_path / "copy.sqlite"  # What a kill left is right as it is, and not only made good by the next run.
        for leftover in ("", "-wal"):
            if path.with_name(path.name + leftover).exists():
                shutil.copy(path.with_name(path.name + leftover), copy.with_name(copy.name + leftover))
        left = LogTree(log.log, copy)
        sizes.add(left.progress(0).size % 201)
        whole = LogTree(log.log, None)
        whole.catch_up(0)
        assert left.root(0, left.progress(0).size) == whole.root(0, left.progress(0).size)
        for each in (left, whole):
            each.close()
        for leftover in copy.parent.glob("copy.sqlite*"):
            leftover.unlink()
    tree = LogTree(log.log, path)
    size = tree.catch_up(0).size
    whole = LogTree(log.log, None)
    assert size == whole.catch_up(0).size
    assert tree.root(0, size) == whole.root(0, size)
    assert len(sizes) > 3, "the kills hit nothing"
    for each in (tree, whole, log):
        each.close()


def test_what_is_kept_is_small(path: Path) -> None:
    log = MemoryLog()
    for _ in range(10):
        fill(log, 2_000)
    tree = LogTree(log, path)
    tree.catch_up(0)
    tree.close()
    assert path.stat().st_size < 20_000 * 36 + 40_000

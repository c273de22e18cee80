"""Signing and verifying a topic: several partitions, offsets with gaps, origins in headers, what others put between."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import merkle_oracle
from cli.conftest import Program
from ctxlog import ContextLog
from ctxlog.audit.heads import HeadFile, sign_head
from ctxlog.audit.notes import SigningKey
from ctxlog.audit.signing import Signed, Signer
from ctxlog.audit.tree import LogTree
from ctxlog.audit.verify import BROKEN, VERIFIED, Seals, VerifyReport, verify
from ctxlog.codec.control import encode_control, head_signed
from ctxlog.codec.partition import PartitionContext
from ctxlog.core.merkle import leaf_data, leaf_hash
from ctxlog.core.proofs import check_inclusion
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import CONTROL_KEY, NewRecord, Record
from ctxlog.replay.copying import copy_log
from strangers import Stranger, Transactions
from writing import Wrapped

KEY = SigningKey("example.org/audit", bytes(range(32)))


@pytest.fixture
def log(kafka: Any) -> Iterator[KafkaLog]:
    """A new log of two partitions."""
    made, _ = KafkaLog.create(kafka.url() + "&cache=off", 2)
    yield made
    made.close()


def fill(log: EventLog, count: int) -> None:
    opened = ContextLog(log)
    for number in range(count):
        opened.context(f"s/{number % 5}").add_message("user", f"text {number}")


def sign(log: EventLog, folder: Path) -> list[Signed]:
    with contextlib.closing(LogTree(log, folder / "tree.sqlite")) as tree:
        signer = Signer(log, tree, KEY, HeadFile(folder / "heads", log.log_id))
        return [found for partition in range(log.partitions) if (found := signer.sign(partition)) is not None]


def check(log: EventLog, folder: Path, *, kept: bool = True) -> VerifyReport:
    outside = HeadFile(folder / "heads", log.log_id).heads([])
    return verify(ContextLog(log), seals=Seals([KEY.verify_key], outside, folder / "tree.sqlite" if kept else None))


class Changed(Wrapped):
    """A log in which one record is another one, or none, for whoever reads it."""

    def __init__(self, log: EventLog, partition: int, offset: int, change: Callable[[Record], Record | None]) -> None:
        super().__init__(log)
        self.where, self.change = (partition, offset), change

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        for record in self.inner.read(partition, start, end, key=key):
            found = self.change(record) if (partition, record.offset) == self.where else record
            if found is not None:
                yield found


def definition(log: EventLog, partition: int, size: int) -> bytes:
    """The root by the naive tree."""
    context, leaves = PartitionContext(partition), []
    for record in log.read(partition, 0, log.bounds(partition).end):
        origin = None if record.origin is None else str(record.origin)
        leaves.append(leaf_data(record.offset, record.recorded_at, origin, context.digest(record)))
        if record.key == CONTROL_KEY:
            context.take(record)
    return merkle_oracle.mth(leaves[:size])


def test_a_topic_is_signed_and_verified_partition_by_partition(log: KafkaLog, tmp_path: Path) -> None:
    fill(log, 30)
    signed = sign(log, tmp_path)
    assert [found.head.partition for found in signed] == [0, 1]
    for found in signed:
        assert found.head.root == definition(log, found.partition, found.head.size)
    report = check(log, tmp_path)
    assert (report.verdict, report.problems) == (VERIFIED, [])
    assert [head.last_offset for head in report.heads] == [found.last_offset for found in signed]
    fill(log, 5)
    assert [found.new for found in sign(log, tmp_path)] == [True, True]
    assert [found.new for found in sign(log, tmp_path)] == [False, False]
    assert check(log, tmp_path, kept=False).verdict == VERIFIED


def test_offsets_with_gaps_are_no_alarm_and_a_change_between_them_is_named(kafka: Any, log: KafkaLog, tmp_path: Path) -> None:
    """Transactions leave markers, and what was aborted leaves offsets that no reader sees: leaf numbers are not offsets."""
    dice, transactions = random.Random(20261125), Transactions(kafka.bootstrap)
    stranger = Stranger(kafka.bootstrap, log.location.topic, log.log_id, log.partitions, 1)
    fill(log, 10)
    for _ in range(6):
        transactions.send(stranger, [stranger.message("s/1", "in a transaction") for _ in range(3)], commit=dice.random() < 0.5)
        fill(log, 5)
    signed = {found.partition: found for found in sign(log, tmp_path)}
    assert check(log, tmp_path).verdict == VERIFIED
    partition = max(signed, key=lambda number: signed[number].last_offset - signed[number].head.size)
    found = signed[partition]
    assert found.last_offset >= found.head.size, "there are gaps"
    records = list(log.read(partition, 0, found.last_offset + 1))
    with contextlib.closing(LogTree(log, tmp_path / "tree.sqlite")) as tree:
        for record in dice.sample(records, 10):
            proof = tree.inclusion(partition, record.offset, found.head.size)
            context = PartitionContext(partition)
            for control in log.read(partition, 0, record.offset, key=CONTROL_KEY):
                context.take(control)
            origin = None if record.origin is None else str(record.origin)
            leaf = leaf_hash(leaf_data(record.offset, record.recorded_at, origin, context.digest(record)))
            check_inclusion(proof, leaf, found.head.root)
    for record in dice.sample([one for one in records if one.key != CONTROL_KEY], 4):
        changes: list[Callable[[Record], Record | None]] = [
            lambda one: one._replace(value=(one.value or b"") + b"x"),
            lambda one: one._replace(recorded_at=one.recorded_at + 1),
            lambda one: one._replace(key=b"s/2" if one.key != b"s/2" else b"s/3"),
            lambda _: None,
        ]
        for change in changes:
            report = check(Changed(log, partition, record.offset, change), tmp_path)
            assert report.verdict == BROKEN
            assert f"record {partition}@{record.offset}" in {problem.where for problem in report.problems}


def test_the_origins_of_a_copy_are_in_the_tree(log: KafkaLog, tmp_path: Path) -> None:
    source = MemoryLog()
    fill(source, 20)
    copy_log(source, log)
    sign(log, tmp_path)
    assert check(log, tmp_path).verdict == VERIFIED
    record = next(one for one in log.read(0, 0, log.bounds(0).end) if one.origin is not None)
    moved = record.origin._replace(recorded_at_ms=record.origin.recorded_at_ms + 1) if record.origin else None
    report = check(Changed(log, 0, record.offset, lambda one: one._replace(origin=moved)), tmp_path)
    assert f"record 0@{record.offset}" in {problem.where for problem in report.problems}


def test_heads_that_others_append_change_nothing(log: KafkaLog, tmp_path: Path) -> None:
    """Who may append may append what looks like a head: without the key it says nothing, and stops nobody."""
    fill(log, 5)
    forger = SigningKey(KEY.name, bytes(32))
    forged = sign_head(log.log_id, 0, 2, bytes(32), [forger], KEY.verify_key)
    log.append([encode_control(0, head_signed(log.log_id, str(forged.note))), NewRecord(0, CONTROL_KEY, b"noise")])
    sign(log, tmp_path)
    report = check(log, tmp_path)
    assert (report.verdict, report.problems) == (VERIFIED, [])


def test_the_commands_sign_and_verify_a_topic(kafka: Any, program: Program) -> None:
    url, keys = kafka.url() + f"&cache={program.folder / 'cache'}", {"CTXLOG_KEYS": "keys"}
    program("init", "--log", url, "--partitions", "3")
    program("append", "refunds/1", "--message", "user", "Please refund order W-204.", "--log", url)
    public = program("keys", "create", "example.org/audit", env=keys).out.strip()
    (program.folder / "heads.txt").write_text(program("sign", "--log", url, env=keys).out)
    found = program("verify", "--log", url, "--head", "heads.txt", "--key", public, env={"CTXLOG_KEYS": "none"})
    assert found.out.startswith("verified")
    assert "partition 2: verified to offset 0 by example.org/audit" in found.out
    assert list((program.folder / "cache").glob("*/tree.sqlite"))
    program("append", "refunds/1", "--message", "user", "Later", "--log", url)
    program("projector", "run", "--once", "--sign", "example.org/audit", "--log", url, env=keys)
    found = program("verify", "--log", url, env=keys)
    assert found.out.startswith("verified")
    assert "unsigned" not in found.err

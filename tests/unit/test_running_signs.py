"""The projector hands what it read to whoever signs, and has it signed now and then and at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ctxlog.errors import LogOpenError, SignedHeadError, StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.records import Record
from ctxlog.projection import running as module
from ctxlog.projection.instance import Instance
from ctxlog.projection.running import Running
from running import run, until, write


class Notary:
    """Signs nothing, and remembers what it was told and asked; fails on demand."""

    def __init__(self) -> None:
        self.records: dict[int, list[Record]] = {}
        self.next_offsets: dict[int, int] = {}
        self.signed: list[tuple[int, int | None]] = []
        self.fail: Callable[[], None] = lambda: None

    def note(self, partition: int, start: int, records: Sequence[Record], next_offset: int) -> None:
        assert start == self.next_offsets.get(partition, 0)
        self.records.setdefault(partition, []).extend(records)
        self.next_offsets[partition] = next_offset

    def sign(self, partition: int, end: int | None = None) -> None:
        self.fail()
        self.signed.append((partition, end))


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(tmp_path / "views")


@pytest.fixture
def memory() -> MemoryLog:
    log = MemoryLog(3)
    write(log, 30)
    return log


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(module, "BACKOFF_SECONDS_MAX", 0.02)


def ends(log: MemoryLog) -> list[tuple[int, int]]:
    return [(partition, log.bounds(partition).end) for partition in range(3)]


def test_whoever_signs_is_told_every_record_once_and_asked_at_the_end(memory: MemoryLog, instance: Instance) -> None:
    notary = Notary()
    assert Running(memory, instance, signer=notary).run(once=True)
    for partition, end in ends(memory):
        assert notary.records[partition] == list(memory.read(partition, 0, end))
    assert notary.signed == ends(memory)


def test_it_is_asked_as_the_projector_goes(memory: MemoryLog, instance: Instance) -> None:
    notary = Notary()
    with run(memory, instance, signer=notary, sign_seconds=0.0):
        until(lambda: set(ends(memory)) <= set(notary.signed))
        write(memory, 5)
        until(lambda: set(ends(memory)) <= set(notary.signed))


def test_it_is_not_asked_more_often_than_was_said(memory: MemoryLog, instance: Instance) -> None:
    notary = Notary()
    with run(memory, instance, signer=notary, sign_seconds=60.0) as running:
        until(lambda: running.running.figures.records == sum(end for _, end in ends(memory)))
        assert notary.signed == []
    assert notary.signed == ends(memory)


def test_what_a_wait_mends_pauses_the_projector(memory: MemoryLog, instance: Instance) -> None:
    notary = Notary()
    failures = [StorageError("the disk is full"), StorageError("the disk is full")]

    def fail() -> None:
        if failures:
            raise failures.pop()

    notary.fail = fail
    with run(memory, instance, signer=notary, sign_seconds=0.0) as running:
        until(lambda: set(ends(memory)) <= set(notary.signed))
    assert [said.partition(":")[0] for said in running.said] == ["paused", "goes on."]


def test_what_is_not_signed_at_the_end_is_said(memory: MemoryLog, instance: Instance) -> None:
    notary = Notary()

    def fail() -> None:
        raise StorageError("the disk is full")

    notary.fail = fail
    said: list[str] = []
    assert Running(memory, instance, signer=notary, tell=said.append).run(once=True)
    assert said == ["not signed: the disk is full The next run signs it."]


def test_a_copy_under_way_is_projected_and_signed_later(memory: MemoryLog, instance: Instance) -> None:
    notary = Notary()

    def fail() -> None:
        raise LogOpenError("a copy is not finished")

    notary.fail = fail
    said: list[str] = []
    running = Running(memory, instance, signer=notary, tell=said.append)
    assert running.run(once=True)
    assert said == ["not signed: a copy is not finished"]
    assert instance.published.exists()


def test_a_log_that_is_not_what_was_signed_ends_the_run(memory: MemoryLog, instance: Instance) -> None:
    notary = Notary()

    def fail() -> None:
        raise SignedHeadError(0, 5, "a file", "others")

    notary.fail = fail
    with pytest.raises(SignedHeadError):
        Running(memory, instance, signer=notary).run(once=True)

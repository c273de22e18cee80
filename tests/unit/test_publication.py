"""A writer uses a schema in a partition only after it has read its publication back, and never one that is not its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ctxlog import ContextLog
from ctxlog.codec.control import Control, encode_control, genesis, schema_published
from ctxlog.codec.schemas import shipped
from ctxlog.errors import IntegrityError, StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import Bounds, OutcomeUnknownError
from ctxlog.log.publication import Publisher
from ctxlog.model.records import CONTROL_KEY, NewRecord, Placed
from ctxlog.replay.reader import LogReader
from writing import ShowsLate, Wrapped, publish, raw

FACT, MESSAGE = "ctxlog.FactSet", "ctxlog.MessageAppended"


def published(log: MemoryLog, partition: int) -> list[str]:
    reader = LogReader(log)
    context = reader.context(partition, log.bounds(partition).end)
    return sorted(one.decoder.schema.name for one in context.published.values())


def controls(log: MemoryLog) -> int:
    return sum(1 for p in range(log.partitions) for _ in log.read(p, 0, log.bounds(p).end, key=CONTROL_KEY))


def test_each_schema_is_published_once_in_each_partition_that_uses_it() -> None:
    log = MemoryLog(3)
    publisher = Publisher(log, LogReader(log))
    publisher.ensure(1, [FACT, MESSAGE, FACT])
    publisher.ensure(1, [FACT])
    publisher.ensure(2, [FACT])
    assert [published(log, partition) for partition in range(3)] == [[], [FACT, MESSAGE], [FACT]]
    assert controls(log) == 3 + 3


def test_what_another_writer_published_is_not_published_again() -> None:
    log = MemoryLog()
    publish(log, "FactSet")
    Publisher(log, LogReader(log)).ensure(0, [FACT])
    assert controls(log) == 2


def test_a_publication_is_read_back_before_anything_uses_it() -> None:
    """A log that shows what was appended late would otherwise get records that no reader can decode."""
    log = ShowsLate(MemoryLog())
    Publisher(log, reader := LogReader(log)).ensure(0, [FACT])
    assert log.bounds(0).end == 2
    assert len(reader.known(0).published) == 1


class NeverShows(Wrapped):
    """A log whose end stays where it is."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.stays = [log.bounds(partition) for partition in range(log.partitions)]

    def bounds(self, partition: int) -> Bounds:
        return self.stays[partition]

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        return end


def test_a_writer_does_not_wait_for_ever_for_what_it_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.log.publication.SHOWN_SECONDS_MAX", 0.0)
    log = NeverShows(MemoryLog())
    with pytest.raises(StorageError, match="partition 0 does not show record 1"):
        Publisher(log, LogReader(log)).ensure(0, [FACT])


def test_a_writer_never_uses_a_fingerprint_that_another_schema_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 64-bit fingerprint can be forged; readers would decode with the schema that came first."""
    log = MemoryLog()
    reader = LogReader(log)
    publish(log, "FactSet")
    other = shipped(MESSAGE)
    context = reader.context(0, log.bounds(0).end)
    (prefix,) = context.published
    from ctxlog.codec.avro import Decoder

    context.published[prefix] = context.published[prefix]._replace(decoder=Decoder(other))
    with pytest.raises(IntegrityError, match="nothing was appended"):
        Publisher(log, reader).ensure(0, [FACT])


@pytest.mark.parametrize(
    "forge",
    [
        lambda data: data | {"fingerprint": "00" * 8},
        lambda data: data | {"digest": "00" * 32},
        lambda data: data | {"name": "ctxlog.Other"},
        lambda data: data | {"log_id": "another"},
        lambda data: {name: value for name, value in data.items() if name != "digest"},
    ],
    ids=["fingerprint", "digest", "name", "log", "member missing"],
)
def test_a_void_publication_is_no_publication(forge: object) -> None:
    log = MemoryLog()
    data = forge(schema_published(log.log_id, shipped(FACT), None).data)  # type: ignore[operator]
    log.append([encode_control(0, Control("SchemaPublished", data))])
    log.append([raw(log, "s", "FactSet", "e")])
    context = ContextLog(log).context("s")
    context.set_fact("k", 1)
    assert [entry.outcome for entry in context.history()] == ["undecodable", "accepted"]


def test_a_record_before_its_schema_is_undecodable_for_ever() -> None:
    log = MemoryLog()
    record = raw(log, "s", "FactSet", "e")
    log.append([record])
    publish(log, "FactSet")
    log.append([record])
    assert [entry.outcome for entry in ContextLog(log).context("s").history()] == ["undecodable", "accepted"]


def test_a_schema_of_another_partition_is_of_no_use() -> None:
    log = MemoryLog(3)
    record = raw(log, "s", "FactSet", "e")
    elsewhere = (record.partition + 1) % 3
    log.append([encode_control(elsewhere, schema_published(log.log_id, shipped(FACT), None)), record])
    assert [entry.outcome for entry in ContextLog(log).context("s").history()] == ["undecodable"]


def test_what_stands_before_the_genesis_is_undecodable() -> None:
    log = MemoryLog()
    first = encode_control(0, schema_published(log.log_id, shipped(FACT), None))
    record = raw(log, "s", "FactSet", "e")
    log._records[0].clear()
    log.append([first, record, encode_control(0, genesis(log.log_id, None, 1)), record])
    publish(log, "FactSet")
    log.append([record])
    assert [entry.outcome for entry in ContextLog(log).context("s").history()] == ["undecodable", "undecodable", "accepted"]


class Fails(Wrapped):
    """Loses the answer of the next append, whatever it is."""

    lose = True

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        placed = self.inner.append(records)
        if self.lose:
            self.lose = False
            raise OutcomeUnknownError("the answer was lost")
        return placed


def test_a_publication_whose_outcome_is_unknown_can_be_tried_again() -> None:
    log = Fails(MemoryLog())
    context = ContextLog(log).context("s")
    with pytest.raises(StorageError, match="Try again"):
        context.set_fact("k", 1)
    context.set_fact("k", 1)
    assert context.version == 1
    assert controls(log.inner) == 2  # type: ignore[arg-type]

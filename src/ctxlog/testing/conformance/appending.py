"""Appending: in order, unchanged, as large as a record may be, and never with a hole in what is promised."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxlog.codec.control import decode_control
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import CONTROL_KEY, MAX_RECORD_BYTES, NewRecord, Origin
from ctxlog.testing.conformance.base import LogCase, everything, numbered, values


class AppendingCase(LogCase):
    """`append`, and what a new log holds."""

    def test_a_new_log_begins_each_partition_with_the_genesis_of_its_id(self, log: EventLog, partitions: int) -> None:
        assert log.partitions == partitions
        for partition in range(partitions):
            (genesis,) = everything(log, partition)
            assert (genesis.key, genesis.offset) == (CONTROL_KEY, 0)
            control = decode_control(genesis.value)
            assert control.kind == "Genesis"
            assert (control.data["log_id"], control.data["partitions"]) == (log.log_id, partitions)

    def test_an_append_says_where_its_records_stand_in_their_order(self, log: EventLog) -> None:
        placed = log.append(numbered(0, range(5)))
        records = everything(log, 0)[1:]
        assert values(records) == [b"value %d" % number for number in range(5)]
        assert [(record.offset, record.recorded_at) for record in records] == [
            (position.offset, recorded_at) for position, recorded_at in placed
        ]
        assert {position.partition for position, _ in placed} == {0}

    def test_offsets_grow_and_the_end_is_above_the_last(self, log: EventLog) -> None:
        """Gaps are normal; going back is not."""
        last = log.bounds(0).end - 1
        for number in range(10):
            for position, _ in log.append(numbered(0, range(number % 3 + 1))):
                assert position.offset > last
                last = position.offset
            assert log.bounds(0).end > last

    def test_an_append_of_nothing_changes_nothing(self, log: EventLog) -> None:
        before = [log.bounds(partition) for partition in range(log.partitions)]
        assert log.append([]) == []
        assert [log.bounds(partition) for partition in range(log.partitions)] == before

    def test_partitions_have_their_own_offsets_and_records(self, log: EventLog, partitions: int) -> None:
        """One append may write to several; the order holds within each."""
        new = [record for number in range(6) for record in numbered(number % partitions, [number], b"key %d" % number)]
        placed = log.append(new)
        assert [position.partition for position, _ in placed] == [record.partition for record in new]
        for partition in range(partitions):
            mine = [record.value for record in new if record.partition == partition]
            assert values(everything(log, partition)[1:]) == mine

    def test_a_record_of_the_largest_size_is_taken(self, log: EventLog) -> None:
        """Key, value and headers together are at most 1 MiB; ctxlog refuses larger ones before the backend sees them."""
        key = b"agent/large"
        value = bytes(range(256)) * 4096
        new = NewRecord(0, key, value[: MAX_RECORD_BYTES - len(key)])
        assert new.size == MAX_RECORD_BYTES
        log.append([new, *numbered(0, [1])])
        assert values(everything(log, 0)[1:]) == [new.value, b"value 1"]

    def test_the_origin_of_a_copied_record_is_carried(self, log: EventLog) -> None:
        origin = Origin("00000000-0000-4000-8000-000000000000", 7, 2**40, 1_760_000_000_000)
        log.append([NewRecord(0, b"s", b"copied", origin), NewRecord(0, b"s", b"not copied")])
        assert [record.origin for record in everything(log, 0)] == [None, origin, None]

    def test_records_without_key_or_value_are_read_as_they_are(self, log: EventLog) -> None:
        """Other producers may write them to a topic; readers must get past them."""
        if not self.holds_nulls:
            pytest.skip("no record without key or value gets into this backend")
        nulls = [NewRecord(0, None, b"v"), NewRecord(0, b"k", None), NewRecord(0, None, None)]  # type: ignore[arg-type]
        log.append([*nulls, *numbered(0, [1])])
        assert [(record.key, record.value) for record in everything(log, 0)[1:4]] == [(None, b"v"), (b"k", None), (None, None)]
        assert set(log.keys(0)) == {CONTROL_KEY, b"k", b"agent/thread"}
        assert len(list(log.read(0, 0, log.bounds(0).end, key=b"k"))) == 1

    def test_threads_that_append_at_once_lose_and_mix_nothing(self, log: EventLog, partitions: int) -> None:
        """The records of each thread keep their order."""
        failures: list[BaseException] = []

        def work(thread: int) -> None:
            try:
                for number in range(0, 24, 2):
                    log.append(numbered((thread + number) % partitions, (number, number + 1), b"thread %d" % thread))
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        for number in range(4):
            mine = [everything(log, partition) for partition in range(partitions)]
            found = sorted(
                int((record.value or b"").split()[1])
                for records in mine
                for record in records
                if record.key == b"thread %d" % number
            )
            assert found == list(range(24))
            for records in mine:
                own = [int((record.value or b"").split()[1]) for record in records if record.key == b"thread %d" % number]
                assert own == sorted(own)

    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(pairs=st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=300)), max_size=8))
    def test_keys_and_values_are_read_byte_for_byte(
        self, tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[bytes, bytes]]
    ) -> None:
        """Whatever the bytes: a log never looks into them."""
        pairs += [(b"\x00", b""), (b"\xff\xfe", b"\x00" * 3), (bytes(range(1, 256)), bytes(range(256)))]
        folder: Path = tmp_path_factory.mktemp("bytes")
        log = self.create_log(folder / "log", 1)
        try:
            log.append([NewRecord(0, key, value) for key, value in pairs])
            assert [(record.key, record.value) for record in everything(log, 0)[1:]] == pairs
            for wanted, _ in pairs:
                by_key = log.read(0, 1, log.bounds(0).end, key=wanted)
                assert values(list(by_key)) == [value for key, value in pairs if key == wanted]
        finally:
            log.close()

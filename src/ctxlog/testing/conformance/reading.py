"""Reading: any range, all records or those of one key, and the keys that there are."""

from __future__ import annotations

import pytest

from ctxlog.log.protocol import EventLog
from ctxlog.model.records import CONTROL_KEY, NewRecord, Record
from ctxlog.testing.conformance.base import LogCase, everything, numbered, values

KEYS = (b"a", b"b", b"a/b", b"A")


class ReadingCase(LogCase):
    """`bounds`, `read` and `keys`."""

    @pytest.fixture
    def records(self, log: EventLog) -> list[Record]:
        """What partition 0 holds: records of several keys, in several appends."""
        for number in range(0, 40, 4):
            log.append([NewRecord(0, KEYS[(number + i) % 3], b"value %d" % (number + i)) for i in range(4)])
        return everything(log, 0)

    def test_a_partition_that_nothing_was_written_to_holds_its_genesis_alone(self, log: EventLog) -> None:
        for partition in range(log.partitions):
            first, end = log.bounds(partition)
            assert first == 0
            assert end > 0
            assert len(everything(log, partition)) == 1

    def test_everything_between_the_bounds_is_read_once_and_in_order(self, log: EventLog, records: list[Record]) -> None:
        assert len(records) == 41
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        assert log.bounds(0).first == offsets[0]
        assert log.bounds(0).end > offsets[-1]
        assert {record.partition for record in records} == {0}

    def test_a_range_holds_its_start_and_not_its_end(self, log: EventLog, records: list[Record]) -> None:
        """Also where it begins or ends in a gap between offsets."""
        for start in range(records[10].offset, records[14].offset + 1):
            for end in range(start, records[16].offset + 1):
                expected = [record for record in records if start <= record.offset < end]
                assert list(log.read(0, start, end)) == expected

    def test_a_range_with_nothing_in_it_is_empty(self, log: EventLog, records: list[Record]) -> None:
        end = log.bounds(0).end
        middle = records[5].offset
        assert list(log.read(0, middle, middle)) == []
        assert list(log.read(0, middle, middle - 1)) == []
        assert list(log.read(0, end, end + 1000)) == []
        assert list(log.read(0, 0, end, key=b"nobody")) == []

    def test_a_range_beyond_the_end_gives_what_there_is(self, log: EventLog, records: list[Record]) -> None:
        assert list(log.read(0, records[-2].offset, log.bounds(0).end + 1000)) == records[-2:]

    @pytest.mark.parametrize("key", KEYS)
    def test_reading_by_key_gives_the_records_of_exactly_this_key(self, log: EventLog, records: list[Record], key: bytes) -> None:
        """Neither those whose key begins with it, nor those that differ in case."""
        assert list(log.read(0, 0, log.bounds(0).end, key=key)) == [record for record in records if record.key == key]
        start, end = records[7].offset, records[30].offset
        within = [record for record in records if record.key == key and start <= record.offset < end]
        assert list(log.read(0, start, end, key=key)) == within

    def test_a_read_from_before_the_first_offset_is_one_from_the_first(self, log: EventLog, records: list[Record]) -> None:
        """And neither gives what lies in another partition, nor changes what later ones give."""
        end = log.bounds(0).end
        assert list(log.read(log.partitions - 1, -1, 0)) == []
        for key in (None, records[0].key):
            wanted = [record for record in records if key in (None, record.key)]
            assert list(log.read(0, -1, 0, key=key)) == []
            assert list(log.read(0, 0, end, key=key)) == wanted
            assert list(log.read(0, -3, end, key=key)) == wanted

    def test_a_key_in_another_partition_is_not_read(self, log: EventLog, records: list[Record]) -> None:
        for partition in range(1, log.partitions):
            log.append([NewRecord(partition, b"a", b"elsewhere")])
            assert values(list(log.read(partition, 0, log.bounds(partition).end, key=b"a"))) == [b"elsewhere"]
        assert everything(log, 0) == records

    def test_each_key_is_named_once_in_the_partitions_that_hold_it(self, log: EventLog, records: list[Record]) -> None:
        assert sorted(log.keys(0)) == sorted({record.key for record in records if record.key is not None})
        for partition in range(1, log.partitions):
            assert list(log.keys(partition)) == [CONTROL_KEY]

    def test_what_was_read_stays_as_it_was_while_the_log_grows(self, log: EventLog, records: list[Record]) -> None:
        end = log.bounds(0).end
        log.append(numbered(0, range(3), b"a"))
        assert list(log.read(0, 0, end)) == records
        assert log.bounds(0).end > end

    def test_many_records_are_read_whole(self, log: EventLog) -> None:
        """More than a backend fetches at once, small and large ones mixed."""
        sizes = [200_000 if number % 50 == 0 else number % 7 for number in range(700)]
        for start in range(0, len(sizes), 100):
            log.append([NewRecord(0, KEYS[size % 2], bytes(size)) for size in sizes[start : start + 100]])
        found = everything(log, 0)[1:]
        assert [len(record.value or b"") for record in found] == sizes
        assert [len(record.value or b"") for record in log.read(0, 0, log.bounds(0).end, key=KEYS[0])] == [
            size for size in sizes if size % 2 == 0
        ]

    def test_two_reads_of_one_handle_do_not_disturb_each_other(self, log: EventLog, records: list[Record]) -> None:
        end = log.bounds(0).end
        pairs = list(zip(log.read(0, 0, end), log.read(0, 0, end), strict=True))
        assert pairs == [(record, record) for record in records]

    def test_a_read_that_is_given_up_holds_nothing_back(self, log: EventLog, records: list[Record]) -> None:
        reading = log.read(0, 0, log.bounds(0).end)
        assert next(reading) == records[0]
        log.append(numbered(0, [99]))
        del reading
        assert everything(log, 0)[-1].value == b"value 99"

"""What the groups of the kit share: how a backend is made, and what it says that it can do.

Nothing here knows a backend. A group asks for the fixture `log` and uses `EventLog` alone, so what passes here may take the place
of any other backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from ctxlog.log.protocol import EventLog
from ctxlog.model.records import NewRecord, Record


class LogCase:
    """Base of all groups. `create_log` must be implemented; the others say what a backend can do beyond the least.

    Attributes:
        holds_nulls: Whether records without key or value can get into the log, as other producers write them to a broker.
    """

    holds_nulls = False

    def create_log(self, folder: Path, partitions: int) -> EventLog:
        """A new log, each partition of which holds its genesis. `folder` is this log's own; it does not exist yet."""
        raise NotImplementedError

    def reopener(self, log: EventLog) -> Callable[[], EventLog] | None:
        """What opens the same log once more; None where nothing outlives the handle.

        It must be picklable, since other processes call it too: `functools.partial(MyLog, path)` is, a lambda is not.
        """
        del log
        return None

    def set_clock(self, log: EventLog, monkeypatch: pytest.MonkeyPatch, time_ms: int) -> bool:
        """Set the clock that gives log time; False where that cannot be done."""
        del log, monkeypatch, time_ms
        return False

    @pytest.fixture(params=[1, 4], ids=["1 partition", "4 partitions"])
    def partitions(self, request: pytest.FixtureRequest) -> int:
        """Number of partitions of the log under test."""
        return int(request.param)

    @pytest.fixture
    def log(self, tmp_path: Path, partitions: int) -> Iterator[EventLog]:
        """A new log; closed in the end."""
        log = self.create_log(tmp_path / "log", partitions)
        yield log
        log.close()

    @pytest.fixture
    def reopen(self, log: EventLog) -> Callable[[], EventLog]:
        """Opens the same log once more, here or in another process; skips where that means nothing."""
        reopener = self.reopener(log)
        if reopener is None:
            pytest.skip("nothing of this backend outlives its handle")
        return reopener


def numbered(partition: int, numbers: Iterable[int], key: bytes = b"agent/thread") -> list[NewRecord]:
    """Records that can be told from each other by their values."""
    return [NewRecord(partition, key, b"value %d" % number) for number in numbers]


def everything(log: EventLog, partition: int) -> list[Record]:
    """All records of a partition, the genesis first."""
    return list(log.read(partition, 0, log.bounds(partition).end))


def values(records: Sequence[Record]) -> list[bytes | None]:
    """Values alone."""
    return [record.value for record in records]

"""Where a point lies in a stream: what a fold, or a walk through the records, has to stop at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, assert_never

from ctxlog.errors import PointError
from ctxlog.model.points import AtCut, AtDecision, AtEvent, AtOccurred, AtOffset, AtTime, AtVersion, Latest, Point
from ctxlog.replay.cuts import Cut, read_cut
from ctxlog.replay.decisions import Reading, version_read

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer


class Limits(NamedTuple):
    """Where a point lies.

    Attributes:
        end: Below this offset; the partition's end where nothing else is said.
        version: Up to this version; None: no such limit.
        time_us: Up to, and without, the first record later than this instant of the log's clock, µs since 1970 UTC; None: no
            such limit.
    """

    end: int
    version: int | None = None
    time_us: int | None = None
    reading: Reading | None = None
    cut: Cut | None = None

    def check(self, stream_id: str, version: int, chain_head: str) -> None:
        """Check where a fold came to, in a stream that has no more.

        Raises:
            PointError: The stream has no such version.
            IntegrityError: The log is not what it was when the point was recorded.
        """
        if self.version is not None and version < self.version:
            raise PointError(f"stream {stream_id!r} is at version {version}; there is no version {self.version}")
        if self.reading is not None:
            self.reading.check(stream_id, chain_head)
        if self.cut is not None:
            self.cut.check(stream_id, version, chain_head)


def limits(replayer: Replayer, stream_id: str, at: Point, end: int) -> Limits:
    """Where a point lies in a stream whose partition ends at `end`.

    Raises:
        PointError: The stream has no such point.
        IntegrityError: The log is not what it was when the point was recorded.
    """
    match at:
        case Latest():
            return Limits(end)
        case AtVersion(number):
            return Limits(end, version=number)
        case AtOffset(offset):
            if offset >= end:
                raise PointError(f"{at}: partition {replayer.reader.partition(stream_id)} ends before offset {end}")
            return Limits(offset + 1)
        case AtTime(instant):
            return Limits(end, time_us=instant)
        case AtOccurred(instant):
            version = 0
            for accepted in replayer.accepted(stream_id, end):
                occurred_at = accepted.event.meta["occurred_at"]
                if occurred_at is not None and occurred_at <= instant:
                    version = accepted.version
            return Limits(end, version=version)
        case AtEvent(event_id):
            for accepted in replayer.accepted(stream_id, end):
                if accepted.event.meta["event_id"] == event_id:
                    return Limits(end, version=accepted.version)
            raise PointError(f"{at}: stream {stream_id!r} has no accepted event with this id")
        case AtDecision(decision_id):
            reading = version_read(replayer, stream_id, decision_id)
            return Limits(end, version=reading.version, reading=reading)
        case AtCut(path):
            cut = read_cut(path, replayer.log.log_id)
            return Limits(end, version=cut.version(stream_id), cut=cut)
        case _:
            assert_never(at)

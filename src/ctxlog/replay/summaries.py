"""What can be said of a stream in a line."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.core.arbitration import Arbiter
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import Rejected

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer


class StreamSummary(NamedTuple):
    """One stream.

    Attributes:
        stream_id, version, chain_head: Where it stands.
        events: Accepted events in the log.
        rejected: Records that do not count.
        open: Records that wait for the rest of their append.
        bytes: Bytes of keys and values of all its records.
        first_at, last_at: Times of its first and last record by the log's clock, ms since 1970 UTC (the origin's in a copy).
    """

    stream_id: str
    version: int
    events: int
    rejected: int
    open: int
    bytes: int
    first_at: int
    last_at: int
    chain_head: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return self._asdict()


def summarize(replayer: Replayer, stream_id: str) -> StreamSummary | None:
    """The summary of a stream; None where the log has no record under its name."""
    arbiter = Arbiter(stream_id)
    rejected = size = 0
    first_at = last_at = None
    for record, event in replayer.reader.records(stream_id, 0, replayer.end(stream_id)):
        if isinstance(event, Rejected):
            rejected += 1
        else:
            rejected += len(arbiter.offer(event).rejected)
        size += len(record.key or b"") + len(record.value or b"")
        first_at = record.time if first_at is None else first_at
        last_at = record.time
    if first_at is None or last_at is None:
        return None
    waiting = sum(len(opened.held) for opened in arbiter.open.values())
    return StreamSummary(
        stream_id, arbiter.version, arbiter.version, rejected, waiting, size, first_at, last_at, arbiter.head.hex()
    )


def matching(log: EventLog, pattern: str = "*") -> list[str]:
    """Names of the streams that match a shell pattern, sorted."""
    found = set()
    for partition in range(log.partitions):
        for key in log.keys(partition):
            try:
                stream_id = key.decode()
            except UnicodeDecodeError:
                continue  # No stream can have such a name: records under it are misplaced.
            if not stream_id.startswith("ctxlog:") and fnmatchcase(stream_id, pattern):
                found.add(stream_id)
    return sorted(found)

"""Going on with a log where an earlier process stopped: is it still the log that was read?

Whoever keeps what a log said keeps with it how far it had come, and the digest of the last record. A log that was truncated,
rewound or replaced has another record there, or none.
"""

from __future__ import annotations

from ctxlog.core.digests import prefixed, sha256
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import Record

BACK_SECONDS_MAX = 5.0
"""How long a log may show less than was read of it: a leader that has just been elected may, for a moment."""


def digest_of(record: Record) -> bytes:
    """By which a record is known again: key, value, offset and times."""
    times = f"{record.offset} {record.recorded_at} {record.origin or ''}".encode()
    return sha256(prefixed(record.key) + prefixed(record.value) + times).digest()


def is_same(log: EventLog, partition: int, *, next_offset: int, last_offset: int, last_digest: bytes) -> bool:
    """Whether a partition still is what was read of it up to `next_offset`, by the last record below that.

    Args:
        log: The log.
        partition: The partition.
        next_offset: Everything below it was read.
        last_offset: Offset of the last record that was read; -1 where there was none.
        last_digest: Its `digest_of`.
    """
    if next_offset == 0:
        return True
    end = log.bounds(partition).end
    if end < next_offset:
        end = log.wait(partition, next_offset - 1, BACK_SECONDS_MAX)
    if end < next_offset:
        return False
    if last_offset < 0:
        return True
    found = next(log.read(partition, last_offset, last_offset + 1), None)
    return found is not None and digest_of(found) == last_digest

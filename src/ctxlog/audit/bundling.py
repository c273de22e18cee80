"""Make an evidence bundle: the records that an audit looks into, each with its proof, and the audit once more over these alone.

    report of the audit      the streams that it looked into, with those that they were forked from
      -> their records, and what each partition says about itself, up to the newest signed heads
      -> a proof for each; the audit again, over a log of these records

So a bundle is checked (`audit.bundled`) as a log is, by the same code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ctxlog.audit.auditing import About, audited
from ctxlog.audit.bundle import Bundle, BundledRecord, write_bundle
from ctxlog.audit.bundle_readme import readme
from ctxlog.audit.heads import FoundHead, Head, heads_in_log, is_head
from ctxlog.audit.trail import happened
from ctxlog.audit.tree import LogTree
from ctxlog.codec.control import decode_control
from ctxlog.codec.schemas import CONTROL_NAME, shipped
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import IntegrityError, InvalidInputError, PointError, UndecodableError, UnsignedError
from ctxlog.log.protocol import Bounds, EventLog
from ctxlog.model.records import CONTROL_KEY, NewRecord, Placed, Record
from ctxlog.replay.lineages import lineage
from ctxlog.replay.replayer import Replayer


class BundleLog:
    """A log that has the records of a bundle and no others: with gaps, as offsets on Kafka have them. It takes no more.

    Args:
        bundle: What was read; nothing of it is checked here.
    """

    def __init__(self, log_id: str, partitions: int, ends: dict[int, int], records: Iterable[Record]) -> None:
        self.url = "bundle:"
        self.log_id = log_id
        self.partitions = partitions
        self._ends = ends
        self._records: list[list[Record]] = [[] for _ in range(partitions)]
        for record in records:
            self._records[record.partition].append(record)

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        """Refuses. See `EventLog.append`."""
        del records
        raise InvalidInputError("a bundle takes no records; nothing was appended")

    def bounds(self, partition: int) -> Bounds:
        """See `EventLog.bounds`."""
        records = self._records[partition]
        return Bounds(0, max(self._ends.get(partition, 0), records[-1].offset + 1 if records else 0))

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        """See `EventLog.read`."""
        return (
            record for record in self._records[partition] if start <= record.offset < end and (key is None or record.key == key)
        )

    def offset_at(self, partition: int, time_ms: int) -> int:
        """See `EventLog.offset_at`."""
        late = (record.offset for record in self._records[partition] if record.recorded_at >= time_ms)
        return next(late, self.bounds(partition).end)

    def keys(self, partition: int) -> Iterator[bytes]:
        """See `EventLog.keys`."""
        return iter(dict.fromkeys(record.key for record in self._records[partition] if record.key is not None))

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        """See `EventLog.wait`: nothing comes."""
        del end, timeout_seconds
        return self.bounds(partition).end

    def close(self) -> None:
        """See `EventLog.close`."""


class _UpTo:
    """A log as it was when its heads were signed."""

    def __init__(self, log: EventLog, ends: dict[int, int]) -> None:
        self._log, self._ends = log, ends
        self.url, self.log_id, self.partitions = log.url, log.log_id, log.partitions

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        del records
        raise InvalidInputError("the past takes no records; nothing was appended")

    def bounds(self, partition: int) -> Bounds:
        return Bounds(self._log.bounds(partition).first, self._ends[partition])

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        return self._log.read(partition, start, min(end, self._ends[partition]), key=key)

    def offset_at(self, partition: int, time_ms: int) -> int:
        return min(self._log.offset_at(partition, time_ms), self._ends[partition])

    def keys(self, partition: int) -> Iterator[bytes]:
        return self._log.keys(partition)

    def wait(self, partition: int, end: int, timeout_seconds: float) -> int:
        del end, timeout_seconds
        return self._ends[partition]

    def close(self) -> None:
        """The log stays open."""


def make_bundle(log: EventLog, tree: LogTree, heads: Sequence[FoundHead], about: About, path: Path) -> Bundle:
    """Write a bundle.

    Args:
        log: The log.
        tree: Its trees.
        heads: Signed heads that were kept outside the log; those in it are found. Nobody's trust in them is asked for here.
        about: What it is about.
        path: The file.

    Raises:
        UnsignedError: A partition has no signed head, or the decision stands behind it.
        PointError: No such decision or version is in the log.
        IntegrityError: The log cannot be read.
        StorageError: The file cannot be written.
    """
    chosen = {partition: _newest(log, tree, heads, partition) for partition in range(log.partitions)}
    ends = {partition: tree.offset_of(partition, head.size - 1) + 1 for partition, head in chosen.items()}
    past = _UpTo(log, ends)
    try:
        report = audited(past, about)
    except PointError:
        audited(log, about)
        raise UnsignedError(
            f"{about}: it stands behind the newest signed head; nothing was written. Run `ctxlog sign` first."
        ) from None
    streams = _with_ancestors(Replayer(past), report.streams)
    versions = versions_of(past, streams)
    records = [
        BundledRecord(
            record,
            tree.inclusion(partition, record.offset, chosen[partition].size),
            versions.get((partition, record.offset)),
        )
        for partition in range(log.partitions)
        for record in _wanted(past, partition, streams)
    ]
    bundled = BundleLog(log.log_id, log.partitions, ends, (one.record for one in records))
    again = audited(bundled, about)
    if [check for check in again.checks if not check.ok] != [check for check in report.checks if not check.ok]:
        raise IntegrityError(
            f"{about}: expected the audit of the bundle to find what that of the log found, found {again.verdict!r}; "
            "nothing was written."
        )
    schemas = dict(schemas_of(one.record for one in records))
    bundle = Bundle(about, log.log_id, log.partitions, ends, chosen, records, schemas, again.to_dict())
    write_bundle(bundle, readme(str(about), log.log_id, len(records)), path)
    return bundle


def versions_of(log: EventLog, keys: Iterable[bytes]) -> dict[tuple[int, int], int]:
    """The versions that records of some streams made, by partition and offset."""
    replayer, found = Replayer(log), dict[tuple[int, int], int]()
    for key in keys:
        for one in happened(replayer, key.decode()):
            found[one.accepted.event.partition, one.accepted.event.offset] = one.version
    return found


def _newest(log: EventLog, tree: LogTree, outside: Sequence[FoundHead], partition: int) -> Head:
    """The newest head of a partition that agrees with its tree."""
    end = log.bounds(partition).end
    size = tree.catch_up(partition, end).size
    found = [one.head for one in (*heads_in_log(log, partition, 0, end, []), *outside)]
    fitting = [head for head in found if (head.log_id, head.partition) == (log.log_id, partition) and 0 < head.size <= size]
    for head in sorted(fitting, key=lambda head: head.size, reverse=True):
        if tree.root(partition, head.size) == head.root:
            return head
    found_text = "one that the log does not agree with; `ctxlog verify` says more" if fitting else "none"
    raise UnsignedError(
        f"partition {partition}: expected a signed head, found {found_text}; nothing was written. `ctxlog sign` makes one."
    )


def _with_ancestors(replayer: Replayer, streams: Iterable[str]) -> set[bytes]:
    found: set[str] = set()
    for stream_id in streams:
        found.add(stream_id)
        found.update(name for name, _ in lineage(replayer, stream_id, 1))
    return {stream_id.encode() for stream_id in found}


def _wanted(log: EventLog, partition: int, keys: set[bytes]) -> Iterator[Record]:
    """What a partition says about itself, but for its heads, and the records of the streams that belong to it; in their order."""
    found = [record for record in log.read(partition, 0, log.bounds(partition).end, key=CONTROL_KEY) if not is_head(record)]
    for key in sorted(keys):
        if partition_of(key, log.partitions) == partition:
            found += log.read(partition, 0, log.bounds(partition).end, key=key)
    return iter(sorted(found, key=lambda record: record.offset))


def schemas_of(records: Iterable[Record]) -> Iterator[tuple[str, str]]:
    """The schemas by the name of their file: that of control records, and those that the log published."""
    yield f"schemas/{shipped(CONTROL_NAME).fingerprint}.avsc", shipped(CONTROL_NAME).text
    for record in records:
        if record.key == CONTROL_KEY:
            try:
                control = decode_control(record.value)
            except UndecodableError:
                continue
            fingerprint = control.data.get("fingerprint", "")
            if control.kind == "SchemaPublished" and fingerprint.isalnum():
                yield f"schemas/{fingerprint}.avsc", control.data["schema"]

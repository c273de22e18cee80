"""Copy a log into an empty one: the same bytes in the same order a stream, each with the origin of its first log.

    source partition by partition -> records that every reader can decode -> target partition by key, schemas before their use

So states, versions and chain heads are equal, and questions of time are answered by the origin's time. A copy that was stopped
goes on where it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from ctxlog.codec.control import copy_finished, copy_started, encode_control, schema_published
from ctxlog.codec.framing import registry_id_of, unframe
from ctxlog.codec.partition import PartitionContext
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import LogOpenError
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import CONTROL_KEY, NewRecord, Origin, Record, Rejected
from ctxlog.replay.reader import LogReader

BATCH_RECORDS = 2_000
BATCH_BYTES = 8 * 1024 * 1024
"""What one append of a copy holds: large enough that waiting for the disk does not count, small beside memory."""


class CopyReport(NamedTuple):
    """What a copy did.

    Attributes:
        log_id: The target's id.
        outcome: `copied`, `resumed` (an earlier run had begun), or `finished before` (there was nothing left to do).
        records: Events that the target holds now.
        copied: Events that this run added.
        undecodable, misplaced: Records of the source that stayed behind.
    """

    log_id: str
    outcome: str
    records: int
    copied: int
    undecodable: int
    misplaced: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return self._asdict()


def copy_log(source: EventLog, target: EventLog, *, progress: Callable[[int, int], None] | None = None) -> CopyReport:
    """Copy `source` into `target`, which is empty or holds an unfinished copy of it.

    Args:
        source: The log to copy, up to its end as it is when the copy begins.
        target: Where to; any number of partitions.
        progress: Called with records read so far and in all.

    Raises:
        LogOpenError: The target holds something else; nothing was changed.
    """
    return _Copy(source, target, progress).run()


class _Copy:
    """One run of a copy."""

    def __init__(self, source: EventLog, target: EventLog, progress: Callable[[int, int], None] | None) -> None:
        self.source, self.target = source, target
        self.reader, self.writer = LogReader(source), LogReader(target)
        self.progress = progress or (lambda _done, _total: None)
        self.ends = {partition: source.bounds(partition).end for partition in range(source.partitions)}
        # Events that are there, by partition of the target and of the source. Each such pair is always filled in the same
        # order, so a count says how far it has come, even where the source grew since.
        self.there: Counter[tuple[int, int]] = Counter()
        self.batch: list[NewRecord] = []
        self.batch_bytes = 0
        self.copied = self.records = self.undecodable = self.misplaced = 0

    def run(self) -> CopyReport:
        """Begin, copy, finish."""
        for partition in self.ends:
            self.reader.check_horizon(partition)
        outcome = self._begin()
        if outcome != "finished before":
            done, total = 0, sum(self.ends.values())
            for partition, end in self.ends.items():
                context = self.reader.context(partition, end)
                for record in self.source.read(partition, 0, end):
                    self._take(context, record)
                    done += 1
                    if done % BATCH_RECORDS == 0:
                        self.progress(done, total)
            self._flush()
            self._finish()
            self.progress(total, total)
        return CopyReport(self.target.log_id, outcome, self.records, self.copied, self.undecodable, self.misplaced)

    def _begin(self) -> str:
        """Check the target, mark it as a copy, and see how far it has come."""
        if self.source.log_id == self.target.log_id:
            raise LogOpenError("source and target are the same log; nothing was copied")
        contexts = [self._context(partition) for partition in range(self.target.partitions)]
        for context in contexts:
            end = self.target.bounds(context.partition).end
            first = context.genesis_offset + 1
            if context.copied_from is None and next(self.target.read(context.partition, first, end), None) is not None:
                raise LogOpenError(
                    f"{self.target.url}: partition {context.partition} is not empty; nothing was copied. Copy into a new log."
                )
            if context.copied_from not in (None, self.source.log_id):
                raise LogOpenError(
                    f"{self.target.url}: holds a copy of log {context.copied_from}, not of {self.source.log_id}; "
                    "nothing was copied. Copy into a new log."
                )
            for record in self.target.read(context.partition, 0, end):
                if record.key != CONTROL_KEY:
                    self.there[context.partition, self._source_partition(record)] += 1
        self.records = sum(self.there.values())
        if not any(context.copied_from is None or context.copying for context in contexts):
            return "finished before"
        fresh = [context.partition for context in contexts if context.copied_from is None]
        started = copy_started(self.target.log_id, self.source.log_id)
        if fresh:
            self.target.append([encode_control(partition, started) for partition in fresh])
        return "copied" if len(fresh) == len(contexts) else "resumed"

    def _source_partition(self, record: Record) -> int:
        return partition_of(record.key or b"", self.source.partitions)

    def _take(self, context: PartitionContext, record: Record) -> None:
        """Copy one record of the source, unless it is the log's own, stays behind, or is there already."""
        if record.key is None or record.value is None or record.key == CONTROL_KEY:
            self.undecodable += record.key != CONTROL_KEY
            return
        event = context.decode(record)
        if isinstance(event, Rejected):
            if event.reason == "undecodable":
                self.undecodable += 1
            else:
                self.misplaced += 1
            return
        partition = partition_of(record.key, self.target.partitions)
        pair = (partition, context.partition)
        if self.there[pair]:
            self.there[pair] -= 1
            return
        self._publish(partition, context, record.value)
        origin = record.origin or Origin(self.source.log_id, record.partition, record.offset, record.recorded_at)
        self.batch.append(NewRecord(partition, record.key, record.value, origin))
        self.batch_bytes += len(record.value)
        self.copied += 1
        self.records += 1
        if len(self.batch) >= BATCH_RECORDS or self.batch_bytes >= BATCH_BYTES:
            self._flush()

    def _publish(self, partition: int, context: PartitionContext, value: bytes) -> None:
        """Carry a schema over before its first use in a partition of the target."""
        prefix, _ = unframe(value)
        if prefix in self.writer.known(partition).published:
            return
        self._flush()
        schema, registry_id = context.published[prefix].decoder.schema, registry_id_of(prefix)
        self.target.append([encode_control(partition, schema_published(self.target.log_id, schema, registry_id))])
        self._context(partition)

    def _flush(self) -> None:
        if self.batch:
            self.target.append(self.batch)
        self.batch, self.batch_bytes = [], 0

    def _finish(self) -> None:
        """End the copy in every partition, with what stayed behind."""
        ended = copy_finished(self.target.log_id, self.source.log_id, undecodable=self.undecodable, misplaced=self.misplaced)
        open_partitions = [partition for partition in range(self.target.partitions) if self._context(partition).copying]
        self.target.append([encode_control(partition, ended) for partition in open_partitions])

    def _context(self, partition: int) -> PartitionContext:
        return self.writer.context(partition, self.target.bounds(partition).end)

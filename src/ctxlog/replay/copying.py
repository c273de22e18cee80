"""Copy a log into an empty one: the same bytes in the same order a stream, each with the origin of its first log.

    source partition by partition -> records that every reader can decode -> target partition by key, schemas before their use

So states, versions and chain heads are equal, and questions of time are answered by the origin's time. A copy that was stopped
goes on after the last record that is there. Whatever would make the target something else than a copy stops it: another writer
who came first, a name of a schema that means another one there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ctxlog.codec.control import Control, copy_finished, copy_started, encode_control, schema_published
from ctxlog.codec.framing import registry_id_of, unframe
from ctxlog.codec.partition import PartitionContext
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import IntegrityError, LogBusyError, LogOpenError
from ctxlog.log.protocol import EventLog
from ctxlog.log.publication import wait_until_shown
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
        records: Copied events that the target holds now.
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
        LogOpenError: The target holds something else, or got it before the copy could start; no record was copied.
        LogBusyError: Another run copies into the target at the same time.
        IntegrityError: A record's schema has another meaning in the target, or the target holds a copied record that the source
            does not have, or the copy ended in a partition before it was complete; the copy was stopped there.
    """
    return _Copy(source, target, progress).run()


class _Copy:
    """One run of a copy."""

    def __init__(self, source: EventLog, target: EventLog, progress: Callable[[int, int], None] | None) -> None:
        self.source, self.target = source, target
        self.reader, self.writer = LogReader(source), LogReader(target)
        self.progress = progress or (lambda _done, _total: None)
        self.ends = {partition: source.bounds(partition).end for partition in range(source.partitions)}
        # The origin of the last copied record that is there, by partition of the target and of the source. Each such pair is
        # always filled in the same order, so all before it is there too, whoever else wrote, and also where the source grew.
        self.last: dict[tuple[int, int], Origin] = {}
        # By partition of the target: below this offset all copied records were there when this run began, or are its own.
        self.seen: dict[int, int] = {}
        # Partitions of the target in which the copy had ended when this run began, and the last record of this run in the others.
        self.ended: set[int] = set()
        self.placed: dict[int, int] = {}
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
                self._check_found(partition)
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
                origin = context.believed(record).origin
                if record.key not in (None, CONTROL_KEY) and origin is not None:
                    self.last[context.partition, self._source_partition(record)] = origin
                    self.records += 1
            self.seen[context.partition] = end
        if not any(context.copied_from is None or context.copying for context in contexts):
            return "finished before"
        self.ended = {context.partition for context in contexts if context.copied_from is not None and not context.copying}
        fresh = [context.partition for context in contexts if context.copied_from is None]
        self._write(fresh, copy_started(self.target.log_id, self.source.log_id))
        for partition in fresh:
            # Between the look above and this record, someone else may have written; it is void then, and this would be no copy.
            if self.writer.known(partition).copied_from != self.source.log_id:
                raise LogOpenError(
                    f"{self.target.url}: someone else wrote to partition {partition} before the copy could start there; "
                    "no record was copied. Copy into a new log."
                )
        return "copied" if len(fresh) == len(contexts) else "resumed"

    def _source_partition(self, record: Record) -> int:
        return partition_of(record.key or b"", self.source.partitions)

    def _take(self, context: PartitionContext, record: Record) -> None:
        """Copy one record of the source, unless it is the log's own, stays behind, or is there already."""
        if record.key == CONTROL_KEY:
            return
        event = context.decode(record)
        if isinstance(event, Rejected) or record.key is None or record.value is None:
            if isinstance(event, Rejected) and event.reason == "misplaced":
                self.misplaced += 1
            else:
                self.undecodable += 1
            return
        partition = partition_of(record.key, self.target.partitions)
        pair = (partition, context.partition)
        origin = context.believed(record).origin or Origin(
            self.source.log_id, record.partition, record.offset, record.recorded_at
        )
        if pair in self.last:
            if self.last[pair] == origin:
                del self.last[pair]
            return
        if partition in self.ended:
            raise self._ended_early(partition)
        self._publish(partition, context, record, record.value)
        self.batch.append(NewRecord(partition, record.key, record.value, origin))
        self.batch_bytes += len(record.value)
        self.copied += 1
        self.records += 1
        if len(self.batch) >= BATCH_RECORDS or self.batch_bytes >= BATCH_BYTES:
            self._flush()

    def _check_found(self, source_partition: int) -> None:
        """See that each record to go on after was found in a partition of the source, now that all of it was read."""
        for (partition, of_source), origin in self.last.items():
            if of_source == source_partition:
                raise IntegrityError(
                    f"{self.target.url}: partition {partition} holds a copied record (origin {origin}) that the source does not "
                    "have; the copy was stopped. Copy into a new log, to which nobody else writes."
                )

    def _publish(self, partition: int, context: PartitionContext, record: Record, value: bytes) -> None:
        """Carry a record's schema over before its first use in a partition of the target."""
        prefix, _ = unframe(value)
        schema = context.published[prefix].decoder.schema
        held = self.writer.known(partition).published
        if prefix not in held:
            self._flush()
            self._write([partition], schema_published(self.target.log_id, schema, registry_id_of(prefix)))
        # An id of a registry, or a forged fingerprint, may name one schema here and another one in the source's partition.
        if prefix not in held or held[prefix].decoder.schema.digest != schema.digest:
            raise IntegrityError(
                f"{self.target.url}: partition {partition} has another schema where the source's partition {context.partition} "
                f"has {schema.name}, and record {record.partition}@{record.offset} of the source would mean something else; the "
                f"copy was stopped. Copy into a new log of {self.source.partitions} partitions, to which nobody else writes."
            )

    def _flush(self) -> None:
        """Append what is due, and see before and after that nobody else copies."""
        batch, self.batch, self.batch_bytes = self.batch, [], 0
        for partition in {record.partition for record in batch}:
            self._check_alone(partition, self.target.bounds(partition).end)
        positions = [placed.position for placed in self.target.append(batch)] if batch else []
        for partition, first in dict(reversed(positions)).items():
            self._check_alone(partition, first)
        self.seen.update((partition, offset + 1) for partition, offset in positions)
        self.placed.update(positions)

    def _check_alone(self, partition: int, end: int) -> None:
        """See that nobody else copied into a partition since this run looked there, up to `end`."""
        if any(record.origin for record in self.target.read(partition, self.seen[partition], end)):
            # Records come twice then. Arbitration forgets ids in the end, and would take one that comes much later again.
            raise LogBusyError(
                f"{self.target.url}: another run copies into partition {partition} too; this one was stopped, and what it copied "
                "stays. Let one run end, and then run it again."
            )
        self.seen[partition] = max(end, self.seen[partition])

    def _finish(self) -> None:
        """End the copy in every partition, with what stayed behind."""
        ended = copy_finished(self.target.log_id, self.source.log_id, undecodable=self.undecodable, misplaced=self.misplaced)
        contexts = [self._context(partition) for partition in range(self.target.partitions)]
        for context in contexts:
            if context.copy_finished_at < self.placed.get(context.partition, -1):
                raise self._ended_early(context.partition)
        self._write([context.partition for context in contexts if context.copying], ended)

    def _ended_early(self, partition: int) -> IntegrityError:
        """The error where a record would stand, or stands, behind the end of the copy, and would have no origin there."""
        return IntegrityError(
            f"{self.target.url}: the copy has ended in partition {partition}, and records of the source are missing there: "
            "somebody else ended it, or the source grew while it was being ended; this run was stopped. Copy into a new log, to "
            "which nobody else writes."
        )

    def _write(self, partitions: Sequence[int], control: Control) -> None:
        """Append a control record to partitions, and read it back."""
        for placed in self.target.append([encode_control(partition, control) for partition in partitions]):
            partition, offset = placed.position
            self.writer.context(partition, wait_until_shown(self.target, partition, offset))

    def _context(self, partition: int) -> PartitionContext:
        return self.writer.context(partition, self.target.bounds(partition).end)

"""Check published views against the log: every row, and every state that they give, worked out from the records again.

Nothing that the file says is believed, its coverage least of all: a row that was altered, lost or doubled is found and named by
stream and version, and so is a view or a macro that was written anew. What only a clock said (when rows were applied, when
the file was published, where a partition ended then) cannot be told from the log, and is not judged.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ctxlog.audit.expected import ExpectedStream, Row, control_row, differing, micros, refused_row
from ctxlog.audit.verify import Problem
from ctxlog.codec.partition import PartitionContext
from ctxlog.core.digests import state_digest
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import LineageError, NewerEventError
from ctxlog.log.protocol import EventLog
from ctxlog.log.resuming import is_same
from ctxlog.model.points import AtVersion
from ctxlog.model.records import CONTROL_KEY, Rejected
from ctxlog.projection.inspected import Covered, Published
from ctxlog.replay.replayer import Replayer

AGREE = "views agree with the log"
DIFFER = "views differ from the log"
NOTHING = "nothing was compared"

STREAMS_AT_ONCE = 100
"""Streams whose rows are asked for together: DuckDB has no index, so that each question reads the columns that it is about."""

_SHOWN = frozenset({
    "partition", "record_offset", "outcome", "version", "chain_head", "decided_offset", "anomaly", "type", "bytes", "records",
    "rejected", "open", "effect_offset", "closed", "parent_version", "parent_chain_head", "newer",
})  # fmt: skip
"""Columns whose values a report may quote; others may hold what people said."""


class ViewsReport(NamedTuple):
    """What was compared of one published file, and what differs.

    Attributes:
        path: The file.
        log_id: The log.
        coverage: Partition -> next offset: the records below it were compared.
        streams, records: Numbers of those that were compared.
        problems: Everything that differs.
        notes: What a reader should know and is no fault of the views.
        not_compared: Schemas of what people added, of which the log says nothing.
        compared: Whether there was anything to compare.
    """

    path: str
    log_id: str
    coverage: dict[int, int]
    streams: int
    records: int
    problems: list[Problem]
    notes: list[str]
    not_compared: list[str]
    compared: bool

    @property
    def verdict(self) -> str:
        """`views agree with the log`, `views differ from the log`, or `nothing was compared`."""
        return DIFFER if self.problems else AGREE if self.compared else NOTHING

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        coverage = {str(partition): offset for partition, offset in self.coverage.items()}
        problems = [problem._asdict() for problem in self.problems]
        return {**self._asdict(), "coverage": coverage, "verdict": self.verdict, "problems": problems}


def verify_views(
    log: EventLog,
    path: Path,
    pattern: str = "*",
    *,
    sample: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ViewsReport:
    """Compare a published file with the log.

    Args:
        log: The log.
        path: The file.
        pattern: Shell pattern of the streams to compare.
        sample: Compare so many of them, drawn by `seed`; all where not given.
        seed: Of the draw: the same seed draws the same streams of the same log.
        progress: Called with streams done and in all.

    Raises:
        ViewsError: The file cannot be read, or is of another version.
    """
    published = Published(path)
    try:
        return _Comparison(log, published, pattern, sample, seed, progress or (lambda _done, _total: None)).run()
    finally:
        published.close()


class _Comparison:
    """One comparison."""

    def __init__(
        self,
        log: EventLog,
        published: Published,
        pattern: str,
        sample: int | None,
        seed: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self.log = log
        self.published = published
        self.pattern = pattern
        self.sample = sample
        self.seed = seed
        self.progress = progress
        self.replayer: Replayer
        self.ends: dict[int, int] = {}
        self.streams = self.records = 0
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.not_compared: list[str] = []

    @property
    def whole(self) -> bool:
        """Whether everything that the file holds is compared, also what is of no stream."""
        return self.sample is None and self.pattern == "*"

    def run(self) -> ViewsReport:
        """Whose views they are, how far they are, what they are made of; then the rows, and the states that these amount to."""
        theirs, ours = (self.published.log_id, self.published.partitions), (self.log.log_id, self.log.partitions)
        if theirs != ours:
            self._problem("log", f"{ours[0]} ({ours[1]} partitions)", f"views of {theirs[0]} ({theirs[1]} partitions)")
        else:
            self.replayer = Replayer(self.log)
            for name in self.published.altered():
                self._problem(f"view {name}", "as this release makes it", "another definition, or none")
            self._added()
            self._coverage()
            stream_ids = self._chosen(self._partitions())
            self.streams = len(stream_ids)
            rows_of: dict[str, list[Row]] = {}
            for row in self.published.streams():
                rows_of.setdefault(row["stream_id"], []).append(row)
            done = 0
            for some in _portions(stream_ids, STREAMS_AT_ONCE):
                self._streams(some, rows_of)
                done += len(some)
                self.progress(done, len(stream_ids))
            if self.whole:
                self._extra(rows_of.keys() - set(stream_ids))
        compared = any(self.ends.values()) and (self.streams > 0 or self.pattern == "*")
        return ViewsReport(
            str(self.published.path), self.log.log_id, self.ends, self.streams, self.records, self.problems, self.notes,
            self.not_compared, compared
        )  # fmt: skip

    def _problem(self, where: str, expected: object, found: object) -> None:
        self.problems.append(Problem(where, str(expected), str(found)))

    def _added(self) -> None:
        """What people added: the log does not say what it should be."""
        for added in self.published.added():
            self.not_compared.append(added.schema)
            for name in added.altered:
                self._problem(f"view {name}", "as the SQL in projection.custom makes it", "another definition, or none")
            where = f"schema {added.schema!r} has what this release does not make"
            if added.tables or added.version is None:
                counted = f"tables: {added.tables}, views and macros: {added.views}"
                self.notes.append(f"{where} ({counted}); it was not compared with the log")
            elif not added.altered:
                by = f"it is as the SQL in projection.custom makes it, whose SHA-256 begins with {added.version}"
                self.notes.append(f"{where}; {by}. Compare that with your file")

    def _coverage(self) -> None:
        """How far each partition was projected, and that the log still is what was projected."""
        coverage = self.published.coverage()
        for partition, times in Counter(covered.partition for covered in coverage).items():
            if times > 1 or not 0 <= partition < self.log.partitions:
                self._problem(f"coverage of partition {partition}", "one row, of a partition of the log", f"{times}")
        for covered in coverage:
            if covered.partition in self.ends or not 0 <= covered.partition < self.log.partitions:
                continue
            self._covered(covered)
        missing = sorted(set(range(self.log.partitions)) - self.ends.keys())
        if missing:
            self.notes.append(f"not in these views: partition {', '.join(map(str, missing))}")

    def _covered(self, covered: Covered) -> None:
        partition, where = covered.partition, f"coverage of partition {covered.partition}"
        end = self.log.bounds(partition).end
        same = is_same(
            self.log, partition, next_offset=covered.next_offset, last_offset=covered.last_offset, last_digest=covered.last_digest
        )
        end = max(end, self.log.bounds(partition).end)
        self.ends[partition] = min(covered.next_offset, end)
        if covered.next_offset > end:
            self._problem(where, f"at most offset {end}, where the log ends", f"offset {covered.next_offset}")
        elif not same:
            self._problem(where, f"record {partition}@{covered.last_offset} as it was projected", "another one, or none")
        else:
            context = self.replayer.reader.context(partition, covered.next_offset)
            rest = list(islice(self.log.read(partition, max(covered.last_offset, 0), covered.next_offset), 2))
            if rest and rest[-1].offset != covered.last_offset:
                self._problem(where, f"no record behind {partition}@{covered.last_offset}", f"{partition}@{rest[-1].offset}")
            elif rest and micros(context.believed(rest[-1]).time * 1000) != covered.last_at:
                self._problem(where, "the time of its last record", "another time")
        if covered.next_offset < end:
            behind = f"offset {covered.next_offset} of {end}"
            self.notes.append(f"partition {partition} is projected up to {behind}; what lies behind was not compared")

    def _partitions(self) -> dict[str, int]:
        """The streams with their numbers of records; and, where everything is compared, the records that are of no stream."""
        found: Counter[str] = Counter()
        for partition, end in self.ends.items():
            context, controls = PartitionContext(partition), []
            strays: dict[int, Row] = {}
            for record in self.log.read(partition, 0, end, key=None if self.whole else CONTROL_KEY):
                if record.key == CONTROL_KEY:
                    controls.append((record.offset, record.recorded_at, record.key, record.value))
                    strays[record.offset] = control_row(context, record)
                    continue
                stream_id = _text_of(record.key)
                if stream_id is not None and partition_of(record.key or b"", self.log.partitions) == partition:
                    found[stream_id] += 1
                    continue
                decoded = context.decode(record)
                assert isinstance(decoded, Rejected)  # noqa: S101 - a record under another key is misplaced
                strays[record.offset] = refused_row(context.believed(record), stream_id, decoded)
            if self.published.controls(partition) != controls:
                self._problem(f"partition {partition}", f"its {len(controls)} control records", "others in projection.controls")
            self.records += len(strays)
            rows = self.published.events_at(partition, sorted(strays))
            self._compare(strays, rows, partial("record {}@{}".format, partition))
        if not self.whole:
            from ctxlog.replay.summaries import matching

            found.update(dict.fromkeys(matching(self.log, self.pattern), 0))
        return found

    def _chosen(self, found: dict[str, int]) -> list[str]:
        partition = self.replayer.reader.partition
        stream_ids = sorted(name for name in found if fnmatchcase(name, self.pattern) and partition(name) in self.ends)
        if self.sample is None or self.sample >= len(stream_ids):
            return stream_ids
        return sorted(random.Random(self.seed).sample(stream_ids, self.sample))  # noqa: S311 - a draw that can be repeated

    def _streams(self, stream_ids: Sequence[str], streams: dict[str, list[Row]]) -> None:
        rows_of: dict[str, list[Row]] = {}
        for row in self.published.events_of(stream_ids):
            rows_of.setdefault(row["stream_id"], []).append(row)
        agreeing = []
        for stream_id in stream_ids:
            reader = self.replayer.reader
            partition = reader.partition(stream_id)
            expected = ExpectedStream(reader, stream_id, self.ends[partition])
            self.records += len(expected.rows)
            before = len(self.problems)
            rows = [row for row in rows_of.get(stream_id, []) if row["partition"] == partition]
            self._compare(expected.rows, rows, partial(_place, expected, partition), expected.accepted)
            self._compare_stream(expected, streams.get(stream_id, []))
            if len(self.problems) == before and expected.row is not None:
                agreeing.append(expected)
        self._states(agreeing)

    def _compare(self, expected: dict[int, Row], rows: list[Row], place: Callable[[int], str], first: Sequence[int] = ()) -> None:
        """Rows of `events`: the first one that differs is named, by version where it has one, and the others are counted."""
        by_offset: dict[int, list[Row]] = {}
        for row in rows:
            by_offset.setdefault(row["record_offset"], []).append(row)
        wrong: list[Problem] = []
        for offset in dict.fromkeys((*first, *sorted(expected), *sorted(by_offset))):
            found, wanted = by_offset.get(offset, []), expected.get(offset)
            if wanted is None:
                wrong.append(Problem(place(offset), "no row: the log has no such record of it", f"{len(found)}"))
            elif len(found) != 1:
                wrong.append(Problem(place(offset), "one row", f"{len(found)}"))
            elif (column := differing(wanted, found[0])) is not None:
                wrong.append(Problem(f"{place(offset)} {column}", *_shown(column, wanted, found[0])))
        if wrong:
            more = f" (and {len(wrong) - 1} more rows of it)" if len(wrong) > 1 else ""
            self.problems.append(wrong[0]._replace(found=wrong[0].found + more))

    def _compare_stream(self, expected: ExpectedStream, rows: list[Row]) -> None:
        where = f"stream {expected.stream_id!r} in streams"
        if len(rows) != (expected.row is not None):
            self._problem(where, "one row" if expected.row is not None else "no row", len(rows))
        elif expected.row is not None and (column := differing(expected.row, rows[0])) is not None:
            self.problems.append(Problem(f"{where}, {column}", *_shown(column, expected.row, rows[0])))

    def _states(self, streams: Sequence[ExpectedStream]) -> None:
        """The states that the rows amount to: by the views, and by the macros where a parent is to be composed."""
        found = self.published.states([each.stream_id for each in streams])
        for each in streams:
            assert each.row is not None  # noqa: S101 - as `_streams` chose them
            version = each.row["version"]
            if each.newer_version is not None:
                newer = f"{each.stream_id}: the states from version {each.newer_version} on need a newer release of ctxlog"
                self.notes.append(f"{newer}; they were not compared")
                version = each.newer_version - 1
            if each.newer_version is None and each.row["parent_stream_id"] is None:
                state = found.get(each.stream_id)
                if self._digest(each.stream_id, version) != (state and state_digest(state.to_dict())):
                    self._named(each, version)
            elif not self._same_at(each.stream_id, version, note=True):
                self._named(each, version)

    def _digest(self, stream_id: str, version: int) -> str | None:
        """Digest of the state by a replay; None where it is a fork of what it says it is not."""
        try:
            return self.replayer.replay(stream_id, AtVersion(version)).manifest.state_digest
        except LineageError:
            return None

    def _same_at(self, stream_id: str, version: int, *, note: bool = False) -> bool:
        """Whether macros and replay agree on a state, or both have none."""
        found = self.published.state_at(stream_id, version)
        try:
            expected = self._digest(stream_id, version)
        except NewerEventError as error:  # In the parent.
            self.notes.append(str(error))
            return True
        if not isinstance(found, str):
            return expected == state_digest(found.to_dict())
        if note:
            self.notes.append(f"{stream_id}@{version} has no state in these views: {found}")
        return expected is None or "in these views" in found  # The parent is not projected that far.

    def _named(self, stream: ExpectedStream, version: int) -> None:
        """Name the first version whose state differs, found by halving; the last one where only the views of today do."""
        low, high = 0, version
        if not self._same_at(stream.stream_id, version):
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self._same_at(stream.stream_id, middle) else (low, middle)
        self._problem(
            f"{stream.stream_id}@{high}", "the state of a replay", "another state by the views, though its own rows agree"
        )

    def _extra(self, phantoms: set[str]) -> None:
        """Rows of nothing that the log holds."""
        for stream_id in sorted(map(str, phantoms)):
            self._problem(f"stream {stream_id!r} in streams", "no row: the log has no such stream there", "one")
        for partition, offsets in self.published.offsets():
            end = self.ends.get(partition)
            held = [] if end is None else [record.offset for record in self.log.read(partition, 0, end)]
            for offset, times in sorted((Counter(offsets) - Counter(held)).items()):
                where = f"{partition}@{offset}"
                if not any(where in problem.where for problem in self.problems):
                    self._problem(f"record {where}", "no row that the log has no record for", f"{times}")


def _place(stream: ExpectedStream, partition: int, offset: int) -> str:
    version = stream.rows[offset]["version"] if offset in stream.rows else None
    if version is None:
        return f"stream {stream.stream_id!r}, record {partition}@{offset}"
    return f"{stream.stream_id}@{version}, record {partition}@{offset}"


def _shown(column: str, expected: Row, found: Row) -> tuple[str, str]:
    if column in _SHOWN:
        return str(expected[column]), str(found[column])
    return "what the log says", "something else"


def _text_of(key: bytes | None) -> str | None:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None


def _portions(names: Sequence[str], size: int) -> Iterator[list[str]]:
    rest = iter(names)
    while portion := list(islice(rest, size)):
        yield portion

"""Many events at once: the columns of their rows, and as much of each event as arbitration and fold look at.

records -> by schema -> the codec reads column by column -> Arrow columns for the rows, small events for the core

What cannot be read so (few records, arrays, anything that is wrong with a record) is left to `PartitionContext.decode`, by which
every other reader goes; what is read here is what it would have given, without texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctxlog.codec.columns import Bools, Columns, Numbers, Texts, is_flat, read_columns
from ctxlog.codec.partition import PartitionContext
from ctxlog.codec.schemas import Schema
from ctxlog.core.digests import record_digests
from ctxlog.model.records import CONTROL_KEY, EventRecord, Record
from ctxlog.model.state import NUMBER_MAX
from ctxlog.projection.streams import TEXTS
from ctxlog.projection.tables import MEMBERS, META, PAYLOADS, Column

T = TypeVar("T")

RECORDS_MIN = 64
"""Fewer records of one schema are read one by one: each step of the reading of columns costs as much as some records."""

_GROUPS = {
    "append_id": "append.id",
    "append_index": "append.index",
    "append_count": "append.count",
    "expected_version": "precondition.expected_version",
    "expected_head": "precondition.expected_head",
    "expected_target_version": "precondition.expected_target_version",
    "causation_id": "trace.causation_id",
    "correlation_id": "trace.correlation_id",
}
_MILLIS_MAX = NUMBER_MAX // 1000
_PATHS = {column.name: "meta." + _GROUPS.get(column.name, column.name) for column in META}


class Group(NamedTuple):
    """Events of one type that were read together.

    Attributes:
        type_name: The type.
        places: Where they stand among the records.
        members: Columns of their rows, but for what is decided about them.
        events: What the core looks at; texts are left out.
        times: `recorded_at` as the column holds it, µs.
        sizes: Bytes of key and value.
    """

    type_name: str
    places: Sequence[int]
    members: pa.Table
    events: Sequence[EventRecord]
    times: Sequence[int | None]
    sizes: Sequence[int]


def read_groups(context: PartitionContext, records: Sequence[Record]) -> list[Group]:
    """The events among some records that can be read together: well-placed, in order, of a type that has columns."""
    found = []
    for decoder, framed in context.framed(records).items():
        schema = decoder.schema
        if len(framed) >= RECORDS_MIN and schema.name in PAYLOADS and schema.readable and is_flat(decoder.plan):
            places, bodies = zip(*framed, strict=True)
            try:
                columns = read_columns(decoder.plan, bodies)
                found.append(_Reading(context, schema, records, places, bodies, columns).group())
            except (pa.ArrowInvalid, KeyError):
                # A text is not UTF-8, which `decode` finds out of which record; or a member is not what the columns are.
                continue
    return found


class _Reading:
    def __init__(
        self,
        context: PartitionContext,
        schema: Schema,
        records: Sequence[Record],
        places: Sequence[int],
        bodies: Sequence[bytes],
        columns: Columns,
    ) -> None:
        self.context = context
        self.schema = schema
        self.records = [records[place] for place in places]
        _, self.offsets, self.recorded, self.keys, self.values, self.origins = zip(*self.records, strict=True)
        self.places = places
        self.bodies = bodies
        self.columns = columns
        self.buffer = pa.py_buffer(columns.buffer)
        self.arrays = {path: self._texts(texts) for path, texts in columns.texts.items()}  # All are checked, wanted or not.

    def group(self) -> Group:
        kept = self._kept()
        times, origins = self._times()
        sizes = [len(key or b"") + size for key, size in zip(self.keys, map(len, self.values), strict=True)]
        events = self._events(times)
        at = [time * 1000 if -_MILLIS_MAX <= time <= _MILLIS_MAX else None for time in times]
        members = self._members(at, origins, sizes)
        if kept.all():
            return Group(self.schema.name, self.places, members, events, at, sizes)
        chosen = np.flatnonzero(kept).tolist()

        def of(values: Sequence[T]) -> list[T]:
            return [values[index] for index in chosen]

        members = members.take(pa.array(chosen, pa.int64()))
        return Group(self.schema.name, of(self.places), members, of(events), of(at), of(sizes))

    def _times(self) -> tuple[Sequence[int], pa.Array]:
        """The times that they are believed to have, ms, and their origins as text."""
        if self.origins.count(None) == len(self.origins):
            return self.recorded, pa.nulls(len(self.origins), pa.string())
        believed = [self.context.believed(record) for record in self.records]
        origins = [None if record.origin is None else str(record.origin) for record in believed]
        return [record.time for record in believed], pa.array(origins, pa.string())

    def _members(self, at: Sequence[int | None], origins: pa.Array, sizes: Sequence[int]) -> pa.Table:
        count = len(sizes)
        placed = {
            "type": pa.repeat(self.schema.name, count),
            "partition": pa.repeat(pa.scalar(self.context.partition, pa.int32()), count),
            "record_offset": pa.array(self.offsets, pa.int64()),
            "recorded_at": pa.array(at, pa.timestamp("us")),
            "stream_id": self.arrays["meta.stream_id"],
            "bytes": pa.array(sizes, pa.int64()),
            "origin": origins,
        }
        members = {column.name: self._column(column) for column in (*META, *PAYLOADS[self.schema.name])}
        return pa.table(placed | members)

    def _kept(self) -> Bools:
        """Those that were read, and lie where they belong."""
        context = self.context
        keys = self.keys
        places = {key: key is not None and key != CONTROL_KEY and context.places(key) for key in set(keys)}
        same = pc.equal(pa.array(keys, pa.binary()), self.arrays["meta.stream_id"].cast(pa.binary()))
        kept: Bools = self.columns.passed & same.fill_null(False).to_numpy(zero_copy_only=False)
        kept &= np.fromiter((places[key] for key in keys), np.bool_, len(keys))
        if context.copied_from is not None:
            within = (context.copy_started_at < record.offset < context.copy_finished_at for record in self.records)
            origin = (record.origin is not None for record in self.records)
            kept &= ~np.fromiter(within, np.bool_, len(keys)) | np.fromiter(origin, np.bool_, len(keys))
        return kept

    def _texts(self, texts: Texts) -> pa.Array:
        """Raises `pa.ArrowInvalid` where one is not UTF-8."""
        count = len(texts.starts)
        if not texts.valid.any():
            return pa.nulls(count, pa.string())
        # The buffer as one long array: what lies before a text, the text, what lies before the next one …
        offsets = np.zeros(2 * count + 2, np.int64)
        offsets[1:-1:2] = texts.starts
        offsets[2::2] = texts.starts + texts.lengths
        offsets[-1] = len(self.columns.buffer)
        pieces = pa.Array.from_buffers(pa.large_binary(), 2 * count + 1, [None, pa.py_buffer(offsets), self.buffer])
        wanted = pa.array(np.arange(1, 2 * count, 2), mask=~texts.valid)
        return pieces.take(wanted).cast(pa.large_string()).cast(pa.string())

    def _column(self, column: Column) -> pa.Array:
        path = _PATHS.get(column.name) or MEMBERS.get(column.name, column.name)
        if column.arrow == pa.string():
            return self.arrays[path]
        numbers = self.columns.numbers[path]
        values, valid = numbers.values, numbers.valid
        if column.arrow == pa.bool_():
            return pa.array(values != 0, mask=~valid)
        if column.arrow != pa.timestamp("us"):
            return pa.array(values, column.arrow, mask=~valid)
        # A time that a column can hold; the fold takes no other either.
        outside = (values < -NUMBER_MAX) | (values > NUMBER_MAX)
        return pa.array(values, mask=~valid | outside).cast(column.arrow)

    def _events(self, times: Sequence[int]) -> list[EventRecord]:
        """The events; of those that are not kept, anything."""
        members = zip(
            repeat(self.context.partition),
            self.offsets,
            times,
            repeat(self.schema.name),
            self._metas(),
            self._payloads(),
            record_digests(self.schema.digest, self.keys, self.bodies),
            map(len, self.bodies),
            repeat(True),
        )
        return list(map(_event, members))

    def _metas(self) -> list[dict[str, Any]]:
        others = [self._each("meta." + name) for name in ("agent_id", "scope", "target")]
        metas: list[dict[str, Any]] = [
            {
                "event_id": event_id,
                "agent_id": agent_id,
                "scope": scope,
                "target": target,
                "occurred_at": None,
                "append": None,
                "precondition": None,
            }
            for event_id, agent_id, scope, target in zip(self._values("meta.event_id"), *others, strict=False)
        ]
        for group, members in (
            ("append", ("id", "index", "count")),
            ("precondition", ("expected_version", "expected_head", "expected_target_version")),
        ):
            there = self.columns.groups[f"meta.{group}"]
            if there.any():
                columns = [self._values(f"meta.{group}.{member}") for member in members]
                for index in np.flatnonzero(there).tolist():
                    metas[index][group] = {member: column[index] for member, column in zip(members, columns, strict=True)}
        return metas

    def _payloads(self) -> list[dict[str, Any]]:
        """The members that the fold looks at, as `streams.forget_texts` leaves them."""
        texts = TEXTS.get(self.schema.name, {})
        if "idempotency_key" in self.arrays and self.arrays["idempotency_key"].null_count < len(self.records):
            texts = {}
        names = [MEMBERS.get(column.name, column.name) for column in PAYLOADS[self.schema.name]]
        columns = {name: self._each(name) for name in names if name not in texts}
        varying = tuple(name for name, values in columns.items() if not isinstance(values, repeat))
        same = texts | {name: next(values) for name, values in columns.items() if isinstance(values, repeat)}
        if not varying:
            return [same] * len(self.records)  # Nobody changes them.
        return [same | dict(zip(varying, row, strict=True)) for row in zip(*(columns[name] for name in varying), strict=True)]

    def _each(self, path: str) -> list[Any] | repeat[Any]:
        """The values of a member; where they are all the same, endlessly."""
        texts = self.arrays.get(path)
        if texts is None:
            return self._values(path) if self.columns.numbers[path].valid.any() else repeat(None)
        if texts.null_count == len(texts):
            return repeat(None)
        first = texts[0]
        return repeat(first.as_py()) if pc.all(pc.equal(texts, first), skip_nulls=False).as_py() else self._values(path)

    def _values(self, path: str) -> list[Any]:
        texts = self.arrays.get(path)
        if texts is not None:
            return texts.to_pylist()  # type: ignore[no-any-return]
        numbers: Numbers = self.columns.numbers[path]
        if numbers.valid.all():
            values: list[Any] = numbers.values.tolist()
            return values
        return pa.array(numbers.values, mask=~numbers.valid).to_pylist()  # type: ignore[no-any-return]


_event: Callable[[tuple[Any, ...]], EventRecord] = partial(tuple.__new__, EventRecord)
"""As `EventRecord._make`, in half the time."""

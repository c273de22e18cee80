"""Bodies of one schema, many at once: what the guard's walk reads one by one, read column by column.

What passes here passes `guard.read` too, with the same datum; the tests compare them over hostile bytes. Whatever does not, or
holds arrays, is left to `guard.read`, which alone says what is wrong. Texts are not looked at: whoever uses them checks that they
are UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctxlog.codec.guard import (
    BODY_BYTES_MAX,
    BOOLEAN,
    INT,
    LONG,
    OPTIONAL,
    OPTIONAL_LONG,
    OPTIONAL_STRING,
    RECORD,
    STRING,
    VARINT_BYTES_MAX,
    Plan,
)

Bools = NDArray[np.bool_]
Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Texts:
    """A member that is text: where its bytes stand in the buffer, a row each. Not `valid`: null, or in a group that is null."""

    starts: Longs
    lengths: Longs
    valid: Bools


@dataclass(frozen=True, slots=True)
class Numbers:
    """A member that is a number or a boolean (0, 1), a row each."""

    values: Longs
    valid: Bools


@dataclass(slots=True)
class Columns:
    """The members of some bodies.

    Attributes:
        buffer: All bodies, one after the other, and some bytes more.
        passed: Which bodies were read; of the others nothing here means anything.
        texts, numbers: Members by their path, as in `meta.append.id`.
        groups: Where a null-or-record is there, by its path.
    """

    buffer: bytes
    passed: Bools
    texts: dict[str, Texts] = field(default_factory=dict)
    numbers: dict[str, Numbers] = field(default_factory=dict)
    groups: dict[str, Bools] = field(default_factory=dict)


def is_flat(plan: Plan) -> bool:
    """Whether bodies can be read column by column: no array, map or float, but inside of what may be null."""
    return all(
        code in (STRING, OPTIONAL_STRING, LONG, OPTIONAL_LONG, INT, BOOLEAN, OPTIONAL) or (code == RECORD and is_flat(arg))
        for code, _, arg in plan
    )


def read_columns(plan: Plan, bodies: Sequence[bytes]) -> Columns:
    """The members of bodies whose plan `is_flat`."""
    reader = _Reader(plan, bodies)
    reader.run(plan, "", np.ones(len(bodies), np.bool_))
    found = reader.found
    found.passed &= reader.at == reader.ends
    # A text of a body that failed may point anywhere.
    starts, failed = reader.ends - reader.sizes, ~found.passed
    if failed.any():
        for name, texts in found.texts.items():
            found.texts[name] = Texts(
                np.where(failed, starts, texts.starts), np.where(failed, 0, texts.lengths), texts.valid & ~failed
            )
    return found


class _Reader:
    """One reading. `at` only grows, so a body that was left has an `at` beyond its end, now and at the end."""

    def __init__(self, plan: Plan, bodies: Sequence[bytes]) -> None:
        self.sizes = np.fromiter(map(len, bodies), np.int64, len(bodies))
        self.ends = np.cumsum(self.sizes)
        self.at = self.ends - self.sizes
        # The last body may be left by so much: its steps read on, and never past this.
        buffer = b"".join((*bodies, bytes((_steps(plan) + 1) * (VARINT_BYTES_MAX + 1))))
        self.data = np.frombuffer(buffer, np.uint8)
        self.found = Columns(buffer, self.sizes <= BODY_BYTES_MAX)

    def run(self, plan: Plan, path: str, live: Bools) -> None:
        """Read the fields of `plan` of those rows that are `live`."""
        for code, name, arg in plan:
            self._step(code, path + name, arg, live)

    def _step(self, code: int, path: str, arg: Plan, live: Bools) -> None:
        found = self.found
        if code & 1:
            branch = self.data[self.at]
            self.at += live
            found.passed &= ~live | (branch == 0) | (branch == 2)
            live = live & (branch == 2)
        if code in (STRING, OPTIONAL_STRING):
            lengths = self._long(live)
            wrong = (lengths < 0) | (lengths > self.ends - self.at)
            found.passed &= ~(live & wrong)
            lengths = np.where(live & ~wrong, lengths, 0)
            found.texts[path] = Texts(self.at.copy(), lengths, live)
            self.at += lengths
        elif code in (LONG, OPTIONAL_LONG, INT):
            values = self._long(live)
            if code == INT:
                found.passed &= ~live | ((values >= -(2**31)) & (values < 2**31))
            found.numbers[path] = Numbers(values, live)
        elif code == BOOLEAN:
            values = self.data[self.at].astype(np.int64)
            found.passed &= ~live | (values <= 1)
            self.at += live
            found.numbers[path] = Numbers(values, live)
        elif code == RECORD:
            self.run(arg, path + ".", live)
        else:
            ((inner, _, inner_arg),) = arg
            if inner == RECORD:
                found.groups[path] = live
            if is_flat(arg):
                self._step(inner, path, inner_arg, live)
            else:
                found.passed &= ~live

    def _long(self, live: Bools) -> Longs:
        """A zigzag varint of each row that is live; anything of the others."""
        data, at = self.data, self.at
        first = data[at]
        values = first.astype(np.uint64)
        sizes = live.astype(np.int64)
        rows = np.flatnonzero(live & (first >= 0x80))
        values[rows] &= np.uint64(0x7F)
        for place in range(1, VARINT_BYTES_MAX):
            if not len(rows):
                break
            bytes_ = data[at[rows] + place]
            values[rows] |= (bytes_ & 0x7F).astype(np.uint64) << np.uint64(7 * place)
            sizes[rows] += 1
            if place == VARINT_BYTES_MAX - 1:
                # More than 64 bits, or yet another byte.
                self.found.passed[rows[bytes_ > 1]] = False
            rows = rows[bytes_ >= 0x80]
        self.at = at + sizes
        found: Longs = (values >> np.uint64(1)).astype(np.int64) ^ -(values & np.uint64(1)).astype(np.int64)
        return found


def _steps(plan: Plan) -> int:
    """How many reads a body can take at most."""
    return sum(2 + (_steps(arg) if isinstance(arg, tuple) else 0) for _, _, arg in plan)

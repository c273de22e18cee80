"""Numbers by id, in little room: what a long stream has in memory of all the ids that it ever had.

An entry of a dict with its text takes some 190 bytes; here a UUID takes 24, and most ids are UUIDs. Whatever is not written as
`uuid.UUID` prints it stays in a dict, so no two texts are ever taken for the same.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping

import numpy as np

RECENT_MIN = 1024
"""New entries stand in a dict until there are so many, or an eighth of all: to sort them in touches every entry."""

_is_uuid = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


class Packed:
    """What `dict[str, int]` is, as far as it is asked for, set and set again. An entry cannot be taken out.

    Args:
        entries: What it holds at first.
        prefix: What stands before the UUID in most texts.
    """

    __slots__ = ("_high", "_low", "_others", "_prefix", "_recent", "_values")

    def __init__(self, entries: Mapping[str, int], prefix: str = "") -> None:
        self._prefix = prefix
        self._recent = dict(entries)
        self._others: dict[str, int] = {}
        self._high, self._low, self._values = array("Q"), array("Q"), array("q")
        self._sort_in()

    def __len__(self) -> int:
        """At least as many as there are; more where some were set again since they were sorted in."""
        return len(self._recent) + len(self._others) + len(self._values)

    def __contains__(self, text: str) -> bool:
        return self.get(text) is not None

    def __getitem__(self, text: str) -> int:
        found = self.get(text)
        if found is None:
            raise KeyError(text)
        return found

    def __setitem__(self, text: str, value: int) -> None:
        self._recent[text] = value
        if len(self._recent) > max(RECENT_MIN, len(self._values) // 8):
            self._sort_in()

    def get(self, text: str, default: int | None = None) -> int | None:
        """As `dict.get`."""
        found = self._recent.get(text)
        if found is not None:
            return found
        number = self._number(text)
        if number is None:
            return self._others.get(text, default)
        high, low = number
        at, end = bisect_left(self._high, high), len(self._high)
        if at == end or self._high[at] != high:
            return default
        if self._low[at] != low:  # More than one begins like this.
            end = bisect_right(self._high, high, at)
            at = bisect_left(self._low, low, at, end)
            if at == end or self._low[at] != low:
                return default
        return self._values[at]

    def _number(self, text: str) -> tuple[int, int] | None:
        """The halves of a UUID; None where it is none."""
        start = len(self._prefix)
        if not text.startswith(self._prefix) or _is_uuid(text, start) is None:
            return None
        digits = text[start:].replace("-", "")
        return int(digits[:16], 16), int(digits[16:], 16)

    def _sort_in(self) -> None:
        """Bring what is recent to the rest."""
        found = []
        for text, value in self._recent.items():
            number = self._number(text)
            if number is None:
                self._others[text] = value
            else:
                found.append((*number, value))
        self._recent = {}
        highs, lows, values = zip(*found, strict=True) if found else ((), (), ())
        high = np.concatenate([np.frombuffer(self._high, np.uint64), np.array(highs, np.uint64)])
        low = np.concatenate([np.frombuffer(self._low, np.uint64), np.array(lows, np.uint64)])
        numbers = np.concatenate([np.frombuffer(self._values, np.int64), np.array(values, np.int64)])
        order = np.lexsort((low, high))  # Of two that are the same, the later one stands behind.
        high, low, numbers = high[order], low[order], numbers[order]
        last = np.ones(len(high), np.bool_)
        last[:-1] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        self._high, self._low = array("Q", high[last].tobytes()), array("Q", low[last].tobytes())
        self._values = array("q", numbers[last].tobytes())

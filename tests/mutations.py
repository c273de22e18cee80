"""Every way to change a log's records behind its back, each with the offset at which it must be found."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from ctxlog.model.records import Origin, Record

Records = list[Record]

ELSEWHERE = "00000000-0000-4000-8000-000000000000"


def flip(data: bytes, dice: random.Random) -> bytes:
    """A bit somewhere."""
    bit = dice.randrange(8 * len(data))
    return bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(data))


def _put(records: Sequence[Record], place: int, record: Record) -> tuple[Records, int]:
    return [*records[:place], record, *records[place + 1 :]], records[place].offset


def key(records: Sequence[Record], place: int, dice: random.Random) -> tuple[Records, int]:
    return _put(records, place, records[place]._replace(key=flip(records[place].key or b"?", dice)))


def value(records: Sequence[Record], place: int, dice: random.Random) -> tuple[Records, int]:
    return _put(records, place, records[place]._replace(value=flip(records[place].value or b"?", dice)))


def value_gone(records: Sequence[Record], place: int, _: random.Random) -> tuple[Records, int]:
    return _put(records, place, records[place]._replace(value=None))


def time(records: Sequence[Record], place: int, dice: random.Random) -> tuple[Records, int]:
    return _put(records, place, records[place]._replace(recorded_at=records[place].recorded_at ^ 1 << dice.randrange(41)))


def origin(records: Sequence[Record], place: int, dice: random.Random) -> tuple[Records, int]:
    found = records[place].origin
    changed = Origin(ELSEWHERE, 0, place, 1) if found is None else found._replace(recorded_at_ms=found.recorded_at_ms + 1)
    return _put(records, place, records[place]._replace(origin=changed))


def taken_out(records: Sequence[Record], place: int, _: random.Random) -> tuple[Records, int]:
    return [*records[:place], *records[place + 1 :]], records[place].offset


def taken_out_and_closed_over(records: Sequence[Record], place: int, _: random.Random) -> tuple[Records, int]:
    later = [after._replace(offset=before.offset) for before, after in zip(records[place:], records[place + 1 :], strict=False)]
    return [*records[:place], *later], records[place].offset


def put_in(records: Sequence[Record], place: int, dice: random.Random) -> tuple[Records, int]:
    """A copy of another record, with everything behind it moved."""
    step = records[1].offset - records[0].offset
    copy = dice.choice(records)._replace(offset=records[place].offset, recorded_at=records[place].recorded_at + 1)
    return [*records[:place], copy, *(one._replace(offset=one.offset + step) for one in records[place:])], copy.offset


def swapped(records: Sequence[Record], place: int, dice: random.Random) -> tuple[Records, int]:
    """With another record that holds something else; their offsets and times stay where they are."""
    others = [other for other, one in enumerate(records) if (one.key, one.value) != (records[place].key, records[place].value)]
    first, last = sorted((place, dice.choice(others)))
    a, b = records[first], records[last]
    changed = list(records)
    changed[first], changed[last] = a._replace(key=b.key, value=b.value), b._replace(key=a.key, value=a.value)
    return changed, a.offset


def cut_off(records: Sequence[Record], place: int, _: random.Random) -> tuple[Records, int]:
    return list(records[:place]), records[place].offset


MUTATIONS: dict[str, Callable[[Sequence[Record], int, random.Random], tuple[Records, int]]] = {
    "a bit of the key": key,
    "a bit of the value": value,
    "the value gone": value_gone,
    "a bit of the time": time,
    "the origin": origin,
    "taken out": taken_out,
    "taken out and closed over": taken_out_and_closed_over,
    "put in": put_in,
    "swapped": swapped,
    "cut off": cut_off,
}


def mutations(records: Sequence[Record], signed: int, dice: random.Random, count: int) -> Iterator[tuple[str, Records, int]]:
    """Of each kind so many, at places among the first `signed` records drawn by dice: the kind, the records, the offset."""
    for name, mutate in MUTATIONS.items():
        for place in dice.sample(range(1, signed), count):
            changed, offset = mutate(records, place, dice)
            assert changed != list(records)
            yield name, changed, offset

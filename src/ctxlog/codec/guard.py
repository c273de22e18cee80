"""Bodies out of a log: one walk that refuses what is not exactly one datum within the limits, and gives the datum.

fastavro can be made to crash, to spin or to eat gigabytes, ignores bytes after the datum, and takes twice as long as this
walk together with the scan that it would need before it. So it writes bodies and never reads them; the tests compare what
both give. No code is made out of a schema: a plan is data, and every step of it takes at least one byte of the body.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from ctxlog.errors import UndecodableError

BODY_BYTES_MAX = 1024 * 1024
"""Part of the rules, as are the two limits below: a body beyond them is undecodable for every reader."""

ITEMS_MAX = 65_536
"""Array and map items in one body."""

VARINT_BYTES_MAX = 10

# What a step reads. Odd codes are null-or-T: their branch is looked at before anything else, because most are null.
STRING, OPTIONAL_STRING, LONG, OPTIONAL_LONG, RECORD, OPTIONAL, INT, BOOLEAN, FIXED, ARRAY, MAP = (
    0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14,
)  # fmt: skip

Plan = tuple[tuple[int, str, Any], ...]
"""The steps of a record: what to read, the field's name, and what the step needs besides."""


def plan_of(node: dict[str, Any]) -> Plan:
    """Compile a restricted record schema into the steps of its walk."""
    return _record_plan(node, {})


def _record_plan(node: dict[str, Any], named: dict[str, Plan]) -> Plan:
    plan = tuple(_step(field["name"], field["type"], named) for field in node["fields"])
    named[node["name"]] = plan
    return plan


def _step(name: str, node: Any, named: dict[str, Plan]) -> tuple[int, str, Any]:
    match node:
        case "string":
            return (STRING, name, None)
        case "long":
            return (LONG, name, None)
        case "int":
            return (INT, name, None)
        case "boolean":
            return (BOOLEAN, name, None)
        case "float":
            return (FIXED, name, Struct("<f"))
        case "double":
            return (FIXED, name, Struct("<d"))
        case str():
            return (RECORD, name, named[node])
        case ["null", "string"]:
            return (OPTIONAL_STRING, name, None)
        case ["null", "long"]:
            return (OPTIONAL_LONG, name, None)
        case ["null", inner]:
            return (OPTIONAL, name, (_step(name, inner, named),))
        case {"type": "array", "items": items}:
            return (ARRAY, name, (_step("", items, named),))
        case {"type": "map", "values": values}:
            return (MAP, name, ((STRING, "key", None), _step("value", values, named)))
        case _:
            return (RECORD, name, _record_plan(node, named))


def check(plan: Plan, body: bytes) -> None:
    """Check that `body` is exactly one datum of the schema that `plan` was made of.

    Raises:
        UndecodableError: It is not; `reason` says why, without any of the data.
    """
    read(plan, body)


def read(plan: Plan, body: bytes) -> dict[str, Any]:
    """The datum that `body` is, of the schema that `plan` was made of.

    Raises:
        UndecodableError: `body` is not exactly one datum; `reason` says why, without any of the data.
    """
    if len(body) > BODY_BYTES_MAX:
        raise UndecodableError(f"the body is longer than {BODY_BYTES_MAX:,} bytes")
    datum: dict[str, Any] = {}
    try:
        end = _Walk(body).run(plan, 0, datum)
    except IndexError:
        raise UndecodableError("the body ends inside its datum") from None
    except UnicodeDecodeError:
        raise UndecodableError("text is not UTF-8") from None
    if end != len(body):
        raise UndecodableError("bytes follow the datum" if end < len(body) else "the body ends inside its datum")
    return datum


class _Walk:
    """One walk. Reading past the end of the body is an IndexError, or an end beyond the body's."""

    __slots__ = ("body", "items")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.items = 0

    def run(self, plan: Plan, at: int, into: dict[str, Any]) -> int:
        """Read the fields of `plan` from `at` into `into`; the place after them. The most frequent steps come first."""
        body = self.body
        for code, name, arg in plan:
            if code & 1:
                branch = body[at]
                at += 1
                if branch == 0:
                    into[name] = None
                    continue
                if branch != 2:
                    raise UndecodableError("a union names a branch that it does not have")
            if code <= OPTIONAL_LONG:
                byte = body[at]
                if byte < 0x80:
                    at += 1
                    number = (byte >> 1) ^ -(byte & 1)
                else:
                    number, at = self.long(at)
                if code > OPTIONAL_STRING:
                    into[name] = number
                    continue
                if number < 0:
                    raise UndecodableError("a length is negative")
                end = at + number
                into[name] = body[at:end].decode()
                at = end
            elif code == RECORD:
                inner: dict[str, Any] = {}
                at = self.run(arg, at, inner)
                into[name] = inner
            elif code == OPTIONAL:
                at = self.run(arg, at, into)
            elif code == INT:
                number, at = self.long(at)
                if not -(2**31) <= number < 2**31:
                    raise UndecodableError("an int is out of range")
                into[name] = number
            elif code == BOOLEAN:
                if body[at] > 1:
                    raise UndecodableError("a boolean is neither 0 nor 1")
                into[name] = body[at] == 1
                at += 1
            elif code == FIXED:
                # Every step looks at the body: a schema of nothing but doubles could otherwise walk on for ever.
                body[at + arg.size - 1]
                (into[name],) = arg.unpack_from(body, at)
                at += arg.size
            else:
                into[name], at = self.blocks(arg, at, keyed=code == MAP)
        return at

    def long(self, at: int) -> tuple[int, int]:
        """A zigzag varint at `at`, and the place after it."""
        body = self.body
        value = shift = 0
        for place in range(at, at + VARINT_BYTES_MAX):
            byte = body[place]
            if byte < 0x80:
                value |= byte << shift
                if value >= 2**64:
                    raise UndecodableError("a number is out of range")
                return (value >> 1) ^ -(value & 1), place + 1
            value |= (byte & 0x7F) << shift
            shift += 7
        raise UndecodableError(f"a number takes more than {VARINT_BYTES_MAX} bytes")

    def blocks(self, plan: Plan, at: int, *, keyed: bool) -> tuple[Any, int]:
        """The blocks of an array or a map. Every item takes at least one byte, so the end of the body bounds the walk."""
        name = plan[-1][1]
        items: list[Any] = []
        entries: dict[str, Any] = {}
        while True:
            count, at = self.long(at)
            if count == 0:
                return (entries if keyed else items), at
            size = None
            if count < 0:
                count = -count
                size, at = self.long(at)
            self.items += count
            if self.items > ITEMS_MAX:
                raise UndecodableError(f"arrays and maps hold more than {ITEMS_MAX:,} items")
            start = at
            item: dict[str, Any] = {}
            for _ in range(count):
                at = self.run(plan, at, item)
                if keyed:
                    entries[item["key"]] = item["value"]
                else:
                    items.append(item[name])
            if size is not None and at - start != size:
                raise UndecodableError("a block has another size than it says")

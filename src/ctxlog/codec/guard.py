"""Bounds before decoding: what fastavro gets is exactly one datum, within the limits.

fastavro can be made to crash, to spin or to eat gigabytes, and ignores bytes after the datum. The scan walks a body once,
without building anything, and refuses what is not well-formed. Text is left to fastavro, which decodes UTF-8 strictly.
"""

from __future__ import annotations

from typing import Any

from ctxlog.errors import UndecodableError

BODY_BYTES_MAX = 1024 * 1024
"""Part of the rules, as are the two limits below: a body beyond them is undecodable for every reader."""

ITEMS_MAX = 65_536
"""Array and map items in one body."""

VARINT_BYTES_MAX = 10

_STRING, _OPTIONAL_STRING, _LONG, _OPTIONAL_LONG, _INT, _BOOLEAN, _FIXED, _OPTIONAL, _ARRAY, _MAP, _RECORD = range(11)

Plan = tuple[tuple[int, Any], ...]


def plan_of(node: dict[str, Any]) -> Plan:
    """Compile a restricted record schema into the steps of its scan."""
    return _record_plan(node, {})


def _record_plan(node: dict[str, Any], named: dict[str, Plan]) -> Plan:
    plan = tuple(_step(field["type"], named) for field in node["fields"])
    named[node["name"]] = plan
    return plan


def _step(node: Any, named: dict[str, Plan]) -> tuple[int, Any]:
    match node:
        case "string":
            return (_STRING, None)
        case "long":
            return (_LONG, None)
        case "int":
            return (_INT, None)
        case "boolean":
            return (_BOOLEAN, None)
        case "float":
            return (_FIXED, 4)
        case "double":
            return (_FIXED, 8)
        case str():
            return (_RECORD, named[node])
        case ["null", "string"]:
            return (_OPTIONAL_STRING, None)
        case ["null", "long"]:
            return (_OPTIONAL_LONG, None)
        case ["null", inner]:
            return (_OPTIONAL, (_step(inner, named),))
        case {"type": "array", "items": items}:
            return (_ARRAY, (_step(items, named),))
        case {"type": "map", "values": values}:
            return (_MAP, ((_STRING, None), _step(values, named)))
        case _:
            return (_RECORD, _record_plan(node, named))


def check(plan: Plan, body: bytes) -> None:
    """Check that `body` is exactly one datum of the schema that `plan` was made of.

    Raises:
        UndecodableError: It is not; `reason` says why, without any of the data.
    """
    if len(body) > BODY_BYTES_MAX:
        raise UndecodableError(f"the body is longer than {BODY_BYTES_MAX:,} bytes")
    try:
        end = _Scan(body).run(plan, 0)
    except IndexError:
        raise UndecodableError("the body ends inside its datum") from None
    if end != len(body):
        raise UndecodableError("bytes follow the datum" if end < len(body) else "the body ends inside its datum")


class _Scan:
    """One scan. Reading past the end of the body is an IndexError, or an end beyond the body's."""

    __slots__ = ("body", "items")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.items = 0

    def run(self, plan: Plan, at: int) -> int:
        """Walk one datum of `plan` from `at`; the place after it. The most frequent steps come first."""
        body = self.body
        for code, arg in plan:
            if code <= _OPTIONAL_LONG:
                if code in (_OPTIONAL_STRING, _OPTIONAL_LONG):
                    branch = body[at]
                    at += 1
                    if branch == 0:
                        continue
                    if branch != 2:
                        raise UndecodableError("a union names a branch that it does not have")
                byte = body[at]
                if byte < 0x80:
                    at += 1
                    number = (byte >> 1) ^ -(byte & 1)
                else:
                    number, at = self.long(at)
                if code <= _OPTIONAL_STRING:
                    if number < 0:
                        raise UndecodableError("a length is negative")
                    at += number
            elif code == _OPTIONAL:
                branch = body[at]
                at += 1
                if branch == 2:
                    at = self.run(arg, at)
                elif branch:
                    raise UndecodableError("a union names a branch that it does not have")
            elif code == _RECORD:
                at = self.run(arg, at)
            elif code == _INT:
                number, at = self.long(at)
                if not -(2**31) <= number < 2**31:
                    raise UndecodableError("an int is out of range")
            elif code == _BOOLEAN:
                if body[at] > 1:
                    raise UndecodableError("a boolean is neither 0 nor 1")
                at += 1
            elif code == _FIXED:
                at += arg
                # Every step looks at the body: a schema of nothing but doubles could otherwise walk on for ever.
                body[at - 1]
            else:
                at = self.blocks(arg, at)
        return at

    def long(self, at: int) -> tuple[int, int]:
        """A zigzag varint at `at`, and the place after it."""
        value = shift = 0
        for place in range(at, at + VARINT_BYTES_MAX):
            byte = self.body[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 2**64:
                    raise UndecodableError("a number is out of range")
                return (value >> 1) ^ -(value & 1), place + 1
            shift += 7
        raise UndecodableError(f"a number takes more than {VARINT_BYTES_MAX} bytes")

    def blocks(self, plan: Plan, at: int) -> int:
        """The blocks of an array or a map. Every item takes at least one byte, so the end of the body bounds the walk."""
        while True:
            count, at = self.long(at)
            if count == 0:
                return at
            size = None
            if count < 0:
                count = -count
                size, at = self.long(at)
            self.items += count
            if self.items > ITEMS_MAX:
                raise UndecodableError(f"arrays and maps hold more than {ITEMS_MAX:,} items")
            start = at
            for _ in range(count):
                at = self.run(plan, at)
            if size is not None and at - start != size:
                raise UndecodableError("a block has another size than it says")

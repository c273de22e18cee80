"""What is sent to break a reader: bodies that are no datum, and schemas that no log may carry, made by hand."""

from __future__ import annotations

import json
from typing import Any

from ctxlog.codec.guard import BODY_BYTES_MAX, ITEMS_MAX
from ctxlog.codec.schemas import shipped_meta

LEAF = {"type": "record", "name": "x.Leaf", "fields": [{"name": "on", "type": "boolean"}, {"name": "n", "type": "int"}]}
RICH: dict[str, Any] = {
    "type": "record",
    "name": "x.Rich",
    "fields": [
        {"name": "texts", "type": {"type": "array", "items": "string"}},
        {"name": "table", "type": {"type": "map", "values": {"type": "array", "items": ["null", "long"]}}},
        {"name": "leaf", "type": ["null", LEAF]},
        {"name": "leaves", "type": {"type": "array", "items": "x.Leaf"}},
        {"name": "numbers", "type": {"type": "array", "items": "double"}},
        {"name": "ratio", "type": "float"},
    ],
}
EMPTY = b"\x00" * 5 + b"\x00" * 4
"""Empty texts, table, leaf, leaves and numbers; the float."""


def zigzag(number: int) -> bytes:
    value, out = (number << 1) ^ (number >> 63), bytearray()
    value &= 2**64 - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def items(count: int) -> bytes:
    """A body with so many empty texts."""
    return zigzag(count) + b"\x00" * count + EMPTY


BOMBS = {
    "nothing": b"",
    "a count of 2^62 items": zigzag(2**62) + EMPTY,
    "a count of 2^63 - 1 items": zigzag(2**63 - 1),
    "a negative count without items": zigzag(-(2**62)) + zigzag(4) + EMPTY,
    "the smallest negative count": zigzag(-(2**63)) + zigzag(0) + EMPTY,
    "a block with a smaller size": zigzag(-1) + zigzag(0) + b"\x02a" + EMPTY,
    "a block with a larger size": zigzag(-1) + zigzag(9) + b"\x02a" + EMPTY,
    "a block with a negative size": zigzag(-1) + zigzag(-2) + b"\x02a" + EMPTY,
    "one item more than is allowed": items(ITEMS_MAX + 1),
    "more items than are allowed, in two blocks": zigzag(40_000) + b"\x00" * 40_000 + items(40_000),
    "blocks without end": (zigzag(1) + b"\x00") * 70_000,
    "empty items in a map of arrays": b"\x00" + zigzag(60_000) + b"\x00\x00" * 60_000 + zigzag(9_000),
    "a text longer than the body": zigzag(1) + zigzag(1_000_000) + EMPTY,
    "a text of 2^63 - 1 bytes": zigzag(1) + zigzag(2**63 - 1) + EMPTY,
    "a text of negative length": zigzag(1) + zigzag(-1) + EMPTY,
    "a number of eleven bytes": b"\x80" * 10 + b"\x01" + EMPTY,
    "a number without end": b"\xff" * 1000,
    "a number above 64 bits": b"\xff" * 9 + b"\x7f" + EMPTY,
    "a branch that a union does not have": b"\x00\x00\x04" + EMPTY[3:],
    "a negative branch": b"\x00\x00\x01" + EMPTY[3:],
    "a boolean of 2": b"\x00\x00\x02\x02\x00" + EMPTY[3:],
    "an int above 31 bits": b"\x00\x00\x02\x01" + zigzag(2**31) + EMPTY[3:],
    "a float that is cut off": EMPTY[:-1],
    "a byte too many": EMPTY + b"\x00",
    "two data": EMPTY * 2,
    "not UTF-8": zigzag(1) + b"\x02\xff" + EMPTY,
    "a surrogate in UTF-8": zigzag(1) + b"\x06\xed\xa0\x80" + EMPTY,
    "an overlong NUL": zigzag(1) + b"\x04\xc0\x80" + EMPTY,
    "not UTF-8 in the key of a map": b"\x00" + zigzag(1) + b"\x02\xff\x00\x00" + EMPTY[2:],
    "longer than a body may be": zigzag(1) + zigzag(BODY_BYTES_MAX) + b"a" * BODY_BYTES_MAX + EMPTY,
    "1 MiB of zeros": b"\x00" * BODY_BYTES_MAX,
    "1 MiB of ones": b"\x01" * BODY_BYTES_MAX,
    "1 MiB of twos": b"\x02" * BODY_BYTES_MAX,
    "1 MiB of 0xff": b"\xff" * BODY_BYTES_MAX,
}


def event_schema(**payload: Any) -> str:
    fields = [{"name": "meta", "type": shipped_meta()}, *({"name": name, "type": kind} for name, kind in payload.items())]
    return json.dumps({"type": "record", "name": "x.Hostile", "fields": fields})


NESTED: Any = "string"
for _level in range(40):
    NESTED = {"type": "array", "items": NESTED}
LIST = {"type": "record", "name": "x.List", "fields": [{"name": "next", "type": ["null", "x.List"]}]}
LOOP = {"type": "record", "name": "x.Loop", "fields": [{"name": "again", "type": {"type": "array", "items": "x.Loop"}}]}

FORBIDDEN = {
    "an enum": event_schema(a={"type": "enum", "name": "x.E", "symbols": ["A"]}),
    "bytes": event_schema(a="bytes"),
    "fixed": event_schema(a={"type": "fixed", "name": "x.F", "size": 2**31}),
    "fixed of no size": event_schema(a={"type": "array", "items": {"type": "fixed", "name": "x.F", "size": 0}}),
    "decimal bytes": event_schema(a={"type": "bytes", "logicalType": "decimal", "precision": 9}),
    "a null": event_schema(a="null"),
    "an array of nulls": event_schema(a={"type": "array", "items": "null"}),
    "a record without fields": event_schema(a={"type": "array", "items": {"type": "record", "name": "x.N", "fields": []}}),
    "a list of itself": event_schema(a=LIST),
    "a record of arrays of itself": event_schema(a=LOOP),
    "the event in itself": event_schema(a=["null", "x.Hostile"]),
    "a union of three": event_schema(a=["null", "string", "long"]),
    "a union with null last": event_schema(a=["string", "null"]),
    "a union of one": event_schema(a=["null"]),
    "a union of nothing": event_schema(a=[]),
    "a union in a union": event_schema(a=["null", ["null", "string"]]),
    "nested too deeply": event_schema(a=NESTED),
    "an unknown type": event_schema(a="x.Nobody"),
    "a type that is a number": event_schema(a=7),
    "a type that is absent": event_schema(a={}),
    "too long": event_schema(a={"type": "string", "doc": "d" * 65536}),
    "no JSON": "{",
    "JSON nested without end": "[" * 60_000,
    "objects nested without end": '{"type":' * 8_000,
    "a number of many digits": "9" * 60_000,
    "NaN": '{"type": NaN}',
    "a lone surrogate": '"\\ud800"',
    "a text": '"string"',
    "an empty object": "{}",
    "an array": "[]",
    "null": "null",
    "a repeated member": '{"type": "record", "type": "enum", "name": "x.A", "symbols": ["A"]}',
    "no meta": json.dumps(RICH),
    "another meta": event_schema().replace("expected_head", "expected_tail"),
}

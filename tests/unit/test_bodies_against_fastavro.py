"""The walk that reads bodies gives what fastavro gives, for any schema that a log may carry and any bytes.

Bodies are written here by hand, so that blocks are split and sized in every way that Avro allows. fastavro is asked only about
bytes that the walk has passed: it may crash on others.
"""

from __future__ import annotations

import json
import struct
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxlog.codec.avro import Decoder
from ctxlog.codec.schemas import Schema
from ctxlog.errors import UndecodableError

PRIMITIVES = ("string", "long", "int", "boolean", "float", "double")


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    """A record of records, arrays, maps and optional values; records are named again where they are known."""
    known: list[str] = []

    def record(depth: int) -> dict[str, Any]:
        name = f"R{draw(st.integers(0, 10**9))}_{len(known)}_{depth}"
        fields = [{"name": f"f{i}", "type": kind(depth + 1)} for i in range(draw(st.integers(1, 5)))]
        known.append(name)
        return {"type": "record", "name": name, "fields": fields}

    def kind(depth: int) -> Any:
        inner = ("record", "array", "map") if depth < 4 else ()
        match draw(st.sampled_from((*PRIMITIVES, "optional", "known", *inner))):
            case "optional":
                found = kind(depth)
                return found if isinstance(found, list) else ["null", found]
            case "known":
                return draw(st.sampled_from(known)) if known else "string"
            case "record":
                return record(depth)
            case "array":
                return {"type": "array", "items": kind(depth + 1)}
            case "map":
                return {"type": "map", "values": kind(depth + 1)}
            case primitive:
                return primitive

    return record(0)


def zigzag(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)
    found = bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*found, rest])


def text(draw: st.DrawFn) -> bytes:
    sizes = st.sampled_from((63, 64, 127, 128, 8191, 8192))  # Where a length takes one byte more.
    value = draw(st.text(max_size=20) | sizes.map("x".__mul__)).encode()
    return zigzag(len(value)) + value


def written(draw: st.DrawFn, node: Any, named: dict[str, Any]) -> bytes:
    """The body of some datum of a schema."""
    match node:
        case "string":
            return text(draw)
        case "long":
            return zigzag(draw(st.integers(-(2**63), 2**63 - 1)))
        case "int":
            return zigzag(draw(st.integers(-(2**31), 2**31 - 1)))
        case "boolean":
            return draw(st.sampled_from((b"\x00", b"\x01")))
        case "float" | "double":
            number = draw(st.floats(allow_nan=False, width=32))
            return struct.pack("<f" if node == "float" else "<d", number)
        case str():
            return written(draw, named[node], named)
        case ["null", inner]:
            return b"\x02" + written(draw, inner, named) if draw(st.booleans()) else b"\x00"
        case {"type": "record"}:
            named[node["name"]] = node
            return b"".join(written(draw, field["type"], named) for field in node["fields"])
    found = b""
    for count in draw(st.lists(st.integers(1, 3), max_size=2)):
        items = b""
        for _ in range(count):
            items += text(draw) if node["type"] == "map" else b""
            items += written(draw, node.get("items", node.get("values")), named)
        found += (zigzag(-count) + zigzag(len(items)) if draw(st.booleans()) else zigzag(count)) + items
    return found + b"\x00"


def define(node: Any, named: dict[str, Any]) -> None:
    """Collect the records of a schema, also of those parts that a datum leaves out."""
    if isinstance(node, list):
        define(node[1], named)
    elif isinstance(node, dict):
        named[node.get("name", "")] = node
        for inner in [field["type"] for field in node.get("fields", [])] + [node.get("items"), node.get("values")]:
            define(inner, named)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Schema, bytes]:
    node = draw(schemas())
    named: dict[str, Any] = {}
    define(node, named)
    return Schema(json.dumps(node)), written(draw, node, named)


def by_fastavro(schema: Schema, body: bytes) -> Any:
    stream = BytesIO(body)
    datum = fastavro.schemaless_reader(stream, fastavro.parse_schema(schema.node), None)
    assert stream.tell() == len(body)
    return datum


def same(one: Any, other: Any) -> bool:
    """Equal with equal types, members in the same order; NaN equals NaN."""
    return repr(one) == repr(other)


@given(bodies())
def test_a_body_is_read_as_fastavro_reads_it(made: tuple[Schema, bytes]) -> None:
    schema, body = made
    assert same(Decoder(schema).decode(body), by_fastavro(schema, body))


@given(bodies(), st.data())
def test_changed_bytes_are_refused_or_read_as_fastavro_reads_them(made: tuple[Schema, bytes], data: st.DataObject) -> None:
    schema, body = made
    at = data.draw(st.integers(0, len(body)))
    changed = body[:at] + data.draw(st.binary(max_size=3)) + body[at + data.draw(st.integers(0, 3)) :]
    try:
        datum = Decoder(schema).decode(changed)
    except UndecodableError:
        return
    assert same(datum, by_fastavro(schema, changed))


@given(bodies(), st.data())
def test_part_of_a_body_and_a_body_with_more_behind_it_are_refused(made: tuple[Schema, bytes], data: st.DataObject) -> None:
    """A body is exactly one datum, whatever its last field is."""
    schema, body = made
    for wrong in (body[: data.draw(st.integers(0, len(body) - 1))], body + data.draw(st.binary(min_size=1, max_size=3))):
        with pytest.raises(UndecodableError):
            Decoder(schema).decode(wrong)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ({"type": "array", "items": "long"}, zigzag(-2) + zigzag(3) + b"\x02\x04\x00"),
        ({"type": "array", "items": "long"}, zigzag(-2) + zigzag(1) + b"\x02\x04\x00"),
        ("long", b"\xff" * 9 + b"\x02"),
        ("long", b"\x80" * 10 + b"\x00"),
        ("int", zigzag(2**31)),
        ("string", zigzag(-1)),
        ("boolean", b"\x02"),
        (["null", "string"], b"\x04\x02a"),
    ],
    ids=["size too large", "size too small", "above 64 bits", "long number", "int out of range", "length", "boolean", "branch"],
)
def test_what_fastavro_would_let_pass_or_choke_on_is_refused(kind: Any, body: bytes) -> None:
    schema = Schema(json.dumps({"type": "record", "name": "R", "fields": [{"name": "f", "type": kind}]}))
    with pytest.raises(UndecodableError):
        Decoder(schema).decode(body)

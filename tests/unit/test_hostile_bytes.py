"""Hostile bodies and schemas: only typed errors come out, after bounded work.

Work is counted in looks at the bytes. The whole way through a log, in limited memory, is in `test_hostile_logs.py`.
"""

from __future__ import annotations

import contextlib
import json
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctxlog.codec.avro import Decoder, encode_event
from ctxlog.codec.framing import unframe
from ctxlog.codec.guard import BODY_BYTES_MAX, ITEMS_MAX, check, plan_of
from ctxlog.codec.schemas import Schema, shipped
from ctxlog.errors import SchemaError, UndecodableError
from unit.hostile import BOMBS, EMPTY, FORBIDDEN, RICH, event_schema, items, zigzag

DECODER = Decoder(Schema(json.dumps(RICH)))


def decoded(body: bytes) -> dict[str, Any] | None:
    """The datum, or None where the one error that is allowed comes."""
    try:
        return DECODER.decode(body)
    except UndecodableError:
        return None


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_undecodable(body: bytes) -> None:
    with pytest.raises(UndecodableError) as refused:
        DECODER.decode(body)
    assert refused.value.__cause__ is None  # no bytes of the record in a traceback


def test_what_is_just_within_the_bounds_is_decoded() -> None:
    """The limits refuse nothing that they allow."""
    assert DECODER.decode(EMPTY)["texts"] == []
    assert len(DECODER.decode(items(ITEMS_MAX))["texts"]) == ITEMS_MAX
    long = BODY_BYTES_MAX - len(EMPTY) - 4
    body = zigzag(1) + zigzag(long) + b"a" * long + EMPTY
    assert BODY_BYTES_MAX - 4 <= len(body) <= BODY_BYTES_MAX
    assert len(DECODER.decode(body)["texts"][0]) == long
    assert DECODER.decode(zigzag(-1) + zigzag(2) + b"\x02a" + EMPTY)["texts"] == ["a"]


@given(st.binary(max_size=200))
@example(EMPTY)
def test_any_bytes_are_one_datum_or_undecodable(body: bytes) -> None:
    """What is decoded was all of the bytes: the same datum comes out of them by plain fastavro, and nothing is left."""
    datum = decoded(body)
    if datum is not None:
        reading = BytesIO(body)
        assert repr(fastavro.schemaless_reader(reading, RICH, None)) == repr(datum)
        assert reading.tell() == len(body)


@st.composite
def damaged_events(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid event with some bytes changed, cut out or put in."""
    name = draw(st.sampled_from(("ctxlog.MessageAppended", "ctxlog.ToolCalled", "ctxlog.ContextRead", "ctxlog.FactSet")))
    schema = shipped(name).node
    body = bytearray(_example(name, schema))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(("change", "cut", "insert"))):
            case "change" if at < len(body):
                body[at] = draw(st.integers(0, 255))
            case "cut":
                del body[at : at + draw(st.integers(1, 8))]
            case _:
                body[at:at] = draw(st.binary(min_size=1, max_size=12))
    return name, bytes(body)


def _example(name: str, schema: dict[str, Any]) -> bytes:
    meta = {"event_id": "e", "stream_id": "s", "agent_id": None, "actor": "system:t", "occurred_at": 1, "scope": "default"}
    meta |= {"target": None, "append": {"id": "e", "index": 0, "count": 2}, "precondition": None, "trace": None}
    meta["privacy"] = {"data_subjects": ["a", "b"], "sealed": ["/content"]}
    payload = {field["name"]: _value(field["type"]) for field in schema["fields"][1:]}
    return encode_event(name, meta, payload)


def _value(node: Any) -> Any:
    match node:
        case "string":
            return "text"
        case "long" | "int":
            return 7
        case "boolean":
            return True
        case [_, inner]:
            return _value(inner)
        case {"type": "array", "items": inner}:
            return [_value(inner)] * 2
        case {"type": "map", "values": inner}:
            return {"key": _value(inner)}
        case {"type": "record", "fields": fields}:
            return {field["name"]: _value(field["type"]) for field in fields}
        case _:
            return None


@given(damaged_events())
def test_a_damaged_event_is_one_datum_or_undecodable(event: tuple[str, bytes]) -> None:
    name, body = event
    decoder = Decoder(shipped(name))
    try:
        datum = decoder.decode(body)
    except UndecodableError:
        return
    reading = BytesIO(body)
    assert fastavro.schemaless_reader(reading, decoder.schema.node, None) == datum
    assert reading.tell() == len(body)


class Counting(bytes):
    """Bytes that count how often one of them is looked at."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        Counting.looks += 1
        return super().__getitem__(at)


@given(st.binary(min_size=1, max_size=12), st.integers(1, 60))
def test_a_scan_looks_at_each_byte_a_few_times_at_most(pattern: bytes, times: int) -> None:
    """Work grows with the bytes, whatever they say."""
    body = Counting(pattern * times)
    Counting.looks = 0
    with contextlib.suppress(UndecodableError):
        check(plan_of(DECODER.schema.node), body)
    assert Counting.looks <= 12 * len(body) + 64


FANNED: dict[str, Any] = {"type": "record", "name": "x.R0", "fields": [{"name": "d", "type": "double"}]}
for _level in range(1, 15):
    _fields = [{"name": f"f{number}", "type": f"x.R{_level - 1}"} for number in range(1, 8)]
    FANNED = {"type": "record", "name": f"x.R{_level}", "fields": [{"name": "f0", "type": FANNED}, *_fields]}


def test_a_schema_that_fans_out_costs_no_more_than_the_body_has_bytes() -> None:
    """8^14 values in a kilobyte of schema: the end of the body ends the walk."""
    decoder = Decoder(Schema(json.dumps(FANNED)))
    body = Counting(bytes(100_000))
    Counting.looks = 0
    with pytest.raises(UndecodableError):
        decoder.decode(body)
    assert Counting.looks < 200_000


@pytest.mark.parametrize("text", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_schema_that_a_log_may_not_carry_is_refused(text: str) -> None:
    with pytest.raises(SchemaError) as refused:
        Schema(text).check_event()
    assert refused.value.reason


def test_the_schema_that_the_forbidden_ones_are_made_of_is_allowed() -> None:
    """So each of them is refused for what it adds."""
    Schema(event_schema()).check_event()
    Schema(event_schema(a=RICH, b=["null", "string"])).check_event()


_NAMES = st.sampled_from(("string", "long", "null", "bytes", "record", "array", "map", "enum", "x.A", "ctxlog.EventMeta", ""))
_KEYS = st.sampled_from(("type", "name", "fields", "items", "values", "namespace", "symbols", "size", "logicalType", "default"))
_TREES = st.recursive(
    st.one_of(_NAMES, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=5)),
    max_leaves=20,
)


@st.composite
def spoiled_schemas(draw: st.DrawFn) -> str:
    """An allowed schema, some parts of which were replaced by others of its parts or by anything."""
    whole = json.loads(event_schema(a=RICH, b=["null", "string"]))
    for _ in range(draw(st.integers(0, 3))):
        places: list[tuple[Any, Any]] = []
        pending: list[Any] = [whole]
        while pending:
            node = pending.pop()
            inner = list(node.items() if isinstance(node, dict) else enumerate(node))
            places += [(node, name) for name, _ in inner]
            pending += [value for _, value in inner if isinstance(value, dict | list)]
        node, name = draw(st.sampled_from(places))
        other, other_name = draw(st.sampled_from(places))
        node[name] = json.loads(json.dumps(draw(st.one_of(_TREES, st.just(other[other_name])))))
    return json.dumps(whole)


@given(st.one_of(spoiled_schemas(), _TREES.map(json.dumps), st.text(max_size=60)), st.binary(max_size=60))
def test_any_text_is_an_allowed_schema_or_refused(text: str, body: bytes) -> None:
    """And any body of an allowed one is one datum or undecodable."""
    try:
        schema = Schema(text)
        schema.check_event()
    except SchemaError:
        return
    decoder = Decoder(schema)
    with contextlib.suppress(UndecodableError):
        decoder.decode(body)
    with contextlib.suppress(UndecodableError):
        decoder.decode(bytes(64))


@given(st.one_of(st.none(), st.binary(max_size=20)))
def test_any_value_is_framed_or_undecodable(value: bytes | None) -> None:
    try:
        prefix, body = unframe(value)
    except UndecodableError:
        return
    assert prefix + body == value
    assert (prefix[:2], len(prefix)) == (b"\xc3\x01", 10) or (prefix[:1], len(prefix)) == (b"\x00", 5)

"""What is read column by column is what the guard's walk reads, one by one: the same bodies pass, with the same data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxlog.codec import guard
from ctxlog.codec.columns import Columns, is_flat, read_columns
from ctxlog.codec.guard import Plan, plan_of
from ctxlog.codec.schemas import Schema, shipped
from ctxlog.errors import UndecodableError
from ctxlog.model.events import EVENT_TYPES
from unit.test_bodies_against_fastavro import define, written

KINDS = ("string", "long", "int", "boolean")


@st.composite
def flat_schemas(draw: st.DrawFn) -> Schema:
    """Records of records and optional values; inside of what is optional also what cannot be read column by column."""

    def record(depth: int, name: str) -> dict[str, Any]:
        fields = [{"name": f"f{i}", "type": kind(depth + 1, f"{name}_{i}")} for i in range(draw(st.integers(1, 4)))]
        return {"type": "record", "name": name, "fields": fields}

    def kind(depth: int, name: str) -> Any:
        match draw(st.sampled_from((*KINDS, "optional", *(("record", "group") if depth < 3 else ())))):
            case "optional":
                return ["null", draw(st.sampled_from((*KINDS, {"type": "array", "items": "string"}, "double")))]
            case "group":
                return ["null", record(depth, name)]
            case "record":
                return record(depth, name)
            case primitive:
                return primitive

    return Schema(json.dumps(record(0, "R")))


EVENTS = [schema for schema in (shipped(kind.type_name) for kind in EVENT_TYPES) if is_flat(plan_of(schema.node))]


@st.composite
def many(draw: st.DrawFn) -> tuple[Plan, list[bytes]]:
    """Bodies of one schema, some of them changed."""
    schema = draw(flat_schemas() | st.sampled_from(EVENTS))
    found = []
    for _ in range(draw(st.integers(1, 5))):
        named: dict[str, Any] = {}
        define(schema.node, named)
        body = written(draw, schema.node, named)
        if draw(st.booleans()):
            at = draw(st.integers(0, len(body)))
            # Any byte where a union's branch may stand, and numbers that are too long or just not.
            changed = st.sampled_from((b"\x01", b"\x02", b"\x04", *(b"\xff" * 9 + bytes([last]) for last in (1, 2, 128))))
            body = body[:at] + draw(st.binary(max_size=12) | changed) + body[at + draw(st.integers(0, 3)) :]
        found.append(body)
    return plan_of(schema.node), found


def datum(columns: Columns, plan: Plan, path: str, row: int) -> dict[str, Any]:
    """A body's datum, out of the columns. Raises `UnicodeDecodeError`."""
    found: dict[str, Any] = {}
    for code, name, arg in plan:
        at = path + name
        inner = arg if code == guard.RECORD else arg[0][2] if code == guard.OPTIONAL and arg[0][0] == guard.RECORD else None
        if inner is not None and (code == guard.RECORD or columns.groups[at][row]):
            found[name] = datum(columns, inner, at + ".", row)
        elif at in columns.texts:
            texts = columns.texts[at]
            start, end = int(texts.starts[row]), int(texts.starts[row] + texts.lengths[row])
            found[name] = columns.buffer[start:end].decode() if texts.valid[row] else None
        elif at in columns.numbers:
            numbers = columns.numbers[at]
            value = int(numbers.values[row])
            boolean = code == guard.BOOLEAN or (code == guard.OPTIONAL and arg[0][0] == guard.BOOLEAN)
            found[name] = (bool(value) if boolean else value) if numbers.valid[row] else None
        else:
            found[name] = None
    return found


def holds_more(node: Any) -> bool:
    """Whether a datum holds what is not read column by column."""
    return isinstance(node, list | float) or (isinstance(node, dict) and any(map(holds_more, node.values())))


@given(many())
def test_columns_hold_what_the_walk_reads(made: tuple[Plan, list[bytes]]) -> None:
    plan, bodies = made
    columns = read_columns(plan, bodies)
    for row, body in enumerate(bodies):
        try:
            expected = guard.read(plan, body)
        except UndecodableError:
            expected = None
        if not columns.passed[row]:
            assert expected is None or holds_more(expected)
            continue
        try:
            found = datum(columns, plan, "", row)
        except UnicodeDecodeError:
            assert expected is None  # Texts are checked by whoever uses them.
            continue
        assert repr(found) == repr(expected)


@pytest.mark.parametrize(("last", "passes"), [(0, True), (1, True), (2, False), (128, False)])
def test_a_number_has_64_bits(last: int, passes: bool) -> None:
    plan = plan_of(Schema('{"type": "record", "name": "R", "fields": [{"name": "f", "type": "long"}]}').node)
    body = b"\xff" * 9 + bytes([last])
    assert read_columns(plan, [b"\x02", body, b"\x04"]).passed.tolist() == [True, passes, True]


@pytest.mark.parametrize(("branch", "passes"), [(0, False), (1, False), (2, True), (3, False), (4, False)])
def test_a_union_has_two_branches(branch: int, passes: bool) -> None:
    plan = plan_of(Schema('{"type": "record", "name": "R", "fields": [{"name": "f", "type": ["null", "long"]}]}').node)
    assert read_columns(plan, [bytes([branch, 6])]).passed.tolist() == [passes]
    assert read_columns(plan, [bytes([branch])]).passed.tolist() == [branch == 0]


def test_a_body_that_is_too_long_does_not_pass() -> None:
    plan = plan_of(Schema('{"type": "record", "name": "R", "fields": [{"name": "f", "type": "string"}]}').node)
    size = guard.BODY_BYTES_MAX
    for length, passes in ((size - 3, True), (size - 2, False)):
        number = length << 1
        prefix = bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
        assert read_columns(plan, [prefix + b"x" * length]).passed.tolist() == [passes]

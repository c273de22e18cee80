"""Avro bodies, one datum each, by the plan of their schema: written here, read by the guard.

The same bytes as fastavro writes, which the tests compare with, in less than half of its time: it looks for the branch of
each union anew.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ctxlog.codec.guard import (
    ARRAY,
    BODY_BYTES_MAX,
    BOOLEAN,
    FIXED,
    INT,
    ITEMS_MAX,
    MAP,
    OPTIONAL,
    OPTIONAL_LONG,
    OPTIONAL_STRING,
    RECORD,
    Plan,
    check,
    plan_of,
    read,
)
from ctxlog.codec.schemas import Schema, shipped


class Decoder:
    """Decodes bodies of one schema."""

    __slots__ = ("_plan", "schema")

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._plan = plan_of(schema.node)

    def decode(self, body: bytes) -> dict[str, Any]:
        """The datum that `body` is.

        Raises:
            UndecodableError: `body` is not exactly one datum within the limits.
        """
        return read(self._plan, body)


@cache
def _plan(type_name: str) -> Plan:
    return plan_of(shipped(type_name).node)


def encode_event(type_name: str, meta: dict[str, Any], payload: dict[str, Any]) -> bytes:
    """The Avro body of an event of a shipped type, without framing.

    Args:
        type_name: Full name, as in `ctxlog.FactSet`.
        meta: Members of EventMeta; absent groups may be left out.
        payload: The other members.

    Raises:
        UnicodeEncodeError: A text holds a lone surrogate.
        UndecodableError: It holds more items than a body may.
    """
    plan = _plan(type_name)
    body = write(plan, {"meta": meta, **payload})
    if ITEMS_MAX < len(body) <= BODY_BYTES_MAX:  # An item takes a byte at least. A longer body fits into no record.
        check(plan, body)
    return body


def encode_plain(type_name: str, datum: dict[str, Any]) -> bytes:
    """The Avro body of a datum of a shipped schema that is not an event."""
    return write(_plan(type_name), datum)


def write(plan: Plan, datum: dict[str, Any]) -> bytes:
    """The body of a datum of the schema that `plan` was made of. Members may be left out where they can be null.

    Raises:
        UnicodeEncodeError: A text holds a lone surrogate.
        OverflowError: A number does not fit into its type.
        AttributeError, TypeError: A value is not of its type.
    """
    out = bytearray()
    _write(plan, datum, out)
    return bytes(out)


def _write(plan: Plan, datum: dict[str, Any], out: bytearray) -> None:
    for code, name, arg in plan:
        value: Any = datum.get(name)
        if code & 1:
            if value is None:
                out.append(0)
                continue
            out.append(2)
        if code <= OPTIONAL_STRING:
            text = value.encode()
            size = len(text)
            if size < 0x40:
                out.append(size << 1)
            else:
                _long(size, out)
            out += text
        elif code <= OPTIONAL_LONG:
            if not -(2**63) <= value < 2**63:
                raise OverflowError("a long takes more than 64 bits")
            _long(value, out)
        elif code == RECORD:
            _write(arg, value, out)
        elif code == OPTIONAL:
            _write(arg, datum, out)
        elif code == BOOLEAN:
            out.append(bool(value))
        elif code == FIXED:
            out += arg.pack(value)
        elif code == ARRAY:
            _blocks(arg, [{arg[0][1]: item} for item in value], out)
        elif code == MAP:
            _blocks(arg, [{arg[0][1]: key, arg[1][1]: item} for key, item in value.items()], out)
        elif code == INT:
            if not -(2**31) <= value < 2**31:
                raise OverflowError("an int takes more than 32 bits")
            _long(value, out)


def _long(number: int, out: bytearray) -> None:
    rest = (number << 1) ^ (number >> 63)
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)


def _blocks(plan: Plan, items: list[dict[str, Any]], out: bytearray) -> None:
    if items:
        _long(len(items), out)
        for item in items:
            _write(plan, item, out)
    out.append(0)

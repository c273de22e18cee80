"""Avro bodies, one datum each: written by fastavro, read by the guard."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any

import fastavro
from fastavro.types import Schema as ParsedSchema

from ctxlog.codec.guard import BODY_BYTES_MAX, ITEMS_MAX, check, plan_of, read
from ctxlog.codec.schemas import Schema, shipped

_GROUPS = {"append": "ctxlog.Append", "precondition": "ctxlog.Precondition", "trace": "ctxlog.Trace", "privacy": "ctxlog.Privacy"}


class Decoder:
    """Decodes bodies of one schema."""

    __slots__ = ("plan", "schema")

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.plan = plan_of(schema.node)

    def decode(self, body: bytes) -> dict[str, Any]:
        """The datum that `body` is.

        Raises:
            UndecodableError: `body` is not exactly one datum within the limits.
        """
        return read(self.plan, body)


@cache
def _encoder(type_name: str) -> ParsedSchema:
    return fastavro.parse_schema(shipped(type_name).node)


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
    # A tuple names the union's branch; a plain dict would make fastavro try each (half the speed).
    tagged = {name: (_GROUPS[name], value) if value is not None and name in _GROUPS else value for name, value in meta.items()}
    out = BytesIO()
    fastavro.schemaless_writer(out, _encoder(type_name), {"meta": tagged, **payload})
    body = out.getvalue()
    if ITEMS_MAX < len(body) <= BODY_BYTES_MAX:  # An item takes a byte at least. A longer body fits into no record.
        check(plan_of(shipped(type_name).node), body)
    return body


def encode_plain(type_name: str, datum: dict[str, Any]) -> bytes:
    """The Avro body of a datum of a shipped schema that is not an event."""
    out = BytesIO()
    fastavro.schemaless_writer(out, _encoder(type_name), datum)
    return out.getvalue()

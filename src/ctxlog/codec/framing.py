"""The first bytes of a record's value, which name its schema.

`00` + 4-byte big-endian id is the Confluent wire format, `C3 01` + 8-byte little-endian Rabin fingerprint Avro's single-object
encoding. The Avro body that follows is the same bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from ctxlog.errors import UndecodableError

_SINGLE_OBJECT = b"\xc3\x01"
_SINGLE_OBJECT_BYTES = 10
_CONFLUENT_BYTES = 5


class Framed(NamedTuple):
    """A value taken apart. Exactly one of `fingerprint` (hex, in wire order) and `registry_id` is set."""

    fingerprint: str | None
    registry_id: int | None
    body: bytes


def frame_single_object(fingerprint: str, body: bytes) -> bytes:
    """Single-object encoding. `fingerprint` is hex in wire order, as fastavro prints it."""
    return _SINGLE_OBJECT + bytes.fromhex(fingerprint) + body


def frame_confluent(registry_id: int, body: bytes) -> bytes:
    """Confluent wire format."""
    return b"\x00" + registry_id.to_bytes(4, "big") + body


def unframe(value: bytes | None) -> Framed:
    """Take a value apart.

    Raises:
        UndecodableError: The value is absent, too short, or framed otherwise.
    """
    if value is None:
        raise UndecodableError("the record has no value")
    if value[:2] == _SINGLE_OBJECT and len(value) >= _SINGLE_OBJECT_BYTES:
        return Framed(value[2:10].hex(), None, value[_SINGLE_OBJECT_BYTES:])
    if value[:1] == b"\x00" and len(value) >= _CONFLUENT_BYTES:
        return Framed(None, int.from_bytes(value[1:5], "big"), value[_CONFLUENT_BYTES:])
    raise UndecodableError("the framing is neither Confluent's nor single-object encoding")

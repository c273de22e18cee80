"""The first bytes of a record's value, which name its schema.

`00` + 4-byte big-endian id is the Confluent wire format, `C3 01` + 8-byte little-endian Rabin fingerprint Avro's single-object
encoding. The Avro body that follows is the same bytes.
"""

from __future__ import annotations

from functools import lru_cache

from ctxlog.errors import UndecodableError

_SINGLE_OBJECT = b"\xc3\x01"
SINGLE_OBJECT_BYTES = 10
CONFLUENT = b"\x00"
CONFLUENT_BYTES = 5

PREFIX_BYTES_MAX = SINGLE_OBJECT_BYTES
"""The longest of them."""


@lru_cache(maxsize=512)
def single_object_prefix(fingerprint: str) -> bytes:
    """What comes before a body in single-object encoding. `fingerprint` is hex in wire order, as fastavro prints it."""
    return _SINGLE_OBJECT + bytes.fromhex(fingerprint)


def confluent_prefix(registry_id: int) -> bytes:
    """What comes before a body in the Confluent wire format."""
    return CONFLUENT + registry_id.to_bytes(4, "big")


def frame_single_object(fingerprint: str, body: bytes) -> bytes:
    """A value in single-object encoding."""
    return single_object_prefix(fingerprint) + body


def frame_confluent(registry_id: int, body: bytes) -> bytes:
    """A value in the Confluent wire format."""
    return confluent_prefix(registry_id) + body


def registry_id_of(prefix: bytes) -> int | None:
    """The registry's id in a prefix; None where it holds a fingerprint."""
    return int.from_bytes(prefix[1:], "big") if len(prefix) == CONFLUENT_BYTES else None


def unframe(value: bytes | None) -> tuple[bytes, bytes]:
    """Prefix and body of a value.

    Raises:
        UndecodableError: The value is absent, too short, or framed otherwise.
    """
    if value is None:
        raise UndecodableError("the record has no value")
    if value[:2] == _SINGLE_OBJECT and len(value) >= SINGLE_OBJECT_BYTES:
        return value[:SINGLE_OBJECT_BYTES], value[SINGLE_OBJECT_BYTES:]
    if value[:1] == CONFLUENT and len(value) >= CONFLUENT_BYTES:
        return value[:CONFLUENT_BYTES], value[CONFLUENT_BYTES:]
    raise UndecodableError("the framing is neither Confluent's nor single-object encoding")

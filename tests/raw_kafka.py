"""A produce request by hand, for what no client library lets one send: names of headers that are no text."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

_PRODUCE, _VERSION = 0, 3
_TABLE = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ (0x82F63B78 if _value & 1 else 0)
    _TABLE.append(_value)


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _varint(number: int) -> bytes:
    value, out = (number << 1) ^ (number >> 63), bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def produce(bootstrap: str, topic: str, partition: int, key: bytes, value: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Produce one record to the one broker that there is."""
    record = b"\0" + _varint(0) + _varint(0) + _sized(key) + _sized(value)
    record += _varint(len(headers)) + b"".join(_sized(name) + _sized(what) for name, what in headers)
    batch = struct.pack(">hiqqqhii", 0, 0, 0, 0, -1, -1, -1, 1) + _sized(record)
    batch = struct.pack(">ibI", -1, 2, _crc32c(batch)) + batch
    batch = struct.pack(">qi", 0, len(batch)) + batch
    name = struct.pack(">h", len(topic)) + topic.encode()
    request = struct.pack(">hhih", _PRODUCE, _VERSION, 1, -1) + struct.pack(">hhi", -1, -1, 30_000)
    request += struct.pack(">i", 1) + name + struct.pack(">iii", 1, partition, len(batch)) + batch
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = connection.makefile("rb")
        (size,) = struct.unpack(">i", answer.read(4))
        # Correlation id, one topic with its name, one partition with its number, then the error.
        (error,) = struct.unpack_from(">h", answer.read(size), 4 + 4 + len(name) + 4 + 4)
    assert error == 0, f"the broker answered {error}"

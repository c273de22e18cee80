"""Between the messages of Kafka and the records of a log."""

from __future__ import annotations

from operator import methodcaller
from typing import TYPE_CHECKING, Any

from ctxlog.model.records import ORIGIN_HEADER, NewRecord, Origin, Record

if TYPE_CHECKING:
    from confluent_kafka import Message


_headers = methodcaller("headers")
"""Not `message.headers()`: where a name is not UTF-8, the binding returns a broken list with the error pending. Python's own call
sees that and raises `SystemError`; the bytecode of a call that has run some times does not look, and reading the list ends the
process. (confluent-kafka 2.16.0)"""


def record_of(message: Message) -> Record:
    """The record that a message is, byte for byte."""
    try:
        headers = _headers(message)
    except (SystemError, UnicodeDecodeError):  # Somebody's headers, which say nothing to anybody, an origin among them too.
        headers = None
    partition: Any = message.partition()
    offset: Any = message.offset()
    key: Any = message.key()
    value: Any = message.value()
    origin = origin_of(headers) if headers else None
    return Record(partition, offset, message.timestamp()[1], key, value, origin)


def origin_of(headers: list[tuple[str, bytes | None]]) -> Origin | None:
    """The origin that headers say; None where there is none, or several, or one that ctxlog did not write."""
    found = [value for name, value in headers if name == ORIGIN_HEADER]
    if len(found) != 1 or found[0] is None:
        return None
    try:
        return Origin.parse(found[0].decode("ascii"))
    except ValueError:
        return None


def headers_of(record: NewRecord) -> list[tuple[str, str | bytes | None]] | None:
    """The headers that a record gets."""
    headers: list[tuple[str, str | bytes | None]] = [*record.headers]
    if record.origin is not None:
        headers.append((ORIGIN_HEADER, str(record.origin).encode("ascii")))
    return headers or None

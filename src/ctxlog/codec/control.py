"""Control records: what a log says about itself, under the key `ctxlog:control`.

They are always framed with the shipped control schema, which is never published, and hold RFC 8785 JSON text. Whatever is
malformed, of another log, repeated or of unknown kind is a row without effect, the same for every reader.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import rfc8785

from ctxlog.codec.avro import Decoder, encode_plain
from ctxlog.codec.framing import single_object_prefix, unframe
from ctxlog.codec.schemas import CONTROL_NAME, Schema, shipped
from ctxlog.codec.strictjson import parse_json
from ctxlog.core.arbitration import RULES
from ctxlog.core.digests import record_digest, undecodable_digest
from ctxlog.errors import UndecodableError
from ctxlog.model.records import CONTROL_KEY, NewRecord

PARTITIONER = "murmur2"


class Control(NamedTuple):
    """A well-formed control record. `data` has the members that its kind asks for."""

    kind: str
    data: dict[str, Any]


def genesis(log_id: str, topic_id: str | None, partitions: int) -> Control:
    """The record that each partition begins with."""
    return Control(
        "Genesis",
        {"log_id": log_id, "topic_id": topic_id, "partitions": partitions, "partitioner": PARTITIONER, "rules": RULES},
    )


def topic_adopted(log_id: str, topic_id: str) -> Control:
    """The record after which the log stands in a topic with another id, because it was restored."""
    return Control("TopicAdopted", {"log_id": log_id, "topic_id": topic_id})


def schema_published(log_id: str, schema: Schema, registry_id: int | None) -> Control:
    """The record after which a schema may be used in a partition."""
    return Control(
        "SchemaPublished",
        {
            "log_id": log_id,
            "name": schema.name,
            "fingerprint": schema.fingerprint,
            "digest": schema.digest.hex(),
            "registry_id": registry_id,
            "schema": schema.text,
        },
    )


def copy_started(log_id: str, source_log_id: str) -> Control:
    """The record directly after genesis that makes a log a copy."""
    return Control("CopyStarted", {"log_id": log_id, "source_log_id": source_log_id})


def copy_finished(log_id: str, source_log_id: str, *, undecodable: int, misplaced: int) -> Control:
    """The record that ends a copy, with the numbers of records that stayed behind."""
    return Control(
        "CopyFinished",
        {"log_id": log_id, "source_log_id": source_log_id, "undecodable": undecodable, "misplaced": misplaced},
    )


def head_signed(log_id: str, note: str) -> Control:
    """The record that keeps a signed head of its own partition, as the note that was signed."""
    return Control("HeadSigned", {"log_id": log_id, "note": note})


def encode_control(partition: int, control: Control) -> NewRecord:
    """The record that carries `control`."""
    body = encode_plain(CONTROL_NAME, {"kind": control.kind, "data": rfc8785.dumps(control.data).decode()})
    return NewRecord(partition, CONTROL_KEY, single_object_prefix(shipped(CONTROL_NAME).fingerprint) + body)


@cache
def _decoder() -> Decoder:
    return Decoder(shipped(CONTROL_NAME))


def decode_control(value: bytes | None) -> Control:
    """The control record that `value` is.

    Raises:
        UndecodableError: It is malformed or of unknown kind; `reason` says why.
    """
    prefix, body = unframe(value)
    if prefix != single_object_prefix(shipped(CONTROL_NAME).fingerprint):
        raise UndecodableError("it is not framed with the control schema")
    datum = _decoder().decode(body)
    kind, text = datum["kind"], datum["data"]
    members = _MEMBERS.get(kind)
    if members is None:
        raise UndecodableError("its kind is unknown")
    data = _parse(text)
    if data is None:
        raise UndecodableError("its data is not an object in RFC 8785 form")
    if any(name not in data or not fits(data[name]) for name, fits in members.items()):
        raise UndecodableError("its data lacks a member of its kind")
    return Control(kind, data)


def control_digest(value: bytes | None) -> bytes:
    """Record digest of what stands under the key `ctxlog:control`: whether it is one datum of the control schema decides."""
    try:
        prefix, body = unframe(value)
        if prefix == single_object_prefix(shipped(CONTROL_NAME).fingerprint):
            _decoder().decode(body)
            return record_digest(shipped(CONTROL_NAME).digest, CONTROL_KEY, body)
    except UndecodableError:
        pass
    return undecodable_digest(CONTROL_KEY, value)


def _parse(text: str) -> dict[str, Any] | None:
    """The object that `text` is in RFC 8785 form; None where it is none."""
    try:
        data = parse_json(text)
        if isinstance(data, dict) and rfc8785.dumps(data) == text.encode():
            return data
    except (ValueError, rfc8785.CanonicalizationError):
        return None
    return None


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


_MEMBERS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "Genesis": {
        "log_id": _text,
        "topic_id": _optional(_text),
        "partitions": lambda value: _count(value) and value > 0,
        "partitioner": _text,
        "rules": _count,
    },
    "TopicAdopted": {"log_id": _text, "topic_id": _text},
    "SchemaPublished": {
        "log_id": _text,
        "name": _text,
        "fingerprint": _text,
        "digest": _text,
        "registry_id": _optional(lambda value: _count(value) and value < 2**32),
        "schema": _text,
    },
    "CopyStarted": {"log_id": _text, "source_log_id": _text},
    "CopyFinished": {"log_id": _text, "source_log_id": _text, "undecodable": _count, "misplaced": _count},
    "HeadSigned": {"log_id": _text, "note": _text},
}

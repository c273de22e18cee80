"""Digests and the chain head: what makes a version of a context an id, as a commit is in git.

Always over stored bytes and the same in every backend and framing. A 64-bit fingerprint can be forged, so the SHA-256 of the
schema's canonical form stands in each record digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ctxlog.core.canonical import canonical_json

if TYPE_CHECKING:
    from ctxlog.model.reads import Released
    from ctxlog.model.selection import Window
    from ctxlog.model.state import ContextState

sha256 = hashlib.sha256
_NULL = b"\xff\xff\xff\xff"


def prefixed(data: bytes | None) -> bytes:
    """P(b): 4-byte big-endian length, then the bytes; P(null) is FFFFFFFF."""
    return _NULL if data is None else len(data).to_bytes(4, "big") + data


def schema_digest(canonical_form: str) -> bytes:
    """SHA-256 of the UTF-8 Avro Parsing Canonical Form, 32 raw bytes."""
    return sha256(canonical_form.encode()).digest()


def record_digest(schema: bytes, key: bytes | None, body: bytes) -> bytes:
    """Digest of a decodable record. `schema` is its schema digest, `body` its Avro body without framing."""
    # Without `prefixed`, which would cost a tenth of it: this is done to every record by every reader.
    parts = (
        b"\x01\0\0\0\x20",
        schema,
        _NULL if key is None else len(key).to_bytes(4, "big"),
        key or b"",
        len(body).to_bytes(4, "big"),
        body,
    )
    return sha256(b"".join(parts)).digest()


def record_digests(schema: bytes, keys: Sequence[bytes | None], bodies: Sequence[bytes]) -> list[bytes]:
    """As `record_digest`, of many records of one schema."""
    starts = {key: b"\x01\0\0\0\x20" + schema + prefixed(key) for key in set(keys)}
    return [
        sha256(b"".join((starts[key], len(body).to_bytes(4, "big"), body))).digest()
        for key, body in zip(keys, bodies, strict=True)
    ]


def undecodable_digest(key: bytes | None, value: bytes | None) -> bytes:
    """Digest of a record whose value cannot be decoded, over its raw value."""
    return sha256(b"\x00" + prefixed(key) + prefixed(value)).digest()


def chain_start(stream_id: str) -> bytes:
    """H(0) of a stream."""
    return sha256(b"ctxlog:chain:1" + stream_id.encode()).digest()


def chain_next(head: bytes, digest: bytes) -> bytes:
    """H(n) from H(n-1) and the record digest of the n-th accepted event."""
    return sha256(head + digest).digest()


def state_digest(state: Mapping[str, Any]) -> str:
    """SHA-256 over the RFC 8785 JSON of a state as `ContextState.to_dict` gives it, lower-case hex."""
    return sha256(canonical_json(state)).hexdigest()


def selection_digest(selected: Window | ContextState | Released) -> str:
    """SHA-256 over the RFC 8785 JSON of what was selected from a state, as it is stored: lower-case hex.

    The JSON is an object with `stream_id`, `version`, `chain_head`, `messages`, `facts` and `tool_calls`, each as a state has
    them (`docs/reference/state.md`).
    """
    return sha256(
        canonical_json(
            {
                "stream_id": selected.stream_id,
                "version": selected.version,
                "chain_head": selected.chain_head,
                "messages": [message.to_dict() for message in selected.messages],
                "facts": {key: fact.to_dict() for key, fact in selected.facts.items()},
                "tool_calls": {key: call.to_dict() for key, call in selected.tool_calls.items()},
            }
        )
    ).hexdigest()

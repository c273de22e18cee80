"""Values of LangGraph as JSON, and back. What a log holds never says what is imported: what JSON cannot carry goes through a
serializer that is held to an allow-list and never unpickles.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from ctxlog.client.log import ContextLog
from ctxlog.errors import IntegrityError, InvalidInputError
from ctxlog.model.ids import MAX_ID_BYTES
from ctxlog.model.jsontext import json_text

Json = dict[str, Any]

READABLE_CHARS = 100
"""Characters that are shown of what JSON cannot carry."""

_SAFE = frozenset({"null", "bytes", "bytearray", "msgpack"})


class SafeSerializer(JsonPlusSerializer):
    """LangGraph's serializer with its strict allow-list, and without the formats whose data names constructors or code."""

    def __init__(self) -> None:
        super().__init__(pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value. Raises `IntegrityError` for a format that is not written here."""
        if data[0] not in _SAFE:
            raise broken(f"a value in one of the formats {', '.join(sorted(_SAFE))}")
        return super().loads_typed(data)


class BrokenEventError(IntegrityError):
    """An event that no `CtxlogSaver` wrote; `of` says of which stream."""

    def __init__(self, expected: str, stream_id: str | None = None) -> None:
        self._expected = expected
        where = "a langgraph event" if stream_id is None else f"a langgraph event of stream {stream_id!r}"
        super().__init__(
            f"{where}: expected {expected}, found something else; nothing was restored. "
            "Another program than CtxlogSaver wrote it, or a newer one."
        )

    def of(self, stream_id: str) -> BrokenEventError:
        """The same error, with the stream's name."""
        return BrokenEventError(self._expected, stream_id)


def broken(expected: str) -> BrokenEventError:
    """The error for an event that no `CtxlogSaver` wrote; it quotes nothing of it."""
    return BrokenEventError(expected)


def written_name(what: str, written: str) -> str:
    """Return a written name if a stream or a fact may have it. Raises `InvalidInputError`."""
    if len(written) > MAX_ID_BYTES:
        raise InvalidInputError(
            f"{what}: its written name has {len(written)} bytes, expected at most {MAX_ID_BYTES}; nothing was put. "
            "Shorten it: what is not ASCII takes three for each byte of its UTF-8."
        )
    return written


def open_log(log: Any) -> ContextLog:
    """Return what is an open log. Raises `InvalidInputError` for anything else, as for the face of a log for coroutines."""
    if not isinstance(log, ContextLog):
        raise InvalidInputError(
            f"log: expected a ContextLog, found {type(log).__name__}; nothing was done. Open a `ContextLog`: what takes it "
            "here has coroutines of its own. For others, `AsyncContextLog(log)` is its face."
        )
    return log


def dump(value: Any, serde: SerializerProtocol) -> Json:
    """A value: as JSON where that is exact, else as the serializer's bytes."""
    try:
        if plain(value):
            return {"j": value}
    except RecursionError:
        pass
    kind, data = serde.dumps_typed(value)
    return {"t": kind, "b": base64.b64encode(data).decode()}


def load(stored: Any, serde: SerializerProtocol) -> Any:
    """The value of what `dump` made; each call makes a new one. Raises `IntegrityError`."""
    if isinstance(stored, dict):
        if stored.keys() == {"j"}:
            return json.loads(json_text(stored["j"]))
        if stored.keys() == {"t", "b"} and isinstance(stored["t"], str) and isinstance(stored["b"], str):
            try:
                data = base64.b64decode(stored["b"], validate=True)
            except binascii.Error:
                raise broken("bytes in base64") from None
            try:
                return serde.loads_typed((stored["t"], data))
            except (ValueError, TypeError, NotImplementedError, RecursionError):
                raise broken("a value that its serializer reads") from None
    raise broken("a value")


def plain(value: Any) -> bool:
    """Whether JSON carries the value exactly."""
    kind = type(value)
    if value is None or kind in (str, bool, int):
        return kind is not int or -(2**63) <= value < 2**63
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(map(plain, value))
    return kind is dict and all(type(key) is str for key in value) and all(map(plain, value.values()))


def readable(value: Any) -> Any:
    """A value for people to read: what JSON cannot carry stands in it as a short text. It is not restored from this."""
    if plain(value):
        return value
    if isinstance(value, dict):
        return {str(name): readable(item) for name, item in value.items()}
    return [readable(item) for item in value] if isinstance(value, list | tuple) else str(value)[:READABLE_CHARS]

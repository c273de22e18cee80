"""Values of LangGraph as JSON text, and back. What a log holds never says what is imported: the classes of messages stand in a
table here, and everything else goes through a serializer that is held to an allow-list and never unpickles.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
from collections.abc import Container
from typing import Any

from langchain_core import messages as lc
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from ctxlog.errors import IntegrityError
from ctxlog.model.jsontext import json_text

Json = dict[str, Any]

_MESSAGES: dict[str, type[lc.BaseMessage]] = {
    kind.__name__: kind
    for kind in (
        lc.AIMessage,
        lc.AIMessageChunk,
        lc.ChatMessage,
        lc.FunctionMessage,
        lc.HumanMessage,
        lc.RemoveMessage,
        lc.SystemMessage,
        lc.ToolMessage,
    )
}
_SAFE = frozenset({"null", "bytes", "bytearray", "msgpack"})
_MISSING = object()


class SafeSerializer(JsonPlusSerializer):
    """LangGraph's serializer with its strict allow-list, and without the formats whose data names constructors or code."""

    def __init__(self) -> None:
        super().__init__(pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value. Raises `IntegrityError` for a format that is not written here."""
        if data[0] not in _SAFE:
            raise broken(f"a value in one of the formats {', '.join(sorted(_SAFE))}")
        return super().loads_typed(data)


def broken(expected: str) -> IntegrityError:
    """The error for an event that no `CtxlogSaver` wrote; it quotes nothing of it."""
    return IntegrityError(
        f"a langgraph event of the thread: expected {expected}, found something else; nothing was restored. "
        "Another program than CtxlogSaver wrote it, or a newer one."
    )


def dump(value: Any, serde: SerializerProtocol) -> Json:
    """A value: as JSON where that is exact, else as the serializer's bytes."""
    try:
        if _plain(value):
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


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages, each of a class that is restored by name."""
    return type(value) is list and bool(value) and all(_MESSAGES.get(type(item).__name__) is type(item) for item in value)


def dump_message(message: lc.BaseMessage, serde: SerializerProtocol, known: Container[str] = ()) -> str:
    """A message as JSON text from which `load_message` makes an equal one. For a text that is `known` that was seen before."""
    kind = type(message).__name__
    defaults = _defaults(type(message))
    data = {
        name: value
        for name, value in message.__dict__.items()
        if name != "type" and (name == "content" or value != defaults.get(name, _MISSING))
    }
    data |= message.model_extra or {}
    try:
        if _plain(data):
            text = json_text({"class": kind, "data": data})
            if text in known:
                return text
            back = load_message(text, serde)
            if type(back) is type(message) and back == message:
                return text
    except (IntegrityError, RecursionError):
        pass
    return json_text({"class": kind, "value": dump(message, serde)})


def load_message(text: str, serde: SerializerProtocol) -> lc.BaseMessage:
    """The message. Raises `IntegrityError`."""
    stored = json.loads(text)
    kind = _MESSAGES.get(str(stored.get("class"))) if isinstance(stored, dict) else None
    if kind is None:
        raise broken("a message of a class that LangChain has")
    if "value" in stored:
        message = load(stored["value"], serde)
        if not isinstance(message, lc.BaseMessage):
            raise broken("a message")
        return message
    try:
        return kind(**stored["data"])
    except (ValueError, TypeError, KeyError):
        raise broken("the members of a message") from None


@functools.cache
def _defaults(kind: type[lc.BaseMessage]) -> Json:
    """The members that need not be written, each with the value that it then has."""
    return {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in kind.model_fields.items()
        if not field.is_required()
    }


def _plain(value: Any) -> bool:
    """Whether JSON carries the value exactly."""
    kind = type(value)
    if value is None or kind in (str, bool, int):
        return kind is not int or -(2**63) <= value < 2**63
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(map(_plain, value))
    return kind is dict and all(type(key) is str for key in value) and all(map(_plain, value.values()))

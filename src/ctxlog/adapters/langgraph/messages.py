"""Messages of LangChain: as JSON text, back, and whether one is what is kept already.

The classes stand in a table here: what a log holds never says what is imported. A put brings the whole list again, so to
recognise a message costs a comparison, and only a new one is written out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import ormsgpack
from langchain_core import messages as lc
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot as DeltaSnapshot

from ctxlog.adapters.langgraph.encoding import Json, broken, dump, load, plain
from ctxlog.adapters.langgraph.redacting import without_text
from ctxlog.errors import IntegrityError
from ctxlog.model.jsontext import json_text

_CLASSES: dict[str, type[lc.BaseMessage]] = {
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
_KINDS = frozenset(_CLASSES.values())
_MISSING = object()
_fill = object.__setattr__
_LEAVES = frozenset((str, bool, int, float, type(None)))
_STRICT = (
    ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)

__all__ = ["DeltaSnapshot", "KeptMessage", "dump_message", "is_message", "is_messages", "load_message", "told_of", "with_id"]


def is_message(value: Any) -> bool:
    """Whether a value is a message of a class that is restored by name."""
    return type(value) in _KINDS


def is_messages(value: Any) -> bool:
    """Whether a value is a list of such messages, and not empty."""
    return type(value) is list and bool(value) and _KINDS.issuperset(map(type, value))


def dump_message(message: lc.BaseMessage, serde: SerializerProtocol) -> str:
    """A message as JSON text from which `load_message` makes an equal one."""
    for _ in range(3):  # LangGraph gives messages their ids while their writes are being kept, in another thread.
        data = _told(message.__dict__, message.model_extra, type(message))
        try:
            if plain(data):
                text = json_text({"class": type(message).__name__, "data": data})
                if load_message(text, serde) == message:
                    return text
        except (IntegrityError, RecursionError):
            break
    its_id = message.id if isinstance(message.id, str) else None
    bare = message if its_id is None else message.model_copy(update={"id": None})
    return _named({"class": type(message).__name__, "value": dump(bare, serde)}, its_id)


def _named(stored: Json, its_id: str | None) -> str:
    """The text of a message whose id stands beside its value, so that it is known by it as others are."""
    return json_text(dict(sorted((stored if its_id is None else {**stored, "id": its_id}).items())))


def _told(members: Json, extra: Json | None, kind: type[lc.BaseMessage]) -> Json:
    """The members that a message of a kind does not have anyway."""
    defaults = _defaults(kind)
    data = {
        name: value
        for name, value in members.items()
        if name != "type" and (name == "content" or value != defaults.get(name, _MISSING))
    }
    return dict(sorted((data | (extra or {})).items()))


def load_message(text: str, serde: SerializerProtocol) -> lc.BaseMessage:
    """The message. Raises `IntegrityError`."""
    return _made(json.loads(text), serde)


def _made(stored: Any, serde: SerializerProtocol) -> lc.BaseMessage:
    kind = _CLASSES.get(str(stored.get("class"))) if isinstance(stored, dict) else None
    if kind is None:
        raise broken("a message of a class that LangChain has")
    if "value" in stored:
        message = load(stored["value"], serde)
        if not isinstance(message, lc.BaseMessage):
            raise broken("a message")
        if isinstance(stored.get("id"), str):
            message.id = stored["id"]
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


def with_id(text: str, message_id: str | None) -> str:
    """The text of the same message under another id."""
    stored = json.loads(text)
    if "data" not in stored:
        return _named({name: value for name, value in stored.items() if name != "id"}, message_id)
    data = {name: value for name, value in stored["data"].items() if name != "id"}
    if message_id is not None:
        data["id"] = message_id
    return json_text({"class": stored["class"], "data": dict(sorted(data.items()))})


class _Frozen(NamedTuple):
    """The members of a message of plain values, which nobody else holds; packed, those that are objects and lists."""

    kind: type[lc.BaseMessage]
    data: Json
    extra: Json | None
    fields_set: frozenset[str]
    packed: bytes


class KeptMessage:
    """A message that the log holds: as its text, or as the event that shows it, what stands beside it, and its calls.

    Attributes:
        its_id: Its id in LangChain; None where it has none.
        redacted: Whether its text was taken out of the context. It is then restored without it, and known by both.
    """

    __slots__ = ("_frozen", "_live", "_source", "_text", "its_id", "redacted")

    def __init__(self, its_id: str | None, text: str | None, source: tuple[Json, Json, Sequence[Json]] | None = None) -> None:
        self.its_id = its_id
        self._text = text
        self._source = source
        self._frozen: _Frozen | None = None
        self._live: lc.BaseMessage | None = None  # One that was found to be the same.
        self.redacted = False

    def text(self) -> str:
        """Its JSON text. Raises `IntegrityError`."""
        if self._text is not None:
            return self._text
        if self._source is not None:
            return json_text(told_of(*self._source))
        if self._frozen is None:
            raise broken("a message")
        frozen = self._frozen
        return json_text({"class": frozen.kind.__name__, "data": _told(frozen.data, frozen.extra, frozen.kind)})

    def restore(self, serde: SerializerProtocol) -> lc.BaseMessage:
        """A message of its own, whatever becomes of those that were given before. Raises `IntegrityError`."""
        made = self._restore(serde)
        return without_text(made) if self.redacted else made

    def _restore(self, serde: SerializerProtocol) -> lc.BaseMessage:
        if self._frozen is None:
            self._freeze(serde)
        frozen = self._frozen
        if frozen is None:
            return load_message(self.text(), serde)
        made = frozen.kind.__new__(frozen.kind)
        # As pydantic's own `model_construct` fills one; its `__setstate__` takes half as long again as all of this.
        _fill(made, "__dict__", frozen.data | ormsgpack.unpackb(frozen.packed))
        _fill(made, "__pydantic_extra__", _shape(frozen.extra))
        _fill(made, "__pydantic_fields_set__", set(frozen.fields_set))
        _fill(made, "__pydantic_private__", None)
        return made

    def _freeze(self, serde: SerializerProtocol) -> None:
        """Keep the members at hand, of a message that is the same with every serializer."""
        stored = told_of(*self._source) if self._source is not None else json.loads(self.text())
        if not isinstance(stored, dict) or "data" not in stored:
            return
        message = _made(stored, serde)  # Nobody else gets this one.
        data, extra = message.__dict__, message.__pydantic_extra__
        nested = {name: value for name, value in data.items() if type(value) not in _LEAVES}
        packed = _packed(nested)
        try:
            if (
                message.__pydantic_private__ is None
                and packed is not None
                and ormsgpack.unpackb(packed) == nested  # What comes back as it was is plain.
                and all(type(value) is not float or math.isfinite(value) for value in data.values())
                and plain(extra)
            ):
                self._frozen = _Frozen(type(message), data, extra, frozenset(message.model_fields_set), packed)
                self._text = self._source = None
        except RecursionError:
            return

    def is_same(self, message: lc.BaseMessage, serde: SerializerProtocol) -> bool:
        """Whether a message is this one. Raises `IntegrityError`."""
        return self._is(message, serde) or (self.redacted and bool(self.restore(serde) == message))

    def _is(self, message: lc.BaseMessage, serde: SerializerProtocol) -> bool:
        if self._frozen is None:
            self._freeze(serde)
        frozen = self._frozen
        if frozen is None:
            text, kept = dump_message(message, serde), self.text()
            # What it is restored as is the same too: an object of a class that may not be made comes back as its data.
            return text == kept or text == dump_message(load_message(kept, serde), serde)
        data, extra = message.__dict__, message.__pydantic_extra__
        if message is self._live:  # It may have been changed in its place since.
            return bool(data == frozen.data and extra == frozen.extra)
        if type(message) is not frozen.kind:
            return False
        packed = _packed([data, extra])
        if packed is None or packed != _packed([frozen.data, frozen.extra]):
            return _alike(data, frozen.data) and _alike(extra, frozen.extra)
        # It comes again with the next put. Values are held once, and the same ones are found equal at once.
        with contextlib.suppress(TypeError):
            self._frozen, self._live = frozen._replace(data=_shape(data), extra=_shape(extra)), message
        return True

    def settled(self, serde: SerializerProtocol) -> str | None:
        """The text of the message that LangGraph makes of this one; None where it is no chunk. Raises `IntegrityError`."""
        message = self._restore(serde)
        if not isinstance(message, lc.AIMessageChunk):
            return None
        return dump_message(lc.message_chunk_to_message(message), serde)


def told_of(event: Json, extra: Json, calls: Sequence[Json]) -> Json:
    """What a message says, from the event that shows it, what stands beside it, and the calls that it makes."""
    data = {"content": event["content"] if event["parts"] is None else json.loads(event["parts"]), **extra["data"]}
    if calls:
        data["tool_calls"] = [
            {"name": call["name"], "args": json.loads(call["arguments"]), "id": call["source_id"], "type": "tool_call"}
            for call in calls
        ]
    return {"class": extra["class"], "data": dict(sorted(data.items()))}


def _shape(value: Any) -> Any:
    """Objects and lists made anew, around the same leaves. Raises `TypeError` for what is not plain."""
    kind = type(value)
    if kind is dict:
        return {name: item if type(item) in _LEAVES else _shape(item) for name, item in value.items()}
    if kind is list:
        return [item if type(item) in _LEAVES else _shape(item) for item in value]
    if kind not in _LEAVES:
        raise TypeError
    return value


def _packed(value: Any) -> bytes | None:
    """What tells values from others, 1 from True and from 1.0 too; None for what MessagePack cannot carry as it is."""
    try:
        return ormsgpack.packb(value, option=_STRICT)
    except TypeError:
        return None


def _alike(one: Any, other: Any) -> bool:
    """Whether two plain values are the same in JSON: equal, and of the same types all through."""
    kind = type(one)
    if kind is not type(other):
        return False
    if kind is dict:
        return len(one) == len(other) and all(name in other and _alike(item, other[name]) for name, item in one.items())
    if kind is list:
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other) and (kind is not float or math.copysign(1, one) == math.copysign(1, other))

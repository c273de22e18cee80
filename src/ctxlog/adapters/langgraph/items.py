"""Items of LangGraph's store: their values as JSON text, and which of them a filter lets through.

What JSON carries exactly stands in the fact as it is, so that people and SQL read it. Only what it cannot carry goes through the
serializer, each in its place.
"""

from __future__ import annotations

import base64
import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from ctxlog.adapters.langgraph.encoding import load
from ctxlog.errors import IntegrityError, InvalidInputError
from ctxlog.model.jsontext import json_text

TYPED = "langgraph.typed"
"""The member that an object has alone where it stands for something that JSON cannot carry."""

DEPTH_MAX = 100
"""Objects and lists inside each other. Far below what Python's recursion allows, so that what is put can be read everywhere."""

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_EQUALITY = ("$eq", "$ne")


def value_text(value: Any, serde: SerializerProtocol) -> str:
    """The JSON text of an item's value. Raises `InvalidInputError` where it is no mapping, or nothing can carry it."""
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"value: expected a mapping, found {type(value).__name__}; nothing was put")
    try:
        return json_text(_written(dict(value), serde, DEPTH_MAX))
    except (TypeError, NotImplementedError, RecursionError, OverflowError) as error:
        raise InvalidInputError(f"value: nothing can carry it ({type(error).__name__}); nothing was put") from None


def value_of(text: str, serde: SerializerProtocol, stream_id: str, name: str) -> dict[str, Any]:
    """The value that a fact holds; each call makes a new one. Raises `IntegrityError`."""
    try:
        value = json.loads(text)
        if TYPED in text:
            value = _read(value, serde)
    except (ValueError, RecursionError, IntegrityError):
        raise _no_item(stream_id, name, "another text") from None
    if not isinstance(value, dict):
        raise _no_item(stream_id, name, type(value).__name__)
    return value


def _written(value: Any, serde: SerializerProtocol, depth: int) -> Any:
    kind = type(value)
    if not depth:
        raise InvalidInputError(f"value: expected at most {DEPTH_MAX} objects and lists inside each other; nothing was put")
    if kind in (list, tuple):  # LangGraph's serializer makes no difference between them.
        return [_written(item, serde, depth - 1) for item in value]
    if kind is dict and value.keys() != {TYPED} and all(type(name) is str for name in value):
        return {name: _written(item, serde, depth - 1) for name, item in value.items()}
    if kind in (str, bool, int, type(None)) or (kind is float and math.isfinite(value)):
        return value
    named, data = serde.dumps_typed(value)
    return {TYPED: {"t": named, "b": base64.b64encode(data).decode()}}


def _read(value: Any, serde: SerializerProtocol) -> Any:
    if isinstance(value, list):
        return [_read(item, serde) for item in value]
    if not isinstance(value, dict):
        return value
    return load(value[TYPED], serde) if value.keys() == {TYPED} else {name: _read(item, serde) for name, item in value.items()}


def _no_item(stream_id: str, name: str, found: str) -> IntegrityError:
    return IntegrityError(
        f"stream {stream_id!r}: expected fact {name!r} to be an item of CtxlogStore, a JSON object; found {found}. "
        "Nothing was read. Another program wrote it, or a newer one: put or delete the item anew."
    )


def check_filter(wanted: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A filter that can be used; empty where there is none. Raises `InvalidInputError` for an operator that does not exist."""
    for condition in (wanted or {}).values():
        _check(condition)
    return wanted or {}


def lets_through(wanted: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether a filter that was checked lets a value through: all members that it names are as it wants them."""
    return all(_is(value.get(name), condition) for name, condition in wanted.items())


def _check(condition: Any) -> None:
    if isinstance(condition, Mapping) and _operates(condition):
        if not condition.keys() <= _OPERATORS.keys():
            raise InvalidInputError(f"filter: expected the operators {', '.join(_OPERATORS)} and no others; nothing was searched")
    elif isinstance(condition, Mapping | list | tuple):
        for inner in condition.values() if isinstance(condition, Mapping) else condition:
            _check(inner)


def _operates(condition: Mapping[Any, Any]) -> bool:
    return any(name.startswith("$") for name in condition if isinstance(name, str))


def _is(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if _operates(wanted):
            return all(_holds(value, name, other) for name, other in wanted.items())
        return isinstance(value, Mapping) and all(_is(value.get(name), inner) for name, inner in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(wanted) and all(map(_is, value, wanted))
    return bool(value == wanted)


def _holds(value: Any, name: str, other: Any) -> bool:
    """Numbers are compared, texts that are numbers too, or else two texts; nothing else has an order, and is not let through."""
    if name not in _EQUALITY:
        left, right = _number(value), _number(other)
        if left is not None and right is not None:
            value, other = left, right
        elif not (isinstance(value, str) and isinstance(other, str)):
            return False
    return bool(_OPERATORS[name](value, other))


def _number(value: Any) -> int | float | None:
    if isinstance(value, int | float):
        return value
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None

"""What the extensions of a thread look like: checked before they are folded, so that no later step meets something else.

Anybody who may write to the log can write an event under their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ctxlog.adapters.langgraph.encoding import Json, broken

_TEXT = frozenset((str,))


def check_hidden(data: Any) -> None:
    """Raises `IntegrityError` where data of `langgraph.Hidden` is something else."""
    _all(isinstance(data, dict) and type(data.get("forget")) is bool and _pairs(data.get("checkpoints")))


def check_writes(data: Any) -> None:
    """Raises `IntegrityError` where data of `langgraph.Writes` is something else."""
    _all(
        _has(data, "ns", "id", "task", "path")
        and _messages(data.get("messages"))
        and _pairs(data.get("held"))
        and _texts(data.get("written"))
        and isinstance(data.get("writes"), list)
        and all(
            _has(write, "channel") and type(write.get("at")) is int and _stored(write.get("value")) for write in data["writes"]
        )
    )


def check_checkpoint(data: Any) -> None:
    """Raises `IntegrityError` where data of `langgraph.Checkpoint` is something else."""
    _all(
        _has(data, "ns", "id")
        and _messages(data.get("messages"))
        and ("parent" in data and (data["parent"] is None or isinstance(data["parent"], str)))
        and isinstance(data.get("versions"), dict)
        and isinstance(data.get("values"), dict)
        and all(map(_stored, data["values"].values()))
        and isinstance(data.get("checkpoint"), dict)
        and isinstance(data.get("metadata"), dict)
    )


def named(data: Json) -> Iterator[str]:
    """The ids of the messages that checked data of a checkpoint or of writes names."""
    values = data["values"].values() if "values" in data else [write["value"] for write in data["writes"]]
    for value in values:
        if "list" in value:
            yield from value["list"]["add"]
    yield from data.get("written", ())
    yield from (message_id for _, message_id in data.get("held", ()))


def _all(holds: bool) -> None:
    if not holds:
        raise broken("what its name says")


def _has(data: Any, *names: str) -> bool:
    return isinstance(data, dict) and _TEXT.issuperset(map(type, map(data.get, names)))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and _TEXT.issuperset(map(type, value))


def _pairs(value: Any) -> bool:
    return isinstance(value, list) and all(_texts(pair) and len(pair) == 2 for pair in value)


def _stored(value: Any) -> bool:
    if not isinstance(value, dict) or "list" not in value:
        return isinstance(value, dict)
    told = value["list"]
    return (
        isinstance(told, dict)
        and type(told.get("keep")) is int
        and told["keep"] >= 0
        and (isinstance(told.get("base"), str) or not told["keep"])
        and _texts(told.get("add"))
    )


def _messages(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_message, value.values()))


def _message(extra: Any) -> bool:
    if isinstance(extra, str) or (_has(extra, "of") and ("id" in extra or _has(extra, "text"))):
        return True
    return _has(extra, "class") and isinstance(extra.get("data"), dict) and type(extra.get("calls")) is bool

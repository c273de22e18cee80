"""Events in a few words, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ctxlog.cli.text import count, one_line, plain_parts

if TYPE_CHECKING:
    from ctxlog.replay.history import Entry

SHORT_NAMES = {
    "MessageAppended": "message",
    "MessageRedacted": "redacted",
    "FactSet": "fact",
    "FactRemoved": "fact gone",
    "ToolCalled": "call",
    "ToolReturned": "result",
    "ContextRead": "read",
    "DecisionRecorded": "decision",
    "StreamForked": "fork",
    "StreamClosed": "closed",
    "ExtensionRecorded": "extension",
}

COLOURS = {
    "message": "",
    "fact": "green",
    "fact gone": "green",
    "call": "cyan",
    "result": "cyan",
    "redacted": "red",
    "decision": "magenta",
}


def short_type(type_name: str) -> str:
    """What a timeline calls a type; the name itself where it is not one of ours."""
    space, _, name = type_name.rpartition(".")
    return SHORT_NAMES.get(name, one_line(name)) if space == "ctxlog" else one_line(type_name)


class Narrator:
    """Says in one line what each event of a stream is about. Tells results by the calls that it has seen."""

    def __init__(self) -> None:
        self._calls: dict[str, str] = {}

    def line(self, entry: Entry) -> str:
        """One line, safe to print."""
        payload = entry.payload
        tell = _TOLD.get(entry.type.removeprefix("ctxlog.")) if entry.type.startswith("ctxlog.") else None
        if entry.type == "ctxlog.ToolCalled":
            self._calls[str(payload.get("call_id"))] = str(payload.get("name"))
        if entry.type == "ctxlog.ToolReturned":
            name = self._calls.get(str(payload.get("call_id"))) or payload.get("name") or payload.get("call_id")
            failed = " failed" if payload.get("failed") else ""
            return one_line(f"{name}{failed}: {content_of(payload)}")
        if tell is None:
            return ""
        try:
            return one_line(tell(payload))
        except (KeyError, TypeError):
            return ""  # Under a name that we know, with fields that we do not: an anomaly, which has no effect either.


def content_of(payload: Mapping[str, Any]) -> str:
    """The text of a message or result, as far as people can read it."""
    if payload.get("content") is not None:
        return str(payload["content"])
    return plain_parts(payload["parts"]) if payload.get("parts") is not None else ""


def _message(payload: Mapping[str, Any]) -> str:
    name = f" ({payload['name']})" if payload["name"] else ""
    return f"{payload['role']}{name}: {content_of(payload) or '—'}"


def _read(payload: Mapping[str, Any]) -> str:
    seen = [f"{stream['stream_id']}@{stream['version']}" for stream in payload["streams"]]
    withheld = sum(len(stream["withheld"]) for stream in payload["streams"])
    return ", ".join(seen) + (f" ({count(withheld, 'event')} withheld)" if withheld else "")


def _decision(payload: Mapping[str, Any]) -> str:
    model = f" by {payload['model']}" if payload["model"] else ""
    outcome = " failed" if payload["failed"] else f": {payload['outcome']}" if payload["outcome"] is not None else ""
    return f"{payload['kind']}{model}{outcome}"


_TOLD: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "MessageAppended": _message,
    "MessageRedacted": lambda payload: (
        f"message {payload['message_id']}" + (f": {payload['reason']}" if payload["reason"] else "")
    ),
    "FactSet": lambda payload: f"{payload['key']} = {payload['value']}",
    "FactRemoved": lambda payload: str(payload["key"]),
    "ToolCalled": lambda payload: f"{payload['name']}({payload['arguments']})",
    "ContextRead": _read,
    "DecisionRecorded": _decision,
    "StreamForked": lambda payload: f"from {payload['parent_stream_id']}@{payload['parent_version']}",
    "StreamClosed": lambda payload: payload["reason"] or "",
    "ExtensionRecorded": lambda payload: f"{payload['name']}: {payload['data']}",
}

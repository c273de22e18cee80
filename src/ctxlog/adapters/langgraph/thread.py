"""What the events of one thread say of its checkpoints, read on from the log.

Everything is kept by checkpoint and never by order: a value is named by the checkpoint that brought it, so what another branch
did in between is not seen. A deleted or pruned checkpoint is hidden and not forgotten, as those after it may be built on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ctxlog.adapters.langgraph.encoding import Json, broken
from ctxlog.model.jsontext import json_text
from ctxlog.model.records import Accepted, EventRecord, Rejected
from ctxlog.replay.replayer import StreamCursor

CHECKPOINT = "langgraph.Checkpoint"
WRITES = "langgraph.Writes"
HIDDEN = "langgraph.Hidden"
PART = "langgraph.Part"

Key = tuple[str, str]
"""Namespace and id of a checkpoint."""


class Saved:
    """One checkpoint. `values` names, for each channel, the checkpoint that brought its value."""

    __slots__ = ("data", "parent", "values")

    def __init__(self, data: Json, parent: str | None, values: dict[str, str]) -> None:
        self.data = data
        self.parent = parent
        self.values = values


class Thread:
    """The fold of one thread's events; `see` takes what a replayer shows."""

    def __init__(self, stream_id: str, cursor: StreamCursor) -> None:
        self.stream_id = stream_id
        self.cursor = cursor
        self.checkpoints: dict[Key, Saved] = {}
        self.shown: dict[Key, Saved] = {}
        self.writes: dict[Key, dict[tuple[str, int], Json]] = {}
        self.values: dict[tuple[str, str, str], Json] = {}  # (namespace, checkpoint, channel)
        self.messages: dict[str, str] = {}
        self.texts: set[str] = set()
        self.open_calls: dict[str, str] = {}  # source id -> call id
        self.epoch = 0  # How often something was hidden: what is put again after that is another append.
        self._newest: dict[tuple[str, str, str], str] = {}  # (namespace, channel, version) -> checkpoint
        self._puts: dict[Key, int] = {}  # How often a checkpoint was put.
        self._events: dict[str, Json] = {}
        self._parts: list[str] = []

    def see(self, outcomes: Sequence[Accepted | Rejected], _version: int) -> None:
        """Take accepted events. Raises `IntegrityError`."""
        for outcome in outcomes:
            if isinstance(outcome, Accepted):
                self._take(outcome.event)

    def _take(self, event: EventRecord) -> None:
        payload, event_id = event.payload, event.meta["event_id"]
        match event.type:
            case "ctxlog.MessageAppended":
                self._events[event_id] = payload
            case "ctxlog.ToolReturned":
                self._events[event_id] = payload
                self.open_calls = {source: call for source, call in self.open_calls.items() if call != payload["call_id"]}
            case "ctxlog.ToolCalled" if payload["source_id"]:
                self.open_calls[payload["source_id"]] = payload["call_id"]
            case "ctxlog.ExtensionRecorded" if payload["name"] == PART:
                self._parts.append(payload["data"])
            case "ctxlog.ExtensionRecorded" if payload["name"] in (CHECKPOINT, WRITES, HIDDEN):
                text, self._parts = "".join([*self._parts, payload["data"]]), []
                try:
                    self._extension(payload["name"], json.loads(text))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    raise broken("what its name says") from None

    def _extension(self, name: str, data: Json) -> None:
        if name == HIDDEN:
            self.epoch += 1
            for ns, checkpoint_id in data["checkpoints"]:
                self.shown.pop((ns, checkpoint_id), None)
                if data["forget"]:
                    self._newest = {name: source for name, source in self._newest.items() if name[0] != ns}
                    self.checkpoints.pop((ns, checkpoint_id), None)
                    self.writes.pop((ns, checkpoint_id), None)
            return
        key = (str(data["ns"]), str(data["id"]))
        if name == WRITES:
            kept = self.writes.setdefault(key, {})
            for write in data["writes"]:
                place = (data["task"], write["at"])
                if place[1] < 0 or place not in kept:
                    kept[place] = {"task": data["task"], "path": data["path"], **write}
            return
        for message_id, extra in data["messages"].items():
            text = extra if isinstance(extra, str) else whole(self._events[message_id], extra)
            self.messages[message_id] = text
            self.texts.add(text)
        self._events.clear()
        self._checkpoint(key, data)

    def _checkpoint(self, key: Key, data: Json) -> None:
        ns, checkpoint_id = key
        # A checkpoint put anew under its id leaves the values of the old one: lists of its descendants go on from them.
        often = self._puts[key] = self._puts.get(key, 0) + 1
        brought = checkpoint_id if often == 1 else f"{checkpoint_id}\0{often}"
        for channel, value in data["values"].items():
            self.values[(ns, brought, channel)] = value
        values = self.sources(ns, data["parent"], data["versions"])
        for channel in data["values"]:
            values[channel] = brought
            self._newest[(ns, channel, json_text(data["versions"].get(channel)))] = brought
        saved = Saved(data, data["parent"], values)
        self.checkpoints[key] = self.shown[key] = saved

    def sources(self, ns: str, parent: str | None, versions: Json) -> dict[str, str]:
        """Which checkpoint brought the value of each channel: the parent's, where the version is the parent's."""
        above = self.checkpoints.get((ns, parent)) if parent else None
        found = {}
        for channel, version in versions.items():
            if above is not None and channel in above.values and above.data["versions"].get(channel) == version:
                found[channel] = above.values[channel]
            elif (source := self._newest.get((ns, channel, json_text(version)))) is not None:
                found[channel] = source
        return found

    def needed(self) -> set[Key]:
        """The checkpoints that are shown, and those that they come from."""
        found: set[Key] = set()
        for shown in self.shown:
            key: Key | None = shown
            while key is not None and key in self.checkpoints and key not in found:
                found.add(key)
                parent = self.checkpoints[key].parent
                key = (key[0], parent) if parent else None
        return found

    def listed(self, ns: str, checkpoint_id: str, channel: str) -> list[str]:
        """Ids of the messages of a list: what each version added to a beginning of the one before."""
        pieces: list[list[str]] = []
        keep: int | None = None
        passed: set[str] = set()
        while True:
            value = self.values.get((ns, checkpoint_id, channel))
            if value is None or "list" not in value:
                raise broken("a list of messages to go on from")
            step = value["list"]
            own = step["add"]
            if keep is None:
                pieces.append(own)
            elif keep > step["keep"]:
                pieces.append(own[: keep - step["keep"]])
            keep = step["keep"] if keep is None else min(keep, step["keep"])
            if not keep:
                break
            passed.add(checkpoint_id)
            if step["base"] in passed:
                raise broken("a list of messages that begins somewhere")
            checkpoint_id = step["base"]
        return [item for piece in reversed(pieces) for item in piece]


def whole(event: Json, extra: Json) -> str:
    """The JSON text of a message, from the event that shows it and what stands beside it."""
    content = event["content"] if event["parts"] is None else json.loads(event["parts"])
    return json_text({"class": extra["class"], "data": {"content": content, **extra["data"]}})

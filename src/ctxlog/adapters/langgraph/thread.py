"""What the events of one thread say of its checkpoints, read on from the log.

Everything is kept by checkpoint and never by order: a value is named by the checkpoint that brought it, so what another branch
did in between is not seen. A deleted or pruned checkpoint is hidden and not forgotten, as those after it may be built on it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from langgraph.checkpoint.base import writes_sort_key
from langgraph.constants import START

from ctxlog.adapters.langgraph.encoding import Json, broken
from ctxlog.adapters.langgraph.messages import KeptMessage, with_id
from ctxlog.adapters.langgraph.shapes import check_checkpoint, check_hidden, check_writes, named
from ctxlog.model.jsontext import json_text
from ctxlog.model.records import Accepted, EventRecord, Rejected
from ctxlog.replay.replayer import StreamCursor

CHECKPOINT = "langgraph.Checkpoint"
WRITES = "langgraph.Writes"
HIDDEN = "langgraph.Hidden"
PART = "langgraph.Part"

LISTS_MAX = 16
"""Lists of ids that a thread keeps at hand; any other is put together again from what was added."""

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
        self.messages: dict[str, KeptMessage] = {}
        self.by_id: dict[str, str] = {}  # LangChain's id of a message -> the last one that has it
        self.written: dict[Key, list[str]] = {}  # Messages that tasks wrote after a checkpoint, and events show.
        self.held: dict[Key, list[tuple[str, str]]] = {}  # Channels and messages that no event shows yet.
        self.children: dict[Key, list[Saved]] = {}
        self.open_calls: dict[str, str] = {}  # source id -> call id
        self.redacted: list[Any] = []  # What the messages said that were redacted.
        self.spoken = {START}  # Channels in which messages stand.
        self.epoch = 0  # How often something was hidden: what is put again after that is another append.
        self._newest: dict[tuple[str, str, str], str] = {}  # (namespace, channel, version) -> checkpoint
        self._puts: dict[Key, int] = {}  # How often a checkpoint was put.
        self._told: set[str] = set()  # Messages that events show.
        self._written_as: dict[str, str] = {}  # What became of a message -> as it was written.
        self._events: dict[str, Json] = {}
        self._calls: dict[str, list[Json]] = {}
        self._parts: list[str] = []
        self._lists: OrderedDict[tuple[str, str, str], list[str]] = OrderedDict()

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
            case "ctxlog.ToolCalled":
                self._calls.setdefault(payload["message_id"] or "", []).append(payload)
                if payload["source_id"]:
                    self.open_calls[payload["source_id"]] = payload["call_id"]
            case "ctxlog.MessageRedacted":
                self._redact(payload["message_id"])
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
            check_hidden(data)
            self.epoch += 1
            for ns, checkpoint_id in data["checkpoints"]:
                self.shown.pop((ns, checkpoint_id), None)
                if data["forget"]:
                    self.by_id.clear()
                    self.held.pop((ns, checkpoint_id), None)
                    self.children.pop((ns, checkpoint_id), None)
                    self._newest = {name: source for name, source in self._newest.items() if name[0] != ns}
                    self.checkpoints.pop((ns, checkpoint_id), None)
                    self.writes.pop((ns, checkpoint_id), None)
                    self.written.pop((ns, checkpoint_id), None)
            return
        (check_writes if name == WRITES else check_checkpoint)(data)
        key = (data["ns"], data["id"])
        seen = data["written"] if name == WRITES else data["messages"]
        for message_id, extra in data["messages"].items():
            self._message(message_id, extra, seen=message_id in seen)
        self._events.clear()
        self._calls.clear()
        if not all(message_id in self.messages for message_id in named(data)):
            raise broken("messages that are there")
        if name == WRITES:
            self.written.setdefault(key, []).extend(seen)
            if held := [(channel, message_id) for channel, message_id in data["held"]]:
                self.held.setdefault(key, []).extend(held)
            kept = self.writes.setdefault(key, {})
            for write in data["writes"]:
                place = (data["task"], write["at"])
                if "list" in write["value"]:
                    self.spoken.add(write["channel"])
                if place[1] < 0 or place not in kept:
                    kept[place] = {"task": data["task"], "path": data["path"], **write}
            return
        self._checkpoint(key, data)

    def _message(self, message_id: str, extra: Json | str, *, seen: bool) -> None:
        """Keep a message that an extension tells of. One that nobody has `seen` is brought again to be shown."""
        if isinstance(extra, str):
            stored = json.loads(extra)
            kept = KeptMessage(stored.get("data", stored).get("id"), extra)
            seen = seen and stored.get("class") != "RemoveMessage"  # Its id is that of another message.
        elif "of" in extra:  # What became of one that was written: it was given an id, or was put together of chunks.
            self._written_as[message_id] = extra["of"]
            if "text" in extra:
                stored = json.loads(extra["text"])
                kept = KeptMessage(stored.get("data", stored).get("id"), extra["text"])
            else:
                kept = KeptMessage(extra["id"], with_id(self.messages[extra["of"]].text(), extra["id"]))
        else:
            calls = self._calls[message_id] if extra["calls"] else ()
            kept = KeptMessage(extra["data"].get("id"), None, (self._events[message_id], extra, calls))
        self.messages[message_id] = kept
        if message_id in self._events:
            self._told.add(message_id)
        if seen and isinstance(kept.its_id, str):
            self.by_id[kept.its_id] = message_id

    def _redact(self, message_id: str) -> None:
        """Redact a message wherever it is kept: where an event shows it, what became of it, and copies that no event shows."""
        if (told := self.messages.get(message_id)) is None:
            return
        text = with_id(told.text(), None)
        if content := json.loads(text).get("data", {}).get("content"):
            self.redacted.append(content)
        for other_id, kept in self.messages.items():
            written = other_id
            while written in self._written_as:
                written = self._written_as[written]
            if written == message_id:
                kept.redacted = True
            elif written == other_id and other_id not in self._told and kept.its_id in (None, told.its_id):
                kept.redacted |= with_id(kept.text(), None) == text

    def _checkpoint(self, key: Key, data: Json) -> None:
        ns, checkpoint_id = key
        # A checkpoint put anew under its id leaves the values of the old one: lists of its descendants go on from them.
        often = self._puts[key] = self._puts.get(key, 0) + 1
        brought = checkpoint_id if often == 1 else f"{checkpoint_id}\0{often}"
        for channel, value in data["values"].items():
            self.values[(ns, brought, channel)] = value
            if "list" in value:
                self.spoken.add(channel)
        values = self.sources(ns, data["parent"], data["versions"])
        for channel in data["values"]:
            values[channel] = brought
            self._newest[(ns, channel, json_text(data["versions"].get(channel)))] = brought
        saved = Saved(data, data["parent"], values)
        self.checkpoints[key] = self.shown[key] = saved
        if saved.parent:
            self.children.setdefault((ns, saved.parent), []).append(saved)
        for above, _ in self.held_above(ns, saved.parent):  # What it goes on from was shown with it.
            self.held.pop(above, None)

    def held_above(self, ns: str, checkpoint_id: str | None) -> list[tuple[Key, list[tuple[str, str]]]]:
        """What is held of a checkpoint and of those that it comes from, oldest first."""
        found: list[tuple[Key, list[tuple[str, str]]]] = []
        passed: set[str] = set()
        while self.held and checkpoint_id is not None and checkpoint_id not in passed:
            passed.add(checkpoint_id)
            if (key := (ns, checkpoint_id)) in self.held:
                found.insert(0, (key, self.held[key]))
            checkpoint_id = self.checkpoints[key].parent if key in self.checkpoints else None
        return found

    def covers(self, key: Key, channel: str) -> bool:
        """Whether a checkpoint that goes on from this one holds the list of a channel, and so all that was written to it."""
        values = [saved.data["values"].get(channel, {}) for saved in self.children.get(key, ())]
        return any("list" in value and not value.get("delta") for value in values)

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

    def ordered(self, key: Key) -> list[Json]:
        """What tasks wrote after a checkpoint, in the order in which it counts."""
        kept = self.writes.get(key, {})
        return [kept[place] for place in sorted(kept, key=lambda place: writes_sort_key(kept[place]["path"], *place))]

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
        place = (ns, checkpoint_id, channel)
        steps: list[Json] = []
        passed: set[str] = set()
        while (known := self._lists.get(place)) is None:
            value = self.values.get(place)
            if value is None or "list" not in value or place[1] in passed:
                raise broken("a list of messages to go on from")
            steps.append(value["list"])
            if not value["list"]["keep"]:
                break
            passed.add(place[1])
            place = (ns, value["list"]["base"], channel)
        found = [] if known is None else list(known)
        for step in reversed(steps):
            del found[step["keep"] :]
            found += step["add"]
        self._lists[(ns, checkpoint_id, channel)] = found
        if len(self._lists) > LISTS_MAX:
            self._lists.popitem(last=False)
        return found

    def step(self, ns: str, step: Json, channel: str) -> list[str]:
        """Ids of the messages of a list that is told as a step from another one."""
        kept = self.listed(ns, step["base"], channel)[: step["keep"]] if step["keep"] else []
        return [*kept, *step["add"]]

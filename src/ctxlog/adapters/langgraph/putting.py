"""From a checkpoint to the events of one append: messages as messages, and beside them what those have no room for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from langchain_core import messages as lc
from langgraph.checkpoint.base import ChannelVersions
from langgraph.checkpoint.serde.base import SerializerProtocol

from ctxlog.adapters.langgraph.encoding import Json, dump, readable
from ctxlog.adapters.langgraph.messages import DeltaSnapshot, dump_message, is_message, is_messages, told_of, with_id
from ctxlog.adapters.langgraph.thread import CHECKPOINT, PART, WRITES, Thread
from ctxlog.model.events import Event, ExtensionRecorded, MessageAppended, ToolCalled, ToolReturned
from ctxlog.model.jsontext import json_text, plain_or_parts

NAMESPACE = UUID("7b0c2a5e-6d0f-5d0a-9a51-3f4f5b1f0c11")

PART_CHARS = 200_000
"""Characters of an extension's text in one event: at most 4 bytes each, so that a record stays under 1 MiB."""

SHOWN_MAX = 500
"""Events for messages in one append, which may have 1,000: messages beyond stand in the checkpoint alone."""

_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "system": "system", "tool": "tool"}


def extension(name: str, data: Json) -> list[Event]:
    """An extension's events: one, or several where its text is longer than a record may be."""
    text = json_text(data)
    pieces = [text[start : start + PART_CHARS] for start in range(0, len(text), PART_CHARS)]
    return [*(ExtensionRecorded(name=PART, data=piece) for piece in pieces[:-1]), ExtensionRecorded(name=name, data=pieces[-1])]


def seed_of(*values: Any) -> str:
    """A digest of what an append says, from which its ids are made: the same put is the same append."""
    return hashlib.sha256(json_text(values).encode()).hexdigest()


def id_of(seed: str, place: int | str) -> str:
    """The id of an event of the append that `seed` is the digest of."""
    return str(uuid5(NAMESPACE, f"{seed}:{place}"))


def checkpoint_events(
    thread: Thread,
    serde: SerializerProtocol,
    head: Json,
    channels: dict[str, Any],
    new_versions: ChannelVersions,
) -> tuple[list[Event], list[str]]:
    """The events of a put, and their ids."""
    ns, parent = head["ns"], head["parent"]
    values: dict[str, Json] = {}
    lists: dict[str, _Change] = {}
    for channel in new_versions:
        if channel not in channels:
            values[channel] = {"empty": True}
            continue
        value = channels[channel]
        messages = value.value if isinstance(value, DeltaSnapshot) else value
        if is_messages(messages):
            base, written = _before(thread, ns, parent, channel, head["id"])
            lists[channel] = _Change(thread, serde, (ns, base, channel), messages, written, delta=messages is not value)
        else:
            values[channel] = dump(value, serde)
    prior = thread.checkpoints.get((ns, head["id"]))
    batch = _Batch(thread, serde, [prior.data if prior else None, head, values], lists)
    values |= {channel: batch.told(change) for channel, change in lists.items()}
    for _, held in thread.held_above(ns, parent):
        batch.show(message_id for channel, message_id in held if channel not in lists)
    return batch.ended(CHECKPOINT, {**head, "values": values})


def writes_events(
    thread: Thread, serde: SerializerProtocol, head: Json, items: Sequence[tuple[int, str, Any]], prior: Any
) -> tuple[list[Event], list[str]]:
    """The events of what a task wrote after a checkpoint (`ns` and `id` of `head`), and their ids.

    LangGraph's threads bring these in any order, and the log must show messages as they were said. So events show them where the
    checkpoint is there; where it is not, they are held until a checkpoint shows them.

    Args:
        items: Place, channel and value of each.
        prior: What stood in those places.
    """
    ns, key = head["ns"], (head["ns"], head["id"])
    saved = thread.checkpoints.get(key)
    writes: list[Json] = []
    lists: dict[int, _Change] = {}
    for at, channel, value in items:
        write: Json = {"at": at, "channel": channel}
        if at >= 0 and (is_messages(value) or is_message(value)):
            one = not isinstance(value, list)
            # A node that returns the whole list writes what is new in it.
            base = saved.values.get(channel) if saved and not one else None
            show = saved is not None and not thread.covers(key, channel)
            lists[at] = _Change(thread, serde, (ns, base, channel), [value] if one else value, show=show)
            write["one"] = one
        else:
            write["value"] = dump(value, serde)
        writes.append(write)
    batch = _Batch(thread, serde, [prior, head, writes], lists)
    for write in writes:
        if write["at"] in lists:
            write["value"] = batch.told(lists[write["at"]], write["at"])
    held = [
        [write["channel"], message_id] for write in writes if saved is None for message_id in batch.unseen.get(write["at"], ())
    ]
    return batch.ended(WRITES, {**head, "writes": writes, "held": held, "written": batch.seen()})


def _before(thread: Thread, ns: str, parent: str | None, channel: str, own: str) -> tuple[str | None, list[str]]:
    """The checkpoint whose list of messages a new one goes on from, and the messages that tasks wrote since."""
    written: list[str] = []
    passed: set[str] = set()
    while parent is not None and parent not in passed and (saved := thread.checkpoints.get((ns, parent))) is not None:
        passed.add(parent)
        written = thread.written.get((ns, parent), []) + written
        source = saved.values.get(channel)
        value = thread.values.get((ns, source, channel), {}) if source else {}
        # A list goes on from another checkpoint's, never from the one that this put replaces.
        if source and "list" in value:
            return (source, written) if source != own else (None, written)
        if value and "empty" not in value:
            break
        parent = saved.parent
    return None, written


class _Added(NamedTuple):
    """A message that a list adds: as text, or as the one in the log that it is."""

    message: lc.BaseMessage
    text: str
    same: str | None

    @classmethod
    def of(cls, thread: Thread, serde: SerializerProtocol, message: lc.BaseMessage) -> _Added:
        """How a message stands to those that are in the log and have its id."""
        same = None if message.id is None else thread.by_id.get(message.id)
        if same is not None and thread.messages[same].is_same(message, serde):
            return cls(message, "", same)
        return cls(message, dump_message(message, serde), None)


class _Change:
    """What a list of messages adds to a beginning of another one."""

    def __init__(
        self,
        thread: Thread,
        serde: SerializerProtocol,
        base: tuple[str, str | None, str],
        messages: Sequence[lc.BaseMessage],
        written: Sequence[str] = (),
        *,
        delta: bool = False,
        show: bool = True,
    ) -> None:
        ns, checkpoint_id, channel = base
        listed = checkpoint_id and "list" in thread.values.get((ns, checkpoint_id, channel), {})
        old = thread.listed(ns, str(checkpoint_id), channel) if listed else []
        keep = 0
        for message_id, message in zip(old, messages, strict=False):
            if not thread.messages[message_id].is_same(message, serde):
                break
            keep += 1
        self.base = checkpoint_id if keep else None
        self.keep = keep
        self.added = [_Added.of(thread, serde, message) for message in messages[keep:]]
        self.delta = delta
        self.show = show
        # Moved, or written by a task: no second event. Messages that have ids are known by them.
        self._known: dict[str, list[str]] = {}
        for message_id in [*old[keep:], *written]:
            if (kept := thread.messages[message_id]).its_id is None:
                self._known.setdefault(kept.settled(serde) or kept.text(), []).append(message_id)

    def known(self, text: str) -> str | None:
        """A message that is in the log without an id and says what this text says, and is not used yet; it is now."""
        found = self._known.get(with_id(text, None)) if self._known else None
        return found.pop(0) if found else None


class _Batch:
    """Collects the events of the messages that an append brings, under ids that are made from all that it says."""

    def __init__(self, thread: Thread, serde: SerializerProtocol, said: list[Any], lists: Mapping[Any, _Change]) -> None:
        self._thread, self._serde = thread, serde
        self._calls = dict(thread.open_calls)
        steps = {
            str(place): [change.base, change.keep, [added.same or added.text for added in change.added]]
            for place, change in lists.items()
        }
        self._seed = seed_of(thread.stream_id, thread.epoch, *said, steps, sorted(self._calls.items()))
        self._events: list[Event] = []
        self._ids: list[str] = []
        self._extras: dict[str, Any] = {}
        self.unseen: dict[int, list[str]] = {}  # By place, messages that no event shows yet.

    def seen(self) -> list[str]:
        """Messages of this append that events show, or that need none."""
        unseen = {message_id for places in self.unseen.values() for message_id in places}
        return [message_id for message_id in self._extras if message_id not in unseen]

    def show(self, held: Iterable[str]) -> None:
        """Show messages that are in the log and held."""
        for message_id in held:
            message = self._thread.messages[message_id].restore(self._serde)
            self._message(message, dump_message(message, self._serde))

    def ended(self, name: str, data: Json) -> tuple[list[Event], list[str]]:
        """All events, with the extension that tells what they are, and their ids."""
        events = [*self._events, *extension(name, {**data, "messages": self._extras})]
        return events, self._ids + [id_of(self._seed, index) for index in range(len(self._ids), len(events))]

    def told(self, change: _Change, at: int = 0) -> Json:
        """A list as what it adds, by ids of messages."""
        add = []
        for added in change.added:
            message_id = added.same or self._known(change, added)
            if message_id is None and change.show:
                message_id = self._message(added.message, added.text)
            elif message_id is None:
                message_id = self._beside(added.text)
                self.unseen.setdefault(at, []).append(message_id)
            add.append(message_id)
        told = {"list": {"base": change.base, "keep": change.keep, "add": add}}
        return {**told, "delta": True} if change.delta else told

    def _known(self, change: _Change, added: _Added) -> str | None:
        """The id of a message that is in the log already as a chunk of which LangGraph made it, or before it was given an id."""
        kept, its_id = self._thread.messages, added.message.id
        same = None if its_id is None else self._thread.by_id.get(its_id)
        if same is not None and kept[same].settled(self._serde) == added.text:
            return self._beside({"of": same, "text": added.text})
        if (written := change.known(added.text)) is None:
            return None
        if kept[written].text() != with_id(added.text, None):
            return self._beside({"of": written, "text": added.text})
        return written if its_id is None else self._beside({"of": written, "id": its_id})

    def _beside(self, extra: Json | str) -> str:
        """Keep a message without an event; its id."""
        message_id = id_of(self._seed, f"m{len(self._extras)}")
        self._extras[message_id] = extra
        return message_id

    def _message(self, message: lc.BaseMessage, text: str) -> str:
        message_id = self._id()
        calls = message.tool_calls if isinstance(message, lc.AIMessage) else []
        made: list[tuple[str, Event]] = []
        if len(self._events) + 1 + len(calls) <= SHOWN_MAX and len(text) <= PART_CHARS and message.type != "remove":
            made = self._shown(message_id, message, calls)
        if not made:
            return self._beside(text)
        for event_id, event in made:
            self._ids.append(event_id)
            self._events.append(event)
        self._extras[message_id] = _rest(text, [event for _, event in made])
        return message_id

    def _id(self, further: int = 0) -> str:
        return id_of(self._seed, len(self._ids) + further)

    def _shown(self, message_id: str, message: lc.BaseMessage, calls: Sequence[Any]) -> list[tuple[str, Event]]:
        content, parts = plain_or_parts(readable(message.content))
        if isinstance(message, lc.ToolMessage) and (call_id := self._calls.pop(message.tool_call_id, None)):
            failed = message.status == "error"
            return [
                (
                    message_id,
                    ToolReturned(call_id=call_id, failed=failed, content=content, parts=parts, name=message.name),
                )
            ]
        role = message.role if isinstance(message, lc.ChatMessage) else _ROLES.get(message.type, message.type)
        source = message.tool_call_id if isinstance(message, lc.ToolMessage) else None
        made: list[tuple[str, Event]] = [
            (
                message_id,
                MessageAppended(role=role or "chat", content=content, parts=parts, name=message.name, tool_call_id=source),
            )
        ]
        for call in calls:
            call_id = self._id(len(made))
            made.append(
                (
                    call_id,
                    ToolCalled(
                        call_id=call_id,
                        name=call["name"],
                        arguments=json_text(readable(call["args"])),
                        message_id=message_id,
                        source_id=call["id"],
                    ),
                )
            )
            if call["id"]:
                self._calls[call["id"]] = call_id
        return made


def _rest(text: str, made: Sequence[Event]) -> Json | str:
    """What stands beside the events of a message, so that its text can be made from both; all of it where it cannot."""
    stored = json.loads(text)
    if "data" not in stored:
        return text
    first, calls = made[0], [call.model_dump() for call in made[1:]]
    event = {"content": getattr(first, "content", None), "parts": getattr(first, "parts", None)}
    for used in (calls, []):
        left_out = {"content", "tool_calls"} if used else {"content"}
        data = {name: value for name, value in stored["data"].items() if name not in left_out}
        extra = {"class": stored["class"], "data": data, "calls": bool(used)}
        if json_text(told_of(event, extra, used)) == text:
            return extra
    return text

"""From a checkpoint to the events of one append: messages as messages, and beside them what those have no room for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from langchain_core import messages as lc
from langgraph.checkpoint.base import ChannelVersions
from langgraph.checkpoint.serde.base import SerializerProtocol

from ctxlog.adapters.langgraph.encoding import Json, dump, dump_message, is_messages
from ctxlog.adapters.langgraph.thread import CHECKPOINT, PART, Thread, whole
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
    lists: dict[str, list[lc.BaseMessage]] = {}
    for channel in new_versions:
        if channel not in channels:
            values[channel] = {"empty": True}
        elif is_messages(channels[channel]):
            lists[channel] = channels[channel]
        else:
            values[channel] = dump(channels[channel], serde)
    texts = {channel: [dump_message(message, serde, thread.texts) for message in items] for channel, items in lists.items()}
    before = thread.checkpoints.get((ns, parent)) if parent else None
    steps = {}
    for channel, said in texts.items():
        base = before.values.get(channel) if before else None
        # A list goes on from another checkpoint's, never from the one that this put replaces.
        stored = thread.values.get((ns, base, channel)) if base and base != head["id"] else None
        old = thread.listed(ns, base, channel) if base and stored and "list" in stored else []
        keep = 0
        while keep < min(len(old), len(said)) and thread.messages[old[keep]] == said[keep]:
            keep += 1
        steps[channel] = (base if keep else None, keep, old[keep:], said[keep:])
    prior = thread.checkpoints.get((ns, head["id"]))
    calls = sorted(thread.open_calls.items())
    seed = seed_of(thread.stream_id, thread.epoch, prior.data if prior else None, head, values, steps, calls)
    batch = _Batch(thread, seed)
    for channel, (base, keep, old, said) in steps.items():
        again = {thread.messages[message_id]: message_id for message_id in old}  # Moved, not changed: no second event.
        add = [again.get(text) or batch.message(message, text) for message, text in zip(lists[channel][keep:], said, strict=True)]
        values[channel] = {"list": {"base": base, "keep": keep, "add": add}}
    data = {**head, "values": values, "messages": batch.extras}
    events = [*batch.events, *extension(CHECKPOINT, data)]
    return events, batch.ids + [id_of(seed, index) for index in range(len(batch.ids), len(events))]


class _Batch:
    """Collects the events of the messages that a put brings."""

    def __init__(self, thread: Thread, seed: str) -> None:
        self.events: list[Event] = []
        self.ids: list[str] = []
        self.extras: dict[str, Any] = {}
        self._seed = seed
        self._calls = dict(thread.open_calls)

    def message(self, message: lc.BaseMessage, text: str) -> str:
        message_id = self._id()
        calls = message.tool_calls if isinstance(message, lc.AIMessage) else []
        made: list[tuple[str, Event]] = []
        if len(self.events) + 1 + len(calls) <= SHOWN_MAX and len(text) <= PART_CHARS:
            made = self._shown(message_id, message, calls)
        if not made:
            message_id = id_of(self._seed, f"m{len(self.extras)}")
            self.extras[message_id] = text
            return message_id
        for event_id, event in made:
            self.ids.append(event_id)
            self.events.append(event)
        first = made[0][1]
        data = json.loads(text)
        extra = {"class": data["class"], "data": {key: item for key, item in data.get("data", {}).items() if key != "content"}}
        rebuilt = whole({"content": getattr(first, "content", None), "parts": getattr(first, "parts", None)}, extra)
        self.extras[message_id] = extra if "data" in data and rebuilt == text else text
        return message_id

    def _id(self, further: int = 0) -> str:
        return id_of(self._seed, len(self.ids) + further)

    def _shown(self, message_id: str, message: lc.BaseMessage, calls: Sequence[Any]) -> list[tuple[str, Event]]:
        content, parts = plain_or_parts(message.content)
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
                        arguments=json_text(call["args"]),
                        message_id=message_id,
                        source_id=call["id"],
                    ),
                )
            )
            if call["id"]:
                self._calls[call["id"]] = call_id
        return made

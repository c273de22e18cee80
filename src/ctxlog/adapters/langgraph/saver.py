"""A checkpointer of LangGraph over a context log: a thread is the stream `AGENT/THREAD`, and a put is one append.

The log decides nothing here: checkpoints of several writers stand side by side, each under its id, as they do in LangGraph's own
savers. Each method is safe in threads, and in processes that share the log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast
from urllib.parse import quote, unquote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from ctxlog.adapters.langgraph.encoding import Json, SafeSerializer, broken, dump, load, open_log, written_name
from ctxlog.adapters.langgraph.held import HeldThreads
from ctxlog.adapters.langgraph.messages import DeltaSnapshot, is_messages
from ctxlog.adapters.langgraph.putting import checkpoint_events, extension, id_of, seed_of, writes_events
from ctxlog.adapters.langgraph.redacting import without_texts
from ctxlog.adapters.langgraph.thread import HIDDEN, Key, Saved, Thread
from ctxlog.client.log import ContextLog
from ctxlog.errors import InvalidInputError
from ctxlog.model.events import Event
from ctxlog.model.ids import check_agent_id
from ctxlog.model.jsontext import json_text
from ctxlog.replay.collecting import uncollected

_KEPT = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class CtxlogSaver(BaseCheckpointSaver[str]):
    """Keeps the checkpoints of LangGraph in a context log.

    Args:
        log: An open log; whoever opened it closes it.
        agent: Whose threads they are; the first part of the streams' names.
        serde: How values that JSON cannot carry are written; by default LangGraph's serializer with its strict allow-list.
    """

    def __init__(self, log: ContextLog, *, agent: str, serde: SerializerProtocol | None = None) -> None:
        super().__init__(serde=serde or SafeSerializer())
        self._log = open_log(log)
        self._agent = check_agent_id(agent)
        self._held = HeldThreads(log)

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the newest of its thread and namespace; None where there is none."""
        thread_id, ns = _place(config)
        with self._reading(thread_id) as thread:
            checkpoint_id = get_checkpoint_id(config) or max((item for space, item in thread.shown if space == ns), default="")
            return self._tuple(thread, thread_id, (ns, checkpoint_id)) if (ns, checkpoint_id) in thread.shown else None

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first: of one thread, or of all of the agent's where `config` is None."""
        wanted_ns = config["configurable"].get("checkpoint_ns") if config else None
        wanted_id = get_checkpoint_id(config) if config else None
        below = get_checkpoint_id(before) if before else None
        left = limit
        for thread_id in [config["configurable"]["thread_id"]] if config else self._thread_ids():
            with self._reading(thread_id) as thread:
                keys = sorted(thread.shown, key=lambda key: key[1], reverse=True)
            for key in keys:
                if left is not None and left <= 0:
                    return
                if (wanted_ns is not None and key[0] != wanted_ns) or (wanted_id and key[1] != wanted_id):
                    continue
                if below and key[1] >= below:
                    continue
                with self._reading(thread_id) as thread:
                    if key not in thread.shown:
                        continue
                    metadata = self._metadata(thread.shown[key])
                    if filter and any(metadata.get(name) != value for name, value in filter.items()):
                        continue
                    found = self._tuple(thread, thread_id, key)
                left = left - 1 if left is not None else None
                yield found

    def get_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """The writes of each channel since the nearest ancestor that holds its value, and that value; pruned ancestors count."""
        thread_id, ns = _place(config)
        with self._reading(thread_id) as thread:
            checkpoint_id = get_checkpoint_id(config) or max((item for space, item in thread.shown if space == ns), default="")
            found: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
            open_channels = set(channels)
            saved = thread.checkpoints.get((ns, checkpoint_id))
            passed: set[str] = set()
            while open_channels and saved is not None and saved.parent and saved.parent not in passed:
                passed.add(saved.parent)
                key = (ns, saved.parent)
                saved = thread.checkpoints.get(key)
                if saved is None:
                    break
                for write in reversed(thread.ordered(key)):
                    if write["channel"] in open_channels:
                        value = self._written(thread, ns, write)
                        found[write["channel"]]["writes"].append((write["task"], write["channel"], value))
                for channel in sorted(open_channels & saved.values.keys()):
                    source = saved.values[channel]
                    if "empty" not in thread.values[(ns, source, channel)]:
                        found[channel]["seed"] = self._value(thread, ns, source, channel)
                        open_channels.discard(channel)
            for history in found.values():
                history["writes"].reverse()
            return found

    # Writing

    def put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """Keep a checkpoint: one append, durable when this returns. The same again changes nothing."""
        thread_id, ns = _place(config)
        self._put(thread_id, ns, get_checkpoint_id(config), checkpoint, get_checkpoint_metadata(config, metadata), new_versions)
        return _config(thread_id, (ns, checkpoint["id"]))

    def put_writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """Keep what a task wrote after a checkpoint: one append. What is there already stays as it is."""
        thread_id, ns = _place(config)
        items = [(WRITES_IDX_MAP.get(channel, index), channel, value) for index, (channel, value) in enumerate(writes)]
        self._put_writes(thread_id, (ns, config["configurable"]["checkpoint_id"]), items, task_id, task_path)

    def delete_thread(self, thread_id: str) -> None:
        """Hide every checkpoint of a thread. The log keeps its events."""
        self._hide(thread_id, None, forget=True)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Hide the checkpoints that these runs made, in every thread of the agent."""
        for thread_id in self._thread_ids():
            with self._reading(thread_id) as thread:
                keys = [key for key, saved in thread.shown.items() if self._metadata(saved).get("run_id") in run_ids]
            self._hide(thread_id, keys)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Hide all checkpoints of threads but the newest of each namespace (`keep_latest`), or all (`delete`)."""
        if strategy not in ("keep_latest", "delete"):
            raise InvalidInputError("strategy: expected 'keep_latest' or 'delete'; nothing was pruned")
        for thread_id in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread_id)
                continue
            with self._reading(thread_id) as thread:
                keys = list(thread.shown)
            newest = {ns: max(item for space, item in keys if space == ns) for ns, _ in keys}
            self._hide(thread_id, [key for key in keys if newest[key[0]] != key[1]])

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy the checkpoints of a thread into another, one append each. What is there already stays as it is.

        Hidden checkpoints that others are built on come along, and are hidden there too.
        """
        with self._reading(source_thread_id) as source:
            keys = sorted(source.needed(), key=lambda key: key[1])
            hidden = [key for key in keys if key not in source.shown]
        for key in keys:
            with self._reading(source_thread_id) as source:
                if key not in source.checkpoints:
                    continue
                found, saved = self._tuple(source, source_thread_id, key), source.checkpoints[key]
                writes = [(write, self._written(source, key[0], write)) for write in source.ordered(key)]
            versions = found.checkpoint["channel_versions"]
            with self._reading(target_thread_id) as target:
                there = key in target.shown or (key in hidden and key in target.checkpoints)
                kept = target.sources(key[0], saved.parent, versions)
            if not there:
                new = {
                    channel: versions.get(channel, "")
                    for channel, brought in saved.values.items()
                    if kept.get(channel) != brought
                }
                self._put(target_thread_id, key[0], saved.parent, found.checkpoint, found.metadata, new)
            for write, value in writes:
                item = write["at"], write["channel"], value
                self._put_writes(target_thread_id, key, [item], write["task"], write["path"])
        with self._reading(target_thread_id) as target:
            left = [key for key in hidden if key in target.shown]
        if left:
            self._hide(target_thread_id, left)

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - LangGraph passes it by name
        """A version after `current`; two branches never come to the same one."""
        number, digits = 0, 10
        if current is not None:  # LangGraph compares versions as texts: those of an imported thread keep their width.
            text = str(current).partition(".")[0]
            number, digits = int(text), max(digits, len(text))
        return f"{number + 1:0{digits}}.{random.getrandbits(48):012x}"

    # The same, awaited

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As `get_tuple`."""
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As `list`."""
        found = self.list(config, filter=filter, before=before, limit=limit)
        while (item := await asyncio.to_thread(next, found, None)) is not None:
            yield item

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """As `put`."""
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As `put_writes`."""
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """As `delete_thread`."""
        await asyncio.to_thread(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As `delete_for_runs`."""
        await asyncio.to_thread(self.delete_for_runs, run_ids)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As `prune`."""
        await asyncio.to_thread(lambda: self.prune(thread_ids, strategy=strategy))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As `copy_thread`."""
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As `get_delta_channel_history`."""
        return await asyncio.to_thread(lambda: self.get_delta_channel_history(config=config, channels=channels))

    # Inside

    def _stream(self, thread_id: str) -> str:
        # LangGraph takes numbers and UUIDs too. Reversible: '%' stands only before two hex digits, and alone for the empty name.
        written = quote(str(thread_id), safe=_KEPT, errors="surrogatepass") or "%"
        return written_name("thread_id, behind the agent's name", f"{self._agent}/{written}")

    def _thread_ids(self) -> Sequence[str]:
        names = (name.partition("/")[2] for name in self._log.matching("*") if name.startswith(f"{self._agent}/"))
        return ["" if name == "%" else unquote(name, errors="surrogatepass") for name in names]

    def _reading(self, thread_id: str) -> AbstractContextManager[Thread]:
        """The thread's fold with all that the log holds, nobody else's meanwhile."""
        return self._held.reading(self._stream(thread_id))

    def _append(self, thread: Thread, events: Sequence[Event], ids: Sequence[str]) -> None:
        """Append to a thread that is being read."""
        self._held.append(thread, self._agent, events, ids)

    def _put(
        self, thread_id: str, ns: str, parent: str | None, checkpoint: Checkpoint, metadata: Any, new_versions: ChannelVersions
    ) -> None:
        rest = {name: value for name, value in checkpoint.items() if name not in ("channel_values", "channel_versions")}
        head = {
            "ns": ns,
            "id": checkpoint["id"],
            "parent": parent,
            "versions": dict(checkpoint["channel_versions"]),
            "checkpoint": dump(rest, self.serde),
            "metadata": dump(dict(metadata), self.serde),
        }
        with self._reading(thread_id) as thread:
            events, ids = checkpoint_events(thread, self.serde, head, checkpoint["channel_values"], new_versions)
            there = thread.shown.get((ns, checkpoint["id"]))
            if there is None or not self._same(thread, there.data, head, checkpoint, new_versions):
                self._append(thread, events, ids)

    def _same(self, thread: Thread, there: Json, head: Json, checkpoint: Checkpoint, new_versions: ChannelVersions) -> bool:
        """Whether a checkpoint that is there says what is put."""
        if any(there[name] != value for name, value in head.items()) or there["values"].keys() != new_versions.keys():
            return False
        values, sources = checkpoint["channel_values"], thread.shown[(head["ns"], head["id"])].values
        return all(
            ("empty" in stored)
            if channel not in values
            else self._says(thread, (head["ns"], sources[channel], channel), stored, values[channel])
            for channel, stored in there["values"].items()
        )

    def _says(self, thread: Thread, place: tuple[str, str, str], stored: Json, value: Any) -> bool:
        """Whether what is stored of a channel in a place is this value."""
        if "list" not in stored:
            if isinstance(value, set | frozenset):  # Written in an order that differs between processes.
                return bool(load(stored, self.serde) == value)
            return json_text(stored) == json_text(dump(value, self.serde))
        messages = value.value if isinstance(value, DeltaSnapshot) else value
        if not is_messages(messages) or stored.get("delta", False) == (messages is value):
            return False
        kept = [thread.messages[message_id] for message_id in thread.listed(*place)]
        return len(kept) == len(messages) and all(
            item.is_same(message, self.serde) for item, message in zip(kept, messages, strict=True)
        )

    def _put_writes(self, thread_id: str, key: Key, items: Sequence[tuple[int, str, Any]], task_id: str, task_path: str) -> None:
        with self._reading(thread_id) as thread:
            there = thread.writes.get(key, {})
            new = [item for item in items if self._is_new(there.get((task_id, item[0])), item)]
            if new:
                head = {"ns": key[0], "id": key[1], "task": task_id, "path": task_path}
                prior = [there.get((task_id, at)) for at, _, _ in items]
                self._append(thread, *writes_events(thread, self.serde, head, new, prior))

    def _is_new(self, old: Json | None, item: tuple[int, str, Any]) -> bool:
        """Whether what a task wrote is to be kept. The first write in a place stays, but errors and interrupts are replaced."""
        at, channel, value = item
        return old is None or (at < 0 and (old["channel"], old["value"]) != (channel, dump(value, self.serde)))

    def _hide(self, thread_id: str, keys: Sequence[Key] | None, *, forget: bool = False) -> None:
        with self._reading(thread_id) as thread:
            chosen = sorted({*thread.checkpoints, *thread.writes} if keys is None else keys)
            if chosen:
                events = extension(HIDDEN, {"checkpoints": chosen, "forget": forget})
                seed = seed_of(thread.stream_id, thread.epoch, chosen, forget)
                self._append(thread, events, [id_of(seed, index) for index in range(len(events))])

    def _tuple(self, thread: Thread, thread_id: str, key: Key) -> CheckpointTuple:
        saved = thread.checkpoints[key]
        values = {
            channel: self._value(thread, key[0], source, channel)
            for channel, source in saved.values.items()
            if "empty" not in thread.values[(key[0], source, channel)]
        }
        rest = load(saved.data["checkpoint"], self.serde)
        if not isinstance(rest, dict) or rest.get("id") != key[1]:
            raise broken("a checkpoint with its id")
        return CheckpointTuple(
            config=_config(thread_id, key),
            checkpoint=cast(Checkpoint, {**rest, "channel_versions": dict(saved.data["versions"]), "channel_values": values}),
            metadata=self._metadata(saved),
            parent_config=_config(thread_id, (key[0], saved.parent)) if saved.parent else None,
            pending_writes=[
                (write["task"], write["channel"], self._written(thread, key[0], write)) for write in thread.ordered(key)
            ],
        )

    def _metadata(self, saved: Saved) -> Any:
        metadata = load(saved.data["metadata"], self.serde)
        if not isinstance(metadata, dict):
            raise broken("metadata")
        return metadata

    def _value(self, thread: Thread, ns: str, checkpoint_id: str, channel: str) -> Any:
        stored = thread.values[(ns, checkpoint_id, channel)]
        if "list" not in stored:
            return self._loaded(thread, stored, channel)
        found = self._restored(thread, thread.listed(ns, checkpoint_id, channel))
        return DeltaSnapshot(found) if stored.get("delta") else found

    def _written(self, thread: Thread, ns: str, write: Json) -> Any:
        value = write["value"]
        if "list" not in value:
            return self._loaded(thread, value, write["channel"])
        found = self._restored(thread, thread.step(ns, value["list"], write["channel"]))
        return found[0] if write.get("one") else found

    def _loaded(self, thread: Thread, stored: Json, channel: str) -> Any:
        value = load(stored, self.serde)
        return without_texts(value, thread.redacted, alone=channel in thread.spoken) if thread.redacted else value

    def _restored(self, thread: Thread, message_ids: Sequence[str]) -> Any:
        with uncollected():
            return [thread.messages[message_id].restore(self.serde) for message_id in message_ids]


def _place(config: RunnableConfig) -> tuple[str, str]:
    configurable = config["configurable"]
    return configurable["thread_id"], configurable.get("checkpoint_ns", "")


def _config(thread_id: str, key: Key) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": key[0], "checkpoint_id": key[1]}}

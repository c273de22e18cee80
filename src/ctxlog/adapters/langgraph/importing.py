"""Bring in threads that another of LangGraph's savers kept: every checkpoint and every write, as put anew, oldest first.

What is there already stays as it is. So a run that was stopped is run again, and a thread that has grown since adds its tail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from ctxlog.adapters.langgraph.saver import CtxlogSaver
from ctxlog.errors import InvalidInputError


class ImportedThreads(NamedTuple):
    """What a source held: numbers of threads and checkpoints, of which all are in the log now."""

    threads: int
    checkpoints: int


def import_threads(
    source: BaseCheckpointSaver[str], target: CtxlogSaver, thread_ids: Iterable[str] | None = None
) -> ImportedThreads:
    """Bring in threads from another saver, as from LangGraph's `SqliteSaver`.

    Nobody should write to these threads at the source meanwhile. Each checkpoint is one append and each task's writes are one.

    Args:
        source: The saver that has them. What it decodes, and how, is its own matter.
        target: The saver that gets them, under the same names.
        thread_ids: The threads; by default all that the source lists.

    Raises:
        InvalidInputError: `thread_ids` is one text, or a thread's name is too long for a stream.
    """
    if isinstance(thread_ids, str):
        raise InvalidInputError("thread_ids: expected several, found one text; nothing was brought in")
    parents: dict[str, dict[tuple[str, str], str | None]] = {}
    configs: list[RunnableConfig | None] = (
        [None] if thread_ids is None else [{"configurable": {"thread_id": thread_id}} for thread_id in thread_ids]
    )
    for config in configs:
        for found in source.list(config):
            place = found.config["configurable"]
            above = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
            parents.setdefault(place["thread_id"], {})[place.get("checkpoint_ns", ""), place["checkpoint_id"]] = above
    for thread_id, checkpoints in parents.items():
        for ns, checkpoint_id in _parents_first(checkpoints):
            found_again = source.get_tuple(_config(thread_id, ns, checkpoint_id))
            if found_again is not None:  # Else somebody deleted it meanwhile.
                _import(source, target, thread_id, ns, found_again)
    return ImportedThreads(len(parents), sum(map(len, parents.values())))


def _config(thread_id: str, ns: str, checkpoint_id: str | None) -> RunnableConfig:
    place = {"thread_id": thread_id, "checkpoint_ns": ns}
    return {"configurable": place if checkpoint_id is None else {**place, "checkpoint_id": checkpoint_id}}


def _parents_first(checkpoints: dict[tuple[str, str], str | None]) -> Iterator[tuple[str, str]]:
    """All checkpoints, each after the one that it comes from, and otherwise by id, which is by time."""
    done: set[tuple[str, str]] = set()
    for key in sorted(checkpoints, key=lambda key: key[1]):
        waiting: list[tuple[str, str]] = []
        at: tuple[str, str] | None = key
        while at is not None and at in checkpoints and at not in done:
            done.add(at)
            waiting.append(at)
            above = checkpoints[at]
            at = None if above is None else (at[0], above)
        yield from reversed(waiting)


def _import(source: BaseCheckpointSaver[str], target: CtxlogSaver, thread_id: str, ns: str, found: CheckpointTuple) -> None:
    versions = found.checkpoint["channel_versions"]
    parent = source.get_tuple(found.parent_config) if found.parent_config else None
    before = parent.checkpoint["channel_versions"] if parent else {}
    # A parent that was pruned at the source brings nothing, so this checkpoint brings all that it holds.
    new = {channel: version for channel, version in versions.items() if before.get(channel) != version}
    above = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
    put = target.put(_config(thread_id, ns, above), found.checkpoint, found.metadata, new)
    tasks: dict[str, list[tuple[str, object]]] = {}
    for task_id, channel, value in found.pending_writes or ():
        tasks.setdefault(task_id, []).append((channel, value))
    for number, (task_id, writes) in enumerate(tasks.items()):
        # The source gives them in the order in which they count, and not the paths which that order comes from.
        target.put_writes(put, writes, task_id, f"{number:06}")

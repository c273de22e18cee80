"""Cut a fold into chunks, and put it together again: what did not change since the last snapshot is not encoded again.

Pure. The lists of a fold are cut at multiples of `CHUNK_ITEMS` and, between them, where `CHUNK_BYTES` are full. So one changed
entry makes one chunk new, of these bounds or of that entry alone. One that grows may shift the cuts as far as the next multiple;
one that goes shifts all entries behind it, and makes their chunks new too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ctxlog.core.digests import sha256
from ctxlog.core.fold import StreamFold
from ctxlog.model.state import Anomaly, Fact, Lease, Message, ToolCall

CHUNK_ITEMS = 256
"""Most entries in a chunk."""

CHUNK_BYTES = 64 * 1024
"""A chunk takes no further entry once its texts have this many characters; a chunk of 256 usual messages has as many."""


class Chunk(NamedTuple):
    """A part of a list, and the SHA-256 of its encoding, hex."""

    items: list[Any]
    digest: str


Chunks = dict[str, dict[int, Chunk]]
"""By section, and by the number of the first item: counted from the first there ever was, be it forgotten since."""


def cut(fold: StreamFold, known: Chunks) -> tuple[Chunks, dict[str, bytes]]:
    """The chunks of a fold, and the encodings of those that `known` does not have, by digest."""
    chunks: Chunks = {}
    fresh: dict[str, bytes] = {}
    for name, base, items in _sections(fold):
        before = known.get(name, {})
        chunks[name] = found = {}
        at = 0
        while at < len(items):
            old = before.get(base + at)
            kept = None if old is None else _kept(old, base + at, items[at : at + len(old.items)], before, base + len(items))
            if kept is None:
                part = _next(items, at, base)
                text = encoded(part)
                kept = Chunk(part, sha256(text).hexdigest())
                fresh[kept.digest] = text
            found[base + at] = kept
            at += len(kept.items)
    return chunks, fresh


def encoded(items: list[Any]) -> bytes:
    """The encoding of a chunk."""
    return json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode()


def read(sections: dict[str, Sequence[str]], fetch: Callable[[str], bytes], forgotten: int) -> Chunks:
    """The chunks of a fold, from their digests by section.

    Raises:
        ValueError, LookupError, TypeError: They are not what was cut.
    """
    chunks: Chunks = {}
    for name, digests in sections.items():
        make = _MAKERS[name]
        at = forgotten if name == "decided" else 0
        chunks[name] = found = {}
        for digest in digests:
            text = fetch(digest)
            if sha256(text).hexdigest() != digest:
                raise ValueError("a chunk is not what was saved")
            found[at] = Chunk([make(item) for item in json.loads(text)], digest)
            at += len(found[at].items)
    return chunks


def fill(fold: StreamFold, chunks: Chunks, version: int, head: bytes, forgotten: int) -> None:
    """Give a fold the lists that these chunks are the parts of."""
    lists = {name: [item for chunk in parts.values() for item in chunk.items] for name, parts in chunks.items()}
    fold.arbiter.restore(version, head, dict(lists["targets"]), lists["decided"], forgotten)
    fold.version, fold.head = version, head
    evolving = fold.evolving
    evolving.messages = lists["messages"]
    evolving.index = {message.id: i for i, message in enumerate(evolving.messages)}
    evolving.facts = dict(lists["facts"])
    evolving.tool_calls = dict(lists["tool_calls"])
    evolving.anomalies = lists["anomalies"]


def _sections(fold: StreamFold) -> Iterator[tuple[str, int, list[Any]]]:
    """The lists that make up a fold, each with the absolute number of its first item."""
    evolving, arbiter = fold.evolving, fold.arbiter
    yield "messages", 0, evolving.messages
    yield "facts", 0, list(evolving.facts.items())
    yield "tool_calls", 0, list(evolving.tool_calls.items())
    yield "anomalies", 0, evolving.anomalies
    yield "targets", 0, list(arbiter.targets.items())
    yield "decided", arbiter.forgotten, arbiter.remembered()


def _kept(old: Chunk, start: int, items: list[Any], before: dict[int, Chunk], end: int) -> Chunk | None:
    """The chunk, where it still holds these items and was full, or nothing follows."""
    after = start + len(old.items)
    full = after % CHUNK_ITEMS == 0 or after in before or after == end
    # Entries are immutable and shared, so the comparison is mostly one of pointers.
    return old if full and old.items == items else None


def _next(items: list[Any], at: int, base: int) -> list[Any]:
    """The next part: up to the next multiple of the number of items, or as many as have the bytes of a chunk."""
    end = min(len(items), at + CHUNK_ITEMS - (base + at) % CHUNK_ITEMS)
    characters = 0
    for i in range(at, end):
        characters += _characters(items[i])
        if characters > CHUNK_BYTES and i > at:
            return items[at:i]
    return items[at:end]


def _characters(item: Any) -> int:
    if isinstance(item, str):
        return len(item)
    return sum(map(_characters, item)) if isinstance(item, tuple) else 0


def _message(item: list[Any]) -> Message:
    item[_CALLS] = tuple(item[_CALLS])
    return Message._make(item)


def _tool_call(item: list[Any]) -> tuple[str, ToolCall]:
    call_id, call = item
    if call[_LEASE]:
        call[_LEASE] = Lease(*call[_LEASE])
    return call_id, ToolCall._make(call)


_CALLS = Message._fields.index("tool_calls")
_LEASE = ToolCall._fields.index("lease")


_MAKERS: dict[str, Any] = {
    "messages": _message,
    "facts": lambda item: (item[0], Fact(*item[1])),
    "tool_calls": _tool_call,
    "anomalies": lambda item: Anomaly(*item),
    "targets": tuple,
    "decided": tuple,
}

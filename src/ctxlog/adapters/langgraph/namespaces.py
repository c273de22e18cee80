"""Namespaces of LangGraph's store as streams: their names, what each holds, and which there are.

A namespace is the stream `shared/store/LABEL/LABEL…`, and an item is a fact of it. Names are read back exactly: a stream or a
fact whose name the store would have written in another way is none of its own, and is passed over.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.store.base import InvalidNamespaceError

from ctxlog.adapters.langgraph.items import value_of
from ctxlog.client.log import ContextLog
from ctxlog.errors import IntegrityError
from ctxlog.model.records import Accepted, Rejected
from ctxlog.model.state import Fact
from ctxlog.replay.replayer import StreamCursor

ROOT = "shared/store/"
"""What the names of the streams begin with. Apart from `AGENT/…`, where the threads of the checkpointer are."""

NAMESPACES_MAX = 256
"""Namespaces whose fold a store keeps at hand; any other is read from the log again."""

TAIL_OFFSETS_MAX = 2_000
"""Where a partition has grown by more than this, its names are listed anew, which costs what all its streams cost."""

FEW_NAMES = 100
"""So many new names are put into their places; with more, all are sorted."""

Labels = tuple[str, ...]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_LABEL = _KEY.replace("/", "")


def check_labels(labels: Any) -> Labels:
    """Labels as a tuple. Raises `InvalidNamespaceError` where LangGraph allows no such."""
    if isinstance(labels, str):
        raise InvalidNamespaceError('namespace: expected labels, as in ("memories", "ann"), found one text')
    checked = tuple(labels)
    for label in checked:
        if not isinstance(label, str) or not label or "." in label or "\0" in label:
            raise InvalidNamespaceError("namespace: expected labels that are texts, not empty, without '.' and NUL")
    return checked


def stream_of(labels: Labels) -> str:
    """Name of a namespace's stream: what is not printable ASCII is written as `%` and two hex digits, and so are `%` and `/`."""
    return ROOT + "/".join(quote(label, safe=_LABEL, errors="surrogatepass") for label in labels)


def labels_of(stream_id: str) -> Labels | None:
    """The namespace whose stream this is; None: it is no namespace's."""
    if not stream_id.startswith(ROOT):
        return None
    try:
        labels = check_labels(unquote(label, errors="surrogatepass") for label in stream_id.removeprefix(ROOT).split("/"))
    except (InvalidNamespaceError, UnicodeDecodeError):
        return None
    return labels if stream_of(labels) == stream_id else None


def fact_of(key: str) -> str:
    """Name of an item's fact, written as a label is; `%` stands alone for the empty key."""
    return quote(key, safe=_KEY, errors="surrogatepass") or "%"


def key_of(fact: str) -> str | None:
    """The key of the item that this fact is; None: it is none."""
    try:
        key = "" if fact == "%" else unquote(fact, errors="surrogatepass")
    except UnicodeDecodeError:
        return None
    return key if fact_of(key) == fact else None


class Times(NamedTuple):
    """When an item was set first since it last was not there, and when last; ms since 1970 UTC by the log's clock."""

    created_at: int
    updated_at: int
    event_id: str


class Held(NamedTuple):
    """An item as a fact holds it; it stays as it is, whatever is read later."""

    labels: Labels
    stream_id: str
    key: str
    name: str
    fact: Fact
    times: Times

    def value(self, serde: SerializerProtocol) -> dict[str, Any]:
        """The value; each call makes a new one. Raises `IntegrityError`."""
        return value_of(self.fact.value, serde, self.stream_id, self.name)

    def members(self, serde: SerializerProtocol) -> dict[str, Any]:
        """What LangGraph's items are made of. Raises `IntegrityError`."""
        try:
            created_at, updated_at = (_EPOCH + timedelta(milliseconds=ms) for ms in self.times[:2])
        except OverflowError:
            raise IntegrityError(
                f"stream {self.stream_id!r}: the log has a time that no calendar has; nothing was read"
            ) from None
        value = self.value(serde)
        return {"namespace": self.labels, "key": self.key, "value": value, "created_at": created_at, "updated_at": updated_at}


class Namespace:
    """The fold of one namespace's stream; `see` takes what a replayer shows.

    Attributes:
        times: Of all facts, the one that was set last at the end.
    """

    def __init__(self, labels: Labels, stream_id: str, cursor: StreamCursor) -> None:
        self.labels = labels
        self.stream_id = stream_id
        self.cursor = cursor
        self.times: dict[str, Times] = {}

    @property
    def facts(self) -> dict[str, Fact]:
        """The facts as the core's fold has them."""
        return self.cursor.fold.evolving.facts

    def target_version(self, name: str) -> int:
        """The version at which a fact was last changed; 0: never here."""
        return self.cursor.fold.arbiter.targets.get(f"fact:{name}", 0)

    def see(self, outcomes: Sequence[Accepted | Rejected], _version: int) -> None:
        """Note the times of what accepted events have set."""
        removed = set()
        for outcome in outcomes:
            if not isinstance(outcome, Accepted) or not outcome.event.readable:
                continue
            if outcome.version == 1 and self.cursor.fold.evolving.parent is not None:  # A fork begins with what it inherits.
                self.times = {key: Times(outcome.time, outcome.time, fact.event_id) for key, fact in self.facts.items()}
            if outcome.event.type not in ("ctxlog.FactSet", "ctxlog.FactRemoved"):
                continue
            key = outcome.event.payload["key"]
            fact, before = self.facts.get(key), self.times.get(key)
            if outcome.event.type == "ctxlog.FactRemoved" and outcome.event.meta["target"] == f"fact:{key}":
                removed.add(key)
            if fact is None:
                self.times.pop(key, None)
            elif before is None or before.event_id != fact.event_id:
                self.times.pop(key, None)
                created = outcome.time if before is None or key in removed else before.created_at
                self.times[key] = Times(created, outcome.time, fact.event_id)

    def items(self, now: int) -> Iterator[Held]:
        """The items that have not expired at an instant (µs since 1970 UTC), the one that was set last first."""
        for name in reversed(self.times):
            key = key_of(name)
            held = None if key is None else self.item(key, now)
            if held is not None:
                yield held

    def item(self, key: str, now: int) -> Held | None:
        """The item of a key, unless it has expired."""
        name = fact_of(key)
        fact = self.facts.get(name)
        if fact is None or (fact.expires_at is not None and fact.expires_at <= now):
            return None
        return Held(self.labels, self.stream_id, key, name, fact, self.times[name])


class Namespaces:
    """The namespaces of a log: their folds, read on from where they stand, and their names. A forked child begins anew."""

    def __init__(self, log: ContextLog) -> None:
        self._log = log
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._held: OrderedDict[Labels, Namespace] = OrderedDict()
        self._listed: dict[int, int] = {}  # partition -> offset below which its names are known
        self._known: set[Labels] = set()
        self._sorted: list[Labels] = []

    @property
    def lock(self) -> threading.RLock:
        """To be held while a namespace is read and looked at."""
        if self._pid != os.getpid():
            self._start()
        return self._lock

    def ends(self) -> Callable[[int], int]:
        """Where each partition ends when it is first asked for, with all that this process wrote: one look for one batch."""
        found: dict[int, int] = {}

        def end(partition: int) -> int:
            if partition not in found:
                shown = self._log._caught_up(partition)
                found[partition] = max(shown, self._log.replayer.reader.check_horizon(partition))
            return found[partition]

        return end

    def read(self, labels: Labels, ends: Callable[[int], int]) -> Namespace:
        """A namespace with all that its stream holds. Raises what says why it cannot be folded; the lock is held."""
        replayer, stream_id = self._log.replayer, stream_of(labels)
        # Read from its beginning, and not from a snapshot: a state does not say when its facts were set.
        found = self._held.pop(labels, None) or Namespace(labels, stream_id, replayer.open(stream_id, end=0))
        replayer.advance(found.cursor, max(ends(replayer.reader.partition(stream_id)), found.cursor.next_offset), seen=found.see)
        if found.cursor.fold.failure is not None:
            raise found.cursor.fold.failure
        self._held[labels] = found  # Kept only now: a fold whose reading failed half-way is not used again.
        if len(self._held) > NAMESPACES_MAX:
            self._held.popitem(last=False)
        return found

    def below(self, prefix: Labels, ends: Callable[[int], int]) -> Iterator[Labels]:
        """Names of the namespaces that begin with a prefix, sorted; some may hold nothing any more. The lock is held."""
        for partition in range(self._log.log.partitions):
            self._list(partition, ends(partition))
        for at in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            if self._sorted[at][: len(prefix)] != prefix:
                return
            yield self._sorted[at]

    def _list(self, partition: int, end: int) -> None:
        start, log = self._listed.get(partition), self._log.log
        if start is not None and start >= end:
            return
        if start is None or end - start > TAIL_OFFSETS_MAX:
            keys: set[bytes | None] = set(log.keys(partition))
        else:
            keys = {record.key for record in log.read(partition, start, end)}
        new = {labels_of(key.decode(errors="replace")) for key in keys if key is not None and key.startswith(ROOT.encode())}
        names = [labels for labels in new if labels is not None and labels not in self._known]
        self._known.update(names)
        if len(names) <= FEW_NAMES:
            for labels in names:
                insort(self._sorted, labels)
        else:
            self._sorted = sorted(self._known)
        self._listed[partition] = end

"""What the reads of one batch show: all of them as of one moment, and recorded where a decision is being made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.store.base import GetOp, Item, ListNamespacesOp, MatchCondition, SearchItem, SearchOp

from ctxlog.adapters.langgraph.items import check_filter, lets_through
from ctxlog.adapters.langgraph.namespaces import Held, Labels, Namespaces, check_labels, fact_of
from ctxlog.client.deciding import Decision, current
from ctxlog.client.log import ContextLog
from ctxlog.errors import InvalidInputError
from ctxlog.model.selection import APPROXIMATE_TOKENS, Selection, select
from ctxlog.model.state import ContextState


class Look:
    """Reads for one batch. Its methods are called while the lock of the namespaces is held.

    Args:
        log: The log.
        namespaces: Its namespaces.
        serde: Reads what JSON cannot carry.
        now: The instant at which expiry is judged, µs since 1970 UTC.
    """

    def __init__(self, log: ContextLog, namespaces: Namespaces, serde: SerializerProtocol, now: int) -> None:
        self._namespaces = namespaces
        self._serde = serde
        self._now = now
        self._ends = namespaces.ends()
        self._decision = current(log)

    def get(self, op: GetOp) -> Item | None:
        """The item of a key."""
        labels = check_labels(op.namespace)
        if not labels:
            return None
        found = self._namespaces.read(labels, self._ends)
        shown = found.item(check_key(op.key), self._now)
        if self._decision is not None:
            note(self._decision, found.cursor.fold.state(), [fact_of(op.key)], self._now)
        return None if shown is None else Item(**shown.members(self._serde))

    def search(self, op: SearchOp, *, ranked: bool) -> Search:
        """What a search finds: all that its filter lets through where it is to be ranked, else what it is to give."""
        limit, offset, wanted = whole("limit", op.limit), whole("offset", op.offset), check_filter(op.filter)
        prefix = check_labels(op.namespace_prefix)
        search = Search(self._decision, self._serde, self._now, prefix, offset, limit)
        left = None if ranked else offset + limit
        for labels in self._namespaces.below(prefix, self._ends):
            if left == 0:
                break
            found = self._namespaces.read(labels, self._ends)
            items = found.items(self._now)
            if wanted:
                items = (item for item in items if lets_through(wanted, item.value(self._serde)))
            held = list(islice(items, left))
            left = None if left is None else left - len(held)
            search.held += held
            if self._decision is not None and (held or labels == prefix):
                search.places.append((found.cursor.fold.state(), labels))
        return search

    def list(self, op: ListNamespacesOp) -> list[Labels]:
        """Namespaces that hold an item."""
        limit, offset = whole("limit", op.limit), whole("offset", op.offset)
        conditions = [MatchCondition(kind, check_labels(path)) for kind, path in op.match_conditions or ()]
        depth = None if op.max_depth is None else whole("max_depth", op.max_depth)
        return list(islice(self._filled(conditions, depth), offset, offset + limit))

    def _filled(self, conditions: Sequence[MatchCondition], depth: int | None) -> Iterator[Labels]:
        """The namespaces that hold an item, cut to a depth, sorted, each once."""
        heads = [condition.path for condition in conditions if condition.match_type == "prefix"] or [()]
        head = tuple(takewhile(lambda label: label != "*", heads[0]))
        last = None
        for labels in self._namespaces.below(head, self._ends):
            cut = labels[:depth]
            # Sorted, so those that are the same when cut stand side by side.
            if cut == last or not all(_matches(condition, labels) for condition in conditions):
                continue
            if next(self._namespaces.read(labels, self._ends).items(self._now), None) is not None:
                last = cut
                yield cut


class Search:
    """One search: what was found, and where was looked.

    Attributes:
        held: What was found, in the order of the log.
        places: The namespaces of which something may be recorded as read: what they give, and that the one that was asked for
            gives nothing.
    """

    def __init__(
        self, decision: Decision | None, serde: SerializerProtocol, now: int, prefix: Labels, offset: int, limit: int
    ) -> None:
        self.held: list[Held] = []
        self.places: list[tuple[ContextState, Labels]] = []
        self._decision, self._serde, self._now = decision, serde, now
        self._prefix, self._offset, self._limit = prefix, offset, limit

    def value(self, held: Held) -> dict[str, Any]:
        """The value of an item that was found. Raises `IntegrityError`."""
        return held.value(self._serde)

    def result(self, scores: Sequence[float | None] | None = None) -> list[SearchItem]:
        """What it gives, and its record: by score where there are any, what has none behind."""
        order = [(held, None) for held in self.held] if scores is None else _by_score(self.held, scores)
        given = order[self._offset : self._offset + self._limit]
        items = [SearchItem(**held.members(self._serde), score=score) for held, score in given]
        for state, labels in self.places:
            names = [held.name for held, _ in given if held.labels == labels]
            if self._decision is not None and (names or labels == self._prefix):
                note(self._decision, state, names, self._now)
        return items


def _by_score(held: Sequence[Held], scores: Sequence[float | None]) -> list[tuple[Held, float | None]]:
    pairs = list(zip(held, scores, strict=True))
    return sorted(
        pairs, key=lambda pair: (pair[1] is None, -(pair[1] or 0))
    )  # Stable: the order of the log where they are equal.


def note(decision: Decision, state: ContextState, names: Sequence[str], now: int) -> None:
    """Record the facts that are shown of a namespace as read by a decision."""
    selection = Selection(max_messages=0, fact_prefixes=tuple(names))
    decision.note_window(state, select(state, selection, judged_at=now), selection, APPROXIMATE_TOKENS)


def check_key(key: Any) -> str:
    """A key that can be one. Raises `InvalidInputError`."""
    if not isinstance(key, str):
        raise InvalidInputError(f"key: expected a text, found {type(key).__name__}; nothing was done")
    return key


def whole(what: str, number: Any) -> int:
    """A whole number from 0. Raises `InvalidInputError`."""
    if type(number) is not int or number < 0:
        raise InvalidInputError(f"{what}: expected a whole number from 0; nothing was read")
    return number


def _matches(condition: MatchCondition, labels: Labels) -> bool:
    """Whether a namespace begins, or ends, with a path; `*` in it is any label."""
    path = condition.path
    if condition.match_type not in ("prefix", "suffix"):
        raise InvalidInputError("match_type: expected 'prefix' or 'suffix'; nothing was listed")
    part = labels[: len(path)] if condition.match_type == "prefix" else labels[max(len(labels) - len(path), 0) :]
    return len(part) == len(path) and all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))

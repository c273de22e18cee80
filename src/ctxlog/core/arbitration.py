"""Decide which records of a stream count (rules 1): all-or-nothing appends, preconditions, duplicates.

Kafka has no compare-and-set, so the log decides: every reader offers a stream's records in offset order and reaches the same
verdicts. Only key, `meta` and event type are read; never another stream, a clock, a header or a payload.
`docs/reference/arbitration.md` is the definition.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from ctxlog.core.digests import chain_next, chain_start
from ctxlog.model.records import Accepted, EventRecord, Rejected

RULES = 1
"""Version of these rules. It stands in each partition's genesis; a log keeps the rules that it was born with."""

DECIDED_IDS_MAX = 65_536
"""Ids that a stream remembers, so that a copy sent again is recognised. Bounds memory; part of the rules."""

OPEN_APPENDS_MAX = 64
"""Appends of one stream that may be incomplete at once. Bounds memory; part of the rules."""

APPEND_EVENTS_MAX = 1000
"""Events in one append. Part of the rules."""

CONFLICT = 0
ABANDONED = -1
"""How the memory of decided ids marks what was not accepted; an accepted id is remembered with its version."""


class Verdict(NamedTuple):
    """What one record brought about: events accepted, in version order, and records rejected. Both empty: it is held."""

    accepted: tuple[Accepted, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class OpenAppend:
    """An append whose records have not all been read."""

    __slots__ = ("count", "held")

    def __init__(self, count: int) -> None:
        self.count = count
        self.held: dict[int, EventRecord] = {}


_HELD = Verdict()


class Arbiter:
    """The arbitration of one stream. Offer it the stream's decodable, well-placed records in offset order.

    Attributes:
        version: Number of accepted events.
        head: Chain head, 32 bytes.
        targets: Version of the last accepted event of each target.
        decided: Remembered ids, oldest first, each with the version at which it was accepted, `CONFLICT` or `ABANDONED`.
        open: Incomplete appends by append id, oldest first.
    """

    __slots__ = ("_decided_max", "_open_max", "_order", "decided", "forgotten", "head", "open", "stream_id", "targets", "version")

    def __init__(self, stream_id: str, *, decided_max: int = DECIDED_IDS_MAX, open_max: int = OPEN_APPENDS_MAX) -> None:
        self.stream_id = stream_id
        self.version = 0
        self.head = chain_start(stream_id)
        self.targets: dict[str, int] = {}
        self.decided: dict[str, int] = {}
        self.open: dict[str, OpenAppend] = {}
        self.forgotten = 0
        self._order: deque[str] = deque()
        self._decided_max = decided_max
        self._open_max = open_max

    def restore(self, version: int, head: bytes, targets: dict[str, int], decided: list[tuple[str, int]], forgotten: int) -> None:
        """Take up the arbitration where a snapshot left it, without its open appends; `hold` brings those."""
        self.version = version
        self.head = head
        self.targets = targets
        self.decided = dict(decided)
        self._order = deque(self.decided)
        self.forgotten = forgotten

    def hold(self, append_id: str, count: int, events: list[EventRecord]) -> None:
        """Take up an open append where a snapshot left it; oldest append first."""
        opened = self.open[append_id] = OpenAppend(count)
        for event in events:
            group = event.meta["append"]
            opened.held[group["index"]] = event

    def remembered(self) -> list[tuple[str, int]]:
        """The decided ids and what became of them, oldest first."""
        return [(event_id, self.decided[event_id]) for event_id in self._order]

    def offer(self, event: EventRecord) -> Verdict:
        """Judge the next record of the stream."""
        if self.take_alone(event):
            return Verdict((Accepted(self.version, event, event.offset, event.time, self.head),))
        meta = event.meta
        event_id: str = meta["event_id"]
        group: dict[str, Any] | None = meta["append"]
        if group is None:
            append_id, index, count = event_id, 0, 1
        else:
            append_id, index, count = group["id"], group["index"], group["count"]
        opened = self.open.get(append_id)
        if (group is not None or opened or meta["precondition"]) and self._malformed(meta, append_id, index, count, opened):
            return Verdict((), (Rejected(event.offset, "malformed", event),))
        decided = self.decided
        if event_id in decided or append_id in decided or (opened and index in opened.held):
            return Verdict((), (Rejected(event.offset, "duplicate", event),))
        if count == 1:
            return self._judge((event,), event)
        abandoned: tuple[Rejected, ...] = ()
        if opened is None:
            if len(self.open) >= self._open_max:
                abandoned = self._abandon(event.offset)
            opened = self.open[append_id] = OpenAppend(count)
        opened.held[index] = event
        if len(opened.held) < count:
            return Verdict((), abandoned) if abandoned else _HELD
        del self.open[append_id]
        return self._judge(tuple(opened.held[i] for i in range(count)), event)

    def take_alone(self, event: EventRecord) -> bool:
        """Accept the next record of the stream where it is as most are: an append of its own that asks for nothing and repeats
        nothing. `offer` would say the same of it, as long as it is called for all others."""
        meta = event.meta
        event_id = meta["event_id"]
        if meta["append"] is not None or meta["precondition"] is not None or event_id in self.decided or event_id in self.open:
            return False
        self._count(event_id, meta["target"], event.digest)
        return True

    def _malformed(self, meta: dict[str, Any], append_id: str, index: int, count: int, opened: OpenAppend | None) -> bool:
        if not 1 <= count <= APPEND_EVENTS_MAX or not 0 <= index < count or (opened and opened.count != count):
            return True
        if index == 0 and meta["event_id"] != append_id:
            return True
        condition = meta["precondition"]
        if condition is None:
            return False
        if index and (condition["expected_version"] is not None or condition["expected_head"] is not None):
            return True
        return condition["expected_target_version"] is not None and meta["target"] is None

    def _judge(self, events: tuple[EventRecord, ...], last: EventRecord) -> Verdict:
        """Accept or reject a complete append, against the state before it. The append's id is that of its first event."""
        if not all(map(self._holds, events)) or (len(events) > 1 and self._repeats(events)):
            for event in events:
                self.remember(event.meta["event_id"], CONFLICT)
            return Verdict((), tuple(Rejected(event.offset, "conflict", event, last.offset) for event in events))
        return Verdict(tuple([self._accept(event, last) for event in events]))

    def _accept(self, event: EventRecord, last: EventRecord) -> Accepted:
        """Let an event count. `last` is the record that completed its append."""
        meta = event.meta
        self._count(meta["event_id"], meta["target"], event.digest)
        return Accepted(self.version, event, last.offset, last.time, self.head)

    def _count(self, event_id: str, target: str | None, digest: bytes) -> None:
        version = self.version = self.version + 1
        self.head = chain_next(self.head, digest)
        self._remember(event_id, version)
        if target is not None:
            self.targets[target] = version

    def _holds(self, event: EventRecord) -> bool:
        condition = event.meta["precondition"]
        if condition is None:
            return True
        version, head, target_version = (
            condition["expected_version"],
            condition["expected_head"],
            condition["expected_target_version"],
        )
        return (
            (version is None or version == self.version)
            and (head is None or head == self.head.hex())
            and (target_version is None or target_version == self.targets.get(event.meta["target"], 0))
        )

    def _repeats(self, events: tuple[EventRecord, ...]) -> bool:
        """Whether an id was decided since its record was held, or stands twice in the append."""
        ids = [event.meta["event_id"] for event in events]
        return len(set(ids)) < len(ids) or any(event_id in self.decided for event_id in ids)

    def _abandon(self, offset: int) -> tuple[Rejected, ...]:
        append_id = next(iter(self.open))
        opened = self.open.pop(append_id)
        self.remember(append_id, ABANDONED)
        held = [opened.held[index] for index in sorted(opened.held)]
        for event in held:
            self.remember(event.meta["event_id"], ABANDONED)
        return tuple(Rejected(event.offset, "abandoned", event, offset) for event in held)

    def remember(self, event_id: str, outcome: int) -> None:
        """Remember a decided id, as arbitration does and as whoever takes it up again; one that is remembered stays as it is."""
        if event_id not in self.decided:
            self._remember(event_id, outcome)

    def _remember(self, event_id: str, outcome: int) -> None:
        self.decided[event_id] = outcome
        self._order.append(event_id)
        if len(self._order) > self._decided_max:
            del self.decided[self._order.popleft()]
            self.forgotten += 1

"""The streams that a projector is at: what arbitration and fold need to go on, in bounded memory.

Texts are let go of as soon as they stand in a row: the fold looks at ids, keys and conditions, never at what a message says. A
stream that was let go of is made again from its rows, by the same code that made them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from ctxlog.core.arbitration import ABANDONED, CONFLICT, Arbiter
from ctxlog.core.evolve import Evolving
from ctxlog.errors import NewerEventError
from ctxlog.model.records import Accepted, EventRecord
from ctxlog.model.state import Message

IDS_MAX = 300_000
"""Ids that streams hold in memory together beyond those of the last batch; some 200 bytes each."""

IN_PARENT = "in_parent"
"""Why an event of a fork has no effect on what the fork itself holds: it is about something of its parent's."""

_UNKNOWN = frozenset({"message_unknown", "fact_unknown", "call_unknown"})


TEXTS: dict[str, dict[str, Any]] = {
    "ctxlog.MessageAppended": {"content": None, "parts": None},
    "ctxlog.ToolReturned": {"content": None, "parts": None},
    "ctxlog.FactSet": {"value": ""},
    "ctxlog.ToolCalled": {"arguments": ""},
    "ctxlog.ExtensionRecorded": {"data": ""},
}
"""Members that the fold does not look at, by event type, and what stands in their place."""


def forget_texts(event: EventRecord) -> None:
    """Take out of an event what the fold does not look at, once its row is made: neither a stream nor an open append keeps it."""
    texts = TEXTS.get(event.type)
    # What a call was called with decides whether it may be taken over, where it has a key.
    if texts is not None and event.readable and event.payload.get("idempotency_key") is None:
        event.payload.update(texts)


class DecidedRow(NamedTuple):
    """What a row of `events` says of an event that was decided; texts are left out.

    `payload` has the members that the fold looks at.
    """

    record_offset: int
    type: str
    outcome: str
    version: int | None
    anomaly: str | None
    meta: dict[str, Any]
    payload: dict[str, Any]


_ANY = Message("", "", None, None, None, (), None, "", None, None)


class Shape(Evolving):
    """A state as far as later events are judged by it: which messages, facts and calls there are, and not what they say."""

    __slots__ = ()

    def add_message(self, message: Message) -> None:
        """Keep its id, and the call that it answers."""
        answers = message.tool_call_id
        super().add_message(message)
        self.messages[-1] = _ANY if answers is None else _ANY._replace(tool_call_id=answers)


class Stream:
    """One stream, as far as it was projected.

    Attributes:
        arbiter: Which records count.
        evolving: What they amount to, without texts.
        records, rejected, bytes: Numbers of its records, of those that do not count, and of bytes of keys and values.
        first_at, last_at: Times of its first and last record, ms since 1970 UTC; None where there is no such time.
        effect_offset, effect_at: The record at which its version took effect; -1 and None at version 0.
        agent_id: Who owns it, as its first accepted event says.
        newer: The first event type of a newer release; None where there is none.
    """

    __slots__ = (
        "agent_id", "arbiter", "bytes", "effect_at", "effect_offset", "evolving", "first_at", "last_at", "newer", "partition",
        "records", "rejected",
    )  # fmt: skip

    def __init__(self, stream_id: str, partition: int) -> None:
        self.arbiter = Arbiter(stream_id)
        self.evolving = Shape(stream_id)
        self.partition = partition
        self.records = self.rejected = self.bytes = 0
        self.first_at: int | None = None
        self.last_at: int | None = None
        self.effect_offset = -1
        self.effect_at: int | None = None
        self.agent_id: str | None = None
        self.newer: str | None = None

    def apply(self, accepted: Accepted) -> str | None:
        """Let an accepted event take effect; why it has none, or None."""
        if accepted.version == 1:
            self.agent_id = accepted.event.meta["agent_id"]
        evolving = self.evolving
        try:
            evolving.apply(accepted)
        except NewerEventError:
            self.newer = self.newer or accepted.event.type
            return None
        if evolving.anomalies:
            reason = evolving.anomalies.pop().reason
            return IN_PARENT if evolving.parent is not None and reason in _UNKNOWN else reason
        return None

    def recall(self, row: DecidedRow) -> None:
        """Take a decided row again, in the order in which they were decided; chain head and owner are set by whoever calls."""
        arbiter, event_id = self.arbiter, row.meta["event_id"]
        if row.outcome != "accepted" or row.version is None:
            if row.outcome == "abandoned":
                arbiter.remember(row.meta["append"]["id"], ABANDONED)
            arbiter.remember(event_id, CONFLICT if row.outcome == "conflict" else ABANDONED)
            return
        arbiter.remember(event_id, row.version)
        arbiter.version = row.version
        if row.meta["target"] is not None:
            arbiter.targets[row.meta["target"]] = row.version
        if row.anomaly is None:
            event = EventRecord(self.partition, row.record_offset, 0, row.type, row.meta, row.payload, b"", 0, True)
            self.apply(Accepted(row.version, event, 0, 0, b""))

    @property
    def weight(self) -> int:
        """About how many ids it holds."""
        evolving = self.evolving
        return len(self.arbiter.decided) + len(evolving.messages) + len(evolving.facts) + len(evolving.tool_calls) + 10

    def row(self) -> list[Any]:
        """Its row in `streams`."""
        parent, arbiter = self.evolving.parent, self.arbiter
        return [
            arbiter.stream_id,
            self.partition,
            self.agent_id,
            arbiter.version,
            arbiter.head.hex(),
            self.records,
            self.rejected,
            sum(len(opened.held) for opened in arbiter.open.values()),
            self.bytes,
            self.first_at,
            self.last_at,
            self.effect_offset,
            self.effect_at,
            self.evolving.closed,
            None if parent is None else parent.stream_id,
            None if parent is None else parent.version,
            None if parent is None else parent.chain_head,
            self.newer,
        ]


class Residents:
    """The streams in memory, those that were used last."""

    def __init__(self, ids_max: int = IDS_MAX) -> None:
        self._ids_max = ids_max
        self._streams: OrderedDict[tuple[int, str], tuple[Stream, int]] = OrderedDict()
        self._ids = 0

    def get(self, partition: int, stream_id: str) -> Stream | None:
        """A stream that is there, used just now."""
        found = self._streams.get((partition, stream_id))
        if found is None:
            return None
        self._streams.move_to_end((partition, stream_id))
        return found[0]

    def put(self, streams: Sequence[Stream]) -> None:
        """Keep streams as they are now, those of a batch, and let go of others that were not used for longest.

        Those of the batch stay, however many ids they hold: they were in memory together, so to let go of them makes the next
        batch dearer and no peak lower.
        """
        for stream in streams:
            place = stream.partition, stream.arbiter.stream_id
            before = self._streams.pop(place, None)
            weight = stream.weight
            self._ids += weight - (before[1] if before else 0)
            self._streams[place] = stream, weight
        while self._ids > self._ids_max and len(self._streams) > max(1, len(streams)):
            _, (_, weight) = self._streams.popitem(last=False)
            self._ids -= weight

    def clear(self, partition: int | None = None) -> None:
        """Let go of all, or of those of one partition."""
        for place in [place for place in self._streams if partition in (None, place[0])]:
            self._ids -= self._streams.pop(place)[1]

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
from ctxlog.model.records import EventRecord
from ctxlog.model.state import Fact, Lease, ToolCall
from ctxlog.projection.packed import Packed

IDS_MAX = 300_000
"""Ids that streams hold in memory together beyond those of the last batch; some 200 bytes each."""

PACKED_MIN = 2048
"""Entries from which on a dict of a stream is packed. To look into a packed one takes a
microsecond longer, for the records of long streams alone."""

PACKED_TOGETHER = 8
"""So many of them take the room of one that is not packed."""

RECALLED_TOGETHER = 4096
"""Versions of a stream that are recalled before it is packed."""

IN_PARENT = "in_parent"
"""Why an event of a fork has no effect on what the fork itself holds: it is about something of its parent's."""

_UNKNOWN = frozenset({"message_unknown", "fact_unknown", "call_unknown"})


TEXTS: dict[str, dict[str, Any]] = {
    "ctxlog.MessageAppended": {"role": "", "content": None, "parts": None, "name": None, "tool_call_id": None},
    "ctxlog.ToolReturned": {"content": None, "parts": None, "name": None},
    "ctxlog.FactSet": {"value": ""},
    "ctxlog.ToolCalled": {"name": "", "arguments": "", "source_id": None},
    "ctxlog.ExtensionRecorded": {"data": ""},
}
"""Members that a `Shape` is not made of, by event type, and what stands in their place."""


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


class Calls:
    """The tool calls of a `Shape`: of one without a key only its status, of one with a key also what it was called with.

    Attributes:
        states: Statuses of those without a key, as places in `_STATES`.
        keyed: Those with a key.
    """

    __slots__ = ("keyed", "states")

    def __init__(self) -> None:
        self.states: dict[str, int] | Packed = {}
        self.keyed: dict[str, ToolCall] = {}

    def get(self, call_id: str) -> ToolCall | None:
        """A call as far as it is kept; None where there is none."""
        state = self.states.get(call_id)
        return _STATES[state] if state is not None else self.keyed.get(call_id)

    def __setitem__(self, call_id: str, call: ToolCall) -> None:
        if call.idempotency_key is None:
            self.states[call_id] = _PLACES[call.status]
        else:
            self.keyed[call_id] = call

    def __len__(self) -> int:
        return len(self.states) + len(self.keyed)


_FACT = Fact("", "", None, None, None, "")
_STATES = tuple(ToolCall("", "", status, *(None,) * 7, "") for status in ("open", "returned", "failed"))
_PLACES = {call.status: place for place, call in enumerate(_STATES)}
_THERE, _REDACTED = 0, 1


class Shape(Evolving):
    """A state as far as later events are judged by it: which messages, facts and calls there are, and not what they say.

    `index` says of a message whether it was redacted, and there is no list of them.
    """

    __slots__ = ()

    index: dict[str, int] | Packed  # type: ignore[assignment]
    tool_calls: Calls  # type: ignore[assignment]

    def __init__(self, stream_id: str) -> None:
        super().__init__(stream_id)
        self.tool_calls = Calls()

    def add_message(self, meta: dict[str, Any], payload: dict[str, Any], role: str, answers: str | None) -> None:
        """Keep its id."""
        del payload, role, answers
        self.index[meta["event_id"]] = _THERE

    def redact(self, message_id: str, redacted_by: str) -> bool:
        """Keep that it was."""
        del redacted_by
        if self.index[message_id] == _REDACTED:
            return False
        self.index[message_id] = _REDACTED
        return True

    def set_fact(self, meta: dict[str, Any], payload: dict[str, Any]) -> None:
        """Keep its key."""
        del meta
        self.facts[payload["key"]] = _FACT

    def add_call(self, meta: dict[str, Any], payload: dict[str, Any], lease: Lease | None) -> None:
        """Keep its id."""
        call_id, key = payload["call_id"], payload["idempotency_key"]
        if key is not None:
            self.tool_calls.keyed[call_id] = _STATES[0]._replace(
                name=payload["name"], arguments=payload["arguments"], idempotency_key=key, lease=lease
            )
            return
        event_id = meta["event_id"]  # Mostly the same, and in memory already.
        self.tool_calls.states[event_id if event_id == call_id else call_id] = 0

    def settle_call(self, call: ToolCall, status: str, meta: dict[str, Any], payload: dict[str, Any]) -> None:
        """Keep what became of it."""
        if call.idempotency_key is None:
            self.tool_calls.states[payload["call_id"]] = _PLACES[status]
        else:
            self.tool_calls.keyed[payload["call_id"]] = call._replace(status=status)
        self.index[meta["event_id"]] = _THERE


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

    def note(self, size: int, at: int | None) -> None:
        """Count a record of so many bytes."""
        self.records += 1
        self.bytes += size
        if self.records == 1:
            self.first_at = at
        self.last_at = at

    def apply(self, version: int, event: EventRecord) -> str | None:
        """Let the event that was accepted as `version` take effect; why it has none, or None."""
        if version == 1:
            self.agent_id = event.meta["agent_id"]
        try:
            reason = self.evolving.take(version, event)
        except NewerEventError:
            self.newer = self.newer or event.type
            return None
        return IN_PARENT if self.evolving.parent is not None and reason in _UNKNOWN else reason

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
        if row.version % RECALLED_TOGETHER == 0:
            self.pack()  # Not only at the end: until then it would be as large as if there were no packing.
        if row.meta["target"] is not None:
            arbiter.targets[row.meta["target"]] = row.version
        if row.anomaly is None:
            self.apply(
                row.version, EventRecord(self.partition, row.record_offset, 0, row.type, row.meta, row.payload, b"", 0, True)
            )

    def pack(self) -> None:
        """Let what grows as long as the stream does take less room, where it is much."""
        arbiter, evolving = self.arbiter, self.evolving
        targets: dict[str, int] | Packed = arbiter.targets
        if isinstance(targets, dict) and len(targets) > PACKED_MIN:
            # Arbitration asks and sets, and no more.
            arbiter.targets = Packed(targets, "call:")  # type: ignore[assignment]
        if isinstance(evolving.index, dict) and len(evolving.index) > PACKED_MIN:
            evolving.index = Packed(evolving.index)
        if isinstance(evolving.tool_calls.states, dict) and len(evolving.tool_calls.states) > PACKED_MIN:
            evolving.tool_calls.states = Packed(evolving.tool_calls.states)

    @property
    def weight(self) -> int:
        """About how many ids it holds; some that are packed count as one."""
        evolving = self.evolving
        others = len(self.arbiter.decided) + len(evolving.facts) + len(evolving.tool_calls.keyed) + 10
        return others + sum(map(_weight, (evolving.index, evolving.tool_calls.states)))

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


def _weight(ids: dict[str, int] | Packed) -> int:
    return len(ids) // PACKED_TOGETHER if isinstance(ids, Packed) else len(ids)


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
            stream.pack()
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

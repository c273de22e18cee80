"""Events as agents make them: a question, some reasoning, calls and what they return, facts now and then; about 700 bytes each.

The same seed gives the same bytes, so two runs measure the same work.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ctxlog.codec.avro import encode_event
from ctxlog.codec.framing import frame_single_object
from ctxlog.codec.schemas import shipped
from ctxlog.log.protocol import EventLog
from ctxlog.log.publication import Publisher
from ctxlog.model.records import NewRecord
from ctxlog.replay.reader import LogReader

MESSAGE, CALLED, RETURNED, FACT = (
    "ctxlog.MessageAppended",
    "ctxlog.ToolCalled",
    "ctxlog.ToolReturned",
    "ctxlog.FactSet",
)
TYPES = (MESSAGE, CALLED, RETURNED, FACT)

ACTIVE = 256
"""Streams that are written to at the same time, so the records of each lie far apart in the log."""

SMALL, MEDIUM, LONGEST = "50 to 1,000 events", "1,000 to 10,000 events", "the longest"
"""Kinds of streams by length."""

Sample = tuple[str, int]
"""A stream, and the offset at which to replay it."""

_WORDS = [
    "the",
    "order",
    "was",
    "delivered",
    "on",
    "Tuesday",
    "and",
    "the",
    "customer",
    "asks",
    "for",
    "a",
    "refund",
    "because",
    "item",
    "number",
    "is",
    "not",
    "what",
    "they",
    "chose;",
    "check",
    "reservation",
    "details",
    "then",
    "confirm",
    "total",
    "of",
    "payment",
    '"card"',
    "before",
    "changing",
    "anything,",
    "naïve",
    "café",
    "€129.90",
    "\n",
    "status:",
    "OK",
    "",
]


class RawEvent(NamedTuple):
    """An event as the codec takes it."""

    type_name: str
    meta: dict[str, Any]
    payload: dict[str, Any]


class Workload:
    """Makes the events of many streams.

    Args:
        seed: The same seed gives the same events.
    """

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._text = " ".join(self._random.choices(_WORDS, k=40_000))

    def text(self, low: int, high: int) -> str:
        """Some text of about `low` to `high` characters."""
        start = self._random.randrange(len(self._text) - high)
        return self._text[start : start + self._random.randint(low, high)]

    def _id(self) -> str:
        digits = f"{self._random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def stream(self, stream_id: str) -> Iterator[RawEvent]:
        """The events of one stream; they do not end. Each takes effect when it is folded."""
        agent = stream_id.partition("/")[0]
        occurred_at = 1_760_000_000_000_000

        def event(type_name: str, actor: str, target: str | None, event_id: str, **payload: Any) -> RawEvent:
            nonlocal occurred_at
            occurred_at += self._random.randrange(1_000, 5_000_000)
            meta = {
                "event_id": event_id,
                "stream_id": stream_id,
                "agent_id": agent,
                "actor": actor,
                "occurred_at": occurred_at,
                "scope": "default",
                "target": target,
                "append": None,
                "precondition": None,
                "trace": None,
                "privacy": None,
            }
            return RawEvent(type_name, meta, payload)

        def message(role: str, actor: str, low: int, high: int) -> RawEvent:
            empty = {"parts": None, "name": None, "tool_call_id": None}
            return event(MESSAGE, actor, None, self._id(), role=role, content=self.text(low, high), **empty)

        while True:
            yield message("user", "person:user", 100, 800)
            for _ in range(self._random.randint(1, 4)):
                asked = message("assistant", f"agent:{agent}", 60, 500)
                yield asked
                call_id, note = self._id(), "x" * self._random.randint(20, 200)
                yield event(
                    CALLED,
                    f"agent:{agent}",
                    f"call:{call_id}",
                    call_id,
                    call_id=call_id,
                    name="get_order_details",
                    arguments=f'{{"order_id": "#W{self._random.randrange(10**7)}", "note": "{note}"}}',
                    message_id=asked.meta["event_id"],
                    source_id=f"call_{self._random.getrandbits(96):024x}",
                    idempotency_key=None,
                    lease_expires_at=None,
                )
                returned = {"call_id": call_id, "failed": False, "content": self.text(200, 1700), "parts": None, "name": None}
                yield event(RETURNED, "tool:get_order_details", f"call:{call_id}", self._id(), **returned)
            if self._random.random() < 0.5:
                key = f"order.W{self._random.randrange(200)}.total"
                times = {"valid_from": None, "valid_to": None, "expires_at": None}
                yield event(FACT, f"agent:{agent}", f"fact:{key}", self._id(), key=key, value=f'"{"9" * 200}"', **times)
            yield message("assistant", f"agent:{agent}", 100, 1000)


def new_record(event: RawEvent, partition: int = 0) -> NewRecord:
    """An event as the log takes it."""
    body = encode_event(event.type_name, event.meta, event.payload)
    value = frame_single_object(shipped(event.type_name).fingerprint, body)
    return NewRecord(partition, event.meta["stream_id"].encode(), value)


def publish(log: EventLog) -> None:
    """Publish the schemas of these events in partition 0, so that their records can be read back."""
    Publisher(log, LogReader(log)).ensure(0, TYPES)


def lengths(events: int, rng: random.Random) -> list[int]:
    """Lengths of streams that add up to `events`: one has a twentieth of all, nearly all have 50 to 1,000."""
    found = [events // 20]
    left = events - found[0]
    while left > 0:
        low, high = (50, 1000) if rng.random() < 0.98 else (1000, min(10_000, events // 25))
        found.append(min(left, round(low * (high / low) ** rng.random())))
        left -= found[-1]
    return found


def stream_id_of(number: int) -> str:
    """Name of the stream with a number."""
    return f"bench/stream-{number:05}"


def interleaved(of_streams: Sequence[int], rng: random.Random, workload: Workload) -> Iterator[tuple[int, RawEvent]]:
    """The events of many streams of given lengths, each with its stream's number, as a log gets them: mixed."""
    remaining = list(of_streams)
    sources: dict[int, Iterator[RawEvent]] = {}
    waiting = list(range(len(remaining) - 1, 0, -1))
    active = [0] * max(1, ACTIVE // 20) + [waiting.pop() for _ in range(min(ACTIVE, len(waiting)))]
    while active:
        place = rng.randrange(len(active))
        number = active[place]
        if remaining[number]:
            remaining[number] -= 1
            if number not in sources:
                sources[number] = workload.stream(stream_id_of(number))
            yield number, next(sources[number])
        if not remaining[number]:
            sources.pop(number, None)  # It would keep its last texts: 13 MB for a million events.
            if waiting:
                active[place] = waiting.pop()
            else:
                active[place] = active[-1]
                active.pop()


def points(offsets: Sequence[Sequence[int]], rng: random.Random, counts: Mapping[str, int]) -> dict[str, list[Sample]]:
    """Random points at which to replay streams with these offsets: so many by kind of stream."""
    longest = max(map(len, offsets))

    def kind_of(length: int) -> str:
        return LONGEST if length == longest else SMALL if length <= 1000 else MEDIUM

    numbers = {kind: [n for n, of in enumerate(offsets) if kind_of(len(of)) == kind] for kind in counts}
    found: dict[str, list[Sample]] = {kind: [] for kind in counts}
    for kind, count in counts.items():
        for _ in range(count if numbers[kind] else 0):
            number = rng.choice(numbers[kind])
            found[kind].append((stream_id_of(number), rng.choice(offsets[number])))
    return found

"""Fold: events a second from stored bytes to a state, and what each step of it costs.

The floor is fastavro alone, decoding the same bodies with the same schemas: no bounds, no digests, no rules, no state.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from io import BytesIO

import fastavro
from harness import Report, Work, arguments, in_turns
from workload import Workload, new_record, publish

from ctxlog.codec.avro import Decoder
from ctxlog.codec.framing import unframe
from ctxlog.codec.partition import PartitionContext
from ctxlog.codec.schemas import shipped
from ctxlog.core.arbitration import Arbiter
from ctxlog.core.evolve import Evolving
from ctxlog.core.fold import StreamFold
from ctxlog.log.memory import MemoryLog
from ctxlog.model.records import Accepted, EventRecord, Record
from ctxlog.model.state import ContextState, Parent
from ctxlog.replay.reader import LogReader

STREAM_EVENTS = 500
FLOOR = "fastavro decodes the bodies"


def no_parent(parent: Parent) -> ContextState:
    """These streams are no forks."""
    raise AssertionError(parent)


class Fold:
    """The steps of the fold, over the same records of several streams."""

    def __init__(self, streams: int) -> None:
        log = MemoryLog()
        publish(log)
        workload = Workload()
        for number in range(streams):
            events = workload.stream(f"bench/stream-{number:05}")
            log.append([new_record(next(events)) for _ in range(STREAM_EVENTS)])
        self.context: PartitionContext = LogReader(log).context(0, log.bounds(0).end)
        self.streams: dict[str, list[Record]] = defaultdict(list)
        for record in log.read(0, 0, log.bounds(0).end):
            if (key := (record.key or b"").decode()).startswith("bench/"):
                self.streams[key].append(record)
        self.count = streams * STREAM_EVENTS
        self.value_bytes = statistics.mean(len(record.value or b"") for records in self.streams.values() for record in records)
        self.bodies = []
        parsed = {}
        for records in self.streams.values():
            for record in records:
                prefix, body = unframe(record.value)
                decoder = self.context.published[prefix].decoder
                name = decoder.schema.name
                parsed[name] = parsed.get(name) or fastavro.parse_schema(shipped(name).node)
                self.bodies.append((body, parsed[name], decoder))
        self.events: dict[str, list[EventRecord]] = {}
        self.accepted: dict[str, list[Accepted]] = {}
        for stream_id, records in self.streams.items():
            decoded = [self.context.decode(record) for record in records]
            self.events[stream_id] = [event for event in decoded if isinstance(event, EventRecord)]
            arbiter = Arbiter(stream_id)
            self.accepted[stream_id] = [found for event in self.events[stream_id] for found in arbiter.offer(event).accepted]
            assert arbiter.version == STREAM_EVENTS

    def _per_event(self, started: float) -> float:
        return (time.perf_counter() - started) / self.count

    def floor(self) -> float:
        """fastavro, and nothing else."""
        started = time.perf_counter()
        for body, parsed, _ in self.bodies:
            fastavro.schemaless_reader(BytesIO(body), parsed, None)
        return self._per_event(started)

    def guarded(self) -> float:
        """A body becomes an event's members: checked and decoded in one walk."""
        decoders: list[tuple[bytes, Decoder]] = [(body, decoder) for body, _, decoder in self.bodies]
        started = time.perf_counter()
        for body, decoder in decoders:
            decoder.decode(body)
        return self._per_event(started)

    def records(self) -> float:
        """A stored record becomes an event: framing, schema, body, record digest, placement."""
        decode = self.context.decode
        started = time.perf_counter()
        for records in self.streams.values():
            for record in records:
                decode(record)
        return self._per_event(started)

    def arbitration(self) -> float:
        """Decoded events are judged, and the chain goes on."""
        started = time.perf_counter()
        for stream_id, events in self.events.items():
            offer = Arbiter(stream_id).offer
            for event in events:
                offer(event)
        return self._per_event(started)

    def evolve(self) -> float:
        """Accepted events are applied to a state."""
        started = time.perf_counter()
        for stream_id, accepted in self.accepted.items():
            apply = Evolving(stream_id).apply
            for found in accepted:
                apply(found)
        return self._per_event(started)

    def folded(self) -> float:
        """Decoded events become states: arbitration, chain and evolve together."""
        started = time.perf_counter()
        for stream_id, events in self.events.items():
            fold = StreamFold(stream_id, parent_state=no_parent)
            for event in events:
                fold.offer(event)
            assert fold.state().version == STREAM_EVENTS
        return self._per_event(started)

    def whole(self) -> float:
        """From stored records to states, as replay does it."""
        decode = self.context.decode
        started = time.perf_counter()
        for stream_id, records in self.streams.items():
            fold = StreamFold(stream_id, parent_state=no_parent)
            for record in records:
                event = decode(record)
                assert isinstance(event, EventRecord)
                fold.offer(event)
            assert fold.state().version == STREAM_EVENTS
        return self._per_event(started)


def main() -> None:
    """Measure, print and write."""
    options = arguments(__doc__)
    fold = Fold(4 if options.quick else 40)
    works: dict[str, Work] = {
        "floor": fold.floor,
        "body -> members (checked and decoded)": fold.guarded,
        "record -> event (and digest, placement)": fold.records,
        "arbitration and chain alone": fold.arbitration,
        "evolve alone": fold.evolve,
        "fold: decoded events -> state, chain checked": fold.folded,
        "all: stored records -> state, chain checked": fold.whole,
    }
    report = Report("fold", quick=options.quick, unit="event")
    found = in_turns(works, options.repetitions or (3 if options.quick else 11))
    for name, seconds in found.items():
        if name != "floor":
            report.add(name, seconds, FLOOR, found["floor"])
    report.note(f"{fold.count:,} events of {fold.value_bytes:.0f} bytes on average, in streams of {STREAM_EVENTS}.")
    report.finish()


if __name__ == "__main__":
    main()

"""Find decisions in the log itself: what each read, what came of it, and whether it rested on a context that had moved on.

`decisions/AGENT` streams are read with the rules of arbitration and without folding anything; a stream that a decision read is
read the same way, once for many decisions, to count what it took in between. Decisions are given in batches, so that memory is
bounded whatever the log holds.

**Newer** are the events of a stream that were accepted after the version that a decision read, and stand before the decision in
the log, without those that the decision caused itself: whose `causation_id` is the decision, or one that was made inside it. A
decision with any is **stale**. Where the stream and the decision lie in different partitions, the log's clock says what stands
before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.audit.trail import Happened, Place, decision_streams, happened
from ctxlog.errors import PointError
from ctxlog.model.state import NUMBER_MAX
from ctxlog.replay.decisions import DECISIONS

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer

BATCH_DECISIONS = 10_000
"""Decisions that are held at once, about 20 MB; the log is read once for each such batch."""

READS_KEPT_MAX = 100_000
"""Reads of one stream that are remembered until a decision names them; those that lie further back count as missing."""

NESTED_KEPT_MAX = 100_000
"""Decisions made inside others that are remembered, to tell what a decision caused."""

OUTCOME_CHARACTERS_MAX = 200
"""Characters of an outcome that a list shows."""


class ReadOf(NamedTuple):
    """The newest version of a stream that a decision read."""

    stream_id: str
    version: int


@dataclass(slots=True)
class Decided:
    """A decision as a list shows it.

    Attributes:
        decision_id, stream_id, version: The decision, and where it stands.
        agent: Whose it is: the name behind `decisions/`.
        recorded_at: When the log had it, ms since 1970 UTC by its clock (the origin's in a copy).
        kind, model, failed: As recorded.
        outcome: JSON text, as recorded; its beginning and `…` where it is long.
        correlation_id, causation_id: As recorded.
        reads: The newest version that it read of each stream.
        reads_missing: Number of reads that it names and that are not there.
        newer: Number of events by stream, where there are any (see above).
    """

    decision_id: str
    event_id: str
    stream_id: str
    version: int
    agent: str
    place: Place
    recorded_at: int
    kind: str
    model: str | None
    outcome: str | None
    failed: bool
    correlation_id: str | None
    causation_id: str | None
    reads: tuple[ReadOf, ...]
    reads_missing: int
    newer: dict[str, int] = field(default_factory=dict)

    @property
    def stale(self) -> bool:
        """Whether it rests on a version that was not the newest any more."""
        return bool(self.newer)

    @property
    def order(self) -> tuple[int, int, str, int]:
        """What decisions are listed by: the log's clock, then the log's order."""
        return self.recorded_at, self.place.offset, self.stream_id, self.version

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "decision_id": self.decision_id,
            "recorded_at": self.recorded_at,
            "stream_id": self.stream_id,
            "version": self.version,
            "agent": self.agent,
            "kind": self.kind,
            "model": self.model,
            "outcome": self.outcome,
            "failed": self.failed,
            "stale": self.stale,
            "reads": [{**read._asdict(), "newer_events": self.newer.get(read.stream_id, 0)} for read in self.reads],
            "reads_missing": self.reads_missing,
            "correlation_id": self.correlation_id,
            "causation_id": self.causation_id,
        }


class Wanted(NamedTuple):
    """Which decisions are looked for. None takes all.

    Attributes:
        stream: Those that read this stream, or appended to it.
        agent: Those of one agent.
        since_us: Those recorded at or after an instant of the log's clock, µs since 1970 UTC.
        correlation: Those with this `correlation_id`.
        stale: Only stale ones.
    """

    stream: str | None = None
    agent: str | None = None
    since_us: int | None = None
    correlation: str | None = None
    stale: bool = False

    def takes(self, one: Decided) -> bool:
        """Whether what a decision says of itself is what is looked for."""
        return (
            (self.agent is None or one.agent == self.agent)
            and (self.since_us is None or one.recorded_at * 1000 >= self.since_us)
            and (self.correlation is None or one.correlation_id == self.correlation)
        )


ALL = Wanted()


def find_decisions(
    replayer: Replayer, wanted: Wanted = ALL, *, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Iterator[Decided]:
    """The decisions that the log holds, the newest last."""
    ends = [replayer.reader.check_horizon(partition) for partition in range(replayer.log.partitions)]
    after: tuple[int, int, str, int] | None = None
    while True:
        inside = Nested()
        every = _all(replayer, ends, inside, progress)
        batch = nsmallest(
            BATCH_DECISIONS,
            (one for one in every if wanted.takes(one) and (after is None or one.order > after)),
            key=lambda one: one.order,
        )
        if not batch:
            return
        after = batch[-1].order
        more = len(batch) == BATCH_DECISIONS
        if wanted.stream is not None:
            batch = list(_about(replayer, wanted.stream, ends, batch))
        count_newer(replayer, batch, inside, ends)
        yield from (one for one in batch if one.stale or not wanted.stale)
        if not more:
            return


class Nested:
    """Which decisions were made inside which: by what each names as its cause."""

    def __init__(self) -> None:
        self._causes: OrderedDict[str, str] = OrderedDict()

    def note(self, decision_id: str, cause: str | None) -> None:
        """A decision that names a cause. The first word of an id counts."""
        if cause is None or decision_id in self._causes:
            return
        self._causes[decision_id] = cause
        if len(self._causes) > NESTED_KEPT_MAX:
            self._causes.popitem(last=False)

    def within(self, cause: str | None, ids: Iterable[str]) -> bool:
        """Whether a cause is one of the ids, or a decision that was made inside of one."""
        ids, seen = set(ids), set[str]()
        while cause is not None and cause not in seen:
            if cause in ids:
                return True
            seen.add(cause)
            cause = self._causes.get(cause)
        return False


def _all(replayer: Replayer, ends: list[int], inside: Nested, progress: Callable[[int, int], None]) -> Iterator[Decided]:
    names = decision_streams(replayer)
    for number, name in enumerate(names):
        progress(number, len(names))
        yield from recorded_in(replayer, name, ends[replayer.reader.partition(name)], inside)
    progress(len(names), len(names))


def recorded_in(replayer: Replayer, name: str, end: int, inside: Nested) -> Iterator[Decided]:
    """The decisions of one stream, oldest first. Events that the fold calls anomalies say nothing."""
    reads: OrderedDict[str, tuple[ReadOf, ...]] = OrderedDict()
    for one in happened(replayer, name, end):
        if one.target is not None:
            continue
        if one.is_a("ContextRead"):
            reads[one.event_id] = tuple(ReadOf(read["stream_id"], read["version"]) for read in one.payload["streams"])
            if len(reads) > READS_KEPT_MAX:
                reads.popitem(last=False)
        elif one.is_a("DecisionRecorded"):
            inside.note(one.payload["decision_id"], one.cause)
            found = [reads.get(read_id) for read_id in dict.fromkeys(one.payload["reads"])]
            yield _decided(one, found)


def _decided(one: Happened, reads: list[tuple[ReadOf, ...] | None]) -> Decided:
    newest: dict[str, int] = {}
    for read in (read for several in reads if several is not None for read in several):
        if 0 <= read.version <= NUMBER_MAX:
            newest[read.stream_id] = max(read.version, newest.get(read.stream_id, 0))
    payload, trace = one.payload, one.accepted.event.meta["trace"] or {}
    outcome = payload["outcome"]
    if outcome is not None and len(outcome) > OUTCOME_CHARACTERS_MAX:
        outcome = outcome[:OUTCOME_CHARACTERS_MAX] + "…"
    return Decided(
        payload["decision_id"],
        one.event_id,
        one.stream_id,
        one.version,
        one.stream_id.removeprefix(DECISIONS),
        one.place,
        one.place.time,
        payload["kind"],
        payload["model"],
        outcome,
        payload["failed"],
        trace.get("correlation_id"),
        trace.get("causation_id"),
        tuple(ReadOf(*read) for read in newest.items()),
        sum(read is None for read in reads),
    )


def _about(replayer: Replayer, stream_id: str, ends: list[int], batch: list[Decided]) -> Iterator[Decided]:
    """Those that read a stream or appended to it."""
    ids = {one_id for one in batch for one_id in (one.decision_id, one.event_id)}
    end = ends[replayer.reader.partition(stream_id)]
    causes = {one.cause for one in happened(replayer, stream_id, end) if one.cause in ids}
    for one in batch:
        if {one.decision_id, one.event_id} & causes or any(read.stream_id == stream_id for read in one.reads):
            yield one


def count_newer(replayer: Replayer, batch: Iterable[Decided], inside: Nested, ends: list[int]) -> None:
    """Set `newer` of decisions: each stream that they read is gone through once."""
    by_stream: dict[str, list[tuple[int, Decided]]] = {}
    for one in batch:
        for read in one.reads:
            by_stream.setdefault(read.stream_id, []).append((read.version, one))
    for stream_id, readers in by_stream.items():
        end = ends[replayer.reader.partition(stream_id)]
        waiting = sorted(readers, key=lambda reader: reader[0], reverse=True)
        looking: list[Decided] = []
        for event in happened(replayer, stream_id, end):
            while waiting and waiting[-1][0] < event.version:
                looking.append(waiting.pop()[1])
            # A stream as of a time ends at its first record that is later; what follows an event that came too late is too late.
            looking = [one for one in looking if event.place.up_to(one.place)]
            for one in looking:
                if not inside.within(event.cause, (one.decision_id, one.event_id)):
                    one.newer[stream_id] = one.newer.get(stream_id, 0) + 1
            if not waiting and not looking:
                break


class Found(NamedTuple):
    """A decision that was looked up, and what the search came across.

    Attributes:
        decision: The event that records it.
        inside: Which decisions were made inside which.
        again: Versions at which the same stream records a decision of this id once more, with whether it says the same.
    """

    decision: Happened
    inside: Nested
    again: tuple[tuple[int, bool], ...]


def find_decision(replayer: Replayer, decision_id: str) -> Found:
    """A decision by its id.

    An id is chosen by the agent, and an answer about the wrong decision would be worse than none: one that two agents recorded is
    refused. Within one stream the first decision of an id is the one, as a copy of an event is no new event.

    Raises:
        PointError: No such decision is recorded, or several agents recorded one.
    """
    inside, found = Nested(), dict[str, list[Happened]]()
    for name in decision_streams(replayer):
        for one in happened(replayer, name):
            if one.target is not None or not one.is_a("DecisionRecorded"):
                continue
            inside.note(one.payload["decision_id"], one.cause)
            if one.payload["decision_id"] == decision_id:
                found.setdefault(name, []).append(one)
    if not found:
        raise PointError(
            f"decision:{decision_id}: no such decision is recorded under {DECISIONS}…; `ctxlog decisions` lists them. "
            "A tool call without one is named STREAM@VERSION."
        )
    if len(found) > 1:
        raise PointError(
            f"decision:{decision_id}: recorded in several streams: {', '.join(map(repr, sorted(found)))}; nothing was audited. "
            "Replay the version that the right one read."
        )
    ((first, *rest),) = found.values()
    return Found(first, inside, tuple((one.version, one.payload == first.payload) for one in rest))


def decisions_by_id(replayer: Replayer, ids: Set[str]) -> dict[str, Happened]:
    """The first decision of each of some ids. The id of its event is one only where no decision has it for its own."""
    found: dict[str, Happened] = {}
    events: dict[str, Happened] = {}
    for name in decision_streams(replayer):
        for one in happened(replayer, name):
            if one.target is None and one.is_a("DecisionRecorded"):
                if one.payload["decision_id"] in ids:
                    found.setdefault(one.payload["decision_id"], one)
                if one.event_id in ids:
                    events.setdefault(one.event_id, one)
    return events | found

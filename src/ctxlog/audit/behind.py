"""The events behind reads of one stream: what set each entry that was given, what was redacted since, what was newer.

The stream is gone through once for all reads of a decision: an agent that looks at a long context after each of its steps reads
many versions of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ctxlog.audit.decisions import Nested
from ctxlog.audit.report import Newer
from ctxlog.audit.trail import Evidence, Happened, Place, evidence, happened
from ctxlog.model.reads import Released
from ctxlog.replay.lineages import lineage

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer

NEWER_LISTED_MAX = 100
"""Newer events of a stream that a report lists; all are counted."""

ORDINARY = frozenset({"conflict", "duplicate"})
"""Reasons for which records are rejected wherever several write; the others are told."""


class Moment(NamedTuple):
    """What stands at the end of what a report looks at: a decision, or an event without one.

    Attributes:
        place: Where it stands.
        ids: What an event that it caused names as its cause.
        inside: Which decisions were made inside which.
        ended_at: When it was over by the writer's clock, µs; None where unknown.
    """

    place: Place
    ids: tuple[str, ...]
    inside: Nested
    ended_at: int | None


class Given(NamedTuple):
    """A read of the stream: the version, and what was given of it, where that can be told."""

    version: int
    content: Released | None


class Behind(NamedTuple):
    """The events behind a read. `sources` by event id, `calls` by call id."""

    sources: Mapping[str, Evidence]
    calls: Mapping[str, tuple[Evidence, ...]]
    redacted_since: tuple[Evidence, ...]
    newer: Newer


class Walked(NamedTuple):
    """What a walk found: for each read what is behind it, and the number of records that no reader takes, by reason."""

    behind: list[Behind]
    odd: dict[str, int]


class _Seen(NamedTuple):
    """An event that a read may be about. `since` is the version of the stream from which on it counts; 0 for an ancestor's."""

    since: int
    event: Evidence


def events_behind(replayer: Replayer, stream_id: str, reads: Sequence[Given], moment: Moment) -> Walked:
    """Go through a stream, and through those that it goes on from, for some reads of it."""
    contents = [read.content for read in reads if read.content is not None]
    messages = {message.id for content in contents for message in content.messages}
    ids = messages | {fact.event_id for content in contents for fact in content.facts.values()}
    called = {call_id for content in contents for call_id in content.tool_calls}
    sources: dict[str, list[_Seen]] = {}
    calls: dict[str, list[_Seen]] = {}
    redactions: dict[str, list[_Seen]] = {}
    newer = [_Newer(read.version, moment) for read in reads]
    waiting = sorted(newer, key=lambda one: one.version, reverse=True)
    looking: list[_Newer] = []
    rejected: Counter[str] = Counter()
    for name, upto in lineage(replayer, stream_id, max(read.version for read in reads)):
        own = name == stream_id
        for one in happened(replayer, name, rejected=rejected if own else None):
            if not own and one.version > upto:
                break  # What its ancestors took in later is not of this stream.
            since = one.version if own else 0
            if one.event_id in ids:
                sources.setdefault(one.event_id, []).append(_Seen(since, evidence(one)))
            if one.call_id is not None and one.call_id in called:
                calls.setdefault(one.call_id, []).append(_Seen(since, evidence(one)))
            if own and one.is_a("MessageRedacted") and one.payload["message_id"] in messages:
                redactions.setdefault(one.payload["message_id"], []).append(_Seen(since, evidence(one)))
            while own and waiting and waiting[-1].version < one.version:
                looking.append(waiting.pop())
            looking = [each for each in looking if each.take(one)]
    behind = [_of(read, sources, calls, redactions, counted) for read, counted in zip(reads, newer, strict=True)]
    return Walked(behind, {reason: number for reason, number in rejected.items() if reason not in ORDINARY})


def _of(
    read: Given,
    sources: Mapping[str, list[_Seen]],
    calls: Mapping[str, list[_Seen]],
    redactions: Mapping[str, list[_Seen]],
    newer: _Newer,
) -> Behind:
    content = read.content
    if content is None:
        return Behind({}, {}, (), newer.result())
    ids = [message.id for message in content.messages] + [fact.event_id for fact in content.facts.values()]
    there = {one_id: _upto(read.version, sources.get(one_id, ())) for one_id in ids}
    begun = {call_id: tuple(_upto(read.version, calls.get(call_id, ()))) for call_id in content.tool_calls}
    redacted = [
        seen.event
        for message in content.messages
        for seen in redactions.get(message.id, ())
        if seen.since > read.version and message.redacted_by is None
    ]
    return Behind({one_id: events[-1] for one_id, events in there.items() if events}, begun, tuple(redacted), newer.result())


def _upto(version: int, seen: Iterable[_Seen]) -> list[Evidence]:
    return [one.event for one in seen if one.since <= version]


class _Newer:
    """Counts what the stream took in above a version and until a moment."""

    def __init__(self, version: int, moment: Moment) -> None:
        self.version = version
        self._moment = moment
        self._events = self._own = 0
        self._by_clock = False
        self._first_at: int | None = None
        self._listed: list[Evidence] = []

    def take(self, one: Happened) -> bool:
        """The next event above the version; whether there may be more."""
        moment = self._moment
        self._by_clock |= not one.place.ordered(moment.place)
        # A stream as of a time ends at its first record that is later: what follows one that came too late is too late.
        if one.place == moment.place or not one.place.up_to(moment.place):
            return False
        if moment.inside.within(one.cause, moment.ids):
            self._own += 1
            return True
        self._events += 1
        if self._first_at is None:
            self._first_at = one.place.time
        if len(self._listed) < NEWER_LISTED_MAX:
            self._listed.append(evidence(one))
        return True

    def result(self) -> Newer:
        """What was counted."""
        outdated = None if self._first_at is None else self._moment.place.time - self._first_at
        return Newer(self._events, self._own, self._first_at, outdated, self._by_clock, tuple(self._listed))

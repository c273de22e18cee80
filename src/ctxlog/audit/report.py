"""What an audit found out about one decision, as a plain value: people read it as text or as a page, programs as JSON.

It holds what the decision had read, what stood in the log beside it, what came of it, and every check that was made. It says
what it does not show, because a report is read by people who do not know the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ctxlog.audit.trail import Evidence
from ctxlog.errors import InvalidInputError
from ctxlog.model.reads import Released, asked

LIMITS = (
    "Times named occurred, started, ended and judged are claims of the writers' clocks. Only recorded times are the log's.",
    "The log was checked against itself. Who can rewrite all of it can make another one that agrees with itself: nothing is "
    "proven before the first signed head, or before a manifest that was kept elsewhere.",
    "Actors and causes are what the writers claimed. Who may write to the log is a matter of its access control.",
    "What update_fact, accepted and history showed, and results that tool_once found in the log, are not recorded as reads.",
    "What an agent looked at without the log, and what its program put into the prompt beside what it read, is not known here.",
    "That the model answered so is what the agent recorded; the model was not asked again.",
)
"""What no report shows."""

NOT_RECORDED = "Reads not recorded; everything below was available."
"""Said where an event has no recorded decision, and so no record of what was read."""


class Check(NamedTuple):
    """One thing that was checked: `where`, what was `expected` and what was `found` there."""

    what: str
    where: str
    expected: str
    found: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: expected {self.expected}, found {self.found}"


class Withheld(NamedTuple):
    """What a read kept back: its id, what it is (`message`, `call`, `fact`; None where the state has no such id), its scope."""

    id: str
    kind: str | None
    scope: str | None


@dataclass(frozen=True, slots=True)
class Newer:
    """What the log took into a stream after a version was read and before the decision stood there.

    Attributes:
        events: Their number, without those that the decision caused.
        own: Number of those that it caused.
        first_at: When the first of `events` was recorded, ms since 1970 UTC by the log's clock; None where there is none.
        outdated_ms: From then to the record of the decision, by the log's clock.
        by_clock: Whether the log's clock said what stands before the decision, because the two lie in different partitions.
        listed: The first of `events`.
    """

    events: int
    own: int
    first_at: int | None
    outdated_ms: int | None
    by_clock: bool
    listed: tuple[Evidence, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "events": self.events,
            "own": self.own,
            "first_at": self.first_at,
            "outdated_ms": self.outdated_ms,
            "by_clock": self.by_clock,
            "listed": [one.to_dict() for one in self.listed],
        }


@dataclass(frozen=True, slots=True)
class ReadReport:
    """One read, or what was available where none was recorded.

    Attributes:
        records: The events that record it; several where the ids did not fit into one, none where nothing was recorded.
        stream_id, version, chain_head: What was read, as recorded.
        selection: What was asked for, JSON text as recorded; None where nothing was recorded.
        judged_at: The instant at which expiry was judged, µs since 1970 UTC by the reader's clock.
        token_counter: Name and version of the token counter.
        selection_digest: As recorded.
        revealed: Ids, as recorded; none for a whole state.
        withheld: What was kept back.
        released: The content as it was given; None where the log cannot tell.
        sources: The events that set messages and facts of it, by event id.
        calls: The events of its tool calls up to that version, by call id.
        redacted_since: Later redactions of its messages.
        newer: What the stream took in between.
        before_decision_ms: From `judged_at` to the end of the decision, by the writer's clock.
    """

    records: tuple[Evidence, ...]
    stream_id: str
    version: int
    chain_head: str
    selection: str | None
    judged_at: int | None
    token_counter: str | None
    selection_digest: str | None
    revealed: tuple[str, ...]
    withheld: tuple[Withheld, ...]
    released: Released | None
    sources: Mapping[str, Evidence]
    calls: Mapping[str, tuple[Evidence, ...]]
    redacted_since: tuple[Evidence, ...]
    newer: Newer
    before_decision_ms: int | None

    @property
    def whole(self) -> bool:
        """Whether all of the state was given."""
        try:
            return self.selection is None or asked(self.selection).everything
        except InvalidInputError:
            return False

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "records": [one.to_dict() for one in self.records],
            "stream_id": self.stream_id,
            "version": self.version,
            "chain_head": self.chain_head,
            "selection": self.selection,
            "judged_at": self.judged_at,
            "token_counter": self.token_counter,
            "selection_digest": self.selection_digest,
            "revealed": list(self.revealed),
            "withheld": [one._asdict() for one in self.withheld],
            "released": None if self.released is None else self.released.to_dict(),
            "sources": {event_id: one.to_dict() for event_id, one in self.sources.items()},
            "calls": {call_id: [one.to_dict() for one in events] for call_id, events in self.calls.items()},
            "redacted_since": [one.to_dict() for one in self.redacted_since],
            "newer": self.newer.to_dict(),
            "before_decision_ms": self.before_decision_ms,
        }


@dataclass(frozen=True, slots=True)
class CallReport:
    """A tool call that was begun inside. Its state and result are those of the log now.

    Attributes:
        call_id, stream_id: The call, and where it is.
        name, arguments: As recorded; None where the state cannot be made.
        status: `open`, `returned` or `failed`.
        result: Its text, or JSON text of its parts; None where there is none, or it was redacted.
        events: What began, took over and ended it, in the log's order.
    """

    call_id: str
    stream_id: str
    name: str | None
    arguments: str | None
    status: str | None
    result: str | None
    events: tuple[Evidence, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "call_id": self.call_id,
            "stream_id": self.stream_id,
            "name": self.name,
            "arguments": self.arguments,
            "status": self.status,
            "result": self.result,
            "events": [one.to_dict() for one in self.events],
        }


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found out.

    Attributes:
        log_id: The log.
        decision: The members of `DecisionRecorded`, as recorded; None where no decision was recorded.
        record: The event that records the decision; of an audit without one, the event that was asked about.
        chain_head: Chain head of the stream at `record`.
        asked_for: The event by which the decision was found, where it was not asked for by its id.
        reads: What it read; without recorded reads, what was available.
        reads_recorded: Whether the reads were recorded.
        calls: Tool calls that were begun inside.
        effects: What was appended inside, and by decisions made inside, the first ones.
        effects_count: How many there are.
        streams: Every stream that the audit looked into, sorted.
        checks: What was checked.
        notes: What a reader should know.
    """

    log_id: str
    decision: Mapping[str, Any] | None
    record: Evidence
    chain_head: str
    asked_for: Evidence | None
    reads: tuple[ReadReport, ...]
    reads_recorded: bool
    calls: tuple[CallReport, ...]
    effects: tuple[Evidence, ...]
    effects_count: int
    streams: tuple[str, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """What does not hold."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def stale(self) -> bool:
        """Whether a stream had moved on beyond the newest version that the decision read of it."""
        if not self.reads_recorded:
            return False
        newest: dict[str, ReadReport] = {}
        for read in self.reads:
            if read.stream_id not in newest or read.version > newest[read.stream_id].version:
                newest[read.stream_id] = read
        return any(read.newer.events for read in newest.values())

    @property
    def verdict(self) -> str:
        """One line: `verified: …`, or `NOT VERIFIED: …` with the first thing that does not hold."""
        failed = self.failed
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            return f"NOT VERIFIED: {failed[0]}{more}"
        reads = _count(len(self.reads), "read") if self.reads_recorded else "reads not recorded"
        return f"verified: {reads}, {_count(len(self.checks), 'check')} against the log itself"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "log_id": self.log_id,
            "verdict": self.verdict,
            "verified": not self.failed,
            "stale": self.stale,
            "decision": None if self.decision is None else dict(self.decision),
            "record": self.record.to_dict(),
            "chain_head": self.chain_head,
            "asked_for": None if self.asked_for is None else self.asked_for.to_dict(),
            "reads_recorded": self.reads_recorded,
            "reads": [read.to_dict() for read in self.reads],
            "calls": [call.to_dict() for call in self.calls],
            "effects": [one.to_dict() for one in self.effects],
            "effects_count": self.effects_count,
            "streams": list(self.streams),
            "checks": [check._asdict() for check in self.checks],
            "notes": list(self.notes),
            "limits": list(LIMITS),
        }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

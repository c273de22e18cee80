"""Audit one decision, or one event for which no decision was recorded: what was known, what stood beside it, what came of it.

    decision -> its reads -> each version replayed from the first record, and what was given of it
             -> what the streams took in between
             -> what was appended inside, and the calls that were begun there

Nothing is believed that can be computed: chain heads and digests are. What cannot be computed is told as a claim.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.audit.behind import Moment
from ctxlog.audit.decisions import Found, Nested, decisions_by_id, find_decision
from ctxlog.audit.effects import Effects
from ctxlog.audit.reading import Progress, ReadAudit, recorded_reads, whole
from ctxlog.audit.report import NOT_RECORDED, AuditReport, CallReport, Check, ReadReport
from ctxlog.audit.trail import Happened, decision_streams, evidence, happened
from ctxlog.errors import PointError
from ctxlog.replay.replayer import Replayer

if TYPE_CHECKING:
    from ctxlog.log.protocol import EventLog


class About(NamedTuple):
    """What is audited: a decision by its id, or the event that made a version of a stream."""

    decision: str | None
    stream_id: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        return f"decision {self.decision}" if self.decision is not None else f"{self.stream_id}@{self.version}"


def audited(log: EventLog, about: About, *, progress: Progress = lambda _done, _total: None) -> AuditReport:
    """The audit of what is named. Raises as `audit_decision` and `audit_event` do."""
    if about.decision is not None:
        return audit_decision(log, about.decision, progress=progress)
    return audit_event(log, str(about.stream_id), int(about.version or 0), progress=progress)


def audit_decision(log: EventLog, decision_id: str, *, progress: Progress = lambda _done, _total: None) -> AuditReport:
    """Audit a recorded decision.

    Args:
        log: The log; caches are not used.
        decision_id: The decision.
        progress: Told how many reads are done and of how many.

    Raises:
        PointError: No such decision is recorded, or several agents recorded one.
        IntegrityError: The log cannot be read at all.
    """
    replayer = Replayer(log)
    return _Audit(replayer, progress).decision(find_decision(replayer, decision_id))


def audit_event(log: EventLog, stream_id: str, version: int, *, progress: Progress = lambda _done, _total: None) -> AuditReport:
    """Audit the event that made a version of a stream: the decision that it records or that caused it, or else what was available
    before it.

    Raises:
        PointError: The stream has no such version, or several agents recorded the decision that caused the event.
        IntegrityError: The log cannot be read at all.
    """
    replayer = Replayer(log)
    event = None
    for one in happened(replayer, stream_id):
        if one.version == version:
            event = one
            break
    if event is None:
        raise PointError(f"stream {stream_id!r}: no event made version {version}; nothing was audited")
    decision_id = _decision_of(replayer, event)
    if decision_id is not None:
        return _Audit(replayer, progress).decision(find_decision(replayer, decision_id), asked_for=event)
    return _Audit(replayer, progress).event(event)


def _decision_of(replayer: Replayer, event: Happened) -> str | None:
    """Id of the recorded decision that an event records, is a read of, or was caused by."""
    named = event.cause
    if event.target is None and (event.is_a("DecisionRecorded") or event.is_a("ContextRead")):
        named = event.payload["decision_id"] or named
    found = None if named is None else decisions_by_id(replayer, {named}).get(named)
    return None if found is None else str(found.payload["decision_id"])


class _Audit:
    """One audit."""

    def __init__(self, replayer: Replayer, progress: Progress) -> None:
        self._replayer = replayer
        self._progress = progress
        self._checks: list[Check] = []
        self._notes: list[str] = []
        self._reads = ReadAudit(replayer, self._checks, self._notes)

    def decision(self, found: Found, asked_for: Happened | None = None) -> AuditReport:
        """Audit a decision."""
        one, payload = found.decision, found.decision.payload
        where = f"decision {payload['decision_id']} at {one.stream_id}@{one.version}"
        ids = tuple(dict.fromkeys((payload["decision_id"], one.event_id)))
        moment = Moment(one.place, ids, found.inside, payload["ended_at"])
        other = [version for version, same in found.again if not same]
        again = "once, with this content" if not other else f"with other content at version {other[0]} too"
        self._reads.check("recorded once", where, "once, with this content", again, not other)
        if found.again and not other:
            self._notes.append(f"{where}: the same is recorded {len(found.again) + 1} times; the first counts.")
        reads = self._reads.audit(list(recorded_reads(self._read_events(one, where))), moment, self._progress)
        effects = Effects(self._replayer, moment)
        streams = effects.streams(_since(reads, payload, one.place.time), {read.stream_id for read in reads})
        happenings = effects.listed(streams)
        calls = self._calls(effects, payload["tool_calls"], streams, where)
        if not payload["reads"]:
            self._notes.append("It names no read: what it knew was not recorded.")
        if payload["failed"]:
            self._notes.append("The decision ended in an error; what it had appended before stays in the log.")
        return AuditReport(
            self._replayer.log.log_id,
            payload,
            evidence(one),
            one.accepted.head.hex(),
            None if asked_for is None or asked_for == one else evidence(asked_for),
            reads,
            True,
            calls,
            happenings.listed,
            happenings.number,
            tuple(sorted({one.stream_id, *(read.stream_id for read in reads), *streams, *(call.stream_id for call in calls)})),
            tuple(self._checks),
            tuple(self._notes),
        )

    def event(self, one: Happened) -> AuditReport:
        """Audit an event whose decision was not recorded."""
        where = f"event {one.event_id} at {one.stream_id}@{one.version}"
        cause = one.cause
        moment = Moment(one.place, () if cause is None else (cause,), Nested(), one.accepted.event.meta["occurred_at"])
        seen = [] if cause is None else list(self._naming(cause, one))
        if seen:
            self._notes.append(
                f"The decision {cause} is not in the log: whoever made it ended before it was recorded. What it had read "
                "until then is."
            )
            reads = self._reads.audit(list(recorded_reads(seen)), moment, self._progress)
        else:
            self._notes.append(NOT_RECORDED)
            reads = self._reads.audit([whole(one.stream_id, one.version - 1)], moment, self._progress)
        self._reads.check("accepted", where, "accepted", "accepted")
        calls: tuple[CallReport, ...] = ()
        if one.is_a("ToolCalled"):
            effects = Effects(self._replayer, moment)
            calls = tuple(effects.calls([one.payload["call_id"]], {one.stream_id})[0])
        return AuditReport(
            self._replayer.log.log_id,
            None,
            evidence(one),
            one.accepted.head.hex(),
            None,
            reads,
            bool(seen),
            calls,
            (),
            0,
            tuple(sorted({one.stream_id, *(read.stream_id for read in reads), *(found.stream_id for found in seen)})),
            tuple(self._checks),
            tuple(self._notes),
        )

    def _read_events(self, decision: Happened, where: str) -> list[Happened]:
        """The events that record what a decision read, in the order in which it names them; what is not as it must be is kept."""
        wanted = list(dict.fromkeys(decision.payload["reads"]))
        names = decision.payload["decision_id"], decision.event_id
        known, found = frozenset(wanted), dict[str, Happened]()
        twice, others = set(), 0
        for one in happened(self._replayer, decision.stream_id):
            if one.target is not None or not one.is_a("ContextRead"):
                continue
            if one.event_id not in known:
                others += one.payload["decision_id"] in names
            elif one.event_id in found:
                twice.add(one.event_id)
            else:
                found[one.event_id] = one
        for read_id in wanted:
            self._reads.check(
                "names a read that is in its stream", where, f"read {read_id}", _standing(found.get(read_id), decision)
            )
        for read_id in sorted(twice):
            self._reads.check("read ids are unique", where, "one event", f"several with id {read_id}")
        for read_id, one in found.items():
            if one.payload["decision_id"] not in (None, *names):
                self._reads.check("the read is this decision's", f"read {read_id}", names[0], one.payload["decision_id"])
        if others:
            self._notes.append(f"{where}: reads that say they are of this decision, and that it does not name: {others}.")
        return [found[read_id] for read_id in wanted if read_id in found]

    def _naming(self, decision_id: str, event: Happened) -> Iterable[Happened]:
        """The reads that say that they are of a decision, and stand before an event."""
        for name in decision_streams(self._replayer):
            for one in happened(self._replayer, name):
                if (
                    one.target is None
                    and one.is_a("ContextRead")
                    and one.payload["decision_id"] == decision_id
                    and one.place.up_to(event.place)
                ):
                    yield one

    def _calls(self, effects: Effects, wanted: list[str], streams: set[str], where: str) -> tuple[CallReport, ...]:
        reports, missing = effects.calls(wanted, streams)
        if missing:  # Begun elsewhere than the clocks say, or nowhere.
            more, missing = effects.calls(missing, effects.calling(missing))
            reports += more
        nowhere = frozenset(missing)
        for call_id in dict.fromkeys(wanted):
            found = "no such call in the log" if call_id in nowhere else f"call {call_id}"
            self._reads.check("names a tool call that is in the log", where, f"call {call_id}", found)
        self._notes.extend(effects.notes)
        return tuple(reports)


def _standing(one: Happened | None, decision: Happened) -> str:
    """Where a read stands that a decision names."""
    if one is None:
        return "no such read in the log"
    return f"read {one.event_id}" if one.version < decision.version else f"it behind the decision, at version {one.version}"


def _since(reads: Iterable[ReadReport], payload: dict[str, Any], recorded_at: int) -> int:
    """From when on effects of a decision are looked for, ms since 1970 UTC; the writers' clocks may be wrong by some minutes."""
    begins = [recorded_at, *(one.recorded_at for read in reads for one in read.records)]
    begins += [read.judged_at // 1000 for read in reads if read.judged_at is not None]
    if payload["started_at"] is not None:
        begins.append(payload["started_at"] // 1000)
    return min(begins)

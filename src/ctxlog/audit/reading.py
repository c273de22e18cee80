"""One recorded read, computed again: the version that it names, what it gave of it, and what the stream took in afterwards.

The state comes from the log's first record, without snapshots. What was given comes from the ids that the read recorded; nothing
is selected a second time, so a report cannot show what an agent would be given today.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.audit.decisions import Nested
from ctxlog.audit.report import Check, Newer, ReadReport, Withheld
from ctxlog.audit.trail import Evidence, Happened, Place, evidence, happened
from ctxlog.core.digests import selection_digest
from ctxlog.errors import IntegrityError, InvalidInputError, PointError
from ctxlog.model.points import AtVersion
from ctxlog.model.reads import Asked, Released, asked, released
from ctxlog.model.state import NUMBER_MAX, ContextState
from ctxlog.replay.lineages import lineage

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer

NEWER_LISTED_MAX = 100
"""Newer events of a stream that a report lists; all are counted."""

ORDINARY = frozenset({"conflict", "duplicate"})
"""Reasons for which records are rejected wherever several write; the others are told."""

CHECK_CHARACTERS_MAX = 400
"""Characters of what a check says; an id that a hostile writer made up may have a million."""

STATES_KEPT_MAX = 4
"""States that are held at once: a decision tends to read one version several times in a row."""


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


class Recorded(NamedTuple):
    """A read as recorded: the events of one read, which are several where the ids did not fit into one, and one stream of it."""

    events: tuple[Happened, ...]
    stream: dict[str, Any]
    revealed: tuple[str, ...]
    withheld: tuple[str, ...]
    alone: bool

    @property
    def payload(self) -> dict[str, Any]:
        """The event, all of whose pieces say the same beside ids."""
        return self.events[0].payload

    @property
    def where(self) -> str:
        """How a report names it."""
        return f"read {self.events[0].event_id} of {self.stream['stream_id']}@{self.stream['version']}"


def recorded_reads(events: Iterable[Happened]) -> Iterator[Recorded]:
    """Reads from the events that record them, in order; pieces of one read are put together."""
    pieces: dict[tuple[Any, ...], list[Happened]] = {}
    for number, one in enumerate(events):
        payload = one.payload
        key: tuple[Any, ...] = (number,)
        if len(payload["streams"]) == 1:
            (stream,) = payload["streams"]
            key = tuple(stream[name] for name in ("stream_id", "version", "chain_head"))
            key += tuple(payload[name] for name in ("selection", "judged_at", "selection_digest"))
        pieces.setdefault(key, []).append(one)
    for several in pieces.values():
        for number, stream in enumerate(several[0].payload["streams"]):
            parts = [one.payload["streams"][number] for one in several]
            revealed, withheld = (
                tuple(dict.fromkeys(one_id for part in parts for one_id in part[name])) for name in ("revealed", "withheld")
            )
            yield Recorded(tuple(several), stream, revealed, withheld, len(several[0].payload["streams"]) == 1)


def whole(stream_id: str, version: int) -> Recorded:
    """What stands in for a read where none was recorded: all that there was."""
    stream = {"stream_id": stream_id, "version": version, "chain_head": ""}
    return Recorded((), stream, (), (), True)


class ReadAudit:
    """Computes reads again, and keeps what was checked.

    Args:
        replayer: The log, without snapshots.
        checks: Where checks go.
        notes: Where remarks go.
    """

    def __init__(self, replayer: Replayer, checks: list[Check], notes: list[str]) -> None:
        self._replayer = replayer
        self._checks = checks
        self._notes = notes
        self._states: dict[tuple[str, int], ContextState] = {}
        self._told: set[str] = set()

    def check(self, what: str, where: str, expected: object, found: object, ok: bool | None = None) -> bool:
        """Keep a check; whether it holds. Equal is right unless said otherwise."""
        holds = expected == found if ok is None else ok
        self._checks.append(Check(what, _short(where), _short(str(expected)), _short(str(found)), holds))
        return holds

    def audit(self, read: Recorded, moment: Moment) -> ReadReport:
        """Compute one read again."""
        stream_id, version = read.stream["stream_id"], read.stream["version"]
        where = read.where if read.events else f"{stream_id}@{version}"
        state = self.state(stream_id, version, where)
        if state is not None and read.events:
            self.check("chain head recomputed from the first record", where, read.stream["chain_head"], state.chain_head)
        given, withheld = None, tuple(Withheld(one_id, None, None) for one_id in read.withheld)
        if state is not None and read.events:
            given, withheld = self._given(read, state, where)
        elif state is not None:
            (given,) = released(state, Asked(True, None, None), (), 0)
        sources, calls, redacted, newer = self._walk(stream_id, version, given, moment)
        payload = read.payload if read.events else None
        counter = None
        if payload is not None and payload["token_counter"] is not None:
            counter = f"{payload['token_counter']}:{payload['token_counter_version']}"
        judged_at = None if payload is None else payload["judged_at"]
        return ReadReport(
            records=tuple(evidence(one) for one in read.events),
            stream_id=stream_id,
            version=version,
            chain_head=read.stream["chain_head"] or ("" if state is None else state.chain_head),
            selection=None if payload is None else payload["selection"],
            judged_at=judged_at,
            token_counter=counter,
            selection_digest=None if payload is None else payload["selection_digest"],
            revealed=read.revealed,
            withheld=withheld,
            released=given,
            sources=sources,
            calls=calls,
            redacted_since=redacted,
            newer=newer,
            before_decision_ms=None if judged_at is None or moment.ended_at is None else (moment.ended_at - judged_at) // 1000,
        )

    def state(self, stream_id: str, version: int, where: str) -> ContextState | None:
        """The state of a stream at a version, from its first record; None where the log has none, which is kept as a check."""
        state = self._states.get((stream_id, version)) or self._replay(stream_id, version, where)
        if state is not None:
            if len(self._states) >= STATES_KEPT_MAX:
                self._states.clear()
            self._states[stream_id, version] = state
        return state

    def _replay(self, stream_id: str, version: int, where: str) -> ContextState | None:
        if not 0 <= version <= NUMBER_MAX:
            self.check("version", where, "a number from 0", version, False)
            return None
        try:
            return self._replayer.replay(stream_id, AtVersion(version)).state
        except (PointError, IntegrityError) as error:
            self.check("replay from the first record", where, f"version {version}", error, False)
            return None

    def _given(self, read: Recorded, state: ContextState, where: str) -> tuple[Released | None, tuple[Withheld, ...]]:
        """What was given and what was kept back, with all that can be checked about either."""
        entries = _entries(state)
        try:
            selection = asked(read.payload["selection"])
        except InvalidInputError as error:
            self.check("selection", where, "what was asked for", error, False)
            return None, tuple(_withheld(one_id, entries.get(one_id, ())) for one_id in read.withheld)
        digest = read.payload["selection_digest"]
        readings = list(released(state, selection, read.revealed, read.payload["judged_at"]))
        given = next((one for one in readings if selection_digest(one) == digest), readings[0])
        self._all("revealed ids are in that version", where, read.revealed, entries)
        if read.alone:
            self.check("selection digest recomputed", where, digest, selection_digest(given))
        else:
            self.check("selection digest", where, "one stream in a read", f"{len(read.payload['streams'])} streams", False)
        judged_at = read.payload["judged_at"]
        kept = {
            one_id: [entry for entry in entries.get(one_id, ()) if entry.is_kept_back(selection, judged_at)]
            for one_id in read.withheld
        }
        self._all("withheld ids were to be kept back", where, read.withheld, {one_id for one_id, why in kept.items() if why})
        known = [one_id for one_id in read.revealed if one_id in entries]
        free = {one_id for one_id in known if not all(entry.is_kept_back(selection, judged_at) for entry in entries[one_id])}
        self._all("revealed ids were not to be kept back", where, known, free)
        facts = [fact.event_id for key, fact in state.facts.items() if selection.asks_for(key)]
        told = {*read.revealed, *read.withheld}
        self._all("facts asked for are revealed or withheld", where, () if selection.everything else facts, told)
        return given, tuple(_withheld(one_id, why or entries.get(one_id, ())) for one_id, why in kept.items())

    def _all(self, what: str, where: str, ids: Iterable[str], right: Container[str]) -> None:
        wrong = [one_id for one_id in ids if one_id not in right]
        self.check(what, where, "all", f"{len(wrong)} not, the first {wrong[0]}" if wrong else "all")

    def _walk(
        self, stream_id: str, version: int, given: Released | None, moment: Moment
    ) -> tuple[dict[str, Evidence], dict[str, tuple[Evidence, ...]], tuple[Evidence, ...], Newer]:
        """The events behind what was given, later redactions of it, and what the stream took in until the moment."""
        messages = {message.id for message in given.messages} if given else set()
        ids = messages | {fact.event_id for fact in given.facts.values()} if given else set()
        ids |= {message.redacted_by for message in given.messages if message.redacted_by} if given else set()
        called = set(given.tool_calls) if given else set()
        sources: dict[str, Evidence] = {}
        calls: dict[str, list[Evidence]] = {}
        redacted: list[Evidence] = []
        newer = _Newer(moment)
        rejected: Counter[str] = Counter()
        for name, upto in lineage(self._replayer, stream_id, version):
            for one in happened(self._replayer, name, rejected=rejected if name == stream_id else None):
                if one.version <= upto:
                    if one.event_id in ids:
                        sources[one.event_id] = evidence(one)
                    call_id = (one.target or "").removeprefix("call:")
                    if call_id in called and (one.is_a("ToolCalled") or one.is_a("ToolReturned")):
                        calls.setdefault(call_id, []).append(evidence(one))
                elif name != stream_id:
                    break  # What its ancestors took in later is not of this stream.
                else:
                    newer.take(one)
                    if one.is_a("MessageRedacted") and one.payload["message_id"] in messages:
                        redacted.append(evidence(one))
        odd = {reason: number for reason, number in rejected.items() if reason not in ORDINARY}
        if odd and stream_id not in self._told:
            self._told.add(stream_id)
            reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(odd.items()))
            self._notes.append(f"{stream_id}: records that do not count: {reasons}; `ctxlog log --rejected` shows them.")
        ended = {call_id: tuple(events) for call_id, events in calls.items()}
        return sources, ended, tuple(redacted), newer.result()


def _short(said: str) -> str:
    return said if len(said) <= CHECK_CHARACTERS_MAX else said[:CHECK_CHARACTERS_MAX] + "…"


class _Newer:
    """Counts what a stream took in until a moment."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment
        self._over = False
        self._events = self._own = 0
        self._by_clock = False
        self._first_at: int | None = None
        self._listed: list[Evidence] = []

    def take(self, one: Happened) -> None:
        """The next event above the version that was read."""
        moment = self._moment
        self._by_clock |= not one.place.ordered(moment.place)
        self._over |= not one.place.up_to(moment.place)
        if self._over or one.place == moment.place:
            return
        if moment.inside.within(one.cause, moment.ids):
            self._own += 1
            return
        self._events += 1
        if self._first_at is None:
            self._first_at = one.place.time
        if len(self._listed) < NEWER_LISTED_MAX:
            self._listed.append(evidence(one))

    def result(self) -> Newer:
        """What was counted."""
        outdated = None if self._first_at is None else self._moment.place.time - self._first_at
        return Newer(self._events, self._own, self._first_at, outdated, self._by_clock, tuple(self._listed))


class _Entry(NamedTuple):
    """What an id of a state stands for."""

    kind: str
    scope: str
    expires_at: int | None

    def is_kept_back(self, selection: Asked, judged_at: int) -> bool:
        """Whether a read that asks so does not give it."""
        if selection.everything:
            return False
        return selection.hides(self.scope) or (self.expires_at is not None and self.expires_at <= judged_at)


def _entries(state: ContextState) -> dict[str, list[_Entry]]:
    """What each id of a state stands for; an id may stand for two things, as a call's id is free."""
    found: dict[str, list[_Entry]] = {}
    for message in state.messages:
        found.setdefault(message.id, []).append(_Entry("message", message.scope, None))
    for call_id, call in state.tool_calls.items():
        found.setdefault(call_id, []).append(_Entry("call", call.scope, None))
    for fact in state.facts.values():
        found.setdefault(fact.event_id, []).append(_Entry("fact", fact.scope, fact.expires_at))
    return found


def _withheld(one_id: str, entries: Sequence[_Entry]) -> Withheld:
    return Withheld(one_id, entries[0].kind, entries[0].scope) if entries else Withheld(one_id, None, None)

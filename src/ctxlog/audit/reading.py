"""One recorded read, computed again: the version that it names, what it gave of it, and what the stream took in afterwards.

The state comes from the log's first record, without snapshots. What was given comes from the ids that the read recorded; nothing
is selected a second time, so a report cannot show what an agent would be given today.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.audit.behind import Behind, Given, Moment, events_behind
from ctxlog.audit.report import Check, ReadReport, Withheld
from ctxlog.audit.trail import Happened, evidence
from ctxlog.core.digests import selection_digest
from ctxlog.errors import CtxlogError, IntegrityError, InvalidInputError, PointError
from ctxlog.model.points import AtVersion
from ctxlog.model.reads import Asked, Released, asked, released
from ctxlog.model.state import NUMBER_MAX, ContextState

if TYPE_CHECKING:
    from ctxlog.core.fold import StreamFold
    from ctxlog.replay.replayer import Replayer

Progress = Callable[[int, int], None]
"""Told how many reads are done, and of how many."""

CHECK_CHARACTERS_MAX = 400
"""Characters of what a check says; an id that a hostile writer made up may have a million."""


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
        place = f"{self.stream['stream_id']}@{self.stream['version']}"
        return f"read {self.events[0].event_id} of {place}" if self.events else place


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

    def check(self, what: str, where: str, expected: object, found: object, ok: bool | None = None) -> bool:
        """Keep a check; whether it holds. Equal is right unless said otherwise."""
        holds = expected == found if ok is None else ok
        self._checks.append(Check(what, _short(where), _short(str(expected)), _short(str(found)), holds))
        return holds

    def audit(self, reads: Sequence[Recorded], moment: Moment, progress: Progress) -> tuple[ReadReport, ...]:
        """Compute reads again, stream by stream."""
        by_stream: dict[str, list[int]] = {}
        for number, read in enumerate(reads):
            by_stream.setdefault(read.stream["stream_id"], []).append(number)
        reports: dict[int, ReadReport] = {}
        for stream_id, numbers in by_stream.items():
            several = [reads[number] for number in numbers]
            reports.update(zip(numbers, self._of_stream(stream_id, several, moment), strict=True))
            progress(len(reports), len(reads))
        return tuple(reports[number] for number in range(len(reads)))

    def _of_stream(self, stream_id: str, reads: Sequence[Recorded], moment: Moment) -> Iterator[ReadReport]:
        states = self._states(stream_id, {read.stream["version"] for read in reads})
        results = [self._content(read, states[read.stream["version"]]) for read in reads]
        given = [Given(read.stream["version"], content) for read, (content, _) in zip(reads, results, strict=True)]
        walked = events_behind(self._replayer, stream_id, given, moment)
        if walked.odd:
            reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(walked.odd.items()))
            self._notes.append(f"{stream_id}: records that do not count: {reasons}; `ctxlog log --rejected` shows them.")
        for read, (content, withheld), behind in zip(reads, results, walked.behind, strict=True):
            state = states[read.stream["version"]]
            head = state.chain_head if isinstance(state, ContextState) else ""
            yield _report(read, content, withheld, behind, read.stream["chain_head"] or head, moment)

    def _content(self, read: Recorded, state: ContextState | CtxlogError) -> tuple[Released | None, tuple[Withheld, ...]]:
        """What was given and what was kept back, as far as it can be told."""
        if not isinstance(state, ContextState):
            self.check("replay from the first record", read.where, f"version {read.stream['version']}", state, False)
            return None, tuple(Withheld(one_id, None, None) for one_id in read.withheld)
        if not read.events:
            self.check("replay from the first record", read.where, f"version {state.version}", f"version {state.version}")
            return next(released(state, Asked(True, None, None), (), 0)), ()
        self.check("chain head recomputed from the first record", read.where, read.stream["chain_head"], state.chain_head)
        return self._given(read, state, read.where)

    def _states(self, stream_id: str, versions: set[int]) -> dict[int, ContextState | CtxlogError]:
        """States of a stream, from its first record; where the log has none, why. The stream is folded once for all versions."""
        found: dict[int, ContextState | CtxlogError] = {
            version: PointError(f"{version} is no version: expected a number from 0")
            for version in versions
            if not 0 <= version <= NUMBER_MAX
        }
        wanted = versions - found.keys()
        if not wanted:
            return found
        try:
            end = self._replayer.end(stream_id)
            cursor = self._replayer.open(stream_id, end=end, stop_version=max(wanted))
            fold = cursor.fold

            def take(_outcomes: object, _version: int) -> None:
                if fold.version in wanted and fold.version not in found:
                    found[fold.version] = _state_of(fold)

            self._replayer.advance(cursor, end, seen=take)
            for version in wanted - found.keys():
                if version > fold.version:
                    found[version] = PointError(f"stream {stream_id!r} is at version {fold.version}, below {version}")
                else:  # Before the first event, or inside an append.
                    found[version] = self._replayer.replay(stream_id, AtVersion(version)).state
        except IntegrityError as error:
            return dict.fromkeys(wanted, error) | found
        return found

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


def _short(said: str) -> str:
    return said if len(said) <= CHECK_CHARACTERS_MAX else said[:CHECK_CHARACTERS_MAX] + "…"


def _state_of(fold: StreamFold) -> ContextState | CtxlogError:
    try:
        return fold.state()
    except IntegrityError as error:
        return error


def _report(
    read: Recorded, content: Released | None, withheld: tuple[Withheld, ...], behind: Behind, chain_head: str, moment: Moment
) -> ReadReport:
    payload: dict[str, Any] = read.events[0].payload if read.events else {}
    counter, judged_at = payload.get("token_counter"), payload.get("judged_at")
    return ReadReport(
        records=tuple(evidence(one) for one in read.events),
        stream_id=read.stream["stream_id"],
        version=read.stream["version"],
        chain_head=chain_head,
        selection=payload.get("selection"),
        judged_at=judged_at,
        token_counter=None if counter is None else f"{counter}:{payload.get('token_counter_version')}",
        selection_digest=payload.get("selection_digest"),
        revealed=read.revealed,
        withheld=withheld,
        released=content,
        sources=behind.sources,
        calls=behind.calls,
        redacted_since=behind.redacted_since,
        newer=behind.newer,
        before_decision_ms=None if judged_at is None or moment.ended_at is None else (moment.ended_at - judged_at) // 1000,
    )


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

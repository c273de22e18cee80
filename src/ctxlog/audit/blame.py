"""Who set a fact, said a message or made a call, when, caused by what, and how it came to be so.

A fork begins with what its parent held, so the parent's events count up to the version that the fork goes on from, and are named
with the parent's stream. What is told of actors, causes and `occurred_at` is what the writers claimed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxlog.audit.decisions import decisions_by_id
from ctxlog.audit.trail import Evidence, Happened, decision_streams, evidence, happened
from ctxlog.errors import PointError
from ctxlog.model.points import AtVersion
from ctxlog.model.selection import REDACTED
from ctxlog.model.state import NUMBER_MAX
from ctxlog.replay.lineages import lineage

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer

CAUSES_MAX = 16
"""How far causes are followed: each step costs a look through the stream and the decisions."""

KINDS = ("fact", "message", "call")
"""What a key may name, in the order in which a bare one is looked up."""


class Change(NamedTuple):
    """One event of a history.

    Attributes:
        change: `set`, `removed`; `said`, `redacted`; `called`, `taken over`, `returned`, `failed`.
        value: JSON text of a fact, text of a message or result, arguments of a call; None where there is none.
        expires_at: When the fact expires, µs since 1970 UTC.
        no_effect: Why the event had none; None where it had.
        event: The event.
        decision: Kind of the decision that caused it, where its cause is a recorded one.
    """

    change: str
    value: str | None
    expires_at: int | None
    no_effect: str | None
    event: Evidence
    decision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._asdict(), "event": self.event.to_dict()}


class Cause(NamedTuple):
    """One step of what led to a change: an id that an event named as its cause.

    Attributes:
        id: The id.
        found: `decision`, `event`, or `unknown`: not in the stream, nor in those that it goes on from, nor among the decisions.
        what: Kind of the decision, or type of the event.
        event: The event that stands under the id.
    """

    id: str
    found: str
    what: str | None
    event: Evidence | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._asdict(), "event": None if self.event is None else self.event.to_dict()}


@dataclass(frozen=True, slots=True)
class Blame:
    """The history of one entry.

    Attributes:
        stream_id, version: The context, as far as it was looked at.
        kind, key: What it is: a `fact`, `message` or `call`, and its key or id.
        also: Other kinds that stand under the same key.
        history: What happened to it, oldest first.
        left_out: Number of older changes that are not in `history`.
        last: The newest change that had an effect; None where none had.
        causes: What led to `last`, the nearest first.
    """

    stream_id: str
    version: int
    kind: str
    key: str
    also: tuple[str, ...]
    history: tuple[Change, ...]
    left_out: int
    last: Change | None
    causes: tuple[Cause, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "stream_id": self.stream_id,
            "version": self.version,
            "kind": self.kind,
            "key": self.key,
            "also": list(self.also),
            "last": None if self.last is None else self.last.to_dict(),
            "causes": [cause.to_dict() for cause in self.causes],
            "left_out": self.left_out,
            "history": [change.to_dict() for change in self.history],
        }


def blame(replayer: Replayer, stream_id: str, key: str, *, last: int | None = None) -> Blame:
    """The history of a fact, message or call of a context's newest state.

    Args:
        replayer: The log; it may use snapshots.
        stream_id: The context.
        key: `fact:KEY`, `message:ID` or `call:ID`; a bare one is a fact's key, else a message's id, else a call's.
        last: Only so many of the newest changes.

    Raises:
        PointError: The context never had such an entry.
        IntegrityError: What the log holds cannot be folded.
    """
    newest = sum(1 for _ in happened(replayer, stream_id))
    streams = lineage(replayer, stream_id, newest)
    found = {meant: _History(*meant, last) for meant in _meant(key)}
    for name, upto in streams:
        without = _without_effect(replayer, name, upto)
        for one in happened(replayer, name):
            if one.version > upto:
                break
            for entry in found.values():
                entry.take(one, without.get(one.version))
    there = [entry for entry in found.values() if entry.count]
    if not there:
        raise PointError(
            f"stream {stream_id!r}: no fact, message or call {key!r} up to version {newest}; `ctxlog show` shows what there is, "
            "and its -o json the ids."
        )
    first = there[0]
    history = _with_decisions(replayer, first.changes())
    effective = [change for change in history if change.no_effect is None]
    final = effective[-1] if effective else None
    causes = () if final is None else _causes(replayer, final.event, [name for name, _ in streams])
    also = tuple(other.kind for other in there[1:])
    return Blame(stream_id, newest, first.kind, first.key, also, history, first.count - len(history), final, causes)


def _meant(key: str) -> list[tuple[str, str]]:
    """What a key may name, the likeliest first."""
    prefix, colon, rest = key.partition(":")
    meant = [(prefix, rest)] if colon and prefix in KINDS and rest else []
    return meant + [(kind, key) for kind in KINDS]


def _without_effect(replayer: Replayer, stream_id: str, version: int) -> dict[int, str]:
    """Why events of a stream had no effect, by version."""
    return {found.version: found.reason for found in replayer.replay(stream_id, AtVersion(version)).anomalies}


class _History:
    """Collects what happened to one entry."""

    def __init__(self, kind: str, key: str, last: int | None) -> None:
        self.kind = kind
        self.key = key
        self.count = 0
        self._changes: deque[Change] = deque(maxlen=last)
        self._redacted: set[str] = set()

    def take(self, one: Happened, no_effect: str | None) -> None:
        """The next event of the stream, or of one that it goes on from."""
        if one.is_a("MessageRedacted") and no_effect is None and self.kind != "fact":
            self._redacted.add(one.payload["message_id"])
        told = self._told(one)
        if told is None:
            return
        change, value, expires_at = told
        if change == "called" and no_effect is None and any(known.change == "called" for known in self._changes):
            change = "taken over"
        self.count += 1
        self._changes.append(Change(change, value, expires_at, no_effect, evidence(one)))

    def changes(self) -> list[Change]:
        """What happened, without the text of what was redacted."""
        return [
            change._replace(value=REDACTED) if change.event.event_id in self._redacted else change for change in self._changes
        ]

    def _told(self, one: Happened) -> tuple[str, str | None, int | None] | None:
        payload, about = one.payload, one.target == f"{self.kind}:{self.key}"
        if self.kind == "message":
            if one.event_id == self.key and (one.is_a("MessageAppended") or one.is_a("ToolReturned")):
                return "said", _text(payload), None
            return ("redacted", payload["reason"], None) if about and one.is_a("MessageRedacted") else None
        if not about:
            return None
        if self.kind == "fact":
            if one.is_a("FactSet"):
                expires_at = payload["expires_at"]
                return "set", payload["value"], expires_at if expires_at is not None and abs(expires_at) <= NUMBER_MAX else None
            return ("removed", None, None) if one.is_a("FactRemoved") else None
        if one.is_a("ToolCalled"):
            return "called", f"{payload['name']}({payload['arguments']})", None
        if one.is_a("ToolReturned"):
            return "failed" if payload["failed"] else "returned", _text(payload), None
        return None


def _text(payload: dict[str, Any]) -> str | None:
    text: str | None = payload["content"] if payload["content"] is not None else payload["parts"]
    return text


def _with_decisions(replayer: Replayer, changes: list[Change]) -> tuple[Change, ...]:
    ids = {change.event.causation_id for change in changes if change.event.causation_id is not None}
    known = decisions_by_id(replayer, ids) if ids else {}
    decisions = {one_id: str(one.payload["kind"]) for one_id, one in known.items()}
    return tuple(change._replace(decision=decisions.get(change.event.causation_id or "")) for change in changes)


def _causes(replayer: Replayer, event: Evidence, streams: list[str]) -> tuple[Cause, ...]:
    """What led to an event, as far as ids can be followed: each names one."""
    causes: list[Cause] = []
    seen: set[str] = set()
    cause_id = event.causation_id
    while cause_id is not None and cause_id not in seen and len(causes) < CAUSES_MAX:
        seen.add(cause_id)
        cause = _cause(replayer, cause_id, streams)
        causes.append(cause)
        cause_id = None if cause.event is None else cause.event.causation_id
    return tuple(causes)


def _cause(replayer: Replayer, cause_id: str, streams: list[str]) -> Cause:
    decision = decisions_by_id(replayer, {cause_id}).get(cause_id)
    if decision is not None:
        return Cause(cause_id, "decision", decision.payload["kind"], evidence(decision))
    for name in dict.fromkeys([*reversed(streams), *decision_streams(replayer)]):
        for one in happened(replayer, name):
            if one.event_id == cause_id:
                return Cause(cause_id, "event", one.type, evidence(one))
    return Cause(cause_id, "unknown", None, None)

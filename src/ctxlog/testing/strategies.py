"""Generate the histories that break context logs: Hypothesis strategies for tests of anything that reads a log.

`histories()` draws what several careless writers send to one log: copies, stale preconditions, appends torn, interleaved and out
of order, results of calls never made, removals of facts never set, times and texts at the edge of what a record can hold. Ids,
keys and call ids come from small pools, because rules are broken where things collide. While it draws, the strategy keeps a rough
idea of each stream (version, targets, messages), so that about half of what it writes is right. The idea is rough on purpose:
nothing may rely on it, the log decides.

Needs `hypothesis`, and nothing else of ctxlog.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from hypothesis import strategies as st

__all__ = ["HEAD", "EventDraft", "histories", "json_texts", "plain_texts", "with_heads"]

T = TypeVar("T")

HEAD = "HEAD"
"""Stands in a draft for a chain head, which depends on encoded bytes: see `with_heads`. Left in place it is a wrong head."""


class EventDraft(NamedTuple):
    """One record to send: `type` is an Avro full name, `meta` has every field of EventMeta, `payload` every other field."""

    type: str
    meta: dict[str, Any]
    payload: dict[str, Any]


def with_heads(draft: EventDraft, head_of: Callable[[str, int | None], str | None]) -> EventDraft:
    """Put real chain heads where `HEAD` stands in a draft.

    Args:
        head_of: Chain head (hex) of a stream at a version (None: the latest when the draft is sent), or None if there is none.
            It is asked for `expected_head` and for a fork's `parent_chain_head`.
    """
    meta, payload = draft.meta, draft.payload
    precondition = meta["precondition"]
    if precondition is not None and precondition["expected_head"] == HEAD:
        head = head_of(meta["stream_id"], None) or HEAD
        meta = meta | {"precondition": precondition | {"expected_head": head}}
    if payload.get("parent_chain_head") == HEAD:
        payload = payload | {"parent_chain_head": head_of(payload["parent_stream_id"], payload["parent_version"]) or HEAD}
    return EventDraft(draft.type, meta, payload)


_PLAIN = "hello||a\nb|\x00|\x1b[31mred|\ufffd|\U0001f600|\ue000|e\u0301|\u2028\x7f\x85|\u202e\u05e9".split("|")  # noqa: SIM905
_JSON = '{}|null|{"b":1,"a":9007199254740993}|{"a":1,"a":2}|[2.50,1e400]|"\\ud800"|"\\u0000"|not JSON|'.split("|")  # noqa: SIM905


def plain_texts() -> st.SearchStrategy[str]:
    """Text as people and models write it: also NUL, ESC, U+FFFD, right-to-left, astral; whatever UTF-8 can hold."""
    return st.one_of(st.sampled_from(_PLAIN), st.sampled_from(_PLAIN), st.text(max_size=6))


def json_texts() -> st.SearchStrategy[str]:
    """What stands in fields of JSON text: numbers beyond 2^53, repeated members, lone surrogates, and what does not parse."""
    return st.sampled_from(_JSON)


def histories(
    stream_ids: Sequence[str] = ("planner/thread-1", "shared/plan"), max_records: int = 60
) -> st.SearchStrategy[list[EventDraft]]:
    """Draw the records that were sent to one log, in log order; half of `max_records` on average.

    Some of the histories write to the first stream only, the others to all. Encode the drafts as they are, or through
    `with_heads` so that some of the expected heads and forks are right. A resent record is the same object again: encode it once.

    Not in here, since it is not a matter of drafts: bytes that cannot be decoded, keys in the wrong place, schemas of other
    releases. To meet `abandoned` and forgotten ids, arbitrate with low limits.
    """
    return _histories(tuple(stream_ids), max_records)


@st.composite
def _histories(draw: st.DrawFn, stream_ids: tuple[str, ...], max_records: int) -> list[EventDraft]:
    log = _Log(draw, stream_ids[: draw(st.sampled_from((1, len(stream_ids), len(stream_ids))))])
    # A geometric number of moves and not a drawn length: so a move can be dropped from the middle of a failing example.
    while len(log.sent) < max_records and not log.is_over(1.2 / max_records):
        log.move()
    return log.sent


_MOVES = ("alone",) * 9 + ("go_on",) * 6 + ("group",) * 3 + ("resend", "resend", "spoil", "spoil", "collide")
_OFTEN = ("MessageAppended", "ToolCalled", "ToolReturned") * 5 + ("FactSet",) * 4 + ("FactRemoved", "MessageRedacted") * 3
_SELDOM = ("ExtensionRecorded", "ContextRead", "DecisionRecorded", "StreamClosed", "StreamForked")
_TARGETS = {"FactSet": ("fact", "key"), "FactRemoved": ("fact", "key"), "MessageRedacted": ("message", "message_id")}
_TARGETS |= {"ToolCalled": ("call", "call_id"), "ToolReturned": ("call", "call_id")}
_NEEDS = {"FactRemoved": "FactSet", "MessageRedacted": "MessageAppended", "ToolReturned": "ToolCalled"}
_SPOILED = ((2, 2, 0), (-1, 2, 0), (0, 0, 1), (0, 1001, 1), (0, 2, 0), (1, 2, 0), (0, 1000, 1), (999, 1000, 0))
"""Index, count, and whether the append id is the event's own. The last two are right."""
_NO_PRECONDITION: dict[str, Any] = {"expected_version": None, "expected_head": None, "expected_target_version": None}
_FACT_KEYS = ("plan", "", "\ue000", "\U0001f600", "e\u0301", "\u00e9")
_CALL_IDS = ("call-a", "call-b", "\ue000", "\U0001f600")
_NOW = 1_760_000_000_000_000
_TIMES = (None, None, _NOW, _NOW, _NOW + 1, 0, -1, 2**53 - 1, -(2**53 - 1), 2**53, -(2**53), 2**63 - 1, -(2**63))
_GARBAGE_HEAD = "00" * 32
_DICE = st.binary(min_size=32, max_size=32)
_TEXTS = st.text(max_size=6)


def _event_id(number: int) -> str:
    """A UUID of version 7 that depends on nothing but `number`, so that examples replay and shrink."""
    return str(UUID(int=(number << 80) | (7 << 76) | (2 << 62) | number))


class _Stream:
    """What the strategy believes about a stream."""

    def __init__(self, stream_id: str) -> None:
        self.id = stream_id
        self.version = 0
        self.targets: dict[str, int] = {}
        self.decided: set[str] = set()
        self.open: dict[tuple[str, int], dict[int, EventDraft]] = {}  # append id and count -> by index
        self.waiting: list[list[EventDraft]] = []  # rest of each append that was begun, in sending order
        self.seen: dict[str, list[str]] = {"message": [], "call": [], "fact": []}
        self.genesis = hashlib.sha256(b"ctxlog:chain:1" + stream_id.encode()).hexdigest()

    def note(self, draft: EventDraft) -> None:
        append = draft.meta["append"] or {"id": draft.meta["event_id"], "index": 0, "count": 1}
        if {append["id"], draft.meta["event_id"]} & self.decided:
            return
        held = self.open.setdefault((append["id"], append["count"]), {})
        held.setdefault(append["index"], draft)
        if len(held) < append["count"]:
            return
        del self.open[append["id"], append["count"]]
        members = [held[index] for index in sorted(held)]
        ids = {member.meta["event_id"] for member in members}
        if len(ids) == len(members) and not ids & self.decided and all(self._holds(member.meta) for member in members):
            for member in members:
                self.version += 1
                if member.meta["target"] is not None:
                    self.targets[member.meta["target"]] = self.version
                self.see(member)
        self.decided |= {append["id"], *ids}

    def see(self, draft: EventDraft) -> None:
        """Remember what later events may refer to, each id once; the latest stands last."""
        kind = {"ctxlog.FactSet": "fact", "ctxlog.ToolCalled": "call"}.get(draft.type, "message")
        new = {"fact": draft.payload.get("key"), "call": draft.payload.get("call_id"), "message": draft.meta["event_id"]}[kind]
        if kind != "message" or draft.type in ("ctxlog.MessageAppended", "ctxlog.ToolReturned"):
            self.seen[kind] = [old for old in self.seen[kind] if old != new] + [new]

    def _holds(self, meta: dict[str, Any]) -> bool:
        expected = meta["precondition"] or _NO_PRECONDITION
        right = (self.version, self.genesis if self.version == 0 else HEAD, self.targets.get(meta["target"], 0))
        return all(value in (None, actual, HEAD) for value, actual in zip(expected.values(), right, strict=True))


class _Log:
    """Writes one history. Moves (up to `send`) send one record to a stream; the methods below them make its parts."""

    def __init__(self, draw: st.DrawFn, stream_ids: Sequence[str]) -> None:
        self.draw = draw
        self.streams = [_Stream(stream_id) for stream_id in stream_ids]
        self.sent: list[EventDraft] = []
        self.fresh = 0
        self.latest: str | None = None
        self.dice: list[int] = []

    # Choices eat drawn bytes and are not draws of their own, which took ten times as long; the first one is the plainest, since
    # Hypothesis shrinks towards it. Every move begins with new bytes, so that one can be dropped without the others.

    def any_of(self, choices: Sequence[T]) -> T:
        if not self.dice:
            self.dice = list(self.draw(_DICE))[::-1]
        return choices[self.dice.pop() * len(choices) >> 8]

    def is_over(self, probability: float) -> bool:
        self.dice = []
        return self.any_of(range(256)) < probability * 256

    def rarely(self, one_in: int) -> bool:
        return self.any_of(range(one_in)) == one_in - 1

    def text(self) -> str:
        return self.draw(_TEXTS) if self.rarely(8) else self.any_of(_PLAIN)

    def maybe_text(self) -> str | None:
        return self.text() if self.rarely(3) else None

    def time(self) -> int | None:
        return self.any_of(_TIMES) if self.rarely(3) else _NOW + len(self.sent)

    def known(self, stream: _Stream, kind: str, pool: Sequence[str]) -> str:
        """Mostly the first or one of the last that were seen, now and then any of the pool."""
        seen = stream.seen[kind]
        return self.any_of(pool) if not seen or self.rarely(7) else self.any_of((*seen[:-4:-1], seen[0]))

    def move(self) -> None:
        # One stream after the other appears, so that there is something to fork.
        stream = self.any_of(self.streams[: 1 + len(self.sent) // 6])
        getattr(self, self.any_of(_MOVES))(stream)

    def alone(self, stream: _Stream) -> None:
        draft = self.event(stream)
        if self.rarely(5):
            draft.meta["append"] = {"id": draft.meta["event_id"], "index": 0, "count": 1}
        self.condition(stream, draft)
        self.send(stream, draft)

    def group(self, stream: _Stream) -> None:
        drafts = [self.event(stream) for _ in range(self.any_of((2, 2, 3, 4)))]
        for index, draft in enumerate(drafts):
            draft.meta["append"] = {"id": drafts[0].meta["event_id"], "index": index, "count": len(drafts)}
            self.condition(stream, draft)
        if self.rarely(8):  # an id that stands twice in its append
            drafts[-1].meta["event_id"] = drafts[-2].meta["event_id"]
        if self.rarely(4):  # torn: one never arrives
            del drafts[self.any_of(range(len(drafts)))]
        stream.waiting.append(drafts)
        self.go_on(stream)

    def go_on(self, stream: _Stream) -> None:
        """The next record of an append that was begun, not always in order."""
        if not stream.waiting:
            return self.alone(stream)
        draft = self.any_of(stream.waiting[::-1]).pop(self.any_of((0, 0, 0, -1)))
        stream.waiting = [others for others in stream.waiting if others]
        return self.send(stream, draft)

    def resend(self, stream: _Stream) -> None:
        """The same bytes again: one record, or the whole append."""
        mine = [draft for draft in self.sent if draft.meta["stream_id"] == stream.id]
        if not mine:
            return self.alone(stream)
        draft = self.any_of(mine[::-1])
        append = draft.meta["append"]
        whole = [other for other in mine if append and other.meta["append"] and other.meta["append"]["id"] == append["id"]]
        if len(whole) > 1 and self.rarely(2):
            stream.waiting.append(whole)
            return self.go_on(stream)
        return self.send(stream, draft)

    def spoil(self, stream: _Stream) -> None:
        """A record whose append says what cannot be, or what is just within the bounds."""
        draft = self.event(stream)
        index, count, own = self.any_of(_SPOILED)
        append_id = draft.meta["event_id"] if own else self.event_id(stream)
        draft.meta["append"] = {"id": append_id, "index": index, "count": count}
        if index == 1:
            expected: dict[str, Any] = {"expected_version": stream.version} if self.rarely(2) else {"expected_head": HEAD}
            draft.meta["precondition"] = _NO_PRECONDITION | expected
        if self.rarely(4):
            draft.meta.update(append=None, target=None, precondition=_NO_PRECONDITION | {"expected_target_version": 0})
        self.send(stream, draft, noted=draft.meta["append"] is not None and count == 1000)

    def collide(self, stream: _Stream) -> None:
        """A record that gets in the way of an append which is still open."""
        if not stream.open:
            return self.resend(stream)
        (append_id, count), held = self.any_of(list(stream.open.items()))
        index, rival = self.any_of(list(held.items()))
        draft = self.event(stream)
        how = self.any_of(("index is held", "id is held", "other count", "id of the append"))
        if how == "id is held":
            draft.meta["event_id"] = rival.meta["event_id"]
        elif how == "id of the append":
            draft.meta.update(event_id=append_id, append={"id": self.event_id(stream), "index": 1, "count": 2})
        else:
            draft.meta["append"] = {"id": append_id, "index": index, "count": count + (how == "other count")}
            draft.meta["event_id"] = append_id if index == 0 else draft.meta["event_id"]
        return self.send(stream, draft, noted=how not in ("index is held", "other count"))

    def send(self, stream: _Stream, draft: EventDraft, noted: bool = True) -> None:
        self.sent.append(draft)
        if noted:
            stream.note(draft)

    def event_id(self, stream: _Stream) -> str:
        if self.rarely(10):
            return self.known(stream, "message", [_event_id(number) for number in range(1, 13)])
        self.fresh += 1
        return _event_id(self.fresh)

    def condition(self, stream: _Stream, draft: EventDraft) -> None:
        first = draft.meta["append"] is None or draft.meta["append"]["index"] == 0
        name = self.any_of(("expected_version", "expected_version", "expected_head", "expected_target_version"))
        value: int | str | None = None
        if name == "expected_target_version" and draft.meta["target"] is not None:
            right = stream.targets.get(draft.meta["target"], 0)
            value = self.any_of((right, right, right, 0, stream.version, -1))
        elif name == "expected_version" and first:
            right = stream.version
            value = self.any_of((right, right, right, right, right + 1, right - 1, 0, 2**63 - 1))
        elif name == "expected_head" and first:
            value = self.any_of((HEAD, HEAD, HEAD, HEAD, stream.genesis, _GARBAGE_HEAD, stream.genesis.upper(), ""))
        draft.meta["precondition"] = _NO_PRECONDITION | {name: value} if self.rarely(3) else None

    def event(self, stream: _Stream) -> EventDraft:
        kind = self.any_of(_OFTEN + _SELDOM)
        if stream.version == 0 and not stream.open and self.rarely(6 if stream is self.streams[0] else 2):
            kind = "StreamForked"
        elif kind in _NEEDS and not stream.seen[_TARGETS[kind][0]] and not self.rarely(3):
            kind = _NEEDS[kind]
        event_id = self.event_id(stream)
        if kind == "ToolReturned" and stream.seen["message"] and self.rarely(6):  # forgotten by now, or the parent's
            event_id = stream.seen["message"][0]
        payload = self.payload(kind, stream, event_id)
        target = f"{_TARGETS[kind][0]}:{payload[_TARGETS[kind][1]]}" if kind in _TARGETS else None
        if self.rarely(16):
            target = self.any_of((None, "fact:plan", "call:call-a", "message:" + event_id, ""))
        meta = {
            "event_id": event_id,
            "stream_id": stream.id,
            "agent_id": self.any_of(("planner", None)),
            "actor": self.any_of(("agent:planner", "person:ann", "tool:search", "system:import", "")),
            "occurred_at": self.time(),
            "scope": self.any_of(("default", "private")),
            "target": target,
            "append": None,
            "precondition": None,
            "trace": {"causation_id": event_id, "correlation_id": None} if self.rarely(8) else None,
            "privacy": {"data_subjects": ["p-1"], "sealed": ["/content"]} if self.rarely(8) else None,
        }
        if kind in ("MessageAppended", "ToolReturned"):
            self.latest = event_id
        return EventDraft("ctxlog." + kind, meta, payload)

    def payload(self, kind: str, stream: _Stream, event_id: str) -> dict[str, Any]:
        match kind:
            case "MessageAppended":
                role = self.any_of(("user", "assistant", "system", "tool", "developer"))
                return {"role": role, **self.said(), "tool_call_id": self.any_of(_CALL_IDS) if role == "tool" else None}
            case "MessageRedacted":
                return {"message_id": self.message_id(stream), "reason": self.maybe_text()}
            case "FactSet":
                times = {t: self.any_of(_TIMES) if self.rarely(5) else None for t in ("valid_from", "valid_to", "expires_at")}
                return {"key": self.any_of(_FACT_KEYS), "value": self.any_of(_JSON), **times}
            case "FactRemoved":
                return {"key": self.known(stream, "fact", _FACT_KEYS)}
            case "ToolCalled":
                return self.call(stream, event_id)
            case "ToolReturned":
                return {"call_id": self.known(stream, "call", _CALL_IDS), "failed": self.rarely(2), **self.said()}
            case "StreamForked":
                return self.fork(stream)
            case "StreamClosed":
                return {"reason": self.maybe_text()}
            case "ExtensionRecorded":
                return {"name": "org.example.Approved", "data": self.any_of(_JSON)}
            case "DecisionRecorded":
                texts = {"model": self.maybe_text(), "rationale": self.maybe_text(), "failure": self.maybe_text()}
                values = {"outcome": self.any_of((None, *_JSON)), "parameters": self.any_of((None, *_JSON))}
                times = {"started_at": self.any_of(_TIMES), "ended_at": self.any_of(_TIMES)}
                ids = {"decision_id": "d-1", "reads": [event_id], "tool_calls": [event_id]}
                return {"kind": "answer", "failed": self.rarely(2), **ids, **texts, **values, **times}
            case _:
                return self.read(stream)

    def message_id(self, stream: _Stream) -> str:
        if self.latest is not None and self.rarely(3):  # of the same append, most likely
            return self.latest
        return self.known(stream, "message", [_event_id(number) for number in range(1, 5)])

    def said(self) -> dict[str, Any]:
        content, parts = (None, self.any_of(_JSON)) if self.rarely(3) else (self.text(), None)
        return {"content": content, "parts": parts, "name": self.maybe_text()}

    def call(self, stream: _Stream, event_id: str) -> dict[str, Any]:
        """Equal calls are usual, so that open and failed ones are taken over."""
        return {
            "call_id": self.known(stream, "call", _CALL_IDS) if self.rarely(2) else self.any_of((*_CALL_IDS, event_id)),
            "message_id": self.message_id(stream) if self.rarely(3) else None,
            "name": "send" if self.rarely(8) else "search",
            "arguments": self.any_of(_JSON) if self.rarely(8) else "{}",
            "source_id": self.any_of((None, "toolu_1", "")),
            "idempotency_key": self.any_of((None, "", "other")) if self.rarely(4) else "key",
            "lease_expires_at": self.time() if self.rarely(2) else None,
        }

    def read(self, stream: _Stream) -> dict[str, Any]:
        ids = {"revealed": stream.seen["message"][-2:], "withheld": [_event_id(1)]}
        one = {"stream_id": stream.id, "version": stream.version, "chain_head": _GARBAGE_HEAD, **ids}
        return {
            "decision_id": self.any_of((None, "d-1")),
            "selection": self.any_of(_JSON),
            "streams": [one] if self.rarely(2) else [],
            "judged_at": self.any_of(_TIMES) or 0,
            "token_counter": None,
            "token_counter_version": self.maybe_text(),
            "selection_digest": _GARBAGE_HEAD,
        }

    def fork(self, stream: _Stream) -> dict[str, Any]:
        """Mostly of a stream and version that exist; now and then of itself, of nothing, or of a version that cannot be."""
        others = [other for other in self.streams if other is not stream]
        parent = self.any_of(others) if others and not self.rarely(6) else _Stream(self.any_of(("elsewhere", stream.id)))
        version = self.any_of((*[parent.version] * 4, parent.version // 2, 0, parent.version + 1, 2**53 - 1, 2**53, -1))
        if stream.version == 0:
            stream.seen = {kind: list(ids) for kind, ids in parent.seen.items()}  # what the fork can go on with
        head = _GARBAGE_HEAD if self.rarely(8) else parent.genesis if version == 0 else HEAD
        return {"parent_stream_id": parent.id, "parent_version": version, "parent_chain_head": head}

"""Say what a stream's records mean, a second time: the naive oracle of arbitration and fold.

Written from `docs/reference/arbitration.md` and `docs/reference/state.md` alone; it imports nothing from `ctxlog`. It is slow on
purpose: it scans lists and computes version, chain head and target versions from the start for every record, so that a reader can
hold it against the two pages line by line. Where it and the library differ on a generated history, one of the three (page,
library, oracle) is wrong.

Forks: the oracle folds one stream. The caller finds the parent, judges cycles and depth, and passes the parent's state.
"""

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import rfc8785

TIME_MAX = 2**53 - 1
APPEND_COUNT_MAX = 1000
NO_PRECONDITION = {"expected_version": None, "expected_head": None, "expected_target_version": None}


class NewerEvent(Exception):  # noqa: N818 - not to be mistaken for the library's NewerEventError
    """A type inside the namespace `ctxlog` that this FOLD_VERSION does not know; there is no state from `version` on."""

    def __init__(self, version: int, type_: str) -> None:
        super().__init__(f"version {version} is a {type_}")
        self.version = version


class BrokenFork(Exception):  # noqa: N818
    """The state passed as the parent's is not the one that the fork names: another stream, version or chain head."""


@dataclass(frozen=True)
class OracleRecord:
    """One record of the stream, as the decoder hands it over.

    `type` is the Avro full name ('' if undecodable). `meta` has the keys of EventMeta, each group null or a dict; `payload` is
    every other field. `digest` is the record digest (32 bytes). `refused` is None, 'undecodable' or 'misplaced'. `readable` is
    False where a known `ctxlog.*` type lacks fields of the shipped schema, or has them with other types.
    """

    offset: int
    type: str
    meta: Any  # a dict, or None
    payload: Any
    digest: bytes
    refused: str | None = None
    readable: bool = True


State = dict[str, Any]
Event = dict[str, Any]
Accepted = tuple[int, int, OracleRecord]
"""Version, offset at which it takes effect (that of the record which completed its append), and the record itself."""


@dataclass(frozen=True)
class Arbitrated:
    """`decisions`: offset -> (outcome, version or None); `heads[n]`: chain head at version n; `targets`: target -> version."""

    decisions: dict[int, tuple[str, int | None]]
    accepted: list[Accepted]
    head: str
    heads: list[str]
    targets: dict[str, int]


def _prefixed(data: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if data is None else len(data).to_bytes(4, "big") + data


def record_digest(schema_digest: bytes, key: bytes | None, body: bytes) -> bytes:
    """Digest of a decodable record; `schema_digest` is 32 raw bytes, `body` is the Avro datum without framing."""
    return hashlib.sha256(b"\x01" + _prefixed(schema_digest) + _prefixed(key) + _prefixed(body)).digest()


def undecodable_digest(key: bytes | None, value: bytes | None) -> bytes:
    """Digest of a record that cannot be decoded: over its raw value, framing and all."""
    return hashlib.sha256(b"\x00" + _prefixed(key) + _prefixed(value)).digest()


def chain0(stream_id: str) -> bytes:
    """H(0)."""
    return hashlib.sha256(b"ctxlog:chain:1" + stream_id.encode("utf-8")).digest()


def chain_heads(stream_id: str, digests: Iterable[bytes]) -> list[str]:
    """H(0), H(1), … as lower-case hex."""
    heads = [chain0(stream_id)]
    for digest in digests:
        heads.append(hashlib.sha256(heads[-1] + digest).digest())
    return [head.hex() for head in heads]


def canonical(state: State) -> bytes:
    """The RFC 8785 JSON of a state."""
    return rfc8785.dumps(state)


def state_digest(state: State) -> str:
    """Lower-case hex."""
    return hashlib.sha256(canonical(state)).hexdigest()


# Arbitration


def _append(record: OracleRecord) -> dict[str, Any]:
    """A record whose append is null stands alone."""
    return record.meta["append"] or {"id": record.meta["event_id"], "index": 0, "count": 1}


def _target_versions(accepted: Sequence[Accepted]) -> dict[str, int]:
    return {record.meta["target"]: version for version, _, record in accepted if record.meta["target"] is not None}


def _is_malformed(record: OracleRecord, open_count: int | None) -> bool:
    """`open_count` is the count of the open append with the same id, None if none is open."""
    append, expected = _append(record), record.meta["precondition"] or NO_PRECONDITION
    index, count = append["index"], append["count"]
    return (
        (index < 0 or index > count - 1)
        or (count < 1 or count > APPEND_COUNT_MAX)
        or (open_count is not None and count != open_count)
        or (index == 0 and record.meta["event_id"] != append["id"])
        or (index > 0 and (expected["expected_version"] is not None or expected["expected_head"] is not None))
        or (expected["expected_target_version"] is not None and record.meta["target"] is None)
    )


def _is_conflict(stream_id: str, members: Sequence[OracleRecord], accepted: Sequence[Accepted], decided: Sequence[str]) -> bool:
    """Judge a whole append, its members in index order, against the state before it."""
    version = len(accepted)
    head = chain_heads(stream_id, [record.digest for _, _, record in accepted])[-1]
    targets = _target_versions(accepted)
    event_ids = [record.meta["event_id"] for record in members]
    for record in members:
        if record.meta["event_id"] in decided or event_ids.count(record.meta["event_id"]) > 1:
            return True
        expected = record.meta["precondition"] or NO_PRECONDITION
        target_version = targets.get(record.meta["target"], 0)
        for name, actual in (("version", version), ("head", head), ("target_version", target_version)):
            if expected["expected_" + name] not in (None, actual):
                return True
    return False


def _decide(decided: list[str], append_id: str, members: Sequence[OracleRecord], decided_ids_max: int) -> None:
    for new_id in [append_id] + [record.meta["event_id"] for record in members]:
        if new_id not in decided:
            decided.append(new_id)
        # Forgetting after every id, not after the whole append, is what "the id decided earliest" says.
        while len(decided) > decided_ids_max:
            del decided[0]


def arbitrate(
    stream_id: str, records: Iterable[OracleRecord], *, decided_ids_max: int = 65_536, open_appends_max: int = 64
) -> Arbitrated:
    """Accept or reject one stream's records, given in offset order.

    Outcomes: accepted, undecodable, misplaced, malformed, duplicate, conflict, abandoned, or held where the append is still open
    at the end. The limits are parameters so that a test can reach them with few records.
    """
    decisions: dict[int, tuple[str, int | None]] = {}
    accepted: list[Accepted] = []
    decided: list[str] = []
    opened: list[tuple[str, int, dict[int, OracleRecord]]] = []  # append id, count, held records by index; oldest first

    for record in records:
        if record.refused is not None:
            decisions[record.offset] = (record.refused, None)
            continue
        append = _append(record)
        same = [entry for entry in opened if entry[0] == append["id"]]
        held = same[0][2] if same else {}
        if _is_malformed(record, same[0][1] if same else None):
            decisions[record.offset] = ("malformed", None)
            continue
        if record.meta["event_id"] in decided or append["id"] in decided or append["index"] in held:
            decisions[record.offset] = ("duplicate", None)
            continue
        if not same and append["count"] > 1:
            if len(opened) >= open_appends_max:
                old_id, _, old_held = opened.pop(0)
                for old in old_held.values():
                    decisions[old.offset] = ("abandoned", None)
                _decide(decided, old_id, [old_held[index] for index in sorted(old_held)], decided_ids_max)
            opened.append((append["id"], append["count"], held))
        held[append["index"]] = record
        decisions[record.offset] = ("held", None)
        if len(held) < append["count"]:
            continue
        opened = [entry for entry in opened if entry[0] != append["id"]]
        members = [held[index] for index in range(append["count"])]
        conflict = _is_conflict(stream_id, members, accepted, decided)
        for member in members:
            if conflict:
                decisions[member.offset] = ("conflict", None)
            else:
                accepted.append((len(accepted) + 1, record.offset, member))
                decisions[member.offset] = ("accepted", len(accepted))
        _decide(decided, append["id"], members, decided_ids_max)

    heads = chain_heads(stream_id, [record.digest for _, _, record in accepted])
    return Arbitrated(decisions, accepted, heads[-1], heads, _target_versions(accepted))


# The fold, FOLD_VERSION 1


def empty_state(stream_id: str) -> State:
    """The state at version 0."""
    return {
        "stream_id": stream_id,
        "version": 0,
        "chain_head": chain0(stream_id).hex(),
        "closed": False,
        "parent": None,
        "messages": [],
        "facts": {},
        "tool_calls": {},
    }


def fold(stream_id: str, accepted: Iterable[Accepted], parent_state: State | None = None) -> tuple[State, list[dict[str, Any]]]:
    """State and anomalies after the accepted events.

    `parent_state` is looked at only if version 1 is a `StreamForked` that takes effect; it must be the state that the fork names.
    Without it the fork's own events are folded alone.

    Raises:
        NewerEvent: an unknown type inside the namespace `ctxlog`.
        BrokenFork: `parent_state` is not the state that the fork names.
    """
    state = empty_state(stream_id)
    anomalies: list[dict[str, Any]] = []
    digests: list[bytes] = []
    for version, _, record in accepted:
        digests.append(record.digest)
        state["version"] = version
        state["chain_head"] = chain_heads(stream_id, digests)[-1]
        if not record.type.startswith("ctxlog."):
            continue
        if record.type not in EFFECTS:
            raise NewerEvent(version, record.type)
        reason = _take_effect(state, record, parent_state)
        if reason is not None:
            about = {"version": version, "event_id": record.meta["event_id"], "type": record.type}
            anomalies.append(about | {"reason": reason})
    return state, anomalies


def _take_effect(state: State, record: OracleRecord, parent_state: State | None) -> str | None:
    """Change `state`, or return the reason why the event cannot take effect."""
    if not record.readable:
        return "unreadable"
    meta, event = record.meta, record.payload
    target_kind, target_field, effect = EFFECTS[record.type]
    if meta["target"] != (None if target_kind is None else f"{target_kind}:{event[target_field]}"):
        return "target_mismatch"
    reason: str | None = effect(state, meta, event)
    if record.type == "ctxlog.StreamForked" and reason is None and parent_state is not None:
        if state["parent"] != {name: parent_state[name] for name in ("stream_id", "version", "chain_head")}:
            raise BrokenFork(state["parent"])
        for member in ("messages", "facts", "tool_calls"):
            state[member] = copy.deepcopy(parent_state[member])
    return reason


def _in_range(time: int | None) -> bool:
    return time is None or -TIME_MAX <= time <= TIME_MAX


def _find_message(state: State, message_id: str) -> dict[str, Any] | None:
    found: list[State] = [message for message in state["messages"] if message["id"] == message_id]
    return found[0] if found else None


def _add_message(state: State, meta: Event, event: Event, role: str, call_id: str | None) -> None:
    said = {"content": event["content"], "parts": event["parts"], "name": event["name"]}
    about = {"scope": meta["scope"], "occurred_at": meta["occurred_at"] if _in_range(meta["occurred_at"]) else None}
    calls: State = {"tool_calls": [], "tool_call_id": call_id}
    state["messages"].append({"id": meta["event_id"], "role": role} | said | calls | about | {"redacted_by": None})


def _message_appended(state: State, meta: Event, event: Event) -> str | None:
    if _find_message(state, meta["event_id"]) is not None:
        return "message_exists"
    _add_message(state, meta, event, event["role"], event["tool_call_id"])
    return None


def _message_redacted(state: State, meta: Event, event: Event) -> str | None:
    message = _find_message(state, event["message_id"])
    if message is None:
        return "message_unknown"
    if message["redacted_by"] is not None:
        return "message_redacted"
    message.update(content=None, parts=None, redacted_by=meta["event_id"])
    for call in state["tool_calls"].values():
        if call["result_id"] == message["id"]:
            call.update(result=None, result_parts=None)
    return None


def _fact_set(state: State, meta: Event, event: Event) -> str | None:
    if not (_in_range(event["valid_from"]) and _in_range(event["valid_to"]) and _in_range(event["expires_at"])):
        return "out_of_range"
    fact = {name: event[name] for name in ("value", "valid_from", "valid_to", "expires_at")}
    state["facts"][event["key"]] = fact | {"scope": meta["scope"], "event_id": meta["event_id"]}
    return None


def _fact_removed(state: State, meta: Event, event: Event) -> str | None:
    if event["key"] not in state["facts"]:
        return "fact_unknown"
    del state["facts"][event["key"]]
    return None


def _tool_called(state: State, meta: Event, event: Event) -> str | None:
    if not _in_range(event["lease_expires_at"]):
        return "out_of_range"
    message = None
    if event["message_id"] is not None:
        message = _find_message(state, event["message_id"])
        if message is None:
            return "message_unknown"
    lease = None
    if event["lease_expires_at"] is not None:
        lease = {"event_id": meta["event_id"], "expires_at": event["lease_expires_at"]}
    open_again = {"status": "open", "result": None, "result_parts": None, "result_id": None, "lease": lease}

    call = state["tool_calls"].get(event["call_id"])
    if call is None:
        asked = {name: event[name] for name in ("name", "arguments", "message_id", "source_id", "idempotency_key")}
        state["tool_calls"][event["call_id"]] = asked | {"scope": meta["scope"]} | open_again
        if message is not None:
            message["tool_calls"].append(event["call_id"])
        return None
    same_key = event["idempotency_key"] is not None and event["idempotency_key"] == call["idempotency_key"]
    same_call = event["name"] == call["name"] and event["arguments"] == call["arguments"]
    if same_key and same_call and call["status"] in ("open", "failed"):
        call.update(open_again)
        return None
    return "call_exists"


def _tool_returned(state: State, meta: Event, event: Event) -> str | None:
    call = state["tool_calls"].get(event["call_id"])
    if call is None:
        return "call_unknown"
    if call["status"] != "open":
        return "call_settled"
    if _find_message(state, meta["event_id"]) is not None:
        return "message_exists"
    call["status"] = "failed" if event["failed"] else "returned"
    call.update(result=event["content"], result_parts=event["parts"], result_id=meta["event_id"], lease=None)
    _add_message(state, meta, event, "tool", event["call_id"])
    return None


def _nothing(state: State, meta: Event, event: Event) -> None:
    """Kept for the record; the context does not change."""


def _stream_forked(state: State, meta: Event, event: Event) -> str | None:
    if state["version"] != 1:
        return "not_first"
    if event["parent_version"] < 0 or event["parent_version"] > TIME_MAX:
        return "out_of_range"
    state["parent"] = {name: event["parent_" + name] for name in ("stream_id", "version", "chain_head")}
    return None


def _stream_closed(state: State, meta: Event, event: Event) -> str | None:
    if state["closed"]:
        return "already_closed"
    state["closed"] = True
    return None


EFFECTS: dict[str, tuple[str | None, str, Any]] = {
    "ctxlog.MessageAppended": (None, "", _message_appended),
    "ctxlog.MessageRedacted": ("message", "message_id", _message_redacted),
    "ctxlog.FactSet": ("fact", "key", _fact_set),
    "ctxlog.FactRemoved": ("fact", "key", _fact_removed),
    "ctxlog.ToolCalled": ("call", "call_id", _tool_called),
    "ctxlog.ToolReturned": ("call", "call_id", _tool_returned),
    "ctxlog.ContextRead": (None, "", _nothing),
    "ctxlog.DecisionRecorded": (None, "", _nothing),
    "ctxlog.ExtensionRecorded": (None, "", _nothing),
    "ctxlog.StreamForked": (None, "", _stream_forked),
    "ctxlog.StreamClosed": (None, "", _stream_closed),
}
"""Type -> kind of its target (None: it must be null), the field that names the target, and what it does."""

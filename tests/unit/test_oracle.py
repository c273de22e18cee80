"""Pin the oracle itself: examples whose expected values were worked out by hand from the two reference pages.

The oracle judges the library, so nothing of the library judges the oracle. Digests were computed with `printf` and `sha256sum`.
"""

import json
from typing import Any

import pytest

from oracle import (
    Arbitrated,
    BrokenFork,
    NewerEvent,
    OracleRecord,
    arbitrate,
    canonical,
    chain0,
    chain_heads,
    empty_state,
    fold,
    record_digest,
    state_digest,
    undecodable_digest,
)

H0 = "8192ec6c4c9e58cb3239930178dedf8e597a2b39f75e2957939baa904279e468"
H1 = "ffa9badeeb546c3e8289e21995efdec08883443b3ff1c031be41a1d718353373"
H2 = "9b0e62846191e9702aa825cf90c60115ad0168dbd5dfeb861c6878cc4d393c74"
"""Chain of the stream 's' over the record digests 01…01 and 02…02."""

TOO_LATE = 2**53


def rec(
    event_id: str,
    type_: str = "ExtensionRecorded",
    *,
    append: tuple[str, int, int] | None = None,
    target: str | None = None,
    expected: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
    refused: str | None = None,
    readable: bool = True,
    **payload: Any,
) -> OracleRecord:
    """A record without offset; `log` gives it one."""
    groups = {
        "append": None if append is None else dict(zip(("id", "index", "count"), append, strict=True)),
        "precondition": None
        if expected is None
        else {"expected_version": None, "expected_head": None, "expected_target_version": None} | expected,
    }
    base = {"event_id": event_id, "stream_id": "s", "occurred_at": 7, "scope": "default", "target": target}
    type_ = type_ if "." in type_ else "ctxlog." + type_
    return OracleRecord(-1, type_, base | groups | (meta or {}), payload, b"", refused, readable)


def log(*records: OracleRecord) -> list[OracleRecord]:
    """Offsets 10, 11, … and digests 01…01, 02…02, … in the order of the log."""
    return [
        OracleRecord(10 + n, r.type, r.meta, r.payload, bytes([n % 255 + 1]) * 32, r.refused, r.readable)
        for n, r in enumerate(records)
    ]


def outcomes(arbitrated: Arbitrated) -> list[str]:
    """In log order; an accepted record shows as its version."""
    return [str(version) if outcome == "accepted" else outcome for outcome, version in arbitrated.decisions.values()]


def decide(*records: OracleRecord, **limits: int) -> list[str]:
    return outcomes(arbitrate("s", log(*records), **limits))


def folded(*records: OracleRecord) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """State and (version, reason) of each anomaly."""
    arbitrated = arbitrate("s", log(*records))
    assert all(outcome == "accepted" for outcome, _ in arbitrated.decisions.values())
    state, anomalies = fold("s", arbitrated.accepted)
    return state, [(anomaly["version"], anomaly["reason"]) for anomaly in anomalies]


def message(event_id: str, content: str | None = "hi", **more: Any) -> OracleRecord:
    said = {"role": "user", "content": content, "parts": None, "name": None, "tool_call_id": None}
    return rec(event_id, "MessageAppended", **(said | more))


def redact(event_id: str, message_id: str) -> OracleRecord:
    return rec(event_id, "MessageRedacted", target="message:" + message_id, message_id=message_id, reason=None)


def fact(event_id: str, key: str, value: str = "1", **times: int) -> OracleRecord:
    bounds = {"valid_from": None, "valid_to": None, "expires_at": None}
    return rec(event_id, "FactSet", target="fact:" + key, key=key, value=value, **(bounds | times))


def unset(event_id: str, key: str) -> OracleRecord:
    return rec(event_id, "FactRemoved", target="fact:" + key, key=key)


def call(event_id: str, call_id: str, **more: Any) -> OracleRecord:
    asked = {"call_id": call_id, "message_id": None, "name": "search", "arguments": "{}", "source_id": None}
    claim = {"idempotency_key": None, "lease_expires_at": None}
    return rec(event_id, "ToolCalled", target="call:" + call_id, **(asked | claim | more))


def result(event_id: str, call_id: str, failed: bool = False) -> OracleRecord:
    """With both content and parts: no writer of ours does that, and the fold must not care."""
    said = {"call_id": call_id, "failed": failed, "content": "42", "parts": "[]", "name": None}
    return rec(event_id, "ToolReturned", target="call:" + call_id, **said)


def fork(event_id: str, parent: str = "p", version: int = 0, head: str = "") -> OracleRecord:
    return rec(event_id, "StreamForked", parent_stream_id=parent, parent_version=version, parent_chain_head=head)


# Digests


def test_digests_are_over_prefixed_bytes_and_null_is_not_empty():
    """P(b) is a 4-byte big-endian length and b; P(null) is FFFFFFFF."""
    schema = b"\x05" * 32
    assert record_digest(schema, b"s", b"hi").hex() == "8fe01fb1953237fdf395e9fafbdcf97be82451ab5e971df51208b7c31359ff0c"
    assert record_digest(schema, None, b"").hex() == "c1c9444dcfb45386778dc2cd26dc1c674f3e90f7bae92b1232af8bb9b26b2332"
    assert undecodable_digest(b"s", b"hi").hex() == "991783679bef102297395ca65b4ebde18c57e8f51cd75011c28212857d67cd98"
    assert undecodable_digest(None, None).hex() == "9def0fa72f2e47121f76669bb34e840056e33b7cb205287c2e7b765bf6ff0a07"


def test_chain_head_hashes_raw_digests_of_the_accepted_events():
    """H(n) = SHA-256(H(n-1) ‖ record digest); rejected records leave no trace in it."""
    assert chain0("s").hex() == H0
    assert chain_heads("s", [b"\x01" * 32, b"\x02" * 32]) == [H0, H1, H2]
    accepted = arbitrate("s", log(rec("a"), rec("b"), rec("a")))
    assert (accepted.heads, accepted.head) == ([H0, H1, H2], H2)


def test_state_before_the_first_event_is_empty_and_has_a_digest():
    """Every member is present; keys are sorted by UTF-16 code units, so an astral key comes before U+E000."""
    assert state_digest(empty_state("s")) == "b41bfe3d5232a9d0a9663440119a0b155e532636006db69c42840cc4a50ede14"
    assert fold("s", [])[0] == empty_state("s")
    assert canonical({"\ue000": 1, "\U0001f600": None}) == '{"\U0001f600":null,"\ue000":1}'.encode()


# Arbitration


def test_append_takes_effect_whole_where_its_last_missing_index_is_read():
    """Consecutive versions in index order, at the position of the completing record; what came in between comes first."""
    records = log(rec("b", append=("a", 1, 2)), rec("x"), rec("a", append=("a", 0, 2)))
    arbitrated = arbitrate("s", records)
    assert outcomes(arbitrated) == ["3", "1", "2"]
    effects = [(version, offset, record.meta["event_id"]) for version, offset, record in arbitrated.accepted]
    assert effects == [(1, 11, "x"), (2, 12, "a"), (3, 12, "b")]


def test_append_that_lacks_an_index_stays_held():
    assert decide(rec("a", append=("a", 0, 3)), rec("c", append=("a", 2, 3))) == ["held", "held"]


@pytest.mark.parametrize(
    "record",
    [
        rec("a", append=("a", 0, 0)),
        rec("a", append=("a", 0, 1001)),
        rec("b", append=("a", 2, 2)),
        rec("b", append=("a", -1, 2)),
        rec("b", append=("a", 0, 2)),
        rec("b", append=("a", 1, 2), expected={"expected_version": 0}),
        rec("b", append=("a", 1, 2), expected={"expected_head": H0}),
        rec("b", expected={"expected_target_version": 0}),
    ],
)
def test_append_that_cannot_be_is_malformed(record: OracleRecord):
    """And decides nothing: the same ids are accepted later."""
    assert decide(record, rec("a"), rec("b")) == ["malformed", "1", "2"]


def test_count_that_differs_from_the_open_append_is_malformed_before_it_is_a_duplicate():
    """A record that stands alone has count 1, also where its id is that of an open append."""
    first = rec("b", append=("a", 1, 2))
    assert decide(first, rec("b", append=("a", 1, 3)), rec("a"), rec("c", append=("a", 1, 2))) == [
        "held",
        "malformed",
        "malformed",
        "duplicate",
    ]


def test_largest_append_is_well_formed():
    records = [rec(str(index), append=("0", index, 1000)) for index in range(1000)]
    assert decide(*records) == [str(version) for version in range(1, 1001)]


def test_copies_of_decided_events_and_appends_are_duplicates():
    """Also a new event in an append that was decided, a decided event in a new append, and what was decided as a conflict."""
    pair = [rec("a", append=("a", 0, 2)), rec("b", append=("a", 1, 2))]
    stale = rec("c", expected={"expected_version": 0})
    late, old = rec("d", append=("a", 1, 2)), rec("a", append=("e", 1, 2))
    expected = ["1", "2", "duplicate", "duplicate", "conflict", "duplicate", "duplicate", "duplicate"]
    assert decide(*pair, *pair, stale, rec("c"), late, old) == expected


def test_id_that_is_only_held_is_no_duplicate_and_the_append_that_completes_later_conflicts():
    """Held ids are not decided; "decided meanwhile" makes a conflict of the whole append."""
    records = [rec("b", append=("a", 1, 2)), rec("b"), rec("a", append=("a", 0, 2)), rec("a")]
    assert decide(*records) == ["conflict", "1", "conflict", "duplicate"]


def test_id_that_stands_twice_in_its_append_is_a_conflict():
    assert decide(rec("a", append=("a", 0, 2)), rec("a", append=("a", 1, 2))) == ["conflict", "conflict"]


def test_expected_version_and_head_are_judged_where_the_append_completes():
    """Against the state before the append; heads are compared as text, so upper-case hex does not hold."""
    first, second = rec("a", append=("a", 0, 2), expected={"expected_version": 1}), rec("b", append=("a", 1, 2))
    assert decide(first, rec("x"), second) == ["2", "1", "3"]
    assert decide(first, second) == ["conflict", "conflict"]
    assert decide(rec("a"), rec("b", expected={"expected_version": 1, "expected_head": H1})) == ["1", "2"]
    assert decide(rec("a", expected={"expected_head": H0}), rec("b", expected={"expected_head": H1.upper()})) == ["1", "conflict"]


def test_expected_target_version_is_that_of_the_targets_last_accepted_event():
    """0 for none. Each record of an append is judged against the state before the append."""
    zero, one = {"expected_target_version": 0}, {"expected_target_version": 1}
    records = [
        rec("a", target="fact:k", expected=zero),
        rec("b", target="fact:k", expected=zero),
        rec("c", append=("c", 0, 2), target="fact:k", expected=one),
        rec("d", append=("c", 1, 2), target="fact:k", expected=one),
        rec("e", target="fact:other", expected=zero),
    ]
    arbitrated = arbitrate("s", log(*records))
    assert outcomes(arbitrated) == ["1", "conflict", "2", "3", "4"]
    assert arbitrated.targets == {"fact:k": 3, "fact:other": 4}


def test_opening_one_append_too_many_abandons_the_one_opened_earliest():
    """Its ids are decided: append id, then held events. A count of 1 never counts as open, an open append may go on."""
    opened = [rec(f"{n}b", append=(f"{n}a", 1, 3)) for n in range(3)]
    more = [rec("x"), rec("1c", append=("1a", 2, 3)), opened[2], rec("0b"), rec("0a"), rec("y")]
    expected = ["abandoned", "held", "1", "held", "held", "duplicate", "duplicate", "2"]
    assert decide(*opened[:2], *more, open_appends_max=2) == expected
    assert decide(*[rec(f"{n}b", append=(f"{n}a", 1, 2)) for n in range(65)]) == ["abandoned"] + ["held"] * 64


def test_decided_ids_are_forgotten_oldest_first_and_a_duplicate_refreshes_nothing():
    records = [rec("a"), rec("b"), rec("a"), rec("c"), rec("b"), rec("a")]
    assert decide(*records, decided_ids_max=2) == ["1", "2", "duplicate", "3", "duplicate", "4"]


def test_id_that_is_decided_again_keeps_its_place():
    """Append `c` conflicts because `b` was decided meanwhile; then the ids are b, c, and `d` pushes `b` out."""
    records = [rec("b", append=("c", 1, 2)), rec("b"), rec("c", append=("c", 0, 2)), rec("d"), rec("c"), rec("b")]
    assert decide(*records, decided_ids_max=2) == ["conflict", "1", "conflict", "2", "duplicate", "3"]


def test_refused_records_decide_nothing():
    nothing = OracleRecord(-1, "", None, None, b"", "undecodable")
    assert decide(nothing, rec("a", refused="misplaced"), rec("a")) == ["undecodable", "misplaced", "1"]


# Fold


def test_message_shows_with_its_redaction_and_second_redaction_is_an_anomaly():
    """A time that is not a safe integer becomes null where it is the writer's clock."""
    first = message("m", meta={"occurred_at": TOO_LATE, "scope": "private"})
    state, anomalies = folded(first, redact("r", "m"), redact("q", "m"), redact("z", "nope"))
    shown = {"id": "m", "role": "user", "content": None, "parts": None, "name": None, "tool_calls": [], "tool_call_id": None}
    assert state["messages"] == [shown | {"scope": "private", "occurred_at": None, "redacted_by": "r"}]
    assert anomalies == [(3, "message_redacted"), (4, "message_unknown")]
    assert state["version"] == 4


def test_fact_is_replaced_removed_and_refused_out_of_range():
    """The limit itself, 2^53 - 1, is in range."""
    late = fact("c", "k", expires_at=TOO_LATE)
    first = fact("a", "k", "1", valid_from=-(2**53 - 1), expires_at=2**53 - 1)
    others = [fact("f", "k", valid_from=-TOO_LATE), fact("g", "k", valid_to=TOO_LATE)]
    state, anomalies = folded(first, fact("b", "j", ""), late, unset("d", "j"), unset("e", "j"), *others)
    bounds = {"valid_from": -(2**53 - 1), "valid_to": None, "expires_at": 2**53 - 1}
    assert state["facts"] == {"k": {"value": "1", "scope": "default", "event_id": "a"} | bounds}
    assert anomalies == [(3, "out_of_range"), (5, "fact_unknown"), (6, "out_of_range"), (7, "out_of_range")]


def test_call_and_result_show_as_call_and_as_message():
    """The asking message lists the call; the result is a message of role tool and ends the lease; its redaction reaches both."""
    asked = call("c", "k", message_id="m", source_id="toolu", idempotency_key="once", lease_expires_at=9)
    known = {"name": "search", "arguments": "{}", "message_id": "m", "source_id": "toolu", "idempotency_key": "once"}
    state, _ = folded(message("m"), asked)
    nothing_yet = {"result": None, "result_parts": None, "result_id": None}
    lease = {"event_id": "c", "expires_at": 9}
    assert state["tool_calls"] == {"k": known | nothing_yet | {"status": "open", "lease": lease, "scope": "default"}}
    assert state["messages"][0]["tool_calls"] == ["k"]

    state, _ = folded(message("m"), asked, result("r", "k", failed=True))
    settled = {"result": "42", "result_parts": "[]", "result_id": "r", "status": "failed", "lease": None, "scope": "default"}
    assert state["tool_calls"] == {"k": known | settled}
    answer = {"id": "r", "role": "tool", "content": "42", "parts": "[]", "name": None, "tool_calls": [], "tool_call_id": "k"}
    assert state["messages"][1] == answer | {"scope": "default", "occurred_at": 7, "redacted_by": None}

    state, _ = folded(message("m"), asked, result("r", "k"), redact("x", "r"))
    assert state["tool_calls"] == {"k": known | settled | {"status": "returned", "result": None, "result_parts": None}}


def test_failed_call_is_taken_over_and_returned_one_is_not():
    """Nothing but status, results and lease changes; what it takes is the same key, name and arguments."""
    again = call("d", "k", idempotency_key="once", source_id="other", lease_expires_at=9, meta={"scope": "private"})
    state, anomalies = folded(call("c", "k", idempotency_key="once"), result("r", "k", failed=True), again)
    assert anomalies == []
    taken = {"status": "open", "result": None, "result_parts": None, "result_id": None}
    first = {"name": "search", "arguments": "{}", "message_id": None, "source_id": None, "idempotency_key": "once"}
    assert state["tool_calls"]["k"] == first | taken | {"scope": "default", "lease": {"event_id": "d", "expires_at": 9}}
    assert [entry["id"] for entry in state["messages"]] == ["r"]
    assert folded(call("c", "k", idempotency_key="once"), result("r", "k"), again)[1] == [(3, "call_exists")]
    for other in ({"idempotency_key": None}, {"idempotency_key": "x"}, {"name": "x"}, {"arguments": "x"}):
        second = call("d", "k", **({"idempotency_key": "once"} | other))
        assert folded(call("c", "k", idempotency_key="once"), second)[1] == [(2, "call_exists")]
    assert folded(call("c", "k"), call("d", "k"))[1] == [(2, "call_exists")]
    leased = call("c", "k", idempotency_key="once", lease_expires_at=9)
    assert folded(leased, call("d", "k", idempotency_key="once"))[0]["tool_calls"]["k"]["lease"] is None


def test_checks_of_tool_events_are_made_in_the_order_of_the_page():
    """out_of_range, message_unknown, call_exists; call_unknown, call_settled."""
    bad = call("b", "k", lease_expires_at=-TOO_LATE, message_id="nope")
    unasked = call("c", "k", message_id="nope")
    more = [result("d", "nope"), result("e", "k"), result("f", "k")]
    state, anomalies = folded(call("a", "k"), bad, unasked, *more)
    assert anomalies == [(2, "out_of_range"), (3, "message_unknown"), (4, "call_unknown"), (6, "call_settled")]
    assert [entry["id"] for entry in state["messages"]] == ["e"]


def test_event_whose_target_disagrees_with_its_payload_has_no_effect_but_counts():
    """Unreadable comes before the target, the target before everything else; anomalies name version, event and type."""
    wrong = [fact("a", "k"), message("b"), call("c", "k", lease_expires_at=TOO_LATE), rec("d", readable=False)]
    for record, target in zip(wrong, ("fact:K", "message:b", None, "x"), strict=True):
        record.meta["target"] = target
    state, anomalies = fold("s", arbitrate("s", log(*wrong)).accepted)
    assert [(entry["event_id"], entry["reason"]) for entry in anomalies] == [
        ("a", "target_mismatch"),
        ("b", "target_mismatch"),
        ("c", "target_mismatch"),
        ("d", "unreadable"),
    ]
    assert anomalies[0] == {"version": 1, "event_id": "a", "type": "ctxlog.FactSet", "reason": "target_mismatch"}
    assert state == empty_state("s") | {"version": 4, "chain_head": state["chain_head"]}


def test_foreign_type_has_no_effect_and_newer_type_ends_the_fold():
    """The states before the newer event can still be read."""
    accepted = arbitrate("s", log(rec("a", "org.example.Thing"), rec("b", "ctxlog.FactMerged"))).accepted
    assert fold("s", accepted[:1]) == (empty_state("s") | {"version": 1, "chain_head": H1}, [])
    with pytest.raises(NewerEvent) as caught:
        fold("s", accepted)
    assert caught.value.version == 2


def test_close_counts_once_and_later_events_still_take_effect():
    state, anomalies = folded(rec("a", "StreamClosed", reason=None), rec("b", "StreamClosed", reason=None), message("m"))
    assert (state["closed"], len(state["messages"]), anomalies) == (True, 1, [(2, "already_closed")])


def test_fork_goes_on_from_its_parent_and_leaves_the_parent_alone():
    """Messages, facts and calls come along; stream_id, version, chain_head and closed are the fork's own."""
    parent = fold("p", arbitrate("p", log(message("m"), fact("f", "k"), call("c", "j"))).accepted)[0] | {"closed": True}
    before = json.dumps(parent)
    child = log(fork("x", "p", 3, parent["chain_head"]), message("m"), result("m", "j"), redact("r", "m"), unset("u", "k"))
    accepted = [(version, record.offset, record) for version, record in enumerate(child, 1)]
    state, anomalies = fold("s", accepted, parent)
    assert state["parent"] == {"stream_id": "p", "version": 3, "chain_head": parent["chain_head"]}
    assert (state["stream_id"], state["version"], state["closed"], state["facts"]) == ("s", 5, False, {})
    assert [(entry["id"], entry["redacted_by"]) for entry in state["messages"]] == [("m", "r")]
    assert [entry["reason"] for entry in anomalies] == ["message_exists", "message_exists"]
    assert state["tool_calls"]["j"]["status"] == "open"
    assert json.dumps(parent) == before
    with pytest.raises(BrokenFork):
        fold("s", accepted, parent | {"chain_head": H0})


def test_fork_has_effect_as_version_one_only():
    """not_first is judged before out_of_range; a fork without effect has no parent."""
    state, anomalies = folded(fork("a", version=-1), fork("b", version=TOO_LATE), fork("c"))
    assert (state["parent"], anomalies) == (None, [(1, "out_of_range"), (2, "not_first"), (3, "not_first")])
    assert folded(fork("a", version=TOO_LATE))[1] == [(1, "out_of_range")]
    assert folded(fork("a", "p", 0, "head"))[0]["parent"] == {"stream_id": "p", "version": 0, "chain_head": "head"}

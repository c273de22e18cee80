"""Who set what, and what led to it; against a list of what was done."""

from __future__ import annotations

import pytest

from ctxlog import ContextLog
from ctxlog.audit.blame import CAUSES_MAX, Blame, Change, blame
from ctxlog.errors import PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.points import Latest
from ctxlog.replay.replayer import Replayer
from unit.lineages import STREAMS, forked_play


@pytest.fixture
def log() -> ContextLog:
    return ContextLog(MemoryLog(3))


def told(found: Blame) -> list[tuple[str, str | None, str, int]]:
    return [(change.change, change.value, change.event.stream_id, change.event.version) for change in found.history]


def test_a_fact_tells_who_set_it_and_what_it_was_before(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    ctx.set_fact("limit", 100, actor="person:ada")
    ctx.set_fact("other", 1)
    ctx.remove_fact("limit")
    last = ctx.set_fact("limit", 200, actor="tool:shop", occurred_at=7, expires_at=9).event_id
    found = blame(log.replayer, "refunds/1", "limit")
    assert (found.kind, found.key, found.version, found.also, found.causes) == ("fact", "limit", 4, (), ())
    assert told(found) == [
        ("set", "100", "refunds/1", 1),
        ("removed", None, "refunds/1", 3),
        ("set", "200", "refunds/1", 4),
    ]
    assert found.last is not None
    event = found.last.event
    assert (event.event_id, event.actor, event.occurred_at) == (last, "tool:shop", 7)
    assert found.last.expires_at == 9
    assert event.recorded_at == ctx.replay().manifest.recorded_at
    short = blame(log.replayer, "refunds/1", "limit", last=1)
    assert (told(short), short.left_out, short.last) == ([("set", "200", "refunds/1", 4)], 2, found.last)


def test_what_had_no_effect_is_told_and_blamed_for_nothing(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    ctx.remove_fact("limit")
    assert blame(log.replayer, "refunds/1", "limit").last is None
    ctx.set_fact("limit", 1)
    ctx.remove_fact("other")
    ctx.remove_fact("limit")
    ctx.remove_fact("limit")
    found = blame(log.replayer, "refunds/1", "fact:limit")
    assert [change.no_effect for change in found.history] == ["fact_unknown", None, None, "fact_unknown"]
    assert found.last == found.history[2]


def test_of_a_fork_the_parents_events_count_up_to_where_they_part(log: ContextLog) -> None:
    parent = log.context("refunds/1")
    parent.set_fact("limit", 1)
    parent.set_fact("limit", 2)
    child = parent.fork("refunds/2", at=1)
    grandchild = child.fork("refunds/3")
    parent.set_fact("limit", 3)
    child.set_fact("limit", 4)
    grandchild.set_fact("limit", 5)
    assert told(blame(log.replayer, "refunds/3", "limit")) == [
        ("set", "1", "refunds/1", 1),
        ("set", "5", "refunds/3", 2),
    ]
    assert told(blame(log.replayer, "refunds/2", "limit"))[1] == ("set", "4", "refunds/2", 2)
    untouched = blame(log.replayer, "refunds/1", "limit")
    assert [value for _, value, _, _ in told(untouched)] == ["1", "2", "3"]


def test_messages_and_calls_have_a_history_too(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    ctx.add_message("user", "my card is 4711", event_ids=["m1"])
    ctx.add_tool_call("pay", {"sum": 1}, event_ids=["c1"])
    ctx.add_tool_result("c1", "timeout", failed=True, event_ids=["r1"])
    ctx.redact_message("m1", reason="asked for")
    said = blame(log.replayer, "refunds/1", "m1")
    assert told(said) == [("said", "[redacted]", "refunds/1", 1), ("redacted", "asked for", "refunds/1", 4)]
    called = blame(log.replayer, "refunds/1", "call:c1")
    assert told(called) == [("called", 'pay({"sum": 1})', "refunds/1", 2), ("failed", "timeout", "refunds/1", 3)]
    assert blame(log.replayer, "refunds/1", "call:c1").history == called.history
    ctx.redact_message("r1")
    assert blame(log.replayer, "refunds/1", "call:c1").history[1].value == "[redacted]"
    ctx.redact_message("r1")
    assert told(blame(log.replayer, "refunds/1", "message:r1"))[:1] == [("said", "[redacted]", "refunds/1", 3)]


def test_a_bare_key_is_a_fact_before_it_is_anything_else(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    ctx.set_fact("pay", 1)
    ctx.tool_once("pay", {}, run=lambda _: "paid", key="pay")
    ctx.set_fact("call:pay", 2)
    found = blame(log.replayer, "refunds/1", "pay")
    assert (found.kind, found.also) == ("fact", ("call",))
    found = blame(log.replayer, "refunds/1", "call:pay")
    assert (found.kind, found.key, found.also) == ("call", "pay", ("fact",))
    assert blame(log.replayer, "refunds/1", "fact:call:pay").history[0].value == "2"
    with pytest.raises(PointError, match="no fact, message or call 'nothing' up to version 4"):
        blame(log.replayer, "refunds/1", "nothing")


def test_causes_are_followed_from_event_to_decision_to_the_decision_around_it(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    with log.decision("plan", agent="planner") as outer, log.decision("refund", agent="refunds") as inner:
        message = ctx.add_message("assistant", "I set it.").event_id
    ctx.set_fact("limit", 1, causation_id=message)
    ctx.set_fact("limit", 2, causation_id="elsewhere")
    found = blame(log.replayer, "refunds/1", "limit")
    assert [(cause.id, cause.found) for cause in found.causes] == [("elsewhere", "unknown")]
    ctx.set_fact("limit", 3, causation_id=message)
    found = blame(log.replayer, "refunds/1", "limit")
    assert [(cause.id, cause.found, cause.what) for cause in found.causes] == [
        (message, "event", "ctxlog.MessageAppended"),
        (inner.id, "decision", "refund"),
        (outer.id, "decision", "plan"),
    ]
    assert blame(log.replayer, "refunds/1", f"message:{message}").history[0].decision == "refund"


def test_causes_that_lead_in_a_circle_or_too_far_end(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    for number in range(CAUSES_MAX + 5):
        ctx.set_fact("n", number, event_ids=[f"e{number}"], causation_id=f"e{number - 1}")
    assert len(blame(log.replayer, "refunds/1", "n").causes) == CAUSES_MAX
    ctx.set_fact("m", 1, event_ids=["x"], causation_id="y")
    ctx.set_fact("m", 2, event_ids=["y"], causation_id="x")
    assert [cause.id for cause in blame(log.replayer, "refunds/1", "m").causes] == ["x", "y"]


def test_what_a_newer_or_hostile_writer_wrote_about_a_key_changes_nothing(log: ContextLog) -> None:
    """A target that disagrees with the payload makes an event an anomaly."""
    from writing import raw

    log.context("refunds/1").set_fact("limit", 1)
    log.log.append([
        raw(log.log, "refunds/1", "FactSet", "a", key="other", target="fact:limit"),
        raw(log.log, "refunds/1", "FactSet", "b", key="limit", target="fact:other"),
        raw(log.log, "refunds/1", "FactSet", "c", key="limit", expires_at=2**60),
    ])  # fmt: skip
    found = blame(log.replayer, "refunds/1", "limit")
    assert [(change.event.event_id, change.no_effect) for change in found.history[1:]] == [
        ("a", "target_mismatch"),
        ("c", "out_of_range"),
    ]
    assert found.last == found.history[0]


@pytest.mark.parametrize("seed", range(25))
def test_whoever_is_blamed_is_who_the_state_says(seed: int) -> None:
    """Forks of forks whose ids, keys and calls collide, half of it without effect."""
    play = forked_play(seed)
    replayer = Replayer(play.log)
    for stream_id in STREAMS:
        state = replayer.replay(stream_id, Latest()).state
        for key in ("k", "l"):
            fact = state.facts.get(key)
            last = last_change(replayer, stream_id, f"fact:{key}")
            if fact is None:
                assert last is None or last.change == "removed"
            else:
                assert last is not None
                assert (last.change, last.value, last.event.event_id) == ("set", fact.value, fact.event_id)
        for call_id, call in state.tool_calls.items():
            last = last_change(replayer, stream_id, f"call:{call_id}")
            assert last is not None
            assert last.change == {"open": last.change, "returned": "returned", "failed": "failed"}[call.status]
            assert (call.status == "open") == (last.change in ("called", "taken over"))
            assert last.event.event_id == (call.result_id or last.event.event_id)
        for message in state.messages:
            last = last_change(replayer, stream_id, f"message:{message.id}")
            assert last is not None
            assert last.event.event_id == (message.redacted_by or message.id)


def last_change(replayer: Replayer, stream_id: str, key: str) -> Change | None:
    try:
        return blame(replayer, stream_id, key).last
    except PointError:
        return None

"""An audit shows what a decision was given, as it was given; and decisions are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from ctxlog import ContextLog
from ctxlog.audit.auditing import audit_decision, audit_event
from ctxlog.audit.decisions import Wanted, find_decisions
from ctxlog.audit.report import AuditReport
from ctxlog.errors import PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import DecisionRecorded, ToolCalled
from ctxlog.model.selection import Window
from ctxlog.replay.copying import copy_log
from ctxlog.replay.replayer import Replayer
from unit.deciding_plays import Made, Play
from unit.forging import forged, honest
from unit.test_core_against_oracle import plays, state_by_oracle
from writing import raw


def shown(report: AuditReport) -> list[tuple[Any, ...]]:
    """What a report says that each read gave."""
    return [
        (
            read.stream_id,
            read.version,
            read.chain_head,
            list(read.released.messages),
            read.released.facts,
            read.released.tool_calls,
        )
        for read in report.reads
        if read.released is not None
    ]


def given_by(made: Made) -> list[tuple[Any, ...]]:
    """What its reads returned at the time."""
    return [
        (seen.stream_id, seen.version, seen.chain_head, list(seen.messages), seen.facts, seen.tool_calls) for seen, _ in made.seen
    ]


# What was given


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_what_an_audit_shows_is_what_the_reads_returned(seed: int) -> None:
    play = Play(seed).run()
    for made in play.made:
        report = audit_decision(play.backend, made.decision.id)
        assert report.verdict.startswith("verified: "), report.verdict
        assert shown(report) == given_by(made)
        assert [call.call_id for call in report.calls] == list(dict.fromkeys(made.calls))


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_what_changed_in_between_is_what_others_wrote_in_between(seed: int) -> None:
    play = Play(seed).run()
    listed = {one.decision_id: one for one in find_decisions(play.log.replayer)}
    assert len(listed) == len(play.made)
    for made in play.made:
        expected = play.newer(made)
        assert listed[made.decision.id].newer == expected
        report = audit_decision(play.backend, made.decision.id)
        newest = {read.stream_id: read for read in sorted(report.reads, key=lambda read: read.version)}
        assert {name: read.newer.events for name, read in newest.items() if read.newer.events} == expected
        assert report.stale == listed[made.decision.id].stale == bool(expected)


@settings(max_examples=8)
@given(st.integers(0, 2**32))
def test_a_copy_is_audited_like_its_source(seed: int) -> None:
    play = Play(seed).run()
    target = MemoryLog(2)
    copy_log(play.backend, target)
    for made in play.made:
        one, other = (audit_decision(log, made.decision.id) for log in (play.backend, target))
        assert other.verdict == one.verdict
        assert shown(other) == shown(one)
        assert [read.newer.events for read in other.reads] == [read.newer.events for read in one.reads]
        assert [event.event_id for event in other.effects] == [event.event_id for event in one.effects]


def test_more_ids_than_a_record_holds_are_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.model.reads.IDS_BYTES_MAX", 100)
    log = ContextLog(MemoryLog())
    ctx = log.context("refunds/1")
    for number in range(7):
        ctx.add_message("user", str(number))
    with log.decision("refund", agent="refunds") as decision:
        decision.read(ctx, max_messages=6)
    report = audit_decision(log.log, decision.id)
    (read,) = report.reads
    assert len(read.records) > 1
    assert read.released is not None
    assert [message.content for message in read.released.messages] == list("123456")
    assert report.failed == ()


def read_once(log: ContextLog, stream_id: str, **asked: Any) -> tuple[AuditReport, Window]:
    """The audit of a decision that reads a part of a context, and what the read returned."""
    with log.decision("refund", agent="refunds") as decision:
        window = decision.read(log.context(stream_id), **asked)
    return audit_decision(log.log, decision.id), window


def test_a_call_whose_result_was_kept_back_is_shown_without_it() -> None:
    log = ContextLog(MemoryLog())
    ctx = log.context("refunds/1")
    asking = ctx.add_message("assistant", "I look it up.").event_id
    call = ctx.add_tool_call("look", {}, message_id=asking).event_id
    ctx.add_tool_result(call, "secret", scope="internal")
    report, window = read_once(log, "refunds/1", scopes=["default"])
    assert report.failed == ()
    (read,) = report.reads
    assert read.released is not None
    assert read.released.tool_calls[call].status == "returned"
    assert read.released.tool_calls[call].result is None
    assert read.released.tool_calls == window.tool_calls


def test_ids_that_stand_for_two_things_are_told_apart() -> None:
    """A call may be called what a message is called, and a fork's fact may have been set by an id that its parent knows."""
    log = ContextLog(MemoryLog())
    ctx = log.context("refunds/1")
    ctx.add_message("user", "one", event_ids=["m1"])
    ctx.add_message("user", "two", event_ids=["m2"])
    fork = ctx.fork("refunds/2")
    fork.set_fact("limit", 1, event_ids=["m2"])
    fork.add_message("assistant", "I look it up.", event_ids=["m3"])
    fork.append(ToolCalled(call_id="m1", name="look", arguments="{}", message_id="m3"))
    for asked, said in (({"max_messages": 1}, ["m3"]), ({"fact_prefixes": []}, ["m1", "m2", "m3"]), ({"max_messages": 0}, [])):
        report, window = read_once(log, "refunds/2", **asked)
        assert report.failed == ()
        (read,) = report.reads
        assert read.released is not None
        assert [message.id for message in read.released.messages] == said
        assert (read.released.facts, read.released.tool_calls) == (window.facts, window.tool_calls)


def test_a_call_that_is_called_as_its_message_is_and_was_kept_back_is_not_shown() -> None:
    log = ContextLog(MemoryLog())
    ctx = log.context("refunds/1")
    ctx.add_message("assistant", "I look it up.", event_ids=["m1"])
    ctx.append(ToolCalled(call_id="m1", name="look", arguments="{}", message_id="m1"), scope="legal")
    fork = ctx.fork("refunds/2")
    fork.set_fact("limit", 1, event_ids=["m1"], expires_at=5)
    report, window = read_once(log, "refunds/2", scopes=["default"])
    assert report.failed == ()
    (read,) = report.reads
    assert read.released is not None
    assert (read.released.facts, read.released.tool_calls) == (window.facts, window.tool_calls) == ({}, {})


def test_each_entry_names_the_events_that_made_it_what_it_was() -> None:
    log = ContextLog(MemoryLog())
    parent = log.context("refunds/0")
    fact = parent.set_fact("limit", 1).event_id
    parent.add_tool_call("look", {}, event_ids=["c0"])
    ctx = parent.fork("refunds/1")
    parent.set_fact("limit", 2)
    parent.add_tool_result("c0", "found there")
    call = ctx.add_tool_call("look", {}, event_ids=["c1"]).event_id
    with log.decision("refund", agent="refunds") as decision:
        early = ctx.state
        result = ctx.add_tool_result(call, "found").event_id
        late = ctx.state
    first, second = audit_decision(log.log, decision.id).reads
    assert (first.version, second.version) == (early.version, late.version)
    assert first.sources.keys() == {fact}
    assert second.sources.keys() == {fact, result}
    assert (first.sources[fact].stream_id, first.sources[fact].version) == ("refunds/0", 1)
    assert [event.event_id for event in first.calls["c0"]] == ["c0"]
    assert [event.event_id for event in first.calls[call]] == [call]
    assert [event.event_id for event in second.calls[call]] == [call, result]


def test_in_one_partition_the_order_of_the_log_counts_and_not_its_clock() -> None:
    log = ContextLog(MemoryLog(clock=lambda: 1_700_000_000_000))
    other, ctx = ContextLog(log.log).context("refunds/1"), log.context("refunds/1")
    ctx.set_fact("limit", 1)
    with log.decision("refund", agent="refunds") as decision:
        decision.read(ctx)
        other.set_fact("limit", 2)
    other.set_fact("limit", 3)
    (read,) = audit_decision(log.log, decision.id).reads
    assert (read.newer.events, read.newer.by_clock, read.newer.outdated_ms) == (1, False, 0)
    assert [one.newer for one in find_decisions(log.replayer)] == [{"refunds/1": 1}]


def test_what_was_redacted_since_is_shown_as_it_was_given_and_said() -> None:
    log = ContextLog(MemoryLog())
    ctx = log.context("refunds/1")
    message = ctx.add_message("user", "my card is 4711").event_id
    with log.decision("refund", agent="refunds") as decision:
        decision.read(ctx)
    redaction = ctx.redact_message(message).event_id
    (read,) = audit_decision(log.log, decision.id).reads
    assert read.released is not None
    assert read.released.messages[0].content == "my card is 4711"
    assert [event.event_id for event in read.redacted_since] == [redaction]
    assert (read.newer.events, read.sources[message].version) == (0, 1)


# Without a recorded decision


def test_an_event_without_a_decision_shows_what_was_available_before_it() -> None:
    log, _, _ = honest()
    ctx = log.context("refunds/1")
    call = ctx.add_tool_call("pay", {"order": "W-204"})
    ctx.add_tool_result(call.event_id, "paid")
    report = audit_event(log.log, "refunds/1", 7)
    assert report.verdict.startswith("verified: reads not recorded")
    assert report.notes == ("Reads not recorded; everything below was available.",)
    (read,) = report.reads
    assert read.released is not None
    before = ctx.replay(6).state
    assert (read.version, read.chain_head, read.selection) == (6, before.chain_head, None)
    assert (list(read.released.messages), read.released.facts) == (list(before.messages), before.facts)
    assert [(one.name, one.status, one.result) for one in report.calls] == [("pay", "returned", "paid")]
    with pytest.raises(PointError, match="no event made version 99"):
        audit_event(log.log, "refunds/1", 99)
    with pytest.raises(PointError, match="no event made version 0"):
        audit_event(log.log, "refunds/1", 0)


@settings(max_examples=15)
@given(plays())
def test_every_event_of_every_history_can_be_audited_and_shows_the_state_before_it(play: Any) -> None:
    """Histories that careless writers send, against the naive oracle."""
    for stream_id, told in play.told.items():
        for version in range(1, len(oracle.arbitrate(stream_id, told).accepted) + 1):
            report = audit_event(play.log, stream_id, version)
            expected = state_by_oracle(play, stream_id, version - 1)
            if expected is None:
                assert report.verdict.startswith("NOT VERIFIED: ")
                continue
            assert report.failed == ()
            (read,) = report.reads
            assert read.released is not None
            assert read.released.to_dict() == {name: expected[name] for name in ("messages", "facts", "tool_calls")}
    list(find_decisions(Replayer(play.log)))


def test_an_event_that_a_decision_caused_shows_the_decision() -> None:
    log, _, _ = honest()
    ctx = log.context("refunds/1")
    with log.decision("refund", agent="refunds") as decision:
        ctx.add_tool_call("pay", {})
    report = audit_event(log.log, "refunds/1", ctx.version)
    assert report.decision is not None
    assert report.decision["decision_id"] == decision.id
    assert report.asked_for is not None
    assert report.asked_for.version == ctx.version
    itself = audit_decision(log.log, decision.id)
    assert audit_event(log.log, "decisions/refunds", 3) == itself
    assert itself.record.version == 3
    first = audit_event(log.log, "decisions/refunds", 1)
    assert first.decision is not None
    assert first.decision["reads"] == [first.asked_for.event_id if first.asked_for else None]


def test_an_agent_that_was_killed_leaves_what_it_had_read_before_it_acted() -> None:
    log, _, _ = honest()
    ctx = log.context("refunds/1")
    decision = log.decision("refund", agent="refunds")
    decision.__enter__()
    window = decision.read(ctx, max_messages=1)
    ctx.add_tool_call("pay", {})
    decision.read(ctx)
    ctx.add_message("assistant", "Paid.")
    decision._ended = True  # It is killed here.
    report = audit_event(log.log, "refunds/1", 7)
    assert (report.decision, report.reads_recorded) == (None, True)
    assert report.failed == ()
    assert f"The decision {decision.id} is not in the log" in report.notes[0]
    (read,) = report.reads
    assert read.released is not None
    assert list(read.released.messages) == list(window.messages)
    assert len(audit_event(log.log, "refunds/1", 8).reads) == 2


def test_a_decision_whose_event_has_the_id_of_another_decision_is_not_taken_for_it() -> None:
    log, _, _ = honest()
    ctx = log.context("refunds/1")
    with log.decision("refund", agent="refunds") as decision:
        ctx.add_tool_call("pay", {})
    for agent in ("a", "z"):  # Before and behind it, as streams are gone through.
        log.context(f"decisions/{agent}").append(
            DecisionRecorded(decision_id=f"of-{agent}", kind="forged"), event_ids=[decision.id]
        )
    found = audit_event(log.log, "refunds/1", ctx.version).decision
    assert found is not None
    assert (found["decision_id"], found["kind"]) == (decision.id, "refund")


# Calls


def test_calls_are_found_in_streams_that_were_not_read_and_whatever_the_clocks_say() -> None:
    clock = iter(range(1_800_000_000_000, 1_900_000_000_000, 10_000_000))  # Hours lie between two appends.
    log = ContextLog(MemoryLog(3, clock=lambda: next(clock)))
    other = log.context("payments/1")
    with log.decision("refund", agent="refunds") as decision:
        call = other.add_tool_call("pay", {"sum": 1}).event_id
    log.context("payments/2").add_message("user", "later")
    report = audit_decision(log.log, decision.id)
    assert report.failed == ()
    assert [(one.call_id, one.stream_id, one.status) for one in report.calls] == [(call, "payments/1", "open")]


def test_of_calls_with_one_id_those_of_the_decision_are_meant() -> None:
    log = ContextLog(MemoryLog())
    for number in range(3):
        log.context(f"payments/{number}").tool_once("pay", {}, run=lambda _: "before", key="k")
    with log.decision("refund", agent="refunds") as decision:
        decision.read(log.context("payments/1"))
        log.context("payments/9").tool_once("pay", {}, run=lambda _: "inside", key="k")
    report = audit_decision(log.log, decision.id)
    assert [(one.stream_id, one.result) for one in report.calls] == [("payments/9", "inside")]


def test_a_call_that_nothing_leads_to_is_looked_for_in_the_whole_log() -> None:
    log, _, _ = honest()
    call = log.context("payments/1").add_tool_call("pay", {}).event_id
    log.context("decisions/a").append(DecisionRecorded(decision_id="d", kind="k", tool_calls=(call,)))
    report = audit_decision(log.log, "d")
    assert report.failed == ()
    assert [(one.call_id, one.stream_id) for one in report.calls] == [(call, "payments/1")]


# Lists


def test_decisions_are_listed_in_their_order_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(7).run(decisions=6)
    whole = [one.to_dict() for one in find_decisions(play.log.replayer)]
    assert [one["recorded_at"] for one in whole] == sorted(one["recorded_at"] for one in whole)
    assert [one["decision_id"] for one in whole] == [made.decision.id for made in play.made]
    monkeypatch.setattr("ctxlog.audit.decisions.BATCH_DECISIONS", 2)
    assert [one.to_dict() for one in find_decisions(play.log.replayer)] == whole


@pytest.mark.parametrize("seed", range(4))
def test_decisions_are_found_by_what_they_read_touched_and_belong_to(seed: int) -> None:
    play = Play(seed).run(decisions=8)

    def found(**wanted: Any) -> list[str]:
        return [one.decision_id for one in find_decisions(play.log.replayer, Wanted(**wanted))]

    def those(rule: Callable[[Made], bool]) -> list[str]:
        return [made.decision.id for made in play.made if rule(made)]

    assert found(agent="other") == those(lambda made: made.agent == "other")
    assert found(stale=True) == those(lambda made: bool(play.newer(made)))
    for stream_id in ("refunds/1", "shared/policy"):
        touched = {did.inside[0] for did in play.did if did.stream_id == stream_id and did.inside}
        assert found(stream=stream_id) == those(
            lambda made: made.decision.id in touched or any(seen.given.stream_id == stream_id for seen in made.seen)  # noqa: B023
        )
    times = [one.recorded_at for one in find_decisions(play.log.replayer)]
    assert len(found(since_us=times[3] * 1000)) == len(times) - 3
    with play.log.decision("refund", agent="refunds", correlation_id="case-7") as decision:
        pass
    assert found(correlation="case-7") == [decision.id]


def test_a_list_says_how_many_reads_are_missing() -> None:
    log, _, _ = honest()
    log.context("decisions/a").append(DecisionRecorded(decision_id="d", kind="k", reads=("none", "none", "neither")))
    assert [one.reads_missing for one in find_decisions(log.replayer, Wanted(agent="a"))] == [2]


def test_records_that_no_reader_takes_are_told() -> None:
    log, read, stream = honest()
    backend = log.log
    record = raw(backend, "refunds/1", "FactSet", "f9")
    backend.append([record, record, record._replace(value=record.value[:-1])])
    forged(log, read, stream)
    notes = audit_decision(backend, "forged").notes
    assert notes == ("refunds/1: records that do not count: 1 undecodable; `ctxlog log --rejected` shows them.",)

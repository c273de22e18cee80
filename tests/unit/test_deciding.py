"""What a decision records: what was read inside it, before what was done about it, and what came of it."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import rfc8785

from ctxlog import ContextLog
from ctxlog.errors import ConflictError, InvalidInputError, StorageError
from ctxlog.log.memory import MemoryLog


@pytest.fixture
def log() -> ContextLog:
    return ContextLog(MemoryLog(3))


def events(log: ContextLog, stream_id: str = "decisions/refunds") -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Type, meta and payload of what a stream holds."""
    return [
        (one.event.type.removeprefix("ctxlog."), one.event.meta, one.event.payload) for one in log.context(stream_id).accepted()
    ]


def reads(log: ContextLog) -> Iterator[dict[str, Any]]:
    return (payload for kind, _, payload in events(log) if kind == "ContextRead")


def digest(state: dict[str, Any], messages: list[str], facts: list[str], calls: list[str]) -> str:
    """The digest as the docs define it, from a replayed state."""
    selected = {
        **{name: state[name] for name in ("stream_id", "version", "chain_head")},
        "messages": [message for message in state["messages"] if message["id"] in messages],
        "facts": {key: fact for key, fact in state["facts"].items() if key in facts},
        "tool_calls": {key: call for key, call in state["tool_calls"].items() if key in calls},
    }
    return hashlib.sha256(rfc8785.dumps(selected)).hexdigest()


def test_a_decision_records_what_was_read_and_what_came_of_it(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    ctx.add_message("user", "1")
    message = ctx.add_message("user", "2").event_id
    fact = ctx.set_fact("order.total", 130).event_id
    ctx.set_fact("mood", "good")
    with log.decision("refund", agent="refunds", model="m", parameters={"temperature": 0}) as decision:
        window = decision.read(ctx, max_messages=1, fact_prefixes=["order."])
        decision.outcome = {"refund": 130}
        decision.rationale = "below the limit"
        assert decision.outcome == {"refund": 130}
    assert [one.content for one in window.messages] == ["2"]
    (kind, read_meta, read), (last, meta, recorded) = events(log)
    assert (kind, last) == ("ContextRead", "DecisionRecorded")
    assert read["selection"] == '{"fact_prefixes": ["order."], "max_messages": 1}'
    assert read["decision_id"] == decision.id == recorded["decision_id"] == meta["event_id"]
    (stream,) = read["streams"]
    assert (stream["stream_id"], stream["version"], stream["chain_head"]) == ("refunds/1", 4, ctx.chain_head)
    assert (stream["revealed"], stream["withheld"]) == ([message, fact], [])
    assert (read["token_counter"], read["token_counter_version"], read["judged_at"]) == ("characters/4", "1", window.judged_at)
    state = ctx.replay(f"decision:{decision.id}").state.to_dict()
    assert read["selection_digest"] == digest(state, [message], ["order.total"], [])
    assert recorded["reads"] == [read_meta["event_id"]]
    assert (recorded["kind"], recorded["model"], recorded["parameters"]) == ("refund", "m", '{"temperature": 0}')
    assert (recorded["outcome"], recorded["rationale"]) == ('{"refund": 130}', "below the limit")
    assert (recorded["failed"], recorded["failure"], recorded["tool_calls"]) == (False, None, [])
    assert recorded["started_at"] <= read["judged_at"] <= recorded["ended_at"]


def test_reads_by_the_ordinary_api_are_recorded_too(log: ContextLog) -> None:
    one, other = log.context("refunds/1"), log.context("shared/prices")
    call = one.add_tool_call("look", {}).event_id
    other.set_fact("price", 1)
    other.set_fact("price", 2)
    with log.decision("refund", agent="refunds"):
        one.state  # noqa: B018
        one.state  # noqa: B018 - the same again is no other read.
        other.replay(1)
        other.window(max_messages=3)
        other.resume()
        one.version  # noqa: B018 - how far it is says nothing of what it holds.
    found = list(reads(log))
    assert [(read["streams"][0]["stream_id"], read["streams"][0]["version"]) for read in found] == [
        ("refunds/1", 1),
        ("shared/prices", 1),
        ("shared/prices", 2),
        ("shared/prices", 2),
    ]
    assert [read["selection"] for read in found] == ['{"all": true}', '{"all": true}', '{"max_messages": 3}', '{"all": true}']
    assert found[0]["selection_digest"] == digest(one.state.to_dict(), [], [], [call])
    assert found[0]["token_counter"] is None


def test_what_was_kept_back_is_named_and_a_span_of_time_is_recorded_by_its_beginning(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    ctx.add_message("user", "long ago", occurred_at=1)
    secret = ctx.add_message("user", "secret", scope="internal").event_id
    shown = ctx.add_message("user", "shown").event_id
    expired = ctx.set_fact("limit", 1, expires_at=5).event_id
    call = ctx.add_tool_call("look", {}).event_id
    answer = ctx.add_tool_result(call, "found").event_id
    with log.decision("refund", agent="refunds") as decision:
        window = decision.read(ctx, scopes=["default"], last="2d")
    (read,) = reads(log)
    assert read["streams"][0]["revealed"] == [shown, answer, call]
    assert read["streams"][0]["withheld"] == [secret, expired]
    assert json.loads(read["selection"]) == {"occurred_from": window.judged_at - 2 * 86_400_000_000, "scopes": ["default"]}


def test_more_ids_than_a_record_holds_take_several_reads(log: ContextLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.model.reads.IDS_BYTES_MAX", 100)
    ctx = log.context("refunds/1")
    ids = [ctx.add_message("user", str(number)).event_id for number in range(7)]
    with log.decision("refund", agent="refunds") as decision:
        decision.read(ctx)
    found = [read["streams"][0] for read in reads(log)]
    assert [len(stream["revealed"]) for stream in found] == [2, 2, 2, 1]
    assert [one for stream in found for one in stream["revealed"]] == ids
    assert len(events(log)[-1][2]["reads"]) == 4
    assert ctx.replay(f"decision:{decision.id}").state.version == 7


def test_outside_of_a_decision_nothing_is_recorded(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    with log.decision("refund", agent="refunds") as decision:
        pass
    ctx.state  # noqa: B018
    ctx.add_message("user", "hello")
    with pytest.raises(InvalidInputError, match="inside of its `with` statement"):
        decision.read(ctx)
    assert [kind for kind, *_ in events(log)] == ["DecisionRecorded"]
    assert events(log, "refunds/1")[0][1]["trace"] is None


def test_what_was_read_is_in_the_log_before_what_was_done_about_it() -> None:
    """In one partition, where order between streams can be seen."""
    log = ContextLog(MemoryLog())
    ctx = log.context("refunds/1")
    with log.decision("refund", agent="refunds", correlation_id="ticket-7") as decision:
        ctx.state  # noqa: B018
        call = ctx.add_tool_call("pay", {}).event_id
        ctx.add_tool_result(call, "paid")
        ctx.append_each([(_message("done"), {})])
        ctx.window()
    appended = sorted(
        (one.event.offset, one.event.type.removeprefix("ctxlog."))
        for name in ("refunds/1", "decisions/refunds")
        for one in log.context(name).accepted()
    )
    assert [kind for _, kind in appended] == [
        "ContextRead",
        "ToolCalled",
        "ToolReturned",
        "MessageAppended",
        "ContextRead",
        "DecisionRecorded",
    ]
    assert events(log)[-1][2]["tool_calls"] == [call]
    traces = [meta["trace"] for _, meta, _ in events(log, "refunds/1")]
    assert traces == [{"causation_id": decision.id, "correlation_id": "ticket-7"}] * 3
    assert {meta["trace"]["correlation_id"] for _, meta, _ in events(log)} == {"ticket-7"}


def _message(text: str) -> Any:
    from ctxlog.model.events import MessageAppended

    return MessageAppended(role="assistant", content=text)


def test_an_error_inside_is_recorded_by_its_type_and_goes_on(log: ContextLog) -> None:
    ctx = log.context("refunds/1")

    def fail() -> None:
        with log.decision("refund", agent="refunds"):
            ctx.state  # noqa: B018
            raise ZeroDivisionError("secret")

    with pytest.raises(ZeroDivisionError):
        fail()
    (_, _, read), (_, _, recorded) = events(log)
    assert (recorded["failed"], recorded["failure"], read["decision_id"]) == (True, "ZeroDivisionError", recorded["decision_id"])
    assert "secret" not in str(events(log))


def test_decisions_inside_decisions_keep_their_own_reads(log: ContextLog) -> None:
    one, other = log.context("refunds/1"), log.context("refunds/2")
    with log.decision("outer", agent="refunds", correlation_id="c") as outer:
        one.state  # noqa: B018
        with log.decision("inner", agent="risk") as inner:
            outer.read(one, max_messages=1)
            other.state  # noqa: B018
            message = other.add_message("user", "x").event_id
        one.window()
    assert [read["streams"][0]["stream_id"] for read in reads(log)] == ["refunds/1"] * 3
    (_, _, read), (_, meta, recorded) = events(log, "decisions/risk")
    assert (read["streams"][0]["stream_id"], recorded["decision_id"]) == ("refunds/2", inner.id)
    assert meta["trace"] == {"causation_id": outer.id, "correlation_id": "c"}
    (_, written, _) = events(log, "refunds/2")[0]
    assert (written["event_id"], written["trace"]["causation_id"]) == (message, inner.id)


def test_threads_and_tasks_decide_each_on_their_own(log: ContextLog) -> None:
    ctx = log.context("refunds/1")

    async def decide(number: int) -> None:
        with log.decision(f"task {number}", agent=f"a{number}"):
            await asyncio.sleep(0)
            ctx.add_message("user", str(number))
            await asyncio.to_thread(ctx.window)

    async def all_of_them() -> None:
        await asyncio.gather(*(decide(number) for number in range(3)))

    asyncio.run(all_of_them())
    with log.decision("main", agent="refunds"):
        thread = threading.Thread(target=lambda: ctx.state)
        thread.start()
        thread.join()
    assert [kind for kind, *_ in events(log)] == ["DecisionRecorded"]  # A bare thread begins with no decision.
    for number in range(3):
        assert [kind for kind, *_ in events(log, f"decisions/a{number}")] == ["ContextRead", "DecisionRecorded"]


def test_a_call_that_was_refused_is_not_named(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    with log.decision("refund", agent="refunds"):
        with pytest.raises(ConflictError):
            ctx.add_tool_call("pay", {}, expected_version=7)
        begun = ctx.add_tool_call("pay", {}).event_id
    assert events(log)[-1][2]["tool_calls"] == [begun]


def test_a_decision_may_end_in_another_context_than_it_began_in(log: ContextLog) -> None:
    """As generators do that a framework drives."""

    def deciding() -> Iterator[None]:
        with log.decision("refund", agent="refunds"):
            yield

    generator = deciding()
    contextvars.copy_context().run(next, generator)
    assert contextvars.copy_context().run(next, generator, "ended") == "ended"
    assert [kind for kind, *_ in events(log)] == ["DecisionRecorded"]


def test_who_outlives_a_decision_has_no_part_in_it(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    with log.decision("refund", agent="refunds"):
        inside = contextvars.copy_context()
    inside.run(lambda: ctx.state)
    inside.run(lambda: ctx.add_message("user", "later"))
    assert events(log, "refunds/1")[0][1]["trace"] is None


def test_a_read_that_comes_while_others_are_appended_is_not_lost() -> None:
    class Slow(MemoryLog):
        def append(self, records: Any) -> Any:
            done = super().append(records)
            if any(record.key == b"decisions/refunds" for record in records) and meanwhile:
                meanwhile.pop()()
            return done

    meanwhile: list[Any] = []
    log = ContextLog(Slow())
    one, other = log.context("refunds/1"), log.context("refunds/2")
    with log.decision("warm up", agent="refunds"):
        one.window()
    with log.decision("refund", agent="refunds") as decision:
        one.window()
        meanwhile.append(other.window)
        one.add_message("user", "x")
    recorded = events(log)[-1][2]
    assert recorded["decision_id"] == decision.id
    assert set(recorded["reads"]) <= {meta["event_id"] for kind, meta, _ in events(log) if kind == "ContextRead"}
    assert len(recorded["reads"]) >= 1
    noted = [read["streams"][0]["stream_id"] for read in reads(log)]
    assert noted == ["refunds/1", "refunds/1"] or "refunds/2" in noted


def test_another_log_is_another_matter(log: ContextLog) -> None:
    other = ContextLog(MemoryLog())
    with log.decision("refund", agent="refunds") as decision:
        other.context("refunds/1").state  # noqa: B018
        other.context("refunds/1").add_message("user", "x")
        with pytest.raises(InvalidInputError, match="another log"):
            decision.read(other.context("refunds/1"))
    assert [kind for kind, *_ in events(log)] == ["DecisionRecorded"]
    assert events(other, "refunds/1")[0][1]["trace"] is None


def test_what_json_cannot_carry_is_refused_where_it_is_set(log: ContextLog) -> None:
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        log.decision("refund", agent="refunds", parameters={"x": object()})
    with pytest.raises(InvalidInputError, match="agent id"):
        log.decision("refund", agent="a/b")
    for wrong in ({"model": 5}, {"correlation_id": "two\nlines"}, {"kind": None}):
        with pytest.raises(InvalidInputError):
            log.decision(**{"kind": "refund", "agent": "refunds", **wrong})  # type: ignore[arg-type]
    with log.decision("refund", agent="refunds") as decision:
        with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
            decision.outcome = object()
        decision.outcome = "kept"
    assert events(log)[-1][2]["outcome"] == '"kept"'
    with pytest.raises(InvalidInputError, match="begun already"), decision:
        pass


class Failing(MemoryLog):
    """A log that takes nothing more."""

    def append(self, records: Any) -> Any:
        if getattr(self, "full", False):
            raise StorageError("the disk is full")
        return super().append(records)


def test_a_decision_that_cannot_be_recorded_is_heard_of() -> None:
    backend = Failing()
    log = ContextLog(backend)
    with log.decision("refund", agent="refunds"):
        log.context("a/1").state  # noqa: B018
    with pytest.raises(StorageError), log.decision("refund", agent="refunds"):
        backend.full = True  # type: ignore[attr-defined]
    backend.full = False  # type: ignore[attr-defined]
    decision = log.decision("refund", agent="refunds")
    backend.full = True  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError) as failed, decision:
        raise ZeroDivisionError
    assert "is not recorded" in failed.value.__notes__[0]

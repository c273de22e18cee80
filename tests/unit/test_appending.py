"""What an append writes, what it comes to, and what it refuses: the promises of section "Writing" as a caller meets them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.errors import (
    AbandonedError,
    ConflictError,
    IndeterminateError,
    InvalidInputError,
    LogOpenError,
    RecordTooLargeError,
)
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import ExtensionRecorded, FactRemoved, FactSet, MessageAppended
from ctxlog.model.outcomes import Acknowledged, Committed
from ctxlog.model.records import CONTROL_KEY, MAX_RECORD_BYTES
from ctxlog.replay.snapshots import SnapshotStore
from writing import LosesAnswers, ShowsLate, Wrapped, expecting, group, raw

HI = MessageAppended(role="user", content="hi")
SET = FactSet(key="limit", value="5")


def records(log: ContextLog) -> int:
    """How many records of streams the log holds."""
    backend = log.log
    return sum(
        record.key != CONTROL_KEY
        for partition in range(backend.partitions)
        for record in backend.read(partition, 0, backend.bounds(partition).end)
    )


def metas(context: Context) -> list[dict[str, Any]]:
    return [entry.meta for entry in context.history()]


# What is written


def test_each_method_writes_one_event_with_the_target_that_it_changes(log: ContextLog) -> None:
    context = log.context("refunds/case-1")
    message = context.add_message("user", "hello").event_id
    context.set_fact("limit", 5)
    context.remove_fact("limit")
    call = context.add_tool_call("pay", {"to": "x"}, message_id=message).event_id
    context.add_tool_result(call, "done")
    context.redact_message(message)
    context.close(reason="over")
    found = [(entry.type, entry.meta["target"], entry.outcome) for entry in context.history()]
    assert found == [
        ("ctxlog.MessageAppended", None, "accepted"),
        ("ctxlog.FactSet", "fact:limit", "accepted"),
        ("ctxlog.FactRemoved", "fact:limit", "accepted"),
        ("ctxlog.ToolCalled", f"call:{call}", "accepted"),
        ("ctxlog.ToolReturned", f"call:{call}", "accepted"),
        ("ctxlog.MessageRedacted", f"message:{message}", "accepted"),
        ("ctxlog.StreamClosed", None, "accepted"),
    ]
    assert context.replay().anomalies == ()


def test_a_plain_append_writes_no_group_no_precondition_and_no_trace(log: ContextLog) -> None:
    """Each absent group costs a byte; each present one costs every reader time."""
    context = log.context("refunds/case-1")
    context.add_message("user", "hello")
    (meta,) = metas(context)
    assert (meta["agent_id"], meta["actor"], meta["scope"]) == ("refunds", "agent:refunds", "default")
    assert [meta[name] for name in ("append", "precondition", "trace", "privacy", "target")] == [None] * 5


@pytest.mark.parametrize(
    ("stream_id", "agent", "actor"),
    [
        ("refunds/case-1", "refunds", "agent:refunds"),
        ("refunds", "refunds", "agent:refunds"),
        ("decisions/refunds", "refunds", "agent:refunds"),
        ("shared/plan", None, "system:ctxlog"),
    ],
)
def test_owner_and_actor_come_from_the_name_of_the_stream(log: ContextLog, stream_id: str, agent: str | None, actor: str) -> None:
    context = log.context(stream_id)
    context.add_message("user", "x")
    (meta,) = metas(context)
    assert (meta["agent_id"], meta["actor"]) == (agent, actor)


def test_owner_and_actor_that_are_given_are_written_and_an_option_beats_them(log: ContextLog) -> None:
    context = log.context("shared/plan", agent_id="planner", actor="person:ann")
    context.add_message("user", "x")
    context.add_message("user", "y", actor="tool:search")
    assert [(meta["agent_id"], meta["actor"]) for meta in metas(context)] == [
        ("planner", "person:ann"),
        ("planner", "tool:search"),
    ]


def test_options_are_written_into_meta(log: ContextLog) -> None:
    context = log.context("a/b")
    context.add_message(
        "user",
        "x",
        scope="private",
        occurred_at=datetime(2026, 11, 22, 14, 2, 0, 5, tzinfo=UTC),
        causation_id="cause",
        event_ids=["mine"],
    )
    context.add_message("user", "y", occurred_at=None, correlation_id="case")
    context.add_message("user", "z", occurred_at=-1)
    first, second, third = metas(context)
    assert (first["event_id"], first["scope"], first["occurred_at"]) == ("mine", "private", 1_795_356_120_000_005)
    assert first["trace"] == {"causation_id": "cause", "correlation_id": None}
    assert (second["occurred_at"], third["occurred_at"]) == (None, -1)
    assert second["trace"] == {"causation_id": None, "correlation_id": "case"}


def test_a_group_is_one_append_whose_id_is_that_of_its_first_event(log: ContextLog) -> None:
    context = log.context("a/b")
    done = context.append([HI, SET], expected_version=0, expected_targets={"fact:limit": 0})
    assert isinstance(done, Committed)
    assert done.version == 2
    first, second = metas(context)
    assert first["append"] == group(done.event_id, 0, 2)
    assert second["append"] == group(done.event_id, 1, 2)
    assert first["precondition"] == expecting(expected_version=0)
    assert second["precondition"] == expecting(expected_target_version=0)


# Outcomes


def test_an_append_without_precondition_is_acknowledged_and_one_with_a_precondition_is_committed(log: ContextLog) -> None:
    context = log.context("a/b")
    first = context.append(HI)
    assert isinstance(first, Acknowledged)
    second = context.append(HI, expected_version=1)
    assert isinstance(second, Committed)
    assert second.version == 2
    assert second.position.offset == first.position.offset + 1
    assert context.replay().manifest.position == second.position


def test_the_id_of_the_first_event_is_at_hand_from_either_outcome(log: ContextLog) -> None:
    context = log.context("a/b")
    assert context.append(HI, event_ids=["m1"]).event_id == "m1"
    assert context.append([HI, HI], event_ids=["m2", "m3"]).event_id == "m2"


@pytest.mark.parametrize("options", [{"expected_version": 0}, {"expected_version": 2}, {"expected_head": "0" * 64}])
def test_a_precondition_that_does_not_hold_is_a_conflict_that_says_where_the_log_is(
    log: ContextLog, options: dict[str, Any]
) -> None:
    context = log.context("a/b")
    context.append(HI)
    with pytest.raises(ConflictError) as caught:
        context.append([HI, SET], **options)
    assert caught.value.actual == 1
    assert caught.value.stream_id == "a/b"
    assert caught.value.position == "0@5", "where the last record of the group stands"
    assert context.version == 1
    assert context.state.facts == {}


def test_an_expected_head_holds_only_for_the_very_history_that_the_writer_saw(log: ContextLog) -> None:
    context = log.context("a/b")
    context.append(HI)
    head = context.chain_head
    assert context.append(HI, expected_head=head).version == 2  # type: ignore[union-attr]
    with pytest.raises(ConflictError):
        context.append(HI, expected_head=head)


def test_writers_of_different_targets_do_not_disturb_each_other(log: ContextLog) -> None:
    context = log.context("a/b")
    context.set_fact("limit", 5)
    context.set_fact("other", 1)
    context.set_fact("limit", 6, expected_targets={"fact:limit": 1})
    with pytest.raises(ConflictError, match="fact:limit at version 1, log is at 3"):
        context.set_fact("limit", 7, expected_targets={"fact:limit": 1})
    assert context.state.facts["limit"].value == "6"


def test_one_failed_precondition_of_a_group_leaves_nothing_of_it(log: ContextLog) -> None:
    context = log.context("a/b")
    context.set_fact("limit", 1)
    with pytest.raises(ConflictError):
        context.append([HI, FactSet(key="new", value="1"), SET], expected_targets={"fact:limit": 0})
    assert context.version == 1
    assert [entry.outcome for entry in context.history()] == ["accepted", "conflict", "conflict", "conflict"]


def test_the_same_ids_again_come_to_the_same_outcome_and_change_nothing(log: ContextLog) -> None:
    """A caller that died after its append can append again; the first copy decides."""
    context = log.context("a/b")
    context.append(HI)
    done = context.append([HI, SET], expected_version=1, event_ids=["x", "y"])
    context.append(HI)
    again = context.append([HI, SET], expected_version=1, event_ids=["x", "y"])
    assert again == done
    assert context.version == 4


def test_the_same_ids_again_after_a_conflict_are_a_conflict_again(log: ContextLog) -> None:
    """After a conflict a retry takes new ids: these were decided."""
    context = log.context("a/b")
    for _ in range(2):
        with pytest.raises(ConflictError):
            context.append(HI, expected_version=1, event_ids=["x"])
        context.append(HI)
    assert context.version == 2


def test_a_group_with_an_id_that_another_append_used_is_no_success(log: ContextLog) -> None:
    """The id that was accepted alone says nothing about the group."""
    context = log.context("a/b")
    context.append(HI, event_ids=["x"])
    for ids in (["x", "y"], ["z", "x"]):
        with pytest.raises(ConflictError):
            context.append([HI, SET], event_ids=ids)
    assert context.version == 1


def test_append_each_decides_each_event_on_its_own(log: ContextLog) -> None:
    context = log.context("a/b")
    context.append(HI, event_ids=["known"])
    done = context.append_each([(HI, {"event_ids": ["known"]}), (SET, {}), (HI, {"scope": "private"})])
    assert len(done.event_ids) == 3
    assert [entry.outcome for entry in context.history()] == ["accepted", "duplicate", "accepted", "accepted"]
    assert [entry.meta["append"] for entry in context.history()] == [None] * 4


def test_append_each_refuses_preconditions_and_nothing_at_all(log: ContextLog) -> None:
    context = log.context("a/b")
    with pytest.raises(InvalidInputError, match="no preconditions"):
        context.append_each([(HI, {}), (HI, {"expected_version": 0})])
    with pytest.raises(InvalidInputError, match="at least 1"):
        context.append_each([])
    assert records(log) == 0


# Outcomes that cannot be known


@pytest.fixture
def losing() -> LosesAnswers:
    return LosesAnswers(MemoryLog(3))


@pytest.mark.parametrize("fate", ["before", "half", "after"])
@pytest.mark.parametrize("batch", [[HI], [HI, SET, HI]], ids=["one", "group"])
def test_resolve_finds_out_what_became_of_an_append(losing: LosesAnswers, fate: str, batch: list[Any]) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        context.append(HI)
        losing.fates = [fate]
        with pytest.raises(IndeterminateError) as caught:
            context.append(batch, expected_version=1)
        assert len(caught.value.records) == len(batch)
        done = log.resolve(caught.value)
        assert done.version == context.version == 1 + len(batch)
        assert log.resolve(caught.value) == done
        assert context.version == 1 + len(batch)


def test_resolve_of_an_append_that_lost_is_a_conflict_also_where_it_was_written(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log, ContextLog(losing.inner) as other:
        for fate in ("before", "after"):
            context = log.context(f"a/{fate}")
            losing.fates = [fate]
            if fate == "after":
                other.context(f"a/{fate}").append(HI)
            with pytest.raises(IndeterminateError) as caught:
                context.append(SET, expected_version=0)
            if fate == "before":
                other.context(f"a/{fate}").append(HI)
            with pytest.raises(ConflictError) as conflict:
                log.resolve(caught.value)
            assert conflict.value.actual == 1
            assert context.version == 1


def test_resolve_itself_may_remain_without_an_answer(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        losing.fates = ["half", "after"]
        with pytest.raises(IndeterminateError) as first:
            context.append([HI, SET])
        with pytest.raises(IndeterminateError) as second:
            log.resolve(first.value)
        assert second.value.records == first.value.records
        assert log.resolve(second.value).version == 2


def test_an_unconditional_append_is_resolved_too(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        for number, fate in enumerate(("before", "after"), 1):
            losing.fates = [fate]
            with pytest.raises(IndeterminateError) as caught:
                context.append(HI)
            assert not caught.value.conditional
            assert log.resolve(caught.value).version == number


@pytest.mark.parametrize("fates", [["before"], ["half"], ["after"], ["half", "half"]])
def test_what_append_each_sent_is_resolved_as_separate_events(losing: LosesAnswers, fates: list[str]) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        losing.fates = list(fates)
        with pytest.raises(IndeterminateError) as caught:
            context.append_each([(HI, {}), (SET, {}), (HI, {})])
        error = caught.value
        for _ in fates[1:]:
            with pytest.raises(IndeterminateError) as again:
                log.resolve(error)
            error = again.value
        assert log.resolve(error).version == 3
        assert context.version == 3


def test_an_append_that_64_others_pushed_out_says_so(losing: LosesAnswers) -> None:
    with ContextLog(losing) as log:
        context = log.context("a/b")
        context.append([HI, SET])
        losing.fates = ["half"]
        with pytest.raises(IndeterminateError) as caught:
            context.append([HI, SET])
        for number in range(64):
            losing.append([raw(losing, "a/b", "FactSet", f"o{number}", append=group(f"o{number}", 0, 2))])
        with pytest.raises(AbandonedError):
            log.resolve(caught.value)
        assert context.version == 2


def test_errors_of_outcomes_survive_pickling(losing: LosesAnswers) -> None:
    """Pools of processes send exceptions through pickle."""
    import pickle

    with ContextLog(losing) as log:
        losing.fates = ["after"]
        with pytest.raises(IndeterminateError) as caught:
            log.context("a/b").append(HI)
        assert log.resolve(pickle.loads(pickle.dumps(caught.value))).version == 1  # noqa: S301


# Reading what was written


def test_a_second_handle_sees_what_the_first_appended_and_the_other_way_round(folder: Any) -> None:
    with ContextLog.open(f"embedded:{folder}") as one, ContextLog.open(f"embedded:{folder}") as two:
        for number in range(5):
            writer, reader = (one, two) if number % 2 else (two, one)
            writer.context("a/b").append(HI, expected_version=number)
            assert reader.context("a/b").version == number + 1


READS: list[Callable[[ContextLog], Any]] = [
    lambda log: log.context("a/b").state.version,
    lambda log: log.context("a/b").version,
    lambda log: len(log.context("a/b").window().messages),
    lambda log: log.context("a/b").replay().state.version,
    lambda log: len(list(log.context("a/b").accepted())),
    lambda log: len(list(log.context("a/b").history())),
    lambda log: next(log.streams()).version,
    lambda log: log.cut().streams["a/b"],
    lambda log: len(log.matching("a/*")),
    lambda log: log.context("a/b").fork("a/fork").state.parent.version,  # type: ignore[union-attr]
]


@pytest.mark.parametrize("read", READS, ids=[str(number) for number in range(len(READS))])
def test_every_read_sees_what_its_own_handle_appended_though_the_log_shows_it_late(read: Callable[[ContextLog], Any]) -> None:
    """Stale reads lose data silently."""
    log = ContextLog(ShowsLate(MemoryLog(3)))
    log.context("a/b").append(HI)
    assert read(log) == 1


class Then(Wrapped):
    """Does something between an append of events and what its writer does next, as other threads and processes would."""

    work: Callable[[], Any] | None = None

    def append(self, records: Any) -> Any:
        placed = self.inner.append(records)
        if self.work is not None and records[0].key != CONTROL_KEY:
            work, self.work = self.work, None
            work()
        return placed


def test_an_outcome_is_told_though_another_thread_read_past_the_records() -> None:
    log = ContextLog(backend := Then(MemoryLog()))
    context = log.context("a/b")
    context.append(HI)
    _ = context.state
    backend.work = lambda: context.state
    assert context.append([HI, SET], expected_version=1).version == 3  # type: ignore[union-attr]
    backend.work = lambda: context.state
    with pytest.raises(ConflictError):
        context.append(HI, expected_version=1)


def test_an_outcome_is_told_though_another_process_took_a_snapshot_beyond_the_records(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot would hide the records that the writer has to see."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 5)
    store = SnapshotStore(tmp_path / "cache.sqlite")
    backend = Then(MemoryLog())
    other = ContextLog(backend.inner, store)
    other.context("a/b").append_each([(HI, {})] * 4)

    def read_on() -> None:
        other.context("a/b").append_each([(HI, {})] * 10)
        _ = other.context("a/b").state
        assert max(store.versions(other.log.log_id, "a/b")) > 5

    backend.work = read_on
    assert ContextLog(backend, store).context("a/b").append(HI, expected_version=4).version == 5  # type: ignore[union-attr]
    store.close()


# What is refused


WRONG: list[tuple[str, Callable[[Context], Any]]] = [
    ("id not NFC", lambda c: c.set_fact("e\u0301", 1)),
    ("id with a control character", lambda c: c.set_fact("a\nb", 1)),
    ("id empty", lambda c: c.set_fact("", 1)),
    ("id too long", lambda c: c.set_fact("x" * 256, 1)),
    ("id too long in bytes", lambda c: c.set_fact("é" * 128, 1)),
    ("id with a surrogate", lambda c: c.append(HI, event_ids=["\ud800"])),
    ("id of another type", lambda c: c.set_fact(5, 1)),  # type: ignore[arg-type]
    ("message id of another type", lambda c: c.redact_message(None)),  # type: ignore[arg-type]
    ("role empty", lambda c: c.add_message("", "x")),
    ("role of another type", lambda c: c.add_message(None, "x")),  # type: ignore[arg-type]
    ("name with a surrogate", lambda c: c.add_message("user", "x", name="\ud800")),
    ("NaN", lambda c: c.set_fact("k", float("nan"))),
    ("infinity inside", lambda c: c.set_fact("k", {"a": [float("inf")]})),
    ("no JSON", lambda c: c.set_fact("k", object())),
    ("no JSON in a message", lambda c: c.add_message("user", b"bytes")),
    ("no JSON in arguments", lambda c: c.add_tool_call("f", {1, 2})),
    ("no JSON in a result", lambda c: c.add_tool_result("c", object())),
    ("nested without end", lambda c: c.set_fact("k", endless())),
    ("time without a zone", lambda c: c.add_message("user", "x", occurred_at=datetime(2026, 1, 1))),  # noqa: DTZ001
    ("time as text", lambda c: c.add_message("user", "x", occurred_at="2026-01-01")),  # type: ignore[arg-type]
    ("time as float", lambda c: c.add_message("user", "x", occurred_at=1.5)),  # type: ignore[arg-type]
    ("time out of range", lambda c: c.add_message("user", "x", occurred_at=2**53)),
    ("expiry without a zone", lambda c: c.set_fact("k", 1, expires_at=datetime(2026, 1, 1))),  # noqa: DTZ001
    ("expiry out of range", lambda c: c.set_fact("k", 1, expires_at=2**53)),
    ("actor of no kind", lambda c: c.add_message("user", "x", actor="ann")),
    ("actor of another kind", lambda c: c.add_message("user", "x", actor="robot:ann")),
    ("actor without id", lambda c: c.add_message("user", "x", actor="agent:")),
    ("scope empty", lambda c: c.add_message("user", "x", scope="")),
    ("scope of another type", lambda c: c.add_message("user", "x", scope=None)),  # type: ignore[arg-type]
    ("causation of another type", lambda c: c.add_message("user", "x", causation_id=5)),  # type: ignore[arg-type]
    ("version as text", lambda c: c.append(HI, expected_version="0")),  # type: ignore[arg-type]
    ("version as a bool", lambda c: c.append(HI, expected_version=False)),
    ("version negative", lambda c: c.append(HI, expected_version=-1)),
    ("version beyond a long", lambda c: c.append(HI, expected_version=2**63)),
    ("head of another form", lambda c: c.append(HI, expected_head="A" * 64)),
    ("head empty", lambda c: c.append(HI, expected_head="")),
    ("head of another type", lambda c: c.append(HI, expected_head=b"0" * 64)),  # type: ignore[arg-type]
    ("target that is not changed", lambda c: c.append(SET, expected_targets={"fact:other": 0})),
    ("target of an event that has none", lambda c: c.append(HI, expected_targets={"fact:limit": 0})),
    ("target without version", lambda c: c.append(SET, expected_targets={"fact:limit": None})),  # type: ignore[dict-item]
    ("targets as a list", lambda c: c.append(SET, expected_targets=["fact:limit"])),  # type: ignore[arg-type]
    ("too few ids", lambda c: c.append([HI, SET], event_ids=["x"])),
    ("no ids", lambda c: c.append(HI, event_ids=[])),
    ("an id twice", lambda c: c.append([HI, SET], event_ids=["x", "x"])),
    ("ids as one text", lambda c: c.append([HI, SET], event_ids="xy")),
    ("ids of another type", lambda c: c.append(HI, event_ids=[5])),  # type: ignore[list-item]
    ("ids that have no hash", lambda c: c.append(HI, event_ids=[["x"]])),  # type: ignore[list-item]
    ("ids of a call as one text", lambda c: c.add_tool_call("f", {}, event_ids="x")),
    ("two ids of one call", lambda c: c.add_tool_call("f", {}, event_ids=["x", "y"])),
    ("no events", lambda c: c.append([])),
    ("too many events", lambda c: c.append([HI] * 1001)),
    ("what is no event", lambda c: c.append([HI, {"role": "user"}])),  # type: ignore[list-item]
]


def endless() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(("what", "call"), WRONG, ids=[what for what, _ in WRONG])
def test_bad_input_is_a_typed_error_and_nothing_is_written(log: ContextLog, what: str, call: Callable[[Context], Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call(log.context("a/b"))
    assert "nothing was appended" in str(caught.value)
    assert log.log.bounds(0).end == 1


def test_an_option_that_does_not_exist_is_refused(log: ContextLog) -> None:
    """A precondition that is spelled wrong must not be one that is left out."""
    with pytest.raises(TypeError, match="expected_versoin"):
        log.context("a/b").append(HI, expected_versoin=0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="if_version"):
        log.context("a/b").append_each([(HI, {"if_version": 0})])  # type: ignore[typeddict-unknown-key]
    assert records(log) == 0


def test_errors_name_the_rule_and_never_the_value(log: ContextLog) -> None:
    """Messages end up in other people's logs."""
    for call in (
        lambda c: c.set_fact("secret\n", 1),
        lambda c: c.add_message("user", {"secret": object()}),
        lambda c: c.append(HI, actor="secret"),
        lambda c: c.set_fact("k", 1, expires_at="secret"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            call(log.context("a/b"))
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "stream_id", ["ctxlog:control", "ctxlog:", "", "a\x00b", "e\u0301", "x" * 256, "\ud800", None, 5], ids=repr
)
def test_a_stream_id_that_is_not_allowed_is_refused_when_the_context_is_made(log: ContextLog, stream_id: Any) -> None:
    with pytest.raises(InvalidInputError):
        log.context(stream_id)


@pytest.mark.parametrize("agent_id", ["a/b", "shared", "decisions", "", "a\n", 5], ids=repr)
def test_an_agent_id_that_is_not_allowed_is_refused(log: ContextLog, agent_id: Any) -> None:
    with pytest.raises(InvalidInputError):
        log.context("a/b", agent_id=agent_id)


def test_a_record_of_the_largest_size_is_taken_and_one_byte_more_is_refused(log: ContextLog) -> None:
    context = log.context("a/b")
    context.add_message("user", "x" * (MAX_RECORD_BYTES // 2))
    (record,) = [record for record in log.log.read(0, 0, log.log.bounds(0).end) if record.key != CONTROL_KEY]
    room = MAX_RECORD_BYTES - len(record.key or b"") - len(record.value or b"")
    longest = "x" * (MAX_RECORD_BYTES // 2 + room)
    context.add_message("user", longest)
    with pytest.raises(RecordTooLargeError) as caught:
        context.add_message("user", longest + "x")
    with pytest.raises(RecordTooLargeError):
        context.append([HI, MessageAppended(role="user", content=longest)])
    assert (caught.value.size, caught.value.limit) == (MAX_RECORD_BYTES + 1, MAX_RECORD_BYTES)
    assert records(log) == 2
    assert [message.content for message in context.state.messages][1] == longest


def test_values_at_the_edge_come_back_as_they_were_written(log: ContextLog) -> None:
    """Large integers and lone surrogates are in real data, and are never parsed and printed again."""
    context = log.context("a/b")
    context.set_fact("big", 2**53 + 1)
    context.set_fact("text", "\ud800")
    context.set_fact("null", None)
    context.add_message("user", "\ud800")
    context.add_message("user", "")
    context.add_message("assistant", None)
    context.add_tool_call("f", '{ "a":  1 }')
    state = context.state
    assert {key: fact.value for key, fact in state.facts.items()} == {
        "big": "9007199254740993",
        "text": '"\\ud800"',
        "null": "null",
    }
    assert [(message.content, message.parts) for message in state.messages] == [
        (None, '"\\ud800"'),
        ("", None),
        (None, None),
    ]
    assert [call.arguments for call in state.tool_calls.values()] == ['{ "a":  1 }']


def test_the_id_of_a_call_is_that_of_its_event(log: ContextLog) -> None:
    context = log.context("a/b")
    done = context.add_tool_call("f", {}, event_ids=["call-1"])
    assert done.event_id == "call-1"
    context.add_tool_result("call-1", {"ok": True}, failed=True)
    call = context.state.tool_calls["call-1"]
    assert (call.status, call.result, call.result_parts) == ("failed", None, '{"ok": true}')


def test_an_unfinished_copy_takes_no_other_appends() -> None:
    from ctxlog.codec.control import copy_started, encode_control

    backend = MemoryLog()
    backend.append([encode_control(0, copy_started(backend.log_id, "elsewhere"))])
    with pytest.raises(LogOpenError, match="not finished"):
        ContextLog(backend).context("a/b").append(HI)


def test_an_extension_is_kept_and_changes_nothing(log: ContextLog) -> None:
    context = log.context("a/b")
    context.append(ExtensionRecorded(name="org.example.Approved", data="{}"))
    context.append(FactRemoved(key="never set"))
    replay = context.replay()
    assert replay.state.version == 2
    assert [(anomaly.version, anomaly.reason) for anomaly in replay.anomalies] == [(2, "fact_unknown")]

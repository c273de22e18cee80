"""Forks: a stream that goes on from a version of another one, composed by replay and never by arbitration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.errors import ConflictError, InvalidInputError, LineageError, PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.replay.replayer import LINEAGE_MAX
from ctxlog.replay.snapshots import SnapshotStore
from writing import publish, raw

HI = MessageAppended(role="user", content="hi")


@pytest.fixture
def memory() -> ContextLog:
    """A log of three partitions, so that parent and fork lie apart."""
    return ContextLog(MemoryLog(3))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContextLog]:
    """A log of three partitions that keeps a snapshot after every record."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 1)
    store = SnapshotStore(tmp_path / "cache.sqlite")
    yield ContextLog(MemoryLog(3), store)
    store.close()


def texts(log: ContextLog, stream_id: str, at: str | int = "latest") -> list[str | None]:
    return [message.content for message in log.context(stream_id).replay(at).state.messages]


def fork_record(log: ContextLog, stream_id: str, parent: str, version: int, head: str, event_id: str = "f") -> None:
    """A fork event as another writer may send it."""
    publish(log.log)
    members = {"parent_stream_id": parent, "parent_version": version, "parent_chain_head": head}
    log.log.append([raw(log.log, stream_id, "StreamForked", event_id, **members)])


def test_a_fork_goes_on_from_its_parent_and_neither_sees_what_the_other_does_later(memory: ContextLog) -> None:
    parent = memory.context("p")
    call = parent.add_tool_call("f", {}).event_id
    parent.add_message("user", "one")
    parent.set_fact("k", 1)
    fork = parent.fork("p/fork")
    parent.add_message("user", "only parent")
    parent.set_fact("k", 2)
    fork.add_message("user", "only fork")
    fork.add_tool_result(call, "answered in the fork")
    assert [message.content for message in fork.state.messages] == ["one", "only fork", "answered in the fork"]
    assert [message.content for message in parent.state.messages] == ["one", "only parent"]
    assert fork.state.facts["k"].value == "1"
    assert (fork.state.tool_calls[call].status, parent.state.tool_calls[call].status) == ("returned", "open")
    assert fork.state.version == 3
    assert fork.state.parent is not None
    assert fork.state.parent.version == 3


def test_a_fork_may_redact_what_it_inherited_and_the_parent_keeps_it(memory: ContextLog) -> None:
    parent = memory.context("p")
    message = parent.add_message("user", "secret").event_id
    fork = parent.fork("p/fork")
    fork.redact_message(message)
    assert fork.state.messages[0].content is None
    assert parent.state.messages[0].content == "secret"


def test_a_closed_parent_is_gone_on_from_as_an_open_context(memory: ContextLog) -> None:
    parent = memory.context("p")
    parent.append(HI)
    parent.close()
    assert parent.fork("p/fork").state.closed is False


@pytest.mark.parametrize("at", ["version:1", 1, "event:e1"])
def test_a_fork_of_an_earlier_point_starts_there(memory: ContextLog, at: str | int) -> None:
    parent = memory.context("p")
    parent.add_message("user", "one", event_ids=["e1"])
    parent.add_message("user", "two")
    assert texts(memory, parent.fork("p/fork", at=at).stream_id) == ["one"]


def test_a_fork_can_be_replayed_at_each_of_its_versions(memory: ContextLog) -> None:
    parent = memory.context("p")
    parent.add_message("user", "one")
    fork = parent.fork("p/fork")
    fork.add_message("user", "two")
    assert [texts(memory, "p/fork", version) for version in range(3)] == [[], ["one"], ["one", "two"]]
    assert memory.context("p/fork").replay(0).state.parent is None
    heads = [memory.context("p/fork").replay(version).manifest.chain_head for version in range(3)]
    assert len(set(heads)) == 3


def test_a_fork_of_a_fork_at_a_version_inside_it_takes_both(memory: ContextLog) -> None:
    memory.context("a").add_message("user", "a1")
    middle = memory.context("a").fork("b")
    middle.add_message("user", "b1")
    middle.add_message("user", "b2")
    last = middle.fork("c", at=2)
    last.add_message("user", "c1")
    assert texts(memory, "c") == ["a1", "b1", "c1"]
    assert last.state.parent is not None
    assert (last.state.parent.stream_id, last.state.parent.version) == ("b", 2)


def test_the_empty_context_can_be_forked(memory: ContextLog) -> None:
    fork = memory.context("nobody").fork("p/fork")
    fork.append(HI)
    assert texts(memory, "p/fork") == ["hi"]
    assert fork.state.parent is not None
    assert fork.state.parent.version == 0


def test_a_fork_into_a_stream_that_exists_is_a_conflict(memory: ContextLog) -> None:
    memory.context("p").append(HI)
    memory.context("q").append(HI)
    with pytest.raises(ConflictError):
        memory.context("p").fork("q")
    with pytest.raises(ConflictError):
        memory.context("p").fork("p")
    assert memory.context("q").state.parent is None


def test_a_fork_of_a_point_that_is_not_there_writes_nothing(memory: ContextLog) -> None:
    memory.context("p").append(HI)
    with pytest.raises(PointError):
        memory.context("p").fork("q", at=2)
    with pytest.raises(InvalidInputError):
        memory.context("p").fork("ctxlog:q")
    assert memory.matching() == ["p"]


def test_64_levels_of_forks_are_composed_and_one_more_is_refused_before_it_is_written(memory: ContextLog) -> None:
    """A stream that nobody can read must not come into being."""
    context = memory.context("s0")
    context.add_message("user", "0")
    for level in range(1, LINEAGE_MAX + 1):
        context = context.fork(f"s{level}")
        context.add_message("user", str(level))
    assert texts(memory, f"s{LINEAGE_MAX}") == [str(level) for level in range(LINEAGE_MAX + 1)]
    with pytest.raises(LineageError, match="64 levels"):
        context.fork("one-more")
    assert "one-more" not in memory.matching()
    fork_record(memory, "foreign", f"s{LINEAGE_MAX}", 2, context.chain_head)
    with pytest.raises(LineageError, match="64 levels"):
        memory.context("foreign").replay()


def answer(log: ContextLog, stream_id: str) -> object:
    """The state of a stream, or the error that is there instead."""
    try:
        return log.context(stream_id).replay().state.to_dict()
    except LineageError as error:
        return str(error)


def test_the_levels_of_forks_are_counted_through_a_snapshot_too(cached: ContextLog) -> None:
    """A snapshot holds what was inherited, so nobody need look at the parent; the answer must be the one without it."""
    context = cached.context("s0")
    context.add_message("user", "0")
    for level in range(1, LINEAGE_MAX + 1):
        context = context.fork(f"s{level}")
        _ = context.state
        if level > 20:
            assert cached.snapshots is not None
            assert cached.snapshots.versions(cached.log.log_id, f"s{level}") == [1]
    with pytest.raises(LineageError, match="64 levels"):
        context.fork("one-more")
    assert "one-more" not in cached.matching()
    fork_record(cached, "foreign", context.stream_id, 1, context.chain_head)
    fork_record(cached, "beyond", "foreign", 1, cached.context("foreign").chain_head, "g")
    plain = ContextLog(cached.log)
    for stream_id in (context.stream_id, "foreign", "beyond"):
        assert answer(ContextLog(cached.log, cached.snapshots), stream_id) == answer(plain, stream_id)
    assert "64 levels" in str(answer(cached, "foreign"))


def test_a_circle_of_forks_is_seen_through_a_snapshot_too(cached: ContextLog) -> None:
    cached.context("a").append(HI)
    fork = cached.context("a").fork("b").fork("c")
    fork.append(HI)
    _ = fork.state
    for log in (ContextLog(cached.log), ContextLog(cached.log, cached.snapshots)):
        with pytest.raises(LineageError, match="cycle"):
            log.context("c").fork("a")


def test_a_snapshot_of_a_fork_is_not_used_where_the_log_has_lost_the_parent(cached: ContextLog) -> None:
    """Parent and fork may lie in different partitions, and one of them may have been restored from an older copy."""
    parent = cached.context("p")
    parent.append_each([(HI, {})] * 3)
    fork = parent.fork("q")
    fork.append(HI)
    _ = fork.state
    backend = cached.log
    assert isinstance(backend, MemoryLog)
    lost = cached.replayer.reader.partition("p")
    assert lost != cached.replayer.reader.partition("q")
    del backend._records[lost][-1]
    expected = answer(ContextLog(backend), "q")
    assert "is at version 2" in str(expected)
    for _ in range(2):
        assert answer(ContextLog(backend, cached.snapshots), "q") == expected


def test_a_fork_before_its_parent_exists_has_no_state_until_the_parent_does(memory: ContextLog) -> None:
    """Arbitration never looks at the parent, so the fork is accepted; a reader in between must not remember the failure."""
    other = ContextLog(MemoryLog(3))
    head = other.context("p").append(HI, occurred_at=1, event_ids=["e"]) and other.context("p").chain_head
    fork_record(memory, "q", "p", 1, head)
    fork = memory.context("q")
    for _ in range(2):
        with pytest.raises(LineageError, match="is at version 0"):
            _ = fork.state
        with pytest.raises(LineageError):
            fork.replay()
    assert fork.version == 1
    memory.context("p").append(HI, occurred_at=1, event_ids=["e"])
    assert [message.content for message in fork.state.messages] == ["hi"]
    assert texts(memory, "q") == ["hi"]


def test_a_fork_that_names_another_head_than_its_parent_has_is_no_state(memory: ContextLog) -> None:
    memory.context("p").append(HI)
    fork_record(memory, "q", "p", 1, "0" * 64)
    with pytest.raises(LineageError, match="chain head"):
        memory.context("q").replay()
    assert memory.context("q").replay(0).state.version == 0
    assert next(memory.context("q").history()).outcome == "accepted"


def test_forks_in_a_circle_end_in_an_error(memory: ContextLog) -> None:
    publish(memory.log)
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "d")):
        fork_record(memory, name, parent, 1, "0" * 64)
    for name in "abcd":
        with pytest.raises(LineageError):
            memory.context(name).replay()


def test_a_stream_that_goes_on_from_itself_at_version_0_is_no_circle(memory: ContextLog) -> None:
    fork = memory.context("p").fork("p")
    fork.append(HI)
    assert texts(memory, "p") == ["hi"]


def test_a_fork_event_that_is_not_the_first_is_an_anomaly_and_inherits_nothing(memory: ContextLog) -> None:
    memory.context("p").append(HI)
    memory.context("q").append(FactSet(key="k", value="1"))
    fork_record(memory, "q", "p", 1, memory.context("p").chain_head)
    replay = memory.context("q").replay()
    assert (replay.state.parent, replay.state.messages) == (None, ())
    assert [anomaly.reason for anomaly in replay.anomalies] == ["not_first"]


def test_events_after_a_fork_in_one_append_see_what_was_inherited(memory: ContextLog) -> None:
    """The fork and what follows in the same group are applied one after the other."""
    from ctxlog.model.events import MessageRedacted, StreamForked

    message = memory.context("p").add_message("user", "secret").event_id
    forked = StreamForked(parent_stream_id="p", parent_version=1, parent_chain_head=memory.context("p").chain_head)
    memory.context("q").append([forked, MessageRedacted(message_id=message)])
    replay = memory.context("q").replay()
    assert replay.anomalies == ()
    assert replay.state.messages[0].content is None

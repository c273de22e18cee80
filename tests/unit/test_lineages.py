"""Where two contexts part: up to the common ancestor both have the same states, and what they have there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxlog import ContextLog
from ctxlog.log.memory import MemoryLog
from ctxlog.replay.diff import diff
from ctxlog.replay.lineages import common_ancestor, lineage


@settings(max_examples=30)
@given(st.data())
def test_the_common_ancestor_is_the_last_place_that_both_have_come_past(data: st.DataObject) -> None:
    """Against a naive model: the history of a stream is the list of its own and inherited (stream, version) steps."""
    log = ContextLog(MemoryLog())
    log.context("s0").set_fact("n", 0)
    histories = {"s0": [("s0", 1)]}
    for number in range(1, 7):
        name = data.draw(st.sampled_from(sorted(histories)))
        context = log.context(name)
        if data.draw(st.booleans()):
            context.set_fact("n", number)
            histories[name].append((name, context.version))
        else:
            at = data.draw(st.integers(1, context.version))
            context.fork(f"s{number}", at=at)
            histories[f"s{number}"] = [*histories[name][: histories[name].index((name, at)) + 1], (f"s{number}", 1)]
    for one, mine in histories.items():
        assert dict(lineage(log.replayer, one, log.context(one).version)) == dict(mine)
        for other, theirs in histories.items():
            common = [step for step in mine if step in theirs]
            ends = (one, mine[-1][1]), (other, theirs[-1][1])
            assert common_ancestor(log.replayer, *ends) == (None if one == other else common[-1])


def test_contexts_of_no_common_history_have_no_ancestor() -> None:
    log = ContextLog(MemoryLog())
    log.context("a").set_fact("n", 1)
    log.context("b").set_fact("n", 1)
    assert common_ancestor(log.replayer, ("a", 1), ("b", 1)) is None
    assert diff(log.context("a").state, log.context("b").state).to_dict()["common"] is None


def test_a_context_that_claims_to_be_its_own_ancestor_has_no_endless_lineage() -> None:
    from writing import publish, raw

    backend = MemoryLog()
    publish(backend)
    for one, other in (("a", "b"), ("b", "a")):
        backend.append([raw(backend, one, "StreamForked", one, parent_stream_id=other, parent_version=1)])
    assert lineage(ContextLog(backend).replayer, "a", 1) == [("b", 1), ("a", 1)]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_grandchild_is_compared_with_its_ancestor_by_ids_even_where_no_message_tells_them_related(depth: int) -> None:
    log = ContextLog(MemoryLog())
    first = log.context("s0")
    first.add_message("user", "same words")
    forks = [first]
    for number in range(depth):
        forks.append(forks[-1].fork(f"s{number + 1}", at=0 if number == 0 else "latest"))
    last = forks[-1]
    last.add_message("user", "same words")
    ends = ("s0", 1), (last.stream_id, last.version)
    found = diff(first.state, last.state, common=common_ancestor(log.replayer, *ends))
    assert found.aligned_by == "id"
    assert found.common == ("s0", 0)
    assert [change.change for change in found.messages] == ["removed", "added"]

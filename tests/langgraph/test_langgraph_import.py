"""Threads that LangGraph's own savers kept come in whole, go on, and come in again without a change."""

import contextlib

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver, import_threads
from ctxlog.errors import InvalidInputError
from langgraph_graphs import Said, SaidByWrites, agent, asked, talk_with, thread


@pytest.fixture
def log(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        yield log


@pytest.fixture(params=["sqlite", "memory"])
def source(request, tmp_path):
    if request.param == "memory":
        yield InMemorySaver()
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as saver:
            yield saver


def told(saver, thread_id):
    """All that a saver says of a thread."""
    found = list(saver.list(thread(thread_id)))
    return [
        (item.config, item.checkpoint, item.metadata, item.parent_config, item.pending_writes)
        for item in (saver.get_tuple(item.config) for item in found)
    ]


def travelled(saver):
    """Two threads: one that was interrupted, and one with a branch."""
    stopped = agent(saver, interrupt_before=["tool"])
    stopped.invoke(asked("Oslo"), thread("stopped"))
    graph = agent(saver)
    for city in ("Oslo", "Rome"):
        graph.invoke(asked(city), thread("branches"))
    older = [item for item in graph.get_state_history(thread("branches")) if item.next == ("tool",)][-1]
    graph.invoke(None, older.config)
    graph.update_state(thread("branches"), {"messages": [HumanMessage("Never mind.", id="n")]}, as_node="tool")


def test_threads_come_in_whole_and_go_on(log, source):
    travelled(source)
    saver = CtxlogSaver(log, agent="bot")
    done = import_threads(source, saver)
    assert (done.threads, done.checkpoints) == (2, sum(len(told(source, name)) for name in ("stopped", "branches")))
    for name in ("stopped", "branches"):
        assert told(CtxlogSaver(log, agent="bot"), name) == told(source, name)
    for kept in (saver, source):
        agent(kept).invoke(None, thread("stopped"))
        agent(kept).invoke(asked("Lima"), thread("branches"))
    for name in ("stopped", "branches"):
        ours, theirs = (agent(kept).get_state(thread(name)).values for kept in (saver, source))
        assert ours == theirs
    shown = [message.content for message in log.context("bot/stopped").state.messages]
    assert shown == ["Oslo", "", "sunny in Oslo", "It is sunny in Oslo."]


def test_the_same_again_changes_nothing_and_a_grown_thread_adds_its_tail(log, source):
    travelled(source)
    saver = CtxlogSaver(log, agent="bot")
    assert import_threads(source, saver, ["branches"]).threads == 1
    assert list(log.matching("bot/*")) == ["bot/branches"]
    version = log.context("bot/branches").version
    import_threads(source, CtxlogSaver(log, agent="bot"), ["branches"])
    assert log.context("bot/branches").version == version
    agent(source).invoke(asked("Lima"), thread("branches"))
    import_threads(source, saver)
    assert told(saver, "branches") == told(source, "branches")
    assert log.context("bot/branches").version > version


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


def test_an_import_that_was_stopped_anywhere_is_run_again(log, monkeypatch):
    source = InMemorySaver()
    travelled(source)
    for steps in range(0, 40, 3):
        saver = CtxlogSaver(log, agent="bot")
        left = iter(range(steps))
        appended = saver._append

        def append(*arguments, left=left, appended=appended):
            if next(left, None) is None:
                raise StoppedError
            appended(*arguments)

        monkeypatch.setattr(saver, "_append", append)
        with contextlib.suppress(StoppedError):
            import_threads(source, saver)
    import_threads(source, CtxlogSaver(log, agent="bot"))
    for name in ("stopped", "branches"):
        assert told(CtxlogSaver(log, agent="bot"), name) == told(source, name)


@pytest.mark.parametrize("kind", [Said, SaidByWrites], ids=["list", "delta"])
def test_delta_channels_come_in_with_their_writes(log, source, kind):
    talk_with(source, kind)
    saver = CtxlogSaver(log, agent="bot")
    import_threads(source, saver)
    for _, checkpoint, *_ in told(source, "t"):
        at = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": checkpoint["id"]}}
        ours, theirs = (kept.get_delta_channel_history(config=at, channels=["messages"]) for kept in (saver, source))
        assert ours == theirs
    assert [message.content for message in log.context("bot/t").state.messages] == [f"message {n:02}." for n in range(12)]


def test_a_thread_that_was_pruned_at_the_source_comes_in_as_it_is(log, source):
    travelled(source)
    newest = source.get_tuple(thread("branches"))
    copy = InMemorySaver()
    copy.put(newest.parent_config, newest.checkpoint, newest.metadata, newest.checkpoint["channel_versions"])
    import_threads(copy, CtxlogSaver(log, agent="bot"))
    assert CtxlogSaver(log, agent="bot").get_tuple(thread("branches")).checkpoint == newest.checkpoint


def test_writes_of_tasks_that_ran_beside_each_other_keep_their_order(log, source):
    graph = StateGraph(SaidByWrites)
    names = [f"node {number}" for number in (3, 1, 4, 0, 2)]
    for name in names:
        graph.add_node(name, lambda state, name=name: {"messages": [HumanMessage(name, id=name)]})
        graph.add_edge(START, name)
    graph.compile(checkpointer=source).invoke({"messages": [HumanMessage("hi", id="m0")]}, thread("t"))
    saver = CtxlogSaver(log, agent="bot")
    import_threads(source, saver)
    ours, theirs = (graph.compile(checkpointer=kept).get_state(thread("t")).values["messages"] for kept in (saver, source))
    assert ours == theirs
    assert told(saver, "t") == told(source, "t")


def test_one_text_is_no_list_of_threads(log, source):
    with pytest.raises(InvalidInputError, match="thread_ids"):
        import_threads(source, CtxlogSaver(log, agent="bot"), "case-0")

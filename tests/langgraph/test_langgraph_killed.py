"""A graph that is killed at any of its writes goes on from there: nothing twice, nothing lost, in its state and in the log."""

import os
import signal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver
from langgraph_graphs import Said, SaidByWrites, agent, asked, graph_of, thread

LAST = 100


def killed_at(number: int, after: bool, url: str, graph: Any, given: Any) -> bool:
    """Run a graph in a process of its own that is killed at its `number`th append, before or after it; whether it was."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    code = 1
    try:
        with ContextLog.open(url) as log:
            saver = CtxlogSaver(log, agent="bot")
            append, left = saver._append, iter(range(number))

            def killing(*arguments: Any) -> None:
                last = next(left, None) is None
                if not last or after:
                    append(*arguments)
                if last:
                    os.kill(os.getpid(), signal.SIGKILL)

            saver._append = killing  # type: ignore[method-assign]
            graph(saver).invoke(given, thread("t"), durability="sync")
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", [Said, SaidByWrites], ids=["list", "delta"])
def test_a_graph_killed_at_any_write_goes_on(tmp_path, kind, after):
    expected = [f"message {number:02}." for number in range(12)]
    for number in range(LAST):
        url = f"embedded:{tmp_path / str(number)}"
        given = {"messages": [HumanMessage("message 00.", id="m0")]}
        if not killed_at(number, after, url, lambda saver: graph_of(saver, kind), given):
            assert number > 20
            return
        with ContextLog.open(url) as log:
            graph = graph_of(CtxlogSaver(log, agent="bot"), kind)
            # Where nothing was kept of the input, the caller does not know that it was given.
            there = graph.get_state(thread("t"))
            graph.invoke(None if there.created_at else given, thread("t"), durability="sync")
            for checked in (graph, graph_of(CtxlogSaver(log, agent="bot"), kind)):
                said = checked.get_state(thread("t")).values["messages"]
                assert [message.content for message in said] == expected, number
            state = log.context("bot/t").state
            assert [message.content for message in state.messages] == expected, number
            assert [call.status for call in state.tool_calls.values()] == ["returned"] * 3 + ["open"], number
    pytest.fail("the graph did not end")


def test_a_tool_whose_answer_was_kept_is_not_called_again(tmp_path):
    for number in range(LAST):
        url = f"embedded:{tmp_path / str(number)}"
        if not killed_at(number, True, url, agent, asked("Oslo")):
            assert number > 5
            return
        called = []

        def tool(state: Any, called: list[Any] = called) -> Any:
            called.append(state)
            from langgraph_graphs import tool as ordinary

            return ordinary(state)

        with ContextLog.open(url) as log:
            saver = CtxlogSaver(log, agent="bot")
            kept = [
                channel
                for found in saver.list(thread("t"))
                for _, channel, value in found.pending_writes
                if channel == "messages" and getattr(value[0], "type", "") == "tool"
            ]
            graph = agent(saver, tool=tool)
            graph.invoke(None if graph.get_state(thread("t")).created_at else asked("Oslo"), thread("t"))
            assert len(called) == (0 if kept else 1), number
            assert len(graph.get_state(thread("t")).values["messages"]) == 4
    pytest.fail("the graph did not end")

"""Graphs with scripted models, for the tests of the checkpointer."""

from __future__ import annotations

import operator
from typing import Annotated, Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph


class State(MessagesState):
    """Messages, and how many steps were made."""

    steps: Annotated[int, operator.add]


def model(state: State) -> dict[str, Any]:
    """Calls the tool for each question, then answers with what it returned."""
    last = state["messages"][-1]
    if isinstance(last, ToolMessage):
        return {"messages": [AIMessage(f"It is {last.content}.", id=f"a{len(state['messages'])}")], "steps": 1}
    call = {"name": "weather", "args": {"city": last.content}, "id": f"call-{len(state['messages'])}"}
    return {"messages": [AIMessage("", tool_calls=[call], id=f"c{len(state['messages'])}")], "steps": 1}


def tool(state: State) -> dict[str, Any]:
    """Answers the call of the last message."""
    (call,) = state["messages"][-1].tool_calls
    said = ToolMessage(f"sunny in {call['args']['city']}", tool_call_id=call["id"], id=f"t{len(state['messages'])}")
    return {"messages": [said], "steps": 1}


def agent(saver, *, tool=tool, **options):
    """The graph, compiled."""
    graph = StateGraph(State)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tool" if state["messages"][-1].tool_calls else END)
    graph.add_edge("tool", "model")
    return graph.compile(checkpointer=saver, **options)


def asked(text: str) -> dict[str, Any]:
    """The input of one question."""
    return {"messages": [HumanMessage(text, id=f"h-{text}")], "steps": 0}


def thread(name: str) -> dict[str, Any]:
    """The config of a thread."""
    return {"configurable": {"thread_id": name}}

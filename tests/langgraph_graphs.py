"""Graphs with scripted models, for the tests of the checkpointer."""

from __future__ import annotations

import operator
import time
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph, add_messages


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


def appended(messages, writes):
    """What a delta channel of messages holds after some writes."""
    return [*messages, *(message for write in writes for message in (write if isinstance(write, list) else [write]))]


class Said(TypedDict):
    """Messages in LangGraph's ordinary channel."""

    messages: Annotated[list[AnyMessage], add_messages]


class SaidByWrites(TypedDict):
    """Messages in its delta channel."""

    messages: Annotated[list[AnyMessage], DeltaChannel(appended, snapshot_frequency=5)]


def graph_of(saver, kind, *, ids=True, slow=0.0):
    """A graph that says twelve messages, of which every third asks for a tool and every fourth has its answer."""

    def say(state):
        time.sleep(slow)
        number = len(state["messages"])
        its_id = f"m{number}" if ids else None
        if number % 3 == 2:
            call = {"name": "weigh", "args": {"thing": f"thing {number}"}, "id": f"call-{number}"}
            return {"messages": [AIMessage(f"message {number:02}.", tool_calls=[call], id=its_id)]}
        if number % 3 == 0 and number:
            return {"messages": ToolMessage(f"message {number:02}.", tool_call_id=f"call-{number - 1}", id=its_id)}
        return {"messages": [AIMessage(f"message {number:02}.", id=its_id)]}

    graph = StateGraph(kind)
    graph.add_node("say", say)
    graph.add_edge(START, "say")
    graph.add_conditional_edges("say", lambda state: "say" if len(state["messages"]) < 12 else END)
    return graph.compile(checkpointer=saver)


def talk_with(saver, kind, *, durability="sync", **options):
    """As `graph_of`, and it has said them."""
    built = graph_of(saver, kind, **options)
    built.invoke({"messages": [HumanMessage("message 00.", id="m0")]}, thread("t"), durability=durability)
    return built

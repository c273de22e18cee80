"""A message that was redacted: what a graph gets to see of it, and that nothing says it again."""

from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    ToolMessage,
    convert_to_messages,
    message_chunk_to_message,
)
from langgraph.channels import DeltaChannel
from langgraph.graph import END, MessagesState, StateGraph
from langgraph.graph import START as START_NODE
from langgraph.types import Send

from ctxlog import ContextLog
from langgraph_graphs import agent, asked, thread
from saver_puts import START, cold, put


def talked(messages, writes):
    """What the delta channel holds after some writes."""
    return [
        *messages,
        *(message for write in writes for message in convert_to_messages(write if isinstance(write, list) else [write])),
    ]


class Talk(TypedDict):
    """A state with a delta channel."""

    messages: Annotated[list, DeltaChannel(talked)]


SECRET = "4111 1111 1111 1111"


@pytest.fixture
def log(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        yield log


def redact(log, text):
    """Redact the message that says this."""
    context = log.context("bot/t")
    (told,) = [message for message in context.state.messages if message.content == text]
    context.redact_message(told.id)


def said(log):
    """How often events say the secret."""
    return sum(SECRET in str(accepted.event.payload) for accepted in log.context("bot/t").accepted())


def test_a_graph_goes_on_without_the_text_of_a_redacted_message(log):
    saver = cold(log)
    agent(saver).invoke(asked(SECRET), thread("t"))
    before = [(type(message), message.id) for message in agent(saver).get_state(thread("t")).values["messages"]]
    (told,) = [message for message in log.context("bot/t").state.messages if SECRET in (message.content or "")][:1]
    log.context("bot/t").redact_message(told.id)
    for reader in (saver, cold(log)):
        restored = agent(reader).get_state(thread("t")).values["messages"]
        assert [(type(message), message.id) for message in restored] == before
        assert restored[0].content == "[redacted]"
    times, version = said(log), log.context("bot/t").version
    agent(saver).invoke(asked("and Rome?"), thread("t"))
    assert said(log) == times
    assert log.context("bot/t").version > version
    for found in cold(log).list(thread("t")):
        for message in found.checkpoint["channel_values"].get("messages", []):
            assert message.id != before[0][1] or message.content == "[redacted]"


MESSAGES = {
    "user": HumanMessage(SECRET, id="m1", additional_kwargs={"raw": SECRET}, extra=SECRET),
    "assistant": AIMessage(
        SECRET,
        id="m1",
        response_metadata={"raw": SECRET},
        tool_calls=[{"name": "pay", "args": {"amount": 5}, "id": "c", "type": "tool_call"}],
    ),
    "result": ToolMessage(SECRET, id="m1", tool_call_id="c", artifact={"raw": [SECRET]}, status="error"),
    "without an id": HumanMessage(SECRET),
    "parts": HumanMessage([{"type": "text", "text": SECRET}], id="m1"),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_nothing_of_a_redacted_message_is_restored_or_told_again(log, kind):
    """The graph that runs still has it, and puts it again; what it restores is put too."""
    message, saver = MESSAGES[kind], cold(log)
    first = put(saver, START, 1, [HumanMessage("hi", id="m0"), message])
    (told,) = [item for item in log.context("bot/t").state.messages if SECRET in (item.content or item.parts or "")]
    log.context("bot/t").redact_message(told.id)
    times = said(log)
    second = put(saver, first, 2, [HumanMessage("hi", id="m0"), message, HumanMessage("so", id="m2")])
    restored = cold(log).get_tuple(second).checkpoint["channel_values"]["messages"]
    third = put(cold(log), second, 3, [*restored, HumanMessage("and", id="m3")])
    assert said(log) == times
    for reader in (saver, cold(log)):
        for config in (first, second, third):
            messages = reader.get_tuple(config).checkpoint["channel_values"]["messages"]
            assert SECRET not in repr(messages)
            assert messages[1].content == "[redacted]"
            assert (type(messages[1]), messages[1].id) == (type(message), message.id)
            assert getattr(messages[1], "tool_calls", []) == getattr(message, "tool_calls", [])
            assert messages[0].content == "hi"
    assert [item.content for item in log.context("bot/t").state.messages] == ["hi", None, "so", "and"]


def test_a_chunk_that_became_a_message_is_redacted_as_both(log):
    saver, chunk = cold(log), AIMessageChunk(SECRET)
    first = put(saver, START, 1, [HumanMessage("hi", id="m0")])
    saver.put_writes(first, [("messages", [chunk])], "task")
    made = message_chunk_to_message(chunk).model_copy(update={"id": "m1"})
    second = put(saver, first, 2, [HumanMessage("hi", id="m0"), made])
    redact(log, SECRET)
    times = said(log)
    put(saver, second, 3, [HumanMessage("hi", id="m0"), made, HumanMessage("so", id="m2")])
    assert said(log) == times
    assert SECRET not in repr(cold(log).get_tuple(first).pending_writes)


def test_what_a_task_wrote_and_was_given_an_id_is_redacted_as_both(log):
    saver, written = cold(log), HumanMessage(SECRET)
    first = put(saver, START, 1, [HumanMessage("hi", id="m0")])
    saver.put_writes(first, [("messages", [written])], "task")
    second = put(saver, first, 2, [HumanMessage("hi", id="m0"), HumanMessage(SECRET, id="m1")])
    redact(log, SECRET)
    for reader in (saver, cold(log)):
        assert SECRET not in repr(reader.get_tuple(first).pending_writes)
        assert SECRET not in repr(reader.get_tuple(second).checkpoint["channel_values"])


@pytest.mark.parametrize("which", range(3))
def test_of_messages_that_say_the_same_one_is_redacted(log, which):
    """Two were written by a task, without an id, which LangGraph gave them later."""
    saver, said = cold(log), [HumanMessage("q", id="h0")]
    config = put(saver, START, 1, list(said))
    for number in range(2):
        saver.put_writes(config, [("messages", [AIMessage("ok")])], "task")
        said += [AIMessage("ok", id=f"a{number}"), HumanMessage("q", id=f"h{number + 1}")]
        config = put(saver, config, 2 * number + 2, said[:-1])
        config = put(saver, config, 2 * number + 3, list(said))
    config = put(saver, config, 6, [*said, AIMessage("ok", id="a2")])
    context = log.context("bot/t")
    context.redact_message([message for message in context.state.messages if message.content == "ok"][which].id)
    for reader in (saver, cold(log)):
        restored = reader.get_tuple(config).checkpoint["channel_values"]["messages"]
        told = [message.content for message in restored if message.type == "ai"]
        assert told == ["[redacted]" if number == which else "ok" for number in range(3)]


INPUTS = {
    "pair": ("user", SECRET),
    "dictionary": {"role": "user", "content": SECRET},
    "message": HumanMessage(SECRET),
    "message with an id": HumanMessage(SECRET, id="h1"),
    "text": SECRET,
}


@pytest.mark.parametrize(
    ("kind", "how"), [*(("messages", how) for how in INPUTS), ("delta", "message"), ("delta", "message with an id")]
)
def test_a_redacted_input_does_not_come_back_by_time_travel(log, kind, how):
    """The input stands in a channel of its own too, and what is sent to a node in another one."""
    heard = []

    def node(state):
        heard.append([message.content for message in state["messages"]])
        return {"messages": [AIMessage("bye")]}

    def graph(saver):
        state = MessagesState if kind == "messages" else Talk
        built = StateGraph(state)
        built.add_node("first", lambda state: {"messages": [AIMessage("wait")]})
        built.add_node("say", node)
        built.add_edge(START_NODE, "first")
        built.add_conditional_edges("first", lambda state: [Send("say", {"messages": list(state["messages"])})], ["say"])
        built.add_edge("say", END)
        return built.compile(checkpointer=saver)

    given = INPUTS[how] if how == "text" else [INPUTS[how]]
    graph(cold(log)).invoke({"messages": given}, thread("t"))
    context = log.context("bot/t")
    context.redact_message(next(message.id for message in context.state.messages if message.content == SECRET))
    times = said(log)
    for found in list(graph(cold(log)).get_state_history(thread("t"))):
        assert SECRET not in repr(cold(log).get_tuple(found.config))
        graph(cold(log)).invoke(None, found.config)
    assert said(log) == times
    assert len(heard) > 1
    assert all(SECRET not in text for texts in heard[1:] for text in texts)


def test_another_message_that_says_the_same_stays(log):
    saver = cold(log)
    first = put(saver, START, 1, [HumanMessage("yes", id="m1"), HumanMessage("yes", id="m2")])
    context = log.context("bot/t")
    context.redact_message(context.state.messages[0].id)
    assert [item.content for item in cold(log).get_tuple(first).checkpoint["channel_values"]["messages"]] == ["[redacted]", "yes"]

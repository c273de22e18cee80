"""Which messages are told once and which anew, where they come again: after a removal on another branch, and after deletion."""

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, RemoveMessage, ToolMessage, message_chunk_to_message
from pydantic import BaseModel

from ctxlog import ContextLog
from saver_puts import START, cold, put


@pytest.fixture
def log(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        yield log


def shown(log):
    """What the stream shows."""
    return [message.content for message in log.context("bot/t").state.messages]


def test_a_message_that_another_branch_removed_is_told_once(log):
    said = [HumanMessage("one", id="m1"), HumanMessage("two", id="m2")]
    first = put(cold(log), START, 1, said)
    cold(log).put_writes(first, [("messages", [RemoveMessage("m2")])], "task")
    put(cold(log), first, 2, said[:1])
    put(cold(log), first, 3, said[1:])  # The other branch removes the first one.
    assert shown(log) == ["one", "two"]


def test_a_deleted_thread_shows_a_message_anew_that_has_no_id(log):
    for _ in range(2):
        first = put(cold(log), START, 1, [HumanMessage("hi", id="m1")])
        cold(log).put_writes(first, [("messages", [AIMessage("yes")])], "task")
        cold(log).delete_thread("t")
    first = put(cold(log), START, 1, [HumanMessage("hi", id="m1")])
    put(cold(log), first, 2, [HumanMessage("hi", id="m1"), AIMessage("yes", id="m2")])
    assert shown(log) == ["hi", "yes"] * 3


@pytest.mark.parametrize("its_id", ["m1", None])
def test_a_chunk_of_which_langgraph_makes_a_message_is_told_once(log, its_id):
    """As where a node streams its model, and returns the sum of what came."""
    call = {"name": "f", "args": '{"n": 1}', "id": "c", "index": 0}
    chunk = AIMessageChunk("yes", tool_call_chunks=[call], id=its_id)
    first = put(cold(log), START, 1, [HumanMessage("hi", id="m0")])
    cold(log).put_writes(first, [("messages", [chunk])], "task")
    made = message_chunk_to_message(chunk).model_copy(update={"id": "m1"})
    second = put(cold(log), first, 2, [HumanMessage("hi", id="m0"), made])
    third = put(cold(log), second, 3, [made])
    put(cold(log), third, 4, [made, ToolMessage("sent", tool_call_id="c", id="m2")])
    assert shown(log) == ["hi", "yes", "sent"]
    assert [call.status for call in log.context("bot/t").state.tool_calls.values()] == ["returned"]
    assert repr(cold(log).get_tuple(first).pending_writes) == repr([("task", "messages", [chunk])])
    for config in (second, third):
        assert repr(cold(log).get_tuple(config).checkpoint["channel_values"]["messages"][-1]) == repr(made)


def test_a_chunk_and_a_message_that_both_have_no_id_are_restored_as_they_were(log):
    chunk, made = AIMessageChunk("yes"), AIMessage("yes")
    first = put(cold(log), START, 1, [HumanMessage("hi", id="m0")])
    cold(log).put_writes(first, [("messages", [chunk])], "task")
    for step, held in enumerate([made, chunk, made], 2):
        config = put(cold(log), first, step, [HumanMessage("hi", id="m0"), held])
        assert repr(cold(log).get_tuple(config).checkpoint["channel_values"]["messages"][-1]) == repr(held)


class Found(BaseModel):
    """What a tool found; no serializer may make it."""

    name: str


@pytest.mark.parametrize("artifact", [Found(name="a"), [Found(name="a")], {"of": Found(name="a")}], ids=["own", "list", "member"])
def test_a_message_whose_artifact_comes_back_as_its_data_is_told_once(log, artifact):
    result = ToolMessage("sent", tool_call_id="c", artifact=artifact, id="m1")
    config = put(cold(log), START, 1, [HumanMessage("hi", id="m0"), result])
    for step in range(2, 5):  # As when a graph goes on from what was restored.
        held = cold(log).get_tuple(config).checkpoint["channel_values"]["messages"]
        config = put(cold(log), config, step, [*held[step % 2 :], HumanMessage(f"more {step}", id=f"m{step}")])
        assert cold(log).get_tuple(config).checkpoint["channel_values"]["messages"][:-1] == held[step % 2 :]
    assert shown(log) == ["hi", "sent", "more 2", "more 3", "more 4"]


CHANGES = {
    "content": lambda message: setattr(message, "content", message.content + "!"),
    "a member of a member": lambda message: message.additional_kwargs["extra"].append(message.additional_kwargs["extra"][-1] + 1),
    "a member that is new": lambda message: message.response_metadata.update({str(len(message.response_metadata)): None}),
    "id": lambda message: setattr(message, "id", f"{message.id}'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_message_that_is_changed_in_its_place_is_restored_as_each_put_had_it(log, change):
    """The saver has seen the same object before, and found it to be what the log has."""
    saver, message = cold(log), AIMessage("yes", id="m1", additional_kwargs={"extra": [1]})
    said, config, had = [message, HumanMessage("so", id="m2")], START, []
    for step in range(1, 7):
        if step in (3, 4, 6):
            CHANGES[change](message)
        config = put(saver, config, step, said)
        had.append((config, [item.model_copy(deep=True) for item in said]))
    for reader in (saver, cold(log)):
        assert [reader.get_tuple(config).checkpoint["channel_values"]["messages"] for config, _ in had] == [
            held for _, held in had
        ]

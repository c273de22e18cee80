"""What channels and messages may hold beside plain JSON: nothing of it is lost, refused or told twice."""

import datetime
import math
from dataclasses import dataclass
from uuid import UUID

import numpy
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver

DAY = datetime.date(2026, 11, 25)


@pytest.fixture
def log(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        yield log


def cold(log):
    """A saver that has read nothing yet."""
    return CtxlogSaver(log, agent="bot")


def start(thread_id="t"):
    """The config of a thread that has no checkpoint yet."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


def put(saver, config, step, **values):
    """Put a checkpoint that holds values; its config."""
    checkpoint = empty_checkpoint()
    checkpoint |= {"id": str(step), "ts": "2026-11-25T00:00:00+00:00"}
    checkpoint["channel_versions"] = dict.fromkeys(values, str(step))
    checkpoint["channel_values"] = values
    return saver.put(config, checkpoint, {"source": "loop", "step": step}, checkpoint["channel_versions"])


@pytest.mark.parametrize("its_id", ["m1", None])
def test_a_message_with_what_json_cannot_carry_is_told_once(log, its_id):
    """As a tool's result with an artifact is. Its id may come while it is being kept."""
    call = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "c"}], id="m0")
    result = ToolMessage("sent", tool_call_id="c", artifact=DAY, id=its_id)
    first = put(cold(log), start(), 1, messages=[call])
    cold(log).put_writes(first, [("messages", [result])], "task")
    held = [call, result.model_copy(update={"id": "m1"})]
    second = put(cold(log), first, 2, messages=held)
    third = put(cold(log), second, 3, messages=held[1:])
    assert [message.content for message in log.context("bot/t").state.messages] == ["", "sent"]
    assert cold(log).get_tuple(first).pending_writes == [("task", "messages", [result])]
    assert cold(log).get_tuple(second).checkpoint["channel_values"]["messages"] == held
    assert cold(log).get_tuple(third).checkpoint["channel_values"]["messages"] == held[1:]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (HumanMessage([{"type": "image", "data": b"\x00"}]), '[{"type": "image", "data": "b\'\\\\x00\'"}]'),
        (
            AIMessage("", tool_calls=[{"name": "f", "args": {"on": DAY, "n": [math.inf]}, "id": "c"}]),
            '{"on": "2026-11-25", "n": ["inf"]}',
        ),
        (
            AIMessage("", tool_calls=[{"name": "f", "args": {"on": {2: b"x" * 999}}, "id": "c"}]),
            '{"on": {"2": "b\'' + "x" * 98 + '"}}',
        ),
    ],
    ids=["bytes", "date-and-infinity", "number-as-name"],
)
def test_a_message_that_json_cannot_carry_is_shown_and_restored(log, message, shown):
    config = put(cold(log), start(), 1, messages=[message])
    state = log.context("bot/t").state
    assert shown in [state.messages[0].parts, *(call.arguments for call in state.tool_calls.values())]
    assert cold(log).get_tuple(config).checkpoint["channel_values"]["messages"] == [message]


@pytest.mark.parametrize("thread_id", [7, UUID(int=7)], ids=["number", "uuid"])
def test_a_thread_may_be_named_by_a_number_or_a_uuid(log, thread_id):
    put(cold(log), start(thread_id), 1, x=1)
    for name in (thread_id, str(thread_id)):
        assert cold(log).get_tuple(start(name)).checkpoint["channel_values"] == {"x": 1}
    assert [found.config["configurable"]["thread_id"] for found in cold(log).list(None)] == [str(thread_id)]
    cold(log).delete_thread(thread_id)
    assert list(cold(log).list(start(thread_id))) == []


@dataclass
class Order:
    """An object of a class that the serializer may not make."""

    number: int


@pytest.mark.parametrize(
    "value", [numpy.arange(3), (1, 2), Order(7), [Order(7)], {"at": DAY}], ids=["array", "tuple", "own", "list", "date"]
)
def test_the_same_put_again_changes_nothing_whatever_the_value_is(log, value):
    """Restored it may be another: a tuple comes back as a list. And an array does not say whether it is equal."""
    for _ in range(2):
        put(cold(log), start(), 1, x=value)
    assert log.context("bot/t").state.version == 1


def test_a_put_of_another_value_under_the_same_id_counts(log):
    for value in (1, True, [1], [True], {"a": DAY}, {"a": DAY, "b": 0.0}, {"a": DAY, "b": -0.0}):
        config = put(cold(log), start(), 1, x=value)
        assert repr(cold(log).get_tuple(config).checkpoint["channel_values"]["x"]) == repr(value)

"""Graphs that run over CtxlogSaver: what the log shows of them, going on after a kill, time travel, several writers, size."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph

from ctxlog import AsyncContextLog, ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver, CtxlogStore
from ctxlog.errors import IntegrityError, InvalidInputError
from ctxlog.model.events import ExtensionRecorded
from langgraph_graphs import Said, SaidByWrites, agent, asked, talk_with, thread

TESTS = Path(__file__).parents[1]


@pytest.fixture
def log(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        yield log


def cold(log):
    """A saver that has read nothing yet."""
    return CtxlogSaver(log, agent="bot")


def test_the_log_shows_messages_calls_and_results(log):
    agent(cold(log)).invoke(asked("Oslo"), thread("t"))
    state = log.context("bot/t").state
    assert [(message.role, message.content) for message in state.messages] == [
        ("user", "Oslo"),
        ("assistant", ""),
        ("tool", "sunny in Oslo"),
        ("assistant", "It is sunny in Oslo."),
    ]
    (call,) = state.tool_calls.values()
    assert (call.name, json.loads(call.arguments), call.status, call.result) == (
        "weather",
        {"city": "Oslo"},
        "returned",
        "sunny in Oslo",
    )


def test_a_cold_start_restores_what_the_graph_had(log):
    graph = agent(cold(log))
    for city in ("Oslo", "Rome"):
        graph.invoke(asked(city), thread("t"))
    warm = list(graph.get_state_history(thread("t")))
    assert list(agent(cold(log)).get_state_history(thread("t"))) == warm
    assert len(warm[0].values["messages"]) == 8


def test_the_same_put_again_changes_nothing(log):
    saver = cold(log)
    graph = agent(saver)
    graph.invoke(asked("Oslo"), thread("t"))
    version = log.context("bot/t").version
    for found in list(saver.list(thread("t"))):
        source = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        if found.parent_config:
            source["configurable"]["checkpoint_id"] = found.parent_config["configurable"]["checkpoint_id"]
        with saver._reading("t") as held:
            brought = held.checkpoints[("", found.checkpoint["id"])].data["values"]
        new = {channel: found.checkpoint["channel_versions"][channel] for channel in brought}
        for again in (saver, cold(log)):
            again.put(source, found.checkpoint, found.metadata, new)
    assert log.context("bot/t").version == version


def test_time_travel_restores_the_branch_and_nothing_of_the_other(log):
    graph = agent(cold(log))
    graph.invoke(asked("Oslo"), thread("t"))
    before = graph.get_state(thread("t"))
    graph.invoke(asked("Rome"), thread("t"))
    left = graph.get_state(thread("t"))
    graph.invoke(asked("Lima"), before.config)
    graph = agent(cold(log))
    texts = [message.content for message in graph.get_state(thread("t")).values["messages"]]
    assert "Rome" not in texts
    assert texts == [m.content for m in before.values["messages"]] + ["Lima", "", "sunny in Lima", "It is sunny in Lima."]
    assert graph.get_state(left.config).values == left.values


def test_changed_and_removed_messages_are_restored_as_they_are(log):
    graph = agent(cold(log))
    graph.invoke(asked("Oslo"), thread("t"))
    before = graph.get_state(thread("t"))
    first, second = before.values["messages"][0], before.values["messages"][1]
    graph.update_state(thread("t"), {"messages": [HumanMessage("Bergen", id=first.id), RemoveMessage(id=second.id)]})
    after = agent(cold(log)).get_state(thread("t")).values["messages"]
    assert [message.content for message in after] == ["Bergen", "sunny in Oslo", "It is sunny in Oslo."]
    assert agent(cold(log)).get_state(before.config).values == before.values


def test_a_copy_goes_on_apart(log):
    saver = cold(log)
    graph = agent(saver)
    graph.invoke(asked("Oslo"), thread("t"))
    saver.copy_thread("t", "copy")
    assert agent(cold(log)).get_state(thread("copy")).values == graph.get_state(thread("t")).values
    graph.invoke(asked("Rome"), thread("copy"))
    assert len(graph.get_state(thread("t")).values["messages"]) == 4
    assert len(graph.get_state(thread("copy")).values["messages"]) == 8


class Items(TypedDict):
    items: Annotated[list, DeltaChannel(lambda state, writes: state + [item for write in writes for item in write])]


def counting(saver):
    graph = StateGraph(Items)
    graph.add_node("count", lambda state: {"items": [f"a{len(state['items'])}"]})
    graph.add_edge(START, "count")
    graph.add_edge("count", END)
    return graph.compile(checkpointer=saver)


def test_a_pruned_thread_is_copied_with_what_its_delta_channels_are_built_on(log):
    graph = counting(cold(log))
    for turn in range(3):
        graph.invoke({"items": [f"u{turn}"]}, thread("t"))
    whole = graph.get_state(thread("t")).values
    assert whole == {"items": ["u0", "a1", "u1", "a3", "u2", "a5"]}
    cold(log).prune(["t"])
    assert counting(cold(log)).get_state(thread("t")).values == whole
    cold(log).copy_thread("t", "copy")
    assert counting(cold(log)).get_state(thread("copy")).values == whole
    assert len(list(cold(log).list(thread("copy")))) == 1
    version = log.context("bot/copy").version
    cold(log).copy_thread("t", "copy")
    assert log.context("bot/copy").version == version


def checkpoint(checkpoint_id, **channels):
    """A checkpoint with a value and a version for each channel."""
    made = empty_checkpoint()
    made["id"] = checkpoint_id
    made["channel_values"] = {channel: value for channel, (value, _) in channels.items() if value is not None}
    made["channel_versions"] = {channel: version for channel, (_, version) in channels.items()}
    return made


@pytest.mark.parametrize("warm", [True, False])
def test_other_content_under_the_same_id_leaves_what_was_built_on_the_first(log, warm):
    saver = cold(log)
    at = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    one, two, three = (HumanMessage(f"m{number}", id=f"m{number}") for number in (1, 2, 3))
    first = saver.put(at, checkpoint("1", messages=([one, two], "1")), {}, {"messages": "1"})
    second = saver.put(first, checkpoint("2", messages=([one, two, three], "2")), {}, {"messages": "2"})
    saver.put(at, checkpoint("1", messages=([HumanMessage("changed", id="x")], "1b")), {}, {"messages": "1b"})
    saver = saver if warm else cold(log)
    assert saver.get_tuple(second).checkpoint["channel_values"]["messages"] == [one, two, three]
    assert [m.content for m in saver.get_tuple(first).checkpoint["channel_values"]["messages"]] == ["changed"]


def test_a_deleted_value_does_not_come_back(log):
    saver = cold(log)
    at = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    saver.put(at, checkpoint("1", secret=("old", 1)), {}, {"secret": 1})
    saver.delete_thread("t")
    put = saver.put(at, checkpoint("2", secret=(None, 1)), {}, {})
    for one in (saver, cold(log)):
        assert "secret" not in one.get_tuple(put).checkpoint["channel_values"]


@pytest.mark.parametrize("name", ["", "%", "a/b", "ü", "u\u0308", "a\nb", "%25", "\ud800", "x y"])
def test_any_name_of_a_thread_is_kept(log, name):
    saver = cold(log)
    saver.put(thread(name), empty_checkpoint(), {"source": "input"}, {})
    (found,) = saver.list(None)
    assert found.config["configurable"]["thread_id"] == name
    assert cold(log).get_tuple(thread(name)) is not None


def test_a_name_too_long_for_a_stream_is_refused(log):
    with pytest.raises(
        InvalidInputError, match="thread_id, behind the agent's name: its written name has 304 bytes, expected at most 255"
    ):
        cold(log).put(thread("x" * 300), empty_checkpoint(), {"source": "input"}, {})


def test_messages_that_no_event_has_room_for_are_exact(log):
    rich = AIMessage(
        [{"type": "text", "text": "hi"}, {"type": "image", "n": 1.0}],
        id="m",
        additional_kwargs={"x": [1, None]},
        response_metadata={"model": "s"},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    )
    long = HumanMessage("é" * 1_500_000, id="long")
    graph = agent(cold(log))
    graph.update_state(thread("t"), {"messages": [rich, long], "steps": 1}, as_node="tool")
    assert agent(cold(log)).get_state(thread("t")).values["messages"] == [rich, long]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("Checkpoint", "{"),
        ("Checkpoint", "[]"),
        ("Checkpoint", '{"ns": "", "id": "1", "messages": {}, "values": 3, "parent": null, "versions": {}}'),
        ("Writes", '{"ns": "", "id": "1", "writes": [1], "task": "x", "path": ""}'),
        ("Hidden", '{"checkpoints": 7}'),
        ("Hidden", "[" * 100_000),
    ],
)
def test_events_that_no_saver_wrote_are_refused(log, name, data):
    log.context("bot/t").append(ExtensionRecorded(name=f"langgraph.{name}", data=data))
    with pytest.raises(IntegrityError, match="of stream 'bot/t'"):
        cold(log).get_tuple(thread("t"))
    with pytest.raises(IntegrityError, match="of stream 'bot/t'"):  # Whoever lists all threads is told which.
        list(cold(log).list(None))


@pytest.mark.parametrize("kind", ["pickle", "json", "msgpack", "other"])
def test_a_value_that_names_code_runs_none(log, kind, tmp_path):
    import base64
    import pickle

    import ormsgpack

    trap = tmp_path / "trapped"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    named = ormsgpack.Ext(0, ormsgpack.packb(["pathlib", "Path.touch", str(trap)]))
    call = ormsgpack.Ext(1, ormsgpack.packb(["os", "system", [f"touch {trap}"]]))
    body = {
        "pickle": pickle.dumps(Trap()),
        "json": json.dumps({"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [f"touch {trap}"]}).encode(),
        "msgpack": ormsgpack.packb([named, call]),
        "other": b"",
    }[kind]
    value = {"t": kind, "b": base64.b64encode(body).decode()}
    data = {"ns": "", "id": "1", "parent": None, "versions": {"x": "1"}, "values": {"x": value}, "messages": {}}
    data |= {"checkpoint": {"j": {"id": "1"}}, "metadata": {"j": {}}}
    log.context("bot/t").append(ExtensionRecorded(name="langgraph.Checkpoint", data=json.dumps(data)))
    if kind == "msgpack":
        cold(log).get_tuple(thread("t"))
    else:
        with pytest.raises(IntegrityError):
            cold(log).get_tuple(thread("t"))
    assert not trap.exists()


def talk(log, kind, **options):
    """As `talk_with`, kept in a log."""
    return talk_with(cold(log), kind, **options)


@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("ids", [True, False], ids=["with-ids", "without"])
@pytest.mark.parametrize("kind", [Said, SaidByWrites], ids=["list", "delta"])
def test_each_message_is_one_event_in_the_order_in_which_they_were_said(log, kind, ids, durability):
    built = talk(log, kind, ids=ids, durability=durability)
    expected = [f"message {number:02}." for number in range(12)]
    for graph in (built, talk_again(log, kind)):
        assert [message.content for message in graph.get_state(thread("t")).values["messages"]] == expected
    built.update_state(thread("t"), {"messages": [HumanMessage("message 12.", id="m12")]})  # What came last is shown by then.
    state = log.context("bot/t").state
    assert [message.content for message in state.messages] == [*expected, "message 12."]
    assert [call.status for call in state.tool_calls.values()] == ["returned"] * 3 + ["open"]


def talk_again(log, kind):
    graph = StateGraph(kind)
    graph.add_node("say", lambda state: {})
    graph.add_edge(START, "say")
    return graph.compile(checkpointer=cold(log))


@pytest.mark.parametrize("ids", [True, False], ids=["with-ids", "without"])
@pytest.mark.parametrize("kind", [Said, SaidByWrites], ids=["list", "delta"])
def test_the_text_of_a_message_is_stored_once(log, kind, ids):
    talk(log, kind, ids=ids, slow=0.05)  # Slow enough that a write is there before the checkpoint after it.
    stored = b"".join(record.value for record in log.log.read(0, 0, log.log.bounds(0).end))
    assert [stored.count(b"message %02d." % number) for number in range(1, 12)] == [1] * 11


def test_a_message_that_a_node_changes_in_place_is_restored_as_changed(log):
    def change(state):
        state["messages"][0].additional_kwargs["seen"] = len(state["messages"])
        return {"messages": [AIMessage("seen", id=f"m{len(state['messages'])}")]}

    graph = StateGraph(Said)
    graph.add_node("change", change)
    graph.add_edge(START, "change")
    graph.add_conditional_edges("change", lambda state: "change" if len(state["messages"]) < 4 else END)
    built = graph.compile(checkpointer=cold(log))
    built.invoke({"messages": [HumanMessage("hi", id="m0", additional_kwargs={"a": {"b": 1}})]}, thread("t"), durability="sync")
    seen = {
        len(found.values["messages"]): found.values["messages"][0].additional_kwargs.get("seen")
        for found in graph.compile(checkpointer=cold(log)).get_state_history(thread("t"))
        if found.values.get("messages")
    }
    assert seen == {1: None, 2: 1, 3: 2, 4: 3}


def put_list(saver, config, step, messages):
    """Put a checkpoint that holds a list of messages; its config."""
    checkpoint = empty_checkpoint()
    checkpoint["id"] = str(step)
    checkpoint["channel_versions"] = {"messages": str(step)}
    checkpoint["channel_values"] = {"messages": messages}
    return saver.put(config, checkpoint, {"source": "loop", "step": step}, {"messages": str(step)})


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_write_and_the_checkpoint_with_its_message_are_one_event_whichever_comes_first(log, when):
    """LangGraph gives a message without an id one while it is being kept."""
    saver = cold(log)
    first = put_list(saver, {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, 1, [HumanMessage("hi", id="m0")])
    written = [("messages", [AIMessage("yes"), AIMessage("yes"), AIMessage("no", id="m3")])]
    if when == "before":
        saver.put_writes(first, written, "task")
    held = [HumanMessage("hi", id="m0"), AIMessage("yes", id="m1"), AIMessage("yes", id="m2"), AIMessage("no", id="m3")]
    second = put_list(saver, first, 2, held)
    if when == "after":
        saver.put_writes(first, written, "task")
    assert [message.content for message in log.context("bot/t").state.messages] == ["hi", "yes", "yes", "no"]
    for checked in (saver, cold(log)):
        assert checked.get_tuple(second).checkpoint["channel_values"]["messages"] == held
        assert checked.get_tuple(first).pending_writes == [("task", *written[0])]


def test_a_message_that_is_equal_in_python_and_not_in_json_is_another_one(log):
    saver, config = cold(log), {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for step, value in enumerate([1, True, 1.0, 0.0, -0.0]):
        config = put_list(saver, config, step, [HumanMessage("hi", id="m0", additional_kwargs={"k": [value]})])
        assert (
            repr(cold(log).get_tuple(config).checkpoint["channel_values"]["messages"][0].additional_kwargs)
            == f"{{'k': [{value}]}}"
        )


def test_what_is_stored_grows_with_what_changes(log):
    graph, sizes = agent(cold(log)), {}
    for turn in range(1, 101):
        graph.invoke(asked(f"city {turn:03}"), thread("t"))
        if turn in (50, 100):
            sizes[turn] = sum(accepted.event.size for accepted in log.context("bot/t").accepted())
    print(f"bytes after 50 and 100 turns: {sizes}")
    assert sizes[100] < 2.1 * sizes[50]


WRITER = """
    import sys
    from langgraph_graphs import Said, SaidByWrites, agent, asked, talk_with, thread
    from ctxlog import ContextLog
    from ctxlog.adapters.langgraph import CtxlogSaver
    with ContextLog.open(sys.argv[1]) as log:
        graph = agent(CtxlogSaver(log, agent="bot"))
        start = thread("t")
        start["configurable"].update(checkpoint_ns="", checkpoint_id=sys.argv[3])
        for turn in range(5):
            graph.invoke(asked(f"{sys.argv[2]}{turn}"), start)
            start = max(
                (found.config for found in graph.get_state_history(thread("t"))
                 if found.values["messages"] and found.values["messages"][-1].content == f"It is sunny in {sys.argv[2]}{turn}."),
                key=lambda config: config["configurable"]["checkpoint_id"])
"""

KILLED = """
    import os, signal, sys
    from langgraph_graphs import Said, SaidByWrites, agent, asked, talk_with, thread
    from ctxlog import ContextLog
    from ctxlog.adapters.langgraph import CtxlogSaver
    def tool(state):
        os.kill(os.getpid(), signal.SIGKILL)
    with ContextLog.open(sys.argv[1]) as log:
        agent(CtxlogSaver(log, agent="bot"), tool=tool).invoke(asked("Oslo"), thread("t"), durability="sync")
"""


def script(text, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(text), *arguments], env=environment)


def test_writers_in_several_processes_keep_their_branches_apart(log):
    graph = agent(cold(log))
    graph.invoke(asked("Oslo"), thread("t"))
    start = graph.get_state(thread("t")).config["configurable"]["checkpoint_id"]
    writers = [script(WRITER, log.log.url, name, start) for name in ("a", "b", "c")]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    branches = {}
    for found in agent(cold(log)).get_state_history(thread("t")):
        texts = [message.content for message in found.values.get("messages", []) if message.type == "human"]
        if len(texts) == 6 and not found.next:
            branches[texts[-1][0]] = texts
    assert branches == {name: ["Oslo", *(f"{name}{turn}" for turn in range(5))] for name in ("a", "b", "c")}


def test_a_graph_that_was_killed_goes_on_where_it_was(log):
    killed = script(KILLED, log.log.url)
    assert killed.wait(60) == -signal.SIGKILL
    graph = agent(cold(log))
    assert graph.get_state(thread("t")).next == ("tool",)
    done = graph.invoke(None, thread("t"))
    assert [message.content for message in done["messages"]] == ["Oslo", "", "sunny in Oslo", "It is sunny in Oslo."]
    assert done["steps"] == 3


def test_pruning_keeps_what_delta_channels_are_built_on(log):
    saver, config = cold(log), {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for step in range(4):
        checkpoint = empty_checkpoint()
        checkpoint["id"] = f"{step}"
        checkpoint["channel_versions"] = {"d": f"{step}"}
        checkpoint["channel_values"] = {"d": "seed"} if step == 0 else {}
        config = saver.put(config, checkpoint, {"source": "loop", "step": step}, {"d": f"{step}"})
        saver.put_writes(config, [("d", step)], f"task{step}")
    expected = {"d": {"writes": [(f"task{step}", "d", step) for step in range(3)], "seed": "seed"}}
    assert saver.get_delta_channel_history(config=config, channels=["d"]) == expected
    saver.prune(["t"])
    again = cold(log)
    seen = [found.config["configurable"]["checkpoint_id"] for found in again.list(thread("t"))]
    assert seen == ["3"]
    assert again.get_delta_channel_history(config=config, channels=["d"]) == expected


def test_a_deleted_thread_begins_anew(log):
    saver = cold(log)
    graph = agent(saver)
    graph.invoke(asked("Oslo"), thread("t"))
    saver.delete_thread("t")
    assert cold(log).get_tuple(thread("t")) is None
    graph.invoke(asked("Rome"), thread("t"))
    texts = [message.content for message in agent(cold(log)).get_state(thread("t")).values["messages"]]
    assert texts == ["Rome", "", "sunny in Rome", "It is sunny in Rome."]


@pytest.mark.parametrize("place", range(4))
def test_a_message_changed_at_any_place_is_restored(log, place):
    graph = agent(cold(log))
    many = [HumanMessage(f"m{number}", id=f"{number}") for number in range(4)]
    graph.update_state(thread("t"), {"messages": many, "steps": 1}, as_node="tool")
    graph.update_state(thread("t"), {"messages": [HumanMessage("new", id=f"{place}")], "steps": 1}, as_node="tool")
    graph.update_state(thread("t"), {"messages": [HumanMessage("last", id="last")], "steps": 1}, as_node="tool")
    many[place] = HumanMessage("new", id=f"{place}")
    state = agent(cold(log)).get_state(thread("t"))
    assert state.values["messages"] == [*many, HumanMessage("last", id="last")]


def test_the_face_of_a_log_for_coroutines_is_refused(log):
    """It would give coroutines that nobody awaits, and everything would look as if it had been kept."""
    for kind in (CtxlogSaver, CtxlogStore):
        with pytest.raises(InvalidInputError, match="expected a ContextLog, found AsyncContextLog"):
            kind(AsyncContextLog(log), agent="bot")

"""What CtxlogStore writes into a log, and what only a log can break: times, forks, hostile facts, decisions, SQL."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedStore, ToolNode
from langgraph.runtime import Runtime
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    PutOp,
    SearchOp,
)

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver, CtxlogStore
from ctxlog.client.updating import committed
from ctxlog.errors import IntegrityError, InvalidInputError, LineageError, RecordTooLargeError
from ctxlog.model.events import ExtensionRecorded, FactSet, StreamForked


@pytest.fixture
def log(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        yield log


def cold(log):
    """A store that has read nothing yet."""
    return CtxlogStore(log, agent="bot")


# What it is in the log


def test_items_are_facts(log):
    store = cold(log)
    store.put(("memories", "user-1"), "food", {"likes": "tea"})
    store.put(("memories", "user-1"), "x/y", {"at": datetime(2026, 11, 25, tzinfo=UTC)})
    context = log.context("shared/store/memories/user-1")
    assert context.state.facts["food"].parsed() == {"likes": "tea"}
    assert context.state.facts.keys() == {"food", "x/y"}
    assert store.get(("memories", "user-1"), "x/y").value == {"at": datetime(2026, 11, 25, tzinfo=UTC)}
    (first, _) = context.accepted()
    assert first.event.meta["actor"] == "agent:bot"
    store.delete(("memories", "user-1"), "food")
    assert context.state.facts.keys() == {"x/y"}


def test_what_json_cannot_carry_stands_beside_what_it_can(log):
    store, at = cold(log), datetime(2026, 11, 25, tzinfo=UTC)
    value = {"likes": "tea", "big": 2**70, "said": "\ud800", "at": at, "in": [{"a": (1, {2: 3})}, {"langgraph.typed": {"j": 4}}]}
    store.put(("a",), "k", value)
    text = log.context("shared/store/a").state.facts["k"].value
    assert {**json.loads(text), "at": at, "in": value["in"]} == value
    assert cold(log).get(("a",), "k").value == {**value, "in": [{"a": [1, {2: 3}]}, {"langgraph.typed": {"j": 4}}]}


def test_a_fact_that_somebody_sets_there_is_an_item(log):
    store = cold(log)
    store.put(("users",), "ann", {"likes": "tea"})
    log.context("shared/store/users").set_fact("ben", {"likes": "rum"})
    assert store.get(("users",), "ben").value == {"likes": "rum"}
    assert [item.key for item in store.search(("users",))] == ["ben", "ann"]


def test_puts_of_a_batch_into_one_namespace_are_one_append(log):
    cold(log).batch([PutOp(("a",), f"k{number}", {"n": number}) for number in range(5)] + [PutOp(("b",), "k", {})])
    assert {accepted.event.meta["append"]["count"] for accepted in log.context("shared/store/a").accepted()} == {5}
    assert log.context("shared/store/b").version == 1


def test_more_puts_than_an_append_can_have_are_several(log):
    store = cold(log)
    store.batch([PutOp(("a",), f"k{number}", {"n": number}) for number in range(1003)])
    assert len(store.search(("a",), limit=2000)) == 1003
    store.batch([PutOp(("a",), f"k{number}", None) for number in range(1003)])
    assert store.search(("a",), limit=2000) == []


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"n": value}
    return value


def test_where_one_put_cannot_be_nothing_is_put(log):
    store = cold(log)
    for broken in (
        PutOp(("b",), "k", 7),
        PutOp(("b" * 300,), "k", {}),
        PutOp(("b",), "k" * 300, {}),
        PutOp(("b",), "k", {"x": object()}),
        PutOp(("b",), "k", {}, None, -1.0),
        PutOp(("b",), "k", {}, None, float("nan")),
        PutOp(("b",), 7, {}),
        PutOp((), "k", {}),
        PutOp(("b.c",), "k", {}),
        PutOp("b", "k", {}),
        SearchOp((), limit=-1),
        SearchOp((), filter={"n": {"$in": 1}}),
        SearchOp((), query="tea"),
    ):
        with pytest.raises((InvalidInputError, InvalidNamespaceError)):
            store.batch([PutOp(("a",), "k", {"n": 1}), broken])
    assert log.matching() == []


def test_an_item_larger_than_a_record_is_refused(log):
    store = cold(log)
    with pytest.raises(RecordTooLargeError):
        store.put(("a",), "k", {"text": "x" * 1_100_000})
    assert store.get(("a",), "k") is None


def test_deleting_what_is_not_there_writes_nothing(log):
    store = cold(log)
    store.delete(("a",), "k")
    store.put(("a",), "k", {})
    store.delete(("a",), "other")
    store.delete(("a" * 300,), "k")
    assert log.context("shared/store/a").version == 1
    assert log.matching() == ["shared/store/a"]


def test_of_two_removals_at_once_one_writes(log, monkeypatch):
    store, other = cold(log), cold(log)
    store.put(("a",), "k", {})
    real, faster = committed, [True]

    def slow(context, events, options):
        if faster.pop() if faster else False:
            other.delete(("a",), "k")
        return real(context, events, options)

    monkeypatch.setattr("ctxlog.adapters.langgraph.store.committed", slow)
    store.delete(("a",), "k")
    replay = log.context("shared/store/a").replay()
    assert (replay.state.version, replay.state.facts, replay.anomalies) == (2, {}, ())


def test_of_puts_of_one_key_in_a_batch_the_last_counts_in_its_place(log):
    store = cold(log)
    store.batch([PutOp(("a",), "one", {"n": 1}), PutOp(("a",), "two", {"n": 2}), PutOp(("a",), "one", {"n": 3})])
    assert [(item.key, item.value["n"]) for item in store.search(())] == [("one", 3), ("two", 2)]
    assert log.context("shared/store/a").version == 2


def test_pages_of_a_search_make_up_the_whole(log):
    store = cold(log)
    for number in range(7):
        store.put(("a", f"{number % 3}"), f"k{number}", {"n": number})
    whole = store.search((), limit=7)
    assert [item.value["n"] for item in whole] == [6, 3, 0, 4, 1, 5, 2]
    assert [item for offset in range(0, 8, 2) for item in store.search((), limit=2, offset=offset)] == whole
    some, wanted = [item for item in whole if item.value["n"] >= 2], {"n": {"$gte": 2}}
    assert [item for offset in range(0, 6, 2) for item in store.search((), filter=wanted, limit=2, offset=offset)] == some


def test_what_is_read_can_be_changed_without_harm(log):
    store = cold(log)
    value = {"likes": ["tea"]}
    store.put(("a",), "k", value)
    value["likes"].append("rum")
    store.get(("a",), "k").value["likes"].append("gin")
    store.search(("a",))[0].value["likes"].clear()
    assert store.get(("a",), "k").value == {"likes": ["tea"]}


# Time


def test_times_are_those_of_the_log_and_survive_a_restart(log):
    store, before = cold(log), datetime.now(UTC) - timedelta(seconds=1)
    store.put(("a",), "k", {"n": 1})
    created = store.get(("a",), "k")
    assert created.created_at == created.updated_at
    time.sleep(0.01)
    store.put(("a",), "k", {"n": 2})
    changed = store.get(("a",), "k")
    assert before < changed.created_at == created.created_at < changed.updated_at < datetime.now(UTC) + timedelta(seconds=1)
    with ContextLog.open(log.log.url) as again:
        assert cold(again).get(("a",), "k") == changed
        assert [item.updated_at for item in cold(again).search(())] == [changed.updated_at]
    store.batch([PutOp(("a",), "k", None)])
    store.put(("a",), "k", {"n": 3})
    assert store.get(("a",), "k").created_at > changed.created_at


def test_a_copy_of_the_log_has_the_same_items_and_times(log, tmp_path):
    store = cold(log)
    store.put(("a",), "k", {"n": 1})
    time.sleep(0.01)
    url = f"embedded:{tmp_path / 'copy'}"
    subprocess.run([sys.executable, "-m", "ctxlog.cli", "--log", log.log.url, "copy", url], check=True)
    with ContextLog.open(url) as copy:
        assert cold(copy).get(("a",), "k") == store.get(("a",), "k")


def test_a_ttl_counts_from_the_put_and_what_expired_is_nowhere(log):
    store = cold(log)
    store.put(("a",), "k", {"n": 1}, ttl=60)
    store.put(("b",), "k", {"n": 1}, ttl=0.02 / 60)
    expires_at = log.context("shared/store/a").state.facts["k"].expires_at
    assert abs(expires_at / 1e6 - time.time() - 3600) < 60
    time.sleep(0.03)
    store.get(("a",), "k", refresh_ttl=True)
    assert log.context("shared/store/a").version == 1
    assert store.get(("b",), "k") is None
    assert [item.namespace for item in store.search(())] == [("a",)] == store.list_namespaces()
    store.put(("b",), "k", {"n": 2})
    assert store.get(("b",), "k").value == {"n": 2}


def test_a_fork_has_the_items_of_its_parent(log):
    store = cold(log)
    store.put(("a",), "one", {"n": 1})
    store.put(("a",), "two", {"n": 2})
    store.put(("a",), "kept", {"n": 5})
    time.sleep(0.002)
    log.context("shared/store/a").fork("shared/store/b")
    store.put(("b",), "one", {"n": 3})
    store.delete(("b",), "two")
    store.put(("a",), "late", {"n": 4})
    for one in (store, cold(log)):
        assert [(item.key, item.value["n"]) for item in one.search(("b",))] == [("one", 3), ("kept", 5)]
        assert one.get(("b",), "kept").created_at > one.get(("a",), "kept").created_at


# Comparing


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        ({"n": 2**53 + 1}, ["big"]),
        ({"n": {"$gt": 2**53}}, ["big"]),
        ({"at": {"$gte": "2026-02"}}, ["late"]),
        ({"at": {"$lt": "2026-02"}}, ["early"]),
        ({"n": {"$gte": 0}}, ["big", "text"]),
        ({"n": {"$gt": "a"}}, []),
        ({"at": {"$ne": None}}, ["early", "late"]),
        ({"in": {"a": 1}}, ["text"]),
        ({"in": {"a": 1, "b": {"$lte": 2}}}, ["text"]),
        ({"in": {"a": 1, "b": {"$lte": 1}}}, []),
    ],
)
def test_a_filter_compares_numbers_and_texts_and_lets_nothing_else_through(log, wanted, keys):
    store = cold(log)
    store.put(("a",), "big", {"n": 2**53 + 1})
    store.put(("a",), "early", {"at": "2026-01-31"})
    store.put(("a",), "late", {"at": "2026-02-01", "n": None})
    store.put(("a",), "text", {"n": "7", "in": {"a": 1, "b": 2}})
    assert sorted(item.key for item in store.search(("a",), filter=wanted)) == keys


# Hostile


NO_ITEMS = {
    "number": "7",
    "list": "[]",
    "null": "null",
    "no JSON": "{",
    "deep": "[" * 100_000,
    "pickle": '{"langgraph.typed": {"t": "pickle", "b": "gASVAAAAAAAAAAA="}}',
    "other type": '{"n": {"langgraph.typed": 7}}',
    "no base64": '{"n": [{"langgraph.typed": {"t": "msgpack", "b": "!"}}]}',
    "no mapping": '{"langgraph.typed": {"t": "msgpack", "b": "Bw=="}}',
}


@pytest.mark.parametrize("text", NO_ITEMS.values(), ids=NO_ITEMS)
def test_a_fact_that_is_no_item_is_told_and_can_be_replaced(log, text):
    store = cold(log)
    store.put(("a",), "good", {"n": 1})
    log.context("shared/store/a").append(FactSet(key="bad", value=text))
    for one in (store, cold(log)):
        assert one.get(("a",), "good").value == {"n": 1}
        for read in (GetOp(("a",), "bad"), SearchOp(())):
            with pytest.raises(IntegrityError) as caught:
                one.batch([read])
            assert "'shared/store/a': expected fact 'bad'" in str(caught.value)
            assert text not in str(caught.value) or text == "7"
    store.put(("a",), "bad", {"n": 2})
    assert len(cold(log).search(())) == 2


def test_names_that_no_store_writes_are_passed_over(log):
    store = cold(log)
    store.put(("a",), "k", {"n": 1})
    for stream in (
        "shared/store/ü",
        "shared/store/%61",
        "shared/store/a//b",
        "shared/store/%ff",
        "shared/store/a.b",
        "shared/store/",
        "shared/storehouse",
    ):
        log.context(stream).set_fact("k", {"n": 2})
    for fact in ("ü", "%6b", "%6B", "%ff", "%%"):
        log.context("shared/store/a").set_fact(fact, {"n": 3})
    log.context("shared/store/a").add_message("user", "Hello?")
    log.context("shared/store/a").append(ExtensionRecorded(name="other.Event", data="{"))
    for one in (store, cold(log)):
        assert [(item.namespace, item.key) for item in one.search(())] == [(("a",), "k")]
        assert one.list_namespaces() == [("a",)]


def test_a_namespace_whose_stream_has_no_state_is_told(log):
    store = cold(log)
    store.put(("a",), "k", {"n": 1})
    forged = StreamForked(parent_stream_id="nowhere", parent_version=3, parent_chain_head="0" * 64)
    log.context("shared/store/b").append(forged)
    for _ in range(2):
        with pytest.raises(LineageError):
            store.get(("b",), "k")
    assert store.get(("a",), "k").value == {"n": 1}


def test_many_new_namespaces_are_listed_in_order(log):
    store, other = cold(log), cold(log)
    assert store.list_namespaces() == []
    for count in (3, 150, 1):
        other.batch([PutOp((f"{count}", f"{n}"), "k", {}) for n in range(count)])
        found = store.list_namespaces(limit=1000)
        assert found == sorted(found) == cold(log).list_namespaces(limit=1000)
        assert len([labels for labels in found if labels[0] == f"{count}"]) == count


# Decisions, graphs, SQL


def test_what_a_decision_was_shown_is_recorded(log):
    store = cold(log)
    store.put(("users",), "ann", {"likes": "tea"})
    store.put(("users",), "ben", {"likes": "rum"})
    store.put(("other",), "x", {})
    facts = log.context("shared/store/users").state.facts
    with log.decision("greet", agent="bot"):
        store.get(("users",), "ann")
        store.search(("users",), filter={"likes": "gin"})
        asyncio.run(store.asearch((), filter={"likes": "rum"}))
        store.put(("users",), "ann", {"likes": "tea", "greeted": True})
    reads = [
        accepted.event.payload
        for accepted in log.context("decisions/bot").accepted()
        if accepted.event.type == "ctxlog.ContextRead"
    ]
    assert [(read["streams"][0]["stream_id"], read["streams"][0]["revealed"]) for read in reads] == [
        ("shared/store/users", [facts["ann"].event_id]),
        ("shared/store/users", []),
        ("shared/store/users", [facts["ben"].event_id]),
    ]
    *_, put = log.context("shared/store/users").accepted()
    decided = [accepted.event.payload for accepted in log.context("decisions/bot").accepted()][-1]
    assert put.event.meta["trace"]["causation_id"] == decided["decision_id"]


def test_a_graph_remembers_across_threads(log):
    @dataclass
    class Context:
        user: str

    class State(TypedDict):
        said: str
        known: list

    def remember(state, runtime: Runtime[Context]):
        place = ("memories", runtime.context.user)
        known = [item.value["said"] for item in runtime.store.search(place)]
        runtime.store.put(place, state["said"], {"said": state["said"]})
        return {"known": known}

    async def aremember(state, runtime: Runtime[Context]):
        found = await runtime.store.asearch(("memories", runtime.context.user))
        return {"known": [item.value["said"] for item in found]}

    def compiled(node):
        graph = StateGraph(State, context_schema=Context)
        graph.add_node("remember", node)
        graph.add_edge(START, "remember")
        return graph.compile(checkpointer=CtxlogSaver(log, agent="bot"), store=cold(log))

    for turn in ("I like tea.", "I like rum."):
        config = {"configurable": {"thread_id": turn}}
        found = compiled(remember).invoke({"said": turn}, config, context=Context("ann"))
    assert found["known"] == ["I like tea."]
    config = {"configurable": {"thread_id": "other"}}
    found = asyncio.run(compiled(aremember).ainvoke({"said": "?"}, config, context=Context("ann")))
    assert found["known"] == ["I like rum.", "I like tea."]
    assert compiled(remember).invoke({"said": "?"}, config, context=Context("ben"))["known"] == []


def test_a_tool_gets_the_store_that_its_graph_has(log):
    @tool
    def remember(key: str, fact: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
        """Keep a fact."""
        store.put(("facts",), key, {"fact": fact})
        return "kept"

    call = {"name": "remember", "args": {"key": "drink", "fact": "likes tea"}, "id": "call-1"}
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda _: {"messages": [AIMessage("", tool_calls=[call])]})
    graph.add_node("tools", ToolNode([remember]))
    graph.add_edge(START, "model")
    graph.add_edge("model", "tools")
    done = graph.compile(checkpointer=CtxlogSaver(log, agent="bot"), store=cold(log)).invoke(
        {"messages": [("user", "I like tea.")]}, {"configurable": {"thread_id": "t"}}
    )
    assert done["messages"][-1].content == "kept"
    assert cold(log).get(("facts",), "drink").value == {"fact": "likes tea"}


def test_items_show_in_the_program_and_in_sql(log, tmp_path):
    cold(log).put(("memories", "ann"), "food", {"likes": "tea"})
    program = [sys.executable, "-m", "ctxlog.cli", "--log", log.log.url]
    shown = subprocess.run([*program, "show", "shared/store/memories/ann"], check=True, capture_output=True, text=True).stdout
    assert 'food  {"likes": "tea"}' in shown
    subprocess.run([*program, "projector", "run", "--once"], check=True, capture_output=True)
    sql = "SELECT key, value->>'likes' AS likes FROM facts WHERE stream_id LIKE 'shared/store/memories/%'"
    rows = subprocess.run([*program, "query", sql, "-o", "jsonl"], check=True, capture_output=True, text=True).stdout
    assert json.loads(rows) == {"key": "food", "likes": "tea"}

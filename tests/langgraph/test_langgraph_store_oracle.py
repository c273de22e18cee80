"""CtxlogStore against LangGraph's own InMemoryStore: the same operations, hostile names and values, and search by meaning."""

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogStore
from ctxlog.errors import InvalidInputError

LABELS = st.sampled_from(
    ["a", "b", "%41", "%", "/", "a/b", "*", "ü", "u\u0308", "\u0301", "\ud800", "a\nb", " ", "Ab"]
) | st.text(st.characters(exclude_characters=".\0"), min_size=1, max_size=3)
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["", "%", "k", "a/b", "ü", "\ud800", "fact:k", "%25"]) | st.text(max_size=4)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", "10", "9", "1e3", "langgraph.typed"])
    | st.text(max_size=5)
)
EXACT = SCALARS | st.binary(max_size=4) | st.datetimes(timezones=st.just(UTC))
"""What LangGraph's serializer gives back as it was, beside JSON's own."""
VALUES = st.dictionaries(
    st.sampled_from(["n", "m", "langgraph.typed", "", "$gt"]) | st.text(max_size=3),
    st.recursive(EXACT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_size=4,
)
OPERATORS = st.dictionaries(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), SCALARS, min_size=1, max_size=2)
FILTERS = st.none() | st.dictionaries(st.sampled_from(["n", "m", ""]), SCALARS | OPERATORS | st.lists(SCALARS), max_size=2)
SMALL = st.integers(0, 3)
NONE, TRUE = st.none(), st.just(True)  # What is not asked about here; `builds` would make something up.
SEARCHES = st.builds(SearchOp, st.just(()) | NAMESPACES, FILTERS, st.just(100) | SMALL, SMALL, NONE, TRUE)
PATHS = st.lists(LABELS | st.just("*"), max_size=2).map(tuple)
LISTS = st.builds(
    ListNamespacesOp,
    st.lists(st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), PATHS), max_size=2).map(tuple),
    st.none() | SMALL,
    st.just(100) | SMALL,
    SMALL,
)
OPS = (
    st.builds(PutOp, NAMESPACES, KEYS, st.none() | VALUES, NONE, NONE)
    | st.builds(PutOp, st.sampled_from([("a",), ("a", "b")]), st.sampled_from(["k", "l"]), st.none() | VALUES, NONE, NONE)
    | st.builds(GetOp, NAMESPACES, KEYS, TRUE)
    | st.builds(GetOp, st.sampled_from([("a",), ("a", "b")]), st.sampled_from(["k", "l"]), TRUE)
    | SEARCHES
    | LISTS
)
BATCHES = st.lists(st.lists(OPS, max_size=6), max_size=5)


class Oracle:
    """LangGraph's store in memory, with the order of CtxlogStore, and without what it lists though nothing is there."""

    def __init__(self):
        self.store = InMemoryStore()
        self.order = []

    def batch(self, ops):
        self._drop_empty()
        # The order is the log's own: namespaces by name, in one the item that was put last first.
        results = [
            self._search(op) if isinstance(op, SearchOp) else None if isinstance(op, PutOp) else self._asked(op) for op in ops
        ]
        self.store.batch([op for op in ops if isinstance(op, PutOp)])
        for op in ops:
            if isinstance(op, PutOp):
                self.order = [place for place in self.order if place != (op.namespace, op.key)] + [(op.namespace, op.key)]
        return results

    def _asked(self, op):
        (result,) = self.store.batch([op])
        self._drop_empty()
        return result if isinstance(op, ListNamespacesOp) else shown(result)

    def _search(self, op):
        try:
            (found,) = self.store.batch([op._replace(limit=10**9, offset=0)])
        except (TypeError, ValueError, OverflowError):
            return Ellipsis  # It compares what has no order.
        found.sort(key=lambda item: (item.namespace, -self.order.index((item.namespace, item.key))))
        return [shown(item) for item in found][op.offset : op.offset + op.limit]

    def _drop_empty(self):
        for namespace in [name for name, items in self.store._data.items() if not items]:
            del self.store._data[namespace]


def shown(item):
    return item and (item.namespace, item.key, item.value, type(item.value))


def answers(results):
    """Results without times, which differ."""
    found = []
    for result in results:
        if isinstance(result, list):
            found.append([one if isinstance(one, tuple) else shown(one) for one in result])
        else:
            found.append(shown(result))
    return found


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if other is not Ellipsis:
            assert one == other


@pytest.fixture
def log(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        yield log


def cold(log):
    """A store that has read nothing yet."""
    return CtxlogStore(log, agent="bot")


LAST = st.lists(SEARCHES | LISTS, min_size=1, max_size=4)
EVERYTHING = [SearchOp((), limit=10**6), ListNamespacesOp(limit=10**6)]


@settings(max_examples=150)
@given(batches=BATCHES, last=LAST)
def test_what_is_put_is_found_as_in_the_store_in_memory(batches, last):
    oracle = Oracle()
    with ContextLog.open("memory:") as log:
        store = cold(log)
        for ops in batches:
            same(answers(store.batch(ops)), oracle.batch(ops))
        expected = oracle.batch([*EVERYTHING, *last])
        for one in (store, CtxlogStore(ContextLog(log.log), agent="bot")):
            same(answers(one.batch([*EVERYTHING, *last])), expected)


@settings(max_examples=10)
@given(batches=BATCHES, last=LAST)
def test_what_was_put_is_found_when_the_log_is_opened_again(tmp_path_factory, batches, last):
    folder, oracle = tmp_path_factory.mktemp("log"), Oracle()
    for ops in batches:
        with ContextLog.open(f"embedded:{folder}") as log:
            same(answers(cold(log).batch(ops)), oracle.batch(ops))
    with ContextLog.open(f"embedded:{folder}") as log:
        same(answers(cold(log).batch([*EVERYTHING, *last])), oracle.batch([*EVERYTHING, *last]))


@settings(max_examples=30)
@given(batches=BATCHES)
def test_awaited_is_the_same(batches):
    async def run(log):
        store = cold(log)
        return [answers(await store.abatch(ops)) for ops in batches]

    with ContextLog.open("memory:") as one, ContextLog.open("memory:") as other:
        store = cold(other)
        assert asyncio.run(run(one)) == [answers(store.batch(ops)) for ops in batches]


# Meaning


def letters(texts):
    """Embeds texts by how often they have some letters."""
    return [[float(text.count(letter)) for letter in "abcde"] for text in texts]


TEXTS = st.text("abcdex", max_size=6)
TEXTED = st.fixed_dictionaries(
    {"n": st.integers(0, 3)}, optional={"text": TEXTS, "tags": st.lists(TEXTS, max_size=3, unique=True)}
)


@settings(max_examples=60)
@given(
    values=st.dictionaries(st.tuples(st.sampled_from([("a",), ("a", "b"), ("c",)]), st.sampled_from("kl")), TEXTED, max_size=6),
    query=TEXTS.filter(bool),
    fields=st.sampled_from([None, ["text"], ["tags[*]"], ["text", "tags[*]"]]),
    wanted=st.none() | st.just({"n": {"$gte": 1}}),
    limit=SMALL,
    offset=SMALL,
)
def test_items_are_as_like_as_in_the_store_in_memory(values, query, fields, wanted, limit, offset):
    # None is of length 0: the store in memory divides by it.
    index = {"dims": 6, "embed": lambda texts: [[*vector, 1.0] for vector in letters(texts)], "fields": fields}
    oracle = InMemoryStore(index=index)
    with ContextLog.open("memory:") as log:
        store = CtxlogStore(log, agent="bot", index=index)
        for (namespace, key), value in values.items():
            store.put(namespace, key, value)
            with contextlib.suppress(ValueError):  # It takes no text twice.
                oracle.put(namespace, key, value)
        expected = {(item.namespace, item.key): item.score for item in oracle.search((), query=query, filter=wanted, limit=99)}
        found = store.search((), query=query, filter=wanted, limit=99)
        assert [item.score for item in found] == sorted(
            (item.score for item in found), key=lambda score: (score is None, -(score or 0))
        )
        for item in found:
            if (item.namespace, item.key) in expected:
                assert item.score == pytest.approx(expected[item.namespace, item.key], abs=1e-6)
        assert store.search((), query=query, filter=wanted, limit=limit, offset=offset) == found[offset : offset + limit]
        assert asyncio.run(store.asearch((), query=query, filter=wanted, limit=99)) == found


def test_each_value_is_embedded_once_in_a_process_and_nothing_of_it_is_in_the_log(log):
    embedded = []

    async def embed(texts):  # There is no other: as a client that can only be awaited.
        embedded.extend(texts)
        return letters(texts)

    async def run(store):
        await store.aput(("a",), "one", {"text": "abc"})
        await store.aput(("b",), "two", {"text": "cde"})
        first = await store.asearch((), query="e")
        await store.aput(("b",), "three", {"text": "eee"})
        return first, await store.asearch((), query="e", limit=1)

    index = {"dims": 5, "embed": embed, "fields": ["text"]}
    first, second = asyncio.run(run(CtxlogStore(log, agent="bot", index=index)))
    assert [item.key for item in first] == ["two", "one"]
    assert [(item.key, item.score) for item in second] == [("three", pytest.approx(1.0))]
    assert embedded == ["abc", "cde", "e", "eee", "e"]
    assert {accepted.event.type for stream in log.matching() for accepted in log.context(stream).accepted()} == {"ctxlog.FactSet"}
    again = CtxlogStore(log, agent="bot", index={**index, "embed": letters})
    assert [item.key for item in again.search((), query="e")] == ["three", "two", "one"]


def test_items_without_a_text_come_last_and_have_no_score(log):
    signs = {"dims": 1, "embed": lambda texts: [[1.0 if "a" in text else -1.0] for text in texts], "fields": ["text"]}
    store = CtxlogStore(log, agent="bot", index=signs)
    store.put(("a",), "unlike", {"text": "b", "at": datetime(2026, 11, 25, tzinfo=UTC)})
    store.put(("a",), "like", {"text": "a"})
    store.put(("a",), "none", {"at": datetime(2026, 11, 25, tzinfo=UTC)})
    assert [(item.key, item.score) for item in store.search((), query="a")] == [("like", 1.0), ("unlike", -1.0), ("none", None)]
    whole = CtxlogStore(log, agent="bot", index={"dims": 5, "embed": letters})
    assert all(item.score is not None for item in whole.search((), query="a"))


@pytest.mark.parametrize(
    "embed", [lambda texts: [], lambda texts: [[1.0]] * len(texts), lambda texts: [[1.0] * n for n in range(len(texts))]]
)
def test_embeddings_that_cannot_be_are_refused(log, embed):
    store = CtxlogStore(log, agent="bot", index={"dims": 5, "embed": embed})
    store.put(("a",), "one", {"text": "abc"})
    store.put(("a",), "two", {"text": "abd"})
    with pytest.raises(InvalidInputError):
        store.search((), query="a")


def test_an_index_without_embeddings_is_refused(log):
    with pytest.raises(InvalidInputError):
        CtxlogStore(log, agent="bot", index={"dims": 5})


def test_a_vector_of_length_zero_is_like_nothing(log):
    store = CtxlogStore(log, agent="bot", index={"dims": 5, "embed": letters, "fields": ["text"]})
    store.put(("a",), "one", {"text": "x"})
    store.put(("a",), "two", {"text": "a"})
    assert [(item.key, item.score) for item in store.search((), query="a")] == [("two", pytest.approx(1.0)), ("one", 0.0)]
    assert {item.score for item in store.search((), query="x")} == {0.0}

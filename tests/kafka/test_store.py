"""LangGraph's store on a broker: what is put is seen at once by whoever put it, and by others, wherever its namespace lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import PutOp

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogStore
from ctxlog.log.kafka import KafkaLog


@pytest.fixture
def url(kafka: Any, tmp_path: Path) -> str:
    found = f"{kafka.url()}&cache={tmp_path / 'cache'}"
    KafkaLog.create(found, 2)[0].close()
    return found


def test_a_store_on_a_broker_shows_what_was_put_to_whoever_asks(url: str) -> None:
    users = [f"user-{number}" for number in range(8)]
    with ContextLog.open(url) as one, ContextLog.open(url) as other:
        store, reader = CtxlogStore(one, agent="one"), CtxlogStore(other, agent="other")
        for number, user in enumerate(users):
            store.put(("memories", user), "n", {"n": number})
            for asked in (store, reader):
                found = asked.get(("memories", user), "n")
                assert found is not None
                assert found.value == {"n": number}
                assert len(asked.search(("memories",), limit=100)) == number + 1
        assert {one.replayer.reader.partition(f"shared/store/memories/{user}") for user in users} == {0, 1}
        reader.batch([PutOp(("memories", users[0]), "n", None), *(PutOp(("notes",), f"{n}", {"n": n}) for n in range(20))])
        for asked in (store, reader):
            assert asked.list_namespaces() == [*(("memories", user) for user in users[1:]), ("notes",)]
            assert [item.value["n"] for item in asked.search(("notes",), filter={"n": {"$gte": 17}})] == [19, 18, 17]
    with ContextLog.open(url) as again:
        assert len(CtxlogStore(again, agent="one").search((), limit=100)) == 27

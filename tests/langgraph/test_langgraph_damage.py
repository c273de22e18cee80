"""Events of a thread that are not as a saver wrote them: restored from where that can be, else refused with an IntegrityError."""

import contextlib
import copy
import datetime
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver
from ctxlog.errors import IntegrityError
from ctxlog.model.events import ExtensionRecorded

START = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
STEPS = 3
JUNK = [
    None,
    0,
    -1,
    True,
    1e300,
    "",
    "x",
    "3",
    "[]",
    [],
    {},
    [1],
    [["a", "b"]],
    {"a": 1},
    {"j": 1},
    {"list": {}},
    {"of": "x", "id": "y"},
]
JUNK += [
    {"list": {"base": "0", "keep": 9, "add": ["x"]}},
    '{"class": "AIMessage", "data": []}',
    {"class": "AIMessage", "data": {}},
]


def held(step):
    """The messages of a checkpoint."""
    call = {"name": "f", "args": {}, "id": "c"}
    odd = {"day": datetime.date(2026, 11, 25)}
    every = (
        [
            HumanMessage(f"h{step}", id=f"h{step}"),
            AIMessage("", id=f"a{step}", tool_calls=[call]),
            HumanMessage("", additional_kwargs=odd),
        ]
        for step in range(step + 1)
    )
    return [message for some in every for message in some]


def put(saver, config, step, first=0):
    """Put a checkpoint; its config."""
    checkpoint = empty_checkpoint() | {"id": str(step)}
    checkpoint["channel_values"] = {"messages": held(step)[first:], "d": _DeltaSnapshot([HumanMessage("q")]), "x": {1: 2}}
    checkpoint["channel_versions"] = dict.fromkeys(checkpoint["channel_values"], str(step))
    return saver.put(config, checkpoint, {"step": step}, checkpoint["channel_versions"])


@pytest.fixture(scope="module")
def appends(tmp_path_factory):
    """The appends of a thread: events, and their ids."""
    made = []

    class Telling(CtxlogSaver):
        def _append(self, thread, events, ids):
            made.append((events, ids))
            super()._append(thread, events, ids)

    with ContextLog.open(f"embedded:{tmp_path_factory.mktemp('log')}") as log:
        saver, config = Telling(log, agent="bot"), START
        for step in range(STEPS):
            config = put(saver, config, step)
            saver.put_writes(config, [("messages", [AIMessage("w")]), ("x", 3)], f"task-{step}")
        saver.prune(["t"])
    return made


def places(value, above=()):
    """Where the members of a JSON value stand."""
    yield above
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*above, name))


def damaged(text, dice):
    """The JSON text with something else in one place, or nothing."""
    root = [json.loads(text)]
    place = (0, *dice.choice(list(places(root[0]))))
    inside = root
    for name in place[:-1]:
        inside = inside[name]
    if len(place) > 1 and dice.random() < 0.25:
        del inside[place[-1]]
    else:
        inside[place[-1]] = copy.deepcopy(dice.choice(JUNK))
    return json.dumps(root[0])


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_damaged_event_is_restored_from_or_refused(tmp_path_factory, appends, seed):
    dice = random.Random(seed)
    hurt = dice.randrange(len(appends))
    with ContextLog.open(f"embedded:{tmp_path_factory.mktemp('log')}") as log:
        for number, (events, ids) in enumerate(appends):
            told = events[-1]
            last = ExtensionRecorded(name=told.name, data=damaged(told.data, dice)) if number == hurt else told
            log.context("bot/t", agent_id="bot").append([*events[:-1], last], event_ids=ids)
        saver = CtxlogSaver(log, agent="bot")
        at = {"configurable": {**START["configurable"], "checkpoint_id": str(STEPS - 1)}}
        for use in (
            lambda: list(saver.list(START)),
            lambda: saver.get_delta_channel_history(config=START, channels=["d", "messages", "x"]),
            lambda: saver.put_writes(put(saver, at, STEPS, first=1), [("messages", held(2))], "task"),
            lambda: put(saver, START, 0),
            lambda: saver.delete_for_runs(["run"]),
            lambda: saver.copy_thread("t", "copy"),
            lambda: saver.delete_thread("t"),
        ):
            with contextlib.suppress(IntegrityError):
                use()

"""CtxlogSaver against LangGraph's saver in memory: whatever is put in whatever order, both restore the same."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver

TEXTS = ["", "hi", "ok", [{"type": "text", "text": "hi"}], [{"type": "image_url", "image_url": {"url": "x"}}, "y"]]
ODD = [0, False, 1.0, -0.0, None, "", [1], {"a": True}]


class Dice:
    """Makes a thread by chance: a tree of checkpoints, each with lists that come from its parent's."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.made = 0

    def message(self):
        """A message, with or without an id."""
        self.made += 1
        chance = self.dice.random()
        its_id = f"m{self.made}" if chance < 0.7 else None
        text = self.dice.choice(TEXTS)
        kind = self.dice.randrange(5)
        if kind == 0:
            call = {"name": "f", "args": {"n": self.dice.choice(ODD)}, "id": f"c{self.dice.randrange(4)}"}
            return AIMessage(text, tool_calls=[call] * self.dice.randrange(3), id=its_id)
        if kind == 1:
            return ToolMessage(text, tool_call_id=f"c{self.dice.randrange(4)}", id=its_id)
        if kind == 2:
            return SystemMessage(text, id=its_id, additional_kwargs={"k": self.dice.choice(ODD)})
        return HumanMessage(text, id=its_id, name=self.dice.choice([None, "ada"]))

    def next(self, messages, written):
        """The list of a checkpoint that comes after one with `messages`, when tasks wrote `written`."""
        found = list(messages)
        for message in written:
            if self.dice.random() < 0.2:
                continue
            kept = message
            if message.id is None and self.dice.random() < 0.7:  # As add_messages does, in place or not.
                self.made += 1
                kept = message if self.dice.random() < 0.5 else message.model_copy(deep=True)
                kept.id = f"m{self.made}"
            found.append(kept)
        change = self.dice.random()
        if found and change < 0.4:
            place = self.dice.randrange(len(found))
            if change < 0.1:
                del found[place]
            elif change < 0.2:
                found[place] = found[place].model_copy(update={"content": "changed"})
            elif change < 0.3:
                found[place].additional_kwargs["changed"] = self.dice.choice(ODD)  # In place.
            else:
                found.insert(0, found.pop(place))
        if self.dice.random() < 0.3:
            found.append(self.message())
        return found


def run(seed, folder):
    dice, chance = Dice(seed), random.Random(seed + 1)
    oracle = InMemorySaver()
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    lists = {None: []}  # By id of the checkpoint; None is the beginning.
    versions = {None: {}}
    configs = {None: config}
    with ContextLog.open(f"embedded:{folder}") as log:
        saver = CtxlogSaver(log, agent="bot")
        for number in range(chance.randrange(1, 12)):
            if chance.random() < 0.2:
                saver = CtxlogSaver(log, agent="bot")
            parent = list(lists)[-1] if chance.random() < 0.7 else chance.choice(list(lists))
            own = f"{number:04}"
            written = [dice.message() for _ in range(chance.randrange(3))]
            value = written[0] if len(written) == 1 and chance.random() < 0.5 else list(written)
            if written and chance.random() < 0.1:
                value = [*lists[parent], *written]  # A node that returns the whole list.
            late = []
            for channel, wrote in (
                ("messages", value),
                ("d", value),
                ("x", chance.choice(ODD)),
                ("messages", [RemoveMessage("m1")]),
            ):
                if chance.random() < 0.6:
                    late.append((configs[parent], [(channel, wrote)], f"task-{own}-{len(late)}"))
            chance.shuffle(late)
            now = len(late) if chance.random() < 0.5 else chance.randrange(len(late) + 1)
            for write in late[:now]:
                if parent is not None:
                    oracle.put_writes(*write)
                    saver.put_writes(*write)
            messages = dice.next(lists[parent], written)
            checkpoint = empty_checkpoint()
            checkpoint["id"] = own
            known = dict(versions[parent])
            new = {}
            for channel in ("messages", "d", "x"):
                if chance.random() < 0.8:
                    new[channel] = known[channel] = saver.get_next_version(max(known.values(), default=None), None)
            checkpoint["channel_versions"] = known
            values = {"messages": messages, "x": chance.choice(ODD)}
            if "d" in new and chance.random() < 0.4:
                values["d"] = _DeltaSnapshot(list(messages)) if chance.random() < 0.8 else _DeltaSnapshot({"a": 1})
            checkpoint["channel_values"] = values
            if "messages" not in new:
                messages = lists[parent]
            for kept in (oracle, saver):
                made = kept.put(configs[parent], checkpoint, {"source": "loop", "step": number}, new)
            lists[own], versions[own], configs[own] = messages, known, made
            for write in late[now:]:
                if parent is not None:
                    oracle.put_writes(*write)
                    saver.put_writes(*write)
        for checked in (saver, CtxlogSaver(log, agent="bot")):
            for own, at in configs.items():
                if own is not None:
                    compare(oracle, checked, at)
        saver.copy_thread("t", "u")
        for own, at in configs.items():
            if own is not None:
                there = {"configurable": {**at["configurable"], "thread_id": "u"}}
                assert parts(saver.get_tuple(there)) == parts(oracle.get_tuple(at))


def parts(found):
    return found.checkpoint, found.metadata, sorted(map(repr, found.pending_writes))


def compare(oracle, saver, at):
    expected, found = oracle.get_tuple(at), saver.get_tuple(at)
    assert parts(found) == parts(expected)
    for channel, value in expected.checkpoint["channel_values"].items():  # Not only equal: 1.0 is not True, and -0.0 not 0.
        assert repr(found.checkpoint["channel_values"][channel]) == repr(value)
    assert found.parent_config == expected.parent_config
    for history in (oracle, saver):
        history.found = history.get_delta_channel_history(config=at, channels=["d"])
    assert repr(saver.found) == repr(oracle.found)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_whatever_is_put_is_restored_as_by_the_saver_in_memory(tmp_path_factory, seed):
    run(seed, tmp_path_factory.mktemp("log"))

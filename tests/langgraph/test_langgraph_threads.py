"""One saver, and many threads of Python on many threads of LangGraph."""

import threading
from concurrent.futures import ThreadPoolExecutor

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver, held
from ctxlog.log.memory import MemoryLog
from writing import Wrapped

STEPS = 12


class Gated(Wrapped):
    """Takes events of the thread `slow` only when the gate is open."""

    def __init__(self):
        super().__init__(MemoryLog())
        self.begun, self.gate = threading.Event(), threading.Event()

    def append(self, records):
        if any(record.key == b"bot/slow" for record in records):
            self.begun.set()
            assert self.gate.wait(30), "nobody opened the gate"
        return super().append(records)


def place(thread_id):
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


def put(saver, config, step, text="hi"):
    """A checkpoint with one message more, after what a task wrote; its config."""
    checkpoint = empty_checkpoint()
    checkpoint["id"] = f"{step:04}"
    checkpoint["channel_versions"] = {"messages": f"{step:04}"}
    checkpoint["channel_values"] = {"messages": [HumanMessage(f"{text} {number}", id=f"m{number}") for number in range(step)]}
    put = saver.put(config, checkpoint, {"source": "loop", "step": step}, {"messages": f"{step:04}"})
    saver.put_writes(put, [("messages", [HumanMessage(f"{text} {step}", id=f"m{step}")])], "task")
    return put


def talk(saver, thread_id):
    """A thread of some steps."""
    config = place(thread_id)
    for step in range(1, STEPS + 1):
        config = put(saver, config, step, thread_id)


def told(saver, thread_id):
    """The newest state of a thread, and what a task wrote after it."""
    found = saver.get_tuple(place(thread_id))
    said = found.checkpoint["channel_values"]["messages"] + [message for _, _, value in found.pending_writes for message in value]
    return [message.content for message in said]


def test_a_thread_whose_append_hangs_keeps_no_other_one_waiting():
    backend = Gated()
    with ContextLog(backend) as log:
        saver = CtxlogSaver(log, agent="bot")
        slow = threading.Thread(target=lambda: put(saver, place("slow"), 1))
        slow.start()
        assert backend.begun.wait(30)
        put(saver, place("fast"), 1)
        assert told(saver, "fast") == ["hi 0", "hi 1"]
        backend.gate.set()
        slow.join()
        assert told(saver, "slow") == ["hi 0", "hi 1"]


def test_more_threads_than_are_held_at_once_are_written_and_copied_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "THREADS_MAX", 2)
    names = [f"t{number}" for number in range(6)]
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log, ThreadPoolExecutor(8) as pool:
        saver = CtxlogSaver(log, agent="bot")
        list(pool.map(lambda name: talk(saver, name), [name for name in names for _ in range(2)]))  # Two tell each the same.
        pairs = [("t0", "t1 again"), ("t1", "t0 again"), ("t2", "t2 again"), ("t2", "t2 again")]
        list(pool.map(lambda pair: saver.copy_thread(*pair), pairs))
        for reader in (saver, CtxlogSaver(log, agent="bot")):
            for name in names:
                assert told(reader, name) == [f"{name} {number}" for number in range(STEPS + 1)]
            for source, target in pairs:
                assert told(reader, target) == told(reader, source)
        assert len(log.context("bot/t0").state.messages) == STEPS + 1


def test_two_threads_that_are_copied_into_each_other_wait_for_nobody(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log, ThreadPoolExecutor(8) as pool:
        saver = CtxlogSaver(log, agent="bot")
        for name in ("a", "b"):
            talk(saver, name)
        list(pool.map(lambda pair: saver.copy_thread(*pair), [("a", "b"), ("b", "a")] * 4))
        assert {len(told(saver, name)) for name in ("a", "b")} == {STEPS + 1}

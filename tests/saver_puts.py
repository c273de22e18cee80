"""What tests of the checkpointer put by themselves, without a graph."""

from langgraph.checkpoint.base import empty_checkpoint

from ctxlog.adapters.langgraph import CtxlogSaver

START = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


def cold(log):
    """A saver that has read nothing yet."""
    return CtxlogSaver(log, agent="bot")


def put(saver, config, step, messages):
    """Put a checkpoint that holds a list of messages; its config."""
    checkpoint = empty_checkpoint()
    checkpoint["id"] = str(step)
    checkpoint["channel_versions"] = {"messages": str(step)}
    checkpoint["channel_values"] = {"messages": messages}
    return saver.put(config, checkpoint, {"source": "loop", "step": step}, {"messages": str(step)})

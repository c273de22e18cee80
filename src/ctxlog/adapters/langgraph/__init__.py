"""LangGraph on ctxlog (`pip install 'ctxlog[langgraph]'`): the checkpointer `CtxlogSaver`."""

from ctxlog.adapters.langgraph.saver import CtxlogSaver

__all__ = ["CtxlogSaver"]

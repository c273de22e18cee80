"""LangGraph on ctxlog (`pip install 'ctxlog[langgraph]'`): the checkpointer `CtxlogSaver`, and threads of other savers."""

from ctxlog.adapters.langgraph.importing import ImportedThreads, import_threads
from ctxlog.adapters.langgraph.saver import CtxlogSaver

__all__ = ["CtxlogSaver", "ImportedThreads", "import_threads"]

"""LangGraph on ctxlog (`pip install 'ctxlog[langgraph]'`): `CtxlogSaver`, threads of other savers, and `CtxlogStore`."""

from ctxlog.adapters.langgraph.importing import ImportedThreads, import_threads
from ctxlog.adapters.langgraph.saver import CtxlogSaver
from ctxlog.adapters.langgraph.store import CtxlogStore

__all__ = ["CtxlogSaver", "CtxlogStore", "ImportedThreads", "import_threads"]

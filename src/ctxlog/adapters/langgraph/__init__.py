"""LangGraph on ctxlog (`pip install 'ctxlog[langgraph]'`): `CtxlogSaver`, threads of other savers, and `CtxlogStore`."""

try:
    from ctxlog.adapters.langgraph.importing import ImportedThreads, import_threads
    from ctxlog.adapters.langgraph.saver import CtxlogSaver
    from ctxlog.adapters.langgraph.store import CtxlogStore
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith("ctxlog"):
        raise
    raise ModuleNotFoundError(f"{error}; install 'ctxlog[langgraph]'", name=error.name) from error

__all__ = ["CtxlogSaver", "CtxlogStore", "ImportedThreads", "import_threads"]

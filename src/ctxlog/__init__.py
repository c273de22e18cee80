"""ctxlog: the context log for AI agents.

`ContextLog.open()` gives a log, `log.context(stream_id)` one context in it. Everything here is imported when it is first used,
so that `import ctxlog` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxlog.client import Context, ContextLog
    from ctxlog.client.aio import AsyncContext, AsyncContextLog
    from ctxlog.model.selection import Selection, TokenCounter

__all__ = ["AsyncContext", "AsyncContextLog", "Context", "ContextLog", "Selection", "TokenCounter"]

_HOMES = {
    "AsyncContext": "ctxlog.client.aio",
    "AsyncContextLog": "ctxlog.client.aio",
    "Context": "ctxlog.client",
    "ContextLog": "ctxlog.client",
    "Selection": "ctxlog.model.selection",
    "TokenCounter": "ctxlog.model.selection",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ctxlog' has no attribute {name!r}")

"""ctxlog: the context log for AI agents.

`ContextLog.open()` gives a log, `log.context(stream_id)` one context in it. Everything here is imported when it is first used,
so that `import ctxlog` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxlog.client import Context, ContextLog

__all__ = ["Context", "ContextLog"]

_HOMES = {"ContextLog": "ctxlog.client", "Context": "ctxlog.client"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ctxlog' has no attribute {name!r}")

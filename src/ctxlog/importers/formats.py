"""The formats that can be imported, in the order in which they are looked for: the more particular ones first."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from ctxlog.errors import InvalidInputError
from ctxlog.importers.base import Format
from ctxlog.importers.sources import Source

FORMATS: Mapping[str, str] = {
    "tau-bench": "ctxlog.importers.tau_bench",
    "openai": "ctxlog.importers.openai_chat",
}
"""Name of each format, and the module that reads it; imported when it is needed."""


def named(name: str) -> Format:
    """The format of this name. Raises `InvalidInputError`."""
    if name not in FORMATS:
        raise InvalidInputError(f"format {name!r}: expected one of {', '.join(FORMATS)}; nothing was imported")
    return cast("Format", import_module(FORMATS[name]))


def found(source: Source) -> Format | None:
    """The format that a file looks like."""
    return next((known for known in map(named, FORMATS) if known.detect(source)), None)

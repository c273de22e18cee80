"""From settings to a log: the only place that builds backends."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from ctxlog.errors import InvalidInputError, LogOpenError
from ctxlog.log.protocol import EventLog
from ctxlog.replay.snapshots import SnapshotStore

DEFAULT_URL = "embedded:.ctxlog"
SETTINGS_FILE = "ctxlog.toml"
CACHE_FILE = "cache.sqlite"
"""Beside the embedded log's file. Holds only what can be made again; it may be deleted at any time no process uses it."""


def find_url(url: str | None = None) -> tuple[str, str]:
    """The log's URL and where it comes from: what was given, `CTXLOG_URL`, `log` in `./ctxlog.toml`, or the default.

    Raises:
        LogOpenError: The settings file cannot be read, or says something else.
    """
    if url:
        return url, "given"
    if os.environ.get("CTXLOG_URL"):
        return os.environ["CTXLOG_URL"], "CTXLOG_URL"
    settings = Path(SETTINGS_FILE)
    if settings.is_file():
        try:
            content = tomllib.loads(settings.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise LogOpenError(f"{SETTINGS_FILE}: cannot be read: {error}; nothing was opened") from None
        found, unknown = content.pop("log", None), sorted(content)
        if unknown:  # A name that is spelled wrong must not be a log that is somewhere else.
            raise LogOpenError(f"{SETTINGS_FILE}: expected nothing but log, found {', '.join(unknown)}; nothing was opened")
        if isinstance(found, str) and found:
            return found, SETTINGS_FILE
        if found is not None:
            raise LogOpenError(f'{SETTINGS_FILE}: expected text as in log = "{DEFAULT_URL}"; nothing was opened')
    return DEFAULT_URL, "default"


def open_log(url: str | None = None, *, create: bool = True, partitions: int = 1) -> tuple[EventLog, SnapshotStore | None]:
    """Open a log and the store of its snapshots.

    Args:
        url: `embedded:PATH` or `memory:`; where not given, see `find_url`.
        create: Create an embedded log where there is none.
        partitions: For a log that is created.

    Raises:
        InvalidInputError: The URL names no known kind of log.
        LogOpenError: The log cannot be opened.
    """
    found, source = find_url(url)
    scheme, _, rest = found.partition(":")
    if scheme == "embedded" and rest:
        from ctxlog.log.embedded import EmbeddedLog

        path = Path(rest)
        return EmbeddedLog(path, create=create, partitions=partitions), SnapshotStore(path / CACHE_FILE)
    if scheme == "memory" and not rest:
        from ctxlog.log.memory import MemoryLog

        return MemoryLog(partitions), None
    said = f", from {source}" if source != "given" else ""
    raise InvalidInputError(f"log {found!r}{said}: expected embedded:PATH or memory:; nothing was opened")

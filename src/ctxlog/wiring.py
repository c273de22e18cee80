"""From settings to a log: the only place that builds backends."""

from __future__ import annotations

import os
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctxlog.errors import InvalidInputError, LogOpenError
from ctxlog.log.protocol import EventLog, Scanned
from ctxlog.replay.snapshots import SnapshotStore

if TYPE_CHECKING:
    from ctxlog.log.kafka import KafkaLog
    from ctxlog.log.kafka.group import Group
    from ctxlog.log.kafka.registry import Registry

DEFAULT_URL = "embedded:.ctxlog"
SETTINGS_FILE = "ctxlog.toml"
CACHE_FILE = "cache.sqlite"
"""Beside the embedded log's file. Holds only what can be made again; it may be deleted at any time no process uses it."""

INDEX_FILE = "index.sqlite"
"""The stream index of a log on Kafka. The same holds for it."""

TREE_FILE = "tree.sqlite"
"""The Merkle trees of a log. The same holds for it."""


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


class OpenedLog(NamedTuple):
    """A log, and what stands beside it.

    Attributes:
        log: The backend.
        snapshots: Where folds are kept; None keeps none.
        registry: The schema registry; None frames values without one.
        cloudevents: Whether records get the headers of CloudEvents.
    """

    log: EventLog
    snapshots: SnapshotStore | None = None
    registry: Registry | None = None
    cloudevents: bool = False

    def tell(self, scanning: Callable[[int, int], None]) -> None:
        """Have reads that take long say how many offsets are done, and of how many."""
        log: object = self.log
        while isinstance(log, Scanned):
            log.scanning = scanning
            log = getattr(log, "log", None)

    def close(self) -> None:
        """Let go of everything."""
        try:
            self.log.close()
        finally:
            if self.snapshots is not None:
                self.snapshots.close()


def open_log(url: str | None = None, *, create: bool = True, partitions: int | None = None) -> OpenedLog:
    """Open a log with what stands beside it.

    Args:
        url: `embedded:PATH`, `kafka://HOST:PORT` or `memory:`; where not given, see `find_url`.
        create: Create an embedded log where there is none. On Kafka only `create_log` creates.
        partitions: For an embedded log that is created, or one in memory; 1 where not given.

    Raises:
        InvalidInputError: The URL names no known kind of log.
        LogOpenError: The log cannot be opened.
        StorageError: No broker answers.
    """
    found, source = find_url(url)
    scheme, _, rest = found.partition(":")
    if scheme == "embedded" and rest:
        from ctxlog.log.embedded import EmbeddedLog

        path = Path(rest)
        return OpenedLog(EmbeddedLog(path, create=create, partitions=partitions or 1), SnapshotStore(path / CACHE_FILE))
    if scheme == "kafka":
        from ctxlog.log.kafka import KafkaLog

        return _with_caches(KafkaLog(found))
    if scheme == "memory" and not rest:
        from ctxlog.log.memory import MemoryLog

        return OpenedLog(MemoryLog(partitions or 1))
    raise _no_log(found, source)


def _no_log(url: str, source: str) -> InvalidInputError:
    said = f", from {source}" if source != "given" else ""
    return InvalidInputError(f"log {url!r}{said}: expected embedded:PATH, kafka://HOST:PORT or memory:; nothing was opened")


def create_log(url: str | None = None, *, partitions: int | None = None, adopt: bool = False) -> tuple[OpenedLog, bool]:
    """Create a log, or complete one whose creation was stopped, and open it; and whether anything was done.

    Args:
        url: See `open_log`.
        partitions: Of a new log; 12 on Kafka and 1 elsewhere where not given.
        adopt: On Kafka: take over a topic that was restored and so has another id.

    Raises:
        LogOpenError: What is there cannot become a log; nothing was changed.
    """
    found, _ = find_url(url)
    if found.startswith("kafka:"):
        from ctxlog.log.kafka import KafkaLog

        log, created = KafkaLog.create(found, partitions, adopt=adopt)
        return _with_caches(log), created
    if adopt:
        raise InvalidInputError("only a log on Kafka can be adopted; nothing was changed")
    try:
        return open_log(found, create=False, partitions=partitions), False
    except LogOpenError:  # None is there. Where another fault is the reason, creating one says so too, and changes nothing.
        return open_log(found, partitions=partitions), True


def _with_caches(log: KafkaLog) -> OpenedLog:
    """A log on Kafka behind its index, with its snapshots and its registry."""
    location = log.location
    registry = None
    if location.registry is not None:
        from ctxlog.log.kafka.registry import Registry

        registry = Registry(location.registry, location.topic, log.properties.registry)
    folder = cache_folder(location.cache, log.log_id)
    if folder is None:
        return OpenedLog(log, None, registry, location.cloudevents)
    from ctxlog.replay.index import IndexedLog

    indexed = IndexedLog(log, folder / INDEX_FILE)
    return OpenedLog(indexed, SnapshotStore(folder / CACHE_FILE), registry, location.cloudevents)


def join_group(opened: OpenedLog, instance: str) -> Group | None:
    """Share the partitions with other projectors of the log. None where nobody does: a log that is no topic has one projector."""
    if not opened.log.url.startswith("kafka:"):
        return None
    from ctxlog.log.kafka import KafkaLog
    from ctxlog.log.kafka.group import Group

    log: object = opened.log
    log = getattr(log, "log", log)  # behind its index
    return Group(log, instance) if isinstance(log, KafkaLog) else None


def views_folder(url: str | None = None) -> Path:
    """Where the views of a log are published unless another folder is named: `views` in an embedded log's folder, and
    `.ctxlog/kafka/HOST-PORT/TOPIC/views` for one on Kafka. No two logs share it, so none is asked in the other's place.

    Of several brokers that the URL names the first by name stands for the cluster, in whatever order they are named.

    Raises:
        InvalidInputError: The URL names no known kind of log, or a log in memory, which no other process has.
        LogOpenError: See `find_url`.
    """
    found, source = find_url(url)
    scheme, _, rest = found.partition(":")
    if scheme == "embedded" and rest:
        return Path(rest) / "views"
    if scheme == "kafka":
        from ctxlog.log.kafka.location import Location

        location = Location.parse(found)
        host, _, port = min(location.servers.lower().split(",")).rpartition(":")
        return Path(".ctxlog", "kafka", f"{host.replace(':', '-')}-{port}", location.topic, "views")
    if scheme == "memory" and not rest:
        raise InvalidInputError("a log in memory has no folder of views; nothing was opened. Name one: --views FOLDER.")
    raise _no_log(found, source)


def cache_folder(said: str | None, log_id: str) -> Path | None:
    """Where what can be made again is kept for a log that lies elsewhere; None: nowhere.

    `said` is a folder, `off`, or None for `~/.cache/ctxlog` (`$XDG_CACHE_HOME/ctxlog`).
    """
    if said == "off":
        return None
    try:
        base = Path(said) if said is not None else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctxlog"
    except RuntimeError:  # There is no home.
        return None
    try:
        return base / str(uuid.UUID(log_id))
    except ValueError:  # A claim of whoever wrote the genesis, and never a path.
        return None


def tree_file(log: EventLog) -> Path | None:
    """Where a log's Merkle trees are kept: beside its other caches; None where it has none."""
    from ctxlog.log.embedded import EmbeddedLog
    from ctxlog.replay.index import IndexedLog

    if isinstance(log, EmbeddedLog):
        return log.folder / TREE_FILE
    return log.path.parent / TREE_FILE if isinstance(log, IndexedLog) else None


def keys_folder(said: str | None = None) -> Path:
    """Where signing keys are: what was given, `CTXLOG_KEYS`, or `~/.config/ctxlog/keys` (`$XDG_CONFIG_HOME/ctxlog/keys`).

    Raises:
        InvalidInputError: Nothing is said, and there is no home.
    """
    if said or os.environ.get("CTXLOG_KEYS"):
        return Path(said or os.environ["CTXLOG_KEYS"])
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ctxlog" / "keys"
    except RuntimeError:
        raise InvalidInputError("there is no home to look for keys in; nothing was done. Name their folder by --keys.") from None


def heads_folder(said: str | None, keys: Path) -> Path:
    """Where signed heads are kept outside the logs: what was given, or beside the keys."""
    return Path(said) if said else keys / "heads"


def check_outside(log: EventLog, *folders: Path) -> None:
    """Refuse folders of keys and heads that lie in the log's own: who can rewrite the log must not get hold of them.

    Raises:
        InvalidInputError: One of them does.
    """
    from ctxlog.log.embedded import EmbeddedLog

    if not isinstance(log, EmbeddedLog):
        return
    inside = log.folder.resolve()
    for folder in folders:
        if folder.resolve().is_relative_to(inside):
            raise InvalidInputError(f"{folder}: lies in the log's own folder; nothing was signed. Keep keys and heads elsewhere.")

"""What every command shares: which log, which form of output, and how streams are named.

`--log` and `-o` are taken before the command and behind it; behind it wins. Only commands that write create a log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctxlog.cli.output import FORMATS
from ctxlog.cli.progress import progress
from ctxlog.errors import CtxlogError, LogOpenError, PointError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ctxlog.client import ContextLog
    from ctxlog.log.kafka.registry import Registry
    from ctxlog.log.protocol import EventLog
    from ctxlog.model.points import Point
    from ctxlog.replay.replayer import Replayer
    from ctxlog.replay.snapshots import SnapshotStore
    from ctxlog.wiring import OpenedLog

F = TypeVar("F", bound=Callable[..., Any])

COMPLETIONS_MAX = 200
"""Stream names that a shell is offered: more than anyone looks through."""

SUGGESTIONS_MAX = 3


class UnknownStreamError(CtxlogError):
    """The log has no record under a stream's name."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A log opened for reading."""

    log: EventLog
    snapshots: SnapshotStore | None
    replayer: Replayer
    registry: Registry | None

    def require(self, stream_id: str) -> None:
        """Raise `UnknownStreamError` where the log has no record under this name; the message suggests others."""
        partition = self.replayer.reader.partition(stream_id)
        end = self.log.bounds(partition).end
        if next(self.log.read(partition, 0, end, key=_key(stream_id)), None) is None:
            raise UnknownStreamError(self._unknown(stream_id))

    def has(self, stream_id: str) -> bool:
        """Whether the log has a record under this name."""
        try:
            self.require(stream_id)
        except UnknownStreamError:
            return False
        return True

    def _unknown(self, stream_id: str) -> str:
        from difflib import get_close_matches

        from ctxlog.replay.summaries import matching

        names = matching(self.log)
        if any(char in stream_id for char in "*?[") and matching(self.log, stream_id):
            return f"stream {stream_id!r}: a pattern, expected one stream. `ctxlog streams` and `ctxlog replay` take patterns."
        before, at, _ = stream_id.rpartition("@")
        if at and before in names:
            return f"stream {stream_id!r}: there is no such stream, and no point is taken here; there is {before!r}."
        if not names:
            return f"stream {stream_id!r}: {self.log.url} holds no stream yet. `ctxlog import` and `ctxlog append` write some."
        folded = {name.casefold(): name for name in reversed(names)}
        close = [folded[name] for name in get_close_matches(stream_id.casefold(), folded, SUGGESTIONS_MAX)]
        close += [name for name in names if stream_id and stream_id in name and name not in close]
        hint = f"Did you mean {' or '.join(map(repr, close[:SUGGESTIONS_MAX]))}? " if close else ""
        return f"stream {stream_id!r}: {self.log.url} has no such stream. {hint}`ctxlog streams` lists them."


class Session:
    """What was said before and behind the command."""

    def __init__(self) -> None:
        self.url: str | None = None
        self.output = "table"

    @property
    def people(self) -> bool:
        """Whether the output is for people and not for programs."""
        return self.output == "table"

    @contextlib.contextmanager
    def reading(self, url: str | None = None) -> Iterator[Opened]:
        """The log, opened for reading, with a bar for long reads. Never creates one."""
        from ctxlog.replay.replayer import Replayer

        with self.opened(url) as opened, progress("Reading the log") as step:
            opened.tell(step)
            yield Opened(opened.log, opened.snapshots, Replayer(opened.log, opened.snapshots), opened.registry)

    @contextlib.contextmanager
    def opened(self, url: str | None = None) -> Iterator[OpenedLog]:
        """The log, opened, with what stands beside it. Never creates one."""
        from ctxlog.wiring import find_url, open_log

        found, source = find_url(url or self.url)
        try:
            opened = open_log(found, create=False)
        except LogOpenError as error:
            where = "" if source == "given" else f" (log {found!r}, by {source})"
            raise type(error)(f"{error}{where}") from error
        with contextlib.closing(opened):
            yield opened

    @contextlib.contextmanager
    def writing(self) -> Iterator[ContextLog]:
        """The log, opened for appending; created on first use."""
        from ctxlog.client import ContextLog
        from ctxlog.wiring import open_log

        with contextlib.closing(open_log(self.url)) as opened, progress("Reading the log") as step:
            opened.tell(step)
            yield ContextLog(*opened)


def _key(stream_id: str) -> bytes:
    try:
        return stream_id.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"stream {stream_id!r}: the name is not valid UTF-8.") from None


def parse_target(opened: Opened, text: str) -> tuple[str, Point]:
    """A stream and a point from `STREAM[@POINT]`; the stream exists.

    Raises:
        PointError: What follows the last `@` is no point.
        UnknownStreamError: There is no such stream.
    """
    from ctxlog.model.points import parse_stream_point

    try:
        stream_id, point = parse_stream_point(text)
    except PointError as error:
        if opened.has(text):
            raise PointError(f"{error}. The stream {text!r} has an '@' in its name: write '{text}@latest'") from None
        raise
    if "@" in text and not opened.has(stream_id) and opened.has(text):
        raise UnknownStreamError(
            f"stream {stream_id!r}: there is none. The stream {text!r} has an '@' in its name: '{text}@latest'"
        )
    opened.require(stream_id)
    return stream_id, point


def _take(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    session = context.find_root().ensure_object(Session)
    if value is not None:
        setattr(session, parameter.name or "", value)


def log_option(function: F) -> F:
    """`--log URL`."""
    decorate = click.option(
        "--log",
        "url",
        metavar="URL",
        expose_value=False,
        callback=_take,
        help="The log, as in embedded:PATH; default embedded:.ctxlog.",
    )
    return decorate(function)


def output_option(function: F) -> F:
    """`-o table|json|jsonl`."""
    decorate = click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        metavar="FORMAT",
        expose_value=False,
        callback=_take,
        help="table (default), json or jsonl.",
    )
    return decorate(function)


def complete_streams(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Stream names for the shell. Creates nothing and says nothing, whatever goes wrong."""
    from click.shell_completion import CompletionItem

    with contextlib.suppress(Exception):
        from ctxlog.replay.summaries import matching
        from ctxlog.wiring import open_log

        session = context.find_root().ensure_object(Session)
        opened = open_log(session.url, create=False)
        try:
            names = [name for name in matching(opened.log) if name.startswith(incomplete)]
        finally:
            opened.close()
        return [CompletionItem(name) for name in names[:COMPLETIONS_MAX]]
    return []

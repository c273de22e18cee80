"""`ctxlog log`: a stream event by event, or a slice of it, in the order in which the log decided them."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from ctxlog.cli import text
from ctxlog.cli.events import COLOURS, Narrator, short_type
from ctxlog.cli.output import columns, line, note, paint, print_list
from ctxlog.cli.session import Opened, Session, UnknownStreamError, complete_streams, log_option, output_option

if TYPE_CHECKING:
    from ctxlog.model.points import Point
    from ctxlog.replay.history import Entry

WAIT_SECONDS = 0.5
"""How long one wait for more lasts; Ctrl-C is heard in between."""

TYPE_COLUMNS = 9
ACTOR_COLUMNS_MAX = 16

NARROW, NARROWER = 80, 60
"""Columns of a terminal below which the actor, and then the time, give way to what was said."""


@click.command(
    "log",
    short_help="Follow one stream, event by event",
    epilog="\b\nExamples:\n  ctxlog log refunds/1\n  ctxlog log refunds/1 -f\n  ctxlog log refunds/1 -n 20 -o jsonl\n"
    "  ctxlog log refunds/1 --since 3 --until time:2026-11-22T14:02:00Z",
)
@click.argument("stream", shell_complete=complete_streams)
@click.option("-f", "--follow", is_flag=True, help="Wait for more until Ctrl-C, which ends it with exit code 0.")
@click.option("--since", metavar="POINT", help="Only what came after this point: 3, event:ID, time:2026-11-22T14:02:00Z …")
@click.option("--until", metavar="POINT", help="Only what came up to this point.")
@click.option("-n", "--last", type=click.IntRange(min=0), metavar="N", help="Only the last N that are shown.")
@click.option("--rejected", is_flag=True, help="Also the records that do not count, each with the reason.")
@log_option
@output_option
@click.pass_obj
def log_command(
    session: Session, stream: str, follow: bool, since: str | None, until: str | None, last: int | None, rejected: bool
) -> None:
    """Print the timeline of STREAM, oldest first: version, time by the log's clock in UTC, type, who wrote it, what it says.

    Where the output is no terminal, each line has the whole time and nothing is cut. -o json and jsonl give everything of each
    event.
    """
    if follow and session.output == "json":
        raise click.UsageError("-f prints a list without end, which is no JSON object; use -o jsonl.")
    if follow and until is not None:
        raise click.UsageError("-f waits for more without end, and --until names one; use one of the two.")
    from ctxlog.model.points import parse_point

    begin, end = (None if at is None else parse_point(at) for at in (since, until))
    with session.reading() as opened:
        try:
            opened.require(stream)
        except UnknownStreamError as error:
            if not follow:
                raise
            note(f"{error} Waiting for its first event.")
        reading = _Reading(opened, stream, rejected, follow, begin, end, last)
        entries = reading.to_now()
        if follow:
            entries = _chained(entries, reading)
        try:
            if session.people:
                _print(entries)
            else:
                print_list("entries", (entry.to_dict() for entry in entries), session.output, head={"stream_id": stream})
        except KeyboardInterrupt:
            if not follow:
                raise
            sys.stderr.write("\n")
        if not follow:
            reading.say_what_is_hidden()


class _Reading:
    """The entries that are to be shown, and the numbers of those that are not."""

    def __init__(
        self,
        opened: Opened,
        stream_id: str,
        rejected: bool,
        follow: bool,
        since: Point | None,
        until: Point | None,
        last: int | None,
    ) -> None:
        from ctxlog.replay.history import Historian

        self._opened = opened
        # One more than is shown: what is hidden before the first that is shown is no part of it.
        more = None if last is None else last + 1
        self._historian = Historian(opened.replayer, stream_id, since=since, until=until, last=more)
        self._last = last
        self._partition = opened.replayer.reader.partition(stream_id)
        self._stream_id = stream_id
        self._rejected = rejected
        self._follow = follow
        self._end = 0
        self._hidden: Counter[str] = Counter()

    def to_now(self) -> Iterator[Entry]:
        """What the log holds now."""
        return self._all_to_now() if self._last is None else self._last_to_now(self._last)

    def _last_to_now(self, last: int) -> Iterator[Entry]:
        kept: deque[tuple[Entry, Counter[str]]] = deque()
        dropped = False
        for entry in self._all_to_now():
            kept.append((entry, self._hidden))
            self._hidden = Counter()
            if len(kept) > last:
                kept.popleft()
                dropped = True
        for number, (_, hidden) in enumerate(kept):
            if number or not dropped:
                self._hidden += hidden
        yield from (entry for entry, _ in kept)

    def _all_to_now(self) -> Iterator[Entry]:
        self._end = self._opened.replayer.end(self._stream_id)
        yield from self._shown(self._historian.read_on(self._end))
        self._historian.check()
        if self._rejected and not self._follow:  # Whoever follows sees them when they are decided.
            yield from self._historian.open()

    def from_now(self) -> Iterator[Entry]:
        """What comes in, without end."""
        while True:
            end = self._opened.log.wait(self._partition, self._end, WAIT_SECONDS)
            if end > self._end:
                self._end = end
                yield from self._shown(self._historian.read_on(end))

    def say_what_is_hidden(self) -> None:
        """A note on stderr about what was not shown."""
        if self._hidden:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in self._hidden.most_common())
            note(f"{text.count(sum(self._hidden.values()), 'rejected record')} not shown ({reasons}); --rejected shows them.")
        waiting = 0 if self._rejected else sum(1 for _ in self._historian.open())
        if waiting:
            note(f"{text.count(waiting, 'record')} not shown, of appends that are not complete; --rejected shows them.")

    def _shown(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if entry.version is not None or self._rejected:
                yield entry
            else:
                self._hidden[entry.outcome] += 1


def _chained(entries: Iterator[Entry], reading: _Reading) -> Iterator[Entry]:
    for entry in entries:
        yield entry
    sys.stdout.flush()
    for entry in reading.from_now():
        yield entry
        sys.stdout.flush()


def _print(entries: Iterator[Entry]) -> None:
    narrator, width, day = Narrator(), columns(), ""
    for entry in entries:
        what = narrator.line(entry)
        recorded = text.clock(entry.time)
        version = "-" if entry.version is None else str(entry.version)
        kind = short_type(entry.type) if entry.type else "bytes"
        actor = text.one_line(str(entry.meta.get("actor", "")))
        if entry.version is None:
            what = f"{entry.outcome}{': ' if what else ''}{what}"
        if width is None:
            line(f"{version:>6}  {recorded}  {text.pad(kind, TYPE_COLUMNS)}  {actor}  {what}".rstrip())
            continue
        if recorded[:10] != day:
            day = recorded[:10]
            line(paint(f"── {day} UTC " + "─" * (width - 19), dim=True))
        actor = "" if width < NARROW else text.pad(text.clip(actor, ACTOR_COLUMNS_MAX), ACTOR_COLUMNS_MAX) + "  "
        time = "" if width < NARROWER else recorded[11:23] + "  "
        kind = text.pad(text.clip(kind, TYPE_COLUMNS), TYPE_COLUMNS)
        used = 5 + 2 + len(time) + TYPE_COLUMNS + 2 + text.width_of(actor)
        what = text.clip(what, width - used)
        dim = entry.version is None
        failed = bool(entry.payload.get("failed"))
        line(
            f"{paint(f'{version:>5}', dim=dim, bold=not dim)}  {paint(time, dim=True)}"
            f"{paint(kind, fg='red' if failed else COLOURS.get(kind.strip()) or None, dim=dim)}  {paint(actor, dim=True)}"
            f"{paint(what, dim=dim)}".rstrip()
        )

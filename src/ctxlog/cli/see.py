"""`ctxlog streams` and `ctxlog show`: what there is, and one context for people. Both may use caches; `replay` does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ctxlog.cli import text
from ctxlog.cli.output import line, note, paint, print_json, print_list
from ctxlog.cli.progress import progress
from ctxlog.cli.session import Session, complete_streams, log_option, output_option, parse_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxlog.replay.summaries import StreamSummary


@click.command(
    "streams",
    short_help="List the streams",
    epilog="\b\nExamples:\n  ctxlog streams\n  ctxlog streams 'refunds/*' -o jsonl",
)
@click.argument("pattern", default="*", shell_complete=complete_streams)
@log_option
@output_option
@click.pass_obj
def streams_command(session: Session, pattern: str) -> None:
    """List the streams whose name matches PATTERN, by name.

    PATTERN is a shell pattern (default '*'); its * matches / too. Quote it, so that the shell leaves it alone.
    """
    from ctxlog.replay.summaries import matching, summarize

    with session.reading() as opened, progress("Reading streams") as step:
        names = matching(opened.log, pattern)

        def summaries() -> Iterator[StreamSummary]:
            for done, name in enumerate(names, 1):
                summary = summarize(opened.replayer, name)
                step(done, len(names))
                if summary is not None:
                    yield summary

        if not session.people:
            print_list("streams", (summary.to_dict() for summary in summaries()), session.output)
            return
        found = list(summaries())
    if not found:
        other = "" if pattern == "*" else f" matches {pattern!r}. `ctxlog streams` lists all"
        note(f"no stream{other}." if other else "the log holds no stream yet. `ctxlog import` and `ctxlog append` write some.")
        return
    for number, (whole, _) in enumerate(
        text.table(
            ("STREAM", "VERSION", "REJECTED", "SIZE", "LAST RECORD"),
            [
                (
                    text.visible(item.stream_id),
                    f"{item.version:,}",
                    f"{item.rejected:,}" if item.rejected else "-",
                    text.size(item.bytes),
                    f"{text.clock(item.last_at)[:19].replace('T', ' ')}Z",
                )
                for item in found
            ],
            right=(1, 2, 3),
        )
    ):
        line(whole if number else paint(whole, dim=True))
    waiting = sum(item.open for item in found)
    if waiting:
        note(f"{text.count(waiting, 'record')} of appends that are not complete do not count yet.")


@click.command(
    "show",
    short_help="Read one context",
    epilog="\b\nExamples:\n  ctxlog show refunds/1\n  ctxlog show refunds/1@7\n"
    "  ctxlog show refunds/1@time:2026-11-22T14:02:00Z --full",
)
@click.argument("target", metavar="STREAM[@POINT]", shell_complete=complete_streams)
@click.option("-n", "--last", type=click.IntRange(min=0), metavar="N", help="Only the last N messages.")
@click.option("--full", is_flag=True, help="Every line of long messages.")
@log_option
@output_option
@click.pass_obj
def show_command(session: Session, target: str, last: int | None, full: bool) -> None:
    """Print a context for people: facts, the messages as a conversation, open calls, anomalies.

    \b
    POINT is one of
      latest              the newest state (default)
      N, version:N        after N accepted events
      offset:N            through the record at offset N
      time:ISO8601        as of an instant of the log's clock
      occurred:ISO8601    by the writers' clocks
      event:ID            after an event
      decision:ID         what a decision had read
      cut:FILE            as a cut says, from `ctxlog replay 'PATTERN' -o json`
    """
    with session.reading() as opened:
        stream_id, point = parse_target(opened, target)
        replay = opened.replayer.replay(stream_id, point)
    if not session.people:
        print_json(replay.state.to_dict(), session.output)
        return
    from ctxlog.cli.context import print_context

    print_context(replay, last=last, full=full)

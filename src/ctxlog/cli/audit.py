"""`ctxlog decisions`, `ctxlog audit`, `ctxlog blame`: who decided what, on what, and how each entry of a context came to be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click

from ctxlog.cli import text
from ctxlog.cli.output import columns, line, note, paint, print_json, print_list
from ctxlog.cli.progress import progress
from ctxlog.cli.session import Opened, Session, complete_streams, log_option, output_option
from ctxlog.cli.verify import VERIFICATION_FAILED
from ctxlog.errors import IntegrityError, PointError

if TYPE_CHECKING:
    from ctxlog.audit.auditing import About
    from ctxlog.audit.decisions import Decided

ROWS_ALIGNED = 1000
"""Decisions whose columns are aligned with each other; a list of any length is printed in such pieces."""

WHAT_COLUMNS_MAX = 48


@click.command(
    "decisions",
    short_help="Find decisions",
    epilog="\b\nExamples:\n  ctxlog decisions\n  ctxlog decisions --stream refunds/1 --stale\n"
    "  ctxlog decisions --agent refunds --since 2026-11-22T14:00:00Z -o jsonl",
)
@click.option(
    "--stream", "stream", metavar="STREAM", shell_complete=complete_streams, help="Those that read this stream, or wrote to it."
)
@click.option("--agent", "agent", metavar="AGENT", help="Those of this agent.")
@click.option("--since", "since", metavar="TIME", help="Those recorded since then, by the log's clock: ISO 8601.")
@click.option("--correlation", "correlation", metavar="ID", help="Those with this correlation id.")
@click.option("--stale", "stale", is_flag=True, help="Those that rest on a context which had moved on.")
@log_option
@output_option
@click.pass_obj
def decisions_command(
    session: Session, stream: str | None, agent: str | None, since: str | None, correlation: str | None, stale: bool
) -> None:
    """List the recorded decisions, the newest last: id, time, agent, what was decided, and the versions that it had read.

    A decision is stale where a stream that it read took in an event after the version it read and before the decision was
    recorded, unless the decision caused that event itself.
    """
    from ctxlog.audit.decisions import Wanted, find_decisions
    from ctxlog.model.points import parse_time

    wanted = Wanted(stream, agent, None if since is None else parse_time(since), correlation, stale)
    with session.reading() as opened, progress("Reading decisions") as step:
        if stream is not None:
            opened.require(stream)
        found = find_decisions(opened.replayer, wanted, progress=step)
        if not session.people:
            print_list("decisions", (one.to_dict() for one in found), session.output)
            return
        shown = _print_decisions(found)
    if not shown:
        note("no decision is recorded that fits. `ctxlog streams 'decisions/*'` lists who records any.")


def _print_decisions(found: Iterator[Decided]) -> int:
    shown, width = 0, columns()
    while rows := list(islice(found, ROWS_ALIGNED)):
        for number, (whole, _) in enumerate(
            text.table(
                ("DECISION", "RECORDED", "AGENT", "NOTE", "DECIDED", "READ"), [_row(one, short=width is not None) for one in rows]
            )
        ):
            if number or not shown:
                row = whole if width is None else text.clip(whole, width)
                line(row if number else paint(row, dim=True))
        shown += len(rows)
    return shown


def _row(one: Decided, *, short: bool) -> list[str]:
    """The cells of a decision, those that tell most first: a terminal may have no room for the rest."""
    reads = ", ".join(f"{text.one_line(read.stream_id)}@{read.version}" for read in one.reads) or "-"
    by = f" by {one.model}" if one.model else ""
    said = "" if one.outcome is None else f": {one.outcome}"
    remarks = [word for word, there in (("stale", one.stale), ("failed", one.failed)) if there]
    if one.reads_missing:
        remarks.append(f"{text.count(one.reads_missing, 'read')} missing")
    recorded = text.clock(one.recorded_at)
    return [
        text.one_line(one.decision_id),
        f"{recorded[:19].replace('T', ' ')}Z" if short else recorded,
        text.one_line(one.agent),
        ", ".join(remarks) or "-",
        text.clip(text.one_line(f"{one.kind}{by}{said}"), WHAT_COLUMNS_MAX),
        text.clip(reads, WHAT_COLUMNS_MAX),
    ]


@click.command(
    "audit",
    short_help="Show what a decision knew, and check it",
    epilog="\b\nExamples:\n  ctxlog audit 01a21412-8a3c-7d05-9f3e-6a6d0f6a3a51\n  ctxlog audit refunds/1@7\n"
    "  ctxlog audit decisions/refunds@2 --html report.html",
)
@click.argument("target", metavar="DECISION|STREAM@N", shell_complete=complete_streams)
@click.option("--html", "page", metavar="FILE", type=click.Path(dir_okay=False), help="Write it as one page to hand over.")
@log_option
@output_option
@click.pass_obj
def audit_command(session: Session, target: str, page: str | None) -> None:
    """Report on a decision, or on the event that made version N of STREAM: what was read, replayed from the first record and
    limited to what the read recorded; what had changed in between; what was appended inside; and every check that was made.

    The first line is the verdict. Where anything does not verify it says so, and the exit code is 3.
    """
    from ctxlog.audit.auditing import audited

    try:
        with session.reading() as opened, progress("Auditing") as step:
            report = audited(opened.log, about_of(opened, target), progress=step)
    except IntegrityError as error:
        # So broken that it cannot be opened or read on.
        verdict = f"NOT VERIFIED: {error}"
        if session.people:
            line(paint(text.visible(verdict), fg="red", bold=True))
        else:
            print_json({"verdict": verdict, "verified": False}, session.output)
        click.get_current_context().exit(VERIFICATION_FAILED)
    if page is not None:
        from ctxlog.cli.audit_page import write_page

        write_page(report, page)
    if not session.people:
        print_json(report.to_dict(), session.output)
    else:
        from ctxlog.cli.render_audit import print_report, print_verdict

        if page is None:
            print_report(report)
        else:
            print_verdict(report)
            note(f"the report is in {page}: one file, without anything from elsewhere.")
    if report.failed:
        click.get_current_context().exit(VERIFICATION_FAILED)


def about_of(opened: Opened, target: str) -> About:
    """What DECISION or STREAM@N names."""
    from ctxlog.audit.auditing import About
    from ctxlog.audit.trail import happened
    from ctxlog.model.points import AtEvent, AtVersion, parse_point

    stream_id, at, point = target.rpartition("@")
    if not at or target.startswith("decision:") or not opened.has(stream_id):
        return About(target.removeprefix("decision:"))
    match parse_point(point):
        case AtVersion(version):
            return About(None, stream_id, version)
        case AtEvent(event_id):
            for one in happened(opened.replayer, stream_id):
                if one.event_id == event_id:
                    return About(None, stream_id, one.version)
            raise PointError(f"stream {stream_id!r}: no accepted event with id {event_id!r}; nothing was audited")
        case _:
            raise PointError(f"point {point!r}: expected the version that an event made, as in {stream_id}@7, or event:ID")


@click.command(
    "blame",
    short_help="Say who set a fact or message",
    epilog="\b\nExamples:\n  ctxlog blame refunds/1 order.total\n  ctxlog blame refunds/1 call:pay-1 -o json\n"
    "  ctxlog blame refunds/1 order.total -n 3",
)
@click.argument("stream", shell_complete=complete_streams)
@click.argument("key")
@click.option("-n", "--last", type=click.IntRange(min=1), metavar="N", help="Only the last N changes.")
@log_option
@output_option
@click.pass_obj
def blame_command(session: Session, stream: str, key: str, last: int | None) -> None:
    """Say who set KEY in STREAM, when, caused by what, and how it came to be so, oldest first.

    KEY is a fact's key, a message's id or a call's id; fact:KEY, message:ID and call:ID say which. Of a fork, what its parent had
    counts up to the version from which it goes on, and is named with the parent.
    """
    from ctxlog.audit.blame import blame

    with session.reading() as opened:
        opened.require(stream)
        found = blame(opened.replayer, stream, key, last=last)
    if session.people:
        from ctxlog.cli.render_blame import print_blame

        print_blame(found)
    else:
        print_json(found.to_dict(), session.output)

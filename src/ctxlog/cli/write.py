"""`ctxlog import`, `ctxlog copy`, `ctxlog init`: what brings whole runs and logs in. Each can be stopped and run again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ctxlog.cli.output import line, note, print_json
from ctxlog.cli.progress import progress
from ctxlog.cli.session import Session, log_option, output_option
from ctxlog.cli.text import count, visible
from ctxlog.errors import InvalidInputError

if TYPE_CHECKING:
    from ctxlog.importers import ImportReport
    from ctxlog.log.protocol import EventLog

FAILED = 1

FAILURES_MAX = 20
"""Failures that are shown to people one by one; -o json has all."""


def partitions_option(function: click.decorators.FC) -> click.decorators.FC:
    """`--partitions N`, for a log that is made."""
    return click.option(
        "--partitions",
        type=click.IntRange(1, 65_535),
        metavar="N",
        help="Partitions of the new log; default 12 on Kafka, 1 elsewhere.",
    )(function)


@click.command(
    "import",
    short_help="Bring in recorded agent runs",
    epilog="\b\nExamples:\n  ctxlog import runs/\n  ctxlog import gpt-4o-airline.json --agent airline\n"
    "  ctxlog import chats.jsonl.gz --format openai -o json",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True))
@click.option("--format", "format_", metavar="NAME", help="tau-bench or openai; found by looking where not given.")
@click.option("--agent", metavar="NAME", help="First part of the streams' names; the format's name where not given.")
@log_option
@output_option
@click.pass_obj
def import_command(session: Session, paths: tuple[str, ...], format_: str | None, agent: str | None) -> None:
    """Import recorded runs from files and folders, plain or with .gz: tau-bench results, and OpenAI-style chats, JSON or JSONL.

    Each run becomes a stream, AGENT/RUN. The same file again changes nothing, a grown file adds its tail, and a broken file or
    run fails alone: the rest goes in, and the exit code is 1.
    """
    from ctxlog.importers import FORMATS, import_path
    from ctxlog.model.ids import check_agent_id

    # Before the log is opened, which would create it.
    if format_ is not None and format_ not in FORMATS:
        raise click.UsageError(f"format {format_!r}: expected one of {', '.join(FORMATS)}; nothing was imported.")
    if agent is not None:
        try:
            check_agent_id(agent)
        except InvalidInputError as error:
            raise click.UsageError(f"--agent {agent!r}: {str(error).partition(';')[0]}; nothing was imported.") from None

    with session.writing() as log, progress("Importing") as step:
        try:
            report = import_path(
                log, paths, format=format_, agent=agent, progress=lambda done: step(done.files_done, done.files_total)
            )
        except KeyboardInterrupt:
            note("what was imported stays; the same command goes on from there.")
            raise
    if session.people:
        _print_import(report)
    else:
        print_json(
            {
                "files": report.files,
                "streams": len(report.streams),
                "events_appended": report.events_appended,
                "events_skipped": report.events_skipped,
                "failed": [{**failure._asdict(), "place": failure.place or None} for failure in report.failed],
                "ignored": list(report.ignored),
            },
            session.output,
        )
    if report.failed or not report.files:
        click.get_current_context().exit(FAILED)


def _print_import(report: ImportReport) -> None:
    from ctxlog.importers import FORMATS

    line(
        f"{count(report.files, 'file')}, {count(len(report.streams), 'stream')}: "
        f"{count(report.events_appended, 'event')} appended, {report.events_skipped:,} there already"
    )
    for failure in report.failed[:FAILURES_MAX]:
        note(str(failure), kind="Error")
    if len(report.failed) > FAILURES_MAX:
        note(f"{count(len(report.failed) - FAILURES_MAX, 'more failure')}; -o json shows all.", kind="Error")
    if any(failure.differs for failure in report.failed):
        note(
            "runs of one name in several files are different runs: import each set of files under a name of its own, by --agent."
        )
    if report.ignored:
        ignored = count(len(report.ignored), "JSON file")
        note(f"{ignored} ignored: no recorded runs of a known format, as far as one can see ({', '.join(FORMATS)}).")


@click.command(
    "copy",
    short_help="Copy a log into an empty one",
    epilog="\b\nExamples:\n  ctxlog copy embedded:/backup/agents\n  ctxlog copy --log embedded:old embedded:new --partitions 4",
)
@click.argument("target", metavar="URL")
@partitions_option
@log_option
@output_option
@click.pass_obj
def copy_command(session: Session, target: str, partitions: int | None) -> None:
    """Copy the log into URL, an empty log or one that is made. The same command again goes on with a copy that was stopped.

    States, versions and chain heads are the same in the copy, and questions about times are answered by the original times.
    Positions are not. Records that no reader can decode stay behind and are counted.
    """
    from ctxlog.replay.copying import copy_log

    with session.reading() as opened, _target(target, partitions) as found:
        if partitions is not None and found.partitions != partitions:
            raise click.UsageError(f"{_partitions(found)}, not {partitions}; nothing was copied.")
        with progress("Copying") as step:
            try:
                report = copy_log(opened.log, found, progress=step)
            except KeyboardInterrupt:
                note("what was copied stays; the same command goes on from there.")
                raise
    if not session.people:
        print_json(report.to_dict(), session.output)
        return
    held = f"which holds {report.records:,} now, beside the log's own (genesis, schemas)"
    line(f"{report.outcome}: {count(report.copied, 'record')} to {visible(found.url)}, {held}")
    if report.undecodable or report.misplaced:
        note(f"left behind: {report.undecodable:,} undecodable and {report.misplaced:,} misplaced, which no reader takes.")


@contextlib.contextmanager
def _target(url: str, partitions: int | None) -> Iterator[EventLog]:
    """The log to copy into; an embedded one is made."""
    from ctxlog.wiring import open_log

    opened = open_log(url, partitions=partitions)
    try:
        yield opened.log
    finally:
        opened.close()


def _partitions(log: EventLog) -> str:
    return f"{log.url} has {count(log.partitions, 'partition')}"


@click.command(
    "init",
    short_help="Create a log",
    epilog="\b\nExamples:\n  ctxlog init\n  ctxlog init --log embedded:/data/agents\n"
    "  ctxlog init --log kafka://localhost:9092 --partitions 24",
)
@partitions_option
@click.option("--adopt", is_flag=True, help="Kafka: go on with a topic that was restored and so has another id.")
@log_option
@output_option
@click.pass_obj
def init_command(session: Session, partitions: int | None, adopt: bool) -> None:
    """Create the log, or complete one whose creation was stopped; run again, this changes nothing.

    An embedded log is also made by the first command that writes to it. On Kafka this makes the topic, and nothing else does.
    """
    from ctxlog.wiring import create_log

    opened, created = create_log(session.url, partitions=partitions, adopt=adopt)
    log = opened.log
    try:
        if partitions is not None and log.partitions != partitions:
            raise click.UsageError(f"{_partitions(log)}, not {partitions}; nothing was changed.")
        found = {"log": log.url, "log_id": log.log_id, "partitions": log.partitions, "created": created}
    finally:
        opened.close()
    if session.people:
        done = "created" if created else "exists"
        line(f"{done}: {visible(log.url)}, {count(log.partitions, 'partition')}, log {log.log_id}")
    else:
        print_json(found, session.output)

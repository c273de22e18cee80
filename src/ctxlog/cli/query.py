"""`ctxlog query`: SQL over the published views of a log. Opens no log, and writes nothing but the answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxlog.cli import text
from ctxlog.cli.output import FORMATS, note
from ctxlog.cli.session import Session, log_option
from ctxlog.errors import InvalidInputError

if TYPE_CHECKING:
    from ctxlog.projection.query import Coverage, Views

AGE_SECONDS_TOLD = 60.0
"""Views that are older are said to be, to people. A projector that runs publishes far more often."""

SQL_BYTES_MAX = 1_000_000


@click.command(
    "query",
    short_help="Ask the views of a log, in SQL",
    epilog="\b\nExamples:\n"
    "  ctxlog query 'SELECT stream_id, version FROM contexts ORDER BY version DESC'\n"
    "  ctxlog query 'FROM tool_calls' -o parquet > calls.parquet\n"
    "  ctxlog query - -o json < question.sql\n"
    "  ctxlog query 'SHOW TABLES'",
)
@click.argument("sql", metavar="SQL")
@click.option(
    "--views", "folder", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Where the views are published."
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, metavar="SECONDS", help="Default 60.")
@click.option("--memory", default="1GB", metavar="SIZE", help="What it may take; default 1GB.")
@log_option
@click.option(
    "-o",
    "--output",
    type=click.Choice((*FORMATS, "csv", "parquet")),
    metavar="FORMAT",
    help="table (default), json, jsonl, csv or parquet.",
)
@click.pass_obj
def query_command(session: Session, sql: str, folder: Path | None, timeout: float, memory: str, output: str | None) -> None:
    """Ask the views of a log in SQL (that of DuckDB). SQL is one statement that reads, or - for stdin.

    The views are those that the projector has published, so they may lie behind the log. The view coverage says how far, and so
    does -o json.
    """
    form = output or session.output
    session.output = form if form in FORMATS else "table"  # Errors are for people, then.
    if form == "parquet" and sys.stdout.isatty():
        raise click.UsageError("Parquet is not for terminals; write it to a file: -o parquet > FILE.")
    if sql == "-":
        sql = _typed()
    from ctxlog.projection.memory import bounded
    from ctxlog.projection.query import Views
    from ctxlog.wiring import views_folder

    with Views(folder if folder is not None else views_folder(session.url), memory=memory) as views:
        try:
            with bounded(views.memory_bytes):
                _print(views, sql, form, timeout)
        except MemoryError:  # of Python, while the answer was written
            raise views.too_much() from None
        if session.people:
            _say_age(views.coverage)


def _typed() -> str:
    data = sys.stdin.buffer.read(SQL_BYTES_MAX + 1)
    if len(data) > SQL_BYTES_MAX:
        raise InvalidInputError(f"stdin: expected at most {SQL_BYTES_MAX:,} bytes of SQL; nothing was read")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInputError("stdin: expected SQL in UTF-8; nothing was read") from None


def _print(views: Views, sql: str, form: str, timeout: float) -> None:
    from ctxlog.cli import answers

    if form == "parquet":
        views.write_parquet(sql, sys.stdout.buffer, timeout_seconds=timeout)
        return
    answer = views.ask(sql, timeout_seconds=timeout)
    if form == "json":
        answers.print_object(answer, views.coverage, views.log_id)
    elif form == "jsonl":
        answers.print_lines(answer)
    elif form == "csv":
        answers.print_csv(answer)
    else:
        answers.print_table(answer)


def _say_age(coverage: list[Coverage]) -> None:
    """Say how far behind the log an answer may be, where that is worth saying."""
    behind = sum(partition.lag_events for partition in coverage)
    age = max((partition.age_seconds for partition in coverage), default=0.0)
    said = []
    if age > AGE_SECONDS_TOLD:
        said.append(f"were published {_duration(age)} ago")
    if behind:
        said.append(f"were {text.count(behind, 'record')} behind the log then")
    if said:
        note(f"the views {' and '.join(said)}. `ctxlog projector run` keeps them up to date.")


def _duration(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            return text.count(int(seconds / size), unit)
    return text.count(int(seconds), "second")

"""`ctxlog append`: a few events by hand or from a script, accepted together or not at all."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxlog.cli.output import line, note, print_json
from ctxlog.cli.session import Session, complete_streams, log_option, output_option
from ctxlog.cli.text import count, visible
from ctxlog.errors import IndeterminateError, InvalidInputError

if TYPE_CHECKING:
    from ctxlog.client import AppendOptions, Context, ContextLog
    from ctxlog.model.events import Event
    from ctxlog.model.outcomes import Acknowledged, Committed

INPUT_BYTES_MAX = 1100 * 1024 * 1024
"""Of --events: a little more than what the largest append can hold, 1,000 records of 1 MiB."""

RESOLVE_TIMES = 3
"""How often an append of unknown outcome is resolved: a log that fails more often than that needs a person."""


@click.command(
    "append",
    short_help="Append events to a stream",
    epilog="\b\nExamples:\n  ctxlog append refunds/1 --message user 'Please refund order W-204.'\n"
    "  ctxlog append refunds/1 --fact order.total 129.90 --fact order.id '\"W-204\"'\n"
    "  ctxlog append refunds/1 --expected-version 3 --events events.jsonl",
)
@click.argument("stream", shell_complete=complete_streams)
@click.option("--message", "messages", nargs=2, multiple=True, metavar="ROLE TEXT", help="A message; can be repeated.")
@click.option("--fact", "facts", nargs=2, multiple=True, metavar="KEY JSON", help="Set a fact; can be repeated.")
@click.option("--events", "path", metavar="FILE", help="Events as JSON, one a line or in an array; - reads stdin.")
@click.option("--expected-version", type=click.IntRange(min=0), metavar="N", help="Append only at version N; 0: a new stream.")
@click.option("--expected-head", metavar="HEX", help="Append only where this is the chain head.")
@click.option("--actor", metavar="KIND:ID", help="Who writes; agent:, person:, tool: or system: and an id.")
@log_option
@output_option
@click.pass_obj
def append_command(
    session: Session,
    stream: str,
    messages: tuple[tuple[str, str], ...],
    facts: tuple[tuple[str, str], ...],
    path: str | None,
    expected_version: int | None,
    expected_head: str | None,
    actor: str | None,
) -> None:
    """Append events to STREAM, all or nothing: messages first, then facts, then the events of FILE.

    An event in FILE is an object with "type", as in FactSet, and the fields of that type:

    \b
      {"type": "FactSet", "key": "limit", "value": "250"}
      {"type": "MessageAppended", "role": "user", "content": "Hello"}
    """
    from ctxlog.client import AppendOptions
    from ctxlog.model.ids import check_actor, check_stream_id

    check_stream_id(stream)  # Before the log is opened, which would create it.
    events = _events(messages, facts, path)
    options = AppendOptions(expected_version=expected_version, expected_head=expected_head)
    if actor is not None:
        options["actor"] = check_actor(actor)
    if os.environ.get("TRACEPARENT"):
        options["traceparent"] = _traceparent(os.environ["TRACEPARENT"])
    with session.writing() as log:
        _print(session, stream, _append(log, log.context(stream), events, options))


def _traceparent(said: str) -> str | None:
    """What tools that run other tools say of the trace. One that is none stops nobody: it was not given for this append."""
    from ctxlog.client.headers import check_traceparent

    try:
        return check_traceparent(said)
    except InvalidInputError:
        note("TRACEPARENT is no W3C traceparent; the records get none.")
        return None


def _append(log: ContextLog, context: Context, events: list[Event], options: AppendOptions) -> Committed | Acknowledged:
    """Append, and find out what became of it where that is not known at once: nobody else could."""
    try:
        return context.append(events, **options)
    except IndeterminateError as unknown:
        for left in reversed(range(RESOLVE_TIMES)):
            try:
                return log.resolve(unknown)
            except IndeterminateError:
                if not left:
                    raise
        raise


def _print(session: Session, stream: str, outcome: Committed | Acknowledged) -> None:
    version = getattr(outcome, "version", None)
    position = outcome.position
    if session.people:
        where = f"partition {position.partition}, offset {position.offset}"
        done = f"acknowledged at {where}" if version is None else f"committed as version {version:,}, {where}"
        line(f"{visible(stream)}: {count(len(outcome.event_ids), 'event')} {done}")
        return
    print_json(
        {
            "stream_id": stream,
            "outcome": "acknowledged" if version is None else "committed",
            "version": version,
            "position": position._asdict(),
            "event_ids": list(outcome.event_ids),
        },
        session.output,
    )


def _events(messages: tuple[tuple[str, str], ...], facts: tuple[tuple[str, str], ...], path: str | None) -> list[Event]:
    from ctxlog.client.appending import make_event
    from ctxlog.model.events import FactSet, MessageAppended

    events = [make_event(MessageAppended, role=role, content=text) for role, text in messages]
    for key, value in facts:
        try:
            json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise click.UsageError(
                f"--fact {key!r}: expected JSON, as in 250, true or '\"text\"' (text needs its own quotes); nothing was appended."
            ) from None
        events.append(make_event(FactSet, key=key, value=value))
    if path is not None:
        events.extend(_event(place, found) for place, found in _objects(path))
    if not events:
        raise click.UsageError("nothing to append: give --message, --fact or --events.")
    return events


def _objects(path: str) -> list[tuple[str, Any]]:
    """The objects of an array or of lines, each with its place. Raises `InvalidInputError`."""
    name = "stdin" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(INPUT_BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:
        raise InvalidInputError(f"{name}: cannot be read: {error.strerror}; nothing was appended") from None
    except UnicodeDecodeError:
        raise InvalidInputError(f"{name}: is not UTF-8; nothing was appended") from None
    if len(data) > INPUT_BYTES_MAX:
        raise InvalidInputError(f"{name}: more than {INPUT_BYTES_MAX:,} bytes; nothing was appended")
    if text.lstrip().startswith("["):
        found = _parsed(f"{name}", text)
        return [(f"{name}, event {number}", item) for number, item in enumerate(found, 1)]
    lines = ((f"{name}, line {number}", row) for number, row in enumerate(text.split("\n"), 1) if row.strip())
    return [(place, _parsed(place, row)) for place, row in lines]


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{place}: not JSON: {error.msg} (line {error.lineno}, column {error.colno}); nothing was appended"
        ) from None
    except (ValueError, RecursionError):
        raise InvalidInputError(f"{place}: not JSON; nothing was appended") from None


def _event(place: str, found: Any) -> Event:
    from ctxlog.client.appending import make_event
    from ctxlog.model.events import EVENT_TYPES

    known = {kind.__name__: kind for kind in EVENT_TYPES}
    if not isinstance(found, dict):
        raise InvalidInputError(f"{place}: expected an object; nothing was appended")
    fields = dict(found)
    name = str(fields.pop("type", "")).removeprefix("ctxlog.")
    if name not in known:
        raise InvalidInputError(f'{place}: expected "type" to be one of {", ".join(known)}; nothing was appended')
    try:
        return make_event(known[name], **fields)
    except InvalidInputError as error:
        raise InvalidInputError(f"{place}: {error}") from None


def _refuse(name: str) -> Any:
    raise ValueError(name)

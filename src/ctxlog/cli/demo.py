"""`ctxlog demo`: one recorded run that went wrong, and what a context log has to say about it. In a folder of its own.

Every figure, version and quotation is looked up in the log: the story is searched for by what happened in it (the cap, the
sum, the promise, the charge, the report).
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ctxlog.cli.output import columns, line, paint
from ctxlog.cli.session import Session
from ctxlog.cli.text import clip, count, one_line, pad
from ctxlog.errors import CtxlogError, InvalidInputError

if TYPE_CHECKING:
    from ctxlog.client import Context, ContextLog
    from ctxlog.replay.history import Entry

FOLDER = "ctxlog-demo"
STREAM = "tau-bench/task-14-trial-0"
LOOKED_UP = "get_reservation_details"
CHARGE = "update_reservation_flights"

WIDTH_MAX = 100
"""Columns that the screen is set for; fewer where the terminal has fewer."""

LOG_FILE = "log.sqlite"
"""Whether a folder holds a log can be seen by this file."""

VERIFICATION_FAILED = 3


class Scene(NamedTuple):
    """A line of the story: the version, who, what."""

    version: int
    who: str
    what: str


class Booking(NamedTuple):
    """What a tool says of the reservation."""

    paid: list[float]
    prices: list[float]
    passengers: list[str]

    @classmethod
    def of(cls, text: str) -> Booking:
        """Read a tool's result."""
        found = json.loads(text)
        return cls(
            [payment["amount"] for payment in found["payment_history"]],
            [flight["price"] for flight in found["flights"]],
            [person["first_name"] for person in found["passengers"]],
        )


class Story(NamedTuple):
    """What the demo tells.

    Attributes:
        scenes: What led to the charge, and what was said of it.
        before: Version of the context that the agent acted on.
        after: Version with what came back.
        cap: Dollars that the customer would pay at most.
        booked, charged: The reservation before and after.
    """

    scenes: list[Scene]
    before: int
    after: int
    cap: float
    booked: Booking
    charged: Booking


@click.command("demo", short_help="See ctxlog at work")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(FOLDER),
    metavar="PATH",
    help=f"Where the demo keeps its log; default {FOLDER}. Delete it when you are done.",
)
@click.pass_context
def demo_command(context: click.Context, folder: Path) -> None:
    """Import four recorded runs of a customer service agent, and look into one that charges twice what was agreed.

    Uses no network, no model, and no log but its own. Run again, it changes nothing.
    """
    session = context.find_root().ensure_object(Session)
    if session.url is not None or not session.people:
        raise click.UsageError("the demo has a log of its own (--folder PATH), and prints for people only.", context)
    _check(folder)

    from ctxlog.client import ContextLog
    from ctxlog.importers import import_path
    from ctxlog.samples import TAU_BENCH_TASK_14

    url = f"embedded:{folder}"
    with ContextLog.open(url) as log:
        report = import_path(log, TAU_BENCH_TASK_14)
        if report.failed:
            raise CtxlogError(f"{report.failed[0].place}: {report.failed[0].reason} {_advice(folder)}")
        run = log.context(STREAM)
        story = find_story([entry for entry in run.history() if entry.version is not None], folder)
        _title(story)
        line(
            f"Four recorded runs of one task (tau-bench, airline), imported into {url}:\n"
            f"{count(report.events_appended, 'new event')}, {report.events_skipped:,} there already. This is {STREAM}:\n"
        )
        _timeline(story)
        _context_before(run, story)
        _difference(run, story)
        consistent = _verdict(log)
    _next(url, story)
    if not consistent:
        context.exit(VERIFICATION_FAILED)


def _check(folder: Path) -> None:
    """Refuse a folder that somebody uses for something else. Raises `InvalidInputError`."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder}: expected a folder, found a file; nothing was written. Name another with --folder.")
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / LOG_FILE).exists():
            raise InvalidInputError(f"{folder}: holds other files, and no log; nothing was written. Name another with --folder.")
    except OSError as error:
        raise InvalidInputError(f"{folder}: cannot be read: {error.strerror}. Name another with --folder.") from None


def _advice(folder: Path) -> str:
    return f"To start over, delete the folder {str(folder)!r} and run the demo again."


def find_story(entries: Sequence[Entry], folder: Path) -> Story:
    """Look the story up in the events of the run.

    Raises:
        CtxlogError: They tell another one.
    """
    try:
        return _find(entries)
    except (StopIteration, KeyError, TypeError, ValueError, AttributeError):
        raise CtxlogError(f"stream {STREAM!r} does not hold the run that ctxlog ships. {_advice(folder)}") from None


def _find(entries: Sequence[Entry]) -> Story:
    calls = {entry.payload["call_id"]: entry for entry in entries if entry.type == "ctxlog.ToolCalled"}
    at = 0

    def find(test: Callable[[Entry], bool]) -> Entry:
        """The next entry that passes, after the one found last."""
        nonlocal at
        at = next(index for index in range(at, len(entries)) if test(entries[index])) + 1
        return entries[at - 1]

    def says(role: str, *needles: str) -> Entry:
        return find(
            lambda entry: (
                entry.payload.get("role") == role and all(needle in (entry.payload["content"] or "") for needle in needles)
            )
        )

    def returned(name: str, test: Callable[[str], bool] = lambda _: True) -> Entry:
        return find(
            lambda entry: (
                entry.type == "ctxlog.ToolReturned"
                and calls[entry.payload["call_id"]].payload["name"] == name
                and test(entry.payload["content"])
            )
        )

    looked_up = returned(LOOKED_UP)
    capped = says("user", "up to $")
    cap = float(_group(r"up to \$([\d.]+)", capped))
    total = returned("calculate", lambda result: float(result) > cap)
    promised = says("assistant", f"exactly ${cap:g}")
    agreed = says("user", "Yes")
    asked = find(lambda entry: entry.type == "ctxlog.ToolCalled" and entry.payload["name"] == CHARGE)
    back = returned(CHARGE)
    reported = says("assistant", "processed", f"${cap:g}")
    message = next(entry for entry in entries if entry.meta["event_id"] == asked.payload["message_id"])
    arguments = json.loads(asked.payload["arguments"])
    charged = Booking.of(back.payload["content"])
    sum_asked = json.loads(calls[total.payload["call_id"]].payload["arguments"])["expression"]
    return Story(
        [
            _scene(capped, "customer", _quoted(capped, "up to $")),
            _scene(total, "calculate", f"{sum_asked} = {total.payload['content']}"),
            _scene(promised, "agent", _quoted(promised, f"exactly ${cap:g}")),
            _scene(agreed, "customer", _quoted(agreed, "Yes")),
            _scene(
                asked,
                "agent calls",
                f"{CHARGE}: reservation {arguments['reservation_id']}, cabin {arguments['cabin']}; names no passenger",
            ),
            _scene(back, "comes back", f"payment of {charged.paid[-1]:g}, for {' and '.join(charged.passengers)}"),
            _scene(reported, "agent", _quoted(reported, "processed")),
        ],
        (message.version or 0) - 1,
        back.version or 0,
        cap,
        Booking.of(looked_up.payload["content"]),
        charged,
    )


def _scene(entry: Entry, who: str, what: str) -> Scene:
    return Scene(entry.version or 0, who, what)


def _group(pattern: str, entry: Entry) -> str:
    found = re.search(pattern, entry.payload["content"])
    return found[1] if found else ""


def _quoted(entry: Entry, needle: str) -> str:
    """The sentence with these words, as it stands in the message."""
    sentences = re.split(r"(?<=[.!?])\s+|\n+[-\s]*", entry.payload["content"])
    return f"“{next(sentence for sentence in sentences if needle in sentence)}”"


def _width() -> int:
    return min(columns() or WIDTH_MAX, WIDTH_MAX)


def _print(label: str, what: str, **style: Any) -> None:
    """A row: a label of a width, and what fits into the line."""
    line(f"  {paint(pad(label, 11), dim=True)}  {paint(clip(one_line(what), _width() - 15), **style)}")


def _title(story: Story) -> None:
    line(paint(f"An agent agrees on ${story.cap:g} and charges ${story.charged.paid[-1]:g}. What did it know?", bold=True))


def _timeline(story: Story) -> None:
    for version, who, what in story.scenes:
        spent = version == story.after
        label = f"  {paint(f'{version:>3}', bold=True)}  {paint(pad(who, 11), fg='cyan')}"
        line(f"{label}  {paint(clip(one_line(what), _width() - 20), fg='red' if spent else None, bold=spent)}")
    line()


def _context_before(run: Context, story: Story) -> None:
    found = run.replay(story.before)
    state, manifest = found.state, found.manifest
    line(paint(f"The context just before the charge: version {story.before}, recomputed from the log", bold=True))
    open_calls = sum(call.status == "open" for call in state.tool_calls.values())
    _print("holds", f"{count(len(state.messages), 'message')}, {count(len(state.tool_calls), 'tool call')}, {open_calls} open")
    for message in [message for message in state.messages if message.content and message.role in ("assistant", "user")][-2:]:
        _print({"assistant": "agent", "user": "customer"}[message.role], _gist(message.content or "", f"${story.cap:g}"))
    _print("chain head", f"{manifest.chain_head[:16]}…   state digest {manifest.state_digest[:16]}…")
    line()


def _gist(text: str, needle: str) -> str:
    """The text; where it is long, from the line with these words on."""
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    start = next((index for index, row in enumerate(rows) if needle in row), 0)
    return "“" + ("… " if start else "") + " ".join(rows[max(0, start - 2) if start else 0 :]) + "”"


def _difference(run: Context, story: Story) -> None:
    from ctxlog.replay.diff import diff

    found = diff(run.replay(story.before).state, run.replay(story.after).state)
    line(paint(f"The difference that the charge made: version {story.before} to {story.after}", bold=True))
    for change in found.tool_calls:
        if change.after is not None:
            _print(f"+ {change.change}", f"{change.after.name} {change.after.arguments}", fg="green")
    for added in found.messages:
        if added.after is not None and added.after.role == "tool":
            _print("+ result", added.after.content or "", fg="green")
    booked, charged = story.booked, story.charged
    _print("payments", f"{_amounts(booked.paid)}  →  {_amounts(charged.paid)}", fg="red", bold=True)
    _print(
        "prices", f"{_amounts(booked.prices)}  →  {_amounts(charged.prices)}   for each of {len(charged.passengers)} passengers"
    )
    line()


def _amounts(amounts: Sequence[float]) -> str:
    return " + ".join(f"{amount:g}" for amount in amounts)


def _verdict(log: ContextLog) -> bool:
    from ctxlog.audit.verify import verify

    report = verify(log)
    good = not report.problems
    checked = f"{count(report.records, 'record')} in {count(report.streams, 'stream')}, {count(len(report.problems), 'problem')}"
    line(f"{paint('verify:', bold=True)} {paint(report.verdict, fg='green' if good else 'red', bold=True)} ({checked})")
    for problem in report.problems[:3]:
        line(f"  {clip(one_line(str(problem)), _width() - 2)}")
    line()
    return good


def _next(url: str, story: Story) -> None:
    line(paint("Three commands to go on with:", bold=True))
    program = f"{_program()} --log {shlex.quote(url)}"
    line(f"  {program} log {STREAM}")
    line(f"  {program} replay {STREAM}@{story.before}")
    line(f"  {program} diff {STREAM}@{story.before} {STREAM}@{story.after}")


def _program() -> str:
    """How the shell that started this finds the program again."""
    started = Path(sys.argv[0])
    if started.name != "ctxlog":
        return f"{shlex.quote(sys.executable)} -m ctxlog.cli" if started.name == "__main__.py" else "ctxlog"
    on_path = shutil.which("ctxlog")
    if on_path is not None and Path(on_path).resolve() == started.resolve():
        return "ctxlog"
    try:
        return shlex.quote(str(started.absolute().relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(started.absolute()))

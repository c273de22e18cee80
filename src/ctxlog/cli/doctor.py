"""`ctxlog doctor`: what ctxlog runs on, which log it would use, and whether that log can be used. Creates and changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from ctxlog.cli import text
from ctxlog.cli.output import line, paint, print_json
from ctxlog.cli.session import Session, log_option, output_option
from ctxlog.errors import CtxlogError

FAILED = 1

DISK_FREE_BYTES_LOW = 500 * 1000 * 1000
"""Below it a disk is said to be nearly full: some hundred thousand events more."""

COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "failed": "red"}


class Check(NamedTuple):
    """One thing that was looked at. `status` is ok, note, warning or failed; `advice` says what to do about it, if anything."""

    check: str
    status: str
    found: str
    advice: str = ""


@click.command(
    "doctor",
    short_help="Say what is wrong with the setup",
    epilog="\b\nExamples:\n  ctxlog doctor --log embedded:/data/agents\n  ctxlog doctor --log kafka://localhost:9092 -o json",
)
@log_option
@output_option
@click.pass_obj
def doctor_command(session: Session) -> None:
    """Look at the installation and at the log, and say what is wrong and what to do. Exits with 1 where something is wrong."""
    found = [*_installation(), *_log(session)]
    if not session.people:
        print_json({"checks": [check._asdict() for check in found]}, session.output)
    else:
        width = max(len(check.check) for check in found)
        for check in found:
            status = paint(text.pad(check.status, 7), fg=COLOURS[check.status])
            line(f"{status}  {text.pad(check.check, width)}  {text.visible(check.found)}")
            if check.advice:
                line(f"{' ' * (11 + width)}{text.visible(check.advice)}")
    if any(check.status == "failed" for check in found):
        click.get_current_context().exit(FAILED)


def _installation() -> Iterator[Check]:
    from importlib.metadata import version

    yield Check("ctxlog", "ok", f"{version('ctxlog')}, Python {platform.python_version()}, {sys.platform}")
    try:
        from ctxlog.codec.schemas import shipped
        from ctxlog.core.evolve import KNOWN_TYPES

        names = [shipped(name).name for name in sorted(KNOWN_TYPES)]
        yield Check("schemas", "ok", f"{len(names)} event types")
    except (OSError, CtxlogError) as error:
        yield Check("schemas", "failed", str(error), "Install ctxlog again.")


def _log(session: Session) -> Iterator[Check]:
    from ctxlog.wiring import find_url

    try:
        url, source = find_url(session.url)
    except CtxlogError as error:
        yield Check("log", "failed", str(error), "Correct the file, or name the log with --log.")
        return
    origin = {"given": "--log", "default": "the default"}.get(source, source)
    if url.startswith("kafka:"):
        from ctxlog.cli.doctor_kafka import kafka_checks

        yield from kafka_checks(url, origin)
        return
    scheme, _, rest = url.partition(":")
    if scheme == "embedded" and rest and not Path(rest).exists():
        yield Check(
            "log",
            "note",
            f"{url}, from {origin}: not there yet",
            "The first command that writes creates it, as `ctxlog init` does.",
        )
        yield from _place(nearest(Path(rest)))
        return
    try:
        with session.reading() as opened:
            from ctxlog.replay.summaries import matching

            log, streams = opened.log, len(matching(opened.log))
            records = sum(log.bounds(partition).end for partition in range(log.partitions))
            held = f"{text.count(log.partitions, 'partition')}, {text.count(streams, 'stream')}, {text.count(records, 'record')}"
            yield Check("log", "ok", f"{url}, from {origin}: {held}")
    except CtxlogError as error:
        yield Check("log", "failed", str(error))
    if scheme == "embedded" and rest:
        yield from _place(Path(rest))


def nearest(path: Path) -> Path:
    """The folder that is there."""
    path = path.absolute()
    while not path.exists() and path.parent != path:
        path = path.parent
    return path


def _place(folder: Path) -> Iterator[Check]:
    """The folder of an embedded log."""
    from ctxlog.log.embedded.file import LOG_FILE

    if not os.access(folder, os.W_OK | os.X_OK):
        yield Check("folder", "warning", f"{folder} cannot be written", "The log can be read; to append, run as its owner.")
    else:
        file = folder / LOG_FILE
        sizes = sum(part.stat().st_size for part in (file, file.with_name(f"{LOG_FILE}-wal")) if part.exists())
        yield Check("folder", "ok", f"{folder} can be written" + (f", the log has {text.size(sizes)}" if sizes else ""))
    free = shutil.disk_usage(folder).free
    low = free < DISK_FREE_BYTES_LOW
    yield Check(
        "disk",
        "warning" if low else "ok",
        f"{text.size(free)} free",
        "Make room: a full disk refuses appends. Nothing that was acknowledged is lost by it." if low else "",
    )

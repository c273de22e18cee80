"""`ctxlog projector`: DuckDB views of the log, kept up to date, and what is to be known of them."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctxlog.cli import text
from ctxlog.cli.keys import heads_option, keys_option
from ctxlog.cli.output import line, note, paint, print_json, print_list
from ctxlog.cli.progress import progress
from ctxlog.cli.publish import publish_command
from ctxlog.cli.session import Session, log_option, output_option
from ctxlog.cli.sign import signer_of
from ctxlog.cli.watch import Watch
from ctxlog.errors import CtxlogError

if TYPE_CHECKING:
    from types import FrameType

    from ctxlog.log.protocol import EventLog
    from ctxlog.projection.coverage import Coverage
    from ctxlog.projection.instance import Instance
    from ctxlog.projection.running import Running

F = TypeVar("F", bound=Callable[..., Any])

TERMINATED = 128 + signal.SIGTERM


@click.group(
    "projector",
    short_help="Keep DuckDB views of the log up to date",
    epilog="\b\nExamples:\n  ctxlog projector run\n  ctxlog projector run --once\n  ctxlog projector status",
)
def projector_command() -> None:
    """Keep DuckDB views of the log up to date. What is published can be queried at any time, by any number of processes."""


class Seconds(click.FloatRange):
    """A number of seconds; NaN is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return found


def views_option(function: F) -> F:
    """`--views FOLDER`."""
    decorate = click.option(
        "--views", type=click.Path(path_type=Path), metavar="FOLDER", help="Where the views are; default beside the log."
    )
    return decorate(function)


def instance_option(function: F) -> F:
    """`--instance NAME`."""
    decorate = click.option(
        "--instance", "name", metavar="NAME", default="current", show_default=True, help="Which of several projectors."
    )
    return decorate(function)


def projection_option(function: F) -> F:
    """`--projection NAME`, any number of them."""
    decorate = click.option(
        "--projection", "projections", multiple=True, metavar="NAME", help="A view of your own: FILE.sql or module:Class."
    )
    return decorate(function)


def instance_of(session: Session, views: Path | None, name: str) -> Instance:
    """The instance that the options name."""
    from ctxlog.projection.instance import Instance
    from ctxlog.wiring import views_folder

    return Instance(views or views_folder(session.url), name)


@projector_command.command(
    "run",
    short_help="Project what is in the log, and what comes",
    epilog="\b\nExamples:\n  ctxlog projector run\n  ctxlog projector run --once --views /data/views\n"
    "  ctxlog projector run --instance b --metrics-port 9464",
)
@click.option("--once", is_flag=True, help="End where the log ends when it begins; all partitions.")
@instance_option
@views_option
@projection_option
@click.option(
    "--publish-seconds",
    type=Seconds(min=0),
    metavar="N",
    default=5.0,
    show_default=True,
    help="Publish so often at most.",
)
@click.option("--sign", "named", metavar="KEY", help="Sign what was projected with this key, as `ctxlog sign` does.")
@click.option("--sign-seconds", type=Seconds(min=0), metavar="N", default=300.0, show_default=True, help="Sign so often at most.")
@keys_option
@heads_option
@click.option("--metrics-port", type=click.IntRange(0, 65535), metavar="PORT", help="Prometheus on 127.0.0.1; 0: a free port.")
@log_option
@output_option
@click.pass_obj
def run_command(
    session: Session,
    once: bool,
    name: str,
    views: Path | None,
    projections: tuple[str, ...],
    publish_seconds: float,
    named: str | None,
    sign_seconds: float,
    keys: str | None,
    heads: str | None,
    metrics_port: int | None,
) -> None:
    """Project the log's records into DuckDB, each exactly once, and publish NAME.duckdb in the views' folder now and then.

    Goes on where the last run stopped. Where the disk is full or the brokers are away it says so, waits, and goes on by itself.
    SIGTERM and Ctrl-C end it after the transaction under way; it publishes what it has.

    On Kafka several instances, each with its own NAME, share the partitions.
    """
    from ctxlog.projection.custom import load_projections
    from ctxlog.projection.running import Running
    from ctxlog.replay.keeping import CacheKeeper
    from ctxlog.wiring import join_group

    instance, added = instance_of(session, views, name), load_projections(projections)
    with session.opened() as opened, contextlib.ExitStack() as stack:
        watch = stack.enter_context(Watch())
        stack.enter_context(instance.private())
        caches = CacheKeeper(opened.log, opened.snapshots)
        signer = None if named is None else stack.enter_context(signer_of(opened, named, keys, heads))
        running = Running(
            opened.log,
            instance,
            publish_seconds=publish_seconds,
            projections=added,
            caches=caches,
            signer=signer,
            sign_seconds=sign_seconds,
            tell=watch.tell,
            show=watch.show,
        )
        caught = stack.enter_context(_signals(running))
        if metrics_port is not None:
            from ctxlog.projection.metrics import Metrics

            metrics = stack.enter_context(Metrics(running.figures, metrics_port))
            note(metrics.url, kind="Metrics")
        done = running.run(once=once, join=lambda: join_group(opened, instance.name))
    if signal.SIGINT in caught:
        raise KeyboardInterrupt
    _print_run(session, instance, running)
    if once and not done:
        raise CtxlogError("stopped before the end was reached; what was projected is kept, and the next run goes on there.")


@contextlib.contextmanager
def _signals(running: Running) -> Iterator[set[int]]:
    """SIGTERM and Ctrl-C end the run in good order; gives those that came. A second Ctrl-C ends it at once."""
    caught: set[int] = set()

    def stop(number: int, _frame: FrameType | None) -> None:
        caught.add(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        running.interrupt()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, so that nothing half-made stays."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_run(session: Session, instance: Instance, running: Running) -> None:
    figures = running.figures
    if session.people:
        behind = f", {figures.lag_events:,} behind" if figures.lag_events else ""
        where = "not published" if running.unpublished else f"published in {text.visible(str(instance.published))}"
        line(f"projected: {text.count(figures.records, 'record')}{behind}; {where}")
        return
    partitions = [
        {
            "partition": partition,
            "next_offset": start,
            "end_offset": figures.ends.get(partition),
            "lag_events": figures.lags[partition],
        }
        for partition, start in sorted(figures.next_offsets.items())
    ]
    file = None if running.unpublished else str(instance.published)
    found = {"records": figures.records, "batches": figures.batches, "file": file, "partitions": partitions}
    print_json(found, session.output)


@projector_command.command("status", short_help="How far the published views are")
@views_option
@log_option
@output_option
@click.pass_obj
def status_command(session: Session, views: Path | None) -> None:
    """Compare the published views with the ends of the log now: per partition how far the file is that is furthest, what it
    lacks, and how old it is. Exits with 1 where there are no views.
    """
    from ctxlog.projection.coverage import coverage_of, published_files
    from ctxlog.wiring import views_folder

    folder = views or views_folder(session.url)
    with session.opened() as opened:
        log = opened.log
        files = [found for path in published_files(folder) if (found := coverage_of(path)) is not None]
        ours = [found for found in files if found.log_id == log.log_id]
        for found in files:
            if found.log_id != log.log_id:
                note(f"{found.path}: " + ("no views that can be read." if found.log_id is None else "views of another log."))
            elif not found.current:
                note(f"{found.path}: of another version of the views. `ctxlog projector run` makes them anew.")
        if not ours:
            raise CtxlogError(f"{folder}: there are no views of this log yet. `ctxlog projector run` makes them.")
        rows = [_status_of(log, partition, ours) for partition in range(log.partitions)]
    if not session.people:
        print_list("partitions", rows, session.output, head={"log_id": log.log_id, "views": str(folder)})
        return
    cells = [
        (
            str(row["partition"]),
            f"{row['next_offset']:,}",
            f"{row['lag_events']:,}",
            _duration(row["lag_seconds"]),
            "-" if row["age_seconds"] is None else _duration(row["age_seconds"]),
            "-" if row["file"] is None else text.size(row["size_bytes"]),
            "-" if row["file"] is None else text.visible(Path(row["file"]).name),
        )
        for row in rows
    ]
    head = ("PARTITION", "NEXT OFFSET", "LAG EVENTS", "LAG TIME", "AGE", "SIZE", "FILE")
    for number, (whole, _) in enumerate(text.table(head, cells, right=(0, 1, 2, 3, 4, 5))):
        line(whole if number else paint(whole, dim=True))


def _status_of(log: EventLog, partition: int, files: list[Coverage]) -> dict[str, Any]:
    """A partition: what the file that is furthest has of it, and what it lacks."""
    now, end = time.time(), log.bounds(partition).end
    having = [found for found in files if partition in found.next_offsets]
    best = max(having, key=lambda found: (found.next_offsets[partition], found.published_at or 0.0), default=None)
    start = 0 if best is None else best.next_offsets[partition]
    waits = next(log.read(partition, start, end), None) if start < end else None
    return {
        "partition": partition,
        "next_offset": start,
        "end_offset": end,
        "lag_events": max(0, end - start),
        "lag_seconds": 0.0 if waits is None else round(max(0.0, now - waits.recorded_at / 1000), 3),
        "age_seconds": None if best is None or best.published_at is None else round(max(0.0, now - best.published_at), 3),
        "file": None if best is None else str(best.path),
        "size_bytes": None if best is None else best.size,
    }


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


@projector_command.command("rebuild", short_help="Make the views anew")
@click.argument("view", required=False)
@instance_option
@views_option
@projection_option
@log_option
@output_option
@click.pass_obj
def rebuild_command(session: Session, view: str | None, name: str, views: Path | None, projections: tuple[str, ...]) -> None:
    """Project all of the log into a new file, compare it with the log once more, and put it in the old one's place. Readers keep
    the old views until then. Refuses while a projector runs on them.

    With VIEW, the name of one that --projection adds, that one alone is made anew. The views that come with ctxlog hold no rows
    of their own: they are made anew with `events`.
    """
    from ctxlog.projection.custom import load_projections
    from ctxlog.projection.rebuild import rebuild, rebuild_one

    instance, added = instance_of(session, views, name), load_projections(projections)
    if view is not None:
        if view not in [one.name for one in added]:
            raise click.UsageError(f"view {view!r}: expected the name of one that --projection adds; nothing was changed.")
        with session.opened() as opened, instance.private():
            rebuild_one(opened.log, instance, view, added, note)
        if session.people:
            line(f"rebuilt: {text.visible(view)}; published in {text.visible(str(instance.published))}")
        else:
            print_json({"view": view, "file": str(instance.published)}, session.output)
        return
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(session.opened())
        projecting, checking = (stack.enter_context(progress(what)) for what in ("Projecting", "Comparing with the log"))
        stack.enter_context(instance.private())
        stack.enter_context(_ended_in_order())
        made = rebuild(opened.log, instance, added, tell=note, projecting=projecting, checking=checking)
    if session.people:
        line(f"rebuilt: {text.count(made.records, 'record')}; published in {text.visible(str(instance.published))}")
        return
    offsets = [{"partition": partition, "next_offset": offset} for partition, offset in sorted(made.next_offsets.items())]
    print_json({"records": made.records, "file": str(instance.published), "partitions": offsets}, session.output)


projector_command.add_command(publish_command)

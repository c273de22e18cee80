"""`ctxlog replay`, `ctxlog diff`, `ctxlog verify`: what can be shown to somebody who does not believe it.

`replay` and `verify` compute from the log's own records and use no cache; `diff` may use the caches, as `show` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxlog.cli import text
from ctxlog.cli.output import line, note, paint, print_json
from ctxlog.cli.progress import progress
from ctxlog.cli.session import Opened, Session, complete_streams, log_option, output_option, parse_target
from ctxlog.errors import CtxlogError, IntegrityError, InvalidInputError, ViewsError

if TYPE_CHECKING:
    from ctxlog.audit.verify import Problem, VerifyReport
    from ctxlog.audit.views import ViewsReport
    from ctxlog.replay.cuts import Cut
    from ctxlog.replay.manifest import Manifest

VERIFICATION_FAILED = 3

PROBLEMS_MAX = 20
"""Problems that are shown to people one by one; -o json has all."""

COVERAGE_MAX = 4
"""Partitions whose ends are shown to people."""


@click.command(
    "replay",
    short_help="Recompute a context at any point",
    epilog="\b\nExamples:\n"
    "  ctxlog replay refunds/1@time:2026-11-22T14:02:00Z\n  ctxlog replay refunds/1 --at 7 -o json\n"
    "  ctxlog replay 'refunds/*' --at time:2026-11-22T14:02:00Z -o json > cut.json\n"
    "  ctxlog replay 'refunds/*' --at cut:cut.json",
)
@click.argument("target", metavar="STREAM|PATTERN[@POINT]", shell_complete=complete_streams)
@click.option("--at", "at", metavar="POINT", help="The point; latest where none is given. `ctxlog show -h` has the forms.")
@log_option
@output_option
@click.pass_obj
def replay_command(session: Session, target: str, at: str | None) -> None:
    """Recompute a context from the log's records, without any cache, and print it with its manifest: what anybody with the log
    needs to check it. `ctxlog verify --manifest` does.

    A PATTERN (quoted, as in 'refunds/*') stands for several streams, and what is printed is the cut: the version and chain head
    of each at that point. Kept in a file, it asks the same question again: --at cut:FILE.
    """
    from ctxlog.model.points import parse_point, parse_stream_point
    from ctxlog.replay.replayer import Replayer

    with session.reading() as opened:
        replayer = Replayer(opened.log)
        if _is_pattern(opened, target):
            from ctxlog.replay.cuts import cut_of

            pattern, wanted = parse_stream_point(target) if at is None else (target, parse_point(at))
            with progress("Replaying streams") as step:
                cut = cut_of(replayer, pattern, wanted, progress=step)
            _print_cut(session, pattern, cut)
            return
        if at is None:
            stream_id, point = parse_target(opened, target)
        elif not opened.has(target) and opened.has(target.rpartition("@")[0]):
            raise click.UsageError("give the point either behind the '@' or with --at, not both.")
        else:
            stream_id, point = target, parse_point(at)
            opened.require(target)
        found = replayer.replay(stream_id, point)
    if not session.people:
        print_json(found.to_dict(), session.output)
        return
    from ctxlog.cli.context import print_context

    print_context(found, last=None, full=True)
    _print_manifest(found.manifest)


def _is_pattern(opened: Opened, target: str) -> bool:
    return any(char in target for char in "*?[") and not opened.has(target) and not opened.has(target.rpartition("@")[0])


def _print_manifest(manifest: Manifest) -> None:
    line()
    line(paint("Manifest", bold=True) + paint("  recomputed from the log; -o json prints it with the state", dim=True))
    place = f"partition {manifest.position.partition}, offset {manifest.position.offset}" if manifest.position else "none"
    for name, value in (
        ("log", manifest.log_id),
        ("at", text.visible(manifest.at)),
        ("version", f"{manifest.version:,}"),
        ("position", place),
        ("chain head", manifest.chain_head),
        ("state digest", manifest.state_digest),
        ("rules, fold", f"{manifest.rules}, {manifest.fold_version}"),
    ):
        line(f"  {paint(text.pad(name, 12), dim=True)}  {value}")


def _print_cut(session: Session, pattern: str, cut: Cut) -> None:
    if not session.people:
        print_json(cut.to_dict(), session.output)
        return
    if not cut.streams:
        note(f"no stream matches {pattern!r}.")
        return
    rows = [(text.visible(name), f"{version:,}", cut.chain_heads[name][:12]) for name, version in cut.streams.items()]
    for number, (whole, _) in enumerate(text.table(("STREAM", "VERSION", "CHAIN HEAD"), rows, right=(1,))):
        line(whole if number else paint(whole, dim=True))
    note(f"at {text.visible(cut.at)}. Kept with -o json > FILE, it is repeated by --at cut:FILE, also for one stream.")


@click.command(
    "diff",
    short_help="Compare two contexts, or one at two points",
    epilog="\b\nExamples:\n  ctxlog diff refunds/1@7 refunds/1\n"
    "  ctxlog diff refunds/1@time:2026-11-22T14:02:00Z refunds/1@latest\n"
    "  ctxlog diff airline/task-14-trial-0 airline/task-14-trial-1",
)
@click.argument("before", metavar="STREAM[@POINT]", shell_complete=complete_streams)
@click.argument("after", metavar="STREAM[@POINT]", shell_complete=complete_streams)
@log_option
@output_option
@click.pass_obj
def diff_command(session: Session, before: str, after: str) -> None:
    """Say what changed from one context to another: messages, facts and tool calls.

    States of one stream, or of a fork and its parent, are compared by ids. Two separate runs share none, and are compared by what
    was said and called.
    """
    from ctxlog.replay.diff import diff

    with session.reading() as opened:
        states = [opened.replayer.replay(*parse_target(opened, side)).state for side in (before, after)]
    found = diff(*states)
    if session.people:
        from ctxlog.cli.render_diff import print_diff

        print_diff(found)
    else:
        print_json(found.to_dict(), session.output)


@click.command(
    "verify",
    short_help="Check the log, a manifest, or the views",
    epilog="\b\nExamples:\n  ctxlog verify\n  ctxlog verify 'refunds/*'\n  ctxlog replay refunds/1 -o json > seen.json\n"
    "  ctxlog verify --manifest seen.json\n  ctxlog verify --views\n  ctxlog verify --views --sample 100 --seed 7",
)
@click.argument("pattern", default="*", shell_complete=complete_streams)
@click.option(
    "--manifest", "manifest", metavar="FILE", type=click.Path(), help="Check what `ctxlog replay -o json` once printed."
)
@click.option("--views", "views", is_flag=True, help="Check the published views against the log.")
@click.option("--views-folder", "folder", metavar="FOLDER", type=click.Path(), help="Where they are published. Implies --views.")
@click.option("--sample", metavar="N", type=click.IntRange(min=1), help="Check N streams of the views, drawn by --seed.")
@click.option("--seed", metavar="S", type=int, default=0, show_default=True, help="The same seed draws the same streams.")
@log_option
@output_option
@click.pass_obj
def verify_command(
    session: Session, pattern: str, manifest: str | None, views: bool, folder: str | None, sample: int | None, seed: int
) -> None:
    """Compute everything again: links of the file, index, chains, digests, snapshots of the streams that match PATTERN.

    Says `consistent, unsigned`, or `broken` with each place, and then exits with 3. What is not signed can be rewritten as a
    whole by whoever holds the file; a manifest or a chain head that is kept elsewhere shows it.

    With --views: every published file, row by row and state by state, against what the log's records amount to.
    """
    views = views or folder is not None
    if views and manifest is not None:
        raise click.UsageError("give either --manifest or --views.")
    if sample is not None and not views:
        raise click.UsageError("--sample is taken with --views.")
    if manifest is not None and pattern != "*":
        raise click.UsageError("a manifest names its stream; give either PATTERN or --manifest.")
    shown = None if manifest is None else _read_manifest(manifest)
    try:
        with session.reading() as opened:
            if views:
                _verify_views(session, opened, pattern, folder, sample, seed)
                return
            report = _verified(opened, pattern, shown)
    except IntegrityError as error:
        # So broken that it cannot be opened or read on.
        if session.people:
            line(paint("broken", fg="red", bold=True))
            line(f"  {text.visible(str(error))}")
        else:
            problem = {"where": "log", "expected": "a log that can be read", "found": str(error)}
            print_json({"verdict": "broken", "problems": [problem]}, session.output)
        click.get_current_context().exit(VERIFICATION_FAILED)
    if session.people:
        _print_report(report, shown is not None)
    else:
        print_json(report.to_dict(), session.output)
    if report.problems:
        click.get_current_context().exit(VERIFICATION_FAILED)


def _verified(opened: Opened, pattern: str, manifest: dict[str, Any] | None) -> VerifyReport:
    from ctxlog.audit.verify import verify, verify_manifest
    from ctxlog.replay.summaries import matching

    if manifest is not None:
        return verify_manifest(opened, manifest)
    if pattern != "*" and not matching(opened.log, pattern):
        raise CtxlogError(f"no stream matches {pattern!r}; nothing was checked. `ctxlog streams` lists all.")
    with progress("Verifying") as step:
        return verify(opened, pattern, progress=step)


def _verify_views(session: Session, opened: Opened, pattern: str, folder: str | None, sample: int | None, seed: int) -> None:
    from ctxlog.audit.views import AGREE, DIFFER, verify_views
    from ctxlog.projection.coverage import published_files
    from ctxlog.replay.summaries import matching
    from ctxlog.wiring import views_folder

    where = views_folder(session.url) if folder is None else Path(folder)
    paths = published_files(where)
    if not paths:
        raise ViewsError(f"{where}: no views are published there; nothing was checked. `ctxlog projector run` makes them.")
    if pattern != "*" and not matching(opened.log, pattern):
        hint = "A folder is named with --views-folder." if Path(pattern).is_dir() else "`ctxlog streams` lists all."
        raise CtxlogError(f"no stream matches {pattern!r}; nothing was checked. {hint}")
    reports = []
    for path in paths:
        with progress("Verifying the views") as step:
            reports.append(verify_views(opened.log, path, pattern, sample=sample, seed=seed, progress=step))
    if session.people:
        for report in reports:
            _print_views(report)
    else:
        broken = any(report.problems for report in reports)
        verdict = {"log_id": opened.log.log_id, "verdict": DIFFER if broken else AGREE}
        print_json(verdict | {"views": [report.to_dict() for report in reports]}, session.output)
    if any(report.problems for report in reports):
        click.get_current_context().exit(VERIFICATION_FAILED)


def _print_views(report: ViewsReport) -> None:
    good = not report.problems
    upto = ", ".join(f"{partition}@{offset}" for partition, offset in list(report.coverage.items())[:COVERAGE_MAX])
    upto += ", …" if len(report.coverage) > COVERAGE_MAX else ""
    counted = f"{text.count(report.streams, 'stream')}, {text.count(report.records, 'record')}"
    line(
        f"{paint(report.verdict, fg='green' if good else 'red', bold=True)}  "
        f"({text.visible(Path(report.path).name)} up to {upto or 'nothing'}: {counted})"
    )
    _print_problems(report.problems)
    for remark in report.notes:
        note(remark)


def _read_manifest(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}; nothing was checked") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path}: expected a manifest, as `ctxlog replay -o json` prints it; nothing was checked")
    return found


def _print_report(report: VerifyReport, of_manifest: bool) -> None:
    good = not report.problems
    checked = (
        "the manifest is what the log says"
        if of_manifest and good
        else f"{text.count(report.records, 'record')}, {text.count(report.streams, 'stream')}, "
        f"{text.count(report.snapshots, 'snapshot')}"
    )
    line(f"{paint(report.verdict, fg='green' if good else 'red', bold=True)}  ({checked})")
    _print_problems(report.problems)
    for remark in report.notes:
        note(remark)


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:PROBLEMS_MAX]:
        line(f"  {text.visible(str(problem))}")
    if len(problems) > PROBLEMS_MAX:
        line(f"  … {text.count(len(problems) - PROBLEMS_MAX, 'more problem')}; -o json shows all")

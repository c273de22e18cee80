"""`ctxlog verify`: is the log what it was? Computed from its records alone, and held against what was signed or kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxlog.cli import text
from ctxlog.cli.keys import keys_option
from ctxlog.cli.output import line, note, paint, print_json
from ctxlog.cli.progress import progress
from ctxlog.cli.session import Opened, Session, complete_streams, log_option, output_option
from ctxlog.errors import CtxlogError, IntegrityError, InvalidInputError, SigningKeyError, ViewsError

if TYPE_CHECKING:
    from ctxlog.audit.keys import KeyFolder
    from ctxlog.audit.notes import VerifyKey
    from ctxlog.audit.sealed import HeadReport
    from ctxlog.audit.verify import Problem, Seals, VerifyReport
    from ctxlog.audit.views import ViewsReport

NOTHING_COMPARED = 1
VERIFICATION_FAILED = 3

PROBLEMS_MAX = 20
"""Problems that are shown to people one by one; -o json has all."""

COVERAGE_MAX = 4
"""Partitions whose ends are shown to people."""


@click.command(
    "verify",
    short_help="Check the log, a manifest, or the views",
    epilog="\b\nExamples:\n  ctxlog verify\n  ctxlog verify 'refunds/*'\n  ctxlog replay refunds/1 -o json > seen.json\n"
    "  ctxlog verify --manifest seen.json\n  ctxlog verify --head heads.txt --key example.pub\n  ctxlog verify --views\n"
    "  ctxlog verify --views --sample 100 --seed 7",
)
@click.argument("pattern", default="*", shell_complete=complete_streams)
@click.option(
    "--manifest", "manifest", metavar="FILE", type=click.Path(), help="Check what `ctxlog replay -o json` once printed."
)
@click.option("--bundle", "bundle", metavar="FILE", type=click.Path(), help="Check an evidence bundle; no log is needed.")
@click.option("--head", "heads", metavar="FILE", multiple=True, help="Hold the log against the signed heads in this file too.")
@click.option("--key", "trusted", metavar="PUBLIC", multiple=True, help="Trust this key, or the one in this file, and no others.")
@keys_option
@click.option("--views", "views", is_flag=True, help="Check the published views against the log.")
@click.option("--views-folder", "folder", metavar="FOLDER", type=click.Path(), help="Where they are published. Implies --views.")
@click.option("--sample", metavar="N", type=click.IntRange(min=1), help="Check N streams of the views, drawn by --seed.")
@click.option("--seed", metavar="S", type=int, default=0, show_default=True, help="The same seed draws the same streams.")
@log_option
@output_option
@click.pass_obj
def verify_command(
    session: Session,
    pattern: str,
    manifest: str | None,
    bundle: str | None,
    heads: tuple[str, ...],
    trusted: tuple[str, ...],
    keys: str | None,
    views: bool,
    folder: str | None,
    sample: int | None,
    seed: int,
) -> None:
    """Compute everything again: links of the file, index, chains, digests, snapshots of the streams that match PATTERN, and the
    trees that were signed, of all records.

    Says `verified to offset N by KEY`, `consistent, unsigned`, or `broken` with each place, and then exits with 3. Heads are
    looked for in the log, beside the keys, and where --head says. Trusted are the keys that --key gives, or else all that are in
    the folder of keys. With --head or --key, whatever is not verified exits with 3 too.

    What is not signed can be rewritten as a whole by whoever holds the file; a manifest or a chain head that is kept elsewhere
    shows it.

    With --bundle: the file alone, by the keys that --key gives or that are in the folder of keys.

    With --views: every published file, row by row and state by state, against what the log's records amount to.
    """
    views = views or folder is not None
    if bundle is not None:
        if views or manifest is not None or heads or pattern != "*":
            raise click.UsageError("--bundle is taken with --key or --keys, and nothing else.")
        _verify_bundle(session, bundle, trusted, keys)
        return
    if views and manifest is not None:
        raise click.UsageError("give either --manifest or --views.")
    if sample is not None and not views:
        raise click.UsageError("--sample is taken with --views.")
    if (heads or trusted) and (views or manifest is not None):
        raise click.UsageError("--head and --key are for the log itself, without --views and --manifest.")
    if manifest is not None and pattern != "*":
        raise click.UsageError("a manifest names its stream; give either PATTERN or --manifest.")
    shown = None if manifest is None else _read_manifest(manifest)
    try:
        with session.reading() as opened:
            if views:
                _verify_views(session, opened, pattern, folder, sample, seed)
                return
            report = _verified(opened, pattern, shown, heads, trusted, keys)
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
    if report.problems or ((heads or trusted) and report.verdict != "verified"):
        click.get_current_context().exit(VERIFICATION_FAILED)


def _verified(
    opened: Opened,
    pattern: str,
    manifest: dict[str, Any] | None,
    heads: tuple[str, ...],
    trusted: tuple[str, ...],
    keys: str | None,
) -> VerifyReport:
    from ctxlog.audit.verify import verify, verify_manifest
    from ctxlog.replay.summaries import matching

    if manifest is not None:
        return verify_manifest(opened, manifest)
    if pattern != "*" and not matching(opened.log, pattern):
        raise CtxlogError(f"no stream matches {pattern!r}; nothing was checked. `ctxlog streams` lists all.")
    seals, notes = _seals(opened, heads, trusted, keys)
    with progress("Verifying") as step:
        report = verify(opened, pattern, seals=seals, progress=step)
    return report._replace(notes=notes + report.notes)


def _seals(opened: Opened, heads: tuple[str, ...], trusted: tuple[str, ...], keys: str | None) -> tuple[Seals, list[str]]:
    """What the options name, with what lies beside the keys; and what a reader should know of it."""
    from ctxlog.audit.heads import HeadFile, heads_in_file
    from ctxlog.audit.keys import KeyFolder
    from ctxlog.audit.verify import Seals
    from ctxlog.wiring import heads_folder, keys_folder, tree_file

    folder, notes = KeyFolder(keys_folder(keys)), list[str]()
    known = _known(folder, trusted, notes)
    found = []
    for path in heads:
        given = heads_in_file(Path(path), notes)
        ours = [one for one in given if one.head.log_id == opened.log.log_id]
        if not ours:
            what = f"heads of log {given[0].head.log_id}" if given else "none that can be read"
            raise InvalidInputError(
                f"{path}: expected signed heads of log {opened.log.log_id}, found {what}; nothing was checked"
            )
        found += ours
    found += HeadFile(heads_folder(None, folder.path), opened.log.log_id).heads(notes)
    return Seals(known, found, tree_file(opened.log)), notes


def _known(folder: KeyFolder, trusted: tuple[str, ...], notes: list[str]) -> list[VerifyKey]:
    """Whom to trust: the keys that are given, or else those of the folder."""
    from ctxlog.audit.keys import read_public_key

    if trusted:
        return [read_public_key(said) for said in trusted]
    try:
        return [one.key for one in folder.stored()]
    except SigningKeyError as error:
        notes.append(str(error))
        return []


def _verify_bundle(session: Session, path: str, trusted: tuple[str, ...], keys: str | None) -> None:
    from ctxlog.audit.bundled import NOT_SHOWN, verify_bundle
    from ctxlog.audit.keys import KeyFolder
    from ctxlog.wiring import keys_folder

    notes = list[str]()
    known = _known(KeyFolder(keys_folder(keys)), trusted, notes)
    if not known:
        raise InvalidInputError(
            "no key to check the bundle with; nothing was checked. --key names the public key of who signed it."
        )
    try:
        report = verify_bundle(Path(path), known)
    except IntegrityError as error:
        if session.people:
            line(paint("broken", fg="red", bold=True))
            line(f"  {text.visible(str(error))}")
        else:
            print_json(
                {"verdict": "broken", "problems": [{"where": path, "expected": "a bundle", "found": str(error)}]}, session.output
            )
        click.get_current_context().exit(VERIFICATION_FAILED)
    if not session.people:
        print_json(report.to_dict(), session.output)
    else:
        by = _names(key for head in report.heads for key in head.keys)
        verdict = f"verified by {by}" if not report.problems else report.verdict
        counted = f"{text.visible(report.about)}: {text.count(report.records, 'record')} under signed heads"
        line(f"{paint(text.visible(verdict), fg='red' if report.problems else 'green', bold=True)}  ({counted})")
        _print_problems(report.problems)
        if report.audit is not None:
            from ctxlog.cli.render_audit import print_report

            line("")
            print_report(report.audit)
            for limit in NOT_SHOWN:  # The report ends with what no report shows; this is what no bundle shows.
                line(f"  - {limit}")
        for remark in notes:
            note(remark)
    if report.problems:
        click.get_current_context().exit(VERIFICATION_FAILED)


def _verify_views(session: Session, opened: Opened, pattern: str, folder: str | None, sample: int | None, seed: int) -> None:
    from ctxlog.audit.views import AGREE, DIFFER, NOTHING, verify_views
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
    verdicts = {report.verdict for report in reports}
    verdict = next(each for each in (DIFFER, AGREE, NOTHING) if each in verdicts)
    if session.people:
        for report in reports:
            _print_views(report)
    else:
        found = {"log_id": opened.log.log_id, "verdict": verdict}
        print_json(found | {"views": [report.to_dict() for report in reports]}, session.output)
    if verdict != AGREE:
        click.get_current_context().exit(VERIFICATION_FAILED if verdict == DIFFER else NOTHING_COMPARED)


def _print_views(report: ViewsReport) -> None:
    from ctxlog.audit.views import AGREE, DIFFER

    colour = {AGREE: "green", DIFFER: "red"}.get(report.verdict, "yellow")
    upto = ", ".join(f"{partition}@{offset}" for partition, offset in list(report.coverage.items())[:COVERAGE_MAX])
    upto += ", …" if len(report.coverage) > COVERAGE_MAX else ""
    counted = f"{text.count(report.streams, 'stream')}, {text.count(report.records, 'record')}"
    line(
        f"{paint(report.verdict, fg=colour, bold=True)}  "
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
    heads = report.heads
    verdict = report.verdict if len(heads) != 1 or report.verdict != "verified" else _said(heads[0])
    line(f"{paint(text.visible(verdict), fg='green' if good else 'red', bold=True)}  ({checked})")
    if len(heads) > 1 and any(head.verdict != "unsigned" for head in heads):
        for head in heads[:PROBLEMS_MAX]:
            line(f"  partition {head.partition}: {text.visible(_said(head))}")
    _print_problems(report.problems)
    for remark in report.notes:
        note(remark)
    for head in heads:
        if head.verdict == "signed by unknown keys":
            note(f"partition {head.partition}: its heads name {', '.join(head.keys)}, which is not trusted. --key names who is.")
    behind = sum(head.unsigned for head in heads if head.size)
    if behind:
        note(f"{text.count(behind, 'record')} behind the newest heads: unsigned. `ctxlog sign` signs what is there.")


def _said(head: HeadReport) -> str:
    if not head.size or head.verdict != "verified":
        return head.verdict
    return f"verified to offset {head.last_offset} by {_names(head.keys)}"


def _names(keys: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(key.rpartition("+")[0] for key in keys))


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:PROBLEMS_MAX]:
        line(f"  {text.visible(str(problem))}")
    if len(problems) > PROBLEMS_MAX:
        line(f"  … {text.count(len(problems) - PROBLEMS_MAX, 'more problem')}; -o json shows all")

"""`ctxlog bundle`: what a decision rests on, in one file that can be checked without the log."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from ctxlog.cli import text
from ctxlog.cli.audit import about_of
from ctxlog.cli.keys import keys_option
from ctxlog.cli.output import note, print_json
from ctxlog.cli.progress import progress
from ctxlog.cli.session import Session, complete_streams, log_option


@click.command(
    "bundle",
    short_help="Put the evidence for a decision into one file",
    epilog="\b\nExamples:\n  ctxlog bundle 01a21412-8a3c-7d05-9f3e-6a6d0f6a3a51 -o evidence.zip\n"
    "  ctxlog verify --bundle evidence.zip --key example.pub",
)
@click.argument("target", metavar="DECISION|STREAM@N", shell_complete=complete_streams)
@click.option("-o", "--out", "path", metavar="FILE", required=True, type=click.Path(dir_okay=False), help="The file to write.")
@keys_option
@log_option
@click.pass_obj
def bundle_command(session: Session, target: str, path: str, keys: str | None) -> None:
    """Write what a decision rests on into one file, for somebody who has no access to the log: the records of the streams that it
    read and wrote, as stored; the proof that each is under a signed head; the heads, the schemas, the report of the audit, and a
    README for a stranger.

    The decision must be under a signed head: `ctxlog sign` makes one. The file is checked by `ctxlog verify --bundle`.
    """
    from ctxlog.audit.bundling import make_bundle
    from ctxlog.audit.heads import HeadFile
    from ctxlog.audit.tree import LogTree
    from ctxlog.wiring import heads_folder, keys_folder, tree_file

    with session.reading() as opened, progress("Reading the log"):
        about, notes = about_of(opened, target), list[str]()
        outside = HeadFile(heads_folder(None, keys_folder(keys)), opened.log.log_id).heads(notes)
        with contextlib.closing(LogTree(opened.log, tree_file(opened.log))) as tree:
            bundle = make_bundle(opened.log, tree, outside, about, Path(path))
    for said in notes:
        note(said)
    size, verdict = Path(path).stat().st_size, bundle.report["verdict"]
    if not session.people:
        print_json(
            {"file": path, "bytes": size, "records": len(bundle.records), "about": str(about), "audit": verdict}, session.output
        )
        return
    note(f"{text.count(len(bundle.records), 'record')} under signed heads, {size:,} bytes, in {text.visible(path)}.")
    note(f"the audit of them says: {text.visible(verdict)}", kind="Note")

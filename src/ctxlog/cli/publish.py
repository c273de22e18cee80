"""`ctxlog projector publish`: one published file out of several."""

from __future__ import annotations

from pathlib import Path

import click

from ctxlog.cli import text
from ctxlog.cli.output import line, print_json
from ctxlog.cli.session import Session, log_option, output_option


@click.command(
    "publish",
    short_help="Make one file out of several",
    epilog="\b\nExamples:\n  ctxlog projector publish --merge\n  ctxlog projector publish --merge --to /data/agents.duckdb",
)
@click.option(
    "--merge", "merging", is_flag=True, required=True, help="Of each partition, what the furthest published file holds."
)
@click.option(
    "--to", "target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Default: merged.duckdb there."
)
@click.option(
    "--views", "folder", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Where the views are published."
)
@log_option
@output_option
@click.pass_obj
def publish_command(session: Session, merging: bool, target: Path | None, folder: Path | None) -> None:  # noqa: ARG001
    """Publish one file that holds what all published files of a folder hold together, for programs that open one file.

    Instances publish by themselves, and `ctxlog query` reads their files together as they are.
    """
    from ctxlog.projection.merge import MERGED, merge
    from ctxlog.wiring import views_folder

    found = folder if folder is not None else views_folder(session.url)
    made = target if target is not None else found / MERGED
    sources = merge(found, made)
    if session.people:
        line(f"published: {text.visible(str(made))}, from {text.count(len(sources), 'file')}")
    else:
        print_json({"published": str(made), "from": [str(source.path) for source in sources]}, session.output)

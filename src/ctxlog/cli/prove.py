"""`ctxlog replay` and `ctxlog diff`: what can be shown to somebody who does not believe it.

`replay` computes from the log's own records and uses no cache; `diff` may use the caches, as `show` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ctxlog.cli import text
from ctxlog.cli.output import line, note, paint, print_json
from ctxlog.cli.progress import progress
from ctxlog.cli.session import Opened, Session, complete_streams, log_option, output_option, parse_target

if TYPE_CHECKING:
    from ctxlog.replay.cuts import Cut
    from ctxlog.replay.manifest import Manifest


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
    "  ctxlog diff refunds/1 refunds/1-retry\n  ctxlog diff airline/task-14-trial-0 airline/task-14-trial-1",
)
@click.argument("before", metavar="STREAM[@POINT]", shell_complete=complete_streams)
@click.argument("after", metavar="STREAM[@POINT]", shell_complete=complete_streams)
@log_option
@output_option
@click.pass_obj
def diff_command(session: Session, before: str, after: str) -> None:
    """Say what changed from one context to another: messages, facts and tool calls.

    States of one stream, or of forks of one, are compared by ids, and of forks it is said where they part. Two separate runs
    share no ids, and are compared by what was said and called.
    """
    from ctxlog.replay.diff import diff
    from ctxlog.replay.lineages import common_ancestor

    with session.reading() as opened:
        one, other = (opened.replayer.replay(*parse_target(opened, side)).state for side in (before, after))
        common = common_ancestor(opened.replayer, (one.stream_id, one.version), (other.stream_id, other.version))
    found = diff(one, other, common=common)
    if session.people:
        from ctxlog.cli.render_diff import print_diff

        print_diff(found)
    else:
        print_json(found.to_dict(), session.output)

"""`ctxlog sign`: heads of all partitions, signed, in the log and outside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxlog.cli import text
from ctxlog.cli.keys import heads_option, keys_option
from ctxlog.cli.output import line, note, print_list
from ctxlog.cli.progress import progress
from ctxlog.cli.session import Session, log_option, output_option

if TYPE_CHECKING:
    from ctxlog.audit.signing import Signer
    from ctxlog.wiring import OpenedLog


@contextlib.contextmanager
def signer_of(opened: OpenedLog, named: str | None, keys: str | None, heads: str | None) -> Iterator[Signer]:
    """What signs a log, by the options of a command."""
    from ctxlog.audit.heads import HeadFile
    from ctxlog.audit.keys import KeyFolder
    from ctxlog.audit.signing import Signer
    from ctxlog.audit.tree import LogTree
    from ctxlog.wiring import check_outside, heads_folder, keys_folder, tree_file

    folder = KeyFolder(keys_folder(keys))
    where = heads_folder(heads, folder.path)
    check_outside(opened.log, folder.path, where)
    key = folder.choose(named)
    with contextlib.closing(LogTree(opened.log, tree_file(opened.log))) as tree:
        yield Signer(opened.log, tree, key, HeadFile(where, opened.log.log_id), folder.before(key))


@click.command(
    "sign",
    short_help="Sign what is in the log, so that changes show",
    epilog="\b\nExamples:\n  ctxlog sign\n  ctxlog sign --key example.org/audit > heads.txt\n  ctxlog verify --head heads.txt",
)
@click.option("--key", "named", metavar="NAME", help="The key; needed where the folder has keys of several names.")
@keys_option
@heads_option
@log_option
@output_option
@click.pass_obj
def sign_command(session: Session, named: str | None, keys: str | None, heads: str | None) -> None:
    """Sign a head of each partition: how many records it has, and the root of the Merkle tree over them. What is signed cannot be
    changed, left out or moved without `ctxlog verify` finding it.

    The heads are appended to the log and to a file outside it, and printed, so that they can be given to others. Where nothing
    was appended since the last one, that one is printed.
    """
    with session.opened() as opened, progress("Reading the log") as step, signer_of(opened, named, keys, heads) as signer:
        opened.tell(step)
        signed = [one for partition in range(opened.log.partitions) if (one := signer.sign(partition)) is not None]
    for said in signer.notes:
        note(said)
    rows = [
        {
            "partition": one.partition,
            "size": one.head.size,
            "last_offset": one.last_offset,
            "root": one.head.root.hex(),
            "new": one.new,
            "note": str(one.head.note),
        }
        for one in signed
    ]
    if not session.people:
        print_list("heads", rows, session.output, head={"log_id": opened.log.log_id, "file": str(signer.path)})
        return
    for number, one in enumerate(signed):
        line(("\n" if number else "") + str(one.head.note).rstrip("\n"))
    new = sum(one.new for one in signed)
    done = text.count(new, "head") + " signed" if new else "nothing is new"
    note(f"{done}; kept in {text.visible(str(Path(signer.path)))} and in the log.")

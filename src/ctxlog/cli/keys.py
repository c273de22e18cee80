"""`ctxlog keys`: the keys that heads are signed with, outside of every log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctxlog.cli import text
from ctxlog.cli.output import line, note, paint, print_json, print_list
from ctxlog.cli.session import Session, output_option

if TYPE_CHECKING:
    from ctxlog.audit.keys import KeyFolder, StoredKey

F = TypeVar("F", bound=Callable[..., Any])


def keys_option(function: F) -> F:
    """`--keys FOLDER`."""
    decorate = click.option(
        "--keys", metavar="FOLDER", help="The folder of keys [CTXLOG_KEYS; ~/.config/ctxlog/keys]; never in the log's own."
    )
    return decorate(function)


def heads_option(function: F) -> F:
    """`--heads FOLDER`."""
    decorate = click.option("--heads", metavar="FOLDER", help="Where heads are kept outside the log; default beside the keys.")
    return decorate(function)


@click.group(
    "keys",
    short_help="Make, replace and list the keys for signing",
    epilog="\b\nExamples:\n  ctxlog keys create example.org/audit\n  ctxlog keys list\n  ctxlog keys rotate",
)
def keys_command() -> None:
    """Keys that `ctxlog sign` signs with: Ed25519, a file each, readable by its owner alone."""


def _folder(said: str | None) -> KeyFolder:
    from ctxlog.audit.keys import KeyFolder
    from ctxlog.wiring import keys_folder

    return KeyFolder(keys_folder(said))


@keys_command.command("create", short_help="Make a key")
@click.argument("name")
@keys_option
@output_option
@click.pass_obj
def create_command(session: Session, name: str, keys: str | None) -> None:
    """Make a key, and print its public half: the line by which others check what it signs.

    NAME says whose key it is, as example.org/audit does: no spaces, no '+'.
    """
    _print(session, _folder(keys).create(name))


@keys_command.command("rotate", short_help="Make the key that follows one")
@click.argument("name", required=False)
@keys_option
@output_option
@click.pass_obj
def rotate_command(session: Session, name: str | None, keys: str | None) -> None:
    """Make a new key of the same NAME, with which everything is signed from now on. Its first head in each partition names it and
    is signed by the old key too, so that whoever trusts the old one can follow.
    """
    made = _folder(keys).rotate(name)
    _print(session, made)
    note(f"it follows {made.after}, whose private key may be taken away once the next heads are signed.")


def _print(session: Session, made: StoredKey) -> None:
    if not session.people:
        print_json(made.to_dict(), session.output)
        return
    line(str(made.key))
    note(f"the private key is {text.visible(str(made.path))}. The line above is the public one, for others.")


@keys_command.command("list", short_help="Names, public keys, since when")
@keys_option
@output_option
@click.pass_obj
def list_command(session: Session, keys: str | None) -> None:
    """List the keys, oldest first, each with the line to hand out."""
    found = _folder(keys)
    stored = found.stored()
    if not session.people:
        print_list("keys", [one.to_dict() for one in stored], session.output, head={"folder": str(found.path)})
        return
    if not stored:
        note(f"{text.visible(str(found.path))}: there is no key. `ctxlog keys create NAME` makes one.")
        return
    rows = []
    for one in stored:
        use = "signs" if one.follower is None else f"until {one.follower.rpartition('+')[2]}"
        rows.append(
            (text.visible(one.key.name), one.created_at, use if one.path.is_file() else f"{use}, public only", str(one.key))
        )
    for number, (whole, _) in enumerate(text.table(("NAME", "SINCE", "USE", "PUBLIC KEY"), rows)):
        line(whole if number else paint(whole, dim=True))

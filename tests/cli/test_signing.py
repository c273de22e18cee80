"""`ctxlog keys`, `ctxlog sign`, `ctxlog verify` with heads, and the projector that signs."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from cli.conftest import Program
from ctxlog import ContextLog
from ctxlog.audit.heads import HeadFile
from ctxlog.audit.keys import KeyFolder
from ctxlog.audit.notes import Note, VerifyKey
from ctxlog.audit.signing import Signer
from ctxlog.audit.tree import LogTree
from ctxlog.log.embedded import EmbeddedLog

KEYS = {"CTXLOG_KEYS": "keys"}
NONE = {"CTXLOG_KEYS": "none"}


@pytest.fixture
def written(program: Program) -> Program:
    """A folder with a log of two streams."""
    with ContextLog.open(f"embedded:{program.folder / '.ctxlog'}") as log:
        log.context("refunds/1").add_message("user", "Please refund order W-204.")
        log.context("refunds/1").set_fact("order.total", 129.90)
        log.context("support/1").add_message("user", "Hello")
    return program


@pytest.fixture
def signed(written: Program) -> Program:
    """The same, signed; the key is in `keys`, its public half in `public.pub`, the head in `head.txt`."""
    folder = written.folder
    keys = KeyFolder(folder / "keys")
    (folder / "public.pub").write_text(f"{keys.create('example.org/audit').key}\n")
    backend = EmbeddedLog(folder / ".ctxlog")
    with contextlib.closing(backend), contextlib.closing(LogTree(backend, folder / ".ctxlog/tree.sqlite")) as tree:
        made = Signer(backend, tree, keys.choose(), HeadFile(folder / "keys/heads", backend.log_id)).sign(0)
    assert made is not None
    (folder / "head.txt").write_text(str(made.head.note))
    return written


def change(program: Program, statement: str) -> None:
    connection = sqlite3.connect(program.folder / ".ctxlog/log.sqlite", isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_keys_are_made_listed_and_replaced(program: Program) -> None:
    assert "ctxlog keys create" in program("keys", "list", env=KEYS).err
    made = program("keys", "create", "example.org/audit", env=KEYS)
    key = VerifyKey.parse(made.out)
    assert key.name == "example.org/audit"
    turned = program("keys", "rotate", env=KEYS, code=0)
    listed = program("keys", "list", "-o", "json", env=KEYS).json
    assert [one["vkey"] for one in listed["keys"]] == [made.out.strip(), turned.out.strip()]
    assert [one["after"] for one in listed["keys"]] == [None, key.short]
    shown = program("keys", "list", env=KEYS).out.splitlines()
    assert shown[0].split() == ["NAME", "SINCE", "USE", "PUBLIC", "KEY"]
    assert made.out.strip() in shown[1]
    assert f"until {VerifyKey.parse(turned.out).id.hex()}" in shown[1]
    program("keys", "create", "example.org/audit", env=KEYS, code=1)
    program("keys", "create", "a b", env=KEYS, code=2)
    program("keys", "rotate", "nobody", env=KEYS, code=1)


def test_the_folder_of_keys_is_named_by_flag_environment_or_home(program: Program) -> None:
    program("keys", "create", "a", "--keys", "one", env=KEYS)
    program("keys", "create", "a", env=KEYS)
    home = program("keys", "create", "a", "-o", "json", env={"XDG_CONFIG_HOME": str(program.folder / "home")})
    assert Path(program.folder / "home/ctxlog/keys").is_dir()
    assert home.json["private"] is True
    assert len(list((program.folder / "one").glob("*.key"))) == len(list((program.folder / "keys").glob("*.key"))) == 1


def test_what_sign_prints_is_a_note_that_verify_takes(signed: Program) -> None:
    head = (signed.folder / "head.txt").read_text()
    note, key = Note.parse(head), VerifyKey.parse((signed.folder / "public.pub").read_text())
    assert note.signed_by([key]) == (key,)
    found = signed("verify", "--head", "head.txt", "--key", "public.pub", env=NONE)
    assert found.out.startswith("verified to offset ")
    assert "by example.org/audit" in found.out
    assert signed("sign", env=KEYS).out == head
    again = signed("sign", "-o", "json", env=KEYS).json
    assert [(one["partition"], one["new"], one["note"]) for one in again["heads"]] == [(0, False, head)]


def test_verify_without_any_option_uses_what_lies_beside_the_keys(signed: Program) -> None:
    assert signed("verify", env=KEYS).out.startswith("verified to offset ")
    found = signed("verify", env=NONE)
    assert found.out.startswith("consistent, signed by unknown keys")
    assert "--key" in found.err
    report = signed("verify", "-o", "json", env=KEYS).json
    assert (report["verdict"], report["heads"][0]["verdict"], report["problems"]) == ("verified", "verified", [])


def test_what_is_asked_to_be_verified_and_is_not_exits_with_3(signed: Program) -> None:
    other = signed("keys", "create", "example.org/other", "--keys", "others").out.strip()
    found = signed("verify", "--key", other, env=KEYS, code=3)
    assert found.out.startswith("consistent, signed by unknown keys")
    assert signed("verify", "--key", other, "-o", "json", env=KEYS, code=3).json["problems"] == []


def test_a_change_is_named_and_exits_with_3(signed: Program) -> None:
    change(signed, "UPDATE records SET recorded_at = recorded_at + 1 WHERE id = (SELECT max(id) - 1 FROM records)")
    found = signed("verify", "--key", "public.pub", env=KEYS, code=3)
    assert found.out.startswith("broken")
    assert "signed by example.org/audit" in found.out


def test_a_log_that_lost_its_heads_is_held_against_the_one_that_is_given(signed: Program) -> None:
    shutil.rmtree(signed.folder / "keys/heads")
    change(signed, "DELETE FROM records WHERE id >= (SELECT max(id) - 2 FROM records)")
    assert signed("verify", env=NONE).out.startswith("consistent, unsigned")
    found = signed("verify", "--head", "head.txt", "--key", "public.pub", env=NONE, code=3)
    assert "cut off" in found.out


def test_what_is_behind_the_head_is_said_to_be_unsigned(signed: Program) -> None:
    signed("append", "refunds/1", "--message", "user", "Later")
    found = signed("verify", env=KEYS)
    assert "1 record behind the newest heads: unsigned" in found.err


def test_heads_and_keys_that_are_none_are_refused(signed: Program) -> None:
    for arguments in (
        ("--head", "nothing"),
        ("--head", "public.pub"),
        ("--key", "nothing"),
        ("--head", "head.txt", "--manifest", "x"),
        ("--key", "public.pub", "--views"),
    ):
        signed("verify", *arguments, env=KEYS, code=2)
    signed("append", "s", "--message", "user", "x", "--log", "embedded:another")
    said = signed("verify", "--head", "head.txt", "--log", "embedded:another", env=KEYS, code=2).err
    assert "heads of log" in said


def test_keys_and_heads_in_the_folder_of_the_log_are_refused(written: Program) -> None:
    written("keys", "create", "a", "--keys", ".ctxlog/keys")
    assert "own folder" in written("sign", "--keys", ".ctxlog/keys", code=2).err
    written("keys", "create", "a", env=KEYS)
    assert "own folder" in written("sign", "--heads", ".ctxlog/heads", env=KEYS, code=2).err
    written("sign", "--heads", "elsewhere", env=KEYS)
    assert len(list((written.folder / "elsewhere").iterdir())) == 1


def test_without_a_key_nothing_is_signed(written: Program) -> None:
    assert "ctxlog keys create" in written("sign", env=KEYS, code=1).err
    written("sign", "--log", "embedded:none", env=KEYS, code=1)
    assert not (written.folder / "none").exists()


def test_a_log_that_was_changed_is_not_signed_again(signed: Program) -> None:
    change(signed, "UPDATE records SET recorded_at = recorded_at + 1 WHERE id = 3")
    (signed.folder / ".ctxlog/tree.sqlite").unlink()
    signed("append", "refunds/1", "--message", "user", "Later")
    said = signed("sign", env=KEYS, code=1).err
    assert "ctxlog verify" in said
    assert "nothing was signed" in said


def test_the_projector_signs_as_it_goes_and_at_its_end(signed: Program) -> None:
    signed("append", "refunds/1", "--message", "user", "Later")
    signed("projector", "run", "--once", "--sign", "example.org/audit", env=KEYS)
    found = signed("verify", env=KEYS)
    assert found.out.startswith("verified to offset ")
    assert "unsigned" not in found.err
    running = signed.start("projector", "run", "--sign", "example.org/audit", "--sign-seconds", "0", env=KEYS)
    try:
        for number in range(3):
            signed("append", "refunds/1", "--message", "user", f"Even later {number}")
    finally:
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    found = signed("verify", env=KEYS)
    assert found.out.startswith("verified to offset ")
    assert "unsigned" not in found.err
    signed("projector", "run", "--once", "--sign", "nobody", env=KEYS, code=1)
    assert signed("verify", "--views").out.startswith("views agree with the log")


def test_a_projector_does_not_sign_a_log_that_was_changed(signed: Program) -> None:
    change(signed, "UPDATE records SET recorded_at = recorded_at + 1 WHERE id = 3")
    signed("append", "refunds/1", "--message", "user", "Later")
    (signed.folder / ".ctxlog/tree.sqlite").unlink()
    said = signed("projector", "run", "--once", "--sign", "example.org/audit", env=KEYS, code=1).err
    assert "nothing was signed" in said

"""`ctxlog bundle`, and `ctxlog verify --bundle`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.conftest import Program
from ctxlog import ContextLog

KEYS = {"CTXLOG_KEYS": "keys"}


@pytest.fixture
def decided(program: Program) -> tuple[Program, str]:
    """A log with a decision, and a key; and the decision's id."""
    with ContextLog.open(f"embedded:{program.folder / '.ctxlog'}") as log:
        ctx = log.context("refunds/1")
        ctx.add_message("user", "Please refund \x1b[31morder W-204.")
        with log.decision("refund", agent="refunds") as decision:
            decision.read(ctx)
    (program.folder / "public.pub").write_text(program("keys", "create", "example.org/audit", env=KEYS).out)
    return program, decision.id


def test_a_bundle_is_made_once_signed_and_checked_without_the_log(decided: tuple[Program, str], tmp_path: Path) -> None:
    program, decision = decided
    early = program("bundle", decision, "-o", "e.zip", env=KEYS, code=1)
    assert "`ctxlog sign` makes one" in early.err
    assert not (program.folder / "e.zip").exists()
    program("sign", env=KEYS)
    made = program("-o", "json", "bundle", decision, "-o", "e.zip", env=KEYS)
    assert made.json["records"] == 7
    shutil.rmtree(program.folder / ".ctxlog")
    seen = program("verify", "--bundle", "e.zip", "--key", "public.pub", env={"CTXLOG_KEYS": "none"})
    assert seen.out.startswith("verified by example.org/audit  (")
    assert "\x1b[31m" not in seen.out
    assert "What this does not show" in seen.out
    found = program("verify", "--bundle", "e.zip", "-o", "json", env=KEYS).json
    assert (found["verdict"], found["records"], found["audit"]["verified"]) == ("verified", 7, True)
    assert not (program.folder / ".ctxlog").exists()


def test_what_does_not_verify_exits_with_3(decided: tuple[Program, str]) -> None:
    program, decision = decided
    program("sign", env=KEYS)
    program("bundle", decision, "-o", "e.zip", env=KEYS)
    other = program("keys", "create", "other.org/audit", env={"CTXLOG_KEYS": "others"}).out.strip()
    refused = program("verify", "--bundle", "e.zip", "--key", other, env=KEYS, code=3)
    assert refused.out.startswith("broken")
    assert "expected the signature of a key that is trusted, found those of example.org/audit" in refused.out
    (program.folder / "e.zip").write_bytes(b"PK\x03\x04")
    assert program("verify", "--bundle", "e.zip", "-o", "json", env=KEYS, code=3).json["verdict"] == "broken"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "--bundle", "e.zip", "--views"], "--bundle is taken with --key or --keys"),
        (["verify", "--bundle", "e.zip"], "no key to check the bundle with"),
        (["bundle", "x"], "Missing option '-o'"),
        (["bundle", "x", "-o", "e.zip"], "no such decision"),
    ],
)
def test_what_cannot_be_asked_is_said(decided: tuple[Program, str], arguments: list[str], said: str) -> None:
    program, _ = decided
    program("sign", env=KEYS)
    answer = program(*arguments, env={"CTXLOG_KEYS": "none"} if "verify" in arguments else KEYS, code=2)
    assert said in answer.err

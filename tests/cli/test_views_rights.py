"""Published views that this user may not read: what the commands that ask them say, and to whom."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Program
from cli.test_read_only import Reader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rights are given up as Linux has them")

COMMANDS = (("query", "SELECT 1"), ("projector", "status"), ("verify", "--views"), ("projector", "publish", "--merge"))


@pytest.fixture
def folder(refunds: Program) -> Iterator[Path]:
    """The views of `refunds`."""
    refunds("projector", "run", "--once")
    made = refunds.folder / ".ctxlog" / "views"
    yield made
    made.chmod(0o700)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_may_not_be_read_is_not_said_to_be_damaged_or_missing(
    refunds: Program, folder: Path, command: tuple[str, ...]
) -> None:
    (folder / "current.duckdb").chmod(0o000)
    code, out, err = Reader(refunds.folder).run(*command)
    assert (code, out) == (1, "")
    assert "views/current.duckdb: permission denied: it belongs to " in err
    assert "mode 0000" in err
    assert "projector publish --merge --to FILE" in err


@pytest.mark.parametrize(("command", "mode"), [*((command, 0o000) for command in COMMANDS[:3]), (COMMANDS[0], 0o600)])
def test_a_folder_that_may_not_be_listed_or_searched_is_not_said_to_be_empty(
    refunds: Program, folder: Path, command: tuple[str, ...], mode: int
) -> None:
    folder.chmod(mode)
    code, out, err = Reader(refunds.folder).run(*command)
    assert (code, out) == (1, "")
    assert "permission denied" in err


def test_a_copy_with_rights_can_be_asked_by_others(refunds: Program, folder: Path) -> None:
    """As the message says."""
    (refunds.folder / "shared").mkdir()
    copy = refunds.folder / "shared" / "views.duckdb"
    refunds("projector", "publish", "--merge", "--to", str(copy))
    copy.chmod(0o444)
    folder.chmod(0o000)
    code, out, _ = Reader(refunds.folder).run("query", "SELECT 1 AS one", "--views", "shared", "-o", "csv")
    assert (code, out) == (0, "one\n1\n")


@pytest.mark.parametrize("command", COMMANDS[:2])
def test_what_is_no_file_in_the_folder_is_passed_over(refunds: Program, folder: Path, command: tuple[str, ...]) -> None:
    (folder / "sub.duckdb").mkdir()
    (folder / "gone.duckdb").symlink_to("nowhere")
    (folder / "linked.duckdb").symlink_to("current.duckdb")
    refunds(*command)

"""Publishing: whole or not at all, for its owner's eyes, and never under a reader's feet."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from ctxlog.errors import ViewsError, ViewsFullError
from ctxlog.projection import publish as module
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish
from ctxlog.projection.query import Views
from views_made import asked, log_of, published, write_more


def test_what_is_published_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = published(log_of(), tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_draft_of_a_run_that_was_killed_is_removed(tmp_path: Path) -> None:
    draft = tmp_path / ".current.duckdb.draft"
    draft.write_bytes(b"half")
    draft.chmod(0o644)
    draft.with_name(f"{draft.name}.wal").write_bytes(b"half")
    path = published(log_of(), tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == [".current.duckdb", "current.duckdb"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Views(tmp_path) as views:
        assert asked(views, "SELECT count(*) FROM streams") == [(12,)]


def test_what_somebody_wrote_beside_the_last_one_does_not_count_for_the_next(tmp_path: Path) -> None:
    """DuckDB's program opens files for writing unless it is told not to; what it leaves would make the new file unreadable."""
    log = log_of()
    path = published(log, tmp_path)
    with duckdb.connect(str(path)) as writer:
        writer.execute("SET checkpoint_threshold = '1TB'; PRAGMA disable_checkpoint_on_shutdown; DELETE FROM events")
    assert path.with_name("current.duckdb.wal").exists()
    published(log, tmp_path)
    with Views(tmp_path) as views:
        assert asked(views, "SELECT count(*) FROM messages") == [(12,)]


def copies_badly(code: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(module, "_COPY", code)


FULL = "import sys\nopen(sys.argv[2], 'wb').write(b'half')\nsys.exit('28 No space left on device')"


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        (FULL, ViewsFullError, "no room"),
        (FULL.replace("28", "122"), ViewsFullError, "no room"),
        ("import sys; sys.exit('13 Permission denied')", ViewsError, "Permission denied"),
        ("import os; os.kill(os.getpid(), 9)", ViewsError, "ended with -9"),
    ],
)
def test_a_copy_that_fails_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: type[Exception], said: str
) -> None:
    log = log_of()
    path = published(log, tmp_path)
    before = path.read_bytes()
    write_more(log)
    with monkeypatch.context() as patch:
        copies_badly(code)(patch)
        projector = Projector(log, tmp_path / ".current.duckdb")
        projector.run_once()
        with pytest.raises(ViewsError, match=said) as caught:
            publish(projector.store, path)
        assert type(caught.value) is expected
    assert path.read_bytes() == before
    assert not [item.name for item in tmp_path.iterdir() if "draft" in item.name]
    publish(projector.store, path)  # There is room again.
    projector.close()
    with Views(tmp_path) as views:
        assert asked(views, "SELECT count(*) FROM messages") == [(24,)]


def _small_disk(folder: Path) -> Path:
    """A file system with room for hardly anything; only root can make one."""
    made = folder / "small"
    made.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(made)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    return made


def test_a_disk_that_is_full_is_said_to_be(tmp_path: Path) -> None:
    projector = Projector(log_of(), tmp_path / ".current.duckdb")
    projector.run_once()
    small = _small_disk(tmp_path)
    try:
        with pytest.raises(ViewsFullError, match="no room"):
            publish(projector.store, small / "current.duckdb")
        assert list(small.iterdir()) == []
    finally:
        projector.close()
        subprocess.run(["umount", str(small)], check=True)


def test_the_owner_keeps_its_file_to_itself_while_it_publishes(tmp_path: Path) -> None:
    """A process that closes the file it owns drops its lock on it, so the copy is another process's work."""
    projector = Projector(log_of(), tmp_path / ".current.duckdb")
    projector.run_once()
    publish(projector.store, tmp_path / "current.duckdb")
    code = f"import duckdb; duckdb.connect({str(tmp_path / '.current.duckdb')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    projector.close()
    assert "lock" in done.stderr

"""Reading while a projector writes and publishes without a pause: no error, no torn state, by this program and by others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctxlog.projection.query import Views
from reading_views import CONSISTENT
from views_made import asked

QUERIES = 300

WRITER = """
import sys
from pathlib import Path
from views_made import log_of, write_more
from ctxlog.projection import projector as module
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish

module.BATCH_RECORDS = 7  # so that what is published is somewhere in the middle of appends and streams
folder, partitions = Path(sys.argv[1]), [int(partition) for partition in sys.argv[2].split(",")]
log = log_of()
projector = Projector(log, folder / f".p{partitions[0]}.duckdb", partitions)
said = False
while True:
    write_more(log)
    ends = {partition: log.bounds(partition).end for partition in partitions}
    while projector.step(ends):
        publish(projector.store, folder / f"p{partitions[0]}.duckdb")
        if not said:
            said = bool(print("published", flush=True)) or True
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes, projects and publishes views in `tmp_path` until it is ended."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", WRITER, str(tmp_path), "0,1,2,3"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "published\n"
        yield process
        running = process.poll() is None
        process.kill()
    assert running, "the writer ended by itself"


@pytest.mark.slow
def test_a_reader_sees_no_error_and_no_torn_state(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    seen = set()
    last = -1
    for _ in range(QUERIES):
        with Views(tmp_path) as views:
            assert asked(views, CONSISTENT) == [(True,) * 6]
            (offset,) = asked(views, "SELECT sum(next_offset) FROM coverage")[0]
            assert offset >= last
            last = offset
            seen.add(offset)
    assert len(seen) > QUERIES / 20, "hardly anything was published meanwhile"


@pytest.mark.slow
def test_an_open_reader_sees_one_state_for_as_long_as_it_likes(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    with Views(tmp_path) as views:
        before = asked(views, "FROM events ORDER BY ALL")
        inode = (tmp_path / "p0.duckdb").stat().st_ino
        swaps = 0
        for _ in range(100):
            assert asked(views, CONSISTENT) == [(True,) * 6]
            now = (tmp_path / "p0.duckdb").stat().st_ino
            swaps += now != inode
            inode = now
        assert asked(views, "FROM events ORDER BY ALL") == before
    assert swaps > 3


def duckdb_program(folder: Path) -> str:
    """The program `duckdb`, of the release that the files are for, or a reason to skip."""
    found = os.environ.get("CTXLOG_TEST_DUCKDB") or shutil.which("duckdb")
    if found is not None:
        return found
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "duckdb-cli==1.5.6"]
    done = subprocess.run(command, capture_output=True, text=True)
    program = folder / "duckdb_cli" / "duckdb"
    if done.returncode or not program.exists():
        pytest.skip(f"no program duckdb, and none can be installed: {done.stderr.strip()[-200:]}")
    program.chmod(0o755)
    return str(program)


@pytest.mark.slow
def test_the_program_duckdb_reads_it_meanwhile(
    writer: subprocess.Popen[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = duckdb_program(tmp_path_factory.mktemp("duckdb"))
    for _ in range(20):
        command = [program, "-readonly", "-csv", "-noheader", str(tmp_path / "p0.duckdb"), CONSISTENT]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == ("true,true,true,true,true,true", "")

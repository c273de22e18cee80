"""The embedded log: who creates it, what else may stand in its place, and how it appends and reads.

What every backend does is the conformance kit's matter.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxlog.errors import LogBusyError, LogOpenError, StorageError
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.embedded import file as embedded_file
from ctxlog.model.events import MessageAppended
from ctxlog.model.records import NewRecord, Origin, Position
from ctxlog.replay.reader import LogReader
from rights import give_up_rights

HI = MessageAppended(role="user", content="hi")
Open = Callable[..., EmbeddedLog]


def record(value: bytes = b"v", key: bytes = b"k", partition: int = 0) -> NewRecord:
    return NewRecord(partition, key, value)


def values(log: EmbeddedLog, partition: int = 0) -> list[bytes | None]:
    return [one.value for one in log.read(partition, 1, log.bounds(partition).end)]


# Creation


def test_a_log_is_created_on_first_use_with_the_folders_above_it(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "some" / "where" / "log", partitions=3)
    assert [log.bounds(partition) for partition in range(3)] == [(0, 1)] * 3
    assert (log.partitions, log.url) == (3, f"embedded:{tmp_path / 'some' / 'where' / 'log'}")
    assert LogReader(log).context(2, 1).log_id == log.log_id
    log.close()
    assert sorted(path.name for path in (tmp_path / "some" / "where" / "log").iterdir()) == ["log.sqlite"]


def test_an_existing_log_keeps_its_id_and_its_partitions(open_embedded: Open) -> None:
    first = open_embedded(partitions=3)
    second = open_embedded(partitions=7)
    assert (second.log_id, second.partitions) == (first.log_id, 3)


def test_a_missing_log_is_not_created_where_that_is_not_wanted(folder: Path) -> None:
    with pytest.raises(LogOpenError, match="there is no log here"):
        EmbeddedLog(folder, create=False)
    assert not folder.exists()


@pytest.mark.parametrize("partitions", [0, -1, 65_536])
def test_a_number_of_partitions_that_makes_no_sense_is_refused(folder: Path, partitions: int) -> None:
    with pytest.raises(LogOpenError, match="nothing was created"):
        EmbeddedLog(folder, partitions=partitions)
    assert not folder.exists()


CREATE = """
import sys, time
from pathlib import Path
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.model.records import NewRecord
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
log = EmbeddedLog(Path(sys.argv[1]), partitions=2)
log.append([NewRecord(0, b"k", b"v")])
print(log.log_id)
"""


def test_of_processes_that_create_at_once_one_wins_and_all_write_to_its_log(folder: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    started = [subprocess.Popen([sys.executable, "-c", CREATE, folder, go], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    go.touch()
    ids = {process.communicate(timeout=60)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 4
    log = EmbeddedLog(folder, create=False)
    assert ids == {log.log_id}
    assert values(log) == [b"v"] * 4
    log.close()
    assert [path.name for path in folder.iterdir() if "new" in path.name] == []


def test_a_creation_that_was_killed_leaves_no_half_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ctxlog.log.embedded.file.os.link", killed)
        with pytest.raises(KeyboardInterrupt):
            EmbeddedLog(folder)
    assert list(folder.iterdir()) == []
    EmbeddedLog(folder).close()


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((StorageError, LogOpenError), match="created"):
        EmbeddedLog(tmp_path / "file" / "log")


@pytest.mark.skipif(sys.platform != "linux", reason="gives up a right of root, by a call of Linux")
def test_a_folder_that_may_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom ctxlog.log.embedded import EmbeddedLog\nfrom ctxlog.errors import StorageError\n"
        "try:\n    EmbeddedLog(sys.argv[1])\nexcept StorageError as error:\n    print('cannot be created' in str(error))"
    )
    inside = tmp_path / "readonly"
    inside.mkdir(mode=0o555)
    found = subprocess.run(
        [sys.executable, "-c", script, inside / "log"], capture_output=True, text=True, timeout=60, preexec_fn=give_up_rights
    )
    assert found.stdout.strip() == "True", found.stderr


# What else may stand there


def foreign_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()


def changed(statement: str) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        EmbeddedLog(path.parent).close()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(statement)
        connection.close()

    return work


STANDS_THERE: dict[str, Callable[[Path], Any]] = {
    "another SQLite file": foreign_sqlite,
    "text": lambda path: path.write_text("not SQLite at all, " * 50),
    "an empty file": lambda path: path.touch(),
    "a folder": lambda path: path.mkdir(),
    "a newer format": changed("PRAGMA user_version = 2"),
    "no id": changed("DELETE FROM log"),
    "two ids": changed("INSERT INTO log VALUES ('x', 1)"),
    "no partitions": changed("UPDATE log SET partitions = 0"),
    "too many partitions": changed("UPDATE log SET partitions = 1099511627776"),
    "partitions as text": changed("UPDATE log SET partitions = 'many'"),
    "an id of bytes": changed("UPDATE log SET log_id = x'00'"),
}


@pytest.mark.parametrize("make", STANDS_THERE.values(), ids=STANDS_THERE.keys())
def test_what_is_no_log_of_this_format_is_refused_and_not_changed(folder: Path, make: Callable[[Path], Any]) -> None:
    folder.mkdir()
    path = folder / "log.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for create in (True, False):
        with pytest.raises(LogOpenError, match=r"log\.sqlite"):
            EmbeddedLog(folder, create=create)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_newer_format_says_what_to_install(folder: Path) -> None:
    changed("PRAGMA user_version = 2")(folder / "log.sqlite")
    with pytest.raises(LogOpenError, match=r"expected file format 1, found 2.*Install"):
        EmbeddedLog(folder)


# Appending


def test_an_append_is_all_or_nothing(open_embedded: Open) -> None:
    log = open_embedded(partitions=2)
    with pytest.raises(ValueError, match="partition 5"):
        log.append([record(), record(partition=1), record(partition=5)])
    assert [log.bounds(partition).end for partition in range(2)] == [1, 1]


def test_offsets_have_no_gaps_and_each_partition_counts_its_own(open_embedded: Open) -> None:
    log = open_embedded(partitions=2)
    placed = log.append([record(), record(partition=1), record(), record(partition=1), record()])
    assert [one.position for one in placed] == [Position(0, 1), Position(1, 1), Position(0, 2), Position(1, 2), Position(0, 3)]


def test_log_time_does_not_go_back_with_the_clock(open_embedded: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_embedded()
    times = []
    start = log.append([record()])[0].recorded_at
    for seconds in (100, 50, -10_000, 101):
        now = (start + seconds * 1000) * 1_000_000
        monkeypatch.setattr("ctxlog.log.embedded.log.time.time_ns", lambda now=now: now)
        times.append(log.append([record()])[0].recorded_at - start)
    assert times == [100_000, 100_000, 100_000, 101_000]
    assert [one.recorded_at - start for one in log.read(0, 2, 99)] == times
    assert [log.offset_at(0, start + ms) for ms in (1, 100_000, 100_001, 101_000, 101_001)] == [2, 2, 5, 5, 6]


def test_bytes_keys_and_origins_come_back_as_they_were(open_embedded: Open) -> None:
    log = open_embedded()
    origin = Origin("elsewhere", 3, 2**40, 5)
    sent = [
        NewRecord(0, b"\x00\xff", b""),
        NewRecord(0, b"", bytes(range(256))),
        NewRecord(0, b"k" * 300, b"v" * 2_000_000, origin),
    ]
    log.append(sent)
    assert [NewRecord(r.partition, r.key or b"", r.value or b"", r.origin) for r in log.read(0, 1, 9)] == sent
    assert sorted(log.keys(0)) == sorted([b"ctxlog:control", *(one.key for one in sent)])


def test_reading_by_key_across_pages_gives_each_record_once(open_embedded: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.log.embedded.log.PAGE_BYTES", 1000)
    log = open_embedded()
    log.append([record(b"%d" % number * (1 + number % 50), key=b"ab"[number % 2 : number % 2 + 1]) for number in range(300)])
    for key, first in ((b"a", 1), (b"b", 2)):
        assert [one.offset for one in log.read(0, 0, 301, key=key)] == list(range(first, 301, 2))
    assert [one.offset for one in log.read(0, 17, 211)] == list(range(17, 211))
    assert list(log.read(0, 5, 5)) == list(log.read(0, 9, 5)) == list(log.read(0, 0, 301, key=b"none")) == []


def test_another_process_that_holds_the_file_is_busy_and_nothing_is_appended(
    open_embedded: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_file, "BUSY_SECONDS", 0.05)
    log = open_embedded()
    other = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogBusyError, match="nothing was appended"):
        log.append([record()])
    assert values(log) == []
    other.execute("ROLLBACK")
    other.close()
    log.append([record()])
    assert values(log) == [b"v"]

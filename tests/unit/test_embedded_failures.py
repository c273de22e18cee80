"""The embedded log when the disk does not play along, and under threads, forks and interrupts."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.errors import IndeterminateError, IntegrityError, LogBusyError, LogClosedError, StorageError
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.records import NewRecord

HI = MessageAppended(role="user", content="hi")
Open = Callable[..., EmbeddedLog]


def record(value: bytes = b"v", key: bytes = b"k", partition: int = 0) -> NewRecord:
    return NewRecord(partition, key, value)


def values(log: EmbeddedLog, partition: int = 0) -> list[bytes | None]:
    return [one.value for one in log.read(partition, 1, log.bounds(partition).end)]


# When the disk does not play along


class Stubborn:
    """A connection that fails at one statement."""

    def __init__(self, connection: sqlite3.Connection, statement: str, error: BaseException, *, first: bool) -> None:
        self._connection, self._statement, self._error, self._first = connection, statement, error, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *bound: Any) -> Any:
        if statement.startswith(self._statement):
            if not self._first:
                self._connection.execute(statement, *bound)
            raise self._error
        return self._connection.execute(statement, *bound)


def stubborn(log: EmbeddedLog, statement: str, error: Exception, *, first: bool = True) -> None:
    with log._connections.writing() as connection:
        log._connections._writer = Stubborn(connection, statement, error, first=first)  # type: ignore[assignment]


def test_a_disk_that_is_full_before_the_commit_is_a_storage_error_and_nothing_is_appended(open_embedded: Open) -> None:
    log = open_embedded()
    stubborn(log, "INSERT INTO streams", sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(StorageError, match="nothing was appended"):
        log.append([record()])
    assert values(log) == []


@pytest.mark.parametrize("first", [True, False], ids=["not committed", "committed"])
def test_a_commit_that_fails_leaves_open_what_happened_and_resolve_finds_out(folder: Path, first: bool) -> None:
    backend = EmbeddedLog(folder)
    with ContextLog(backend) as log:
        log.context("s").append(HI)
        stubborn(backend, "COMMIT", sqlite3.OperationalError("disk I/O error"), first=first)
        with pytest.raises(IndeterminateError) as caught:
            log.context("s").append([HI, HI], expected_version=1)
        backend._connections._writer = None
        assert log.resolve(caught.value).version == 3
        assert log.context("s").version == 3


def test_a_publication_whose_outcome_is_unknown_is_a_storage_error_and_can_be_tried_again(folder: Path) -> None:
    backend = EmbeddedLog(folder)
    with ContextLog(backend) as log:
        stubborn(backend, "COMMIT", sqlite3.OperationalError("disk I/O error"))
        with pytest.raises(StorageError, match="nothing else was appended"):
            log.context("s").append(HI)
        backend._connections._writer = None
        log.context("s").append(HI)
        assert log.context("s").version == 1


FILL = """
import resource, signal, sys
from ctxlog import ContextLog
from ctxlog.errors import CtxlogError
from ctxlog.model.events import MessageAppended

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = ContextLog.open(f"embedded:{sys.argv[1]}")
context = log.context("s")
context.append(MessageAppended(role="user", content="first"))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
done = 1
try:
    while done < 1000:
        context.append(MessageAppended(role="user", content="x" * 10_000), expected_version=done)
        done += 1
except CtxlogError as error:
    print(done, type(error).__name__)
"""


def failing(code: int | None, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    if code is not None:
        error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (failing(sqlite3.SQLITE_BUSY_SNAPSHOT, "no such words"), LogBusyError, "Try again"),
        (failing(sqlite3.SQLITE_LOCKED, "no such words"), LogBusyError, "Try again"),
        (failing(sqlite3.SQLITE_READONLY_DIRECTORY, "no such words"), StorageError, "right to write the folder and log.sqlite"),
        (failing(sqlite3.SQLITE_IOERR_WRITE, "readonly and locked"), StorageError, "Check the disk"),
        (failing(None, "readonly and locked"), StorageError, "Check the disk"),
    ],
)
def test_what_failed_is_told_by_sqlites_code_and_not_by_its_words(
    open_embedded: Open, error: sqlite3.OperationalError, kind: type[Exception], said: str
) -> None:
    log = open_embedded()
    stubborn(log, "INSERT INTO streams", error)
    with pytest.raises(kind, match=f"nothing was appended.*{said}"):
        log.append([record()])


def test_an_origin_that_cannot_be_read_is_told_with_its_place(open_embedded: Open, folder: Path) -> None:
    log = open_embedded()
    log.append([record(), record()])
    with log._connections.writing() as connection:
        connection.execute("UPDATE records SET origin = 'nowhere' WHERE id = 2")
    with pytest.raises(IntegrityError, match=rf"{folder}: record 0@2: its origin cannot be read"):
        values(log)


def test_a_process_that_runs_out_of_disk_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    found = subprocess.run([sys.executable, "-c", FILL, folder], capture_output=True, text=True, timeout=120)
    done, name = found.stdout.split()
    assert name in ("StorageError", "IndeterminateError"), found.stderr
    assert int(done) > 3
    with ContextLog.open(f"embedded:{folder}") as log:
        assert log.context("s").version in (int(done), int(done) + (name == "IndeterminateError"))
        log.context("s").append(HI)


def test_a_log_whose_file_was_deleted_acknowledges_nothing(open_embedded: Open, folder: Path) -> None:
    """SQLite goes on writing to a file that has no name any more; what it takes is lost with the process."""
    log = open_embedded()
    log.append([record()])
    shutil.rmtree(folder)
    with pytest.raises(StorageError):
        log.append([record()])
    assert not folder.exists()


def test_a_log_whose_file_was_replaced_acknowledges_nothing(open_embedded: Open, folder: Path) -> None:
    log = open_embedded()
    log.append([record()])
    shutil.rmtree(folder)
    EmbeddedLog(folder).close()
    with pytest.raises(StorageError):
        log.append([record()])


@pytest.mark.parametrize("instead", [None, "an empty log", "a copy of the file"])
def test_a_log_whose_file_was_deleted_or_replaced_is_not_read_any_more(folder: Path, instead: str | None) -> None:
    """The open file is the one that was there before; whoever opens the log now is told something else."""
    with ContextLog.open(f"embedded:{folder}") as log:
        context = log.context("a/b")
        context.append([HI, HI])
        assert context.version == 2
        shutil.copytree(folder, folder.with_name("copy"))
        shutil.rmtree(folder)
        if instead == "an empty log":
            EmbeddedLog(folder).close()
        elif instead is not None:
            folder.with_name("copy").rename(folder)
        reads: list[Callable[[], Any]] = [
            lambda: context.state, lambda: context.version, context.window, context.replay, lambda: list(context.accepted()),
            lambda: list(context.history()), lambda: list(log.streams()), log.matching, log.cut, lambda: log.log.bounds(0),
            lambda: list(log.log.keys(0)), lambda: log.log.wait(0, 0, 0.0), lambda: log.log.offset_at(0, 0),
        ]  # fmt: skip
        for read in reads:
            with pytest.raises(StorageError, match=r"log\.sqlite: .*; nothing was read"):
                read()


# Threads and processes


def test_many_threads_append_and_read_through_one_log(open_embedded: Open) -> None:
    log = open_embedded(partitions=2)

    def work(thread: int) -> int:
        for number in range(20):
            log.append([record(b"%d-%d" % (thread, number), key=b"%d" % thread, partition=thread % 2)])
            assert len(list(log.read(thread % 2, 0, 10_000, key=b"%d" % thread))) == number + 1
        return thread

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == list(range(8))
    for partition in range(2):
        offsets = [one.offset for one in log.read(partition, 0, 10_000)]
        assert offsets == list(range(81))
    for thread in range(8):
        found = [one.value for one in log.read(thread % 2, 0, 10_000, key=b"%d" % thread)]
        assert found == [b"%d-%d" % (thread, number) for number in range(20)]
    assert list(log.problems()) == []


def test_wait_returns_when_somebody_appends_and_when_the_time_is_over(open_embedded: Open) -> None:
    log, other = open_embedded(), open_embedded()
    assert log.wait(0, 1, 0.0) == 1
    timer = threading.Timer(0.05, lambda: other.append([record()]))
    timer.start()
    assert log.wait(0, 1, 30.0) == 2
    timer.join()
    assert log.wait(0, 0, 30.0) == 2


def test_closing_while_others_read_ends_in_a_typed_error_and_lets_go_of_the_file(folder: Path) -> None:
    log = EmbeddedLog(folder)
    log.append([record()] * 500)
    begun = threading.Event()
    seen: list[str] = []

    def read() -> None:
        try:
            while True:
                list(log.read(0, 0, 10_000))
                begun.set()
        except LogClosedError:
            seen.append("closed")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(30)
    log.close()
    for thread in threads:
        thread.join(30)
    assert seen == ["closed"] * 3
    assert log._connections._idle == []
    for use in (lambda: log.append([record()]), lambda: log.bounds(0), lambda: log.wait(0, 0, 0), lambda: list(log.keys(0))):
        with pytest.raises(LogClosedError):
            use()


def test_a_forked_child_and_its_parent_both_go_on(open_embedded: Open) -> None:
    log = open_embedded()
    log.append([record(b"before")])
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        log.append([record(b"child")])
        os._exit(len(values(log)) != 2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    log.append([record(b"parent")])
    assert values(log) == [b"before", b"child", b"parent"]
    assert list(log.problems()) == []


def test_a_child_that_was_forked_inside_a_read_does_not_take_up_its_parents_connection(
    open_embedded: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler forks. SQLite would take the parent's locks for the child's."""
    monkeypatch.setattr("ctxlog.log.embedded.connections.FORK_WAIT_SECONDS", 0.0)
    log = open_embedded()
    log.append([record(b"before")])
    with log._connections.reading() as connection:
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)
            fit = log._connections._reading == 0 and connection not in log._connections._idle
            log.append([record(b"child")])
            fit = fit and values(log) == [b"before", b"child"] and connection not in log._connections._idle
            fit = fit and connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            os._exit(0 if fit else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert log._connections._idle == [connection]
    assert values(log) == [b"before", b"child"]
    assert list(log.problems()) == []


def test_threads_that_fork_at_once_do_not_hold_each_other_up_for_ever(open_embedded: Open) -> None:
    log = open_embedded()

    def work() -> None:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            log.append([record()])

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(values(log)) == 60


def test_a_fork_inside_an_append_is_no_damage(open_embedded: Open) -> None:
    """The transaction is over, and the next append has a connection of its own."""
    log = open_embedded()

    class Forks(Stubborn):
        def execute(self, statement: str, *bound: Any) -> Any:
            if statement.startswith(self._statement):
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
            return self._connection.execute(statement, *bound)

    with log._connections.writing() as connection:
        log._connections._writer = Forks(connection, "INSERT INTO streams", KeyboardInterrupt(), first=True)  # type: ignore[assignment]
    with pytest.raises(StorageError, match="a fork came between; nothing was appended"):
        log.append([record()])
    log.append([record(b"after")])
    assert values(log) == [b"after"]


def test_an_interrupt_inside_an_append_leaves_nothing_of_it_and_the_log_usable(open_embedded: Open) -> None:
    log = open_embedded()
    stubborn(log, "INSERT INTO streams", KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        log.append([record()])
    log._connections._writer = log._connections._writer._connection  # type: ignore[union-attr]
    log.append([record(b"after")])
    assert values(log) == [b"after"]


def test_a_transaction_that_an_interrupt_left_open_is_rolled_back_before_the_next_append(open_embedded: Open) -> None:
    """Ctrl-C can come between any two steps, also where no `except` is."""
    log = open_embedded()
    with log._connections.writing() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO streams (key) VALUES (x'00')")
    log.append([record()])
    assert values(log) == [b"v"]
    assert b"\x00" not in list(log.keys(0))

"""What the fork tests run, each in a process of its own: `python tests/kafka_forks.py NAME URL`. Ends with 0 where all held.

Children end as a program ends, through the interpreter's own end, where clients that were left behind would be let go of. One
that hangs is ended, and its parent says so.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ctxlog import ContextLog, uuids
from ctxlog.errors import IndeterminateError, LogClosedError, StorageError
from ctxlog.model.outcomes import Committed
from ctxlog.model.records import NewRecord

CHILD_SECONDS_MAX = 15


class Ended(Exception):  # noqa: N818
    """Unwinds a child to the end of the program."""


def fork(child: Callable[[], None], *, leave: bool = False) -> int:
    """Fork; the child does its part and ends, at once with `leave`, otherwise as programs do. Its pid, in the parent."""
    pid = os.fork()
    if pid:
        return pid
    watch()
    code = 1
    try:
        child()
        code = 0
    except BaseException:
        traceback.print_exc()
    if leave or code:
        os._exit(code)
    raise Ended


def watch() -> None:
    """End this process where it hangs, and say where it did."""
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(CHILD_SECONDS_MAX)


def wait(*pids: int) -> None:
    for pid in pids:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 0, f"a child hung or failed: {code}"


def say(log: ContextLog, stream_id: str, text: str) -> int:
    """Append, with the version that is read before; the version that it got."""
    context = log.context(stream_id)
    done = context.add_message("user", text, expected_version=context.version)
    assert isinstance(done, Committed)
    return done.version


def said(log: ContextLog, stream_id: str) -> list[str]:
    return [str(message.content) for message in log.context(stream_id).state.messages]


def both_go_on(log: ContextLog) -> None:
    say(log, "agent/a", "before")

    def child() -> None:
        assert said(log, "agent/a")[0] == "before"
        assert say(log, "agent/child", "child") == 1
        log.context("agent/child").add_message("user", "unconditional")
        assert said(log, "agent/child") == ["child", "unconditional"]
        wait(fork(lambda: say(log, "agent/grandchild", "hello") and None, leave=True))

    pid = fork(child)
    assert say(log, "agent/a", "parent") == 2
    wait(pid)
    assert say(log, "agent/child", "parent") == 3
    assert said(log, "agent/a") == ["before", "parent"]
    assert said(log, "agent/child") == ["child", "unconditional", "parent"]
    assert said(log, "agent/grandchild") == ["hello"]


def child_that_does_nothing(log: ContextLog) -> None:
    say(log, "agent/a", "before")
    list(log.log.read(0, 0, log.log.bounds(0).end))
    wait(fork(lambda: None))
    assert say(log, "agent/a", "after") == 2


def child_that_closes(log: ContextLog) -> None:
    say(log, "agent/a", "before")

    def child() -> None:
        log.close()
        try:
            log.context("agent/a").add_message("user", "too late")
        except LogClosedError:
            return
        raise AssertionError("a closed log was written to")

    wait(fork(child))
    assert say(log, "agent/a", "after") == 2
    assert said(log, "agent/a") == ["before", "after"]


def child_that_reads_and_closes(log: ContextLog) -> None:
    say(log, "agent/a", "before")

    def child() -> None:
        assert said(log, "agent/a") == ["before"]
        log.close()

    wait(fork(child))
    assert say(log, "agent/a", "after") == 2


@contextmanager
def threads_at_work(log: ContextLog) -> Iterator[dict[str, int]]:
    """Threads that append and read until the block is left; how many events each stream has by then.

    All modules are imported before: Python's own locks of an import that another thread is at stay locked in a child for ever.
    """
    say(log, "agent/warm", "hello")
    over, counts, failures = threading.Event(), {}, []

    def work(name: str) -> None:
        try:
            while not over.is_set():
                counts[name] = say(log, name, str(counts.get(name, 0)))
                list(log.log.read(0, 0, log.log.bounds(0).end))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(f"thread/{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    main = os.getpid()
    try:
        yield counts
    finally:
        if os.getpid() == main:  # A child that unwinds has no such threads.
            over.set()
            for thread in threads:
                thread.join()
            assert not failures


def fork_while_threads_use_it(log: ContextLog) -> None:
    with threads_at_work(log) as counts:
        for number in range(24):
            stream_id = f"child/{number}"
            pid = fork(lambda: [say(log, stream_id, str(n)) for n in range(2)] and None, leave=number % 2 == 0)  # noqa: B023
            wait(pid)
            assert said(log, stream_id) == ["0", "1"]
    assert len(counts) == 3
    for name, count in counts.items():
        assert said(log, name) == [str(number) for number in range(count)]


def fork_inside_a_read(log: ContextLog) -> None:
    """A long one, which has a consumer of its own; one that is read on, and some that are given up in the child."""
    say(log, "agent/a", "before")
    partition = 1 - log.replayer.reader.partition("agent/a")
    for _ in range(5):
        log.log.append([NewRecord(partition, b"other", b"x" * 100)] * 1_000)
    end = log.log.bounds(partition).end

    def child() -> None:
        try:
            for _ in reading:
                pass
            raise AssertionError("a child read on with its parent's consumer")
        except StorageError as error:
            said = str(error)
        assert "a fork came between" in said
        for one in given_up:
            one.close()
        assert [record.offset for record in log.log.read(partition, 0, end)] == list(range(end))
        say(log, "agent/a", "child")

    reading = log.log.read(partition, 1, end)
    given_up = [log.log.read(partition, 1, end) for _ in range(4)]  # more than are kept for the next read
    seen = [next(reading).offset]
    for one in given_up:
        next(one)
    pid = fork(child)
    seen += [record.offset for record in reading]
    wait(pid)
    assert seen == list(range(1, end))
    assert [sum(1 for _ in one) for one in given_up] == [end - 2] * 4
    assert said(log, "agent/a") == ["before", "child"]


def fork_while_a_thread_holds_locks(log: ContextLog) -> None:
    """As it does for moments all the time; a child that waited for it would wait for ever."""
    say(log, "agent/a", "before")
    locks = [uuids._lock, log._lock, log.replayer.reader._lock]
    one: Any = log.log
    while one is not None:
        locks += [lock for lock in (getattr(one, "_lock", None), getattr(one, "_looking", None)) if lock is not None]
        if hasattr(one, "_clients"):
            locks += [one._clients._lock, one._sender._turn, one._tail._lock]
        one = getattr(one, "log", None)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def child() -> None:
        assert said(log, "agent/a") == ["before"]
        assert say(log, "agent/a", "child") == 2
        assert "agent/a" in log.matching()

    try:
        wait(fork(child, leave=True))
    finally:
        over.set()
    thread.join()
    assert said(log, "agent/a") == ["before", "child"]


class Forks:
    """A producer that forks where an append waits for its reports, as a signal handler may."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.pid: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def poll(self, seconds: float) -> int:
        if self.pid is None:
            self.pid = os.fork()
            if self.pid == 0:
                watch()
        return int(self._producer.poll(seconds)) if self.pid else 0


def fork_inside_an_append(log: ContextLog) -> None:
    """The parent goes on with it; the child, which hears no reports, does not know what became of it and says so."""
    say(log, "agent/a", "before")
    clients = log.log._clients  # type: ignore[attr-defined]
    forks = clients._made["producer"] = Forks(clients.producer())
    context, unknown = log.context("agent/a"), None
    try:
        context.add_message("user", "parent", expected_version=1)
    except IndeterminateError as error:
        if forks.pid != 0 or "a fork came between" not in str(error):
            raise
        unknown = error
    if forks.pid == 0:
        assert log.resolve(unknown).version == 2
        assert say(log, "agent/a", "child") == 3
        raise Ended
    assert forks.pid
    wait(forks.pid)
    assert said(log, "agent/a") == ["before", "parent", "child"]


CASES = {
    case.__name__: case
    for case in (
        both_go_on,
        child_that_does_nothing,
        child_that_closes,
        child_that_reads_and_closes,
        fork_while_threads_use_it,
        fork_while_a_thread_holds_locks,
        fork_inside_a_read,
        fork_inside_an_append,
    )
}


def main(name: str, url: str) -> None:
    log = ContextLog.open(url)
    try:
        CASES[name](log)
    except Ended:
        return  # The log is let go of by the end of the interpreter, as in programs that forget to close it.
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

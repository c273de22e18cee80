"""CtxlogStore awaited, in threads, in several processes, killed, and forked: no acknowledged put is lost."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogStore


@pytest.fixture
def log(tmp_path):
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as log:
        yield log


def cold(log):
    """A store that has read nothing yet."""
    return CtxlogStore(log, agent="bot")


def test_every_method_gives_what_its_awaited_one_gives(log):
    store = cold(log)

    async def run():
        await store.aput(("users", "1"), "food", {"likes": "tea"})
        await store.aput(("users", "1"), "gone", {})
        await store.adelete(("users", "1"), "gone")
        return (
            await store.aget(("users", "1"), "food"),
            await store.aget(("users", "1"), "gone"),
            await store.asearch(("users",), filter={"likes": {"$ne": "rum"}}),
            await store.alist_namespaces(suffix=("1",)),
        )

    awaited = asyncio.run(run())
    assert awaited == (
        store.get(("users", "1"), "food"),
        store.get(("users", "1"), "gone"),
        store.search(("users",), filter={"likes": {"$ne": "rum"}}),
        store.list_namespaces(suffix=("1",)),
    )
    assert awaited[0].value == {"likes": "tea"}


def test_a_put_whose_caller_is_cancelled_is_finished(log):
    store = cold(log)
    held, begun = threading.Event(), threading.Event()

    async def run():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, lambda: (begun.set(), held.wait(30)))  # The put has to wait for its turn.
        put = asyncio.create_task(store.aput(("a",), "k", {"n": 1}))
        await asyncio.sleep(0)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        held.set()
        await busy

    asyncio.run(run())
    assert begun.is_set()
    assert store.get(("a",), "k").value == {"n": 1}


WRITER = """
    import sys
    from ctxlog import ContextLog
    from ctxlog.adapters.langgraph import CtxlogStore
    from langgraph.store.base import PutOp
    with ContextLog.open(sys.argv[1]) as log:
        store = CtxlogStore(log, agent=sys.argv[2])
        name = sys.argv[2]
        for turn in range(40):
            store.batch([
                PutOp(("notes",), f"{name}{turn}", {"n": turn}),
                PutOp(("notes",), f"{name}-last", {"n": turn}),
                PutOp(("notes",), "shared", None if turn % 3 else {"by": name}),
            ])
"""

KILLED = """
    import sys
    from ctxlog import ContextLog
    from ctxlog.adapters.langgraph import CtxlogStore
    with ContextLog.open(sys.argv[1]) as log:
        store = CtxlogStore(log, agent="bot")
        for turn in range(int(sys.argv[2]), 10**9):
            store.put(("notes", f"{turn % 3}"), f"k{turn}", {"n": turn})
            print(turn, flush=True)
"""


def script(text, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(text), *arguments], text=True, **options)


def test_writers_in_several_processes_lose_no_put(log):
    reader = cold(log)
    writers = [script(WRITER, log.log.url, name) for name in ("a", "b")]
    while any(writer.poll() is None for writer in writers):
        found = reader.search((), limit=1000)  # Never a part of an append.
        for name in "ab":
            numbers = sorted(item.value["n"] for item in found if item.key.startswith(name) and "-" not in item.key)
            assert numbers == list(range(len(numbers)))
            last = [item.value["n"] for item in found if item.key == f"{name}-last"]
            assert last == numbers[-1:]
    assert [writer.wait() for writer in writers] == [0, 0]
    for one in (reader, cold(log)):
        assert {item.key for item in one.search((), limit=1000)} - {"shared"} == {
            f"{name}{turn}" for name in "ab" for turn in (*range(40), "-last")
        }
    assert not log.context("shared/store/notes").replay().anomalies


def test_what_was_acknowledged_before_a_kill_is_there(log):
    acknowledged = 0
    for pause in (0.0, 0.05, 0.1):
        killed = script(KILLED, log.log.url, str(acknowledged), stdout=subprocess.PIPE)
        lines = iter(killed.stdout.readline, "")
        acknowledged = int(next(lines)) + 1
        time.sleep(pause)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        for line in lines:
            acknowledged = int(line) + 1 if line.endswith("\n") else acknowledged
        there = {item.key: item.value["n"] for item in cold(log).search((), limit=10**6)}
        assert there in ({f"k{n}": n for n in range(acknowledged)}, {f"k{n}": n for n in range(acknowledged + 1)})
    assert acknowledged > 3


def test_a_forked_process_reads_and_writes_whatever_its_parent_was_doing(log):
    store = cold(log)
    store.put(("a",), "parent", {})
    held, done = threading.Event(), threading.Event()

    def read():
        with store._namespaces.lock:
            held.set()
            done.wait(30)

    reader = threading.Thread(target=read)
    reader.start()
    assert held.wait(30)
    child = os.fork()
    if not child:
        signal.alarm(20)
        with contextlib.suppress(BaseException):
            store.put(("a",), "child", {"saw": [item.key for item in store.search(())]})
            os._exit(0)
        os._exit(1)
    done.set()
    reader.join()
    assert os.waitpid(child, 0)[1] == 0
    assert store.get(("a",), "child").value == {"saw": ["parent"]}


def test_threads_share_a_store(log):
    store = cold(log)

    def work(name):
        for turn in range(20):
            store.put(("t",), f"{name}{turn}", {"n": turn})
            assert store.get(("t",), f"{name}{turn}").value == {"n": turn}
            if turn % 2:
                store.delete(("t",), f"{name}{turn}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert {item.key for item in store.search((), limit=100)} == {f"{name}{turn}" for name in "abcd" for turn in range(0, 20, 2)}

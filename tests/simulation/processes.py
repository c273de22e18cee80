"""What the processes of the simulation do. `python processes.py ROLE ARGUMENTS…`; a line on stdout tells the test how far it is.

A writer keeps a ledger beside the log: what it tries before it appends, what was acknowledged after. A killed process loses
nothing that it wrote to a file, so the ledger knows at least what the writer knew.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ctxlog import ContextLog
from ctxlog.errors import ConflictError
from ctxlog.importers import import_path, importing
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.points import AtVersion
from ctxlog.replay import replayer
from ctxlog.replay.replayer import Replayer
from ctxlog.uuids import uuid7


def say(*words: object) -> None:
    print(*words, flush=True)


class Ledger:
    """One JSON object a line."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, **members: Any) -> None:
        os.write(self._file, json.dumps(members).encode() + b"\n")


def mixed(folder: str, ledger_path: str, name: str, number: str, chats: str) -> None:
    """Append in every way there is, until killed. Writers of all names share one stream, and each has its own.

    Every tenth writer begins new streams, so that checking them stays quick however many are killed.
    """
    replayer.SNAPSHOT_EVENTS = 100  # so that some are killed while they keep a snapshot
    importing.WRITE_EVENTS = 7  # and some in the middle of an import
    dice, ledger, files = random.Random(number), Ledger(ledger_path), sorted(Path(chats).iterdir())
    log = ContextLog.open(f"embedded:{folder}")
    era = int(number) // 10
    own, shared = log.context(f"writer/{name}-{era}"), log.context(f"shared/all-{era}")
    while True:
        time.sleep(0.004 * (dice.random() < 0.2))
        context, ids = dice.choice((own, shared)), [uuid7() for _ in range(dice.choice((2, 3, 8)))]
        match dice.choice(("message", "message", "group", "each", "fact", "import")):
            case "message":
                ledger.note(tried=context.stream_id, ids=ids[:1], group=True)
                context.add_message("user", ids[0] * dice.choice((1, 1, 500)), event_ids=ids[:1])
                ledger.note(acknowledged=context.stream_id, ids=ids[:1])
            case "group":
                events = [MessageAppended(role="user", content=event_id) for event_id in ids]
                ledger.note(tried=context.stream_id, ids=ids, group=True)
                try:
                    done = context.append(events, expected_version=context.version, event_ids=ids)
                except ConflictError:
                    ledger.note(refused=context.stream_id, ids=ids)
                else:
                    ledger.note(acknowledged=context.stream_id, ids=ids, version=done.version)
            case "each":
                ledger.note(tried=context.stream_id, ids=ids, group=False)
                context.append_each([(MessageAppended(role="user", content=one), {"event_ids": [one]}) for one in ids])
                ledger.note(acknowledged=context.stream_id, ids=ids)
            case "fact":
                version = context.version
                ledger.note(tried=context.stream_id, ids=ids[:1], group=True)
                try:
                    done = context.set_fact("turn", name, expected_version=version, event_ids=ids[:1])
                except ConflictError:
                    ledger.note(refused=context.stream_id, ids=ids[:1])
                else:
                    ledger.note(acknowledged=context.stream_id, ids=ids[:1], version=done.version)
            case "import":
                file = dice.choice(files)
                # Each writer has its own agent: two imports of one run at once would be one run told twice.
                report = import_path(log, file, agent=f"import-{name}")
                assert not report.failed, report.failed
                ledger.note(imported=report.streams[0], file=file.name)
        say("done")


def contend(folder: str, name: str, wins: str) -> None:
    """Win so many versions of one stream, each with the version that was seen before."""
    context = ContextLog.open(f"embedded:{folder}").context("shared/counter")
    done = 0
    while done < int(wins):
        version = context.version
        try:
            outcome = context.add_message("user", f"{name} {done}", expected_version=version)
        except ConflictError:
            continue
        done += 1
        say(outcome.version, outcome.event_id)


def forks(folder: str) -> None:
    """Fork with an open log that was used, while a thread reads; children and parent go on with what they have."""
    log = ContextLog.open(f"embedded:{folder}")
    shared = log.context("shared/forks")
    shared.add_message("user", "before")
    assert shared.version == 1
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            assert shared.state.version >= 1

    reader = threading.Thread(target=read)
    reader.start()
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            _in_child(log, str(child))
        children.append(pid)
        shared.add_message("user", f"parent {child}")
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    over.set()
    reader.join()
    _inherited.append(log)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(_through_inherited, ["pool-0", "pool-1", "pool-2"])
    shared.add_message("user", "after")
    say(json.dumps({"codes": codes, "version": shared.version}))


def outlives(folder: str) -> None:
    """Fork, and close the log in the parent while the child, which used it, goes on."""
    log = ContextLog.open(f"embedded:{folder}")
    log.context("shared/forks").add_message("user", "before")
    used, closed = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        log.context("child/0").add_message("user", "beside the parent")
        os.write(used[1], b".")
        os.read(closed[0], 1)
        for number in range(10):
            log.context("child/0").add_message("user", f"after the parent {number}")
        os._exit(0)
    os.read(used[0], 1)
    log.close()
    os.write(closed[1], b".")
    say(os.waitpid(pid, 0)[1])


_inherited: list[ContextLog] = []
"""The log of the parent, where workers of a pool find it."""


def _through_inherited(name: str) -> None:
    _append_ten(_inherited[0], name)


def _in_child(log: ContextLog, name: str) -> None:
    try:
        _append_ten(log, name)
        if name == "1":
            log.close()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def _append_ten(log: ContextLog, name: str) -> None:
    own, shared = log.context(f"child/{name}"), log.context("shared/forks")
    for number in range(10):
        own.add_message("user", str(number), expected_version=number)
        shared.add_message("user", f"{name} {number}")
    assert own.version == 10


def imports(folder: str, source: str) -> None:
    """Import, in many writes; say when each run is in."""
    importing.WRITE_EVENTS = 7
    with ContextLog.open(f"embedded:{folder}") as log:
        report = import_path(log, source, agent="shop", progress=lambda progress: say("run", progress.events))
    say(
        "report", json.dumps({"appended": report.events_appended, "skipped": report.events_skipped, "failed": len(report.failed)})
    )


def interrupted(folder: str, ledger_path: str) -> None:
    """Append until stdin ends; take every Ctrl-C as a reason to go on with the same handle."""
    ledger = Ledger(ledger_path)
    log = ContextLog.open(f"embedded:{folder}")
    context = log.context("writer/interrupted")
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    while not over.is_set():
        try:
            while not over.is_set():
                ids = [uuid7(), uuid7()]
                ledger.note(tried=context.stream_id, ids=ids, group=True)
                done = context.append(
                    [MessageAppended(role="user", content=ids[0]), FactSet(key="last", value=json.dumps(ids[1]))], event_ids=ids
                )
                ledger.note(acknowledged=context.stream_id, ids=ids, version=done.version)
                os.write(1, b"done\n")  # whole or not at all, whenever the interrupt comes
        except KeyboardInterrupt:
            os.write(1, b"interrupted\n")
    log.close()


def count(folder: str, name: str, messages: str) -> None:
    """Write the numbers from 0 on, some of them in groups, to a stream of its own."""
    context = ContextLog.open(f"embedded:{folder}").context(f"count/{name}")
    number = 0
    while number < int(messages):
        size = 3 if number % 5 == 0 else 1
        context.append([MessageAppended(role="user", content=str(number + i)) for i in range(size)])
        number += size
    say("done")


def watch(folder: str, names: str, messages: str) -> None:
    """Read while others write: whatever is seen is a beginning of what was written, and stays."""
    log = ContextLog.open(f"embedded:{folder}")
    kept = Replayer(log.log, log.snapshots)
    streams, looks = {f"count/{name}": 0 for name in names.split(",")}, 0
    heads: dict[tuple[str, int], str] = {}
    while min(streams.values()) < int(messages):
        for stream_id, before in streams.items():
            state = log.context(stream_id).state
            assert state.version >= before, f"{stream_id} went back from {before} to {state.version}"
            assert [message.content for message in state.messages] == [str(number) for number in range(state.version)]
            heads[stream_id, state.version] = state.chain_head
            streams[stream_id] = state.version
        stream_id, version = random.Random(looks).choice(list(heads))
        again = (Replayer(log.log) if looks % 2 else kept).replay(stream_id, AtVersion(version))
        assert again.state.chain_head == heads[stream_id, version]
        looks += 1
    say("looks", looks)


if __name__ == "__main__":
    roles = (mixed, contend, forks, outlives, imports, interrupted, count, watch)
    {role.__name__: role for role in roles}[sys.argv[1]](*sys.argv[2:])

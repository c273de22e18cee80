"""Processes that write to a log on Kafka, for the tests that kill, freeze and cut off things. Spawned, so importable."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from ctxlog import Context, ContextLog
from ctxlog.errors import AbandonedError, ConflictError, IndeterminateError, LogBusyError, StorageError
from ctxlog.model.events import MessageAppended
from ctxlog.model.outcomes import Committed
from ctxlog.uuids import uuid7


class Ledger:
    """What a writer tried and what it was told, one JSON object a line; survives its kill."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, **members: Any) -> None:
        os.write(self._file, json.dumps(members).encode() + b"\n")


def resolved(log: ContextLog, error: IndeterminateError, ledger: Ledger, until: float) -> Committed:
    """The outcome, asked for until it is known."""
    while True:
        try:
            ledger.note(resolving=error.stream_id)
            return log.resolve(error)
        except IndeterminateError as again:
            if time.monotonic() > until:
                raise
            error = again
            time.sleep(0.2)


def mixed(url: str, ledger_path: str, name: str, stop: str) -> None:
    """Append in every way until the file `stop` is there; every outcome that is not known is resolved."""
    dice, ledger = random.Random(name), Ledger(ledger_path)
    log = ContextLog.open(url)
    own, shared = log.context(f"writer/{name}"), log.context("shared/all")
    while not Path(stop).exists():
        context = dice.choice((own, shared))
        ids = [uuid7() for _ in range(dice.choice((1, 1, 3)))]
        conditional = len(ids) > 1 or dice.random() < 0.5
        ledger.note(tried=context.stream_id, ids=ids, group=True)
        _append(log, context, ids, ledger, conditional)
        time.sleep(0.005)
    log.close()


def _append(log: ContextLog, context: Context, ids: list[str], ledger: Ledger, conditional: bool) -> None:
    events = [MessageAppended(role="user", content=event_id) for event_id in ids]
    while True:
        try:
            expected = context.version if conditional else None
            break
        except (StorageError, LogBusyError):
            time.sleep(0.2)
    try:
        done: Any = context.append(events, expected_version=expected, event_ids=ids)
    except ConflictError:
        return ledger.note(refused=context.stream_id, ids=ids)
    except IndeterminateError as error:
        try:
            done = resolved(log, error, ledger, time.monotonic() + 120)
        except (ConflictError, AbandonedError):
            return ledger.note(refused=context.stream_id, ids=ids)
    except StorageError:
        return ledger.note(refused=context.stream_id, ids=ids)
    version = {"version": done.version} if isinstance(done, Committed) else {}
    return ledger.note(acknowledged=context.stream_id, ids=ids, **version)


def contend(url: str, name: str, wins: int) -> list[tuple[int, str]]:
    """Win so many versions of one stream, each with the version that was seen before."""
    with ContextLog.open(url) as log:
        context, won = log.context("shared/counter"), []
        while len(won) < wins:
            try:
                done = context.add_message("user", f"{name} {len(won)}", expected_version=context.version)
            except ConflictError:
                continue
            assert isinstance(done, Committed)
            won.append((done.version, done.event_id))
        return won

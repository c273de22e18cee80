"""A log that several careless writers wrote to, for tests that ask it everywhere; and recorded runs where there are some."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctxlog import ContextLog
from ctxlog.errors import IntegrityError
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import NewRecord
from writing import expecting, foreign, group, publish, raw

DATA = Path(__file__).parents[2] / "shared" / "data"
STREAMS = ("planner/a", "planner/b", "planner", "shared/x", "shared/y")
OUTCOMES = {"accepted", "open", "undecodable", "misplaced", "malformed", "duplicate", "conflict", "abandoned"}
"""What becomes of the records: some of each."""

STEPS_AN_APPEND = 9

UNREADABLE = suppress(IntegrityError)
"""Goes on where a stream has no state: a fork of what is not there, an event of a newer release."""

Known = dict[str, tuple[int, dict[str, int]]]
"""What writers know of a stream: its version, and those of its targets."""


def import_runs(log: EventLog, count: int | None) -> None:
    """Import recorded runs, all or so many of each kind; skips the test where there are none."""
    import pytest  # Here, so that the processes that answer start sooner.

    from ctxlog.importers import import_path

    if not DATA.is_dir():
        pytest.skip(f"recorded runs are not at {DATA}")
    contexts = ContextLog(log)
    for folder in sorted((DATA / "mini-swe-agent").iterdir()):
        assert import_path(contexts, sorted(folder.iterdir())[:count], agent=folder.name).events_appended
    if count is None:
        assert import_path(contexts, DATA / "tau-bench").events_appended


def fill(log: EventLog, seed: int, steps: int) -> None:
    """Write as several careless writers do, all streams in turns: appends torn, interleaved and out of order, copies of records,
    stale preconditions, redactions, records that nobody can read, forks of forks (of what is there already too), decisions."""
    dice = random.Random(seed)
    contexts = ContextLog(log)
    publish(log)
    batch: list[NewRecord] = []
    held: list[NewRecord] = []
    forks: list[str] = []
    known: Known = {}
    for step in range(steps):
        stream_id = dice.choice((*STREAMS, *forks[-3:]))
        batch += _records(log, dice, stream_id, step, held, known)
        if dice.random() < 0.05 and batch:
            batch.append(dice.choice(batch))  # A copy.
        if len(batch) < STEPS_AN_APPEND:
            continue
        log.append(batch)
        batch = []
        known = {name: _known(contexts, name) for name in (*STREAMS, *forks[-3:])}
        if dice.random() < 0.3:
            with contexts.decision("next", agent=dice.choice(("planner", "critic"))) as decision:
                names = contexts.matching("*")
                for name in dice.sample(names, min(3, len(names))):
                    with UNREADABLE:
                        decision.read(contexts.context(name), max_messages=dice.choice((1, 5, None)))
                decision.outcome = step
        if dice.random() < 0.3:
            with UNREADABLE:
                parent = contexts.context(dice.choice(contexts.matching("*") if dice.random() < 0.3 else (*STREAMS, *forks)))
                child = parent.fork(f"planner/fork-{step}", at=dice.randint(0, parent.version))
                forks.append(child.stream_id)
                child.add_message("user", f"other than {parent.stream_id}")
                inherited = child.state.messages
                if len(inherited) > 1:
                    child.redact_message(dice.choice(inherited).id)
    log.append(batch + held)
    log.append([raw(log, "shared/y", "FactSet", f"t{n}", append=group(f"t{n}", 0, 2)) for n in range(66)])
    log.append(foreign(log, "shared/y", "org.example.Note", "note"))
    log.append(foreign(log, "shared/newer", "ctxlog.MessageForgotten", "newer"))
    wrong = {"parent_stream_id": STREAMS[0], "parent_version": 1, "parent_chain_head": "0" * 64}
    log.append([raw(log, "planner/orphan", "StreamForked", "orphan", **wrong)])


def _known(contexts: ContextLog, name: str) -> tuple[int, dict[str, int]]:
    arbiter = contexts._read(name).fold.arbiter
    return arbiter.version, dict(arbiter.targets)


def _records(
    log: EventLog, dice: random.Random, stream_id: str, step: int, held: list[NewRecord], known: Known
) -> list[NewRecord]:
    """What one step writes; about half of what it expects is so."""
    version, targets = known.get(stream_id, (0, {}))
    pool = [f"{stream_id} {number}" for number in range(40)]
    event_id = dice.choice(pool) if dice.random() < 0.3 else f"e{step}"
    occurred_at = dice.choice((None, step * 1_000_000, dice.randrange(step * 1_000_000 + 1)))
    fields: dict[str, Any] = {"occurred_at": occurred_at}
    if dice.random() < 0.15:
        fields["precondition"] = expecting(expected_version=version + dice.choice((0, 0, 1)))
    key, call = dice.choice("klmn"), dice.choice(pool)
    match dice.choice(("message",) * 4 + ("fact", "fact", "remove", "call", "call", "result", "redact", "group", "group", "bad")):
        case "message":
            text = dice.choice((None, f"{step} \u0130\U0001f600", "1,5"))
            return [raw(log, stream_id, "MessageAppended", event_id, content=text, **fields)]
        case "fact":
            if dice.random() < 0.5:
                expected = targets.get(f"fact:{key}", 0)
                fields["precondition"] = expecting(expected_target_version=dice.choice((expected, expected, version)))
            return [raw(log, stream_id, "FactSet", event_id, key=key, value=f"[{step}, 1.50]", **fields)]
        case "remove":
            return [raw(log, stream_id, "FactRemoved", event_id, key=key, **fields)]
        case "call":
            return [raw(log, stream_id, "ToolCalled", event_id, call_id=call, **fields)]
        case "result":
            return [raw(log, stream_id, "ToolReturned", event_id, call_id=call, content="1", failed=step % 2 == 0, **fields)]
        case "redact":
            return [raw(log, stream_id, "MessageRedacted", event_id, message_id=dice.choice(pool), **fields)]
        case "bad":
            good = raw(log, stream_id, "MessageAppended", event_id)
            other = raw(log, dice.choice(STREAMS), "FactSet", f"x{step}")
            return [
                dice.choice(
                    (
                        good._replace(value=good.value[:-1]),
                        other._replace(key=good.key, partition=good.partition),
                        raw(log, stream_id, "FactSet", f"m{step}", append=group(f"m{step}", 3, 2)),
                    )
                )
            ]
        case _:
            count = dice.randint(2, 4)
            parts = [
                raw(log, stream_id, "MessageAppended", f"g{step}" if part == 0 else f"g{step}/{part}", content=f"{part}",
                    append=group(f"g{step}", part, count), occurred_at=occurred_at)
                for part in range(count)
            ]  # fmt: skip
            dice.shuffle(parts)
            late, held[:] = held[:], parts[1:] if dice.random() < 0.8 else []  # The others are never sent: a torn append.
            return [parts[0], *late]

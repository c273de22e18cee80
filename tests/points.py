"""Random points of every kind, and what a replay says at each of them: what tests of "the same on every path" have in common.

    draw -> questions by a seed · answer -> what a path says to one of them · check_points -> all paths say the same
    python points.py QUESTIONS URL SNAPSHOTS INDEX MEMORY    answers the questions of a file by one path, a JSON line each

A path is how a replay gets at the records: the log itself, snapshots, the stream index, a copy on another backend.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from careless import OUTCOMES, STREAMS, UNREADABLE
from ctxlog import ContextLog
from ctxlog.errors import IntegrityError, PointError
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.points import AtCut, format_time, parse_point
from ctxlog.model.records import Accepted, Record
from ctxlog.replay import index, replayer
from ctxlog.replay.copying import copy_log
from ctxlog.replay.history import history
from ctxlog.replay.index import IndexedLog
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore
from ctxlog.replay.summaries import matching
from writing import Wrapped

KINDS = ("version", "offset", "time", "occurred", "event", "decision", "cut", "latest")
SNAPSHOT_EVENTS = 7
"""Small, so that points lie behind many snapshots, and some of those inside an open append."""

ENVIRONMENTS = (
    {"PYTHONHASHSEED": "0"},
    {"PYTHONHASHSEED": "1", "TZ": "Pacific/Pago_Pago"},
    {"PYTHONHASHSEED": "12345", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONHASHSEED": "777", "TZ": "Asia/Kolkata", "LC_ALL": "tr_TR.UTF-8"},
    {"PYTHONHASHSEED": "4294967295", "TZ": "America/St_Johns", "LC_ALL": "de_DE.UTF-8", "PYTHONOPTIMIZE": "2"},
)


# --- questions ---------------------------------------------------------------------------------------------------------


def draw(log: EventLog, count: int, seed: int, kinds: Sequence[str] = KINDS) -> list[dict[str, Any]]:
    """As many questions as are asked for, of all kinds in turns, each about some stream of the log."""
    dice, asked = random.Random(seed), Replayer(log)
    names = matching(log, "*")
    written = [name for name in names if name in STREAMS]
    beside = [name for name in names if name not in STREAMS and name.startswith(("planner/", "shared/", "decisions/"))]
    before = [name for name in names if name not in written and name not in beside]
    pools = [pool for pool in (written, beside, before) if pool]

    @cache
    def accepted(name: str) -> list[Accepted]:
        return list(asked.accepted(name, asked.end(name)))

    @cache
    def records(name: str) -> list[Record]:
        return [record for record, _ in asked.reader.records(name, 0, asked.end(name))]

    decided = [read for name in names if name.startswith("decisions/") for read in _decided(accepted(name))]
    questions = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        name = dice.choice(dice.choice(pools))
        at: Any = kind
        match kind:
            case "version":
                at = f"version:{dice.randint(0, len(accepted(name)))}"
            case "offset":
                at = f"offset:{dice.choice(records(name)).offset + dice.choice((-1, 0, 0, 0))}"
            case "time":
                at = f"time:{format_time((dice.choice(records(name)).time + dice.choice((-1, 0, 0, 1, 1000))) * 1000)}"
            case "occurred":
                known = [one.event.meta["occurred_at"] for one in accepted(name)]
                at = f"occurred:{format_time((dice.choice(known) or 0) + dice.choice((-1, 0, 1)) if known else 0)}"
            case "event":
                ids = [one.event.meta["event_id"] for one in accepted(name)]
                at = f"event:{dice.choice(ids) if ids else 'none'}"
            case "decision":
                decision_id, name = dice.choice(decided)
                at = f"decision:{decision_id}"
            case "cut":
                several = sorted({name, *dice.sample(names, 2)})
                places = {one: dice.choice(accepted(one)) for one in several if accepted(one)}
                at = {
                    "streams": {one: place.version for one, place in places.items()},
                    "chain_heads": {one: place.head.hex() for one, place in places.items()},
                }
        questions.append({"stream": name, "at": at})
    return questions


def _decided(events: Iterable[Accepted]) -> Iterator[tuple[str, str]]:
    """Each decision of a stream, with each stream that it read."""
    for one in events:
        if one.event.type == "ctxlog.ContextRead":
            for read in one.event.payload["streams"]:
                yield one.event.payload["decision_id"], read["stream_id"]


def outcomes(log: EventLog) -> set[str]:
    """What became of the records of all streams."""
    asked = Replayer(log)
    return {entry.outcome for name in matching(log, "*") for entry in history(asked, name, asked.end(name))}


# --- answers -----------------------------------------------------------------------------------------------------------


def answer(asked: Replayer, question: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a replay says, with digests in place of what is long; where there is no state, why."""
    at = question["at"]
    if isinstance(at, dict):  # A cut is of one log, and the same in each copy.
        path = folder / f"cut-{os.getpid()}.json"
        path.write_text(json.dumps({"log_id": asked.log.log_id, **at}), "utf-8")
        point: Any = AtCut(str(path))
    else:
        point = parse_point(at)
    try:
        replay = asked.replay(question["stream"], point)
    except (PointError, IntegrityError) as error:
        return {"question": question, "error": type(error).__name__}
    manifest = replay.manifest
    return {
        "question": question,
        "state": hashlib.sha256(json.dumps(replay.state.to_dict()).encode()).hexdigest(),
        "anomalies": [list(anomaly) for anomaly in replay.anomalies],
        "digest": manifest.state_digest,
        "head": manifest.chain_head,
        "version": manifest.version,
        "time": manifest.recorded_at,
        "position": manifest.position,
        "provisional": manifest.provisional,
        "started_from": manifest.started_from,
    }


class Access(NamedTuple):
    """How a process gets at the records.

    Attributes:
        url: The log.
        snapshots, index: Their files; None goes without.
        memory: Partitions of a copy in memory that the process makes and asks; None asks the log itself.
    """

    url: str
    snapshots: str | None = None
    index: str | None = None
    memory: int | None = None


class _OnlyIndexed(Wrapped):
    """A log of which nobody may read by key: the index has to."""

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        if key is not None and start < end:
            raise AssertionError("the index was passed over")  # No `assert`: some processes run without.
        return self.inner.read(partition, start, end)


def open_plain(url: str) -> EventLog:
    """The log itself, without caches."""
    if url.startswith("kafka:"):
        from ctxlog.log.kafka import KafkaLog

        return KafkaLog(url)
    return EmbeddedLog(Path(url.removeprefix("embedded:")), create=False)


def answers_of(path: Access, questions: Sequence[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """What a path says to each question."""
    replayer.SNAPSHOT_EVENTS, index.DIRECT_OFFSETS_MAX = SNAPSHOT_EVENTS, 0
    log = open_plain(path.url)
    if path.memory is not None:
        copy_log(log, copied := MemoryLog(path.memory, offset_step=3))
        log = copied
    if path.index is not None:
        log = IndexedLog(_OnlyIndexed(log), Path(path.index))
    store = None if path.snapshots is None else SnapshotStore(Path(path.snapshots))
    asked = Replayer(log, store)
    for question in questions:
        yield answer(asked, question, folder)
    if store is not None:
        store.close()
    log.close()


def keep(url: str, snapshots: str) -> None:
    """Read every stream to its end, as a client does, with snapshots."""
    was, replayer.SNAPSHOT_EVENTS = replayer.SNAPSHOT_EVENTS, SNAPSHOT_EVENTS
    with ContextLog(open_plain(url), SnapshotStore(Path(snapshots))) as log:
        for name in log.matching():
            with UNREADABLE:
                log.context(name).state  # noqa: B018
    replayer.SNAPSHOT_EVENTS = was


def ask(paths: dict[str, Access], questions: Sequence[dict[str, Any]], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What each path says in a process of its own, with another hash seed, zone and locale; two of them at a time."""
    asked = folder / f"questions-{len(questions)}.json"
    asked.write_text(json.dumps(questions), "utf-8")
    own = ("PYTHONHASHSEED", "PYTHONUTF8", "PYTHONCOERCECLOCALE", "PYTHONOPTIMIZE", "LC_", "LANG", "TZ")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}

    def run(path: Access, environment: dict[str, str]) -> list[dict[str, Any]]:
        command = [sys.executable, __file__, str(asked), *map(json.dumps, path)]
        done = subprocess.run(command, env={**kept, **environment}, capture_output=True, timeout=3_000)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return [json.loads(line) for line in done.stdout.splitlines()]

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(paths, pool.map(run, paths.values(), cycle(ENVIRONMENTS)), strict=True))


# --- what must be the same ---------------------------------------------------------------------------------------------

ELSEWHERE = ("position", "provisional")
"""What a copy answers in its own way: where a record lies, and what may still come into its partition."""


def access(log: EventLog, path: str, folder: Path) -> Access:
    """A path to a log by its name: `zero`, `snapshots` (which a client kept that read all streams before), `index`, `both` (which
    the process makes), `memory` (a further copy, through an index); whatever follows in the name makes it another one."""
    first, place = path.split(maxsplit=1)[0], f"{folder}/{log.log_id} {path}"
    snapshots = f"{place}.cache" if first in ("snapshots", "both") else None
    if first == "snapshots":
        keep(log.url, f"{place}.cache")
    indexed = f"{place}.index" if first in ("index", "both", "memory") else None
    return Access(log.url, snapshots, indexed, 4 if first == "memory" else None)


def check_points(
    source: EventLog, here: Sequence[str], copied: EventLog, there: Sequence[str], folder: Path, *, points: int, times: int = 1
) -> None:
    """Draw points of `source`, and see that all paths to it, and all to its copy, say the same.

    Args:
        source: A log that was filled.
        here, there: The paths to each of the two, by name.
        copied: A copy of it.
        folder: Where the caches lie.
        points: How many.
        times: How often each path is asked; the second time it finds the caches as the first one left them.
    """
    assert outcomes(source) == OUTCOMES
    questions, offsets = draw(source, points, points), draw(copied, points // len(KINDS), points, kinds=("offset",))
    ways = {path: access(source, path, folder) for path in here}
    answers = [ask(ways, questions, folder) for _ in range(times)]
    expected = answers[0][here[0]]
    for found in answers:
        for path, said in found.items():
            _same(expected, said, f"{source.url} by {path}")
    check_rich(expected)
    # An offset means something else in a copy.
    expected = [one for one in expected if not str(one["question"]["at"]).startswith("offset:")]
    ways = {path: access(copied, path, folder) for path in there}
    answers = [ask(ways, [one["question"] for one in expected] + offsets, folder) for _ in range(times)]
    for found in answers:
        for path, said in found.items():
            _same(expected, said[: len(expected)], f"{copied.url} by {path}", ELSEWHERE)
            if path != "memory":
                _same(answers[0][there[0]], said, f"{copied.url} by {path}")
    kept = [one for path, said in answers[-1].items() if path.startswith("snapshots") for one in said]
    assert sum(one.get("started_from", 0) > 0 for one in kept) >= len(kept) / 4


def check_rich(answers: Sequence[dict[str, Any]]) -> None:
    """What is compared could differ."""
    states = [one for one in answers if "state" in one]
    assert len(states) > len(answers) * 0.9
    assert len({one["head"] for one in states}) > len(states) / 2
    assert {str(one["question"]["at"]).split(":")[0] for one in states} > set(KINDS) - {"cut"}
    assert sum(isinstance(one["question"]["at"], dict) for one in states) > len(states) / 20
    assert sum(bool(one["anomalies"]) for one in states) > len(states) / 10


def _same(expected: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], where: str, without: Sequence[str] = ()) -> None:
    """All answers are the same; where a replay started from may differ, and what is named."""

    def told(one: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in one.items() if name not in ("started_from", *without)}

    differ = [(one, other) for one, other in zip(expected, found, strict=True) if told(one) != told(other)]
    assert not differ, (where, len(differ), differ[:2])


if __name__ == "__main__":
    asked = Path(sys.argv[1])
    for told in answers_of(Access(*map(json.loads, sys.argv[2:])), json.loads(asked.read_text("utf-8")), asked.parent):
        print(json.dumps(told))

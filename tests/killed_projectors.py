"""A projector that is killed again and again while others write: what it leaves behind is judged by a replay of its own.

    python killed_projectors.py URL FOLDER SEED     the projector, in small batches, until it is killed; a line for each step

Used on the embedded log and on Kafka.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb

from ctxlog import ContextLog
from ctxlog.core.digests import state_digest
from ctxlog.errors import ConflictError
from ctxlog.model.events import FactSet, MessageAppended, MessageRedacted
from ctxlog.model.points import Latest
from ctxlog.projection.states import state_of
from ctxlog.replay.history import history
from ctxlog.replay.replayer import Replayer
from ctxlog.wiring import join_group, open_log
from reading_views import Reader
from writing import group, raw


class Writer(threading.Thread):
    """Writes in every way: alone, in groups, against conditions, torn appends that stay open or are completed late, rubbish."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.url, self.dice = url, random.Random(seed)
        self.ended, self.written, self.failure = threading.Event(), 0, None

    def run(self) -> None:
        try:
            with ContextLog.open(self.url) as log:
                while not self.ended.is_set():
                    self.step(log)
                    self.written += 1
                    time.sleep(0.001)
        except BaseException as error:
            self.failure = error

    def step(self, log: ContextLog) -> None:
        dice, number = self.dice, self.written
        context = log.context(f"agent-{dice.randrange(3)}/{dice.randrange(12)}")
        match dice.randrange(10):
            case 0:
                with contextlib.suppress(ConflictError):
                    context.set_fact("k", number, expected_version=dice.choice((context.version, 3)))
            case 1:
                context.append([MessageAppended(role="user", content=f"{number} {i}") for i in range(dice.choice((2, 5)))])
            case 2:  # One half of an append now, and sometimes the other one.
                ids = [f"torn-{number}-{i}" for i in range(2)]
                halves = [
                    raw(log.log, context.stream_id, "MessageAppended", ids[i], role="user", append=group(ids[0], i, 2))
                    for i in dice.sample((0, 1), dice.choice((1, 1, 2)))
                ]
                context.add_message("user", "so that the schema is there")
                log.log.append(halves)
            case 3:
                record = raw(log.log, context.stream_id, "MessageAppended", f"rubbish-{number}", role="user")
                log.log.append([record._replace(value=record.value[: dice.randrange(len(record.value))])])
            case 4:
                messages = context.state.messages
                if messages:
                    context.append(MessageRedacted(message_id=dice.choice(messages).id))
            case 5:
                call = context.add_tool_call("f", {"n": number})
                if dice.random() < 0.7:
                    context.add_tool_result(call.event_id, "x" * dice.randrange(2_000), failed=dice.random() < 0.2)
            case 6:
                log.context("shared/all").append(FactSet(key=f"k{dice.randrange(9)}", value=f"{number}"))
            case _:
                context.add_message("user", f"{number} " + "x" * dice.randrange(500))

    def finish(self) -> None:
        self.ended.set()
        self.join(60)
        if self.failure is not None:
            raise self.failure


def project(url: str, folder: str, seed: str) -> None:
    """Run until killed; say how far it is after each step."""
    from ctxlog.projection import projector as module
    from ctxlog.projection.instance import Instance
    from ctxlog.projection.running import Running

    module.BATCH_RECORDS = random.Random(seed).choice((20, 100, 500))
    opened = open_log(url)
    instance = Instance(Path(folder))

    def tell(said: str) -> None:
        # It would be made anew; here it must not come to that.
        assert "damaged" not in said, said

    show = lambda figures: print(figures.batches, flush=True)  # noqa: E731 - as short as it can be
    running = Running(opened.log, instance, publish_seconds=0.05, tell=tell, show=show)
    running.run(join=lambda: join_group(opened, instance.name))


def kill_in_a_loop(url: str, folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """Start, let it do some steps, kill -9, again, while others write and read; the records projected in the end, and the kills
    that hit one at work."""
    dice, hit = random.Random(seed), 0
    writer = Writer(url, seed)
    writer.start()
    with Reader(folder) as reader:
        for number in range(kills):
            hit += _kill(url, folder, number, dice)
            if number % 5 == 0:
                look(folder / "current.duckdb")
    writer.finish()
    assert len(set(reader.seen)) > kills // 5, "the reader saw hardly anything"
    opened = open_log(url)
    from ctxlog.projection.instance import Instance
    from ctxlog.projection.running import Running

    Running(opened.log, Instance(folder)).run(once=True)
    opened.close()
    return judge(url, folder / "current.duckdb"), hit


def _kill(url: str, folder: Path, number: int, dice: random.Random) -> bool:
    """Start a projector, let it do some steps, and kill it; whether it had kept a batch."""
    command = [sys.executable, __file__, url, str(folder), str(number)]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    batches = -1
    for _ in range(dice.choice((1, 2, 3, 8, 30))):
        said = process.stdout.readline()
        assert said, process.communicate()[1]
        batches = int(said)
    time.sleep(dice.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return batches > 0


def look(published: Path) -> None:
    """What is published is whole, whenever its writer was killed."""
    if not published.exists():
        return
    with duckdb.connect(str(published), read_only=True) as connection:
        torn = connection.execute(
            "SELECT partition, next_offset, last_offset, count(*), max(record_offset) FROM projection.progress "
            "LEFT JOIN events USING (partition) GROUP BY ALL HAVING max(record_offset) <> last_offset"
        ).fetchall()
        assert torn == []
        doubled = connection.execute("SELECT partition, record_offset FROM events GROUP BY ALL HAVING count(*) > 1").fetchall()
        assert doubled == []


def judge(url: str, published: Path) -> int:
    """Compare every row and every state with a replay of the log; the number of records."""
    look(published)
    opened = open_log(url)
    replayer, records = Replayer(opened.log), 0
    with duckdb.connect(str(published), read_only=True) as connection:
        by_key: dict[tuple[int, str], list[Any]] = {}
        for partition in range(opened.log.partitions):
            end = opened.log.bounds(partition).end
            there = [record.offset for record in opened.log.read(partition, 0, end)]
            rows = connection.execute(
                "SELECT record_offset, stream_id, outcome, version, chain_head, decided_offset FROM events WHERE partition = ? "
                "ORDER BY record_offset",
                [partition],
            ).fetchall()
            assert [row[0] for row in rows] == there, f"partition {partition}"
            records += len(there)
            for offset, stream_id, *decided in rows:
                if stream_id is not None:
                    by_key.setdefault((partition, stream_id), []).append((offset, *decided))
        for (partition, stream_id), rows in by_key.items():
            assert replayer.reader.partition(stream_id) == partition
            entries = history(replayer, stream_id, opened.log.bounds(partition).end)
            expected = sorted(
                (
                    entry.offset,
                    entry.outcome,
                    entry.version,
                    entry.chain_head,
                    entry.effect_offset if entry.outcome != "open" else None,
                )
                for entry in entries
            )
            assert rows == expected, stream_id
            state = state_of(connection, stream_id)
            assert state is not None
            replayed = replayer.replay(stream_id, Latest())
            assert state_digest(state.to_dict()) == replayed.manifest.state_digest, stream_id
    opened.close()
    return records


if __name__ == "__main__":
    project(*sys.argv[1:])

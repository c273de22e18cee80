"""The views say what every other reader says: rows against the oracle's decisions, states against the oracle's states."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from ctxlog import ContextLog
from ctxlog.core.digests import state_digest
from ctxlog.core.evolve import Evolving
from ctxlog.core.partitioner import partition_of
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import MessageAppended
from ctxlog.model.records import EventRecord
from ctxlog.projection import columnar, packed, store, streams
from ctxlog.projection import projector as module
from ctxlog.projection.projector import Projector
from ctxlog.projection.states import state_of
from ctxlog.projection.streams import Residents, Stream, forget_texts
from unit.test_core_against_oracle import Play, plays


def project(play: Play, path: Path, dice: random.Random | None = None) -> Projector:
    """All of a log, record by record; with dice in any batches, column by column, with restarts, little memory and packed ids."""
    if dice is None:
        projector = Projector(play.log, path)
        projector.run_once()
        return projector
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columnar, "RECORDS_MIN", dice.choice((1, 1, 3, 1000)))
        patch.setattr(streams, "PACKED_MIN", dice.choice((0, 2, 2048)))
        patch.setattr(packed, "RECENT_MIN", dice.choice((0, 3)))
        patch.setattr(store, "CHECKPOINT_ROWS", dice.choice((1, 20, 100_000)))
        patch.setattr(module, "BATCH_RECORDS", dice.choice((1, 2, 7, 1000)))
        patch.setattr(module, "Residents", lambda: Residents(dice.choice((1, 30))))
        projector = Projector(play.log, path)
        ends = {partition: play.log.bounds(partition).end for partition in projector.partitions}
        while projector.step(ends):
            if dice.random() < 0.15:
                projector.close()
                projector = Projector(play.log, path)
            elif dice.random() < 0.1:
                projector.restart()
    return projector


def contents(projector: Projector) -> dict[str, list[Any]]:
    """Everything that people see, in an order of its own, without what depends on the clock."""
    connection = projector.store.connection
    names = ("events", "streams", "messages", "facts", "fact_history", "tool_calls", "decisions", "reads", "contexts", "agents")
    found = {name: sorted(map(repr, connection.execute(f"FROM {name}").fetchall())) for name in names}
    found["progress"] = sorted(
        connection.execute("SELECT * EXCLUDE (applied_at, end_offset) FROM projection.progress").fetchall()
    )
    return found


@settings(max_examples=12)
@given(play=plays(), seed=st.integers(0, 2**32))
def test_rows_and_states_are_those_of_the_oracle(play: Play, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("views")
    projector = project(play, folder / "views.duckdb", random.Random(seed))
    connection = projector.store.connection
    for stream_id, told in play.told.items():
        judged = oracle.arbitrate(stream_id, told)
        partition = partition_of(stream_id.encode(), play.log.partitions)
        rows = connection.execute(
            "SELECT record_offset, outcome, version, chain_head FROM events WHERE stream_id = ? AND partition = ?",
            [stream_id, partition],
        ).fetchall()
        found = {offset: (outcome.replace("open", "held"), version) for offset, outcome, version, _ in rows}
        assert found == judged.decisions
        assert {version: head for *_, version, head in rows if version} == dict(enumerate(judged.heads[1:], 1))
        state = state_of(connection, stream_id)
        assert state is not None
        expected, _ = oracle.fold(stream_id, judged.accepted)
        if expected["parent"] is None:
            assert state.to_dict() == expected
            assert state_digest(state.to_dict()) == oracle.state_digest(expected)
    projector.close()


def any_event(dice: random.Random) -> EventRecord:
    """An event about one of a few messages, calls and facts; most are in order."""
    event_id, call_id, key = dice.choice("abcdefgh"), dice.choice(("call-a", "call-b", "call-c")), dice.choice(("x", "y"))
    texts = {"content": "1", "parts": None, "name": None}
    times = dict.fromkeys(("valid_from", "valid_to", "expires_at"))
    kind, target, payload = dice.choice(
        (
            ("MessageAppended", None, {"role": "user", "tool_call_id": None, **texts}),
            ("MessageRedacted", f"message:{event_id}", {"message_id": event_id, "reason": None}),
            ("FactSet", f"fact:{key}", {"key": key, "value": "1", **times}),
            ("FactRemoved", f"fact:{key}", {"key": key}),
            (
                "ToolCalled",
                f"call:{call_id}",
                {
                    "call_id": call_id, "name": dice.choice("nm"), "arguments": dice.choice(("1", "2")), "source_id": None,
                    "message_id": dice.choice((None, None, "a", "b")), "idempotency_key": dice.choice((None, "k")),
                    "lease_expires_at": dice.choice((None, 1)),
                },
            ),
            ("ToolReturned", f"call:{call_id}", {"call_id": call_id, "failed": dice.random() < 0.5, **texts}),
            ("StreamClosed", None, {"reason": None}),
        )
    )  # fmt: skip
    target = "fact:z" if dice.random() < 0.05 else target
    meta = {"event_id": event_id, "agent_id": None, "scope": "default", "target": target, "occurred_at": None}
    return EventRecord(0, 0, 0, f"ctxlog.{kind}", meta, payload, b"", 0, True)


@given(seed=st.integers(0, 2**32), packed_min=st.sampled_from((0, 2, 2048)))
def test_a_shape_judges_every_event_as_the_whole_state_does(seed: int, packed_min: int) -> None:
    dice, state, stream = random.Random(seed), Evolving("s"), Stream("s", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "PACKED_MIN", packed_min)
        for version in range(2, 100):
            event = any_event(dice)
            said = state.take(version, event._replace(payload=dict(event.payload)))
            forget_texts(event)
            assert stream.evolving.take(version, event) == said
            stream.pack()


@settings(max_examples=12)
@given(play=plays(), seed=st.integers(0, 2**32))
def test_views_do_not_depend_on_batches_restarts_and_memory(
    play: Play, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("views")
    whole, pieces = project(play, folder / "a.duckdb"), project(play, folder / "b.duckdb", random.Random(seed))
    assert contents(whole) == contents(pieces)
    whole.close()
    pieces.close()


def test_rows_are_brought_into_the_file_when_there_are_enough_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    context = ContextLog(log).context("a/1")
    monkeypatch.setattr(store, "CHECKPOINT_ROWS", 20)
    projector = Projector(log, tmp_path / "views.duckdb")
    waiting = []
    for _ in range(5):
        context.append_each([(MessageAppended(role="user", content="1"), {})] * 8)
        projector.run_once()
        wal = tmp_path / "views.duckdb.wal"
        waiting.append(wal.exists() and wal.stat().st_size > 0)
    projector.close()
    assert waiting == [True, True, False, True, True]


def test_streams_of_a_batch_stay_in_memory_and_others_make_room():
    def stream(number, ids):
        found = Stream(f"s/{number}", 0)
        found.arbiter.decided = dict.fromkeys(map(str, range(ids)), 1)
        return found

    kept = Residents(100)
    kept.put([stream(1, 90), stream(2, 5)])
    kept.put([stream(3, 60), stream(4, 60)])
    assert [kept.get(0, f"s/{number}") is not None for number in (1, 2, 3, 4)] == [False, False, True, True]
    kept.put([stream(3, 10)])
    assert [kept.get(0, f"s/{number}") is not None for number in (3, 4)] == [True, True]

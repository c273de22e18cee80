"""What the macros say of any version is what a replay says, of forks too; and what cannot be known is an error."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from ctxlog import ContextLog
from ctxlog.errors import LineageError
from ctxlog.importers import import_path
from ctxlog.log.memory import MemoryLog
from ctxlog.model.points import AtTime, AtVersion
from ctxlog.model.records import NewRecord
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish as publish_views
from ctxlog.projection.states import state_at, state_of
from ctxlog.replay.replayer import LINEAGE_MAX, Replayer
from unit.lineages import STREAMS, forked_play, version_of
from unit.test_core_against_oracle import Play, plays
from writing import group, publish, raw

DATA = Path(__file__).parents[3] / "shared" / "data"


def check_every_version(connection: duckdb.DuckDBPyConnection, replayer: Replayer, stream_id: str, versions: int) -> None:
    for version in range(versions + 1):
        try:
            expected = replayer.replay(stream_id, AtVersion(version)).state
        except LineageError:
            with pytest.raises(duckdb.InvalidInputException, match="fork"):
                state_at(connection, stream_id, version)
            continue
        assert state_at(connection, stream_id, version).to_dict() == expected.to_dict(), f"{stream_id}@{version}"


@settings(max_examples=8)
@given(play=plays())
def test_states_by_the_macros_are_those_of_a_replay_at_every_version(
    play: Play, tmp_path_factory: pytest.TempPathFactory
) -> None:
    projector = Projector(play.log, tmp_path_factory.mktemp("views") / "views.duckdb")
    projector.run_once()
    replayer = Replayer(play.log)
    for stream_id, told in play.told.items():
        check_every_version(projector.store.connection, replayer, stream_id, len(oracle.arbitrate(stream_id, told).accepted))
    projector.close()


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32))
def test_forks_that_collide_with_what_they_inherit_are_composed_as_a_replay_does(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Calls taken over from the parent, answered twice, message ids that come again, redactions of what was inherited."""
    play = forked_play(seed, 12)
    projector = Projector(play.log, tmp_path_factory.mktemp("views") / "views.duckdb")
    projector.run_once()
    replayer = Replayer(play.log)
    for stream_id in STREAMS:
        check_every_version(projector.store.connection, replayer, stream_id, version_of(play, stream_id))
    projector.close()


def call(call_id: str = "x", key: str | None = "k", **members: Any) -> tuple[str, dict[str, Any]]:
    return "ToolCalled", {"call_id": call_id, "idempotency_key": key, **members}


def result(event_id: str, call_id: str = "x", **members: Any) -> tuple[str, dict[str, Any]]:
    return "ToolReturned", {"event_id": event_id, "call_id": call_id, "content": event_id, **members}


def message(event_id: str) -> tuple[str, dict[str, Any]]:
    return "MessageAppended", {"event_id": event_id, "content": event_id}


def redaction(message_id: str) -> tuple[str, dict[str, Any]]:
    return "MessageRedacted", {"message_id": message_id}


FAILED = [call(), result("r", failed=True)]

COLLISIONS: dict[str, tuple[list[Any], ...]] = {
    "a result whose id the parent has used": ([message("m"), call()], [result("m"), result("r")]),
    "a result of an own call whose id the parent has used": ([message("m")], [call(), result("m"), result("r")]),
    "a result whose id another result has": ([call(), call("y")], [result("r"), result("s", "y"), redaction("r")]),
    "a result whose id one level above has": ([call(), call("y")], [result("r")], [result("r", "y"), result("s", "y")]),
    "a result that the parent's call had": ([call(), result("r")], [result("r"), message("r"), result("s")]),
    "a message whose id the parent has used": ([message("m")], [message("m"), redaction("m"), redaction("m")]),
    "a redaction before its message": ([message("n")], [redaction("m"), message("m"), redaction("n")]),
    "a failed call that is taken over": (FAILED, [result("s"), call(), result("t"), call()]),
    "a call that only looks new": (FAILED, [call(key="other"), result("s"), call(), result("t")]),
    "a call with other arguments": (FAILED, [call(arguments="[]"), result("s"), call(name="g"), result("t")]),
    "a call without a key": ([call(key=None)], [call(key=None), result("r"), result("s")]),
    "a call that the parent's message asks for": ([message("m")], [call(message_id="m"), result("r")]),
    "a call that the parent's result asks for": ([call(), result("r")], [call("y", message_id="r"), result("s", "y")]),
    "a call that an own result asks for": ([call()], [result("r"), call("y", message_id="r"), result("s", "y")]),
    "a call asked for by a result that does not count": (
        FAILED,
        [call(key="other"), result("s"), call("y", message_id="s"), result("t", "y")],
    ),
    "a redacted result of a call that is taken over": (FAILED, [redaction("r"), call(), result("s"), redaction("s")]),
    "a fact that is removed twice and set again": (
        [("FactSet", {"value": "1"})],
        [("FactRemoved", {}), ("FactRemoved", {}), ("FactSet", {"value": "2"}), ("FactRemoved", {})],
    ),
}
"""What the parent holds, what its fork does, and what the fork of that does; the same where not given."""


@pytest.mark.parametrize("name", COLLISIONS)
def test_what_a_fork_does_to_what_it_inherited_is_judged_as_a_replay_does(memory: ContextLog, tmp_path: Path, name: str) -> None:
    inherited, own, *more = COLLISIONS[name]
    publish(memory.log)

    def send(stream_id: str, events: list[Any]) -> None:
        for number, (kind, members) in enumerate(events):
            memory.log.append([raw(memory.log, stream_id, kind, **{"event_id": f"{stream_id}{number}", **members})])

    send("p", inherited)
    memory.context("p").fork("q")
    send("q", own)
    memory.context("q").fork("r")
    send("r", *(more or [own]))
    with projected(memory, tmp_path) as connection:
        for stream_id in ("p", "q", "r"):
            check_every_version(connection, Replayer(memory.log), stream_id, memory.context(stream_id).version)


@pytest.fixture
def memory() -> ContextLog:
    """A log of three partitions, so that parent and fork lie apart."""
    return ContextLog(MemoryLog(3))


@contextmanager
def projected(log: ContextLog, path: Path, partitions: list[int] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    projector = Projector(log.log, path / "views.duckdb", partitions)
    projector.run_once()
    yield projector.store.connection
    projector.close()


def refused(connection: duckdb.DuckDBPyConnection, stream_id: str, version: int) -> str:
    """What every macro says, whatever is asked of its answer."""
    said = set()
    for macro in ("messages_at", "facts_at", "tool_calls_at"):
        for question in (
            "FROM {}",
            "SELECT count(*) FROM {}",
            "SELECT scope FROM {} WHERE scope = 'default'",
            "SELECT 1 FROM {} LIMIT 1",
            "SELECT max(version) FROM {} WHERE version IS NULL",
            "SELECT count(*) FROM streams s, {} m WHERE s.stream_id = m.stream_id",
        ):
            with pytest.raises(duckdb.InvalidInputException) as caught:
                connection.execute(question.format(f"{macro}('{stream_id}', {version})")).fetchall()
            said.add(str(caught.value).splitlines()[0])
    (message,) = said
    return message


def test_a_version_that_is_not_there_is_an_error_and_the_time_before_a_stream_is_empty(
    memory: ContextLog, tmp_path: Path
) -> None:
    memory.context("a").add_message("user", "hi")
    with projected(memory, tmp_path) as connection:
        assert "stream a is at version 1 in these views; there is no version 2" in refused(connection, "a", 2)
        assert "no version -1" in refused(connection, "a", -1)
        assert "stream b is at version 0" in refused(connection, "b", 1)
        assert connection.execute("FROM messages_at('a', 0)").fetchall() == []
        assert connection.execute("FROM messages_at('b', 0)").fetchall() == []


def test_a_fork_of_what_is_not_projected_is_an_error_and_no_half_answer(memory: ContextLog, tmp_path: Path) -> None:
    parent, fork = streams_apart(memory)
    memory.context(parent).add_message("user", "one")
    memory.context(parent).fork(fork)
    with projected(memory, tmp_path, [memory.replayer.reader.partition(fork)]) as connection:
        assert f"goes on from, {parent}, is at version 0 in these views, before version 1" in refused(connection, fork, 1)
        assert connection.execute(f"FROM messages_at('{fork}', 0)").fetchall() == []


def test_a_fork_whose_parent_is_not_what_it_says_is_an_error(memory: ContextLog, tmp_path: Path) -> None:
    memory.context("p").add_message("user", "one")
    publish(memory.log)
    members = {"parent_version": 1, "parent_chain_head": "00" * 32}
    memory.log.append([raw(memory.log, "q", "StreamForked", "f", parent_stream_id="p", **members)])
    memory.log.append([raw(memory.log, "r", "StreamForked", "f", parent_stream_id="r", **members)])
    zero = {"parent_version": 0, "parent_chain_head": "00" * 32}
    memory.log.append([raw(memory.log, "s", "StreamForked", "f", parent_stream_id="nobody", **zero)])
    with projected(memory, tmp_path) as connection:
        assert "another chain head at version 1" in refused(connection, "q", 1)
        assert "cycle at stream r" in refused(connection, "r", 1)
        assert "another chain head at version 0" in refused(connection, "s", 1)


def test_as_many_levels_are_composed_as_by_a_replay(memory: ContextLog, tmp_path: Path) -> None:
    """65 forks of forks: the last one is refused, and the one before it holds all messages."""
    publish(memory.log)
    memory.context("0").add_message("user", "0")
    for level in range(1, LINEAGE_MAX + 2):
        head = memory.context(str(level - 1)).chain_head
        said = {"parent_stream_id": str(level - 1), "parent_version": 1 if level == 1 else 2, "parent_chain_head": head}
        memory.log.append([raw(memory.log, str(level), "StreamForked", "f", **said)])
        memory.log.append([raw(memory.log, str(level), "MessageAppended", f"m{level}", content=str(level))])
    with projected(memory, tmp_path) as connection:
        last = memory.context(str(LINEAGE_MAX)).replay().state
        assert len(last.messages) == LINEAGE_MAX + 1
        assert state_at(connection, str(LINEAGE_MAX), 2) == last
        with pytest.raises(LineageError):
            memory.context(str(LINEAGE_MAX + 1)).replay()
        assert "deeper than 64 levels" in refused(connection, str(LINEAGE_MAX + 1), 2)


def test_a_text_is_there_until_the_version_that_redacts_it(memory: ContextLog, tmp_path: Path) -> None:
    context = memory.context("p")
    context.add_message("user", "secret", event_ids=["m"])
    context.fork("q").add_message("user", "later")
    context.redact_message("m")
    with projected(memory, tmp_path) as connection:
        asked = "SELECT content FROM messages_at(?, ?) WHERE message_id = 'm'"
        found = [connection.execute(asked, place).fetchall() for place in (["p", 1], ["p", 2], ["q", 2])]
        assert found == [[("secret",)], [(None,)], [("secret",)]]


def test_facts_are_judged_at_an_instant_by_the_end_that_is_left_out(memory: ContextLog, tmp_path: Path) -> None:
    """From `valid_from` on, up to and without `valid_to` and `expires_at`: as selections judge expiry."""
    publish(memory.log)
    times = {"valid": {"valid_from": 10, "valid_to": 20}, "expires": {"expires_at": 15}, "always": {}}
    memory.log.append([raw(memory.log, "a", "FactSet", key, key=key, **said) for key, said in times.items()])
    with projected(memory, tmp_path) as connection:
        for instant, expected in (
            (9, ["always", "expires"]), (10, ["always", "expires", "valid"]), (14, ["always", "expires", "valid"]),
            (15, ["always", "valid"]), (19, ["always", "valid"]), (20, ["always"]),
        ):  # fmt: skip
            for at in (f"make_timestamp({instant})", f"TIMESTAMPTZ '1970-01-01 02:00:00.0000{instant:02}+02'"):
                found = connection.execute(f"SELECT key FROM facts_valid_at('a', 3, {at}) ORDER BY key").fetchall()
                assert found == [(key,) for key in expected]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_the_version_at_an_instant_is_that_of_a_replay(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Records that wait for the rest of their append, and records that do not count, move the end as others do."""
    dice = random.Random(seed)
    now = 0

    def clock() -> int:
        nonlocal now
        now += dice.choice((0, 0, 1, 3))
        return now

    log = MemoryLog(dice.choice((1, 2)), clock=clock)
    publish(log)
    for number in range(12):
        stream_id = dice.choice(("a", "b"))
        if dice.random() < 0.5:
            log.append([raw(log, stream_id, "FactSet", f"e{number}")])
            continue
        members = [raw(log, stream_id, "FactSet", f"e{number}", append=group(f"e{number}", 0, 2))]
        members.append(raw(log, stream_id, "FactSet", f"f{number}", append=group(f"e{number}", 1, 2)))
        dice.shuffle(members)
        for member in members:
            log.append([member])
            if dice.random() < 0.3:
                log.append([raw(log, stream_id, "FactSet", "e0")])  # a duplicate, or the first
            if dice.random() < 0.2:
                log.append([NewRecord(member.partition, member.key, b"no event")])
    replayer = Replayer(log)
    with projected(ContextLog(log), tmp_path_factory.mktemp("views")) as connection:
        for instant in range(-1, now + 2):
            found = dict(
                connection.execute(
                    "SELECT s, version_at(s, make_timestamp(?)) FROM (VALUES ('a'), ('b'), ('c')) t(s)", [instant * 1000]
                ).fetchall()
            )
            expected = {s: replayer.replay(s, AtTime(instant * 1000)).state.version for s in ("a", "b", "c")}
            assert found == expected


def streams_apart(log: ContextLog) -> tuple[str, str]:
    """Names of two streams that lie in different partitions."""
    names = [f"s{number}" for number in range(20)]
    partition = log.replayer.reader.partition
    return next((a, b) for a in names for b in names if partition(a) != partition(b))


def test_views_and_macros_work_in_a_file_that_is_opened_or_attached(memory: ContextLog, tmp_path: Path) -> None:
    """Attached, views work by the name of the file; macros are looked up where `USE` says, as DuckDB has it."""
    memory.context("p").add_message("user", "one")
    memory.context("p").fork("q").add_message("user", "two")
    projector = Projector(memory.log, tmp_path / ".current.duckdb")
    projector.run_once()
    publish_views(projector.store, tmp_path / "current.duckdb")
    projector.close()
    path = str(tmp_path / "current.duckdb")
    asked = "SELECT content FROM messages_at('q', 2) ORDER BY position"
    names = ("messages", "facts", "fact_history", "tool_calls", "decisions", "reads", "contexts", "agents", "coverage", "streams")
    with duckdb.connect(path, read_only=True) as opened:
        assert opened.execute(asked).fetchall() == [("one",), ("two",)]
        here = {name: opened.execute(f"SELECT count(*) FROM {name}").fetchall() for name in names}
    with duckdb.connect() as attached:
        attached.execute(f"ATTACH '{path}' AS views (READ_ONLY)")
        assert {name: attached.execute(f"SELECT count(*) FROM views.{name}").fetchall() for name in names} == here
        with pytest.raises(duckdb.CatalogException):
            attached.execute("FROM views.messages_at('q', 2)")
        attached.execute("USE views")
        assert attached.execute(asked).fetchall() == [("one",), ("two",)]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"recorded runs are not at {DATA}")
def test_states_of_recorded_runs_are_those_of_a_replay(log: ContextLog, tmp_path: Path) -> None:
    report = import_path(log, [DATA / "tau-bench", DATA / "mini-swe-agent"])
    dice = random.Random(7)
    for number, stream_id in enumerate(dice.sample(sorted(report.streams), 8)):
        fork = log.context(stream_id).fork(f"fork/{number}", at=dice.randint(1, log.context(stream_id).version))
        for call_id, call in fork.state.tool_calls.items():
            if call.status == "open":
                fork.add_tool_result(call_id, "from the fork")
        fork.redact_message(dice.choice(fork.state.messages).id)
    replayer = Replayer(log.log)
    with projected(log, tmp_path) as connection:
        for stream_id in log.matching():
            expected = replayer.replay(stream_id, AtVersion(log.context(stream_id).version)).state
            if expected.parent is None:
                assert state_of(connection, stream_id) == expected
            if expected.parent is not None or dice.random() < 0.1:
                for version in {expected.version, dice.randint(1, expected.version)}:
                    assert state_at(connection, stream_id, version) == replayer.replay(stream_id, AtVersion(version)).state

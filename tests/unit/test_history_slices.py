"""Slices of a history: what the whole history tells between two points, read from a snapshot on where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxlog import ContextLog
from ctxlog.errors import IntegrityError, InvalidInputError, PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.points import AtOffset, AtTime, AtVersion, Latest, Point
from ctxlog.model.records import Record
from ctxlog.replay.history import Entry, Historian, history
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore
from unit.test_core_against_oracle import Play, plays
from writing import Wrapped


def naive(log: MemoryLog, stream_id: str, whole: list[Entry], point: Point) -> list[bool]:
    """Of each entry, whether it was decided up to the point; by the definition, from the whole history."""
    end = 2**62
    match point:
        case AtVersion(version):
            at = [number for number, entry in enumerate(whole) if entry.version == version]
            return [number <= (at[0] if at else -1) for number in range(len(whole))]
        case AtOffset(offset):
            end = offset + 1
        case AtTime(instant):
            partition = Replayer(log).reader.partition(stream_id)
            records = log.read(partition, 0, 2**62, key=stream_id.encode())
            end = next((record.offset for record in records if record.recorded_at * 1000 > instant), end)
    return [entry.effect_offset < end and entry.outcome != "open" for entry in whole]


@settings(max_examples=60)
@given(play=plays(), data=st.data())
def test_a_slice_is_what_the_whole_history_tells_between_two_points(
    play: Play, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = play.log
    for records in log._records:
        records[:] = [record._replace(recorded_at=record.offset // 4) for record in records]
    store = SnapshotStore(tmp_path_factory.mktemp("snapshots") / "cache.sqlite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 3)
        for stream_id in play.told:
            replayer = Replayer(log, store)
            end = replayer.end(stream_id)
            replayer.advance(replayer.open(stream_id, end=end), end)  # Leaves snapshots behind.
            whole = list(history(Replayer(log), stream_id, end))
            versions = max((entry.version or 0 for entry in whole), default=0)
            points = st.one_of(
                st.builds(AtVersion, st.integers(0, versions)),
                st.builds(AtOffset, st.integers(0, end - 1)),
                st.builds(AtTime, st.integers(-1, end // 4 + 1).map(lambda ms: ms * 1000)),
                st.just(Latest()),
            )
            for _ in range(8):
                since, until = data.draw(st.none() | points), data.draw(st.none() | points)
                last = data.draw(st.none() | st.integers(0, 12))
                expected = whole
                if until is not None:
                    upto = naive(log, stream_id, whole, until)
                    expected = [entry for entry, inside in zip(whole, upto, strict=True) if inside]
                if since is not None:
                    before = naive(log, stream_id, whole, since)
                    outside = [entry for entry, inside in zip(whole, before, strict=True) if inside]
                    expected = [entry for entry in expected if entry not in outside]
                if last is not None:
                    expected = expected[len(expected) - min(len(expected), last) :]
                found = list(history(replayer, stream_id, end, since=since, until=until, last=last))
                assert found == expected, (since, until, last)


class Counting(Wrapped):
    """Notes which offsets of a stream were read."""

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Iterator[Record]:
        for record in super().read(partition, start, end, key=key):
            if key == b"s":
                self.read_offsets.append(record.offset)
            yield record

    read_offsets: list[int]


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContextLog]:
    """A log with a stream of 400 events and snapshots every 20, which counts what is read."""
    monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 20)
    backend = Counting(MemoryLog())
    backend.read_offsets = []
    store = SnapshotStore(tmp_path / "cache.sqlite")
    log = ContextLog(backend, store)
    log.context("s").append_each([(_fact(number), {}) for number in range(400)])
    log.context("s").replay()
    backend.read_offsets.clear()
    yield log
    store.close()


def _fact(number: int) -> object:
    from ctxlog.model.events import FactSet

    return FactSet(key=f"k{number % 7}", value=str(number))


@pytest.mark.parametrize(
    ("asked", "versions"),
    [
        ({"since": 350, "until": 360}, range(351, 361)),
        ({"last": 5}, range(396, 401)),
        ({"until": 200, "last": 5}, range(196, 201)),
        ({"since": 390}, range(391, 401)),
    ],
    ids=["between two versions", "the last", "the last up to a version", "since a version"],
)
def test_a_slice_is_read_from_the_snapshot_before_it_and_not_from_the_beginning(
    counting: ContextLog, asked: dict[str, int], versions: range
) -> None:
    assert [entry.version for entry in counting.context("s").history(**asked)] == list(versions)
    assert len(counting.log.read_offsets) < 60


def test_a_slice_is_read_as_it_is_asked_for(counting: ContextLog) -> None:
    entries = counting.context("s").history(since=100)
    assert [next(entries).version, next(entries).version] == [101, 102]
    assert len(counting.log.read_offsets) < 60


def test_points_are_those_of_a_replay(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    ids = [ctx.set_fact("limit", number, occurred_at=1_000_000 * number).event_id for number in range(5)]
    with log.decision("refund", agent="refunds") as decision:
        ctx.state  # noqa: B018
    ctx.set_fact("limit", 9, occurred_at=None)

    def told(**asked: object) -> list[int | None]:
        return [entry.version for entry in ctx.history(**asked)]  # type: ignore[arg-type]

    assert told(since=f"event:{ids[1]}", until="version:4") == [3, 4]
    assert told(since="occurred:1970-01-01T00:00:02Z") == [4, 5, 6]
    assert told(since=f"decision:{decision.id}") == [6]
    assert told(until=f"decision:{decision.id}", last=2) == [4, 5]
    assert told(since=AtVersion(5)) == [6]
    assert told(since="latest") == []
    assert told(since="3", until="3") == told(since=5, until=2) == told(last=0) == []


def test_a_point_that_is_not_there_is_an_error_and_not_an_empty_answer(log: ContextLog) -> None:
    ctx = log.context("refunds/1")
    ctx.set_fact("limit", 1)
    for asked in ({"since": 2}, {"until": 2}, {"since": 1, "until": 7}):
        with pytest.raises(PointError, match="is at version 1; there is no version"):
            list(ctx.history(**asked))
    for asked in ({"since": "event:none"}, {"until": "offset:99999"}, {"since": "tomorrow"}, {"since": -1}):
        with pytest.raises(PointError):
            ctx.history(**asked)  # Before anything is told.
    for last in (-1, 1.5, True, "5"):
        with pytest.raises(InvalidInputError, match="last: expected a whole number"):
            ctx.history(last=last)  # type: ignore[arg-type]


def test_a_cut_of_another_history_is_refused(log: ContextLog, tmp_path: Path) -> None:
    import json

    ctx = log.context("refunds/1")
    for number in range(3):
        ctx.set_fact("limit", number)
    cut = log.cut(at=2).to_dict()
    file = tmp_path / "cut.json"
    file.write_text(json.dumps(cut))
    assert [entry.version for entry in ctx.history(since=f"cut:{file}")] == [3]
    file.write_text(json.dumps(cut | {"chain_heads": {"refunds/1": "ab" * 32}}))
    with pytest.raises(IntegrityError, match="not what it was"):
        list(ctx.history(since=f"cut:{file}"))


def test_a_slice_that_follows_goes_on_and_one_that_has_an_end_is_over() -> None:
    log = ContextLog(MemoryLog())
    ctx = log.context("s")
    for number in range(3):
        ctx.set_fact("limit", number)
    follows = Historian(log.replayer, "s", since=AtVersion(2))
    ends = Historian(log.replayer, "s", until=AtVersion(2))
    for historian, versions in ((follows, [3]), (ends, [1, 2])):
        assert [entry.version for entry in historian.read_on(log.log.bounds(0).end)] == versions
    for number in range(3):
        ctx.set_fact("limit", number)
    for historian, versions in ((follows, [4, 5, 6]), (ends, [])):
        assert [entry.version for entry in historian.read_on(log.log.bounds(0).end)] == versions

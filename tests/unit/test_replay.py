"""Replay at every kind of point: the end is fixed first, nothing is folded in silence that should not be, and the manifest says
what anyone needs to check the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ctxlog import Context, ContextLog
from ctxlog.core.digests import chain_start, state_digest
from ctxlog.errors import BelowHorizonError, NewerEventError, PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import Bounds
from ctxlog.model.events import FactSet
from ctxlog.model.points import AtVersion, Latest
from ctxlog.replay.replayer import Replayer
from writing import Wrapped, foreign, group, publish, raw

T0 = 1_760_000_000_000
"""Milliseconds of the first record; each further append comes a second later."""


class Ticking:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture(params=[(1, 1), (3, 1), (1, 7), (3, 7)], ids=lambda param: f"{param[0]} partitions, step {param[1]}")
def log(request: pytest.FixtureRequest, clock: Ticking) -> ContextLog:
    """Logs whose offsets have gaps answer as those without."""
    partitions, step = request.param
    backend = MemoryLog(partitions, clock=clock, offset_step=step)
    publish(backend)
    return ContextLog(backend)


def filled(log: ContextLog, clock: Ticking, stream_id: str = "a/b", count: int = 5) -> Context:
    """A stream whose n-th message is `n`, written n seconds after T0, and said to have occurred at n * 10 µs."""
    context = log.context(stream_id)
    for number in range(1, count + 1):
        clock.now = T0 + number * 1000
        context.add_message("user", str(number), occurred_at=number * 10, event_ids=[f"{stream_id}-{number}"])
    return context


def iso(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).strftime('%Y-%m-%dT%H:%M:%S')}.{rest:03d}Z"


def texts(context: Context, at: str | int) -> list[str | None]:
    return [message.content for message in context.replay(at).state.messages]


UP_TO_3: list[Callable[[Context], str | int]] = [
    lambda context: 3,
    lambda context: "3",
    lambda context: "version:3",
    lambda context: f"offset:{context.replay(3).manifest.position.offset}",  # type: ignore[union-attr]
    lambda context: f"time:{iso(T0 + 3000)}",
    lambda context: f"time:{iso(T0 + 3999)}",
    lambda context: "occurred:1970-01-01T00:00:00.000030Z",
    lambda context: "occurred:1970-01-01T00:00:00.000039Z",
    lambda context: f"event:{context.stream_id}-3",
]


@pytest.mark.parametrize("point", UP_TO_3, ids=[str(number) for number in range(len(UP_TO_3))])
def test_every_kind_of_point_names_the_same_state(log: ContextLog, clock: Ticking, point: Callable[[Context], str | int]) -> None:
    context = filled(log, clock)
    filled(log, clock, "other")
    replay = context.replay(point(context))
    assert [message.content for message in replay.state.messages] == ["1", "2", "3"]
    assert replay.state == context.replay(3).state
    assert replay.manifest.position == context.replay(3).manifest.position


def test_a_time_is_up_to_the_first_later_record_and_not_one_more(log: ContextLog, clock: Ticking) -> None:
    context = filled(log, clock)
    found = [len(texts(context, f"time:{iso(T0 + ms)}")) for ms in (-1, 0, 999, 1000, 1001, 4999, 5000, 9999)]
    assert found == [0, 0, 0, 1, 1, 4, 5, 5]


def test_a_time_is_compared_in_microseconds(log: ContextLog, clock: Ticking) -> None:
    """A millisecond of the log is its beginning: one microsecond before it is before the record."""
    context = filled(log, clock)
    assert len(texts(context, f"time:{iso(T0 + 2999)[:-1]}999Z")) == 2
    assert len(texts(context, f"time:{iso(T0 + 3000)[:-1]}001Z")) == 3


def test_the_writers_clock_names_the_last_event_that_is_not_later_whatever_its_order(log: ContextLog) -> None:
    context = log.context("a/b")
    for occurred in (10, 40, None, 20, 30):
        context.add_message("user", str(occurred), occurred_at=occurred)
    at = {us: len(texts(context, f"occurred:1970-01-01T00:00:00.0000{us}Z")) for us in (10, 15, 20, 29, 30, 39, 40)}
    assert at == {10: 1, 15: 1, 20: 4, 29: 4, 30: 5, 39: 5, 40: 5}
    assert texts(context, "occurred:1969-01-01") == []


def test_an_answer_is_provisional_while_nothing_in_its_partition_is_later(log: ContextLog, clock: Ticking) -> None:
    context = filled(log, clock)
    assert context.replay(f"time:{iso(T0 + 4999)}").manifest.provisional is False
    assert context.replay(f"time:{iso(T0 + 5000)}").manifest.provisional is True
    assert context.replay().manifest.provisional is False
    assert context.replay("occurred:2100-01-01").manifest.provisional is False
    clock.now = T0 + 6000
    publish_again = raw(log.log, "a/b", "FactSet", "later")
    log.log.append([publish_again])
    assert context.replay(f"time:{iso(T0 + 5000)}").manifest.provisional is False


def test_before_the_first_event_is_the_empty_context(log: ContextLog, clock: Ticking) -> None:
    """Asking too early is a question with an answer, not an error."""
    context = filled(log, clock)
    for point in (0, "version:0", "offset:0", "time:2001-01-01", "occurred:1969-01-01"):
        replay = context.replay(point)
        assert (replay.state.version, replay.state.messages, replay.state.parent) == (0, (), None)
        assert (replay.manifest.position, replay.manifest.recorded_at) == (None, None)
        assert replay.manifest.chain_head == hashlib.sha256(b"ctxlog:chain:1a/b").hexdigest()


def test_a_stream_that_does_not_exist_is_empty(log: ContextLog) -> None:
    assert log.context("nobody").replay().state.version == 0
    assert log.context("nobody").replay("offset:0").state.chain_head == chain_start("nobody").hex()


@pytest.mark.parametrize(
    "point", ["version:6", "offset:9999", "event:no-such", "decision:no-such", "cut:/no/such/file", "nonsense"]
)
def test_a_point_that_is_not_there_is_a_typed_error(log: ContextLog, clock: Ticking, point: str) -> None:
    context = filled(log, clock)
    with pytest.raises(PointError):
        context.replay(point)


def test_an_offset_between_two_records_is_through_the_one_before(log: ContextLog, clock: Ticking) -> None:
    context = filled(log, clock)
    first, second = (context.replay(version).manifest.position.offset for version in (2, 3))  # type: ignore[union-attr]
    for offset in range(first, second):
        assert context.replay(f"offset:{offset}").state.version == 2


def test_an_event_that_was_rejected_is_no_point(log: ContextLog) -> None:
    log.log.append([raw(log.log, "a/b", "FactSet", "g", append=group("g", 0, 2))])
    with pytest.raises(PointError, match="no accepted event"):
        log.context("a/b").replay("event:g")


def test_a_version_inside_a_group_is_a_version(log: ContextLog) -> None:
    """The group's position is that of its completing record, at each of its versions."""
    context = log.context("a/b")
    done = context.append([FactSet(key=key, value="1") for key in "abc"])
    for version in (1, 2, 3):
        replay = context.replay(version)
        assert sorted(replay.state.facts) == list("abc")[:version]
        assert replay.manifest.position == done.position
    assert context.replay(f"event:{done.event_ids[1]}").state.version == 2


def test_a_group_counts_from_the_record_that_completes_it(log: ContextLog, clock: Ticking) -> None:
    clock.now = T0 + 1000
    log.log.append([raw(log.log, "a/b", "FactSet", "g", append=group("g", 0, 2))])
    clock.now = T0 + 2000
    log.context("a/b").set_fact("between", 1)
    clock.now = T0 + 3000
    log.log.append([raw(log.log, "a/b", "FactSet", "g2", key="k2", append=group("g", 1, 2))])
    context = log.context("a/b")
    assert sorted(context.replay(f"time:{iso(T0 + 2999)}").state.facts) == ["between"]
    assert sorted(context.replay(f"time:{iso(T0 + 3000)}").state.facts) == ["between", "k", "k2"]
    assert context.replay(1).state.facts.keys() == {"between"}
    assert context.replay(3).manifest.recorded_at == T0 + 3000


def test_the_manifest_says_what_is_needed_to_check_the_answer(log: ContextLog, clock: Ticking) -> None:
    context = filled(log, clock)
    replay = context.replay(f"time:{iso(T0 + 3000)}")
    manifest = replay.manifest.to_dict()
    assert manifest["log_id"] == log.log.log_id
    assert (manifest["stream_id"], manifest["version"]) == ("a/b", 3)
    assert manifest["at"] == f"time:{iso(T0 + 3000).replace('.000', '')}"
    assert manifest["recorded_at"] == T0 + 3000
    assert manifest["state_digest"] == state_digest(replay.state.to_dict())
    assert manifest["chain_head"] == replay.state.chain_head
    assert (manifest["rules"], manifest["fold_version"], manifest["started_from"]) == (1, 1, 0)
    assert len(manifest["schema_digests"]) == 11
    assert set(manifest["position"]) == {"partition", "offset"}
    clocks = {point: context.replay(point).manifest.clock for point in ("latest", "time:2001-01-01", "occurred:2001-01-01")}
    assert clocks == {"latest": None, "time:2001-01-01": "log", "occurred:2001-01-01": "writer"}


def test_the_chain_head_ties_the_accepted_events_together(log: ContextLog, clock: Ticking) -> None:
    context = filled(log, clock)
    head = hashlib.sha256(b"ctxlog:chain:1" + b"a/b").digest()
    for accepted in context.accepted():
        head = hashlib.sha256(head + accepted.event.digest).digest()
        assert context.replay(accepted.version).manifest.chain_head == head.hex()


# What cannot be folded


def newer(log: ContextLog) -> Context:
    context = log.context("a/b")
    context.set_fact("k", 1)
    context.set_fact("k", 2)
    log.log.append(foreign(log.log, "a/b", "ctxlog.FromTheFuture", "new"))
    context.set_fact("k", 3)
    return context


def test_an_event_of_a_newer_release_stops_states_from_its_version_on(log: ContextLog) -> None:
    context = newer(log)
    for point in ("latest", 3, 4, "event:new", "time:2100-01-01"):
        with pytest.raises(NewerEventError) as caught:
            context.replay(point)
        assert (caught.value.version, caught.value.type_name) == (3, "ctxlog.FromTheFuture")
    with pytest.raises(NewerEventError):
        _ = context.state
    assert [context.replay(version).state.version for version in range(3)] == [0, 1, 2]
    assert context.replay(2).state.facts["k"].value == "2"


def test_a_stream_with_an_event_of_a_newer_release_can_be_written_and_told(log: ContextLog) -> None:
    """Arbitration reads no payload: versions, heads and outcomes need no newer release."""
    context = newer(log)
    assert context.version == 4
    assert context.set_fact("k", 4, expected_version=4).version == 5  # type: ignore[union-attr]
    assert [entry.outcome for entry in context.history()] == ["accepted"] * 5
    assert next(log.streams()).version == 5


def test_an_event_outside_the_namespace_is_accepted_without_effect(log: ContextLog) -> None:
    log.log.append(foreign(log.log, "a/b", "org.example.Note", "n"))
    replay = log.context("a/b").replay()
    assert (replay.state.version, replay.state.messages, replay.anomalies) == (1, (), ())


class Forgets(Wrapped):
    """A partition that lost its first records."""

    def bounds(self, partition: int) -> Bounds:
        return self.inner.bounds(partition)._replace(first=3)


def test_a_partition_that_lost_its_beginning_is_never_folded(log: ContextLog, clock: Ticking) -> None:
    """A suffix folds without any error to a state that never was."""
    filled(log, clock)
    with pytest.raises(BelowHorizonError):
        ContextLog(Forgets(log.log))
    replayer = Replayer(log.log)
    replayer.log = replayer.reader.log = Forgets(log.log)
    with pytest.raises(BelowHorizonError) as caught:
        replayer.replay("a/b", Latest())
    assert caught.value.first == 3


class Grows(Wrapped):
    """Appends behind the reader's back whenever it reads."""

    number = 0

    def read(self, partition: int, start: int, end: int, *, key: bytes | None = None) -> Any:
        for record in self.inner.read(partition, start, end, key=key):
            if key == b"a/b":
                self.number += 1
                self.inner.append([raw(self.inner, "a/b", "FactSet", f"new-{self.number}")])
            yield record


def test_the_end_is_fixed_before_reading_begins(log: ContextLog, clock: Ticking) -> None:
    """Otherwise a replay of a log that is written all the time would never end."""
    filled(log, clock)
    growing = Grows(log.log)
    assert Replayer(growing).replay("a/b", Latest()).state.version == 5
    assert Replayer(growing).replay("a/b", AtVersion(6)).state.version == 6


def test_records_under_other_keys_and_in_other_partitions_are_not_the_streams(log: ContextLog, clock: Ticking) -> None:
    filled(log, clock)
    wrong = raw(log.log, "a/b", "FactSet", "wrong-key")
    log.log.append([wrong._replace(key=b"other")])
    if log.log.partitions > 1:
        log.log.append([wrong._replace(partition=(wrong.partition + 1) % log.log.partitions)])
    assert log.context("a/b").replay().state.version == 5
    entries = list(log.context("other").history())
    assert [entry.outcome for entry in entries] == ["misplaced"] * len(entries)
    assert log.context("other").version == 0

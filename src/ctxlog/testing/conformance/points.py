"""Replay over the backend at every kind of point, and from snapshots: the same bytes as a fold from the beginning."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from ctxlog.client import Context, ContextLog
from ctxlog.core.canonical import canonical_json
from ctxlog.errors import PointError
from ctxlog.log.protocol import EventLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.points import AtCut, AtEvent, AtOccurred, AtOffset, AtTime, AtVersion, Latest, Point
from ctxlog.model.state import ContextState
from ctxlog.replay.history import history
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore
from ctxlog.testing.conformance.base import LogCase, everything

STREAM = "planner/thread"
OCCURRED_US = 1_760_000_000_000_000


class Story(NamedTuple):
    """A stream that was written to, with the state after each version as the writer saw it."""

    contexts: ContextLog
    context: Context
    states: list[ContextState]


def state_bytes(state: ContextState) -> bytes:
    """What the state digest is over."""
    return canonical_json(state.to_dict())


class PointsCase(LogCase):
    """Points, snapshots and cuts."""

    @pytest.fixture
    def story(self, log: EventLog) -> Story:
        """Messages, facts, a call, a group, a redaction; other streams in between, and a pause now and then."""
        contexts = ContextLog(log)
        context = contexts.context(STREAM)
        states = [context.state]

        def keep(times: int = 1) -> None:
            # Versions inside a group are states too, but no writer ever saw them.
            states.extend([context.state] * times)
            contexts.context(f"planner/other-{len(states) % 5}").add_message("user", "in between")
            if len(states) % 4 == 0:
                time.sleep(0.003)

        for number in range(4):
            context.add_message("user", f"message {number}", occurred_at=OCCURRED_US + number)
            keep()
            context.set_fact("number", number, occurred_at=OCCURRED_US + number)
            keep()
        call = context.add_tool_call("pay", {"order": "W-204"}, occurred_at=OCCURRED_US + 10)
        keep()
        context.add_tool_result(call.event_id, "paid", occurred_at=OCCURRED_US + 11)
        keep()
        context.append(
            [FactSet(key="a", value="1"), MessageAppended(role="assistant", content="b")], occurred_at=OCCURRED_US + 12
        )
        keep(times=2)
        context.redact_message(states[-1].messages[0].id, occurred_at=OCCURRED_US + 13)
        keep()
        return Story(contexts, context, states)

    def check(self, story: Story, at: Point, version: int) -> None:
        """The state at a point is the one that the writer saw at a version."""
        replay = Replayer(story.contexts.log).replay(STREAM, at)
        assert replay.state.version == version
        if version != 11:  # inside the group
            assert state_bytes(replay.state) == state_bytes(story.states[version])
        assert replay.manifest.chain_head == replay.state.chain_head

    def test_a_version_is_the_state_that_the_writer_saw(self, story: Story) -> None:
        for version in range(len(story.states)):
            self.check(story, AtVersion(version), version)
        self.check(story, Latest(), len(story.states) - 1)
        with pytest.raises(PointError):
            Replayer(story.contexts.log).replay(STREAM, AtVersion(len(story.states)))

    def test_an_offset_is_the_state_through_that_record(self, story: Story, log: EventLog) -> None:
        """Offsets of other streams' records in the partition too, and those in gaps."""
        entries = list(story.context.history())
        end = log.bounds(entries[0].partition).end
        for offset in range(end):
            self.check(story, AtOffset(offset), sum(1 for entry in entries if entry.effect_offset <= offset))
        with pytest.raises(PointError):
            Replayer(log).replay(STREAM, AtOffset(end))

    def test_an_event_is_the_state_after_it(self, story: Story) -> None:
        for entry in story.context.history():
            assert entry.version is not None
            self.check(story, AtEvent(entry.meta["event_id"]), entry.version)

    def test_a_time_is_the_state_before_the_first_later_record(self, story: Story, log: EventLog) -> None:
        entries = list(story.context.history())
        times = [record.recorded_at for record in everything(log, entries[0].partition)]
        for time_ms in sorted({at + near for at in times for near in (-1, 0, 1)}):
            version = 0
            for entry in entries:
                if entry.time > time_ms:
                    break
                version = entry.version or version
            self.check(story, AtTime(time_ms * 1000), version)
            replay = Replayer(log).replay(STREAM, AtTime(time_ms * 1000))
            assert replay.manifest.provisional == (time_ms >= max(times))

    def test_a_time_of_the_writer_is_the_state_after_the_last_event_not_later(self, story: Story) -> None:
        entries = list(story.context.history())
        for time_us in range(OCCURRED_US - 1, OCCURRED_US + 16):
            version = max((entry.version or 0 for entry in entries if entry.meta["occurred_at"] <= time_us), default=0)
            self.check(story, AtOccurred(time_us), version)

    def test_a_cut_gives_the_same_states_again_after_the_log_has_grown(self, story: Story, tmp_path: Path) -> None:
        cut = story.contexts.cut("planner/*")
        file = tmp_path / "cut.json"
        file.write_text(json.dumps(cut.to_dict()), encoding="utf-8")
        before = {stream_id: story.contexts.context(stream_id).state for stream_id in cut.streams}
        for stream_id in cut.streams:
            story.contexts.context(stream_id).add_message("user", "later")
        for stream_id, state in before.items():
            replay = Replayer(story.contexts.log).replay(stream_id, AtCut(str(file)))
            assert state_bytes(replay.state) == state_bytes(state)

    def test_a_slice_is_what_the_whole_history_tells_between_two_points(
        self, story: Story, log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 3)
        store = SnapshotStore(tmp_path / "cache.sqlite")
        replayer = Replayer(log, store)
        replayer.replay(STREAM, Latest())
        whole, end = list(story.context.history()), replayer.end(STREAM)
        for since in range(len(story.states)):
            for until in range(since, len(story.states)):
                found = list(history(replayer, STREAM, end, since=AtVersion(since), until=AtVersion(until)))
                assert found == whole[since:until]
            assert list(history(replayer, STREAM, end, last=since)) == whole[len(whole) - since :]
        for offset in range(end):
            found = list(history(replayer, STREAM, end, since=AtOffset(offset)))
            assert found == [entry for entry in whole if entry.effect_offset > offset]
        store.close()

    def test_a_stream_without_events_is_the_empty_context(self, log: EventLog) -> None:
        """Asking too early is a question with an answer, not an error."""
        replay = Replayer(log).replay("nobody/yet", Latest())
        assert (replay.state.version, list(replay.state.messages), replay.manifest.position) == (0, [], None)

    def test_from_a_snapshot_and_from_zero_come_the_same_bytes(
        self, story: Story, log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ctxlog.replay.replayer.SNAPSHOT_EVENTS", 3)
        store = SnapshotStore(tmp_path / "cache.sqlite")
        first = Replayer(log, store)
        first.replay(STREAM, Latest())
        started_from = set()
        for version in range(len(story.states)):
            zero = Replayer(log).replay(STREAM, AtVersion(version))
            again = Replayer(log, store).replay(STREAM, AtVersion(version))
            assert state_bytes(again.state) == state_bytes(zero.state)
            assert again.manifest.state_digest == zero.manifest.state_digest
            started_from.add(again.manifest.started_from)
        store.close()
        assert len(started_from) > 2

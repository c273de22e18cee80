"""Appending through ctxlog: what a writer is told is what every reader finds."""

from __future__ import annotations

import threading

import pytest

from ctxlog.audit.verify import verify
from ctxlog.client import ContextLog
from ctxlog.errors import ConflictError, IndeterminateError
from ctxlog.log.protocol import EventLog
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.outcomes import Acknowledged, Committed
from ctxlog.model.records import NewRecord, Record
from ctxlog.testing.conformance.base import LogCase, everything


class ContextsCase(LogCase):
    """Contexts on the backend: outcomes, read-your-writes, contention."""

    def test_what_was_appended_is_read_back_at_once(self, log: EventLog) -> None:
        """A stale read loses data without a word."""
        contexts = ContextLog(log)
        for stream_id in ("planner/1", "planner/2", "shared/plan"):
            context = contexts.context(stream_id)
            for number in range(5):
                assert isinstance(context.add_message("user", f"{stream_id} {number}"), Acknowledged)
                assert context.version == number + 1
                assert context.state.messages[-1].content == f"{stream_id} {number}"
        assert contexts.matching() == ["planner/1", "planner/2", "shared/plan"]

    def test_a_precondition_that_holds_is_committed_and_one_that_does_not_changes_nothing(self, log: EventLog) -> None:
        context = ContextLog(log).context("planner/1")
        committed = context.set_fact("a", 1, expected_version=0)
        assert isinstance(committed, Committed)
        assert committed.version == 1
        (own,) = _sent(log, "planner/1")
        assert committed.position == (own.partition, own.offset)
        before = context.state
        with pytest.raises(ConflictError) as refused:
            context.set_fact("a", 2, expected_version=0)
        assert refused.value.actual == 1
        assert context.state == before
        assert context.set_fact("a", 3, expected_head=before.chain_head, expected_targets={"fact:a": 1}).event_ids
        assert context.state.facts["a"].value == "3"

    def test_a_group_is_taken_as_a_whole_or_not_at_all(self, log: EventLog) -> None:
        context = ContextLog(log).context("planner/1")
        pair = [MessageAppended(role="user", content="a"), FactSet(key="b", value="1")]
        committed = context.append(pair, expected_version=0)
        assert isinstance(committed, Committed)
        assert committed.version == 2
        with pytest.raises(ConflictError):
            context.append(pair, expected_version=1)
        assert context.version == 2
        assert [entry.outcome for entry in context.history()] == ["accepted", "accepted", "conflict", "conflict"]

    def test_writers_that_retry_win_each_version_once(self, log: EventLog) -> None:
        """Two handles on one backend, two threads each: the log decides, and everybody learns the same."""
        won: list[int] = []
        failures: list[BaseException] = []
        handles = [ContextLog(log), ContextLog(log)]

        def work(thread: int) -> None:
            context = handles[thread % 2].context("shared/counter")
            try:
                done = 0
                while done < 6:
                    version = context.version
                    try:
                        outcome = context.set_fact(f"thread-{thread}", done, expected_version=version)
                    except ConflictError:
                        continue
                    assert isinstance(outcome, Committed)
                    assert outcome.version == version + 1
                    won.append(outcome.version)
                    done += 1
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(won) == list(range(1, 25))
        state = ContextLog(log).context("shared/counter").state
        assert state.version == 24
        assert {key: fact.value for key, fact in state.facts.items()} == {f"thread-{number}": "5" for number in range(4)}

    def test_the_same_bytes_again_are_a_duplicate_and_the_first_copy_decides(self, log: EventLog) -> None:
        """What `resolve` relies on after an outcome that nobody knows."""
        contexts = ContextLog(log)
        context = contexts.context("planner/1")
        committed = context.append([FactSet(key="a", value="1"), FactSet(key="b", value="2")], expected_version=0)
        records = [NewRecord(sent.partition, b"planner/1", sent.value or b"") for sent in _sent(log, "planner/1")]
        log.append(records)
        assert ContextLog(log).context("planner/1").version == 2
        unknown = IndeterminateError(log.log_id, "planner/1", records, committed.event_ids, conditional=True, cause="a test")
        assert contexts.resolve(unknown) == committed
        assert context.version == 2

    def test_an_append_that_was_refused_is_refused_again_when_it_is_resolved(self, log: EventLog) -> None:
        """Also where it would be accepted by now: what was decided stays."""
        contexts = ContextLog(log)
        context = contexts.context("planner/1")
        with pytest.raises(ConflictError):
            context.set_fact("a", 1, expected_version=1, event_ids=["refused"])
        context.add_message("user", "now it is at version 1")
        sent = _sent(log, "planner/1")[0]
        record = NewRecord(sent.partition, b"planner/1", sent.value or b"")
        log.append([record])
        unknown = IndeterminateError(log.log_id, "planner/1", [record], ["refused"], conditional=True, cause="a test")
        for reader in (contexts, ContextLog(log)):
            with pytest.raises(ConflictError):
                reader.resolve(unknown)
        assert context.version == 1

    def test_verify_finds_nothing_wrong(self, log: EventLog) -> None:
        contexts = ContextLog(log)
        for number in range(4):
            contexts.context(f"planner/{number}").add_message("user", "hello")
        contexts.context("planner/0").fork("planner/fork").add_message("user", "again")
        report = verify(contexts)
        assert report.problems == []
        assert report.streams == 5


def _sent(log: EventLog, stream_id: str) -> list[Record]:
    return [
        record for partition in range(log.partitions) for record in everything(log, partition) if record.key == stream_id.encode()
    ]

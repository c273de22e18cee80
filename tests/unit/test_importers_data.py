"""Real runs: each text arrives unchanged. Checked against the raw JSON by a reading of its own, message by message."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.importers import import_path
from ctxlog.model.state import ContextState

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"recorded runs are not at {DATA}")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ContextLog]:
    with ContextLog.open(f"embedded:{tmp_path / 'log'}") as opened:
        yield opened


def raw(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def check(state: ContextState, messages: list[dict[str, Any]]) -> int:
    """Compare a state with its source; the number of calls."""
    assert [message.content for message in state.messages] == [message["content"] for message in messages]
    assert [message.role for message in state.messages] == [message["role"] for message in messages]
    calls = list(state.tool_calls.items())
    asked = [
        (state.messages[index].id, call["id"], call["function"]["name"], call["function"]["arguments"])
        for index, message in enumerate(messages)
        for call in message.get("tool_calls") or []
    ]
    assert [(call.message_id, call.source_id, call.name, call.arguments) for _, call in calls] == asked
    open_calls: list[tuple[str, str | None]] = []
    number = 0
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            call_id = next(call_id for call_id, source_id in open_calls if source_id == message["tool_call_id"])
            open_calls = [entry for entry in open_calls if entry[0] != call_id]
            call = state.tool_calls[call_id]
            assert (call.result, call.result_id) == (message["content"], state.messages[index].id)
            assert state.messages[index].tool_call_id == call_id
        for _ in message.get("tool_calls") or []:
            open_calls.append((calls[number][0], calls[number][1].source_id))
            number += 1
    assert [call_id for call_id, call in calls if call.status == "open"] == [call_id for call_id, _ in open_calls]
    return number


def test_every_text_of_tau_bench_arrives_unchanged(log: ContextLog):
    (path,) = (DATA / "tau-bench").glob("*.json.gz")
    report = import_path(log, path)
    assert report.failed == ()
    records = raw(path)
    calls = sum(check(log.context(f"tau-bench/task-{run['task_id']}-trial-{run['trial']}").state, run["traj"]) for run in records)
    assert (len(report.streams), calls, report.events_appended) == (120, 810, 3_636 + 810)
    statuses = [call.status for name in report.streams for call in log.context(name).state.tool_calls.values()]
    assert set(statuses) == {"returned"}  # Nothing is marked as a failure, though texts begin with "Error".


def test_every_text_of_mini_swe_agent_arrives_unchanged_and_its_times_with_it(log: ContextLog):
    messages = calls = failed = 0
    for folder in sorted((DATA / "mini-swe-agent").iterdir()):
        report = import_path(log, folder, agent=folder.name)
        assert report.failed == ()
        for path in sorted(folder.iterdir()):
            run = raw(path)
            state = log.context(f"{folder.name}/{run['instance_id']}").state
            calls += check(state, run["messages"])
            messages += len(state.messages)
            failed += sum(call.status == "failed" for call in state.tool_calls.values())
            times = [(message.get("extra") or {}).get("timestamp") for message in run["messages"]]
            assert [message.occurred_at for message in state.messages] == [
                None if time is None else round(Decimal(repr(time)) * 1_000_000) for time in times
            ]
    assert (messages, calls, failed) == (5_670, 2_799, 1)


def test_the_same_task_run_twice_does_not_mix(log: ContextLog):
    """Both folders name the same tasks: the second is refused, message by message, until it gets an agent of its own."""
    first, second = sorted((DATA / "mini-swe-agent").iterdir())
    import_path(log, first)
    heads = {stream.stream_id: stream.chain_head for stream in log.streams()}
    report = import_path(log, second)
    assert (report.events_appended, len(report.failed)) == (0, 18)
    assert {failure.place for failure in report.failed} == {"message 2"}
    assert {stream.stream_id: stream.chain_head for stream in log.streams()} == heads


def test_all_real_runs_again_change_nothing(log: ContextLog):
    first = import_path(log, [DATA / "tau-bench", DATA / "mini-swe-agent"])
    again = import_path(log, [DATA / "tau-bench", DATA / "mini-swe-agent"])
    assert (again.events_appended, again.events_skipped, again.failed) == (0, first.events_appended, first.failed)
    anomalies = [log.context(stream_id).replay().anomalies for stream_id in first.streams]
    assert set(anomalies) == {()}


def test_other_recordings_in_a_folder_break_nothing(log: ContextLog):
    report = import_path(log, DATA, agent="all")
    assert {Path(failure.path).parent.name for failure in report.failed} == {"deepseek_chat_dev_rerun"}
    assert {Path(path).parts[len(DATA.parts)] for path in report.ignored} == {
        "inspect_ai",
        "langfuse-framework-traces",
        "who-and-when",
    }

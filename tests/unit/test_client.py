"""A log as users hold it: opening, closing, listing, reading; shared by threads, and carried into a forked process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.client.log import CURSORS_MAX
from ctxlog.errors import ConflictError, InvalidInputError, LogClosedError, LogOpenError, PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import MessageAppended
from ctxlog.wiring import find_url, open_log
from writing import group, publish, raw

HI = MessageAppended(role="user", content="hi")


# Opening


def test_the_url_that_is_given_beats_the_environment_that_beats_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CTXLOG_URL", raising=False)
    assert find_url() == ("embedded:.ctxlog", "default")
    Path("ctxlog.toml").write_text('log = "embedded:from-file"\n')
    assert find_url() == ("embedded:from-file", "ctxlog.toml")
    monkeypatch.setenv("CTXLOG_URL", "embedded:from-environment")
    assert find_url() == ("embedded:from-environment", "CTXLOG_URL")
    assert find_url("memory:") == ("memory:", "given")


@pytest.mark.parametrize("text", ["log = 5", "log = ", "\udc80"], ids=["number", "not TOML", "not UTF-8"])
def test_a_settings_file_that_cannot_be_read_is_no_reason_to_open_another_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CTXLOG_URL", raising=False)
    Path("ctxlog.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LogOpenError, match=r"ctxlog\.toml"):
        ContextLog.open()
    assert [path.name for path in tmp_path.iterdir()] == ["ctxlog.toml"]


@pytest.mark.parametrize("url", ["embedded:", "embedded", "memory:x", "kafka:", "/a/path", "sqlite:///x"])
def test_a_url_of_no_known_kind_is_refused_and_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="nothing was opened"):
        ContextLog.open(url)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_log_is_not_created_where_that_is_not_wanted(folder: Path) -> None:
    with pytest.raises(LogOpenError, match="no log here"):
        open_log(f"embedded:{folder}", create=False)
    assert not folder.exists()


def test_opening_and_naming_a_context_write_nothing(log: ContextLog) -> None:
    """A context is born with its first event."""
    context = log.context("a/b")
    assert (context.version, context.state.messages, list(context.history())) == (0, (), [])
    assert context.window().messages == ()
    assert context.replay().manifest.position is None
    assert log.matching() == []
    assert log.log.bounds(0).end == 1


def test_a_log_in_memory_takes_what_an_embedded_one_takes() -> None:
    with ContextLog.open("memory:") as log:
        log.context("a/b").append([HI, HI], expected_version=0)
        assert log.context("a/b").version == 2


# Closing


USES: list[Callable[[ContextLog], Any]] = [
    lambda log: log.context("a/b").append(HI),
    lambda log: log.context("a/b").append(HI, expected_version=1),
    lambda log: log.context("a/b").append_each([(HI, {})]),
    lambda log: log.context("a/b").state,
    lambda log: log.context("a/b").version,
    lambda log: log.context("a/b").window(),
    lambda log: log.context("a/b").replay(),
    lambda log: list(log.context("a/b").accepted()),
    lambda log: list(log.context("a/b").history()),
    lambda log: log.context("a/b").fork("a/c"),
    lambda log: list(log.streams()),
    lambda log: log.matching(),
    lambda log: log.cut(),
]


@pytest.mark.parametrize("use", USES, ids=[str(number) for number in range(len(USES))])
@pytest.mark.parametrize("kind", ["embedded", "memory"])
def test_a_closed_log_says_that_it_is_closed(tmp_path: Path, kind: str, use: Callable[[ContextLog], Any]) -> None:
    log = ContextLog.open(f"embedded:{tmp_path / 'log'}" if kind == "embedded" else "memory:")
    log.context("a/b").append(HI)
    log.close()
    log.close()
    with pytest.raises(LogClosedError):
        use(log)


def test_a_with_statement_closes_the_log_also_after_an_error(folder: Path) -> None:
    with pytest.raises(RuntimeError), ContextLog.open(f"embedded:{folder}") as log:
        raise RuntimeError
    with pytest.raises(LogClosedError):
        log.context("a/b").append(HI)


# Listing


def test_streams_are_listed_by_name_with_what_became_of_their_records() -> None:
    backend = MemoryLog(3)
    log = ContextLog(backend)
    log.context("b").append([HI, HI])
    log.context("a/1").append(HI)
    publish(backend)
    backend.append([raw(backend, "a/1", "FactSet", "x")])
    backend.append([raw(backend, "a/1", "FactSet", "x")])
    backend.append([raw(backend, "a/1", "FactSet", f"g{index}", append=group("g0", index, 3)) for index in range(2)])
    told: list[int] = []
    found = list(log.streams(progress=told.append))
    assert [(s.stream_id, s.version, s.events, s.rejected, s.open) for s in found] == [("a/1", 2, 2, 1, 2), ("b", 2, 2, 0, 0)]
    assert told == [1, 2]
    assert found[1].chain_head == log.context("b").chain_head
    assert found[0].bytes == sum(
        len(r.key or b"") + len(r.value or b"") for p in range(3) for r in backend.read(p, 0, 99, key=b"a/1")
    )


def test_a_pattern_matches_as_a_shell_does_and_the_case_counts(log: ContextLog) -> None:
    for name in ("agent/1", "agent/2/x", "Agent/1", "other"):
        log.context(name, agent_id="x").append(HI)
    assert log.matching("agent/*") == ["agent/1", "agent/2/x"]
    assert log.matching("*/[1]") == ["Agent/1", "agent/1"]
    assert log.matching("nothing*") == []
    assert log.matching() == ["Agent/1", "agent/1", "agent/2/x", "other"]


def test_a_cut_names_the_version_of_every_matching_stream_at_one_point(log: ContextLog) -> None:
    for number, name in enumerate(("a/1", "a/2", "b"), 1):
        for _ in range(number):
            log.context(name).append(HI)
    cut = log.cut("a/*")
    assert (cut.log_id, cut.at, cut.streams) == (log.log.log_id, "latest", {"a/1": 1, "a/2": 2})
    assert cut.chain_heads == {name: log.context(name).chain_head for name in ("a/1", "a/2")}
    assert log.cut("a/*", at=1).streams == {"a/1": 1, "a/2": 1}
    assert log.cut("*", at="time:2001-01-01").streams == {"a/1": 0, "a/2": 0, "b": 0}
    with pytest.raises(PointError):
        log.cut("*", at="version:3")


def test_an_offset_is_no_point_of_several_partitions() -> None:
    """Each partition counts its own."""
    log = ContextLog(MemoryLog(3))
    log.context("a").append(HI)
    with pytest.raises(PointError, match="several"):
        log.cut("*", at="offset:1")
    log = ContextLog(MemoryLog(1))
    log.context("a").append(HI)
    assert log.cut("*", at="offset:2").streams == {"a": 1}
    assert log.cut("*", at="offset:1").streams == {"a": 0}


# Reading


def test_a_state_stays_as_it_is_while_the_context_goes_on(log: ContextLog) -> None:
    context = log.context("a/b")
    call = context.add_tool_call("f", {}).event_id
    context.set_fact("k", 1)
    before = context.state
    seen = before.to_dict()
    context.add_tool_result(call, "r")
    context.set_fact("k", 2)
    context.redact_message(context.state.messages[0].id)
    assert context.state.version == 5
    assert before.to_dict() == seen


def test_more_streams_than_are_kept_at_hand_are_read_all_the_same() -> None:
    log = ContextLog(MemoryLog())
    names = [f"a/{number}" for number in range(CURSORS_MAX + 5)]
    for round_ in (1, 2):
        for name in names:
            log.context(name).append(HI, expected_version=round_ - 1)
            assert log.context(name).state.version == round_
    assert len(log._cursors) <= CURSORS_MAX + 1
    assert all(log.context(name).version == 2 for name in names)


def test_the_window_of_a_context_is_selected_from_its_newest_state(log: ContextLog) -> None:
    context = log.context("a/b")
    context.add_message("user", "one")
    context.add_message("user", "two", scope="private")
    context.set_fact("old", 1, expires_at=1)
    context.set_fact("new", 1, expires_at=time.time_ns() // 1000 + 10**12)
    window = context.window(max_messages=2, scopes=["default"])
    assert [message.content for message in window.messages] == ["one"]
    assert list(window.facts) == ["new"]
    assert (window.version, window.chain_head) == (4, context.chain_head)
    with pytest.raises(InvalidInputError):
        context.window(max_messages=-1)


# Threads and processes


def test_threads_that_share_a_log_win_each_version_once(log: ContextLog) -> None:
    def work(name: str) -> list[int]:
        won = []
        while len(won) < 10:
            try:
                context = log.context("a/b")
                won.append(context.add_message("user", name, expected_version=context.version).version)  # type: ignore[union-attr]
            except ConflictError:
                continue
        return won

    with ThreadPoolExecutor(4) as pool:
        won = [version for versions in pool.map(work, "abcd") for version in versions]
    assert sorted(won) == list(range(1, 41))
    assert len(log.context("a/b").state.messages) == 40


def test_threads_that_read_while_others_write_see_whole_groups_only(log: ContextLog) -> None:
    context, failures = log.context("a/b"), []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            state = context.state
            if len(state.messages) % 3 or state.version != len(state.messages):
                failures.append(state.version)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(read)
        for _ in range(30):
            context.append([HI, HI, HI])
        over.set()
    assert failures == []
    assert context.version == 90


def test_a_forked_child_reads_and_appends_though_a_thread_of_the_parent_was_reading(log: ContextLog) -> None:
    """The child inherits the locks of threads that it does not have."""
    context = log.context("a/b")
    context.append(HI)
    locked, over = threading.Event(), threading.Event()

    def hold() -> None:
        with log._lock:
            locked.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # Ends a child that waits for ever.
        state = context.state.version
        context.append(HI, expected_version=1)
        os._exit(10 * state + context.version)
    over.set()
    thread.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 12
    assert context.version == 2

"""Cuts: one version in each of several streams, asked again from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.errors import IntegrityError, PointError
from ctxlog.log.memory import MemoryLog
from ctxlog.replay.cuts import Cut, read_cut


@pytest.fixture
def log() -> ContextLog:
    log = ContextLog(MemoryLog(3))
    for name in ("a/1", "a/2"):
        for number in range(3):
            log.context(name).set_fact("k", number)
    return log


def write(path: Path, data: Any) -> str:
    path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return str(path)


def test_a_cut_repeats_the_same_states_after_the_streams_went_on(log: ContextLog, tmp_path: Path) -> None:
    log.context("a/2").set_fact("k", 3)
    path = write(tmp_path / "cut.json", log.cut("a/*").to_dict())
    before = {name: log.context(name).replay(f"cut:{path}") for name in ("a/1", "a/2")}
    for name in ("a/1", "a/2"):
        log.context(name).set_fact("k", "later")
    for name, then in before.items():
        again = log.context(name).replay(f"cut:{path}")
        assert again.state == then.state
        assert again.manifest.state_digest == then.manifest.state_digest
        assert again.manifest.at == f"cut:{path}"
    assert [then.state.version for then in before.values()] == [3, 4]


def test_a_cut_goes_through_its_file_unchanged(log: ContextLog, tmp_path: Path) -> None:
    cut = log.cut("*", at="version:2")
    assert read_cut(write(tmp_path / "cut.json", cut.to_dict()), log.log.log_id) == cut


def test_a_cut_names_version_0_for_streams_that_came_later(log: ContextLog, tmp_path: Path) -> None:
    path = write(tmp_path / "cut.json", log.cut("*", at=0).to_dict())
    assert log.context("a/1").replay(f"cut:{path}").state.version == 0


def test_a_stream_that_the_cut_does_not_name_has_no_such_point(log: ContextLog, tmp_path: Path) -> None:
    path = write(tmp_path / "cut.json", log.cut("a/1").to_dict())
    with pytest.raises(PointError, match="none of them"):
        log.context("a/2").replay(f"cut:{path}")


def test_a_log_that_is_not_what_it_was_is_noticed_by_the_chain_head(log: ContextLog, tmp_path: Path) -> None:
    data = log.cut("*").to_dict()
    data["chain_heads"]["a/1"] = "0" * 64
    path = write(tmp_path / "cut.json", data)
    with pytest.raises(IntegrityError, match="a/1"):
        log.context("a/1").replay(f"cut:{path}")
    assert log.context("a/2").replay(f"cut:{path}").state.version == 3


def test_a_cut_by_hand_needs_no_chain_heads(log: ContextLog, tmp_path: Path) -> None:
    path = write(tmp_path / "cut.json", {"log_id": log.log.log_id, "streams": {"a/1": 2}})
    assert log.context("a/1").replay(f"cut:{path}").state.version == 2


def test_a_cut_beyond_the_stream_is_a_point_that_is_not_there(log: ContextLog, tmp_path: Path) -> None:
    path = write(tmp_path / "cut.json", {"log_id": log.log.log_id, "streams": {"a/1": 9}})
    with pytest.raises(PointError, match="no version 9"):
        log.context("a/1").replay(f"cut:{path}")


BAD = [
    "", "[]", "null", "5", "{", '{"streams": {}}', '{"log_id": "other", "streams": {}}', '{"log_id": "L"}',
    '{"log_id": "L", "streams": []}', '{"log_id": "L", "streams": {"a": -1}}', '{"log_id": "L", "streams": {"a": 1.0}}',
    '{"log_id": "L", "streams": {"a": true}}', '{"log_id": "L", "streams": {"a": "1"}}',
    '{"log_id": "L", "streams": {"a": 9007199254740992}}', '{"log_id": "L", "streams": {}, "chain_heads": []}',
    "[" * 100_000, '{"log_id": "L", "streams": {"a": ' + "9" * 5_000 + "}}",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=[text[:60] or "empty" for text in BAD])
def test_a_file_that_holds_no_cut_of_this_log_is_a_typed_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(PointError, match="cut:"):
        read_cut(write(tmp_path / "cut.json", text), "L")


def test_a_file_that_cannot_be_read_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "bytes", "nul\x00", "x" * 5_000):
        with pytest.raises(PointError):
            read_cut(str(path), "L")


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxlog.replay.cuts.CUT_BYTES_MAX", 10)
    with pytest.raises(PointError, match="at most 10 bytes"):
        read_cut(write(tmp_path / "cut.json", Cut("L", "latest", {}, {}).to_dict()), "L")

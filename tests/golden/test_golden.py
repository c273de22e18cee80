"""Golden logs: bytes that were written once, and what every release must make of them.

This is what "a decision replays as it was" means. A failure here means that the log format, arbitration or the fold changed its
meaning; until 0.1.0 that takes an ADR and a new recording, afterwards it is forbidden.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import rfc8785

import oracle
from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.codec.partition import PartitionContext
from ctxlog.errors import IntegrityError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.points import AtDecision, AtVersion
from ctxlog.model.records import CONTROL_KEY, Record, Rejected
from ctxlog.replay import index, replayer
from ctxlog.replay.copying import copy_log
from ctxlog.replay.index import IndexedLog
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore
from golden import recording

FOLDERS = sorted(path.parent for path in Path(__file__).parent.glob("*/expected.json"))


class GoldenLog(MemoryLog):
    """A log in memory that holds what a golden log holds."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "expected.json").read_text("utf-8"))
        super().__init__(about["partitions"])
        self.log_id = about["log_id"]
        self._records = [[] for _ in range(self.partitions)]
        for line in (folder / "log.jsonl").read_text("utf-8").splitlines():
            item = json.loads(line)
            record = Record(
                item["partition"], item["offset"], item["recorded_at"], item["key"].encode(), bytes.fromhex(item["value"])
            )
            self._records[record.partition].append(record)


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest) -> tuple[GoldenLog, dict[str, Any]]:
    return GoldenLog(request.param), json.loads((request.param / "expected.json").read_text("utf-8"))["streams"]


def test_every_decision_chain_head_and_state_digest_is_as_it_was(golden: tuple[GoldenLog, dict[str, Any]]) -> None:
    log, streams = golden
    assert json.loads(json.dumps(recording.expected(log))) == streams


def test_the_golden_log_holds_every_outcome_and_every_event_type(golden: tuple[GoldenLog, dict[str, Any]]) -> None:
    """Otherwise it would prove less than it says."""
    log, streams = golden
    outcomes = Counter(outcome for stream in streams.values() for _, _, outcome, _ in stream["decisions"])
    assert set(outcomes) == {
        "accepted", "open", "undecodable", "misplaced", "malformed", "duplicate", "conflict", "abandoned",
    }  # fmt: skip
    reasons = {reason for stream in streams.values() for _, _, _, reason in stream["anomalies"]}
    assert reasons == {
        "call_settled", "message_unknown", "target_mismatch", "out_of_range", "fact_unknown", "already_closed", "not_first",
    }  # fmt: skip
    types, voids = set(), Counter[str]()
    for partition in range(log.partitions):
        context = PartitionContext(partition)
        for record in log.read(partition, 0, log.bounds(partition).end):
            if record.key == CONTROL_KEY:
                voids[context.take(record).void or "has effect"] += 1
            elif not isinstance(event := context.decode(record), Rejected):
                types.add(event.type)
    assert types == {*recording.TYPES, "org.example.Noted", "ctxlog.MessageForgotten"}
    assert len(voids) == 4


def test_the_oracle_agrees_with_the_golden_log(golden: tuple[GoldenLog, dict[str, Any]]) -> None:
    """The recording was made by the library; this says that it was right when it was made."""
    log, streams = golden
    told: dict[str, list[oracle.OracleRecord]] = {}
    for partition in range(log.partitions):
        context = PartitionContext(partition)
        for record in log.read(partition, 0, log.bounds(partition).end):
            if record.key == CONTROL_KEY:
                context.take(record)
                continue
            event = context.decode(record)
            key = (record.key or b"").decode()
            if isinstance(event, Rejected):
                told.setdefault(key, []).append(oracle.OracleRecord(record.offset, "", None, None, b"", event.reason))
            else:
                told.setdefault(key, []).append(
                    oracle.OracleRecord(record.offset, event.type, event.meta, event.payload, event.digest)
                )
    for stream_id, records in told.items():
        judged = oracle.arbitrate(stream_id, records)
        expected = {
            offset: (outcome.replace("open", "held"), version) for _, offset, outcome, version in streams[stream_id]["decisions"]
        }
        assert judged.decisions == expected
        parent_state = None
        if stream_id == recording.FORK:
            above = oracle.arbitrate(recording.MAIN, told[recording.MAIN]).accepted[:7]
            parent_state = oracle.fold(recording.MAIN, above)[0]
        for version, found in enumerate(streams[stream_id]["versions"]):
            if found == "NewerEventError":
                with pytest.raises(oracle.NewerEvent):
                    oracle.fold(stream_id, judged.accepted[:version])
            else:
                state, _ = oracle.fold(stream_id, judged.accepted[:version], parent_state if version else None)
                assert found == [judged.heads[version], oracle.state_digest(state)]


def told(log: GoldenLog, by: str, folder: Path) -> Replayer:
    """Replays by a path."""
    match by:
        case "snapshots":
            store = SnapshotStore(folder / "cache.sqlite")
            with ContextLog(log, store) as reader:
                for name in (recording.CASE, recording.POLICY, recording.FORK, recording.MAIN):
                    reader.context(name).state  # noqa: B018
            log._closed = False
            return Replayer(log, SnapshotStore(folder / "cache.sqlite"))
        case "index":
            return Replayer(IndexedLog(log, folder / "index.sqlite"))
        case "copy":
            copy_log(log, copied := MemoryLog(3))
            return Replayer(copied)
        case _:
            return Replayer(log)


def selection_digest(state: dict[str, Any], read: dict[str, Any], revealed: list[str]) -> str:
    """As docs/how-to/decide.md says it, from a state as it is printed."""
    whole = json.loads(read["selection"]) == {"all": True}
    selected = {name: state[name] for name in ("stream_id", "version", "chain_head")} | {
        "messages": [one for one in state["messages"] if whole or one["id"] in revealed],
        "facts": {key: one for key, one in state["facts"].items() if whole or one["event_id"] in revealed},
        "tool_calls": {key: one for key, one in state["tool_calls"].items() if whole or key in revealed},
    }
    return hashlib.sha256(rfc8785.dumps(selected)).hexdigest()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("by", ["zero", "snapshots", "index", "copy"])
def test_a_recorded_decision_replays_to_what_it_read_and_its_digests_hold(
    folder: Path, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it read has been changed and redacted since, and whoever asks for the decision gets it as it was."""
    monkeypatch.setattr(replayer, "SNAPSHOT_EVENTS", 2)
    monkeypatch.setattr(index, "DIRECT_OFFSETS_MAX", 0)
    log, decided = GoldenLog(folder), json.loads((folder / "expected.json").read_text("utf-8"))["decided"]
    reads, asked = list(recording.reads(log)), told(log, by, tmp_path)
    found: dict[str, dict[str, Any]] = {}
    started = set()
    for decision_id, read in reads:
        for stream in read["streams"]:
            try:
                replay = asked.replay(stream["stream_id"], AtDecision(decision_id))
            except IntegrityError as error:
                found.setdefault(decision_id, {})[stream["stream_id"]] = type(error).__name__
                continue
            manifest = replay.manifest
            said = [manifest.version, manifest.chain_head, manifest.state_digest]
            found.setdefault(decision_id, {})[stream["stream_id"]] = said
            started.add(manifest.started_from)
            then = asked.replay(stream["stream_id"], AtVersion(stream["version"])).state.to_dict()
            assert then["chain_head"] == stream["chain_head"]
            assert selection_digest(then, read, stream["revealed"]) == read["selection_digest"]
            if manifest.version == stream["version"]:
                assert manifest.chain_head == stream["chain_head"]
    assert found == decided
    assert sorted(len(streams) for streams in found.values())[-2:] == [3, 3]
    # This one says that it read what was never there.
    assert found["d-1"] == {recording.MAIN: "IntegrityError"}
    assert max(started) > 0 if by == "snapshots" else started == {0}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_golden_log_verifies(folder: Path) -> None:
    assert verify(ContextLog(GoldenLog(folder))).problems == []

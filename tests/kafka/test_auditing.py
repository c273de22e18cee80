"""Decisions that are recorded on a broker, with streams and decisions in different partitions, and their audit."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.audit.auditing import About, audit_decision, audit_event
from ctxlog.audit.blame import blame
from ctxlog.audit.bundled import verify_bundle
from ctxlog.audit.bundling import make_bundle
from ctxlog.audit.decisions import Wanted, find_decisions
from ctxlog.audit.heads import HeadFile
from ctxlog.audit.notes import SigningKey
from ctxlog.audit.signing import Signer
from ctxlog.audit.tree import LogTree
from ctxlog.log.kafka import KafkaLog
from ctxlog.model.events import ContextRead, DecisionRecorded, StreamRead
from ctxlog.replay.replayer import Replayer


@pytest.fixture
def url(kafka: Any, tmp_path: Path) -> str:
    found = f"{kafka.url()}&cache={tmp_path / 'cache'}"
    KafkaLog.create(found, 4)[0].close()
    return found


def test_a_decision_on_a_broker_is_found_audited_and_a_forged_one_is_not_verified(url: str) -> None:
    with ContextLog.open(url) as log, ContextLog.open(url) as others:
        ctx, policy = log.context("refunds/1"), others.context("shared/policy")
        policy.set_fact("limit", 250)
        ctx.add_message("user", "Please refund.")
        with log.decision("refund", agent="refunds") as decision:
            window = decision.read(ctx, max_messages=5)
            limit = log.context("shared/policy").state.facts
            policy.set_fact("limit", 100)
            call = ctx.add_tool_call("pay", {}).event_id
            ctx.add_tool_result(call, "paid")
        time.sleep(0.01)  # Between partitions a broker's clock decides, by its milliseconds.
        policy.set_fact("limit", 50)
        partitions = {log.replayer.reader.partition(name) for name in ("refunds/1", "shared/policy", "decisions/refunds")}
        assert len(partitions) > 1
    with ContextLog.open(url) as log:  # A reader who has seen nothing of it.
        report = audit_decision(log.log, decision.id)
        assert report.failed == ()
        first, second = report.reads
        assert first.released is not None
        assert list(first.released.messages) == list(window.messages)
        assert second.released is not None
        assert second.released.facts == limit
        assert [(read.newer.events, read.newer.own) for read in report.reads] == [(0, 2), (1, 0)]
        assert [(one.call_id, one.status) for one in report.calls] == [(call, "returned")]
        assert [one.decision_id for one in find_decisions(log.replayer, Wanted(stale=True))] == [decision.id]
        assert audit_event(log.log, "refunds/1", 2).decision == report.decision
        assert [change.value for change in blame(Replayer(log.log), "shared/policy", "limit").history] == ["250", "100", "50"]
        receipts = log.context("decisions/forger")
        seen = StreamRead(stream_id="shared/policy", version=1, chain_head="f" * 64)
        read = ContextRead(selection='{"all": true}', streams=(seen,), judged_at=1, selection_digest="0" * 64)
        receipts.append(DecisionRecorded(decision_id="d", kind="k", reads=(receipts.append(read).event_id,)))
        verdict = audit_decision(log.log, "d").verdict
        assert verdict.startswith("NOT VERIFIED: read ")
        assert "of shared/policy@1: chain head" in verdict


def test_a_bundle_of_a_decision_on_a_broker_is_checked_without_it(url: str, tmp_path: Path) -> None:
    with ContextLog.open(url) as log:
        ctx = log.context("refunds/1")
        ctx.add_message("user", "Please refund.")
        log.context("shared/policy").set_fact("limit", 250)
        with log.decision("refund", agent="refunds") as decision:
            decision.read(ctx)
            assert log.context("shared/policy").state.facts["limit"].parsed() == 250
            ctx.add_tool_call("pay", {})
        key = SigningKey("example.org/audit", b"k" * 32)
        with contextlib.closing(LogTree(log.log, None)) as tree:
            signer = Signer(log.log, tree, key, HeadFile(tmp_path / "heads", log.log.log_id))
            signed = [signer.sign(partition) for partition in range(log.log.partitions)]
            assert all(one is not None for one in signed)
            path = tmp_path / "evidence.zip"
            bundle = make_bundle(log.log, tree, (), About(decision.id), path)
    assert len({one.record.partition for one in bundle.records}) == 4  # Each partition says what it is.
    report = verify_bundle(path, [key.verify_key])
    assert report.problems == ()
    assert report.audit is not None
    assert {read.stream_id for read in report.audit.reads} == {"refunds/1", "shared/policy"}

"""An honest decision with its reads, and records of reads that say something else."""

from __future__ import annotations

from itertools import count
from typing import Any

from ctxlog import ContextLog
from ctxlog.audit.auditing import audit_decision
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import ContextRead, DecisionRecorded, StreamRead


def honest() -> tuple[ContextLog, dict[str, Any], dict[str, Any]]:
    """A log with a recorded read of a part, and the members of the read and of its one stream."""
    ticks = count(1_700_000_000_000)  # Between partitions the clock decides, and a millisecond may hold much.
    log = ContextLog(MemoryLog(3, clock=lambda: next(ticks)))
    ctx = log.context("refunds/1")
    ctx.add_message("user", "Please refund order W-204.", event_ids=["m1"])
    ctx.add_message("user", "secret", scope="internal", event_ids=["m2"])
    ctx.set_fact("order.total", 129.9, event_ids=["f1"])
    ctx.set_fact("order.old", 1, expires_at=5, event_ids=["f2"])
    ctx.set_fact("mood", "good", event_ids=["f3"])
    with log.decision("refund", agent="refunds") as decision:
        decision.read(ctx, scopes=["default"], fact_prefixes=["order."])
    assert audit_decision(log.log, decision.id).failed == ()
    ctx.add_message("user", "later", event_ids=["m3"])
    read, *_ = (one.event.payload for one in log.context("decisions/refunds").accepted())
    (stream,) = read["streams"]
    return log, {name: value for name, value in read.items() if name != "streams"} | {"decision_id": None}, dict(stream)


def forged(log: ContextLog, read: dict[str, Any], *streams: dict[str, Any]) -> str:
    """Record a decision on a read that somebody made up; the read's id."""
    receipts = log.context("decisions/forger")
    read_id = receipts.append(ContextRead(**read, streams=tuple(StreamRead(**stream) for stream in streams))).event_id
    receipts.append(DecisionRecorded(decision_id="forged", kind="refund", reads=(read_id,)))
    return read_id

"""A log that has every kind of row of the views, and a value in every column."""

from __future__ import annotations

from typing import Any

from ctxlog import ContextLog
from ctxlog.log.memory import MemoryLog
from ctxlog.model.events import ContextRead, DecisionRecorded, StreamRead
from ctxlog.model.records import NewRecord, Origin
from writing import expecting, foreign, group, publish, raw


def filled() -> ContextLog:
    """A log of two partitions that has every kind of row, and a value in every column."""
    log = ContextLog(MemoryLog(2))
    publish(log.log)

    def send(stream_id: str, kind: str, event_id: str, **members: Any) -> None:
        log.log.append([raw(log.log, stream_id, kind, event_id, **members)])

    send("a", "MessageAppended", "m1", content="hello", name="ann", agent_id="planner", occurred_at=5)
    send("a", "MessageAppended", "m2", parts="[1]", role="tool", tool_call_id="old")
    send("a", "ToolCalled", "c1", call_id="c", message_id="m1", source_id="s", idempotency_key="k", lease_expires_at=9)
    send("a", "ToolReturned", "r1", call_id="c", failed=True, content="no", parts="[]", name="f")
    send("a", "ToolCalled", "c2", call_id="c", message_id="m1", source_id="s", idempotency_key="k")
    send("a", "ToolReturned", "r2", call_id="c", content="yes")
    send("a", "FactSet", "f1", valid_from=1, valid_to=2, expires_at=3, trace={"causation_id": "x", "correlation_id": "y"})
    send("a", "FactRemoved", "f2", precondition=expecting(expected_target_version=7))
    send("a", "FactSet", "f3", precondition=expecting(expected_version=3, expected_head="00"))
    send("a", "MessageRedacted", "d1", message_id="r2", reason="private")
    send("a", "FactRemoved", "f4", key="nothing")
    send("a", "StreamClosed", "e1", reason="done")
    send("a", "ExtensionRecorded", "x1")
    send("b", "FactSet", "g1", append=group("g1", 0, 2))
    send("b", "FactSet", "h1", append=group("h1", 0, 2))
    send("b", "FactSet", "g2", key="l", append=group("g1", 1, 2))
    head = log.context("a").replay(6).manifest.chain_head
    send("branch", "StreamForked", "f", parent_stream_id="a", parent_version=6, parent_chain_head=head)
    send("branch", "MessageRedacted", "d2", message_id="m1")
    read = StreamRead(stream_id="a", version=6, chain_head=head, revealed=("m1",), withheld=("m2",))
    also = StreamRead(stream_id="b", version=0, chain_head=head)
    decisions = log.context("decisions/planner")
    decisions.append(
        ContextRead(
            selection="{}", streams=(read, also), judged_at=7, selection_digest=head, decision_id="d", token_counter="words",
            token_counter_version="1",
        )
    )  # fmt: skip
    decisions.append(
        DecisionRecorded(
            decision_id="d", kind="answer", reads=("r",), model="m", parameters="{}", outcome='"yes"', rationale="why",
            tool_calls=("c",), failed=True, failure="TimeoutError", started_at=1_999, ended_at=5_000,
        )
    )  # fmt: skip
    log.log.append(foreign(log.log, "b", "org.example.Odd", "o1"))
    log.log.append(foreign(log.log, "b", "control.Started", "o2"))
    log.log.append(foreign(log.log, "later", "ctxlog.FromTheFuture", "n1"))
    send("later", "FactSet", "n2")
    log.log.append([NewRecord(0, b"\xff", b"?"), NewRecord(1, b"a" if partition_of_a(log) == 0 else b"b", b"?")])
    log.log.append([NewRecord(partition_of_a(log), b"a", b"?", Origin("no", 0, 0, 10**19))])
    send("a", "FactSet", "misplaced", partition=1 - partition_of_a(log))
    send("b", "FactSet", "z")
    return log


def partition_of_a(log: ContextLog) -> int:
    return log.replayer.reader.partition("a")

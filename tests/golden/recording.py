"""Records the golden log in `unreleased/`: run by hand when an ADR changes the log format or the fold before 0.1.0, never after.

    python tests/golden/recording.py

One log of two partitions with everything that a reader must judge: each event type, appends torn, interleaved, in conflict and
abandoned, copies sent again, preconditions, forks, redactions, anomalies, both framings, foreign and newer types, records that
are misplaced or undecodable, void and repeated control records, and decisions as the client records them. Recorded again, it
comes out the same as far as nothing has changed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ctxlog import ContextLog, Selection
from ctxlog.codec.avro import encode_event
from ctxlog.codec.control import Control, encode_control, genesis, schema_published
from ctxlog.codec.framing import frame_confluent, frame_single_object
from ctxlog.codec.schemas import Schema, shipped
from ctxlog.core.digests import state_digest
from ctxlog.core.evolve import KNOWN_TYPES
from ctxlog.core.partitioner import partition_of
from ctxlog.errors import IntegrityError
from ctxlog.log.memory import MemoryLog
from ctxlog.model.points import AtDecision, AtVersion
from ctxlog.model.records import NewRecord, Record
from ctxlog.replay.history import history
from ctxlog.replay.replayer import Replayer

HERE = Path(__file__).parent / "unreleased"
TYPES = sorted(KNOWN_TYPES)
MAIN, FORK, CROWD, NEWER = "refunds/case-1", "refunds/case-1-again", "shared/crowd", "refunds/newer"
CASE, POLICY = "refunds/case-2", "shared/policy"
HEAD = "HEAD"
LOG_ID = uuid.UUID("3494cfd7-42cb-4dd6-8d59-a3728671c247")


class Recorder:
    """Writes the golden log, with ids and times that never change."""

    def __init__(self) -> None:
        self.now = 1_790_000_000_000
        with patch("uuid.uuid4", lambda: LOG_ID):
            self.log = MemoryLog(2, clock=self._tick, offset_step=2)
        self.number = 0
        for partition in range(2):
            schemas = [schema_published(self.log.log_id, shipped(name), number) for number, name in enumerate(TYPES)]
            self.log.append([encode_control(partition, control) for control in schemas])

    def _tick(self) -> int:
        self.now += 7
        return self.now

    def meta(self, stream_id: str, **more: Any) -> dict[str, Any]:
        """Meta of the next event."""
        self.number += 1
        return {
            "event_id": f"01999999-0000-7000-8000-{self.number:012d}",
            "stream_id": stream_id,
            "agent_id": "refunds",
            "actor": "agent:refunds",
            "occurred_at": 1_790_000_000_000_000 + self.number,
            "scope": "default",
            "target": None,
            "append": None,
            "precondition": None,
            "trace": None,
            "privacy": None,
            **more,
        }

    def send(self, type_: str, meta: dict[str, Any], *, confluent: bool = False, **payload: Any) -> str:
        """Append one event; its id."""
        body = encode_event(f"ctxlog.{type_}", meta, payload)
        schema = shipped(f"ctxlog.{type_}")
        self.raw(
            meta["stream_id"],
            frame_confluent(TYPES.index(schema.name), body) if confluent else frame_single_object(schema.fingerprint, body),
        )
        return str(meta["event_id"])

    def raw(self, key: str, value: bytes, partition: int | None = None) -> None:
        """Append any bytes."""
        own = partition_of(key.encode(), 2)
        self.log.append([NewRecord(own if partition is None else partition, key.encode(), value)])

    def message(self, stream_id: str, text: str | None, role: str = "user", *, confluent: bool = False, **more: Any) -> str:
        """Append a message; its id."""
        payload = {"role": role, "content": text, "parts": None, "name": None, "tool_call_id": None}
        return self.send("MessageAppended", self.meta(stream_id, **more), confluent=confluent, **payload)


def precondition(version: int | None = None, head: str | None = None, target: int | None = None) -> dict[str, Any]:
    """A precondition group."""
    return {"expected_version": version, "expected_head": head, "expected_target_version": target}


def fact(key: str, value: str, **times: int | None) -> dict[str, Any]:
    """Payload of a fact."""
    return {"key": key, "value": value, "valid_from": None, "valid_to": None, "expires_at": None, **times}


def call(call_id: str, message_id: str | None = None, **more: Any) -> dict[str, Any]:
    """Payload of a call."""
    arguments = '{"order": "W-204", "amount": 9007199254740993}'
    payload = {"call_id": call_id, "message_id": message_id, "name": "pay", "arguments": arguments, "source_id": "call_1"}
    return payload | {"idempotency_key": None, "lease_expires_at": None} | more


def result(call_id: str, content: str | None, *, failed: bool = False, parts: str | None = None) -> dict[str, Any]:
    """Payload of a result."""
    return {"call_id": call_id, "failed": failed, "content": content, "parts": parts, "name": "pay"}


def record_main(to: Recorder) -> None:
    """One conversation with everything in it."""
    first = to.message(MAIN, "Please refund order W-204.\x00\x1b[31m \U0001f600", precondition=precondition(0))
    to.message(MAIN, "Not first", precondition=precondition(0))
    to.message(MAIN, None, "assistant", confluent=True)
    asks = to.message(
        MAIN, "I look it up.", "assistant", scope="internal", privacy={"data_subjects": ["p-1"], "sealed": ["/content"]}
    )
    to.send(
        "ToolCalled", to.meta(MAIN, target="call:c-1"), **call("c-1", asks, idempotency_key="refund-W-204", lease_expires_at=5)
    )
    to.send(
        "ToolCalled", to.meta(MAIN, target="call:c-1"), **call("c-1", asks, idempotency_key="refund-W-204", lease_expires_at=9)
    )
    answer = to.send("ToolReturned", to.meta(MAIN, target="call:c-1"), **result("c-1", "paid"))
    to.send("ToolReturned", to.meta(MAIN, target="call:c-1"), **result("c-1", "paid again"))
    to.send("ToolCalled", to.meta(MAIN, target="call:c-2"), **call("c-2"))
    to.send("ToolReturned", to.meta(MAIN, target="call:c-2"), **result("c-2", None, failed=True, parts='{"error": 1e400}'))
    to.send("ToolCalled", to.meta(MAIN, target="call:c-3"), **call("c-3", "nobody"))
    for key in ("\ue000", "\U0001f600", "limit"):
        to.send("FactSet", to.meta(MAIN, target=f"fact:{key}"), **fact(key, '"\\ud800"', expires_at=2**53 - 1))
    to.send("FactSet", to.meta(MAIN, target="fact:limit", precondition=precondition(target=1)), **fact("limit", "1"))
    to.send("FactSet", to.meta(MAIN, target="fact:other"), **fact("limit", "2"))
    to.send("FactSet", to.meta(MAIN, target="fact:late"), **fact("late", "3", valid_to=2**53))
    to.send("FactRemoved", to.meta(MAIN, target="fact:limit"), key="limit")
    to.send("FactRemoved", to.meta(MAIN, target="fact:limit"), key="limit")
    to.send("MessageRedacted", to.meta(MAIN, target=f"message:{first}"), message_id=first, reason="asked for")
    to.send("MessageRedacted", to.meta(MAIN, target=f"message:{answer}"), message_id=answer, reason=None)
    to.send("ExtensionRecorded", to.meta(MAIN), name="org.example.Approved", data="{}")
    to.message(MAIN, "The writer's clock is beyond every calendar.", occurred_at=2**60)
    group_meta = [to.meta(MAIN) for _ in range(3)]
    payload = {"role": "user", "parts": None, "name": None, "tool_call_id": None}
    for index in (2, 0, 1):
        group = {"id": group_meta[0]["event_id"], "index": index, "count": 3}
        to.send("MessageAppended", group_meta[index] | {"append": group}, content=f"part {index}", **payload)
        to.message(MAIN, f"between {index}")
    to.send("MessageAppended", group_meta[1], content="part 1", **payload)
    torn = to.meta(MAIN)
    to.send(
        "MessageAppended",
        torn | {"append": {"id": torn["event_id"], "index": 0, "count": 2}},
        content="never complete",
        **payload,
    )
    bad = to.meta(MAIN)
    to.send("MessageAppended", bad | {"append": {"id": bad["event_id"], "index": 1, "count": 2}, "precondition": precondition(3)},
            content="malformed", **payload)  # fmt: skip
    head = Replayer(to.log).replay(MAIN, AtVersion(5)).manifest.chain_head
    to.message(MAIN, "anchored to a head that is past", precondition=precondition(head=head))
    to.raw(MAIN, b"\xc3\x01" + b"\x00" * 8 + b"no such schema")
    to.raw(MAIN, b"")
    sent = to.log.read(partition_of(MAIN.encode(), 2), 0, 2**40, key=MAIN.encode())
    to.raw("refunds/somebody-else", next(record.value or b"" for record in sent))
    to.send("StreamClosed", to.meta(MAIN), reason="done")
    to.send("StreamClosed", to.meta(MAIN), reason="done twice")
    to.message(MAIN, "after the end")
    read = [{"stream_id": MAIN, "version": 4, "chain_head": head, "revealed": [first], "withheld": []}]
    seen = to.send("ContextRead", to.meta("decisions/refunds"), decision_id="d-1", selection="{}", streams=read, judged_at=1,
                   token_counter=None, token_counter_version=None, selection_digest=head)  # fmt: skip
    to.send("DecisionRecorded", to.meta("decisions/refunds"), decision_id="d-1", kind="refund", model="m", reads=[seen],
            parameters=None, rationale="why", tool_calls=["c-1"], failure=None,
            outcome='"yes"', failed=False, started_at=1, ended_at=2)  # fmt: skip


def record_others(to: Recorder) -> None:
    """A fork, a crowd of torn appends, types of strangers and of newer releases, control records without effect."""
    parent = Replayer(to.log).replay(MAIN, AtVersion(7)).manifest.chain_head
    to.send("StreamForked", to.meta(FORK), parent_stream_id=MAIN, parent_version=7, parent_chain_head=parent)
    to.message(FORK, "Another way.")
    to.send("ToolReturned", to.meta(FORK, target="call:c-1"), **result("c-1", "not open in the fork"))
    to.send("StreamForked", to.meta(FORK), parent_stream_id=MAIN, parent_version=1, parent_chain_head=parent)
    for number in range(66):
        meta = to.meta(CROWD)
        to.message(CROWD, f"torn {number}", append={"id": meta["event_id"], "index": 1, "count": 2})
    to.message(CROWD, "alone")
    field = json.loads(shipped("ctxlog.StreamClosed").text)["fields"][0]
    for partition in range(2):
        for name in ("org.example.Noted", "ctxlog.MessageForgotten"):
            schema = Schema(json.dumps({"type": "record", "name": name, "fields": [field, {"name": "weight", "type": "double"}]}))
            to.log.append([encode_control(partition, schema_published(to.log.log_id, schema, None))])
        recursive = '{"type":"record","name":"x.R","fields":[{"name":"meta","type":"x.R"}]}'
        void = Control("SchemaPublished", {"log_id": to.log.log_id, "name": "x.R", "fingerprint": "00" * 8, "digest": "00" * 32,
                                           "registry_id": None, "schema": recursive})  # fmt: skip
        to.log.append([encode_control(partition, void), encode_control(partition, genesis(to.log.log_id, None, 2))])
        to.log.append([encode_control(partition, genesis("another log", None, 2))])
    closed = shipped("ctxlog.StreamClosed").node["fields"][0]
    for stream_id, name in ((MAIN, "org.example.Noted"), (NEWER, "org.example.Noted"), (NEWER, "ctxlog.MessageForgotten")):
        schema = Schema(json.dumps({"type": "record", "name": name, "fields": [closed, {"name": "weight", "type": "double"}]}))
        meta_only = encode_event("ctxlog.StreamClosed", to.meta(stream_id), {"reason": None})[:-1]
        to.raw(stream_id, frame_single_object(schema.fingerprint, meta_only + b"\x00" * 8))
    to.message(NEWER, "after the newer event")


def record_decided(to: Recorder) -> None:
    """Decisions, by the client: parts and whole states of several streams, one of them a fork; then all of it is changed."""
    ticks = count()
    clock = patch("time.time_ns", lambda: 1_790_000_100_000_000_000 + next(ticks) * 1_000_000)
    with clock, patch("os.urandom", lambda size: next(ticks).to_bytes(size, "big")):
        log = ContextLog(to.log)
        case, policy, fork = log.context(CASE), log.context(POLICY, actor="person:ada"), log.context(FORK)
        policy.add_message("system", "Refund what is below the limit.")
        policy.set_fact("limit", 250)
        asked = case.add_message("user", "Please refund order W-305, 129,90 \u20ac.").event_id
        case.add_message("assistant", "The customer is angry.", scope="internal")
        case.set_fact("order.W-305.total", 129.9)
        case.set_fact("order.W-305.offer", "a voucher", expires_at=1)
        case.set_fact("mood", "angry")
        case.add_tool_result(case.add_tool_call("look", {"order": "W-305", "id": 2**53 + 1}).event_id, {"total": 129.9})
        with log.decision("refund", agent="refunds", model="m", parameters={"temperature": 0}) as decision:
            decision.read(case, max_messages=2, scopes=["default"], fact_prefixes=["order."])
            limit = policy.state.facts["limit"].parsed()
            fork.state  # noqa: B018 - is recorded
            case.tool_once("pay", {"order": "W-305", "amount": 129.9}, run=lambda _: "paid", key="refund-W-305")
            with log.decision("review", agent="audits") as inner:
                inner.read(Selection(streams=(CASE, "shared/*"), max_messages=5))
                inner.outcome = "fine"
            decision.read(case)
            decision.outcome, decision.rationale = {"refund": 129.9}, f"below the limit of {limit}"
        case.redact_message(asked, reason="asked for")
        case.remove_fact("order.W-305.total")
        policy.set_fact("limit", 100)
        fork.add_message("user", "And on.")


def stored(record: Record) -> dict[str, Any]:
    """The JSON form of a record."""
    return {
        "partition": record.partition,
        "offset": record.offset,
        "recorded_at": record.recorded_at,
        "key": (record.key or b"").decode(),
        "value": (record.value or b"").hex(),
    }


def expected(log: MemoryLog) -> dict[str, Any]:
    """What every release must make of the log: decisions, and per version chain head and state digest."""
    replayer = Replayer(log)
    streams: dict[str, Any] = {}
    for partition in range(log.partitions):
        for key in log.keys(partition):
            stream_id = key.decode()
            if stream_id.startswith("ctxlog:"):
                continue
            entries = list(history(replayer, stream_id, replayer.end(stream_id)))
            versions: list[Any] = []
            for version in range(1 + sum(entry.outcome == "accepted" for entry in entries)):
                try:
                    state = replayer.replay(stream_id, AtVersion(version)).state
                    versions.append([state.chain_head, state_digest(state.to_dict())])
                except IntegrityError as error:
                    versions.append(type(error).__name__)
            streams[stream_id] = {
                "decisions": sorted([entry.partition, entry.offset, entry.outcome, entry.version] for entry in entries),
                "versions": versions,
                "anomalies": [list(anomaly) for anomaly in anomalies(replayer, stream_id)],
            }
    return streams


def reads(log: MemoryLog) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each read that a recorded decision names, with the decision's id; in the log's order."""
    replayer = Replayer(log)
    for name in ("decisions/audits", "decisions/refunds"):
        named: dict[str, dict[str, Any]] = {}
        for accepted in replayer.accepted(name, replayer.end(name)):
            event = accepted.event
            if event.type == "ctxlog.ContextRead":
                named[event.meta["event_id"]] = event.payload
            else:
                yield from ((event.payload["decision_id"], named[event_id]) for event_id in event.payload["reads"])


def decided(log: MemoryLog) -> dict[str, Any]:
    """What every release must make of the points `decision:ID`: version, chain head and state digest of each stream read."""
    replayer, found = Replayer(log), dict[str, Any]()
    for decision_id, read in reads(log):
        for stream in read["streams"]:
            try:
                manifest = replayer.replay(stream["stream_id"], AtDecision(decision_id)).manifest
                said: Any = [manifest.version, manifest.chain_head, manifest.state_digest]
            except IntegrityError as error:
                said = type(error).__name__
            found.setdefault(decision_id, {})[stream["stream_id"]] = said
    return found


def anomalies(replayer: Replayer, stream_id: str) -> list[Any]:
    """Anomalies of the last version that has a state."""
    cursor = replayer.open(stream_id, end=0)
    replayer.advance(cursor, replayer.end(stream_id))
    return list(cursor.fold.evolving.anomalies)


def main() -> None:
    """Record the log and what is made of it."""
    recorder = Recorder()
    record_main(recorder)
    record_others(recorder)
    record_decided(recorder)
    log = recorder.log
    records = [record for partition in range(2) for record in log.read(partition, 0, log.bounds(partition).end)]
    HERE.mkdir(exist_ok=True)
    (HERE / "log.jsonl").write_text("".join(json.dumps(stored(record)) + "\n" for record in records), "utf-8")
    about = {"log_id": log.log_id, "partitions": log.partitions, "streams": expected(log), "decided": decided(log)}
    (HERE / "expected.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

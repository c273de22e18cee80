"""What every view must show, computed from the history by lists and loops: no SQL, none of the projector's code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import oracle
from ctxlog.log.protocol import EventLog
from ctxlog.replay.history import Entry, history
from ctxlog.replay.replayer import Replayer

Row = dict[str, Any]


def micros(value: int | None) -> int | None:
    return value if value is not None and abs(value) < 2**53 else None


class Told:
    """One stream: its entries, its own state, and the events that took effect."""

    def __init__(self, replayer: Replayer, stream_id: str) -> None:
        self.stream_id = stream_id
        self.entries = list(history(replayer, stream_id, replayer.end(stream_id)))
        self.accepted = [entry for entry in self.entries if entry.outcome == "accepted"]
        records = [
            (
                entry.version or 0,
                entry.effect_offset,
                oracle.OracleRecord(entry.offset, entry.type, entry.meta, entry.payload, digest),
            )
            for entry in self.accepted
            for digest in [bytes.fromhex(entry.digest)]
        ]
        self.state, anomalies = oracle.fold(stream_id, records)
        odd = {anomaly["version"] for anomaly in anomalies}
        self.effective = [entry for entry in self.accepted if entry.version not in odd]

    def of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.effective if entry.type in [f"ctxlog.{kind}" for kind in kinds]]


def about(entry: Entry, *names: str) -> Row:
    trace = entry.meta["trace"] or {}
    every = {
        "version": entry.version,
        "recorded_at": entry.time * 1000,
        "occurred_at": micros(entry.meta["occurred_at"]),
        "actor": entry.meta["actor"],
        "agent_id": entry.meta["agent_id"],
        "event_id": entry.meta["event_id"],
        "scope": entry.meta["scope"],
        "causation_id": trace.get("causation_id"),
        "correlation_id": trace.get("correlation_id"),
    }
    return {name: every[name] for name in names}


def fact_history(told: Told) -> list[Row]:
    events = told.of("FactSet", "FactRemoved")
    rows = []
    for number, entry in enumerate(events):
        later = [other for other in events[number + 1 :] if other.payload["key"] == entry.payload["key"]]
        payload = dict.fromkeys(("value", "valid_from", "valid_to", "expires_at")) | entry.payload
        rows.append(
            {
                "stream_id": told.stream_id,
                "removed": entry.type == "ctxlog.FactRemoved",
                **payload,
                "recorded_from": entry.time * 1000,
                "recorded_until": later[0].time * 1000 if later else None,
                "replaced_by": later[0].version if later else None,
                **about(
                    entry, "version", "scope", "occurred_at", "actor", "agent_id", "event_id", "causation_id", "correlation_id"
                ),
            }
        )
    return rows


def facts(told: Told) -> list[Row]:
    by_id = {entry.meta["event_id"]: entry for entry in told.of("FactSet")}
    return [
        {
            "stream_id": told.stream_id,
            "key": key,
            **fact,
            **about(by_id[fact["event_id"]], "version", "recorded_at", "occurred_at", "actor", "agent_id"),
        }
        for key, fact in told.state["facts"].items()
    ]


def messages(told: Told) -> list[Row]:
    by_id = {entry.meta["event_id"]: entry for entry in told.of("MessageAppended", "ToolReturned")}
    return [
        {
            "stream_id": told.stream_id,
            "position": position,
            "message_id": message["id"],
            **{name: value for name, value in message.items() if name != "id"},
            **about(by_id[message["id"]], "version", "recorded_at", "actor", "agent_id"),
        }
        for position, message in enumerate(told.state["messages"])
    ]


def tool_calls(told: Told) -> list[Row]:
    rows = []
    for call_id, call in told.state["tool_calls"].items():
        events = [entry for entry in told.of("ToolCalled", "ToolReturned") if entry.payload["call_id"] == call_id]
        calls = [entry for entry in events if entry.type == "ctxlog.ToolCalled"]
        answer = events[-1] if events[-1].type == "ctxlog.ToolReturned" else None
        same = {name: value for name, value in call.items() if name not in ("status", "lease")}
        rows.append(
            {
                "stream_id": told.stream_id,
                "call_id": call_id,
                "state": call["status"],
                **same,
                "lease_event_id": (call["lease"] or {}).get("event_id"),
                "lease_expires_at": (call["lease"] or {}).get("expires_at"),
                "attempts": len(calls),
                "first_called_at": calls[0].time * 1000,
                "called_at": calls[-1].time * 1000,
                "returned_at": answer and answer.time * 1000,
                "duration_ms": answer and answer.time - calls[-1].time,
                "changed_version": events[-1].version,
                **about(calls[0], "version", "actor", "agent_id"),
            }
        )
    return rows


def decisions(told: Told) -> list[Row]:
    rows = []
    for entry in told.of("DecisionRecorded"):
        started, ended = micros(entry.payload["started_at"]), micros(entry.payload["ended_at"])
        took = None if started is None or ended is None else int(abs(ended - started) // 1000 * (1 if ended >= started else -1))
        names = ("version", "recorded_at", "occurred_at", "actor", "agent_id", "event_id", "causation_id", "correlation_id")
        times = {"started_at": started, "ended_at": ended, "duration_ms": took}
        rows.append({"stream_id": told.stream_id, **entry.payload, **times, **about(entry, *names)})
    return rows


def reads(told: Told) -> list[Row]:
    names = ("decision_id", "selection", "token_counter", "token_counter_version", "selection_digest")
    return [
        {
            "stream_id": told.stream_id,
            "read_id": entry.meta["event_id"],
            "read_stream_id": read["stream_id"],
            "read_version": read["version"],
            "read_chain_head": read["chain_head"],
            "revealed": read["revealed"],
            "withheld": read["withheld"],
            "judged_at": micros(entry.payload["judged_at"]),
            **{name: entry.payload[name] for name in names},
            **about(entry, "version", "recorded_at", "actor", "agent_id"),
        }
        for entry in told.of("ContextRead")
        for read in entry.payload["streams"]
    ]


def contexts(told: Told) -> list[Row]:
    if not told.accepted:
        return []
    state, parent, calls = told.state, told.state["parent"] or {}, told.state["tool_calls"]
    last = state["messages"][-1] if state["messages"] else {}
    order = {row["call_id"]: row["version"] for row in tool_calls(told)}
    return [
        {
            "stream_id": told.stream_id,
            "agent_id": told.accepted[0].meta["agent_id"],
            "version": state["version"],
            "chain_head": state["chain_head"],
            "closed": state["closed"],
            "parent_stream_id": parent.get("stream_id"),
            "parent_version": parent.get("version"),
            "messages": len(state["messages"]),
            "last_role": last.get("role"),
            "last_content": last.get("content"),
            "facts": len(state["facts"]),
            "fact_values": {key: fact["value"] for key, fact in state["facts"].items()},
            "tool_calls": len(order),
            "open_calls": [call_id for call_id in sorted(order, key=order.__getitem__) if calls[call_id]["status"] == "open"],
            "changed_at": told.accepted[-1].time * 1000,
            "newer": None,
        }
    ]


def agents(log: EventLog, every: Iterable[Told]) -> list[Row]:
    sizes: dict[str, list[tuple[int, int]]] = {}
    for told in every:
        partition = told.entries[0].partition
        end = log.bounds(partition).end
        records = log.read(partition, 0, end, key=told.stream_id.encode())
        sizes[told.stream_id] = [(record.time, len(record.key or b"") + len(record.value or b"")) for record in records]
    latest = max(time for records in sizes.values() for time, _ in records)
    rows: dict[str | None, list[Told]] = {}
    for told in every:
        rows.setdefault(told.accepted[0].meta["agent_id"] if told.accepted else None, []).append(told)
    found = []
    for agent_id, streams in rows.items():
        records = [record for told in streams for record in sizes[told.stream_id]]
        recent = [size for time, size in records if time > latest - 86_400_000]
        found.append(
            {
                "agent_id": agent_id,
                "streams": len(streams),
                "events": sum(len(told.accepted) for told in streams),
                "rejected": sum(entry.outcome not in ("accepted", "open") for told in streams for entry in told.entries),
                "first_at": min(time for time, _ in records) * 1000,
                "last_at": max(sizes[told.stream_id][-1][0] for told in streams) * 1000,
                "open_calls": sum(call["status"] == "open" for told in streams for call in told.state["tool_calls"].values()),
                "bytes": sum(size for _, size in records),
                "records_last_day": len(recent),
                "bytes_last_day": sum(recent),
            }
        )
    return found

"""Forks of forks whose events collide with what they inherit: the same ids and calls on every level, in all orders."""

from __future__ import annotations

import random
from typing import Any

from ctxlog.testing.strategies import HEAD, EventDraft
from unit.test_core_against_oracle import Play

STREAMS = ("planner/a", "planner/b", "planner/c")
_IDS = [f"m{number}" for number in range(5)]
_CALLS = ("x", "y", "m1")
_KEYS = ("k", "l")


def forked_play(seed: int, events_max: int = 14) -> Play:
    """A log of three streams, each a fork of the one before it, written to in turns."""
    dice = random.Random(seed)
    play = Play(dice.choice((1, 3)), 1)
    versions = dict.fromkeys(STREAMS, 0)
    for number, stream_id in enumerate(STREAMS):
        if number:
            parent = STREAMS[number - 1]
            at = versions[parent] if dice.random() < 0.7 else dice.randint(0, versions[parent])
            payload = {"parent_stream_id": parent, "parent_version": at, "parent_chain_head": HEAD}
            _send(play, stream_id, "StreamForked", "fork", payload, None)
        for _ in range(dice.randint(1, events_max)):
            # Now and then the parent goes on, which its forks must not see.
            into = stream_id if dice.random() < 0.8 else STREAMS[dice.randint(0, number)]
            _send(play, into, *_event(dice))
        for each in STREAMS:
            versions[each] = version_of(play, each)
    return play


def version_of(play: Play, stream_id: str) -> int:
    version = 0
    while play.head_of(stream_id, version + 1) is not None:
        version += 1
    return version


def _send(play: Play, stream_id: str, kind: str, event_id: str, payload: dict[str, Any], target: str | None) -> None:
    meta = {
        "event_id": event_id, "stream_id": stream_id, "agent_id": "planner", "actor": "agent:planner", "occurred_at": None,
        "scope": "default", "target": target, "append": None, "precondition": None, "trace": None, "privacy": None,
    }  # fmt: skip
    play.send(EventDraft(f"ctxlog.{kind}", meta, payload), confluent=False, damage=None)


def _event(dice: random.Random) -> tuple[str, str, dict[str, Any], str | None]:
    event_id = dice.choice(_IDS) if dice.random() < 0.6 else f"e{dice.randrange(10**9)}"
    said = {"content": dice.choice(("one", None)), "parts": dice.choice((None, "[]")), "name": None}
    match dice.choice(("message", "call", "call", "call", "result", "result", "result", "redact", "fact", "remove")):
        case "message":
            return "MessageAppended", event_id, {"role": "user", **said, "tool_call_id": None}, None
        case "call":
            call_id = dice.choice(_CALLS)
            payload = {
                "call_id": call_id,
                "name": dice.choice(("f", "f", "f", "f", "f", "g")),
                "arguments": dice.choice(("{}", "{}", "{}", "{}", "{}", "[]")),
                "message_id": dice.choice((None, None, None, None, *_IDS)),
                "source_id": None,
                "idempotency_key": dice.choice(("key", "key", "key", "key", "other", None)),
                "lease_expires_at": dice.choice((None, 7)),
            }
            return "ToolCalled", event_id, payload, f"call:{call_id}"
        case "result":
            call_id = dice.choice(_CALLS)
            return "ToolReturned", event_id, {"call_id": call_id, "failed": dice.random() < 0.5, **said}, f"call:{call_id}"
        case "redact":
            message_id = dice.choice(_IDS)
            return "MessageRedacted", event_id, {"message_id": message_id, "reason": None}, f"message:{message_id}"
        case "fact":
            key = dice.choice(_KEYS)
            times = {"valid_from": None, "valid_to": None, "expires_at": None}
            return "FactSet", event_id, {"key": key, "value": str(dice.randrange(9)), **times}, f"fact:{key}"
        case _:
            key = dice.choice(_KEYS)
            return "FactRemoved", event_id, {"key": key}, f"fact:{key}"

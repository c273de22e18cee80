"""What can be said with an append, and what it is made into. Without pydantic, which only writers wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypedDict


class AppendOptions(TypedDict, total=False):
    """What can be said with any append. All are optional.

    Attributes:
        expected_version: Version that the stream must be at; 0: it must not exist.
        expected_head: Chain head that the stream must have, 64 hex digits.
        expected_targets: Version of each target's last change, as in `{"fact:limit": 3}`; 0: never changed. Each target must be
            one that the append changes.
        scope: Which readers the events are meant for.
        occurred_at: When it happened: `datetime` with a zone, or µs since 1970 UTC; None where unknown; now where not given.
        actor: Who wrote it: `agent:|person:|tool:|system:` + id; the context's where not given.
        causation_id, correlation_id: The event that led to this one; what belongs together across streams.
        event_ids: Ids to use, one an event; version 7 UUIDs are made where not given. The same ids again come to the same
            outcome: the first copy decides.
        traceparent: W3C trace context for the records' headers, where the log has headers; None for none. Where not given, that
            of the current span, if the process uses OpenTelemetry.
    """

    expected_version: int | None
    expected_head: str | None
    expected_targets: Mapping[str, int]
    scope: str
    occurred_at: datetime | int | None
    actor: str
    causation_id: str | None
    correlation_id: str | None
    event_ids: Sequence[str]
    traceparent: str | None


class Writer(NamedTuple):
    """Who writes where: the stream, the agent that owns it, the actor."""

    stream_id: str
    agent_id: str | None
    actor: str


class Encoded(NamedTuple):
    """An event ready for the log: full name of its type, Avro body, headers for other tools."""

    type_name: str
    body: bytes
    headers: tuple[tuple[str, bytes], ...] = ()

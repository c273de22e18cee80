"""Headers of the records of an append, for tools that know nothing of ctxlog: W3C `traceparent`, and CloudEvents where asked for.

Nothing that is read from a log depends on them: the fold sees key and body only, a log without headers drops them, and a copy
leaves them behind. They say nothing that key and value do not say already.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from ctxlog.client.options import AppendOptions
from ctxlog.errors import InvalidInputError

Headers = tuple[tuple[str, bytes], ...]

TRACEPARENT = "traceparent"

CONTENT_TYPE = b"application/avro"
"""What the Kafka binding of CloudEvents writes for Avro (its section 3.2.5). It is about the body, behind the framing."""

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""Version 00, the only one (source: W3C Trace Context, section 3.2)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_traceparent(value: Any) -> str:
    """Return `value` if it is a W3C `traceparent`. Raises `InvalidInputError`, which never repeats it."""
    if not isinstance(value, str) or not _TRACEPARENT.fullmatch(value):
        raise InvalidInputError(
            "traceparent: expected 00-TRACE-SPAN-FLAGS as W3C Trace Context has it, in 32, 16 and 2 lower-case hex digits, no id "
            "all zero; nothing was appended"
        )
    return value


def trace_headers(options: AppendOptions) -> Headers:
    """The `traceparent` that an append gives its records: the option, otherwise the span that the caller is in.

    Raises:
        InvalidInputError: The option is no `traceparent`.
    """
    if "traceparent" in options:
        given = options["traceparent"]
        found = None if given is None else check_traceparent(given)
    else:
        found = _current_traceparent()
    return () if found is None else ((TRACEPARENT, found.encode("ascii")),)


def _current_traceparent() -> str | None:
    """Of OpenTelemetry's current span. Who uses OpenTelemetry has imported it; it is never imported here."""
    current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if current_span is None:  # Not there, or not there yet: another thread may be importing it.
        return None
    context = current_span().get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else None


def cloudevents_headers(log_id: str, type_name: str, meta: dict[str, Any]) -> Headers:
    """The attributes of an event as CloudEvents 1.0 in binary mode (Kafka protocol binding), in UTF-8.

    `source` names log and stream, because `source` and `id` together must name one event, and an event id is decided by stream:
    the same id in another stream is another event. Two records with the same pair are copies of one append, as the standard has
    it too.
    """
    stream_id, occurred_us = meta["stream_id"], meta["occurred_at"]
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": meta["event_id"],
        "ce_source": f"/ctxlog/{quote(log_id)}/{quote(stream_id)}",
        "ce_type": type_name,
        "ce_subject": stream_id,
    }
    if occurred_us is not None:
        time = _EPOCH + timedelta(microseconds=occurred_us)
        attributes["ce_time"] = time.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return (*((name, value.encode()) for name, value in attributes.items()), ("content-type", CONTENT_TYPE))

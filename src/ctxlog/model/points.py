"""Points: which state of a stream is meant. Written the same on the command line and in Python.

`latest`, `N` or `version:N`, `offset:N`, `time:ISO8601`, `occurred:ISO8601`, `event:ID`, `decision:ID`, `cut:FILE`; and
`STREAM@POINT`, split at the last `@`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from ctxlog.errors import PointError

_FORMS = "latest, N, version:N, offset:N, time:ISO8601, occurred:ISO8601, event:ID, decision:ID, cut:FILE"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[0-9]{1,18}\Z")


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest state when the question is asked."""

    def __str__(self) -> str:
        return "latest"


@dataclass(frozen=True, slots=True)
class AtVersion:
    """After `version` accepted events; 0 is the empty context."""

    version: int

    def __str__(self) -> str:
        return f"version:{self.version}"


@dataclass(frozen=True, slots=True)
class AtOffset:
    """Through the record at `offset` of the stream's own partition."""

    offset: int

    def __str__(self) -> str:
        return f"offset:{self.offset}"


@dataclass(frozen=True, slots=True)
class AtTime:
    """As of an instant of the log's clock: up to, and without, the first record that is later."""

    time_us: int

    def __str__(self) -> str:
        return f"time:{format_time(self.time_us)}"


@dataclass(frozen=True, slots=True)
class AtOccurred:
    """Up to the last event whose writer's clock was not later than an instant."""

    time_us: int

    def __str__(self) -> str:
        return f"occurred:{format_time(self.time_us)}"


@dataclass(frozen=True, slots=True)
class AtEvent:
    """After the event with this id took effect."""

    event_id: str

    def __str__(self) -> str:
        return f"event:{self.event_id}"


@dataclass(frozen=True, slots=True)
class AtDecision:
    """The version that a recorded decision had read."""

    decision_id: str

    def __str__(self) -> str:
        return f"decision:{self.decision_id}"


@dataclass(frozen=True, slots=True)
class AtCut:
    """The version that a cut file names for the stream."""

    path: str

    def __str__(self) -> str:
        return f"cut:{self.path}"


Point = Latest | AtVersion | AtOffset | AtTime | AtOccurred | AtEvent | AtDecision | AtCut


def parse_point(text: str | int) -> Point:
    """Read a point. A bare number is a version.

    Raises:
        PointError: It is none.
    """
    text = str(text).strip()
    if text == "latest":
        return Latest()
    if _NUMBER.match(text):
        return AtVersion(int(text))
    kind, colon, value = text.partition(":")
    if not colon or not value:
        raise PointError(f"point {text!r}: expected one of {_FORMS}")
    match kind:
        case "version" | "offset":
            if not _NUMBER.match(value):
                raise PointError(f"point {text!r}: expected a number from 0 after '{kind}:'")
            return AtVersion(int(value)) if kind == "version" else AtOffset(int(value))
        case "time":
            return AtTime(parse_time(value))
        case "occurred":
            return AtOccurred(parse_time(value))
        case "event":
            return AtEvent(value)
        case "decision":
            return AtDecision(value)
        case "cut":
            return AtCut(value)
        case _:
            raise PointError(f"point {text!r}: expected one of {_FORMS}")


def parse_stream_point(text: str) -> tuple[str, Point]:
    """Read `STREAM` or `STREAM@POINT`, split at the last `@`; a stream alone means its latest state.

    A stream whose own name holds `@` is named with a point: `a@b@latest`.
    """
    stream_id, at, point = text.rpartition("@")
    if not at:
        return text, Latest()
    return stream_id, parse_point(point)


def parse_time(text: str) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 time with a zone, or of one without, read as UTC.

    Raises:
        PointError: It is no such time.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise PointError(f"time {text!r}: expected ISO 8601, as in 2026-11-22T14:02:00Z") from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    delta = instant - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def format_time(time_us: int) -> str:
    """ISO 8601 in UTC, with as many digits of the second as there are; the number itself beyond the calendar's end."""
    try:
        instant = datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000)
    except (ValueError, OverflowError, OSError):
        return f"{time_us}us"
    return instant.isoformat(timespec="auto").replace("+00:00", "Z")

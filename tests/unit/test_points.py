"""Points as people write them: each form reads back as what it prints, and everything else is a typed error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxlog.errors import PointError
from ctxlog.model.points import (
    AtCut,
    AtDecision,
    AtEvent,
    AtOccurred,
    AtOffset,
    AtTime,
    AtVersion,
    Latest,
    format_time,
    parse_point,
    parse_stream_point,
    parse_time,
)

FORMS: list[tuple[str | int, Any]] = [
    ("latest", Latest()),
    (" latest\n", Latest()),
    (0, AtVersion(0)),
    (12, AtVersion(12)),
    ("12", AtVersion(12)),
    ("version:12", AtVersion(12)),
    ("version:012", AtVersion(12)),
    ("offset:0", AtOffset(0)),
    ("time:2026-11-22T14:02:00Z", AtTime(1_795_356_120_000_000)),
    ("time:2026-11-22T14:02:00.000001+00:00", AtTime(1_795_356_120_000_001)),
    ("time:2026-11-22T15:02:00+01:00", AtTime(1_795_356_120_000_000)),
    ("time:2026-11-22", AtTime(1_795_305_600_000_000)),
    ("time:1969-12-31T23:59:59.999999", AtTime(-1)),
    ("occurred:1970-01-01", AtOccurred(0)),
    ("event:a:b@c", AtEvent("a:b@c")),
    ("decision:d-1", AtDecision("d-1")),
    ("cut:dir/a cut.json", AtCut("dir/a cut.json")),
]


@pytest.mark.parametrize(("text", "point"), FORMS, ids=[str(text) for text, _ in FORMS])
def test_each_form_is_read(text: str | int, point: Any) -> None:
    assert parse_point(text) == point
    assert parse_point(str(point)) == point


BAD = [
    "", " ", "Latest", "newest", "-1", -1, "1.5", "+1", "\uff11", "1e3", "9" * 19, "version:", "version:-1", "version: 1",
    "version:x", "offset:", "offset:latest", "time:", "time:now", "time:14:02", "time:2026-13-01", "time:1795356120",
    "occurred:", "occurred:yesterday", "event:", "decision:", "cut:", "Version:1", "versions:1", "head:abc", ":", ":1",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=repr)
def test_everything_else_is_a_typed_error(text: str | int) -> None:
    with pytest.raises(PointError):
        parse_point(text)


@given(st.text(max_size=30))
def test_no_text_makes_reading_a_point_fail_in_another_way(text: str) -> None:
    for attempt in (text, f"time:{text}", f"version:{text}", f"occurred:{text}"):
        try:
            parse_point(attempt)
        except PointError:
            continue


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_a_time_is_printed_as_it_is_read(time_us: int) -> None:
    assert parse_time(format_time(time_us)) == time_us
    assert parse_point(str(AtTime(time_us))) == AtTime(time_us)


def test_a_time_beyond_the_calendar_is_printed_as_its_number() -> None:
    """Stored times are what writers claim."""
    for time_us in (2**53 - 1 + 10**18, -(2**62), 253_402_300_800_000_000):
        assert format_time(time_us) == f"{time_us}us"


def test_a_time_has_as_many_digits_as_it_needs() -> None:
    assert format_time(0) == "1970-01-01T00:00:00Z"
    assert format_time(1) == "1970-01-01T00:00:00.000001Z"
    assert format_time(-1) == "1969-12-31T23:59:59.999999Z"


@pytest.mark.parametrize(
    ("text", "stream_id", "point"),
    [
        ("a/b", "a/b", Latest()),
        ("a/b@3", "a/b", AtVersion(3)),
        ("a@b@latest", "a@b", Latest()),
        ("a/b@event:x", "a/b", AtEvent("x")),
        ("a/b@time:2026-11-22T14:02:00Z", "a/b", AtTime(1_795_356_120_000_000)),
    ],
)
def test_a_stream_may_carry_its_point_after_the_last_at_sign(text: str, stream_id: str, point: Any) -> None:
    assert parse_stream_point(text) == (stream_id, point)


def test_what_follows_the_last_at_sign_must_be_a_point() -> None:
    with pytest.raises(PointError):
        parse_stream_point("user@example.com")

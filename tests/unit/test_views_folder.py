"""Where the views of a log are published unless somebody says otherwise: never where those of another log are."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctxlog.errors import InvalidInputError
from ctxlog.wiring import views_folder


def test_each_log_has_a_folder_of_its_own() -> None:
    urls = (
        "embedded:.ctxlog", "embedded:other", "kafka://localhost:9092", "kafka://localhost:9092?topic=other", "kafka://localhost:9093",
        "kafka://elsewhere:9092", "kafka://local:9092", "kafka://[::1]:9092", "kafka://[::2]:9092", "kafka://[1::]:9092",
    )  # fmt: skip
    assert len({views_folder(url) for url in urls}) == len(urls)


def test_the_folder_can_be_told_from_the_url() -> None:
    assert views_folder("embedded:some/log") == Path("some/log/views")
    assert views_folder("kafka://Localhost:9092") == Path(".ctxlog/kafka/localhost-9092/ctxlog.events/views")
    assert views_folder("kafka://[::1]:9092?topic=a.b") == Path(".ctxlog/kafka/[--1]-9092/a.b/views")


def test_what_does_not_say_which_log_it_is_does_not_change_the_folder() -> None:
    """A cluster's brokers may be named in any order; a registry, properties and caches are no part of the log."""
    assert views_folder("kafka://b:9092,a:9092/?cache=off&registry=http://c:1") == views_folder("kafka://a:9092,b:9092")


@pytest.mark.parametrize(
    "url", ["memory:", "memory", "embedded:", "embedded", "kafka:", "kafka://..?topic=x", "kafka://a:1?topic=..", "x"]
)
def test_what_names_no_log_with_views_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="nothing was opened"):
        views_folder(url)

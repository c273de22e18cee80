"""Each `sql` block of the page about the views runs on a published file, and gives what stands under it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ctxlog.log.embedded import EmbeddedLog
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "views.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The log of the page, and its views, published."""
    folder, here = tmp_path_factory.mktemp("page"), Path.cwd()
    os.chdir(folder)
    try:
        for block in blocks("python"):
            exec(compile(block, str(PAGE), "exec"), {})  # noqa: S102 - our own page
    finally:
        os.chdir(here)
    log = EmbeddedLog(folder / ".ctxlog", create=False)
    projector = Projector(log, folder / ".current.duckdb")
    projector.run_once()
    publish(projector.store, folder / "current.duckdb")
    projector.close()
    log.close()
    with duckdb.connect(str(folder / "current.duckdb"), read_only=True) as opened:
        yield opened


def shown(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(shown, value))}]"
        case dict():
            return "{" + ", ".join(f"{key}={shown(each)}" for key, each in value.items()) + "}"
        case _:
            return str(value)


def test_sql_on_the_page_gives_what_the_page_shows(connection: duckdb.DuckDBPyConnection) -> None:
    found = blocks("sql")
    assert len(found) > 15
    for block in found:
        query, _, rest = block.partition(";\n")
        expected = [line.removeprefix("-- ") for line in rest.splitlines()]
        try:
            rows = [" | ".join(map(shown, row)) for row in connection.execute(query).fetchall()]
        except duckdb.InvalidInputException as error:
            rows = [str(error).splitlines()[0]]
        patterns = [".*".join(map(re.escape, line.split("…"))) for line in expected]
        assert len(rows) == len(patterns), query
        assert all(map(re.fullmatch, patterns, rows)), f"{query}\n{rows}"

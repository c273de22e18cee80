"""What README and docs show of Kafka is what happens: their `shellsession` blocks are typed at a real broker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from docs.test_docs import ROOT, Block, environment_of_a_reader, run_console

PAGES = [ROOT / "README.md", ROOT / "docs" / "how-to" / "kafka.md"]
_BLOCK = re.compile(r"^```shellsession\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_of_kafka_works(page: Path, kafka: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTXLOG_URL", raising=False)
    default, copied = kafka.topic(), kafka.topic()
    text, environment, found = page.read_text("utf-8"), environment_of_a_reader(), 0
    for match in _BLOCK.finditer(text):
        told = match[1].replace("localhost:9092?topic=ctxlog.events", f"{kafka.bootstrap}?topic={default}")
        told = told.replace("localhost:9092?topic=agents", f"{kafka.bootstrap}?topic={copied}")
        told = told.replace("localhost-9092/ctxlog.events", f"{kafka.bootstrap.replace(':', '-')}/{default}")
        # The pages name no topic where they type the default one.
        told = re.sub(r"kafka://localhost:9092(?=\s|$)", f"'kafka://{kafka.bootstrap}?topic={default}'", told)
        told = re.sub(r"^(\$ export \w+=)'(.*)'$", r"\1\2", told, flags=re.M)
        assert "localhost" not in told
        run_console(Block("shellsession", told, text.count("\n", 0, match.start()) + 2), tmp_path, page, environment)
        found += 1
    assert found

"""A projector killed -9 at any moment: no row missing, doubled or changed, and what it published is whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ctxlog import ContextLog
from killed_projectors import kill_in_a_loop
from writing import publish


def kill(tmp_path: Path, kills: int) -> None:
    url = f"embedded:{tmp_path / 'log'}"
    with ContextLog.open(url) as log:
        publish(log.log)
    records, hit = kill_in_a_loop(url, tmp_path / "views", kills, 20261125)
    print(f"{kills} kills, {hit} of a projector that had kept a batch, {records:,} records", file=sys.stderr)
    assert hit > kills // 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_projector_killed_in_a_loop_misses_doubles_and_changes_nothing(tmp_path: Path) -> None:
    kill(tmp_path, 25)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_kills_of_a_projector_miss_double_and_change_nothing(tmp_path: Path) -> None:
    kill(tmp_path, 100)

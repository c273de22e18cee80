"""Random points of real and generated streams, replayed by every path in processes of every kind: the same states and heads."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from careless import fill, import_runs
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.replay.copying import copy_log
from points import check_points

SEED = 20261125
HERE = ("zero", "snapshots", "index", "both", "zero again")
THERE = ("snapshots", "memory")


@pytest.mark.parametrize(("runs", "points"), [(0, 160), (1, 80)], ids=["generated", "recorded"])
def test_random_points_are_the_same_by_every_path_and_in_every_process(runs: int, points: int, tmp_path: Path) -> None:
    """From zero, snapshots, the index and copies of other partitions; other hash seeds, zones and locales."""
    with (
        closing(EmbeddedLog(tmp_path / "log", partitions=3)) as log,
        closing(EmbeddedLog(tmp_path / "copy", partitions=5)) as copied,
    ):
        if runs:
            import_runs(log, 1)
        fill(log, SEED, steps=400)
        copy_log(log, copied)
        check_points(log, HERE, copied, THERE, tmp_path, points=points)


@pytest.mark.soak
def test_a_thousand_random_points_are_the_same_by_every_path_and_in_every_process(tmp_path: Path) -> None:
    """And by each path twice, the second time with what the first one left in the caches."""
    with (
        closing(EmbeddedLog(tmp_path / "log", partitions=3)) as log,
        closing(EmbeddedLog(tmp_path / "copy", partitions=5)) as copied,
    ):
        import_runs(log, None)
        fill(log, SEED, steps=4_000)
        copy_log(log, copied)
        check_points(log, HERE, copied, ("zero", *THERE), tmp_path, points=1_000, times=2)

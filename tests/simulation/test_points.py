"""Random points of real and generated streams, replayed by every path in processes of every kind: the same states and heads."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.importers import import_path
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.replay.copying import copy_log
from points import KINDS, Access, ask, differences, draw, fill, keep, outcomes

DATA = Path(__file__).parents[3] / "shared" / "data"
SEED = 20261125

ELSEWHERE = ("position", "provisional")
"""What a copy answers in its own way: where a record lies, and what may still come into its partition."""


def recorded(log: ContextLog, *, everything: bool) -> None:
    """Import recorded runs; skip where there are none."""
    if not DATA.is_dir():
        pytest.skip(f"recorded runs are not at {DATA}")
    for folder in sorted((DATA / "mini-swe-agent").iterdir()):
        assert import_path(log, sorted(folder.iterdir())[: None if everything else 1], agent=folder.name).events_appended
    if everything:
        assert import_path(log, DATA / "tau-bench").events_appended


def check_points(folder: Path, runs: bool, points: int, steps: int) -> None:
    """Draw points, and compare what all paths say."""
    source, target = f"{folder}/log", f"{folder}/copy"
    with closing(EmbeddedLog(Path(source), partitions=3)) as log, closing(EmbeddedLog(Path(target), partitions=5)) as copied:
        if runs:
            recorded(ContextLog(log), everything=points > 500)
        fill(log, SEED, steps)
        copy_log(log, copied)
        questions = draw(log, points, SEED)
        assert outcomes(log) == {
            "accepted", "open", "undecodable", "misplaced", "malformed", "duplicate", "conflict", "abandoned",
        }  # fmt: skip
    for name in (source, target):
        keep(f"embedded:{name}", Path(name) / "cache.sqlite")
    paths = {
        "zero": Access(f"embedded:{source}"),
        "snapshots": Access(f"embedded:{source}", snapshots=f"{source}/cache.sqlite"),
        "index": Access(f"embedded:{source}", index=f"{source}/index.sqlite"),
        "both": Access(f"embedded:{source}", f"{source}/cache-2.sqlite", f"{source}/index-2.sqlite"),
        "zero again": Access(f"embedded:{source}"),
    }
    copies = {
        "copy, snapshots": Access(f"embedded:{target}", snapshots=f"{target}/cache.sqlite"),
        "copy of the copy, index": Access(f"embedded:{target}", index=f"{target}/index.sqlite", memory=4),
    }
    found = ask(paths, questions, folder)
    expected = found["zero"]
    check_rich(expected, found["snapshots"])
    places = [one for one in expected if not str(one["question"]["at"]).startswith("offset:")]
    elsewhere = ask(copies, [one["question"] for one in places], folder)
    if points > 500:  # By each path again, with the caches as the first ones left them.
        found |= {f"{name}, again": answers for name, answers in ask(paths, questions, folder).items()}
        places_asked = [one["question"] for one in places]
        elsewhere |= {f"{name}, again": answers for name, answers in ask(copies, places_asked, folder).items()}
    for name, answers in found.items():
        assert differences(expected, answers) == [], name
    for name, answers in elsewhere.items():
        assert differences(places, answers, ELSEWHERE) == [], name


def check_rich(answers: list[dict[str, Any]], kept: list[dict[str, Any]]) -> None:
    """What is compared could differ."""
    states = [one for one in answers if "state" in one]
    assert len(states) > len(answers) * 0.9
    assert len({one["head"] for one in states}) > len(states) / 2
    assert {kind for one in states for kind in KINDS if kind in str(one["question"]["at"])} >= set(KINDS[:-2])
    assert sum(bool(one["anomalies"]) for one in states) > len(states) / 10
    assert sum(one.get("started_from", 0) > 0 for one in kept) > len(states) / 4


@pytest.mark.parametrize("runs", [False, True], ids=["generated", "recorded"])
def test_random_points_are_the_same_by_every_path_and_in_every_process(runs: bool, tmp_path: Path) -> None:
    """From zero, snapshots, the index and copies of other partitions; other hash seeds, zones and locales."""
    check_points(tmp_path, runs, points=160, steps=400)


@pytest.mark.soak
def test_a_thousand_random_points_are_the_same_by_every_path_and_in_every_process(tmp_path: Path) -> None:
    """And by each path twice, the second time with what the first one left in the caches."""
    check_points(tmp_path, runs=True, points=1_000, steps=4_000)

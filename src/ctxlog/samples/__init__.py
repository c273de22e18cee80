"""Recorded runs that the package ships, so that it can be tried at once. `NOTICE.md` says whose they are."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent

TAU_BENCH_TASK_14 = FOLDER / "tau-bench-airline-task-14.json"
"""Four runs of one airline task of tau-bench; in trial 0 the agent charges twice what it promised."""

"""Runs of tau-bench: a list of `{task_id, trial, reward, info, traj}`, where `traj` is a chat.

A run's key is its task and trial, as in `task-14-trial-0`. The files do not name their domain: give runs of
several domains different agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ctxlog.errors import ImportFailedError
from ctxlog.importers.base import Run
from ctxlog.importers.chat import drafts
from ctxlog.importers.source_json import Number
from ctxlog.importers.sources import Source

__all__ = ["NAME", "detect", "drafts", "runs"]

NAME = "tau-bench"


def detect(source: Source) -> bool:
    """Whether some record has a task and a trajectory."""
    return any(isinstance(value, dict) and "task_id" in value and "traj" in value for _, value in _records(source))


def runs(source: Source) -> Iterator[Run | ImportFailedError]:
    """One run a record."""
    for place, value in _records(source):
        if isinstance(value, ImportFailedError):
            yield value
        elif not isinstance(value, dict) or not isinstance(value.get("traj"), list):
            yield ImportFailedError("expected an object with a list `traj`", place)
        else:
            task, trial = _number(value.get("task_id")), _number(value.get("trial"))
            if task is None:
                yield ImportFailedError("task_id: expected a number or text", place)
            else:
                key = f"task-{task}" if trial is None else f"task-{task}-trial-{trial}"
                yield Run(key, f"{place} ({key})" if place else key, value["traj"])


def _records(source: Source) -> Iterator[tuple[str, Any]]:
    for item in source.items:
        if item.line is not None:
            yield f"line {item.line}", item.value
        elif isinstance(item.value, list):
            yield from ((f"run {index}", value) for index, value in enumerate(item.value))
        else:
            yield "", item.value


def _number(value: Any) -> str | None:
    if isinstance(value, Number):
        return value.text
    return value if isinstance(value, str) and value else None

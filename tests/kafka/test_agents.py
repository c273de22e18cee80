"""Agents that are killed, paused and raced, and updates at once, on a broker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import agents
from ctxlog.log.kafka import KafkaLog


@pytest.fixture
def url(kafka: Any, tmp_path: Path) -> str:
    found = f"{kafka.url()}&cache={tmp_path / 'cache'}"
    KafkaLog.create(found, 2)[0].close()
    return found


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """What tools did to the world."""
    return tmp_path / "world"


def test_an_agent_that_is_killed_goes_on_and_never_repeats_what_is_completed(url: str, world: Path) -> None:
    killed, _, _ = agents.kill_agents(url, world, number=60, kills=4, seed=6)
    assert killed


def test_a_process_that_was_paused_beyond_its_lease_cannot_finish_late(url: str, world: Path) -> None:
    agents.pause(url, world)


def test_processes_that_race_for_the_same_calls_make_each_once(url: str, world: Path) -> None:
    agents.race(url, world, racers=2, keys=10)


def test_processes_that_count_at_once_lose_no_update(url: str) -> None:
    agents.count_up(url, writers=6, times=20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sixteen_processes_lose_none_of_sixteen_thousand_updates(url: str) -> None:
    print(agents.count_up(url, writers=16, times=1000), file=sys.stderr)


def test_processes_that_update_facts_of_their_own_do_not_disturb_each_other(url: str) -> None:
    agents.count_apart(url, writers=3, times=20)

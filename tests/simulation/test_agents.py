"""Agents that are killed, paused and raced, and updates at once: nothing completed is repeated, nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import killed_agents


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"embedded:{tmp_path / 'log'}"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """What tools did to the world."""
    return tmp_path / "world"


def test_an_agent_that_is_killed_goes_on_and_never_repeats_what_is_completed(url: str, world: Path) -> None:
    killed, _, _ = killed_agents.kill_agents(url, world, number=150, kills=8, seed=5)
    assert killed


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_agents_killed_three_hundred_times_never_repeat_what_is_completed(tmp_path: Path) -> None:
    killed = runs = wasted = 0
    while killed < 300:
        url, world = f"embedded:{tmp_path / f'log-{runs}'}", tmp_path / f"world-{runs}"
        found = killed_agents.kill_agents(url, world, number=300, kills=20, seed=runs)
        killed, runs, wasted = killed + found[0], runs + found[1], wasted + found[2]
    print(f"{killed} kills, {runs} runs, {wasted} of them repeated because nothing was recorded", file=sys.stderr)
    assert wasted  # Kills that all hit elsewhere would show little.


@pytest.mark.parametrize(
    ("when", "result", "effects"), [("before", "paid again", 1), ("after", "paid again", 2), ("recorded", "paid", 1)]
)
def test_a_tool_runs_again_only_where_its_result_was_not_recorded(
    url: str, world: Path, when: str, result: str, effects: int
) -> None:
    """At least once: what was done and not recorded is done again, and nothing can be promised there."""
    assert killed_agents.die_at(url, world, when) == (result, effects)


def test_a_process_that_was_paused_beyond_its_lease_cannot_finish_late(url: str, world: Path) -> None:
    killed_agents.pause(url, world)


def test_processes_that_race_for_the_same_calls_make_each_once(url: str, world: Path) -> None:
    killed_agents.race(url, world, racers=3, keys=25)


def test_sixteen_processes_that_count_at_once_lose_no_update(url: str) -> None:
    killed_agents.count_up(url, writers=16, times=20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sixteen_processes_lose_none_of_sixteen_thousand_updates(url: str) -> None:
    print(killed_agents.count_up(url, writers=16, times=1000), file=sys.stderr)


def test_processes_that_are_killed_in_an_update_lose_and_double_nothing(url: str, world: Path) -> None:
    assert killed_agents.kill_adders(url, world, kills=5, seed=7)


def test_processes_that_update_facts_of_their_own_do_not_disturb_each_other(url: str) -> None:
    killed_agents.count_apart(url, writers=4, times=30)


def test_decisions_of_processes_of_which_one_is_killed_replay_as_what_they_saw(url: str) -> None:
    assert killed_agents.kill_deciders(url) >= 12

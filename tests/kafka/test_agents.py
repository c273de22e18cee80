"""Agents that are killed, paused and raced, and updates at once, on a broker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import killed_agents
from ctxlog import ContextLog
from ctxlog.log.kafka import KafkaLog
from ctxlog.model.events import FactSet
from writing import group, raw


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
    killed, _, _ = killed_agents.kill_agents(url, world, number=60, kills=4, seed=6)
    assert killed


def test_a_process_that_was_paused_beyond_its_lease_cannot_finish_late(url: str, world: Path) -> None:
    killed_agents.pause(url, world)


def test_processes_that_race_for_the_same_calls_make_each_once(url: str, world: Path) -> None:
    killed_agents.race(url, world, racers=2, keys=10)


def test_processes_that_count_at_once_lose_no_update(url: str) -> None:
    killed_agents.count_up(url, writers=6, times=20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sixteen_processes_lose_none_of_sixteen_thousand_updates(url: str) -> None:
    print(killed_agents.count_up(url, writers=16, times=1000), file=sys.stderr)


def test_processes_that_are_killed_in_an_update_lose_and_double_nothing(url: str, world: Path) -> None:
    assert killed_agents.kill_adders(url, world, kills=3, seed=8)


def test_decisions_of_processes_of_which_one_is_killed_replay_as_what_they_saw(url: str) -> None:
    assert killed_agents.kill_deciders(url) >= 12


def test_an_append_that_a_broker_has_a_part_of_is_told_and_has_no_effect(url: str) -> None:
    with ContextLog.open(url) as log:
        context = log.context("worker/job")
        context.set_fact("n", 1)
        log.log.append([raw(log.log, context.stream_id, "FactSet", "e0", key="n", value="2", append=group("e0", 0, 2))])
    with ContextLog.open(url) as log:
        found = log.context("worker/job").resume()
        assert found.state.facts["n"].value == "1"
        assert [(one.append_id, one.count, len(one.events)) for one in found.open_appends] == [("e0", 2, 1)]
        done = log.context("worker/job").update(lambda state: FactSet(key="n", value=state.facts["n"].value + "0"))
        assert done is not None
        assert log.context("worker/job").resume().state.facts["n"].value == "10"


def test_processes_that_update_facts_of_their_own_do_not_disturb_each_other(url: str) -> None:
    killed_agents.count_apart(url, writers=3, times=20)

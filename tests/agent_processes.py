"""Agents that are killed, paused and raced, on any log. `python agent_processes.py ROLE ARGUMENTS…` is one of them.

What a tool does to the world is a line in a file that all of them append to: a killed process loses nothing of it, and it tells
in which order things happened.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ctxlog import ContextLog, Selection
from ctxlog.errors import LeaseLostError, StorageError
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.state import ContextState

JOB = "worker/job"


def say(*words: object) -> None:
    print(*words, flush=True)


class World:
    """What tools did, and what agents know that they did; one JSON object a line."""

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, **members: Any) -> None:
        os.write(self._file, json.dumps(members).encode() + b"\n")


def steps(url: str, world_path: str, number: str, lease_seconds: str, seed: str) -> None:
    """Do the steps of a job, from the first one that is not done; each calls a tool and then says so in a message."""
    dice, world = random.Random(seed), World(world_path)
    context = ContextLog.open(url).context(JOB)
    begin = sum(message.role == "assistant" for message in context.resume().state.messages)
    say("from", begin)
    for step in range(begin, int(number)):
        key = f"step-{step}"

        def run(arguments: Any) -> Any:
            time.sleep(dice.random() * 0.004)
            world.note(ran=arguments["step"])
            say("ran")
            time.sleep(dice.random() * 0.01)
            return {"done": arguments["step"]}

        while True:
            try:
                result = context.tool_once("work", {"step": step}, run=run, key=key, lease_seconds=float(lease_seconds))
                break
            except LeaseLostError:
                world.note(lost=step, pid=os.getpid())
                say("lost")
        assert result == {"done": step}
        world.note(completed=step, pid=os.getpid())
        say("completed")

        def told(state: ContextState) -> MessageAppended | None:
            there = any(message.content == key for message in state.messages)  # noqa: B023
            return None if there else MessageAppended(role="assistant", content=key)  # noqa: B023

        context.update(told)
        say("step", step)


def dies(url: str, world_path: str, when: str) -> None:
    """Call a tool and be killed `before` its effect, `after` it, or when it is `recorded`."""
    world = World(world_path)

    def run(_: Any) -> str:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        world.note(ran=0)
        if when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return "paid"

    ContextLog.open(url).context(JOB).tool_once("pay", {}, run=run, key="refund", lease_seconds=0.3)
    os.kill(os.getpid(), signal.SIGKILL)


def late(url: str, world_path: str, lease_seconds: str) -> None:
    """Call a tool that goes on when a line comes on stdin; say what became of it."""
    world = World(world_path)

    def run(_: Any) -> str:
        world.note(ran="late")
        say("running")
        sys.stdin.readline()
        return "late"

    try:
        result = ContextLog.open(url).context(JOB).tool_once("pay", {}, run=run, key="refund", lease_seconds=float(lease_seconds))
    except LeaseLostError:
        say("lost")
    else:
        say("returned", result)


def races(url: str, world_path: str, name: str, keys: str) -> None:
    """Call a tool for many keys, when a line comes on stdin; say what came back."""
    world, context = World(world_path), ContextLog.open(url).context(JOB)
    assert context.version >= 0
    say("ready")
    sys.stdin.readline()
    for key in range(int(keys)):

        def run(arguments: Any) -> str:
            world.note(ran=arguments["key"])
            return f"{name} did {arguments['key']}"

        say(context.tool_once("work", {"key": key}, run=run, key=f"key-{key}", lease_seconds=3600))


def counts(url: str, name: str, times: str, facts: str) -> None:
    """Count one up so many times, each time with a message that says who was there; or, with `own`, a fact of its own."""
    context = ContextLog.open(url).context("shared/counter")

    def one_more(state: ContextState) -> list[FactSet | MessageAppended]:
        number = 1 + int(state.facts["n"].value if "n" in state.facts else 0)
        events: list[FactSet | MessageAppended] = [FactSet(key="n", value=str(number))]
        return [*events, MessageAppended(role="user", content=f"{name} {number}")] if number % 50 == 0 else events

    started_at, longest = time.monotonic(), 0.0
    for _ in range(int(times)):
        before = time.monotonic()
        if facts == "one":
            context.update(one_more)
        else:
            context.update_fact(f"n.{name}", lambda n: n + 1, default=0)
        longest = max(longest, time.monotonic() - before)
    say(json.dumps({"seconds": time.monotonic() - started_at, "longest": longest}))


def adds(url: str, world_path: str, name: str) -> None:
    """Count one up, with a message each time, until killed or told to stop; note each number that was counted."""
    world, stop = World(world_path), Path(f"{world_path}.stop")
    context = ContextLog.open(url).context("shared/counter")

    def one_more(state: ContextState) -> list[FactSet | MessageAppended]:
        number = 1 + int(state.facts["n"].value if "n" in state.facts else 0)
        return [FactSet(key="n", value=str(number)), MessageAppended(role="user", content=f"{name} {number}")]

    while not stop.exists():
        try:
            done = context.update(one_more)
        except StorageError:  # No broker answers, and nothing was changed.
            continue
        assert done is not None
        world.note(counted=done.version // 2)
        say("counted")
        time.sleep(0.004)  # so that all have their turn


def decides(url: str, name: str) -> None:
    """Decide again and again, by what several contexts hold, until killed or told by a line on stdin; say what was seen."""
    log = ContextLog.open(url)
    ctx, policy = log.context(f"{name}/case"), log.context("shared/policy")
    turn = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        turn += 1
        ctx.add_message("user", f"{name} {turn}")
        policy.set_fact(f"limit.{name}", turn)
        with log.decision("refund", agent=name) as decision:
            seen = decision.read(Selection(streams=[f"{name}/case", "shared/*"], max_messages=3))
            ctx.add_message("assistant", f"decided {turn}")
            time.sleep(0.02)  # so that a kill hits here, where it has acted and is not recorded
            whole = ctx.state
            decision.outcome = turn
        limits = {key: fact.value for key, fact in seen["shared/policy"].facts.items()}
        say(json.dumps([decision.id, limits, [message.content for message in whole.messages]]))


if __name__ == "__main__":
    {role.__name__: role for role in (steps, dies, late, races, counts, adds, decides)}[sys.argv[1]](*sys.argv[2:])

"""Kills, pauses and races the agents of `agent_processes`, on any log, and compares what they did with what the log says."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import agent_processes
from agent_processes import JOB, World
from ctxlog import Context, ContextLog
from ctxlog.audit.verify import verify

WAIT_SECONDS = 240


@contextlib.contextmanager
def processes() -> Iterator[Any]:
    """Starts processes in a role; kills what is left of them in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(role: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, agent_processes.__file__, role, *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said, f"a process ended by itself: {process.communicate()[1]}"
    return said.strip()


def ended(process: subprocess.Popen[str], tell: str | None = None) -> list[str]:
    """The lines that a process says until it has ended well."""
    out, err = process.communicate(tell, timeout=WAIT_SECONDS)
    assert process.returncode == 0, err
    return out.splitlines()


def notes(world: Path) -> list[dict[str, Any]]:
    return [json.loads(said) for said in world.read_bytes().splitlines()] if world.exists() else []


def kill_agents(url: str, world: Path, *, number: int, kills: int, seed: int) -> tuple[int, int, int]:
    """Two agents at a time do one job; one of them is killed and started again.

    Returns how many were killed, how often tools ran, and how often for nothing.
    """
    dice, killed = random.Random(seed), 0
    with processes() as start:
        agents = [start("steps", url, world, number, 0.3, f"{seed}-{name}") for name in "ab"]
        while killed < kills:
            which = dice.randrange(2)
            for _ in range(dice.choice((1, 2, 3, 5, 8))):
                if not agents[which].stdout.readline():
                    break
            time.sleep(dice.random() * 0.01)  # so that it is hit anywhere, and not just after it spoke
            if agents[which].poll() == 0:
                break  # The job is done.
            agents[which].kill()
            agents[which].communicate()
            killed += 1
            agents[which] = start("steps", url, world, number, 0.3, f"{seed}-{killed}")
        for agent in agents:
            ended(agent)
    runs = check_job(url, notes(world), number)
    return killed, runs, runs - number


def check_job(url: str, told: list[dict[str, Any]], number: int) -> int:
    """Every step was made, in order and told once, and no tool ran once an agent knew its result. How often tools ran."""
    completed: set[int] = set()
    runs: Counter[int] = Counter()
    for at, note in enumerate(told):
        if "completed" in note:
            completed.add(note["completed"])
        elif "ran" in note:
            runs[note["ran"]] += 1
            if note["ran"] in completed:
                # Only somebody who was held up beyond a lease that he got before, and he must learn of it, unless he is killed.
                after = [other for other in told[at + 1 :] if other["pid"] == note["pid"]]
                assert not after or "lost" in after[0], f"step {note['ran']} was repeated"
    with ContextLog.open(url) as log:
        context = log.context(JOB)
        found = context.resume()
        assert (found.open_calls, found.open_appends) == ((), ())
        texts = [message.content for message in found.state.messages if message.role == "assistant"]
        assert texts == [f"step-{step}" for step in range(number)]
        assert completed == set(range(number)) == set(runs)
        leases = Counter(
            event.event.payload["call_id"] for event in context.accepted() if event.event.type == "ctxlog.ToolCalled"
        )
        for step in range(number):
            # Nobody ran a tool without a lease of his own.
            assert runs[step] <= leases[f"step-{step}"]
        assert list(found.state.tool_calls) == [f"step-{step}" for step in range(number)]
        assert not context.replay().anomalies
        assert verify(log).problems == []
    return sum(runs.values())


def die_at(url: str, world: Path, when: str) -> tuple[str, int]:
    """An agent dies at a point; the next one makes the same call. What it gets, and how often the tool had its effect."""
    with processes() as start:
        process = start("dies", url, world, when)
        process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == -signal.SIGKILL
    with ContextLog.open(url) as log:
        context = log.context(JOB)
        open_calls = [call.call_id for call in context.resume().open_calls]
        assert open_calls == ([] if when == "recorded" else ["refund"])

        def run(_: Any) -> str:
            World(world).note(ran=0)
            return "paid again"

        result = context.tool_once("pay", {}, run=run, key="refund")
        assert context.resume().open_calls == ()
        assert result == context.tool_once("pay", {}, run=run, key="refund")
        return result, len(notes(world))


def pause(url: str, world: Path) -> Context:
    """A process is paused while its tool runs, and goes on when another one has taken its call over."""
    with processes() as start:
        process = start("late", url, world, 0.5)
        assert line(process) == "running"
        process.send_signal(signal.SIGSTOP)
        with ContextLog.open(url) as log:
            context = log.context(JOB)
            assert [call.call_id for call in context.resume().open_calls] == ["refund"]
            assert context.tool_once("pay", {}, run=lambda _: "in time", key="refund") == "in time"
            process.send_signal(signal.SIGCONT)
            assert ended(process, "go on\n") == ["lost"]
            assert context.state.tool_calls["refund"].result == "in time"
            outcomes = [entry.outcome for entry in context.history()]
            assert outcomes == ["accepted", "accepted", "accepted", "conflict"]
            assert verify(log).problems == []
            return context


def race(url: str, world: Path, *, racers: int, keys: int) -> None:
    """Processes make the same calls at once: each tool runs once, and all get the same results."""
    with processes() as start:
        started = [start("races", url, world, name, keys) for name in range(racers)]
        for process in started:
            assert line(process) == "ready"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [ended(process) for process in started]
    assert told == [told[0]] * racers
    assert sorted(note["ran"] for note in notes(world)) == list(range(keys))
    with ContextLog.open(url) as log:
        assert verify(log).problems == []


def count_up(url: str, *, writers: int, times: int) -> str:
    """Processes count one fact up at once, with `update`; nothing is lost. What it took."""
    with processes() as start:
        started = [start("counts", url, name, times, "one") for name in range(writers)]
        told = [json.loads(ended(process)[-1]) for process in started]
    with ContextLog.open(url) as log:
        context, total = log.context("shared/counter"), writers * times
        numbers = [event.event.payload["value"] for event in context.accepted() if event.event.type == "ctxlog.FactSet"]
        assert numbers == [str(number) for number in range(1, total + 1)]
        assert context.state.facts["n"].value == str(total)
        assert [int((message.content or "").split()[1]) for message in context.state.messages] == list(range(50, total + 1, 50))
        records = sum(1 for _ in context.history())
        assert verify(log).problems == []
    seconds, longest = max(one["seconds"] for one in told), max(one["longest"] for one in told)
    return f"{writers} x {times:,} updates in {seconds:.1f} s, {records:,} records, the longest {longest:.1f} s"


def count_apart(url: str, *, writers: int, times: int) -> None:
    """Processes count facts of their own up at once, in one stream: none is in the way of another one."""
    with processes() as start:
        for process in [start("counts", url, name, times, "own") for name in range(writers)]:
            ended(process)
    with ContextLog.open(url) as log:
        context = log.context("shared/counter")
        assert {key: fact.parsed() for key, fact in context.state.facts.items()} == {
            f"n.{name}": times for name in range(writers)
        }
        assert {entry.outcome for entry in context.history()} == {"accepted"}


def kill_adders(url: str, world: Path, *, kills: int, seed: int) -> int:
    """Three processes count one fact up; one after the other is killed."""
    dice = random.Random(seed)
    with processes() as start:
        adders = [start("adds", url, world, name) for name in range(3)]
        for kill in range(kills + len(adders)):
            which = dice.randrange(len(adders))
            for _ in range(dice.choice((1, 2, 5, 10))):
                line(adders[which])
            time.sleep(dice.random() * 0.01)
            adders[which].kill()
            adders[which].communicate()
            if kill < kills:
                adders[which] = start("adds", url, world, f"next-{kill}")
            else:
                del adders[which]
    return check_count(url, world, killed=kills + 3)


def cut_adders(url: str, world: Path, cut: Callable[[], None]) -> int:
    """Two processes count one fact up, while something is done to their connections."""
    with processes() as start:
        adders = [start("adds", url, world, name) for name in range(2)]
        for adder in adders:
            line(adder)
        cut()
        before = len(notes(world))
        deadline = time.monotonic() + WAIT_SECONDS
        while len(notes(world)) < before + 20:  # They go on when they can.
            assert time.monotonic() < deadline
            assert [adder.poll() for adder in adders] == [None, None]
            time.sleep(0.1)
        Path(f"{world}.stop").touch()
        for adder in adders:
            ended(adder)
    return check_count(url, world, killed=0)


def kill_deciders(url: str) -> int:
    """Two processes decide by what several contexts hold; one is killed. What they saw is what their decisions replay as."""
    told: list[tuple[str, list[Any]]] = []
    with processes() as start:
        one, other = start("decides", url, "one"), start("decides", url, "other")
        for _ in range(6):
            told += (("one", json.loads(line(one))), ("other", json.loads(line(other))))
        time.sleep(0.005)  # so that it is hit anywhere, and not just after it spoke
        one.kill()
        other.stdin.write("stop\n")
        other.stdin.flush()
        # Not `communicate`, which knows nothing of what was read ahead of the lines above.
        told += (("one", json.loads(said)) for said in one.stdout.read().splitlines() if said.endswith("]]"))
        told += (("other", json.loads(said)) for said in other.stdout.read().splitlines())
        assert (one.wait(WAIT_SECONDS), other.wait(WAIT_SECONDS)) == (-signal.SIGKILL, 0)
    with ContextLog.open(url) as log:
        for name, (decision_id, limits, contents) in told:
            policy = log.context("shared/policy").replay(f"decision:{decision_id}").state
            assert {key: fact.value for key, fact in policy.facts.items()} == limits
            case = log.context(f"{name}/case").replay(f"decision:{decision_id}").state
            assert [message.content for message in case.messages] == contents
        for name in ("one", "other"):
            events = [one.event for one in log.context(f"decisions/{name}").accepted()]
            decided = {event.payload["decision_id"] for event in events if event.type == "ctxlog.DecisionRecorded"}
            assert decided >= {decision_id for who, (decision_id, *_) in told if who == name}
            read = Counter(event.payload["decision_id"] for event in events if event.type == "ctxlog.ContextRead")
            # What was done inside is never in the log without what was read before: two streams, decided upon or not.
            acts = {entry.event.meta["trace"]["causation_id"] for entry in log.context(f"{name}/case").accepted()
                    if entry.event.payload["role"] == "assistant"}  # fmt: skip
            assert all(read[decision_id] >= 2 for decision_id in acts)
            assert len(acts - decided) <= (name == "one")
        assert verify(log).problems == []
    return len(told)


def check_count(url: str, world: Path, *, killed: int) -> int:
    """What was told is there, once and in order, and little else: whoever is killed may have no time to tell. The count."""
    told = [note["counted"] for note in notes(world)]
    with ContextLog.open(url) as log:
        found = log.context("shared/counter").resume()
        number = int(found.state.facts["n"].value)
        assert len(set(told)) == len(told), "one update was told twice"
        assert len(told) <= number <= len(told) + killed
        assert [int((message.content or "").split()[1]) for message in found.state.messages] == list(range(1, number + 1))
        assert found.state.version == 2 * number
        assert verify(log).problems == []
    return number

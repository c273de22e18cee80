"""One log, folded in many ways on many kinds of process: the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.core.canonical import canonical_json
from ctxlog.model.events import FactSet, MessageAppended
from ctxlog.model.points import AtVersion
from ctxlog.replay import replayer
from ctxlog.replay.replayer import Replayer

STREAMS = ("planner/thread-1", "shared/plan", "planner/fork")

READ = """
import json, sys
from ctxlog import ContextLog
from ctxlog.replay.replayer import Replayer
from ctxlog.model.points import AtVersion
with ContextLog.open("embedded:" + sys.argv[1]) as log:
    for replayer in (Replayer(log.log), Replayer(log.log, log.snapshots)):
        for stream_id in sys.argv[2:]:
            top = log.context(stream_id).version
            for version in sorted({0, 1, top // 2, top}):
                replay = replayer.replay(stream_id, AtVersion(version))
                print(json.dumps(replay.state.to_dict(), ensure_ascii=True))
                print(replay.manifest.state_digest, [tuple(anomaly) for anomaly in replay.anomalies])
"""

ENVIRONMENTS = {
    "hash seed 0": {"PYTHONHASHSEED": "0"},
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "hash seed 12345": {"PYTHONHASHSEED": "12345"},
    "far west": {"TZ": "Pacific/Pago_Pago"},
    "half an hour": {"TZ": "Asia/Kolkata"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "German": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8"},
    "optimized": {"PYTHONOPTIMIZE": "1"},
    "doubly optimized": {"PYTHONOPTIMIZE": "2"},
    "decimal comma and dev mode": {"LC_NUMERIC": "de_DE.UTF-8", "PYTHONDEVMODE": "1"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with everything that could come out in another order: many facts and calls, texts of all scripts, a fork."""
    folder = tmp_path_factory.mktemp("determinism") / "log"
    dice = random.Random(3)
    texts = ["\u0130stanbul \u0131I", "ß", "\u0000\u001b", "\U0001f600", "\ue000", "1,5", "e\u0301", '{"b":1,"a":2}']
    with pytest.MonkeyPatch.context() as patch, ContextLog.open(f"embedded:{folder}") as log:
        patch.setattr(replayer, "SNAPSHOT_EVENTS", 20)
        for stream_id in STREAMS[:2]:
            context = log.context(stream_id)
            for number in range(60):
                text = dice.choice(texts)
                context.add_message(dice.choice(("user", "assistant")), text, occurred_at=dice.choice((None, -1, 0, 2**53 - 1)))
                key = dice.choice((*"zyxabc\ue000\U0001f600", f"key {number}", "\u00e9", "\u00e9x"))
                context.append([FactSet(key="pair", value='"1.0e5"'), MessageAppended(role="user", parts='[1.50, "x"]')])
                context.set_fact(key, {"z": number / 3, "a": [text, 2**53 + 1]}, expires_at=number)
                call = context.add_tool_call("pay", '{"b": 1.0, "a": 2}')
                if number % 3:
                    context.add_tool_result(call.event_id, {"ok": True}, failed=number % 2 == 0)
                if number % 7 == 0:
                    context.remove_fact(dice.choice("zyx?"))
                    context.redact_message(context.state.messages[dice.randrange(number + 1)].id)
        log.context(STREAMS[0]).fork(STREAMS[2], at=50).add_message("user", "from here")
    return folder


def read(folder: Path, environment: dict[str, str]) -> bytes:
    """What a new process prints: state, digest and anomalies of each stream at some versions, from zero, then from snapshots."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG", "TZ"))}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder), *STREAMS], env={**kept, **environment}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


@pytest.fixture(scope="module")
def expected(folder: Path) -> bytes:
    return read(folder, {})


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_every_process_prints_the_same_bytes(folder: Path, expected: bytes, environment: dict[str, str]) -> None:
    """The fold knows no environment: neither hash order, zone, locale, nor whether asserts run."""
    assert read(folder, environment) == expected


def test_what_is_compared_is_rich_enough_to_differ(expected: bytes) -> None:
    lines = expected.decode().splitlines()
    states = [json.loads(line) for line in lines[::2]]
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    assert max(len(state["facts"]) for state in states) > 15
    assert max(len(state["tool_calls"]) for state in states) > 40
    assert len({line.split()[0] for line in lines[1::2]}) > 6
    assert any("fact_unknown" in line for line in lines[1::2])


def test_a_digest_is_that_of_the_printed_state(expected: bytes) -> None:
    """Whoever has the JSON can check it: RFC 8785, then SHA-256."""
    lines = expected.decode().splitlines()
    for state, digest in zip(lines[::2], lines[1::2], strict=True):
        assert hashlib.sha256(canonical_json(json.loads(state))).hexdigest() == digest.split()[0]


def test_every_version_is_the_same_from_zero_and_from_every_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayer, "SNAPSHOT_EVENTS", 20)  # Redactions have dropped most of those from before.
    with ContextLog.open(f"embedded:{folder}") as log:
        started = set()
        for stream_id in STREAMS:
            for version in range(0, log.context(stream_id).version + 1, 3):
                zero = Replayer(log.log).replay(stream_id, AtVersion(version))
                kept = Replayer(log.log, log.snapshots).replay(stream_id, AtVersion(version))
                assert canonical_json(zero.state.to_dict()) == canonical_json(kept.state.to_dict())
                assert zero.anomalies == kept.anomalies
                started.add(kept.manifest.started_from)
        assert len(started) > 10

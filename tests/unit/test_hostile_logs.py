"""Hostile bytes in a log, the whole way: stored, read, replayed, listed, verified and copied.

The good records around them mean what they meant. The attack runs in a process whose memory and processor time are limited, so a
bomb that goes off ends that process.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.codec.avro import encode_event, encode_plain
from ctxlog.codec.control import encode_control, genesis, schema_published
from ctxlog.codec.framing import frame_single_object, single_object_prefix
from ctxlog.codec.schemas import CONTROL_NAME, Schema, shipped
from ctxlog.errors import CtxlogError
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.memory import MemoryLog
from ctxlog.model.records import CONTROL_KEY, NewRecord
from ctxlog.replay.copying import copy_log
from unit.hostile import BOMBS, FORBIDDEN, RICH, event_schema

STREAM = "planner/thread"
MEMORY_BYTES = 400 * 1024 * 1024
"""Address space of the attacked process: about twice what it takes, libraries included."""

CPU_SECONDS = 200


def control(kind: str, text: str) -> bytes:
    """A control record that may say anything."""
    return single_object_prefix(shipped(CONTROL_NAME).fingerprint) + encode_plain(CONTROL_NAME, {"kind": kind, "data": text})


def hostile_controls(log_id: str) -> list[bytes]:
    """Control records that are malformed, forged, repeated or bombs."""
    schema = Schema(event_schema(a="string"))
    right = schema_published(log_id, schema, 7).data
    publications = [
        right | changed
        for changed in (
            {"log_id": "00000000-0000-4000-8000-000000000000"},
            {"name": "x.Other"},
            {"fingerprint": "00" * 8},
            {"fingerprint": "zz"},
            {"digest": "00" * 32},
            {"registry_id": -1},
            {"registry_id": 2**32},
            {"registry_id": "7"},
            {"schema": None},
            {"log_id": 7},
        )
    ]
    publications += [right | {"schema": text} for text in FORBIDDEN.values() if not _surrogate(text)]
    framed = single_object_prefix(shipped(CONTROL_NAME).fingerprint)
    texts = [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"x"',
        '{"log_id":',
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 900_000,
        "1e400",
        '{"log_id":NaN}',
    ]
    texts += [rfc8785.dumps(right).decode() + " ", json.dumps(right), '{"log_id":"\\ud800"}', f'{{"log_id":"{log_id}"}}']
    found = [control("SchemaPublished", rfc8785.dumps(data).decode()) for data in publications]
    found += [control(kind, text) for text in texts for kind in ("SchemaPublished", "Genesis", "CopyStarted", "Nobody", "")]
    found += [control("Genesis", rfc8785.dumps(genesis(log_id, None, count).data).decode()) for count in (1, 2, 2**53 - 1)]
    found += [
        control("CopyStarted", rfc8785.dumps({"log_id": log_id, "source_log_id": "x"}).decode()),
        control(
            "CopyFinished", rfc8785.dumps({"log_id": log_id, "source_log_id": "x", "undecodable": 0, "misplaced": 0}).decode()
        ),
        control("TopicAdopted", rfc8785.dumps({"log_id": log_id, "topic_id": "x"}).decode()),
        b"",
        framed,
        framed[:9],
        framed + b"\xff" * 30,
        b"\x00\x00\x00\x00\x07" + b"x" * 30,
        framed + encode_plain(CONTROL_NAME, {"kind": "Genesis", "data": "{}"}) + b"\x00",
        b"\xc3\x01" + b"\x00" * 8,
    ]
    return [value for value in found if len(value) <= 2 * 1024 * 1024]


def _surrogate(text: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in text)


def hostile_values() -> list[bytes | None]:
    """Values under the key of a stream, whose prefixes name published schemas, unpublished ones and none."""
    schema = Schema(event_schema(a=RICH))
    meta = encode_event("ctxlog.StreamClosed", _meta("hostile"), {"reason": None})[:-1]
    found: list[bytes | None] = [frame_single_object(schema.fingerprint, meta + body) for body in BOMBS.values()]
    found += [frame_single_object(shipped("ctxlog.MessageAppended").fingerprint, body) for body in BOMBS.values()]
    found += [frame_single_object(shipped(CONTROL_NAME).fingerprint, b"\x00" * 40), frame_single_object("00" * 8, meta)]
    return [*found, None, b"", b"\x00", b"\xc3\x01", b"\x00" * 1_000_000, b"\xc3\x01" * 500_000, b"{}", b"\x80\x04."]


def _meta(event_id: str) -> dict[str, Any]:
    return {
        "event_id": event_id, "stream_id": STREAM, "agent_id": None, "actor": "system:t", "occurred_at": None, "scope": "default",
        "target": None, "append": None, "precondition": None, "trace": None, "privacy": None,
    }  # fmt: skip


def attack(folder: str) -> None:
    """Write good records with hostile ones between them, read everything in every way, and print what came of it."""
    with ContextLog.open(f"embedded:{folder}/log") as contexts:
        log, context = contexts.log, contexts.context(STREAM)
        context.add_message("user", "before")
        log.append([encode_control(0, schema_published(log.log_id, Schema(event_schema(a=RICH)), None))])
        for value in hostile_controls(log.log_id):
            log.append([NewRecord(0, CONTROL_KEY, value)])
        values = hostile_values()
        for value in values:
            log.append([NewRecord(0, STREAM.encode(), value)])  # type: ignore[arg-type]
        for key in (b"", b"\xff\xfe", b"\x00", b"ctxlog:other", b"\xed\xa0\x80", b"k" * 100_000):
            log.append([NewRecord(0, key, b"anything")])
        assert [message.content for message in context.state.messages] == ["before"]
        context.add_message("user", "after")
        assert [message.content for message in context.state.messages] == ["before", "after"]
        digest = context.replay().manifest.state_digest
    with ContextLog.open(f"embedded:{folder}/log") as contexts, ContextLog.open(f"embedded:{folder}/copy") as copy:
        context = contexts.context(STREAM)
        assert [message.content for message in context.replay().state.messages] == ["before", "after"]
        assert [message.content for message in context.replay("version:1").state.messages] == ["before"]
        outcomes = [entry.outcome for entry in context.history()]
        report = verify(contexts)
        streams = {stream.stream_id: stream.version for stream in contexts.streams()}
        copy_log(contexts.log, copy.log)
        copied = copy.context(STREAM).replay().manifest.state_digest
        copy_problems = [str(problem) for problem in verify(copy).problems]
    said = {
        "sent": len(values),
        "undecodable": outcomes.count("undecodable"),
        "accepted": outcomes.count("accepted"),
        "outcomes": len(outcomes),
        "problems": [str(problem) for problem in report.problems] + copy_problems,
        "version": streams.get(STREAM),
        "same": digest == copied,
    }
    print(json.dumps(said))


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def test_a_log_full_of_bombs_is_read_within_bounded_memory_and_means_what_it_meant(tmp_path: Path) -> None:
    """Undecodable is an outcome and no error: one bad record must not take a stream from everybody."""
    done = subprocess.run(
        [sys.executable, "-m", "unit.test_hostile_logs", str(tmp_path)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=280, preexec_fn=_limit,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["undecodable"] == said["sent"] > 70
    assert (said["accepted"], said["outcomes"]) == (2, said["sent"] + 2)
    assert (said["problems"], said["version"], said["same"]) == ([], 2, True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["", "\\", '"', '"}'], ids=["no end", "half an escape", "an end", "an end of all"])
@pytest.mark.parametrize("begin", ['"', '{"a":"', '{"'], ids=["text", "value", "member"])
def test_no_text_in_a_control_record_holds_up_the_opening_of_a_log(begin: str, end: str) -> None:
    """Every reader takes all control records, void ones too: 1 MiB of escapes must cost no more than other bytes do."""
    log = MemoryLog()
    ContextLog(log).context(STREAM).add_message("user", "before")
    log.append([NewRecord(0, CONTROL_KEY, control("Genesis", begin + '\\"' * (512 * 1024 - 20) + end))])
    contexts = ContextLog(log)
    assert [message.content for message in contexts.context(STREAM).state.messages] == ["before"]
    contexts.context(STREAM).add_message("user", "after")
    assert contexts.context(STREAM).version == 2


def test_the_limits_of_the_attacked_process_can_be_reached() -> None:
    """Otherwise the test above would show nothing."""
    done = subprocess.run(
        [sys.executable, "-c", f"bytes({MEMORY_BYTES})"], capture_output=True, text=True, preexec_fn=_limit
    )  # fmt: skip
    assert "MemoryError" in done.stderr


@given(
    st.lists(st.tuples(st.sampled_from((CONTROL_KEY, STREAM.encode())), st.binary(max_size=60), st.integers(0, 4)), max_size=12)
)
def test_any_records_leave_the_good_ones_as_they_are(records: list[tuple[bytes, bytes, int]]) -> None:
    """Random bytes behind prefixes that mean something."""
    contexts = ContextLog(MemoryLog())
    context = contexts.context(STREAM)
    context.add_message("user", "before")
    before = context.replay().state
    names = (CONTROL_NAME, "ctxlog.MessageAppended", "ctxlog.ToolReturned")
    for key, body, prefix in records:
        value = frame_single_object(shipped(names[prefix]).fingerprint, body) if prefix < len(names) else body
        contexts.log.append([NewRecord(0, key, value)])
    assert context.replay().state == before
    assert ContextLog(contexts.log).context(STREAM).replay().state == before
    assert verify(contexts).problems == []
    context.add_message("user", "after")
    assert [message.content for message in context.state.messages] == ["before", "after"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with some streams, closed."""
    folder = tmp_path_factory.mktemp("sound") / "log"
    with ContextLog.open(f"embedded:{folder}") as log:
        for number in range(40):
            log.context(f"planner/{number % 3}").add_message("user", f"message {number} " * (1 + number * 7))
    return folder


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_is_found_or_harmless(sound: Path, tmp_path: Path, seed: int) -> None:
    """Bytes of the file changed, or its end cut off: a typed error or a problem in `verify`, or every state is as it was."""
    with ContextLog.open(f"embedded:{sound}") as log:
        states = {stream: log.context(stream).replay().state for stream in log.matching()}
    folder, dice = tmp_path / "log", random.Random(seed)
    shutil.copytree(sound, folder)
    file = folder / "log.sqlite"
    data = bytearray(file.read_bytes())
    if seed % 6 == 0:
        del data[dice.randrange(len(data)) :]
    else:
        for _ in range(dice.choice((1, 1, 4, 64))):
            data[dice.randrange(len(data) if seed % 3 else 4096)] = dice.randrange(256)
    file.write_bytes(data)
    try:
        with ContextLog(EmbeddedLog(folder, create=False)) as log:
            problems = verify(log).problems
            found = {stream: log.context(stream).replay().state for stream in states}
    except CtxlogError:
        return
    assert problems or found == states


def test_a_damaged_cache_changes_no_answer(sound: Path, tmp_path: Path) -> None:
    """Snapshots are kept to save work, and nothing depends on them."""
    with ContextLog.open(f"embedded:{sound}") as log:
        expected = log.context("planner/1").replay().state
    for number, content in enumerate((b"", b"garbage" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000)):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        for file in folder.glob("cache.sqlite*"):
            file.unlink()
        (folder / "cache.sqlite").write_bytes(content)
        with ContextLog.open(f"embedded:{folder}") as log:
            assert log.context("planner/1").replay().state == expected
            assert verify(log).problems == []


if __name__ == "__main__":
    attack(sys.argv[1])

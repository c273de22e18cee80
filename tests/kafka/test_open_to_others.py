"""Tools that know nothing of ctxlog read its topics: what `docs/how-to/read-with-other-tools.md` shows is what happens.

The page is run on a real broker with a real registry: blocks of `py` are the files that their first line names, blocks of
`shellsession` are typed, and what they show is compared as on every other page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from opentelemetry import trace

from ctxlog import ContextLog
from ctxlog.codec.schemas import shipped
from ctxlog.errors import ConflictError
from ctxlog.log.kafka import KafkaLog
from ctxlog.model.events import FactSet, MessageAppended
from docs.test_docs import ROOT, Block, environment_of_a_reader, run_console

PAGE = ROOT / "docs" / "how-to" / "read-with-other-tools.md"
CONTROL_SCHEMA = ROOT / "schemas" / "ctxlog.ControlRecord.avsc"
CONTROL = b"ctxlog:control"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HI = MessageAppended(role="user", content="hi")

_BLOCK = re.compile(r"^```(py|shellsession)\n(.*?)^```", re.M | re.S)
_FILE = re.compile(r"# (\w+\.py)\n")
_LINE = re.compile(r"(\d+@\d+) (.*?): (?:undecodable|([^ ]+) ([^ ]+) (\{.*\}))")


@pytest.fixture
def kcat() -> str:
    found = shutil.which("kcat")
    if found is None:
        if os.environ.get("CTXLOG_REQUIRE_KAFKA") == "1":
            pytest.fail("kcat is required: apt-get install kcat")
        pytest.skip("no kcat: apt-get install kcat")
    return found


def blocks(kafka: Any, topic: str, registry_url: str) -> list[Block]:
    """The blocks of the page, about this broker, topic and registry instead of those that it names."""
    found = []
    for match in _BLOCK.finditer(text := PAGE.read_text("utf-8")):
        told = match[2].replace("localhost:9092?", f"{kafka.bootstrap}?topic={topic}&")
        told = told.replace("localhost:9092", kafka.bootstrap).replace("ctxlog.events", topic)
        told = told.replace("http://localhost:8081", registry_url)
        assert "localhost" not in told
        found.append(Block(match[1], told, text.count("\n", 0, match.start()) + 2))
    return found


def run(found: list[Block], folder: Path) -> None:
    """Do what blocks say, as a reader does from top to bottom."""
    shutil.copy(CONTROL_SCHEMA, folder)
    environment = environment_of_a_reader()
    for block in found:
        if block.language == "py":
            named = _FILE.match(block.text)
            assert named is not None, f"line {block.line}: expected the name of a file"
            (folder / named[1]).write_text(block.text, "utf-8")
        else:
            run_console(block, folder, PAGE, environment)


def about_kcat(block: Block) -> bool:
    return block.language == "shellsession" and "$ kcat" in block.text


def test_all_of_the_page_but_kcat_works(kafka: Any, registry_url: str, tmp_path: Path) -> None:
    found = blocks(kafka, kafka.topic(), registry_url)
    assert len(found) == 9
    run([block for block in found if not about_kcat(block)], tmp_path)


def test_all_of_the_page_works_with_kcat(kafka: Any, registry_url: str, tmp_path: Path, kcat: str) -> None:
    found = blocks(kafka, kafka.topic(), registry_url)
    assert sum(map(about_kcat, found)) == 3
    run(found, tmp_path)
    said = subprocess.run(
        [kcat, "-C", "-b", kafka.bootstrap, "-t", "x", "-s", "value=avro", "-r", registry_url, "-e"],
        capture_output=True,
        text=True,
    )
    built_for_it = "Avro" in subprocess.run([kcat, "-V"], capture_output=True, text=True).stdout
    assert built_for_it or "This build of kcat lacks Avro/Schema-Registry support" in said.stderr


def test_the_scripts_of_the_page_need_nothing_of_ctxlog(kafka: Any) -> None:
    for block in blocks(kafka, "topic", "http://registry"):
        if block.language == "py":
            imported = re.findall(r"^(?:import|from) (.*)$", block.text, re.M)
            assert imported
            assert not [line for line in imported if "ctxlog" in line]


def read_by_a_stranger(kafka: Any, topic: str, folder: Path) -> dict[str, tuple[str, ...]]:
    """What the page's script prints: stream, event id and type by place; for undecodable records the stream alone."""
    (script,) = (block.text for block in blocks(kafka, topic, "http://none") if block.text.startswith("# read_topic.py\n"))
    (folder / "read_topic.py").write_text(script, "utf-8")
    shutil.copy(CONTROL_SCHEMA, folder)
    done = subprocess.run(
        ["python", "read_topic.py"], cwd=folder, env=environment_of_a_reader(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, tuple[str, ...]] = {}
    last: dict[str, int] = {}
    for line in done.stdout.splitlines():
        match = _LINE.match(line)
        assert match is not None, line
        partition, offset = match[1].split("@")
        assert last.get(partition, -1) < int(offset), "in the order of the partition"
        last[partition] = int(offset)
        found[match[1]] = (match[2], match[3], match[4], match[5]) if match[3] else (match[2],)
    return found


def read_by_ctxlog(log: ContextLog) -> dict[str, tuple[str, ...]]:
    """The same, by ctxlog's own history of every stream."""
    found: dict[str, tuple[str, ...]] = {}
    for stream_id in log.matching():
        for entry in log.context(stream_id).history():
            told = (entry.meta["event_id"], entry.type, json.dumps(entry.payload)) if entry.type else ()
            found[f"{entry.partition}@{entry.offset}"] = (stream_id, *told)
    return found


def write_in_both_framings(kafka: Any, topic: str, registry_url: str) -> None:
    """What a topic can hold: accepted, rejected, undecodable, of two writers, and of an aborted transaction."""
    plain = kafka.url(topic)
    with ContextLog.open(plain) as log:
        for number in range(5):
            context = log.context(f"agent/{number}")
            context.append([HI, FactSet(key="k", value='"fälle"')])
            with pytest.raises(ConflictError):
                context.set_fact("k", 1, expected_version=7)
        log.context("agent/0").append(HI, event_ids=["twice"])
        log.context("agent/0").append(HI, event_ids=["twice"])
    with ContextLog.open(f"{plain}&registry={registry_url}&cloudevents=on") as log:
        assert log.registry is not None
        for kind in ("MessageAppended", "ToolCalled"):
            log.registry.register(shipped(f"ctxlog.{kind}"))
        for number in range(4, 9):
            context = log.context(f"agent/{number}")
            context.add_message("user", "by the registry", expected_version=context.version)
            context.add_tool_call("pay", {"n": 1})
        partition = log.replayer.reader.partition("agent/4")
    other = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{topic}-{time.time_ns()}"})
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(topic, b"never happened", b"agent/4", partition)
    other.flush(30)
    other.abort_transaction(30)
    other = Producer({"bootstrap.servers": kafka.bootstrap})
    for value in (b"nonsense", b"\xc3\x01" + b"unknown!" + b"body", b"\x00\x00\x00\xff\xffbody", b"", None):
        other.produce(topic, value, b"agent/4", partition)
    other.flush(30)


def test_a_stranger_reads_what_ctxlog_reads_in_both_framings(kafka: Any, registry_url: str, tmp_path: Path) -> None:
    topic = kafka.topic()
    KafkaLog.create(kafka.url(topic), 3)[0].close()
    write_in_both_framings(kafka, topic, registry_url)
    with ContextLog.open(kafka.url(topic)) as log:
        expected = read_by_ctxlog(log)
        values = [value for _, value, _ in messages(kafka, topic)]
    assert {value[:1] for value in values if value} == {b"\xc3", b"\x00", b"n"}
    found = read_by_a_stranger(kafka, topic, tmp_path)
    assert found == expected
    assert sum(len(told) == 1 for told in found.values()) == 5
    assert len(found) == 5 * 3 + 2 + 5 * 2 + 5


# Headers on a real broker


def messages(kafka: Any, topic: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
    """Key, value and headers of all records, in the order of the partitions."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "stranger", "enable.partition.eof": True})
    found: list[tuple[bytes | None, bytes | None, dict[str, bytes]]] = []
    for partition in consumer.list_topics(topic, 30).topics[topic].partitions:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        while True:
            message = consumer.poll(30)
            assert message is not None
            if message.error():
                break
            headers = message.headers() or []
            assert len(dict(headers)) == len(headers), "each header once"
            found.append((message.key(), message.value(), dict(headers)))
    consumer.close()
    return found


def written(kafka: Any, parameters: str, **options: Any) -> tuple[list[tuple[Any, Any, dict[str, bytes]]], tuple[Any, ...]]:
    """What the same appends come to in a topic of their own: its messages, and what ctxlog says of the stream."""
    topic = kafka.topic()
    KafkaLog.create(kafka.url(topic), 1)[0].close()
    with ContextLog.open(f"{kafka.url(topic)}{parameters}") as log:
        context = log.context("agent/a")
        context.append([HI, FactSet(key="k", value="1")], event_ids=["1", "2"], occurred_at=0, **options)
        context.append(HI, event_ids=["3"], occurred_at=None, expected_version=2, **options)
        with pytest.raises(ConflictError):
            context.append(HI, event_ids=["4"], occurred_at=None, expected_version=2, **options)
        history = [(entry.outcome, entry.version, entry.chain_head, entry.digest) for entry in context.history()]
        replay = context.replay()
        said = (replay.state, replay.manifest.state_digest, replay.manifest.version, replay.manifest.chain_head, history)
    return messages(kafka, topic), said


def test_versions_heads_and_digests_are_the_same_with_headers_and_without(kafka: Any) -> None:
    bare, said_bare = written(kafka, "", traceparent=None)
    full, said_full = written(kafka, "&cloudevents=on", traceparent=TRACE)
    assert said_bare == said_full
    assert all(headers == {} for _, _, headers in bare)
    assert all(headers == {} for key, _, headers in full if key == CONTROL)
    events = [headers for key, _, headers in full if key != CONTROL]
    assert [headers["ce_id"] for headers in events] == [b"1", b"2", b"3", b"4"]
    assert [headers.get("ce_time") for headers in events] == [b"1970-01-01T00:00:00.000000Z"] * 2 + [None] * 2
    assert {headers["traceparent"] for headers in events} == {TRACE.encode()}
    assert {(key, headers["ce_subject"]) for key, _, headers in full if key != CONTROL} == {(b"agent/a", b"agent/a")}


def test_the_current_span_of_opentelemetry_stands_in_the_topic(kafka: Any) -> None:
    context = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        found, _ = written(kafka, "")
    span = {"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert [headers for key, _, headers in found if key != CONTROL] == [span] * 4
    assert all(headers == {} for key, _, headers in found if key == CONTROL)

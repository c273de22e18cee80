"""`ctxlog doctor` on what stands beside a log on Kafka: stream index, schema registry, consumer groups."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from cli.conftest import Program
from ctxlog import ContextLog
from ctxlog.codec.schemas import shipped
from ctxlog.log.kafka.registry import Registry
from ctxlog.model.records import NewRecord
from kafka_doctor import ABSENT, Findings, run_here

MESSAGE = "ctxlog.MessageAppended"


def test_a_registry_that_is_down_is_named_and_other_checks_go_on(kafka: Any, topic: str, doctor: Callable[..., Findings]) -> None:
    found = doctor(f"{kafka.url(topic)}&registry=http://{ABSENT}", 1)
    assert found.failed == ["registry"]
    assert f"registry http://{ABSENT}: no answer" in found.one("registry")["found"]
    assert "registry=" in found.one("registry")["advice"]


def test_what_a_registry_lacks_or_contradicts_is_said(
    kafka: Any, topic: str, registry_url: str, program: Program, doctor: Callable[..., Findings]
) -> None:
    url = f"{kafka.url(topic)}&registry={registry_url}"
    found = doctor(url, 1)
    assert found.failed == ["registry"]
    assert "ctxlog.ExtensionRecorded and 8 more: not in the registry" in found.one("registry")["found"]
    assert found.one("registry")["advice"] == "Run `ctxlog schemas register`."
    registry = Registry(registry_url, topic)
    for name in ("ctxlog.FactSet", MESSAGE):
        registry.register(shipped(name))
    assert "and 6 more: not in the registry" in doctor(url, 1).one("registry")["found"]
    program("schemas", "register", "--log", url)
    found = doctor(url)
    assert [one["found"] for one in found.of("registry")] == [f"{registry_url} has the 11 schemas of this release"]
    assert found.one("registry")["status"] == "ok"
    set_level(registry_url, f"{topic}-{MESSAGE}", "NONE")
    assert "held to NONE" in doctor(url, 1).one("registry")["found"]


def test_schemas_that_only_the_registry_has_are_noted(
    kafka: Any, topic: str, registry_url: str, doctor: Callable[..., Findings]
) -> None:
    registry, url = Registry(registry_url, topic), f"{kafka.url(topic)}&registry={registry_url}"
    from ctxlog.cli.schemas import shipped_schemas

    for schema in shipped_schemas():
        registry.register(schema)
    found = doctor(url).one("registry", "note")
    assert "11 schemas not in every partition of the log yet: the first event asks" in found["found"]
    assert "`ctxlog schemas register`" in found["advice"]


def set_level(registry_url: str, subject: str, level: str) -> None:
    from confluent_kafka.schema_registry import SchemaRegistryClient

    SchemaRegistryClient({"url": registry_url}).set_compatibility(subject, level)


def test_a_missing_registry_client_is_said(
    kafka: Any, topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    code, found = run_here(capsys, f"{kafka.url(topic)}&registry=http://{ABSENT}")
    assert (code, found.failed) == (1, ["registry"])
    assert "Install `ctxlog[registry]`" in found.one("registry")["found"]


def test_the_index_says_how_far_it_has_come_and_is_left_as_it_is(
    kafka: Any, topic: str, program: Program, doctor: Callable[..., Findings]
) -> None:
    folder = program.folder / "cache"
    url = f"{kafka.url(topic)}&cache={folder}"
    assert "not there yet" in doctor(url).one("index", "ok")["found"]
    assert not folder.exists()
    program("append", "agent/a", "--message", "user", "hello", "--log", url)
    program("streams", "--log", url)
    (path,) = folder.rglob("index.sqlite")
    kept = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert f"{path}, " in doctor(url).one("index", "ok")["found"]
    assert doctor(url).one("index")["found"].endswith(": lag_events 0")
    with ContextLog.open(kafka.url(topic)) as log:
        partition = log.replayer.reader.partition("agent/a")
        log.log.append([NewRecord(partition, b"a", b"x")] * 4 + [NewRecord(1 - partition, b"a", b"x")] * 3)
    expected = f"lag_events 7 (partition {partition}: 4, partition {1 - partition}: 3)"
    assert doctor(url).one("index", "ok")["found"].endswith(expected)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == kept


@pytest.mark.parametrize("kind", ["torn", "a page", "no database", "another format", "progress"])
def test_a_damaged_index_is_said_and_left_as_it_is(
    kind: str, kafka: Any, topic: str, program: Program, doctor: Callable[..., Findings]
) -> None:
    url = f"{kafka.url(topic)}&cache=cache"
    program("append", "agent/a", "--message", "user", "x" * 20_000, "--log", url)
    program("streams", "--log", url)
    (path,) = (program.folder / "cache").rglob("index.sqlite")
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:-8192])
    elif kind == "a page":
        path.write_bytes(path.read_bytes()[:-4096] + b"\xff" * 4096)
    elif kind == "no database":
        path.write_bytes(b"hello" * 1000)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute(
                "PRAGMA user_version = 7" if kind == "another format" else "UPDATE progress SET next_offset = 'hunter2'"
            )
        connection.close()
    damaged = path.read_bytes()
    found = doctor(url).one("index", "warning")
    assert "Delete it" in found["advice"]
    assert "hunter2" not in found["found"]
    assert path.read_bytes() == damaged


def test_an_index_that_is_in_use_is_looked_at_beside_its_user(
    kafka: Any, topic: str, program: Program, doctor: Callable[..., Findings]
) -> None:
    url = f"{kafka.url(topic)}&cache={program.folder}/cache"
    with ContextLog.open(url) as log:
        log.context("agent/a").add_message("user", "hello", expected_version=0)
        assert list(log.streams())
        assert doctor(url).one("index", "ok")["found"].endswith(": lag_events 0")
        log.context("agent/a").add_message("user", "hello", expected_version=1)


def test_an_index_of_a_topic_that_was_rewound_is_said(
    kafka: Any, topic: str, program: Program, doctor: Callable[..., Findings]
) -> None:
    url = f"{kafka.url(topic)}&cache=cache"
    program("streams", "--log", url)
    (path,) = (program.folder / "cache").rglob("index.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE progress SET next_offset = 1000")
    connection.close()
    assert "it has more than the topic" in doctor(url).one("index", "warning")["found"]


def test_an_index_that_cannot_be_written_is_said(
    kafka: Any, topic: str, program: Program, doctor: Callable[..., Findings]
) -> None:
    (program.folder / "cache").write_text("a file where the folder should be")
    found = doctor(f"{kafka.url(topic)}&cache=cache").one("index", "warning")
    assert "cannot be written" in found["found"]
    assert "another folder" in found["advice"]


def test_lag_of_the_groups_that_committed_offsets_is_said(kafka: Any, topic: str, doctor: Callable[..., Findings]) -> None:
    assert doctor(kafka.url(topic)).of("group") == []
    with ContextLog.open(kafka.url(topic)) as log:
        log.log.append([NewRecord(1, b"a", b"x")] * 6)
    for group, offset in (("lab-ahead", 100), ("lab-behind", 2), ("lab-done", 7)):
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"{group}-{topic}"})
        consumer.commit(offsets=[TopicPartition(topic, 1, offset)], asynchronous=False)
        consumer.close()
    found = {one["found"].partition(f"-{topic}: ")[0]: one for one in doctor(kafka.url(topic)).of("group")}
    assert found["lab-behind"]["found"].endswith("lag_events 5 (partition 1: 5)")
    assert found["lab-done"]["found"].endswith(": lag_events 0")
    assert found["lab-ahead"]["status"] == "warning"
    assert "beyond the end of partition 1" in found["lab-ahead"]["found"]

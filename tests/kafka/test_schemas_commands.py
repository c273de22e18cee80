"""`ctxlog schemas list|check|register` on a real broker, with a real registry: what they say, what they change, how they exit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.conftest import Program
from ctxlog import ContextLog
from ctxlog.cli.schemas import _print_compared, shipped_schemas
from ctxlog.cli.session import Session
from ctxlog.codec.framing import confluent_prefix
from ctxlog.codec.schemas import shipped
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.kafka.registry import LEVEL, Registry

MESSAGE = "ctxlog.MessageAppended"
NAMES = [schema.name for schema in shipped_schemas()]
DOWN = "http://127.0.0.1:1"


@pytest.fixture
def plain(kafka: Any, topic: str) -> str:
    """Its URL without a registry."""
    return kafka.url(topic)


@pytest.fixture
def url(plain: str, registry_url: str) -> str:
    """Its URL with one."""
    return f"{plain}&registry={registry_url}"


def ends(plain: str) -> list[int]:
    log = KafkaLog(plain)
    found = [log.bounds(partition).end for partition in range(log.partitions)]
    log.close()
    return found


def client(registry_url: str) -> Any:
    from confluent_kafka.schema_registry import SchemaRegistryClient

    return SchemaRegistryClient({"url": registry_url})


def put(registry_url: str, subject: str, text: str) -> int:
    """Register a schema as somebody else would."""
    from confluent_kafka.schema_registry import Schema

    return int(client(registry_url).register_schema(subject, Schema(text, "AVRO")))


def changed(name: str) -> str:
    """A schema under a name of ours that no reader of ours could read, nor the other way round."""
    schema = json.loads(shipped(name).text)
    schema["fields"].append({"name": "more", "type": "string"})
    return json.dumps(schema)


def test_list_shows_what_the_log_carries(program: Program, plain: str, url: str) -> None:
    found = program("schemas", "list", "--log", plain)
    assert (found.out, "carries no schema yet" in found.err) == ("", True)
    assert program("schemas", "list", "--log", plain, "-o", "json").json == {"schemas": []}
    assert program("schemas", "list", "--log", plain, "-o", "jsonl").out == ""
    program("append", "agent/a", "--message", "user", "hello", "--log", plain)
    (row,) = program("schemas", "list", "--log", plain, "-o", "json").json["schemas"]
    ours = shipped(MESSAGE)
    assert (row["name"], row["fingerprint"], row["digest"]) == (ours.name, ours.fingerprint, ours.digest.hex())
    assert (row["registry_ids"], len(row["partitions"]), row["shipped"], row["readable"]) == ([], 1, True, True)
    head, line = program("schemas", "list", "--log", plain).out.splitlines()
    assert head.split() == ["SCHEMA", "FINGERPRINT", "REGISTRY", "ID", "PARTITIONS", "VERSION"]
    assert line.split() == [MESSAGE, ours.fingerprint, "-", "1", "this", "release's"]
    assert program("schemas", "list", "--log", plain, "-o", "jsonl").lines == [row]


def test_register_registers_and_publishes_once_and_list_and_check_show_it(
    program: Program, plain: str, url: str, topic: str, registry_url: str
) -> None:
    assert program("schemas", "check", "--log", url, code=1).out.count("not in the registry: `ctxlog schemas register`") == 11
    rows = program("schemas", "check", "--log", url, "-o", "json", code=1).json["schemas"]
    assert [(row["name"], row["status"]) for row in rows] == [(name, "missing") for name in NAMES]
    assert ends(plain) == [1, 1]

    done = program("schemas", "register", "--log", url, "-o", "json").json["schemas"]
    assert [row["name"] for row in done] == NAMES
    registry = Registry(registry_url, topic)
    assert {row["name"]: row["registry_id"] for row in done} == {name: registry.look_up(shipped(name)) for name in NAMES}
    assert {registry.level(shipped(name)) for name in NAMES} == {LEVEL}
    after = ends(plain)

    again = program("schemas", "register", "--log", url)
    assert again.out.splitlines() == [
        *(f"registered  {row['name']}  id {row['registry_id']}" for row in done),
        "published in 2 partitions",
    ]
    assert program("schemas", "register", "--log", url, "-o", "jsonl").lines == done
    assert ends(plain) == after

    listed = program("schemas", "list", "--log", plain, "-o", "json").json["schemas"]
    assert {row["name"]: (row["registry_ids"], row["partitions"]) for row in listed} == {
        row["name"]: ([row["registry_id"]], [0, 1]) for row in done
    }
    checked = program("schemas", "check", "--log", url)
    for row in done:
        assert f"in 2 partitions of the log, id {row['registry_id']} in the registry" in checked.out
    rows = program("schemas", "check", "--log", url, "-o", "jsonl").lines
    assert {row["status"] for row in rows} == {"ok"}
    assert ends(plain) == after


def test_after_register_no_writer_asks_the_registry(program: Program, plain: str, url: str, topic: str) -> None:
    done = program("schemas", "register", "--log", url, "-o", "json").json["schemas"]
    program("append", "agent/a", "--message", "user", "x", "--fact", "k", "1", "--log", f"{plain}&registry={DOWN}")
    ids = {row["name"]: row["registry_id"] for row in done}
    with ContextLog.open(plain) as log:
        partition = log.replayer.reader.partition("agent/a")
        values = [record.value for record in log.log.read(partition, 0, 10**6, key=b"agent/a")]
    assert [value[:5] for value in values if value] == [confluent_prefix(ids[name]) for name in (MESSAGE, "ctxlog.FactSet")]


def test_check_without_a_registry_compares_with_the_log_alone(program: Program, plain: str) -> None:
    program("append", "agent/a", "--message", "user", "hello", "--log", plain)
    rows = program("schemas", "check", "--log", plain, "-o", "json").json["schemas"]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["name"]: row["found"] for row in rows if row["found"] != "not in the log yet"} == {
        MESSAGE: "in 1 partition of the log"
    }


def test_register_without_a_registry_is_a_usage_error_and_does_nothing(program: Program, plain: str) -> None:
    assert "names no registry" in program("schemas", "register", "--log", plain, code=2).err
    assert ends(plain) == [1, 1]


@pytest.mark.parametrize("command", ["check", "register"])
def test_a_registry_that_is_down_is_an_error_and_changes_nothing(command: str, program: Program, plain: str) -> None:
    done = program("schemas", command, "--log", f"{plain}&registry={DOWN}", code=1)
    assert f"registry {DOWN}: no answer" in done.err
    assert done.out == ""
    done = program("schemas", command, "--log", f"{plain}&registry={DOWN}", "-o", "json", code=1)
    assert done.json["error"]["type"] == "StorageError"
    assert ends(plain) == [1, 1]


def test_list_needs_no_registry(program: Program, plain: str) -> None:
    program("append", "agent/a", "--message", "user", "hello", "--log", plain)
    assert MESSAGE in program("schemas", "list", "--log", f"{plain}&registry={DOWN}").out


def test_a_subject_with_an_incompatible_schema_contradicts_and_nothing_is_registered(
    program: Program, plain: str, url: str, topic: str, registry_url: str
) -> None:
    put(registry_url, f"{topic}-{MESSAGE}", changed(MESSAGE))
    client(registry_url).set_compatibility(f"{topic}-{MESSAGE}", LEVEL)
    before = subjects(registry_url, topic)
    rows = program("schemas", "check", "--log", url, "-o", "json", code=3).json["schemas"]
    assert {row["name"]: row["status"] for row in rows} == {
        name: "contradicts" if name == MESSAGE else "missing" for name in NAMES
    }
    refused = program("schemas", "register", "--log", url, code=3)
    assert "nothing was registered or published" in refused.err
    assert [line.split()[:2] for line in refused.out.splitlines()[1:]] == [[MESSAGE, "contradicts"]]
    (row,) = program("schemas", "register", "--log", url, "-o", "json", code=3).json["schemas"]
    assert (row["name"], row["status"]) == (MESSAGE, "contradicts")
    assert subjects(registry_url, topic) == before
    assert ends(plain) == [1, 1]


def test_an_incompatible_schema_is_found_at_a_level_that_would_take_it(
    program: Program, plain: str, url: str, topic: str, registry_url: str
) -> None:
    """`register` holds the subject to its level first; whoever registered before did not."""
    put(registry_url, f"{topic}-{MESSAGE}", changed(MESSAGE))
    client(registry_url).set_compatibility(f"{topic}-{MESSAGE}", "NONE")
    program("schemas", "register", "--log", url, code=3)
    assert subjects(registry_url, topic) == [f"{topic}-{MESSAGE}"]
    assert len(client(registry_url).get_versions(f"{topic}-{MESSAGE}")) == 1
    assert ends(plain) == [1, 1]


def test_a_schema_must_be_compatible_with_all_versions_of_its_subject_and_not_with_the_latest_alone(
    program: Program, url: str, topic: str, registry_url: str
) -> None:
    subject = f"{topic}-{MESSAGE}"
    put(registry_url, subject, changed(MESSAGE))
    client(registry_url).set_compatibility(subject, "NONE")
    latest = json.loads(shipped(MESSAGE).text)
    latest["fields"].append({"name": "more", "type": ["null", "string"], "default": None})
    put(registry_url, subject, json.dumps(latest))
    client(registry_url).set_compatibility(subject, LEVEL)
    rows = program("schemas", "check", "--log", url, "-o", "json", code=3).json["schemas"]
    assert [row["name"] for row in rows if row["status"] == "contradicts"] == [MESSAGE]
    program("schemas", "register", "--log", url, code=3)


def subjects(registry_url: str, topic: str) -> list[str]:
    return sorted(one for one in client(registry_url).get_subjects() if one.startswith(f"{topic}-"))


def test_a_subject_at_another_level_is_missing_until_register_holds_it(
    program: Program, url: str, topic: str, registry_url: str
) -> None:
    program("schemas", "register", "--log", url)
    client(registry_url).set_compatibility(f"{topic}-{MESSAGE}", "BACKWARD")
    (row,) = [
        one for one in program("schemas", "check", "--log", url, "-o", "json", code=1).json["schemas"] if one["status"] != "ok"
    ]
    assert (row["name"], row["status"]) == (MESSAGE, "missing")
    assert "held to BACKWARD: `ctxlog schemas register`" in row["found"]
    program("schemas", "register", "--log", url)
    program("schemas", "check", "--log", url)
    assert client(registry_url).get_compatibility(f"{topic}-{MESSAGE}") == LEVEL


def test_an_id_that_the_log_has_for_another_schema_contradicts(
    program: Program, plain: str, url: str, topic: str, registry_url: str
) -> None:
    """As where a registry was lost and begun anew: the ids that the log has are other schemas' there."""
    from ctxlog.codec.control import encode_control, schema_published

    registry_id = put(registry_url, f"{topic}-{MESSAGE}", shipped(MESSAGE).text)
    log = KafkaLog(plain)
    log.append([encode_control(0, schema_published(log.log_id, shipped("ctxlog.FactSet"), registry_id))])
    log.close()
    rows = program("schemas", "check", "--log", url, "-o", "json", code=3).json["schemas"]
    (row,) = [one for one in rows if one["status"] == "contradicts"]
    assert (row["name"], row["found"]) == (MESSAGE, f"the log has id {registry_id} for ctxlog.FactSet")
    before = ends(plain)
    refused = program("schemas", "register", "--log", url, code=3)
    assert f"the log has id {registry_id} for ctxlog.FactSet" in refused.out
    assert ends(plain) == before


def test_what_a_registry_says_cannot_drive_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"name": MESSAGE, "status": "missing", "found": "its subject is held to \x1b[2J: `ctxlog schemas register`"}
    _print_compared([row], Session())
    assert "\x1b" not in capsys.readouterr().out


def test_a_schema_in_the_log_that_this_release_cannot_read_contradicts(program: Program, plain: str) -> None:
    from ctxlog.codec.control import encode_control, schema_published
    from ctxlog.codec.schemas import Schema

    fewer = json.loads(shipped(MESSAGE).text)
    fewer["fields"] = fewer["fields"][:-1]
    log = KafkaLog(plain)
    log.append([encode_control(1, schema_published(log.log_id, Schema(json.dumps(fewer)), None))])
    log.close()
    rows = program("schemas", "check", "--log", plain, "-o", "json", code=3).json["schemas"]
    assert {row["name"] for row in rows if row["status"] == "contradicts"} == {MESSAGE}
    (row,) = program("schemas", "list", "--log", plain, "-o", "json").json["schemas"]
    assert (row["shipped"], row["readable"]) == (False, False)
    assert program("schemas", "list", "--log", plain).out.splitlines()[1].endswith("another")

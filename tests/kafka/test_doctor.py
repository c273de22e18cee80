"""`ctxlog doctor` on Kafka: it finds what is wrong with real brokers, says what mends it, and touches nothing."""

from __future__ import annotations

import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic, OffsetSpec

import brokers
from cli.conftest import Program
from conftest import cluster, no_broker
from ctxlog import ContextLog
from ctxlog.cli import doctor_kafka
from ctxlog.log.kafka import KafkaLog
from ctxlog.model.records import NewRecord
from kafka_doctor import ABSENT, LOG_SETTINGS, Findings, admin_of, change, run_here


def kafka_configs(advice: str) -> None:
    """Run a command line of `kafka-configs` as it stands in an advice."""
    command = shlex.split(advice)
    assert command[0] == "kafka-configs"
    try:
        jars = brokers.jars()
    except brokers.NoBrokerError as error:
        no_broker(error)
    java = ["java", brokers.FAST_START, "-cp", f"{jars}/*", "kafka.admin.ConfigCommand"]
    subprocess.run([*java, *command[1:]], check=True, capture_output=True)
    time.sleep(0.3)


def everything(bootstrap: str) -> tuple[list[str], list[str], dict[tuple[str, int], int]]:
    """What a cluster holds: its topics, groups and ends."""
    admin = admin_of(bootstrap)
    topics = admin.list_topics(timeout=30).topics
    asked = {TopicPartition(name, part): OffsetSpec.latest() for name, topic in topics.items() for part in topic.partitions}
    ends = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED)
    groups = admin.list_consumer_groups().result().valid
    return (
        sorted(topics),
        sorted(group.group_id for group in groups),
        {(where.topic, where.partition): future.result().offset for where, future in ends.items()},
    )


def url_of(started: brokers.Cluster, topic: str) -> str:
    return f"kafka://{started.bootstrap}?topic={topic}"


def test_a_healthy_log_has_nothing_to_mend_and_is_not_touched(
    three_nodes: brokers.Cluster, program: Program, doctor: Callable[..., Findings]
) -> None:
    url = url_of(three_nodes, "healthy")
    with ContextLog(KafkaLog.create(url, 3)[0]) as log:
        log.context("agent/a").add_message("user", "hello", expected_version=0)
        log_id = log.log.log_id
    before = everything(three_nodes.bootstrap)
    found = doctor(url)
    assert [one for one in found.checks if one["status"] != "ok"] == []
    assert "3 brokers: 1 at 127.0.0.1:" in found.one("brokers")["found"]
    assert "healthy, id " in found.one("topic")["found"]
    assert found.one("topic")["found"].endswith("3 partitions, 3 replicas")
    assert found.one("replicas")["found"] == "all in sync, min.insync.replicas=2"
    assert log_id in found.one("genesis")["found"]
    assert "5 records at most" in found.one("records")["found"]
    assert "old by this machine's clock" in found.one("clock")["found"]
    assert found.of("registry") == found.of("group") == []
    text = program("doctor", "--log", url).out
    assert f"ok       genesis   log {log_id}, the same in 3 partitions" in text.splitlines()
    assert len(program("doctor", "--log", url, "-o", "jsonl").lines) == 1
    assert everything(three_nodes.bootstrap) == before
    assert list(program.folder.iterdir()) == []


def test_brokers_that_do_not_answer_are_named_and_other_checks_go_on(doctor: Callable[..., Findings]) -> None:
    found = doctor(f"kafka://{ABSENT},127.0.0.1:2?registry=http://{ABSENT}&cache=somewhere", 1)
    assert [one["found"] for one in found.of("brokers")] == [f"{ABSENT}: Connection refused", "127.0.0.1:2: Connection refused"]
    assert all("Start the broker there" in one["advice"] for one in found.of("brokers"))
    assert "no answer that can be used" in found.one("registry", "failed")["found"]
    assert "not looked at" in found.one("index", "note")["found"]
    assert found.of("topic") == found.of("genesis") == []


def test_a_host_that_has_no_address_is_named(doctor: Callable[..., Findings]) -> None:
    assert doctor("kafka://no-such-host.invalid:9092", 1).one("brokers")["found"].startswith("no-such-host.invalid:9092: ")


def test_one_broker_of_the_url_that_does_not_answer_is_a_warning(kafka: Any, topic: str, doctor: Callable[..., Findings]) -> None:
    found = doctor(f"kafka://{kafka.bootstrap},{ABSENT}?topic={topic}")
    assert found.one("brokers", "warning")["found"] == f"{ABSENT}: Connection refused"
    assert "1 broker: 1 at" in found.one("brokers", "ok")["found"]
    assert found.one("genesis")["status"] == "ok"


def test_something_that_is_no_broker_is_told_from_nothing(doctor: Callable[..., Findings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        found = doctor(f"kafka://127.0.0.1:{server.getsockname()[1]}", 1)
        server.shutdown(socket.SHUT_RDWR)
    assert "refused" not in found.one("brokers", "failed")["found"]
    assert "kafka://127.0.0.1:" in found.one("brokers", "failed")["found"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Cluster]:
    """A broker that sends its clients to where nobody listens."""
    yield from cluster(tmp_path_factory, advertised=1)


@pytest.mark.kafka
def test_a_broker_that_sends_clients_elsewhere_is_found_out(elsewhere: brokers.Cluster, doctor: Callable[..., Findings]) -> None:
    """The commonest mistake in a cluster that is made by hand."""
    found = doctor(f"kafka://{elsewhere.direct}?topic=none", 1)
    wrong = found.one("brokers", "failed")
    assert wrong["found"] == f"broker 1 sends clients to {ABSENT}: Connection refused"
    assert "advertised.listeners" in wrong["advice"]
    assert found.of("topic") == found.of("genesis") == []  # Nobody could be asked.


def test_a_topic_that_is_not_there_is_not_made(kafka: Any, doctor: Callable[..., Findings]) -> None:
    name = kafka.topic()
    found = doctor(kafka.url(name), 1)
    assert found.failed == ["topic"]
    assert found.one("topic")["found"] == f"there is no topic {name}"
    assert "`ctxlog init`" in found.one("topic")["advice"]
    assert name not in admin_of(kafka.bootstrap).list_topics(timeout=30).topics


def test_each_wrong_setting_comes_with_the_command_that_mends_it(kafka: Any, topic: str, doctor: Callable[..., Findings]) -> None:
    url = kafka.url(topic)
    change(kafka.bootstrap, topic, retention_ms="604800000", cleanup_policy="compact,delete")
    found = doctor(url, 1)
    assert found.failed == ["settings", "settings"]
    wrong = {one["found"]: one["advice"] for one in found.of("settings")}
    assert list(wrong) == [
        "cleanup.policy is compact,delete, expected delete: compaction takes records away",
        "retention.ms is 604800000, expected -1: records that are older are deleted",
    ]
    assert found.one("genesis")["status"] == "ok"  # One fault does not hide the other checks.
    for number, advice in enumerate(wrong.values(), 1):
        kafka_configs(advice)
        assert len(doctor(url, int(number < 2)).of("settings", "failed")) == 2 - number
    KafkaLog(url).close()


def test_settings_that_lose_records_with_a_broker_are_warnings(
    three_nodes: brokers.Cluster, doctor: Callable[..., Findings]
) -> None:
    url = url_of(three_nodes, "careless")
    KafkaLog.create(url, 1)[0].close()
    change(three_nodes.bootstrap, "careless", min_insync_replicas="1", unclean_leader_election_enable="true")
    found = doctor(url)
    assert found.warned == ["replicas", "replicas"]
    assert [one["found"].split(":")[0] for one in found.of("replicas", "warning")] == [
        "min.insync.replicas is 1",
        "unclean.leader.election.enable is true",
    ]
    for one in found.of("replicas", "warning"):
        kafka_configs(one["advice"])
    assert doctor(url).warned == []


def test_a_log_on_one_broker_is_warned_of(kafka: Any, topic: str, doctor: Callable[..., Findings]) -> None:
    found = doctor(kafka.url(topic))
    assert found.warned == ["replicas"]
    assert "on one broker only" in found.one("replicas", "warning")["found"]
    assert "`ctxlog copy`" in found.one("replicas", "warning")["advice"]


def make(bootstrap: str, topic: str, partitions: int = 2, **options: Any) -> None:
    new = NewTopic(topic, partitions, options.pop("replicas", 1), config=LOG_SETTINGS, **options)
    admin_of(bootstrap).create_topics([new])[topic].result()
    time.sleep(0.3)


def test_a_topic_without_a_log_is_sent_to_init(kafka: Any, doctor: Callable[..., Findings]) -> None:
    name = kafka.topic()
    make(kafka.bootstrap, name)
    found = doctor(kafka.url(name), 1)
    assert found.failed == ["genesis"]
    assert found.one("genesis")["found"] == "partition 0: it is empty; partition 1: it is empty"
    assert "`ctxlog init`" in found.one("genesis")["advice"]
    assert doctor(kafka.url(name), 1).failed == ["genesis"]


def test_a_recreated_topic_is_no_log_any_more(kafka: Any, topic: str, doctor: Callable[..., Findings]) -> None:
    """Its records are there, as after a restore; its id is another one."""
    log = KafkaLog(kafka.url(topic))
    kept = [next(log.read(partition, 0, 1)) for partition in range(2)]
    log.close()
    admin_of(kafka.bootstrap).delete_topics([topic])[topic].result()
    time.sleep(0.5)
    make(kafka.bootstrap, topic)
    assert "it is empty" in doctor(kafka.url(topic), 1).one("genesis")["found"]
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for record in kept:
        producer.produce(topic, record.value, record.key, record.partition)
    assert producer.flush(30) == 0
    wrong = doctor(kafka.url(topic), 1).one("genesis", "failed")
    assert "when the log was made: the topic was recreated" in wrong["found"]
    assert "`ctxlog init --adopt`" in wrong["found"]
    assert "Restore the topic" in wrong["advice"]


def test_more_partitions_than_the_log_was_made_with_are_each_said(
    kafka: Any, topic: str, doctor: Callable[..., Findings]
) -> None:
    admin_of(kafka.bootstrap).create_partitions([NewPartitions(topic, 3)])[topic].result()
    time.sleep(0.5)
    assert [one["found"] for one in doctor(kafka.url(topic), 1).of("genesis", "failed")] == [
        "it has 3 partitions, and had 2 when the log was made",
        "partition 2: it is empty",
    ]


def test_a_partition_that_lost_its_beginning_is_said(kafka: Any, topic: str, doctor: Callable[..., Findings]) -> None:
    with ContextLog.open(kafka.url(topic)) as log:
        log.log.append([NewRecord(1, b"a", b"x")] * 5)
    for future in admin_of(kafka.bootstrap).delete_records([TopicPartition(topic, 1, 3)]).values():
        future.result()
    found = doctor(kafka.url(topic), 1)
    assert "partition 1: the first record kept is at offset 3, expected 0" in found.one("genesis", "failed")["found"]
    assert "4 records at most" in found.one("records")["found"]


def test_a_record_from_the_future_shows_that_the_clocks_differ(
    kafka: Any, topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Topics of a log have the brokers' times, so it is this machine's clock that is put back."""
    url = kafka.url(topic)
    monkeypatch.setattr(doctor_kafka, "now_ms", lambda: time.time_ns() // 1_000_000 - 3_600_000)
    code, found = run_here(capsys, url)
    assert code == 0
    assert "60 min in the future by this machine's clock" in found.one("clock", "warning")["found"]
    assert "NTP" in found.one("clock")["advice"]
    monkeypatch.setattr(doctor_kafka, "now_ms", lambda: time.time_ns() // 1_000_000 + 3_600_000)
    _, found = run_here(capsys, url)
    assert "60 min old by this machine's clock" in found.one("clock", "ok")["found"]


@pytest.mark.parametrize(
    ("text", "check", "said"),
    [
        (None, "client", "cannot be read: No such file"),
        ("hunter2", "client", "line 1: expected name=value"),
        ("acks=0", "client", "acks is set by ctxlog"),
        ("no.such.property=hunter2", "client", "no.such.property"),
        ("security.protocol=hunter2", "client", "security.protocol"),
    ],
)
def test_properties_that_cannot_be_used_are_said_without_their_values(
    text: str | None, check: str, said: str, kafka: Any, program: Program, doctor: Callable[..., Findings]
) -> None:
    file = program.folder / "client.properties"
    if text is not None:
        file.write_text(text, "utf-8")
    found = doctor(f"kafka://{kafka.bootstrap},{ABSENT}?properties={file}", 1)
    assert said in found.one(check, "failed")["found"]
    assert "hunter2" not in str(found.checks)
    assert found.one("brokers")["found"] == f"{ABSENT}: Connection refused"  # The address needs no properties.


def test_a_url_that_cannot_be_read_is_said_without_its_secrets(doctor: Callable[..., Findings], program: Program) -> None:
    for url in ("kafka://me:hunter2@localhost:9092", "kafka://localhost", "kafka:x", "kafka://localhost:9092?tpoic=a"):
        found = doctor(url, 1)
        assert "log kafka: expected" in found.one("log", "failed")["found"]
        assert "--log" in found.one("log")["found"]
        assert "hunter2" not in str(found.checks)


def test_a_client_that_the_brokers_refuse_is_said_without_its_password(
    users: brokers.Cluster, program: Program, doctor: Callable[..., Findings]
) -> None:
    file = program.folder / "client.properties"
    settings = {name: value for name, value in users.client(password="hunter2").items() if name != "bootstrap.servers"}
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), "utf-8")
    found = doctor(f"kafka://{users.bootstrap}?properties={file}", 1)
    assert "the brokers refuse this client" in found.one("brokers", "failed")["found"]
    assert "hunter2" not in str(found.checks)
    file.write_text(file.read_text().replace("hunter2", "admin-secret"), "utf-8")
    assert doctor(f"kafka://{users.bootstrap}?properties={file}", 1).failed == ["topic"]


def test_a_broker_that_is_down_shows_in_replicas_and_leaders(
    three_nodes: brokers.Cluster, doctor: Callable[..., Findings]
) -> None:
    url, alone = url_of(three_nodes, "replicated"), url_of(three_nodes, "alone")
    KafkaLog.create(url, 2)[0].close()
    admin_of(three_nodes.bootstrap).create_topics(
        [NewTopic("alone", 2, replica_assignment=[[1], [2]], config={**LOG_SETTINGS, "min.insync.replicas": "1"})]
    )["alone"].result()
    time.sleep(0.5)
    KafkaLog.create(alone)[0].close()
    down = three_nodes.nodes[1]
    down.kill()
    try:
        found = until(
            lambda: doctor(url, None), lambda found: "2 brokers" in str(found.of("brokers", "ok")) and "replicas" in found.warned
        )
        found = until(lambda: doctor(url, None), lambda found: not found.failed)
        assert found.one("brokers", "warning")["found"] == f"127.0.0.1:{down.port}: Connection refused"
        assert "2 brokers: 1 at" in found.one("brokers", "ok")["found"]
        assert found.one("replicas")["found"] == "partitions 0, 1: not all replicas are in sync"
        assert "Start broker 2" in found.one("replicas")["advice"]
        assert found.one("genesis")["status"] == "ok"

        found = doctor(alone, 1)
        assert "no broker leads partition 1" in found.one("topic", "failed")["found"]
        assert found.one("topic", "failed")["advice"].endswith("hold it: 2.")
        assert "not looked at" in found.one("genesis", "failed")["found"]
        assert found.one("records")["status"] == "ok"

        change(three_nodes.bootstrap, "replicated", min_insync_replicas="3")
        short = doctor(url, 1).one("replicas", "failed")
        assert short["found"].startswith("partitions 0, 1: fewer replicas in sync than min.insync.replicas (3)")
        assert "Start broker 2" in short["advice"]
    finally:
        down.start()
        three_nodes.wait_until_ready()
    change(three_nodes.bootstrap, "replicated", min_insync_replicas="2")
    until(lambda: doctor(url, None), lambda found: not found.warned and not found.failed)


def until(look: Callable[[], Findings], fit: Callable[[Findings], bool]) -> Findings:
    """Look again until the brokers have noticed."""
    deadline = time.monotonic() + 60
    while not fit(found := look()):
        assert time.monotonic() < deadline, found.checks
        time.sleep(0.3)
    return found

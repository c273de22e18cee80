"""The topic of a log: made by init alone, completed by it, and refused with reasons where it is not what it must be."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic

from ctxlog import ContextLog
from ctxlog.codec.control import encode_control, genesis
from ctxlog.errors import BelowHorizonError, GenesisError, InvalidInputError, LogOpenError, StorageError, TopicChangedError
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.kafka import log as kafka_log
from ctxlog.log.kafka import topic as topics
from ctxlog.log.kafka.clients import Clients
from ctxlog.log.kafka.location import Location, Properties
from ctxlog.model.records import NewRecord

LOG_SETTINGS = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": "2097152",
}


@pytest.fixture
def admin(kafka: Any) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


@pytest.fixture
def topic(kafka: Any) -> str:
    return kafka.topic()


@pytest.fixture
def url(kafka: Any, topic: str) -> str:
    return kafka.url(topic) + "&cache=off"


@pytest.fixture
def opened(url: str) -> Iterator[KafkaLog]:
    """A new log of two partitions, opened."""
    log, _ = KafkaLog.create(url, 2)
    yield log
    log.close()


def set_up(admin: AdminClient, topic: str, settings: dict[str, str], partitions: int = 2) -> None:
    admin.create_topics([NewTopic(topic, partitions, 1, config=settings)])[topic].result()
    time.sleep(0.2)


def change(admin: AdminClient, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    time.sleep(0.3)


def produce(kafka: Any, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, value, key, partition)
    assert producer.flush(30) == 0


def recreate(admin: AdminClient, topic: str, partitions: int = 2) -> None:
    admin.delete_topics([topic])[topic].result()
    time.sleep(0.5)
    set_up(admin, topic, LOG_SETTINGS, partitions)


def test_opening_creates_nothing_and_says_what_does(url: str, topic: str, admin: AdminClient) -> None:
    with pytest.raises(LogOpenError, match=r"there is no such topic; nothing was created. `ctxlog init` creates a log"):
        KafkaLog(url)
    assert topic not in admin.list_topics(timeout=10).topics


def test_init_makes_the_topic_with_the_settings_of_a_log(url: str, topic: str, admin: AdminClient) -> None:
    log, done = KafkaLog.create(url)
    assert (done, log.partitions) == (True, 12)
    (future,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    found = {name: entry.value for name, entry in future.result().items()}
    assert {name: found[name] for name in LOG_SETTINGS} == LOG_SETTINGS
    assert found["unclean.leader.election.enable"] == "false"
    log.close()


def test_init_again_changes_nothing(opened: KafkaLog, url: str) -> None:
    ends = [opened.bounds(partition) for partition in range(2)]
    again, done = KafkaLog.create(url)
    assert (done, again.log_id) == (False, opened.log_id)
    assert [again.bounds(partition) for partition in range(2)] == ends
    again.close()


def test_init_completes_what_was_begun(kafka: Any, url: str, topic: str, admin: AdminClient) -> None:
    """Killed after the topic was made, or after some partitions got their genesis: the next run goes on."""
    set_up(admin, topic, LOG_SETTINGS, 3)
    with pytest.raises(GenesisError, match="it is not a log yet: run `ctxlog init`"):
        KafkaLog(url)
    first, done = KafkaLog.create(url)
    assert done
    first.close()
    other = kafka.topic()
    set_up(admin, other, LOG_SETTINGS, 3)
    described = KafkaLog(url).topic  # any: its topic id is another one's
    begun = encode_control(0, genesis("0" * 8 + "-0000-4000-8000-" + "0" * 12, _id_of(admin, other), 3))
    produce(kafka, other, 0, begun.key, begun.value)
    with pytest.raises(GenesisError, match="partition 1: it is empty"):
        KafkaLog(kafka.url(other))
    log, done = KafkaLog.create(kafka.url(other))
    assert (done, log.partitions, log.log_id[:8]) == (True, 3, "00000000")
    assert described.topic_id != log.topic.topic_id
    log.close()


def _id_of(admin: AdminClient, topic: str) -> str:
    from confluent_kafka import TopicCollection

    return str(admin.describe_topics(TopicCollection([topic]))[topic].result().topic_id)


def test_inits_at_once_make_one_log(url: str) -> None:
    found: list[str] = []

    def init() -> None:
        log, _ = KafkaLog.create(url, 3)
        found.append(log.log_id)
        log.close()

    threads = [threading.Thread(target=init) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_an_init_that_another_one_overtakes_joins_it(
    kafka: Any, url: str, topic: str, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at an empty topic and its look whether that holds records."""
    set_up(admin, topic, LOG_SETTINGS)
    look, first = topics.heads, []

    def overtaken(*arguments: Any) -> topics.Heads:
        found = look(*arguments)
        if not first:
            first.append("")
            log, _ = KafkaLog.create(url)
            first[0] = log.log_id
            log.close()
        return found

    monkeypatch.setattr(topics, "heads", overtaken)
    log, _ = KafkaLog.create(url)
    log.close()
    assert [log.log_id] == first


def test_init_goes_by_the_broker_that_showed_the_new_topic(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows on one broker sooner than on another: asked again, another one might not know it yet."""
    look, answers = topics.describe, [True, True, False]

    def late(*arguments: Any) -> topics.Topic | None:
        return look(*arguments) if not answers or answers.pop(0) else None

    monkeypatch.setattr(topics, "describe", late)
    clients = Clients(Location.parse(url), Properties({}, {}))
    assert topics.create(clients, 2)
    clients.close()


def test_init_takes_no_topic_that_holds_something_else(kafka: Any, url: str, topic: str, admin: AdminClient) -> None:
    set_up(admin, topic, LOG_SETTINGS)
    produce(kafka, topic, 1, b"orders", b"not ours")
    with pytest.raises(GenesisError, match="holds records and is no log; nothing was changed"):
        KafkaLog.create(url)
    assert admin.list_offsets is not None
    with pytest.raises(GenesisError, match="partition 1: it has no genesis"):
        KafkaLog(url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("message.timestamp.type", "CreateTime"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("max.message.bytes", "1048576"),
    ],
)
def test_a_topic_with_other_settings_is_refused_with_each_reason(
    name: str, value: str, opened: KafkaLog, url: str, topic: str, admin: AdminClient
) -> None:
    change(admin, topic, name, value)
    with pytest.raises(LogOpenError, match=f"{name} is {value}, expected {LOG_SETTINGS[name]}"):
        KafkaLog(url)
    with pytest.raises(LogOpenError, match="the topic cannot hold a log; nothing was changed"):
        KafkaLog.create(url)
    change(admin, topic, name, LOG_SETTINGS[name])
    KafkaLog(url).close()


def test_all_reasons_are_said_at_once(opened: KafkaLog, url: str, topic: str, admin: AdminClient) -> None:
    change(admin, topic, "retention.ms", "1000000000")
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result()
    time.sleep(0.5)
    with pytest.raises(LogOpenError) as refused:
        KafkaLog(url)
    assert "retention.ms is 1000000000" in str(refused.value)
    assert "it has 3 partitions, and had 2 when the log was made" in str(refused.value)
    assert "partition 2: it is empty" in str(refused.value)
    assert "it is not a log yet" not in str(refused.value)


def test_more_partitions_are_noticed_by_a_log_that_is_open(
    opened: KafkaLog, topic: str, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys would go to other partitions than before."""
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result()
    time.sleep(0.3)
    monkeypatch.setattr(kafka_log, "LOOK_SECONDS", 0.0)
    with pytest.raises(TopicChangedError, match="5 partitions"):
        opened.append([NewRecord(0, b"a", b"b")])
    monkeypatch.setattr(kafka_log, "LOOK_SECONDS", 1000.0)
    with pytest.raises(TopicChangedError):  # and stays refused
        opened.bounds(0)


def test_init_writes_nothing_into_partitions_that_came_later(opened: KafkaLog, kafka: Any, url: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result()
    time.sleep(0.5)
    with pytest.raises(TopicChangedError, match="it has 3 partitions, and had 2 when the log was made; nothing was changed"):
        KafkaLog.create(url)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic})
    assert consumer.get_watermark_offsets(TopicPartition(topic, 2), timeout=30) == (0, 0)
    consumer.close()


def test_a_recreated_topic_is_refused_by_a_log_that_is_open(
    opened: KafkaLog, url: str, topic: str, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.append([NewRecord(0, b"a", b"b")])
    opened.bounds(0)
    recreate(admin, topic)
    monkeypatch.setattr(kafka_log, "LOOK_SECONDS", 0.0)
    with pytest.raises(TopicChangedError):
        opened.append([NewRecord(0, b"a", b"c")])
    with pytest.raises(GenesisError):
        KafkaLog(url)


def test_a_topic_that_was_made_again_and_written_is_noticed_by_its_offsets(
    opened: KafkaLog, topic: str, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks at the topic's id, an offset that went back gives it away."""
    opened.append([NewRecord(0, b"a", b"%d" % number) for number in range(5)])
    assert opened.bounds(0).end == 6
    recreate(admin, topic)
    monkeypatch.setattr(kafka_log, "LOOK_SECONDS", 1000.0)
    monkeypatch.setattr(kafka_log, "BACK_SECONDS_MAX", 0.5)
    with pytest.raises((TopicChangedError, StorageError)):
        opened.append([NewRecord(0, b"a", b"late")])
    with pytest.raises((TopicChangedError, StorageError)):
        opened.bounds(0)


def test_a_restored_topic_is_adopted_on_demand_and_not_before(kafka: Any, url: str, topic: str, admin: AdminClient) -> None:
    """The same records in a topic with another id, as after a restore: `init --adopt` says that this is meant."""
    with ContextLog(KafkaLog.create(url, 2)[0]) as log:
        log.context("agent/a").add_message("user", "hello", expected_version=0)
        head = log.context("agent/a").state.chain_head
        log_id = log.log.log_id
        kept = [record for partition in range(2) for record in log.log.read(partition, 0, log.log.bounds(partition).end)]
    recreate(admin, topic)
    for record in kept:
        produce(kafka, topic, record.partition, record.key, record.value)
    with pytest.raises(TopicChangedError, match=r"its id is .*`ctxlog init --adopt` takes it over"):
        KafkaLog(url)
    with pytest.raises(TopicChangedError):
        KafkaLog.create(url)
    for done in (True, False):
        adopted, changed = KafkaLog.create(url, adopt=True)
        assert (changed, adopted.log_id) == (done, log_id)
        adopted.close()
    with ContextLog(KafkaLog(url)) as log:
        assert log.context("agent/a").state.chain_head == head
        log.context("agent/a").add_message("user", "and on", expected_version=1)


def test_a_topic_that_lost_its_beginning_is_below_the_horizon(opened: KafkaLog, url: str, topic: str, admin: AdminClient) -> None:
    opened.append([NewRecord(1, b"a", b"%d" % number) for number in range(5)])
    for future in admin.delete_records([TopicPartition(topic, 1, 3)]).values():
        future.result()
    with pytest.raises(BelowHorizonError, match="partition 1: the first record kept is at offset 3"):
        KafkaLog(url)
    with pytest.raises(BelowHorizonError):
        ContextLog(opened)


def test_a_genesis_of_another_log_or_of_other_rules_is_refused(kafka: Any, url: str, topic: str, admin: AdminClient) -> None:
    set_up(admin, topic, LOG_SETTINGS)
    topic_id = _id_of(admin, topic)
    for partition, log_id in enumerate(("a", "b")):
        record = encode_control(partition, genesis(log_id, topic_id, 2))
        produce(kafka, topic, partition, record.key, record.value)
    with pytest.raises(LogOpenError, match="partition 1: its genesis is that of another log"):
        KafkaLog(url)
    other = kafka.topic()
    set_up(admin, other, LOG_SETTINGS, 1)
    control = genesis("a", _id_of(admin, other), 1)
    newer = encode_control(0, control._replace(data={**control.data, "rules": 7}))
    produce(kafka, other, 0, newer.key, newer.value)
    with pytest.raises(GenesisError, match="its rules are 7, this release knows 1: install the ctxlog that wrote it"):
        KafkaLog(kafka.url(other))


def test_records_before_the_genesis_do_not_count(kafka: Any, url: str, topic: str, admin: AdminClient) -> None:
    set_up(admin, topic, LOG_SETTINGS, 1)
    produce(kafka, topic, 0, b"ctxlog:control", b"noise")
    produce(kafka, topic, 0, b"agent/a", b"noise")
    record = encode_control(0, genesis("11111111-1111-4111-8111-111111111111", _id_of(admin, topic), 1))
    produce(kafka, topic, 0, record.key, record.value)
    with ContextLog(KafkaLog(url)) as log:
        log.context("agent/a").add_message("user", "hello", expected_version=0)
        assert log.context("agent/a").version == 1


def test_brokers_that_are_not_there_are_named() -> None:
    with pytest.raises(StorageError, match=r"kafka://127.0.0.1:1\?topic=ctxlog.events: .*[Cc]onnect"):
        KafkaLog("kafka://127.0.0.1:1")


def test_properties_that_no_client_takes_are_refused_without_their_values(kafka: Any, tmp_path: Any) -> None:
    file = tmp_path / "client.properties"
    for text, said in (
        ("no.such.property=hunter2", "no.such.property"),
        ("security.protocol=hunter2", "security.protocol"),
        ("acks=0", "acks is set by ctxlog"),
        ("hunter2", "line 1: expected name=value"),
        ("retries=1\nretries=2", "line 2: retries is there twice"),
    ):
        file.write_text(text, "utf-8")
        with pytest.raises(LogOpenError) as refused:
            KafkaLog(f"kafka://{kafka.bootstrap}?properties={file}")
        assert said in str(refused.value)
        assert "hunter2" not in str(refused.value)


def test_urls_that_say_something_else_are_refused_without_their_secrets() -> None:
    for url in (
        "kafka://user:hunter2@localhost:9092",
        "kafka://localhost",
        "kafka://localhost:99999",
        "kafka://localhost:9092?tpoic=a",
        "kafka://localhost:9092?topic=a&topic=b",
        "kafka://localhost:9092?topic=a/b",
        "kafka://localhost:9092?registry=http://me:hunter2@registry:8081",
        "kafka://localhost:9092?registry=file:///etc/passwd",
        "kafka://localhost:9092?properties=",
        "kafka://localhost:9092?cloudevents=yes",
        "kafka:localhost:9092",
    ):
        with pytest.raises(InvalidInputError) as refused:
            KafkaLog(url)
        assert "nothing was opened" in str(refused.value)
        assert "hunter2" not in json.dumps(str(refused.value))

"""Projectors of a log on Kafka: several share its partitions, brokers go away and come back, a recreated topic is refused."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import brokers
from cli.conftest import Program
from conftest import cluster
from ctxlog.errors import TopicChangedError, ViewsBusyError, ViewsError
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.kafka import log as kafka_log
from ctxlog.log.kafka.group import Group
from ctxlog.projection.coverage import coverage_of, published_files
from ctxlog.projection.instance import Instance
from ctxlog.projection.running import Running
from reading_views import Reader
from running import Run, contents, expected, rows, stamp_of, until, write

PARTITIONS = 6


@pytest.fixture
def log(kafka: Any) -> Iterator[KafkaLog]:
    """A new log of six partitions."""
    made, _ = KafkaLog.create(kafka.url() + "&cache=off", PARTITIONS)
    yield made
    made.close()


def url_of(log: KafkaLog) -> str:
    return f"{log.url}&cache=off"


def ends(log: KafkaLog) -> dict[int, int]:
    return {partition: log.bounds(partition).end for partition in range(log.partitions)}


def committed(bootstrap: str, log: KafkaLog) -> dict[int, int]:
    """What the group of the log's projectors has committed."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    name = f"ctxlog-projector-{log.log_id}"
    (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)], request_timeout=30).values()
    return {place.partition: place.offset for place in future.result().topic_partitions}


def test_one_instance_takes_all_partitions_and_commits_how_far_it_is(kafka: Any, log: KafkaLog, tmp_path: Path) -> None:
    """What was committed before is no place to start at: this group says that everything has been read."""
    write(log, 60, streams=20)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    places = [TopicPartition(log.location.topic, partition, end) for partition, end in ends(log).items()]
    offsets = ConsumerGroupTopicPartitions(f"ctxlog-projector-{log.log_id}", places)
    (future,) = admin.alter_consumer_group_offsets([offsets], request_timeout=30).values()
    future.result()
    instance = Instance(tmp_path / "views")
    running = Running(log, instance, publish_seconds=0.2)
    following = threading.Thread(target=running.run, kwargs={"join": lambda: Group(log, "current")})
    following.start()
    try:
        until(lambda: running.figures.next_offsets == ends(log))
        write(log, 30, streams=20, first=60)
        until(lambda: running.figures.next_offsets == ends(log))
    finally:
        running.stop()
        following.join()
    assert contents(instance.published) == expected(log, tmp_path / "whole.duckdb")
    assert committed(kafka.bootstrap, log) == ends(log)


@contextlib.contextmanager
def instances(program: Program, log: KafkaLog) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Projectors by name; those that still run are killed at the end."""
    found: dict[str, subprocess.Popen[str]] = {}
    try:
        yield found
    finally:
        for process in found.values():
            process.kill()
            process.communicate()


def start(program: Program, log: KafkaLog, name: str) -> subprocess.Popen[str]:
    arguments = ["--instance", name, "--views", "views", "--publish-seconds", "0.3"]
    return program.start("projector", "run", *arguments, env={"CTXLOG_URL": url_of(log)})


def furthest(folder: Path) -> dict[int, tuple[int, Path]]:
    """By partition how far the file is that is furthest."""
    found: dict[int, tuple[int, Path]] = {}
    for path in published_files(folder):
        coverage = coverage_of(path)
        assert coverage is not None
        for partition, offset in coverage.next_offsets.items():
            found[partition] = max(found.get(partition, (0, path)), (offset, path))
    return found


def are_at(folder: Path, log: KafkaLog) -> bool:
    return {partition: offset for partition, (offset, _) in furthest(folder).items()} == ends(log)


def union(folder: Path) -> list[str]:
    """The events of each partition, out of the file that is furthest."""
    found = []
    for partition, (_, path) in furthest(folder).items():
        with duckdb.connect(str(path), read_only=True) as connection:
            found += map(repr, connection.execute("FROM events WHERE partition = ?", [partition]).fetchall())
    return sorted(found)


@pytest.mark.slow
def test_instances_that_join_and_leave_under_load_miss_and_double_nothing(
    program: Program, log: KafkaLog, tmp_path: Path
) -> None:
    folder, stop = tmp_path / "views", threading.Event()
    with again(log) as own, instances(program, log) as running, Reader(folder) as reader:

        def load() -> None:
            number = 0
            while not stop.is_set():
                write(own, 6, streams=24, first=number)
                number += 6
                time.sleep(0.05)

        writer = threading.Thread(target=load)
        writer.start()
        try:
            running["a"] = start(program, log, "a")
            until(lambda: len(furthest(folder)) == PARTITIONS)
            running["b"] = start(program, log, "b")
            running["c"] = start(program, log, "c")
            until(lambda: all(coverage_of(folder / f"{name}.duckdb") and len(_of(folder, name)) > 1 for name in "bc"))
            running["b"].kill()
            time.sleep(2)
            running["b"].communicate()
            running["b"] = start(program, log, "b")  # again within its session
            time.sleep(2)
            running["c"].send_signal(signal.SIGTERM)
            assert running["c"].wait(60) == 0
            time.sleep(12)  # longer than a session: its partitions go to the others
            running["a"].kill()
        finally:
            stop.set()
            writer.join()
        until(lambda: are_at(folder, log))
        assert set(_of(folder, "b")) == set(range(PARTITIONS))
        running["b"].send_signal(signal.SIGTERM)
        assert running["b"].wait(60) == 0
    assert union(folder) == expected(log, tmp_path / "whole.duckdb")["events"]
    assert len(set(reader.seen)) > 5


def _of(folder: Path, name: str) -> dict[int, int]:
    found = coverage_of(folder / f"{name}.duckdb")
    return {} if found is None else found.next_offsets


def again(log: KafkaLog) -> Any:
    return contextlib.closing(KafkaLog(url_of(log)))


def test_partitions_are_shared_and_go_to_others_when_a_member_is_gone(log: KafkaLog) -> None:
    everything = frozenset(range(PARTITIONS))
    first = Group(log, "a")
    try:
        until(lambda: first.partitions() == everything)
        second = Group(log, "b")
        until(lambda: len(first.partitions()) == len(second.partitions()) == 3)
        assert first.partitions() | second.partitions() == everything
        kept = first.partitions()
        second.close()
        assert first.partitions() == kept  # for a while: it may be started again
        third = Group(log, "b")
        until(lambda: third.partitions() == everything - kept)
        third.close()
        until(lambda: first.partitions() == everything)
    finally:
        first.close()


def test_another_projector_of_the_same_name_elsewhere_ends_the_first(log: KafkaLog, tmp_path: Path) -> None:
    """Two machines, each with a folder of its own, where no lock on a file tells."""
    first = Group(log, "current")
    until(lambda: len(first.partitions()) == PARTITIONS)
    second = Group(log, "current")

    def refused() -> bool:
        try:
            first.partitions()
        except ViewsBusyError as error:
            return "another projector has the name 'current'" in str(error)
        return False

    until(refused)
    until(lambda: len(second.partitions()) == PARTITIONS)
    first.close()
    second.close()


def test_a_topic_that_was_recreated_ends_it_and_is_refused_later(
    kafka: Any, log: KafkaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_log, "LOOK_SECONDS", 0.3)
    instance = Instance(tmp_path / "views")
    write(log, 30, streams=10)
    admin, topic = AdminClient({"bootstrap.servers": kafka.bootstrap}), log.location.topic
    following = Run(log, instance)
    following.start()
    try:
        until(lambda: rows(instance.published) >= 30)
        admin.delete_topics([topic])[topic].result()
        until(lambda: following.error)
    finally:
        following.stop()
    assert isinstance(following.error, TopicChangedError)
    assert "open the log again" in str(following.error)
    before = stamp_of(instance.published)
    time.sleep(0.5)
    settings = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1", "retention.bytes": "-1"}
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=settings)])[topic].result()
    time.sleep(0.5)
    with contextlib.closing(KafkaLog.create(url_of(log))[0]) as other:
        write(other, 30, streams=10)
        with pytest.raises(ViewsError, match="these are views of log"):
            Running(other, instance).run(once=True)
    assert stamp_of(instance.published) == before


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Cluster]:
    """A broker of one test, which may kill it."""
    yield from cluster(tmp_path_factory)


@pytest.mark.slow
def test_a_broker_that_goes_away_and_comes_back_pauses_it_and_nothing_is_missing(
    own_broker: brokers.Cluster, program: Program, tmp_path: Path
) -> None:
    url = f"kafka://{own_broker.bootstrap}?topic=away&cache=off"
    log, _ = KafkaLog.create(url, 2)
    write(log, 30)
    published = tmp_path / "views" / "a.duckdb"
    process = start(program, log, "a")
    lines: list[str] = []
    assert process.stderr is not None
    reading = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))  # type: ignore[union-attr]
    reading.start()
    try:
        until(lambda: rows(published) >= 30)
        (node,) = own_broker.nodes
        node.kill()
        until(lambda: any("paused: " in line for line in lines))
        assert process.poll() is None
        node.start()
        own_broker.wait_until_ready()
        until(lambda: any("goes on." in line for line in lines))
        write(log, 30, first=30)
        until(lambda: {one: offset for one, (offset, _) in furthest(published.parent).items()} == ends(log))
        assert contents(published) == expected(log, tmp_path / "whole.duckdb")
        assert len([line for line in lines if "paused: " in line]) == 1
        log.close()
        node.kill()
        time.sleep(1)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert time.monotonic() - started < 20  # and not as long as brokers are waited for
    finally:
        process.kill()
        process.wait()
        reading.join()
    assert not any(re.search("Traceback|fault in ctxlog", line) for line in lines)

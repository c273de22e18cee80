"""Who may do what: the ACLs of `docs/how-to/kafka-access.md` are enough and not more than that, errors say which are missing, and
no password shows up anywhere.

The ACLs come from the page's own table, so the page and these tests cannot differ.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

import brokers
from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.errors import CtxlogError, LogOpenError, StorageError
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.kafka.clients import Clients
from ctxlog.model.events import FactSet
from ctxlog.model.records import NewRecord
from ctxlog.replay.copying import copy_log
from ctxlog.wiring import views_folder
from kafka_users import ACLS, PAGE, PROGRAM, SECRET, Acl, User, Users
from running import rows, until


def test_the_page_names_each_kind_of_user_and_its_commands_give_the_same_acls() -> None:
    assert set(ACLS) == {"reader", "writer", "init", "projector"}
    commands: dict[str, set[Acl]] = {}
    for command in re.findall(r"^kafka-acls .*?(?=\n\n|\n```)", PAGE, re.M | re.S):
        (who,) = re.findall(r"--allow-principal User:(\w+)", command)
        kind = "Group" if "--group ctxlog --resource-pattern-type prefixed" in command else "Topic"
        assert kind == "Group" or "--topic ctxlog.events --" in command
        operations = frozenset(re.findall(r"--operation (\w+)", command))
        commands.setdefault(who, set()).add(Acl(kind, kind == "Group", operations))
    assert commands == ACLS


def test_the_properties_that_the_page_shows_are_known_to_the_client() -> None:
    blocks = re.findall(r"^```properties\n(.*?)^```", PAGE, re.M | re.S)
    lines = [line.partition("=")[::2] for block in blocks for line in block.splitlines()]
    assert len(lines) == 10
    for name, value in [*lines, ("no.such.property", "x")]:
        try:
            AdminClient({name: value})
            known = True
        except KafkaException as error:  # A file that is not here is another matter.
            known = "No such configuration property" not in error.args[0].str()
        assert known == (name != "no.such.property"), name


@pytest.fixture
def people(users: brokers.Cluster, tmp_path: Path) -> Users:
    """A broker with users, and a topic of this test's own."""
    return Users(users, tmp_path)


@pytest.fixture
def made(people: Users) -> Users:
    """With a log in the topic, made by a user with the ACLs of `init`, and one event in it."""
    log, done = KafkaLog.create(people.add("init").url(), 2)
    assert done
    with ContextLog(log) as opened:
        opened.context("agent/a").add_message("user", "first", expected_version=0)
    return people


def refused(error: type[CtxlogError], what: Callable[[], Any]) -> str:
    """The message of the error that comes; no secret stands in it, nor in what a traceback shows of it."""
    with pytest.raises(error) as raised:
        what()
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert SECRET not in shown
    return str(raised.value)


def ends(people: Users) -> list[int]:
    """Where the partitions end, as an administrator sees them."""
    consumer = Consumer({**people.cluster.client(), "group.id": "admin"})
    found = [consumer.get_watermark_offsets(TopicPartition(people.topic, partition), timeout=30)[1] for partition in range(2)]
    consumer.close()
    return found


def forbidden(user: User) -> Iterator[str]:
    """What a user tries with a plain client and does not get."""
    admin, topic = AdminClient(user.settings), user.users.topic
    entry = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    tries = {
        "alter": lambda: admin.incremental_alter_configs([resource]),
        "partitions": lambda: admin.create_partitions([NewPartitions(topic, 20)]),
        "delete": lambda: admin.delete_topics([topic]),
        "create": lambda: admin.create_topics([NewTopic(f"{topic}-more", 1, 1)]),
        "delete records": lambda: admin.delete_records([TopicPartition(topic, 0, 1)]),
    }
    for name, attempt in tries.items():
        (future,) = attempt().values()
        with pytest.raises(KafkaException) as denied:
            future.result()
        assert denied.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        yield name


def test_init_makes_completes_and_adopts_a_log_with_its_acls(people: Users) -> None:
    user = people.add("init")
    assert "created" in user.run("init", "--partitions", "2")
    assert "exists" in user.run("init")
    assert "exists" in user.run("init", "--adopt")
    assert len(list(forbidden(user))) == 5
    assert "not allow" in refused(StorageError, lambda: KafkaLog.create(user.url("another-topic")))


@pytest.mark.parametrize("missing", sorted(next(iter(ACLS["init"])).operations))
def test_init_needs_each_of_its_acls(people: Users, missing: str) -> None:
    (all_of_them,) = ACLS["init"]
    user = people.add("init", acls={all_of_them._replace(operations=all_of_them.operations - {missing})})
    refused(StorageError, lambda: KafkaLog.create(user.url(), 2))


def test_a_writer_appends_reads_copies_and_completes_with_its_acls(made: Users, tmp_path: Path) -> None:
    user = made.add("writer")
    with ContextLog.open(user.url()) as log:
        context = log.context("agent/a")
        assert context.append([FactSet(key="a", value="1"), FactSet(key="b", value="2")], expected_version=1).version == 3  # type: ignore[union-attr]
        context.add_message("user", "unconditional")
        assert context.version == 4
        context.fork("agent/fork").add_message("user", "in the fork")
        backend: Any = getattr(log.log, "log", log.log)  # behind its index
        assert SECRET not in repr(log) + repr(log.log) + repr(backend) + repr(backend.properties)
    user.run("append", "agent/b", "--message", "user", "Hello", "--expected-version", "0")
    assert "Hello" in user.run("show", "agent/b")
    assert "exists" in user.run("init")
    assert user.run("verify")
    other = f"{made.topic}-copy"
    KafkaLog.create(made.add("init", topic=other).url(other), 1)[0].close()
    copier = made.add("writer", topic=other)
    with ContextLog.open(f"embedded:{tmp_path / 'source'}") as source:
        source.context("agent/c").add_message("user", "copied")
    source_url = f"embedded:{tmp_path / 'source'}"
    assert "copied: 1 record" in copier.run("copy", "--log", source_url, copier.url(other))


@pytest.mark.parametrize("missing", sorted(next(iter(ACLS["writer"])).operations))
def test_a_writer_needs_each_of_its_acls(made: Users, missing: str) -> None:
    (all_of_them,) = ACLS["writer"]
    user = made.add("writer", acls={all_of_them._replace(operations=all_of_them.operations - {missing})})
    before = ends(made)

    def write() -> None:
        with ContextLog.open(user.url()) as log:
            log.context("agent/a").add_message("user", "no")

    assert "ACLs" in refused(StorageError, write)
    assert ends(made) == before


def test_a_writer_makes_changes_and_deletes_no_topic(made: Users) -> None:
    user = made.add("writer")
    assert list(forbidden(user)) == ["alter", "partitions", "delete", "create", "delete records"]
    assert "not allow" in refused(StorageError, lambda: KafkaLog.create(user.url("another-topic")))
    with ContextLog.open(user.url()) as log:
        assert log.context("agent/a").version == 1


def test_a_reader_reads_replays_verifies_and_copies_with_its_acls(made: Users, tmp_path: Path) -> None:
    user = made.add("reader")
    with ContextLog.open(user.url()) as log:
        assert [message.content for message in log.context("agent/a").replay("version:1").state.messages] == ["first"]
        assert log.context("agent/a").replay("time:2100-01-01T00:00:00Z").manifest.provisional
        assert [stream.stream_id for stream in log.streams()] == ["agent/a"]
        assert verify(log).problems == []
        copy_log(log.log, EmbeddedLog(tmp_path / "copy"))
    assert json.loads(user.run("streams", "-o", "json"))
    assert "first" in user.run("show", "agent/a")
    assert "the same in 2 partitions" in user.run("doctor")
    user.run("replay", "agent/a", "--at", "version:1")
    user.run("verify")
    user.run("schemas", "list")
    assert "copied: 1 record" in user.run("copy", f"embedded:{tmp_path / 'copy-2'}")


@pytest.mark.parametrize("missing", sorted(next(iter(ACLS["reader"])).operations))
def test_a_reader_needs_each_of_its_acls(made: Users, missing: str) -> None:
    (all_of_them,) = ACLS["reader"]
    user = made.add("reader", acls={all_of_them._replace(operations=all_of_them.operations - {missing})})
    assert "ACLs" in refused(StorageError, lambda: KafkaLog(user.url()))


def test_a_reader_appends_nothing_and_is_told_what_it_lacks(made: Users) -> None:
    user, before = made.add("reader"), ends(made)
    with ContextLog.open(user.url()) as log:
        for _ in range(2):
            message = refused(StorageError, lambda: log.context("agent/a").add_message("user", "no", expected_version=1))
            assert "may not write to the topic; nothing was appended. Give it the ACLs of a writer" in message
        assert log.context("agent/a").version == 1
    assert "may not write to the topic" in user.run("append", "agent/a", "--message", "user", "no", code=1)
    assert "may not write" in user.run("import", str(chats(made.folder)), code=1)
    assert len(list(forbidden(user))) == 5
    assert ends(made) == before


def chats(folder: Path) -> Path:
    path = folder / "chats.jsonl"
    path.write_text(json.dumps([{"role": "user", "content": "Hello"}]) + "\n", "utf-8")
    return path


def test_a_reader_who_may_write_to_another_topic_appends_nothing_here(made: Users) -> None:
    """librdkafka's producer starts then, and each record is refused by itself."""
    user, before = made.add("reader"), ends(made)
    made.allow(user, Acl("Topic", False, frozenset({"Write"})), "another-topic")
    with contextlib.closing(KafkaLog(user.url())) as log, pytest.MonkeyPatch.context() as patch:
        assert "may not write" in refused(StorageError, lambda: log.append([NewRecord(0, b"agent/a", b"x")]))
        # As if it had been allowed to when it was asked, and no more when it wrote.
        patch.setattr(Clients, "_check_may_write", lambda _: None)
        message = refused(StorageError, lambda: log.append([NewRecord(0, b"agent/a", b"x")] * 3))
        assert "nothing was appended. Give this client the ACLs of a writer" in message
    assert ends(made) == before


def test_a_producer_that_breaks_down_ends_in_a_typed_error(made: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka's fatal errors come as exceptions out of the middle of its calls."""
    user, before = made.add("reader"), ends(made)
    monkeypatch.setattr(Clients, "_check_may_write", lambda _: None)
    monkeypatch.setattr(
        Clients, "_make_producer", lambda self: self._make(Producer, {"enable.idempotence": "true", "acks": "all"})
    )
    with contextlib.closing(KafkaLog(user.url())) as log:
        for number in (1, 3):
            started = time.monotonic()
            message = refused(CtxlogError, lambda: log.append([NewRecord(0, b"agent/a", b"x")] * number))  # noqa: B023
            assert "authorization failed" in message.lower()
            assert time.monotonic() - started < 30
    assert ends(made) == before


def test_a_writer_whose_acl_is_taken_away_is_told_so(made: Users) -> None:
    user = made.add("writer")
    with ContextLog.open(user.url()) as log:
        log.context("agent/a").add_message("user", "second", expected_version=1)
        mine = AclBindingFilter(
            ResourceType.TOPIC, made.topic, ResourcePatternType.LITERAL, f"User:{user.name}", None, AclOperation.WRITE,
            AclPermissionType.ALLOW,
        )  # fmt: skip
        for future in made.admin.delete_acls([mine]).values():
            assert len(future.result()) == 1
        deadline = time.monotonic() + 30  # The brokers hear of it a little later.
        version = 2
        while True:
            try:
                log.context("agent/a").add_message("user", "third", expected_version=version)
            except StorageError as error:
                assert "nothing was appended. Give this client the ACLs of a writer" in str(error)  # noqa: PT017
                break
            version += 1
            assert time.monotonic() < deadline
        assert log.context("agent/a").version == version


def test_a_user_without_acls_reads_and_makes_nothing(made: Users) -> None:
    user = made.add("nobody", acls=set())
    for attempt in (
        lambda: KafkaLog(user.url()),
        lambda: KafkaLog.create(user.url()),
        lambda: KafkaLog(user.url("another-topic")),
    ):
        assert "the brokers do not allow it to this client" in refused(StorageError, attempt)
    for arguments in (["streams"], ["show", "agent/a"], ["init"], ["append", "agent/a", "--message", "user", "no"], ["doctor"]):
        assert "do not allow" in user.run(*arguments, code=1)


def test_a_wrong_password_is_refused_soon_and_shown_nowhere(made: Users, caplog: pytest.LogCaptureFixture) -> None:
    user = made.add("writer")
    user.write(f"{SECRET}-wrong", "debug=security,broker,protocol")
    caplog.set_level(logging.DEBUG)
    started = time.monotonic()
    for attempt in (lambda: KafkaLog(user.url()), lambda: KafkaLog.create(user.url())):
        message = refused(LogOpenError, attempt)
        assert "the brokers refuse this client" in message
        assert "Correct the file that ?properties= names" in message
    assert time.monotonic() - started < 20
    assert "the brokers refuse this client" in user.run("append", "agent/a", "--message", "user", "no", code=1)
    assert "the brokers refuse this client" in user.run("doctor", code=1)
    assert len(caplog.text) > 1_000  # librdkafka had a lot to say.
    assert SECRET not in caplog.text


def projector(user: User) -> subprocess.Popen[str]:
    """`ctxlog projector run`, started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CTXLOG")}
    return subprocess.Popen(
        [PROGRAM, "projector", "run", "--instance", user.name, "--publish-seconds", "0.2"], cwd=user.users.folder,
        env=environment | {"CTXLOG_URL": user.url()}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_a_projector_projects_and_commits_how_far_it_is_with_its_acls(made: Users) -> None:
    user = made.add("projector")
    process, published = projector(user), made.folder / views_folder(user.url()) / f"{user.name}.duckdb"
    try:
        until(lambda: rows(published) == sum(ends(made)))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, ""), err
    assert SECRET not in out
    with contextlib.closing(KafkaLog(user.url())) as log:
        group = ConsumerGroupTopicPartitions(f"ctxlog-projector-{log.log_id}")
    (future,) = made.admin.list_consumer_group_offsets([group], request_timeout=30).values()
    assert {place.partition: place.offset for place in future.result().topic_partitions} == dict(enumerate(ends(made)))
    reader = made.add("reader")
    assert "projected: " in reader.run("projector", "run", "--once")
    assert "current.duckdb" in reader.run("projector", "status")
    assert "rebuilt: " in reader.run("projector", "rebuild")


def test_a_projector_without_its_group_says_which_acls_it_lacks_and_goes_on_once_it_has_them(made: Users) -> None:
    (group,) = (acl for acl in ACLS["projector"] if acl.kind == "Group")
    user = made.add("projector", acls=ACLS["projector"] - {group})
    process, published = projector(user), made.folder / views_folder(user.url()) / f"{user.name}.duckdb"
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "the brokers do not allow it to this client" in line
        assert "Give it the ACLs of a projector" in line
        assert SECRET not in line
        made.allow(user, group, made.topic)
        assert "goes on." in process.stderr.readline()
        until(lambda: rows(published) == sum(ends(made)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_projector_commits_in_groups_of_its_prefix_alone(made: Users) -> None:
    """The group holds a projector's lag and its share of the partitions; what is projected never depends on what is committed."""
    user = made.add("projector")
    with ContextLog.open(user.url()) as log:
        assert log.context("agent/a").version == 1
    admin = AdminClient(user.settings)

    def commit(group: str) -> Any:
        offsets = ConsumerGroupTopicPartitions(group, [TopicPartition(made.topic, 0, 1)])
        (future,) = admin.alter_consumer_group_offsets([offsets], request_timeout=30).values()
        return future.result().topic_partitions[0]

    assert commit("ctxlog.views").error is None
    with pytest.raises(KafkaException) as denied:
        commit("other.views")
    assert denied.value.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED

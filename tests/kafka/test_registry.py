"""Values framed for a schema registry, with a real one; and with one that is down, or lies."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctxlog import ContextLog
from ctxlog.codec.framing import confluent_prefix
from ctxlog.codec.schemas import Schema, shipped
from ctxlog.errors import IntegrityError, InvalidInputError, LogOpenError, StorageError
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.kafka.registry import LEVEL, Registry

MESSAGE = "ctxlog.MessageAppended"
MESSAGES = {"message": "hello"}


def values(log: ContextLog, stream_id: str) -> list[bytes]:
    partition = log.replayer.reader.partition(stream_id)
    return [record.value or b"" for record in log.log.read(partition, 0, 10**6, key=stream_id.encode())]


def test_events_are_framed_with_the_ids_of_the_registry_and_read_without_it(kafka: Any, topic: str, registry_url: str) -> None:
    url = f"{kafka.url(topic)}&cache=off"
    with_registry = f"{url}&registry={registry_url}"
    with ContextLog.open(with_registry) as log:
        with pytest.raises(LogOpenError, match="Run `ctxlog schemas register`"):
            log.context("agent/a").add_message("user", "hello")
        registry = log.registry
        assert registry is not None
        registry_id = registry.register(shipped(MESSAGE))
        log.context("agent/a").add_message("user", "hello", expected_version=0)
        assert [value[:5] for value in values(log, "agent/a")] == [confluent_prefix(registry_id)]
        head = log.context("agent/a").state.chain_head
    with ContextLog.open(url) as log:
        assert log.context("agent/a").state.chain_head == head
        log.context("agent/a").add_message("user", "from a writer without registry", expected_version=1)
        assert [value[:1] for value in values(log, "agent/a")] == [b"\x00", b"\xc3"]
    # What the partition says already needs no registry any more.
    with ContextLog.open(f"{url}&registry=http://127.0.0.1:1") as log:
        log.context("agent/a").add_message("user", "while the registry is away", expected_version=2)
        assert [value[:1] for value in values(log, "agent/a")] == [b"\x00", b"\xc3", b"\x00"]
        with pytest.raises(StorageError, match=r"registry http://127\.0\.0\.1:1: no answer"):
            log.context("agent/a").set_fact("k", 1)


def test_subjects_are_held_to_full_transitive_compatibility(registry_url: str) -> None:
    registry, schema = Registry(registry_url, "some-topic"), shipped(MESSAGE)
    assert (registry.look_up(schema), registry.level(schema)) == (None, None)
    registry_id = registry.register(schema)
    assert registry.register(schema) == registry_id == registry.look_up(schema) == registry.id_of(schema)
    assert (registry.level(schema), registry.compatible(schema)) == (LEVEL, True)
    changed = json.loads(schema.text)
    changed["fields"].append({"name": "more", "type": "string"})
    other = Schema(json.dumps(changed))
    assert not registry.compatible(other)
    with pytest.raises(IntegrityError, match="does not take the schema of this release: it is not FULL_TRANSITIVE"):
        registry.register(other)


@contextlib.contextmanager
def answering(answer: Callable[[str, str], tuple[int, bytes]]) -> Iterator[str]:
    """A server that answers what a test says."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = answer(self.command, self.path)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_registry_that_lies_is_not_believed() -> None:
    schema = shipped(MESSAGE)
    other = json.dumps({"schema": shipped("ctxlog.FactSet").text}).encode()

    def answer(method: str, _path: str) -> tuple[int, bytes]:
        found = {"subject": "s", "id": 7, "version": 1, "schema": schema.text}
        return (200, json.dumps(found).encode()) if method == "POST" else (200, other)

    with answering(answer) as url, pytest.raises(IntegrityError, match="under id 7, found another one"):
        Registry(url, "t").id_of(schema)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>a proxy's page</html>"),
        (200, b"{}"),
        (200, b'{"id": "seven"}'),
        (200, b'{"subject": "s", "id": -1, "version": 1, "schema": "x"}'),
        (200, b"[]"),
        (500, b'{"error_code": 50001, "message": "broken"}'),
        (401, b'{"error_code": 401, "message": "who are you"}'),
        (302, b""),
    ],
)
def test_answers_that_are_none_are_typed_errors(status: int, body: bytes) -> None:
    with answering(lambda _method, _path: (status, body)) as url, pytest.raises((StorageError, IntegrityError)) as failed:
        Registry(url, "t").id_of(shipped(MESSAGE))
    assert "<html>" not in str(failed.value)


def test_a_forked_child_asks_over_a_connection_of_its_own() -> None:
    """Over one connection each of the two would take answers of the other."""
    ports: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which keeps connections open

        def do_GET(self) -> None:
            ports.append(self.client_address[1])
            body = b'{"compatibilityLevel": "NONE"}'
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = (
        "import os, sys\n"
        "from ctxlog.codec.schemas import shipped\n"
        "from ctxlog.log.kafka.registry import Registry\n"
        f"registry, schema = Registry('http://127.0.0.1:{server.server_port}', 't'), shipped('{MESSAGE}')\n"
        "assert [registry.level(schema) for _ in range(2)] == ['NONE'] * 2\n"
        "pid = os.fork()\n"
        "assert registry.level(schema) == 'NONE'\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    server.shutdown()
    server.server_close()
    assert len(ports) == 4
    assert len(set(ports)) == 2


def test_its_secrets_are_never_shown(kafka: Any, topic: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as refused:
        KafkaLog(f"{kafka.url(topic)}&registry=http://me:hunter2@localhost:1")
    assert "hunter2" not in str(refused.value)
    file = tmp_path / "client.properties"
    file.write_text("schema.registry.basic.auth.user.info=me:hunter2\nschema.registry.no.such=hunter2\n", "utf-8")
    with ContextLog.open(f"{kafka.url(topic)}&cache=off&registry=http://127.0.0.1:1&properties={file}") as log:
        with pytest.raises(LogOpenError, match=r"schema\.registry") as failed:
            log.context("agent/a").add_message("user", "hello")
        assert "hunter2" not in str(failed.value)

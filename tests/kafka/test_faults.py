"""Brokers that are killed, clients that are frozen or cut off: nothing acknowledged is lost, nothing counts twice."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import brokers
import kafka_writers
import killed_agents
from ctxlog import ContextLog
from ctxlog.audit.verify import verify
from ctxlog.errors import IndeterminateError, StorageError
from ctxlog.log.kafka import KafkaLog
from simulation import ledger

SPAWN = multiprocessing.get_context("spawn")


def test_eight_processes_that_expect_versions_win_each_version_once(kafka: Any, tmp_path: Path) -> None:
    url = f"{kafka.url()}&cache={tmp_path}"
    KafkaLog.create(url, 3)[0].close()
    with SPAWN.Pool(8) as pool:
        told = pool.starmap(kafka_writers.contend, [(url, f"w{number}", 8) for number in range(8)])
    won = dict(pair for one in told for pair in one)
    assert sorted(won) == list(range(1, 65))
    with ContextLog.open(url) as log:
        accepted = {found.version: found.event.meta["event_id"] for found in log.context("shared/counter").accepted()}
        assert accepted == won
        assert verify(log).problems == []


def url_of(cluster: brokers.Cluster, tmp_path: Path, timeout_ms: int) -> str:
    file = tmp_path / "client.properties"
    file.write_text(f"message.timeout.ms={timeout_ms}\n", "utf-8")
    return f"kafka://{cluster.bootstrap}?topic=faults-{time.time_ns()}&properties={file}&cache={tmp_path / 'cache'}"


@contextlib.contextmanager
def writers(url: str, tmp_path: Path, count: int) -> Iterator[list[Any]]:
    """Processes that write until the end of the block; then they end by themselves, in good order."""
    stop = tmp_path / "stop"
    found = [
        SPAWN.Process(target=kafka_writers.mixed, args=(url, str(tmp_path / f"ledger-{number}"), f"w{number}", str(stop)))
        for number in range(count)
    ]
    for process in found:
        process.start()
    try:
        yield found
        stop.touch()
        for process in found:
            process.join(150)
            assert process.exitcode == 0
    finally:
        for process in found:
            process.kill()
            process.join()


def check(url: str, tmp_path: Path) -> tuple[int, Counter[str]]:
    """Compare what writers were told with what the log holds; the number of acknowledged events, and of each kind of note."""
    notes = ledger.entries(tmp_path.glob("ledger-*"))
    with ContextLog.open(url) as log:
        return ledger.check(log, notes), Counter(next(iter(note)) for note in notes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_brokers_killed_in_twenty_rounds_lose_nothing_and_double_nothing(three_nodes: brokers.Cluster, tmp_path: Path) -> None:
    url = url_of(three_nodes, tmp_path, 1_500)
    KafkaLog.create(url, 3)[0].close()
    dice = random.Random(20261124)
    with writers(url, tmp_path, 3):
        for _ in range(20):
            time.sleep(dice.random() * 1.5)
            node = dice.choice(three_nodes.nodes)
            node.kill()
            time.sleep(dice.random() * 3)
            node.start()
            three_nodes.wait_until_ready()
    acknowledged, notes = check(url, tmp_path)
    print(f"20 kills of a broker: {acknowledged:,} acknowledged events, {dict(notes)}", file=sys.stderr)
    assert acknowledged > 200
    assert notes["resolving"] > 0  # Some outcomes were not known, or the test shows little.


def test_without_enough_brokers_writes_fail_and_never_claim_success(three_nodes: brokers.Cluster, tmp_path: Path) -> None:
    """Two of three are down: what was tried is not known, and is known when they are back."""
    url = url_of(three_nodes, tmp_path, 2_000)
    three_nodes.wait_until_ready()
    KafkaLog.create(url, 1)[0].close()
    with ContextLog.open(url) as log:
        context = log.context("agent/a")
        context.add_message("user", "before", expected_version=0)
        for node in three_nodes.nodes[1:]:
            node.kill()
        with pytest.raises((IndeterminateError, StorageError)) as failed:
            context.add_message("user", "without brokers")
        for node in three_nodes.nodes[1:]:
            node.start()
        three_nodes.wait_until_ready()
        if isinstance(failed.value, IndeterminateError):
            deadline = time.monotonic() + 90
            notes = kafka_writers.Ledger(str(tmp_path / "notes"))
            assert kafka_writers.resolved(log, failed.value, notes, deadline).version == 2
            assert [message.content for message in context.state.messages] == ["before", "without brokers"]
        assert verify(log).problems == []


def test_a_client_that_was_frozen_goes_on_rightly(kafka: Any, tmp_path: Path) -> None:
    url = f"{kafka.url()}&cache={tmp_path / 'cache'}"
    KafkaLog.create(url, 2)[0].close()
    with writers(url, tmp_path, 2) as processes:
        for process in processes * 2:
            time.sleep(0.7)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(1.5)
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(1)
    acknowledged, _ = check(url, tmp_path)
    assert acknowledged > 50


class Proxy:
    """A TCP proxy whose connections a test can cut, whose door it can shut, and which can lose what the broker answers."""

    def __init__(self, port: int, to: int) -> None:
        self._to = to
        self._open: list[socket.socket] = []
        self.shut = False
        self.mute = False
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.shut:
                client.close()
                continue
            try:
                broker = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()
                continue
            self._open += [client, broker]
            for one, other, answers in ((client, broker, False), (broker, client, True)):
                threading.Thread(target=self._pump, args=(one, other, answers), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if not (answers and self.mute):
                    other.sendall(data)
        self._end(one, other)

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def cut(self) -> None:
        found, self._open = self._open, []
        self._end(*found)

    def close(self) -> None:
        self._server.close()
        self.cut()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[brokers.Cluster, Proxy]]:
    """A broker that clients reach through a proxy alone."""
    from conftest import cluster

    (port,) = brokers.free_ports(1)
    for started in cluster(tmp_path_factory, advertised=port):
        proxy = Proxy(port, started.nodes[0].port)
        yield started, proxy
        proxy.close()


def test_a_client_whose_connections_drop_goes_on_rightly(proxied: tuple[brokers.Cluster, Proxy], tmp_path: Path) -> None:
    started, proxy = proxied
    url = url_of(started, tmp_path, 1_500)
    KafkaLog.create(url, 2)[0].close()
    dice = random.Random(20261124)
    with writers(url, tmp_path, 2):
        for _ in range(10):
            time.sleep(0.2 + dice.random() * 0.5)
            proxy.shut = dice.random() < 0.5
            proxy.cut()
            time.sleep(dice.random() * 2)
            proxy.shut = False
    acknowledged, notes = check(url, tmp_path)
    print(f"10 cuts: {acknowledged:,} acknowledged events, {dict(notes)}", file=sys.stderr)
    assert acknowledged > 50


def test_an_update_counts_once_though_the_answers_of_the_broker_are_lost(
    proxied: tuple[brokers.Cluster, Proxy], tmp_path: Path
) -> None:
    started, proxy = proxied
    url = url_of(started, tmp_path, 1_500)
    KafkaLog.create(url, 2)[0].close()

    def cut() -> None:
        for _ in range(2):
            time.sleep(0.3)
            proxy.mute = True  # What is sent is appended, and nobody is told.
            time.sleep(1.7)
            proxy.cut()
            proxy.mute = False

    assert killed_agents.cut_adders(url, tmp_path / "world", cut)

"""Real Kafka brokers for the tests, and for a person to try: Apache Kafka from its jars, or in Docker where that runs.

    with Cluster(folder, nodes=3) as cluster: ...           brokers of one test module
    python tests/brokers.py serve --watch PID --info FILE   one broker for all processes of a test run, ended when PID is gone
    python tests/brokers.py try                             one for a person, ended by Ctrl-C

Listeners are on 127.0.0.1 and on free ports. What was started here ends with the process that started it, even by kill -9.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

POM = Path(__file__).parent / "kafka" / "pom.xml"
VERSION = re.findall(r"<version>([\d.]+)</version>", POM.read_text("utf-8"))[0]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctxlog-tests"
START_SECONDS_MAX = 90.0
JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC")
FAST_START = "-XX:TieredStopAtLevel=1"
"""Half the compiler: starts sooner, and is slower in the long run. Not for benchmarks."""

_PDEATHSIG = 1
_LOG4J = """\
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c %m%n
"""


class NoBrokerError(Exception):
    """No broker can be had here; the message says why."""


def jars() -> Path:
    """The folder of Kafka's jars, fetched by Maven the first time. Raises `NoBrokerError`."""
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None:
        raise NoBrokerError("there is no java; Java 17 or newer and Maven are needed")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < 17:
        raise NoBrokerError(f"Java 17 or newer is needed, found {said.splitlines()[0] if said else 'none'}")
    folder = CACHE / f"kafka-{VERSION}"
    if folder.is_dir():
        return folder
    if maven is None:
        raise NoBrokerError("there is no mvn, which fetches Kafka's jars the first time")
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "jars.lock"):
        if folder.is_dir():
            return folder
        draft = Path(tempfile.mkdtemp(dir=CACHE))
        command = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={draft}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            shutil.rmtree(draft)
            raise NoBrokerError(f"Maven could not fetch Kafka's jars: {(done.stdout + done.stderr)[-1000:]}")
        draft.rename(folder)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Node:
    """One broker, which is a controller too."""

    def __init__(self, number: int, folder: Path, port: int, command: list[str]) -> None:
        self.number = number
        self.folder = folder
        self.port = port
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the JVM that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """What the broker says."""
        return self.folder / "broker.log"

    def start(self) -> None:
        """Start it, or start it again on the same data."""
        with self.log.open("ab") as log:
            # The JVM dies with the process that started it, however that one dies.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - brokers are started from the main thread
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGKILL, SIGTERM, SIGSTOP, SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """An orderly end; kill -9 where it takes long."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def check(self) -> None:
        """Raise where it has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            raise NoBrokerError(f"broker {self.number} ended: {self.log.read_text('utf-8', 'replace')[-2000:]}")


def die_with_parent() -> None:
    """Runs in a child between fork and exec (`preexec_fn`)."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


class Cluster:
    """Brokers of one test, started when it is entered.

    Args:
        folder: Where they keep their data.
        nodes: 1 or 3. With 3, topics have 3 replicas and `min.insync.replicas=2`.
        scram: Clients must be users (SCRAM-SHA-256) and are held to ACLs; `admin`, password `admin-secret`, may do everything.
        advertised: Port that clients are sent to in place of the broker's own, for a proxy in between. One node only.
        port: Of the first node; a free one where not given.
        benchmark: Start for speed later, not for a fast start.
        settings: More properties of each broker.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        scram: bool = False,
        advertised: int | None = None,
        port: int | None = None,
        benchmark: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._ports = free_ports(3 * nodes)
        if port is not None:
            self._ports[0] = port
        self.scram = scram
        classpath = ["-cp", f"{jars()}/*"]
        flags = [*JVM, *([] if benchmark else [FAST_START]), f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log4j2.properties").write_text(_LOG4J, "utf-8")
        self.nodes: list[Node] = []
        self._format = [["java", *flags, *classpath, "kafka.tools.StorageTool", "format", "-t", "c3RhYmxlLWNsdXN0ZXItaQ"]]
        for number in range(1, nodes + 1):
            node = folder / f"node-{number}"
            node.mkdir(exist_ok=True)
            properties = {**self._properties(number, nodes, node, advertised), **(settings or {})}
            text = "".join(f"{name}={value}\n" for name, value in properties.items())
            (node / "server.properties").write_text(text, "utf-8")
            command = ["java", *flags, *classpath, "kafka.Kafka", str(node / "server.properties")]
            self.nodes.append(Node(number, node, self._ports[3 * (number - 1)], command))
        self.bootstrap = ",".join(f"127.0.0.1:{advertised or node.port}" for node in self.nodes)
        self.direct = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def _properties(self, number: int, nodes: int, folder: Path, advertised: int | None) -> dict[str, Any]:
        port, controller, internal = self._ports[3 * (number - 1) : 3 * number]
        voters = ",".join(f"{one + 1}@127.0.0.1:{self._ports[3 * one + 1]}" for one in range(nodes))
        found: dict[str, Any] = {
            "process.roles": "broker,controller",
            "node.id": number,
            "controller.quorum.voters": voters,
            "listeners": f"CLIENT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{advertised or port},INTERNAL://127.0.0.1:{internal}",
            "listener.security.protocol.map": f"CLIENT:{'SASL_PLAINTEXT' if self.scram else 'PLAINTEXT'},INTERNAL:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": folder / "data",
            "auto.create.topics.enable": "false",
            "delete.topic.enable": "true",
            "group.initial.rebalance.delay.ms": 0,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.cleaner.enable": "false",
        }
        copies = 3 if nodes >= 3 else 1
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            found[f"{topic}.replication.factor"] = copies
            found[f"{topic}.num.partitions"] = 1
        found["transaction.state.log.min.isr"] = found["share.coordinator.state.topic.min.isr"] = 2 if copies == 3 else 1
        if nodes >= 3:
            found |= {
                "default.replication.factor": 3,
                "min.insync.replicas": 2,
                "unclean.leader.election.enable": "false",
                # A killed broker is missed soon.
                "broker.session.timeout.ms": 3000,
                "broker.heartbeat.interval.ms": 500,
                "replica.lag.time.max.ms": 3000,
                "controller.quorum.election.timeout.ms": 500,
                "controller.quorum.fetch.timeout.ms": 1000,
                "controlled.shutdown.enable": "false",
            }
        if self.scram:
            found |= {
                "sasl.enabled.mechanisms": "SCRAM-SHA-256",
                "listener.name.client.scram-sha-256.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:admin;User:ANONYMOUS",
            }
        return found

    def __enter__(self) -> Self:
        user = ["--add-scram", "SCRAM-SHA-256=[name=admin,password=admin-secret]"] if self.scram else []
        try:
            for node in self.nodes:
                if not (node.folder / "data").exists():
                    command = [*self._format[0], "-c", str(node.folder / "server.properties"), *user]
                    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
                    if done.returncode:
                        raise NoBrokerError(f"the folder could not be formatted: {(done.stdout + done.stderr)[-1000:]}")
                node.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all of them."""
        for node in self.nodes:
            node.signal(signal.SIGTERM) if _running(node) else None
        for node in self.nodes:
            node.stop()

    def client(self, user: str = "admin", password: str = "admin-secret") -> dict[str, str]:  # noqa: S107
        """Settings for a client of confluent-kafka."""
        found = {"bootstrap.servers": self.direct}
        if self.scram:
            found |= {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": user,
                "sasl.password": password,
            }
        return found

    def wait_until_ready(self, count: int | None = None) -> None:
        """Until so many brokers (all of them where not given) answer a request for metadata."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        wanted = count or len(self.nodes)
        deadline = time.monotonic() + START_SECONDS_MAX
        admin = AdminClient({**self.client(), "reconnect.backoff.max.ms": "200", "log_level": "0"})
        while True:
            with contextlib.suppress(KafkaException):
                if len(admin.list_topics(timeout=1).brokers) >= wanted:
                    return
            if count is None:
                for node in self.nodes:
                    node.check()
            if time.monotonic() > deadline:
                raise NoBrokerError(f"no answer in {START_SECONDS_MAX:.0f} s: {self.nodes[0].log.read_text()[-2000:]}")
            time.sleep(0.1)


def _running(node: Node) -> bool:
    try:
        node.check()
    except NoBrokerError:
        return False
    return True


@contextlib.contextmanager
def docker_broker() -> Iterator[str]:
    """A broker in Docker; its bootstrap servers. Raises `NoBrokerError` where Docker does not run."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        raise NoBrokerError("Docker does not run here")
    from testcontainers.core.container import DockerContainer  # type: ignore[import-not-found,unused-ignore]

    (port,) = free_ports(1)
    container = DockerContainer(f"apache/kafka:{VERSION}").with_bind_ports(9092, port)
    for name, value in {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }.items():
        container = container.with_env(name, value)
    with container:
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def one_broker(folder: Path) -> Iterator[str]:
    """One broker, in Docker or from the jars; its bootstrap servers. Raises `NoBrokerError`."""
    with contextlib.ExitStack() as stack:
        try:
            bootstrap = stack.enter_context(docker_broker())
        except (NoBrokerError, ImportError):
            bootstrap = stack.enter_context(Cluster(folder)).bootstrap
        yield bootstrap


def shared(folder: Path, watched: int) -> str:
    """Bootstrap servers of the one broker of a test run, started by whoever comes first. Raises `NoBrokerError`."""
    info = folder / "kafka.json"
    with locked(folder / "kafka.lock"):
        if not info.exists():
            command = [sys.executable, __file__, "serve", "--watch", str(watched), "--info", str(info)]
            with (folder / "kafka.log").open("wb") as log:
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            deadline = time.monotonic() + 10 * START_SECONDS_MAX  # the jars may have to be fetched
            while not info.exists():
                if time.monotonic() > deadline:
                    raise NoBrokerError(f"the broker did not start: {(folder / 'kafka.log').read_text()[-2000:]}")
                time.sleep(0.05)
        found = json.loads(info.read_text("utf-8"))
    if "error" in found:
        raise NoBrokerError(found["error"])
    return str(found["bootstrap"])


def _serve(watched: int, info: Path) -> None:
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix="ctxlog-kafka-") as folder, contextlib.ExitStack() as stack:
        try:
            found = {"bootstrap": stack.enter_context(one_broker(Path(folder)))}
        except NoBrokerError as error:
            found = {"error": str(error)}
        draft = info.with_suffix(".draft")
        draft.write_text(json.dumps(found), "utf-8")
        draft.rename(info)
        while not ended and "error" not in found and _alive(watched):
            time.sleep(0.2)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _try() -> int:
    port = 9092
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        (port,) = free_ports(1)
        print(f"Port 9092 is taken; this broker listens on {port}.", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="ctxlog-kafka-") as folder:
            print(f"Starting Apache Kafka {VERSION} ...", file=sys.stderr)
            with Cluster(Path(folder), port=port) as cluster:
                url = f"kafka://localhost:{port}"
                print(f"A broker listens on {url}\n\nIn another terminal:\n  export CTXLOG_URL={url}\n"
                      "  .venv/bin/ctxlog init\n  .venv/bin/ctxlog append refunds/1 --message user Hello\n\n"
                      "Ctrl-C ends it and forgets its data.", flush=True)  # fmt: skip
                while True:
                    time.sleep(1)
                    cluster.nodes[0].check()
    except KeyboardInterrupt:
        print("Ended.", file=sys.stderr)
        return 0
    except NoBrokerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("try", help="a broker for a person, until Ctrl-C")
    serve = commands.add_parser("serve", help="a broker until a process is gone")
    serve.add_argument("--watch", type=int, required=True)
    serve.add_argument("--info", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "try":
        return _try()
    _serve(given.watch, given.info)
    return 0


if __name__ == "__main__":
    sys.exit(main())

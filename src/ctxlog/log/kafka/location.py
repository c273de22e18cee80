"""Where a Kafka log is, and how its clients are set: the URL, the file of client properties, and what ctxlog itself insists on.

    kafka://HOST:PORT[,HOST:PORT…][?topic=NAME&registry=URL&properties=FILE&cache=FOLDER&cloudevents=on]

Secrets stand in the file and nowhere else: neither a URL nor a message ever holds one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from ctxlog.errors import InvalidInputError, LogOpenError

DEFAULT_TOPIC = "ctxlog.events"
SCHEME = "kafka://"

REGISTRY_PREFIX = "schema.registry."
"""Properties with this prefix are the registry client's, as in `schema.registry.basic.auth.user.info`."""

_PARAMETERS = ("topic", "registry", "properties", "cache", "cloudevents")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

_OURS = frozenset(
    {
        "acks", "allow.auto.create.topics", "api.version.request", "auto.offset.reset", "bootstrap.servers", "check.crcs",
        "enable.auto.commit", "enable.auto.offset.store", "enable.idempotence", "enable.partition.eof", "group.id",
        "group.instance.id", "group.protocol", "isolation.level", "metadata.broker.list", "partition.assignment.strategy",
        "partitioner", "plugin.library.paths", "request.required.acks", "transactional.id",
    }
)  # fmt: skip
"""What the log's promises hang on. (`plugin.library.paths` would load code that a file names.)"""

MESSAGE_TIMEOUT_MS = 30_000
"""How long an append may wait for the brokers, retries included, before its outcome counts as unknown. Kafka's Java client waits
for two minutes; a property `message.timeout.ms` says otherwise."""

BYTES_MAX = 2 * 1024 * 1024
"""Largest message for clients and topics: twice `MAX_RECORD_BYTES`, so that a record that passed there never fails here."""

COMMON = {
    "client.id": "ctxlog",
    "socket.keepalive.enable": "true",
    # A broker that comes back is used again soon; the defaults wait up to 10 s.
    "reconnect.backoff.ms": "50",
    "reconnect.backoff.max.ms": "1000",
    "topic.metadata.refresh.interval.ms": "10000",
}

PRODUCER = {
    "enable.idempotence": "true",
    "acks": "all",
    "allow.auto.create.topics": "false",
    "linger.ms": "0",  # An append waits for its records: to linger would only add to each.
    "message.timeout.ms": str(MESSAGE_TIMEOUT_MS),
    "message.max.bytes": str(BYTES_MAX),
}

CONSUMER = {
    "group.id": "ctxlog",  # librdkafka asks for one; partitions are assigned by hand, and no offset is ever committed.
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "enable.partition.eof": "true",
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "allow.auto.create.topics": "false",
    "check.crcs": "true",
    "fetch.message.max.bytes": str(BYTES_MAX),
    # Waits of the client's own between fetches: by default up to a second, where the application was slower than the broker.
    "fetch.error.backoff.ms": "50",
    "fetch.queue.backoff.ms": "10",
    # What is fetched ahead stays in memory.
    "queued.max.messages.kbytes": "16384",
}


class Location(NamedTuple):
    """What a URL says.

    Attributes:
        servers: `host:port,…`.
        topic: Name of the topic.
        registry: URL of the schema registry; None where values are framed without one.
        properties: File of client properties; None where there is none.
        cache: Folder of index and snapshots as it was given; None where nothing was said.
        cloudevents: Whether records get the headers of CloudEvents.
    """

    servers: str
    topic: str
    registry: str | None
    properties: Path | None
    cache: str | None
    cloudevents: bool

    @classmethod
    def parse(cls, url: str) -> Location:
        """Read a URL.

        Raises:
            InvalidInputError: It is none; the message says what was expected, and never repeats what may be a secret.
        """
        rest, _, query = url.removeprefix(SCHEME).partition("?")
        if not url.startswith(SCHEME) or "@" in rest or not all(map(_is_server, rest.rstrip("/").split(","))):
            raise InvalidInputError(
                "log kafka: expected kafka://HOST:PORT[,HOST:PORT], with users and passwords in a file that ?properties=FILE "
                "names; nothing was opened"
            )
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            raise InvalidInputError("log kafka: expected parameters as in ?topic=NAME&registry=URL; nothing was opened") from None
        found = dict(pairs)
        unknown = sorted(found.keys() - set(_PARAMETERS))
        if unknown or len(found) < len(pairs):
            what = f"no parameter {unknown[0]!r}" if unknown else "each parameter once"
            raise InvalidInputError(f"log kafka: expected {what}, but {', '.join(_PARAMETERS)}; nothing was opened")
        topic = found.get("topic", DEFAULT_TOPIC)
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise InvalidInputError("log kafka: topic: expected 1 to 249 letters, digits, dots, _ and -; nothing was opened")
        registry = found.get("registry")
        if registry is not None:
            _check_registry(registry)
        if found.get("cloudevents", "off") not in ("on", "off"):
            raise InvalidInputError("log kafka: cloudevents: expected on or off; nothing was opened")
        for name in ("properties", "cache"):
            if found.get(name) == "":
                raise InvalidInputError(f"log kafka: {name}: expected a path; nothing was opened")
        properties = Path(found["properties"]) if "properties" in found else None
        cloudevents = found.get("cloudevents") == "on"
        return cls(rest.rstrip("/"), topic, registry, properties, found.get("cache"), cloudevents)

    @property
    def name(self) -> str:
        """The log in messages: servers and topic."""
        return f"{SCHEME}{self.servers}?topic={self.topic}"


def _is_server(text: str) -> bool:
    found = _SERVER.fullmatch(text)
    return found is not None and 0 < int(found[2]) < 65_536


def _check_registry(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise InvalidInputError(
            "log kafka: registry: expected http://HOST[:PORT], with users and passwords in the file of properties "
            f"({REGISTRY_PREFIX}basic.auth.user.info); nothing was opened"
        )


class Properties(NamedTuple):
    """The settings that a file adds.

    Attributes:
        client: Of every Kafka client.
        registry: Of the registry's client, without their prefix.
    """

    client: dict[str, str]
    registry: dict[str, str]

    def __repr__(self) -> str:
        """The names alone: values may be secrets."""
        return f"Properties(client={sorted(self.client)}, registry={sorted(self.registry)})"

    @classmethod
    def read(cls, path: Path | None) -> Properties:
        """Read a file of lines `name=value`; empty lines and those that begin with `#` say nothing.

        Raises:
            LogOpenError: It cannot be read, or names something that ctxlog itself sets. No value is ever shown.
        """
        if path is None:
            return cls({}, {})
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise LogOpenError(f"{path}: the properties cannot be read: {reason}; nothing was opened") from None
        found: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            name, equals, value = (part.strip() for part in text.partition("="))
            if not equals or not name:
                raise LogOpenError(f"{path}: line {number}: expected name=value; nothing was opened")
            if name in found:
                raise LogOpenError(f"{path}: line {number}: {name} is there twice; nothing was opened")
            if name in _OURS:
                raise LogOpenError(f"{path}: line {number}: {name} is set by ctxlog and cannot be changed; nothing was opened")
            found[name] = value
        registry = {
            name.removeprefix(REGISTRY_PREFIX): value for name, value in found.items() if name.startswith(REGISTRY_PREFIX)
        }
        return cls({name: value for name, value in found.items() if not name.startswith(REGISTRY_PREFIX)}, registry)

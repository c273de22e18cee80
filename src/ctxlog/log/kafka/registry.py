"""A schema registry with the Confluent API: whose ids frame values, for consumers that know nothing of ctxlog.

Asked when a schema is published in a partition for the first time, and by `ctxlog schemas`; never for a single append, and never
by a reader, because the log carries its schemas. What it answers is checked: an id counts only if the registry shows our schema
under it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ctxlog.codec.schemas import Schema, schema_digest_of
from ctxlog.errors import IntegrityError, LogOpenError, SchemaError, StorageError

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import SchemaRegistryClient

T = TypeVar("T")

TIMEOUT_SECONDS = 10.0
"""How long one question may take."""

LEVEL = "FULL_TRANSITIVE"
"""Compatibility that each subject is held to: every version can be read with every other, in both directions."""

_NOT_FOUND = 404
_CONFLICT = 409
_ID_MAX = 2**31 - 1


class Registry:
    """A registry, for the schemas of one topic. Subjects are `{topic}-{full name of the record}` (TopicRecordNameStrategy).

    Args:
        url: Where it is.
        topic: Name of the topic.
        config: Further settings of its client, such as `basic.auth.user.info` or `ssl.ca.location`. Never shown.

    Raises:
        LogOpenError: The client is not installed, or takes a setting for no setting of its.
    """

    def __init__(self, url: str, topic: str, config: Mapping[str, str] | None = None) -> None:
        self.url = url
        self._topic = topic
        self._config = dict(config or {})
        self._made: SchemaRegistryClient | None = None
        self._pid = os.getpid()
        self._ids: dict[str, int] = {}

    def subject(self, schema: Schema) -> str:
        """The subject of a schema."""
        return f"{self._topic}-{schema.name}"

    def id_of(self, schema: Schema) -> int:
        """See `SchemaIds.id_of`. Asked once a process."""
        if schema.fingerprint not in self._ids:
            found = self.look_up(schema)
            if found is None:
                raise LogOpenError(
                    f"registry {self.url}: subject {self.subject(schema)!r} does not hold the schema of this release; nothing "
                    "was appended. Run `ctxlog schemas register`."
                )
            self._ids[schema.fingerprint] = found
        return self._ids[schema.fingerprint]

    def look_up(self, schema: Schema) -> int | None:
        """The id of exactly this schema under its subject; None where the registry does not have it."""
        given = self._ask(lambda: self._client().lookup_schema(self.subject(schema), _avro(schema)), absent=True)
        return None if given is None else self._checked(schema, given.schema_id)

    def register(self, schema: Schema) -> int:
        """Register a schema, once its subject is held to `LEVEL`; its id.

        Raises:
            IntegrityError: It is not compatible with what the subject holds, or the registry shows another one under the id.
            StorageError: The registry cannot be reached, or answers nonsense.
        """
        subject = self.subject(schema)
        # Some registries take a level only for a subject that exists. Who adds a second version finds it set.
        self.hold(schema)
        found = self._ask(lambda: self._client().register_schema(subject, _avro(schema)), conflict=f"subject {subject!r}")
        self.hold(schema)
        # The client remembers what it sent; what counts is what the registry shows.
        self._made = None
        return self._checked(schema, found)

    def hold(self, schema: Schema) -> None:
        """Hold a schema's subject to `LEVEL`, where there is one."""
        if self.level(schema) != LEVEL:
            self._ask(lambda: self._client().set_compatibility(self.subject(schema), LEVEL), absent=True)

    def level(self, schema: Schema) -> str | None:
        """The compatibility that a schema's subject is held to; None where nothing is said for it."""
        found = self._ask(lambda: self._client().get_compatibility(self.subject(schema)), absent=True)
        return None if found is None else str(found)

    def compatible(self, schema: Schema) -> bool:
        """Whether the registry would take a schema beside those of its subject, at the level that this is held to now."""
        found = self._ask(
            lambda: self._client().test_compatibility_all_versions(self.subject(schema), _avro(schema)), absent=True
        )
        return found is not False

    def _checked(self, schema: Schema, registry_id: Any) -> int:
        if type(registry_id) is not int or not 0 < registry_id <= _ID_MAX:
            raise StorageError(f"registry {self.url}: expected the id of {schema.name}, found none that could be one. Try again.")
        shown: Any = self._ask(lambda: self._client().get_schema(registry_id))
        try:
            same = schema_digest_of(shown.schema_str) == schema.digest
        except (SchemaError, TypeError, AttributeError):
            same = False
        if not same:
            raise IntegrityError(
                f"registry {self.url}: expected the schema of {schema.name} under id {registry_id}, found another one; nothing "
                "was appended. Check the registry."
            )
        return registry_id

    def _client(self) -> SchemaRegistryClient:
        if self._pid != os.getpid():  # Its connections are a parent's, who may be asking over them.
            self._made, self._pid = None, os.getpid()
        if self._made is None:
            try:
                from confluent_kafka.schema_registry import SchemaRegistryClient
            except ImportError as error:
                raise LogOpenError(
                    f"registry {self.url}: its client is not installed ({error.name}); nothing was opened. "
                    "Install `ctxlog[registry]`."
                ) from error
            settings: dict[str, Any] = {"timeout": TIMEOUT_SECONDS, "max.retries": 1, **self._config, "url": self.url}
            try:
                self._made = SchemaRegistryClient(settings)
            except (ValueError, TypeError, OSError):  # The message could hold a value.
                raise LogOpenError(
                    f"registry {self.url}: a property schema.registry.* cannot be used; nothing was opened. Correct the file."
                ) from None
        return self._made

    def _ask(self, question: Callable[[], T], *, absent: bool = False, conflict: str = "") -> T | None:
        """The answer; None where there is no such thing and that may be."""
        self._client()
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return question()
        except SchemaRegistryError as error:
            status = error.http_status_code
            if absent and status == _NOT_FOUND:
                return None
            if conflict and status == _CONFLICT:
                raise IntegrityError(
                    f"registry {self.url}: {conflict} does not take the schema of this release: it is not {LEVEL} with the "
                    "others; nothing was registered."
                ) from error
            raise StorageError(f"registry {self.url}: it answered {status}; nothing was appended. Check the registry.") from error
        except Exception as error:  # Whatever its HTTP library raises: it is away, or no registry.
            raise StorageError(
                f"registry {self.url}: no answer that can be used ({type(error).__name__}); nothing was appended. "
                "Check the registry."
            ) from error


def _avro(schema: Schema) -> Any:
    from confluent_kafka.schema_registry import Schema as Registered

    return Registered(schema.text, "AVRO")

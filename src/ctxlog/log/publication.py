"""The log carries its schemas: a writer uses one in a partition only after reading its publication back."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from ctxlog.codec.control import encode_control, schema_published
from ctxlog.codec.framing import confluent_prefix, registry_id_of, single_object_prefix
from ctxlog.codec.partition import PartitionContext
from ctxlog.codec.schemas import Schema, shipped
from ctxlog.errors import IntegrityError, LogOpenError, StorageError
from ctxlog.log.protocol import EventLog, OutcomeUnknownError, SchemaIds


class Contexts(Protocol):
    """Gives the control state of a partition, with all control records below `end` taken."""

    def context(self, partition: int, end: int) -> PartitionContext:
        """See `ctxlog.replay.reader.LogReader.context`."""
        ...


SHOWN_SECONDS_MAX = 30.0
"""How long a log may take to show a record that it took. A broker's followers are some seconds behind at most; one that is behind
for longer is cut off, and to wait on would look like work."""


def wait_until_shown(log: EventLog, partition: int, offset: int) -> int:
    """Wait until a partition ends beyond a record that was appended; its end then.

    Raises:
        StorageError: It does not.
    """
    deadline = time.monotonic() + SHOWN_SECONDS_MAX
    while True:
        left = deadline - time.monotonic()
        # `wait` first: a log that follows its end has seen the record, and need not ask where that is.
        end = log.wait(partition, offset, max(0.0, min(left, 1.0)))
        if end > offset:
            return end
        if left <= 0:
            raise StorageError(
                f"{log.url}: partition {partition} does not show record {offset}, which it took {SHOWN_SECONDS_MAX:.0f} s ago; "
                "nothing else was appended. Check the log's servers and try again."
            )


class Publisher:
    """Sees to it that the shipped schemas that a writer uses are published in the partitions where it uses them.

    Args:
        log: The log.
        contexts: Its partitions' control state.
        registry: Whose ids frame values; None frames with fingerprints. It is asked where a partition says no id yet, so a
            registry that is down does not stop who writes what was written before.
    """

    def __init__(self, log: EventLog, contexts: Contexts, registry: SchemaIds | None = None) -> None:
        self._log = log
        self._contexts = contexts
        self._registry = registry
        self._known: dict[tuple[int, str], bytes] = {}

    def prefix(self, partition: int, type_name: str) -> bytes:
        """What stands before the body of an event of this type, which `ensure` has seen to."""
        return self._known[partition, type_name]

    def ensure(self, partition: int, type_names: Iterable[str]) -> None:
        """Publish what is missing, and read it back.

        Raises:
            LogOpenError: A copy into this log is not finished, so nothing else may be written.
            IntegrityError: The fingerprint of a schema was claimed by another one.
            StorageError: It is not known whether the schemas were published.
        """
        missing = sorted({name for name in type_names if (partition, name) not in self._known})
        if not missing:
            return
        context = self._now(partition)
        if context.copying:
            raise LogOpenError(
                f"{self._log.url}: a copy into this log was started and is not finished; nothing was appended. "
                "Run the same `ctxlog copy` again to finish it."
            )
        prefixes = {name: self._prefix(context, shipped(name)) for name in missing}
        unpublished = [name for name in missing if prefixes[name] not in context.published]
        if unpublished:
            context = self._publish(partition, [(shipped(name), registry_id_of(prefixes[name])) for name in unpublished])
        for name in missing:
            published = context.published.get(prefixes[name])
            if published is None or published.decoder.schema.digest != shipped(name).digest:
                what = "fingerprint" if self._registry is None else "id in the registry"
                raise IntegrityError(
                    f"{self._log.url}: partition {partition} does not hold the schema of {name} under its {what}; "
                    "nothing was appended. Check who may write to this log."
                )
            self._known[partition, name] = prefixes[name]

    def _prefix(self, context: PartitionContext, schema: Schema) -> bytes:
        if self._registry is None:
            return single_object_prefix(schema.fingerprint)
        for prefix, published in context.published.items():  # in the order of their claims
            if registry_id_of(prefix) is not None and published.decoder.schema.digest == schema.digest:
                return prefix
        return confluent_prefix(self._registry.id_of(schema))

    def _publish(self, partition: int, schemas: list[tuple[Schema, int | None]]) -> PartitionContext:
        records = [encode_control(partition, schema_published(self._log.log_id, *schema)) for schema in schemas]
        try:
            placed = self._log.append(records)
        except OutcomeUnknownError as error:
            # A second publication does no harm, so whoever calls again needs no other outcome.
            raise StorageError(
                f"{self._log.url}: it is not known whether the schemas were published: {error}; nothing else was appended. "
                "Try again."
            ) from error
        return self._contexts.context(partition, wait_until_shown(self._log, partition, placed[-1].position.offset))

    def _now(self, partition: int) -> PartitionContext:
        return self._contexts.context(partition, self._log.bounds(partition).end)

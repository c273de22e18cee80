"""Every deliberate exception of ctxlog.

An error answers two questions. Will the same call succeed later? Then it is a `RetriableError`. Is the record in doubt?
Then it is an `IntegrityError`. Coordinates are attributes; the message says where, what was expected and found, what was
not done, and what to do next. Messages never hold payload text: they end up in other people's logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class CtxlogError(Exception):
    """Base of all errors that ctxlog raises on purpose. They can be pickled, as pools of processes need."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[CtxlogError], args: tuple[Any, ...], attributes: dict[str, Any]) -> CtxlogError:
    """An error as it was; its constructor takes what the message was made of, and not the message."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class RetriableError(CtxlogError):
    """Nothing is wrong with the data; the same call, or the same call after a fresh read, can succeed."""


class IntegrityError(CtxlogError):
    """What the log holds is not what it must hold."""


class InvalidInputError(CtxlogError, ValueError):
    """What the caller handed in cannot be used. Nothing was changed."""


class PointError(InvalidInputError):
    """A point (`version:3`, `time:…`) cannot be read, or names something that the stream does not have."""


class RecordTooLargeError(InvalidInputError):
    """Key, value and headers of one record are larger than a log takes.

    Attributes:
        size: Bytes that the record would have.
        limit: Bytes that a record may have.
    """

    def __init__(self, stream_id: str, size: int, limit: int) -> None:
        self.stream_id = stream_id
        self.size = size
        self.limit = limit
        super().__init__(
            f"stream {stream_id!r}: the record would have {size:,} bytes, the limit is {limit:,}; nothing was appended. "
            "Keep large values outside the log and append a reference."
        )


class LogOpenError(CtxlogError):
    """The log cannot be opened; the message gives each reason. Nothing was created or changed."""


class GenesisError(LogOpenError, IntegrityError):
    """A partition has no genesis, or one of another log."""


class DamagedLogError(LogOpenError, IntegrityError):
    """The log's file is damaged, or is no log at all; restore it from a copy."""


class LogBusyError(RetriableError):
    """Another process holds the log for longer than the wait allows. Nothing was changed."""


class LogClosedError(CtxlogError):
    """The log was closed by this process; open it again to go on."""


class StorageError(RetriableError):
    """The storage below the log failed (disk full, no permission, unreadable file)."""


class ConflictError(RetriableError):
    """A precondition of an append did not hold where the log decided it; nothing was changed.

    A retry reads the stream again and takes new event ids.

    Attributes:
        stream_id: The stream.
        actual: Its version where the append was decided.
        position: Where it was decided, as `PARTITION@OFFSET`, or None where that is no longer known.
    """

    def __init__(self, stream_id: str, actual: int, *, expected: str, position: str | None) -> None:
        self.stream_id = stream_id
        self.actual = actual
        self.position = position
        where = f" ({position})" if position else ""
        super().__init__(
            f"stream {stream_id!r}: expected {expected}, log is at {actual}{where}; nothing was changed. "
            "Read the stream again and retry."
        )


class AbandonedError(RetriableError):
    """An append was given up by the log before its last record came; nothing was changed. Append again with new ids."""

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        super().__init__(
            f"stream {stream_id!r}: the append was abandoned because too many later ones were begun before it was complete; "
            "nothing was changed. Append again."
        )


class IndeterminateError(RetriableError):
    """Whether the append happened cannot be known. Hand this error to `ContextLog.resolve`.

    Attributes:
        log_id: The log, which alone can resolve it.
        stream_id: The stream.
        records: The encoded records (`ctxlog.model.records.NewRecord`), to be appended again byte for byte.
        event_ids: Ids of the events in them, in index order.
        conditional: Whether the append had a precondition or more than one event.
    """

    def __init__(
        self, log_id: str, stream_id: str, records: Sequence[Any], event_ids: Sequence[str], *, conditional: bool, cause: str
    ) -> None:
        self.log_id = log_id
        self.stream_id = stream_id
        self.records = tuple(records)
        self.event_ids = tuple(event_ids)
        self.conditional = conditional
        super().__init__(
            f"stream {stream_id!r}: it is not known what became of {len(self.records)} record(s): {cause}. "
            "Call ContextLog.resolve(error): it looks for them, and appends the same bytes again where they are missing."
        )


class CallHeldError(RetriableError):
    """Somebody else runs the call, and the time to wait for the result is over. Nothing was run.

    Attributes:
        stream_id, key: The call.
        expires_at: When the lease of whoever runs it ends, µs since 1970 UTC.
    """

    def __init__(self, stream_id: str, key: str, expires_at: int) -> None:
        self.stream_id = stream_id
        self.key = key
        self.expires_at = expires_at
        super().__init__(
            f"stream {stream_id!r}: call {key!r} is being run under a lease that ends at {expires_at} µs; nothing was run. "
            "Call again: after that it is taken over, unless it has its result by then."
        )


class LeaseLostError(RetriableError):
    """The tool ran for longer than its lease, and somebody else took the call over: what it returned was not recorded.

    Attributes:
        stream_id, key: The call.
    """

    def __init__(self, stream_id: str, key: str) -> None:
        self.stream_id = stream_id
        self.key = key
        super().__init__(
            f"stream {stream_id!r}: call {key!r} was taken over or settled by somebody else while the tool ran; what it returned "
            "was not recorded. Call again for the result that counts, and choose a lease that is longer than the tool takes."
        )


class KeyReusedError(InvalidInputError):
    """The key of a call stands for another call: another tool, other arguments, or one that was not made with a key.

    Attributes:
        stream_id, key: The call.
    """

    def __init__(self, stream_id: str, key: str, differs: str) -> None:
        self.stream_id = stream_id
        self.key = key
        super().__init__(
            f"stream {stream_id!r}: call {key!r} is there with {differs}; nothing was run. "
            "Use one key for one tool and its arguments."
        )


class NoResultError(CtxlogError):
    """The tool ran and returned, and its result is not in the log; it will not be run again under this key.

    Attributes:
        stream_id, key: The call.
        reason: Why there is no result.
    """

    def __init__(self, stream_id: str, key: str, reason: str) -> None:
        self.stream_id = stream_id
        self.key = key
        self.reason = reason
        super().__init__(
            f"stream {stream_id!r}: call {key!r} ran and returned, and its result is not in the log: {reason}. "
            "It is not run again; another key would run it again."
        )


class UndecodableError(IntegrityError):
    """Bytes that are not one datum of their schema. Attribute `reason` is a short code."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class SchemaError(IntegrityError):
    """A schema that a log may not carry. Attribute `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class NewerEventError(IntegrityError):
    """The stream holds an event type that this release does not know; states from its version on need a newer one.

    Attributes:
        stream_id, version: Where the event was accepted.
        type_name: Full name of its schema.
    """

    def __init__(self, stream_id: str, version: int, type_name: str) -> None:
        self.stream_id = stream_id
        self.version = version
        self.type_name = type_name
        super().__init__(
            f"stream {stream_id!r}: version {version} is a {type_name}, which this release of ctxlog does not know; "
            f"states up to version {version - 1} can be read. Install a newer ctxlog to read on."
        )


class ProofError(IntegrityError):
    """A Merkle proof does not show what it is said to show.

    Attributes:
        kind: `inclusion` or `consistency`.
        reason: Why not.
    """

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        self.reason = reason
        super().__init__(f"{kind} proof: {reason}; it shows nothing")


class NoteError(IntegrityError):
    """A signed note cannot be read, or a key that it names did not sign it. Attribute `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"signed note: {reason}; nothing in it is believed")


class SignedHeadError(IntegrityError):
    """The log is not what was signed before, so nothing more is signed.

    Attributes:
        partition: The partition.
        size: Number of records that the head says, which the log does not have as they were.
    """

    def __init__(self, partition: int, size: int, where: str, found: str) -> None:
        self.partition = partition
        self.size = size
        super().__init__(
            f"partition {partition}: expected the {size} records that were signed ({where}), found {found}; nothing was signed. "
            "`ctxlog verify` names the place."
        )


class BundleError(IntegrityError):
    """An evidence bundle is not as it was written; the message says what was expected and found."""

    def __init__(self, path: object, expected: str, found: str) -> None:
        self.path = str(path)
        super().__init__(f"{path}: expected {expected}, found {found}; nothing in it is believed")


class UnsignedError(CtxlogError):
    """What is to be handed over is not under a signed head yet."""


class SigningKeyError(CtxlogError):
    """A key for signing cannot be used, or there is none; the message says why. Nothing was signed."""


class BelowHorizonError(IntegrityError):
    """The partition no longer holds its first records, so no stream in it can be folded from its beginning."""

    def __init__(self, partition: int, first: int) -> None:
        self.partition = partition
        self.first = first
        super().__init__(
            f"partition {partition}: the first record kept is at offset {first}, expected 0; nothing was folded. "
            "Older records were deleted; restore the log, or read a copy that has them."
        )


class TopicChangedError(LogOpenError, IntegrityError):
    """The topic below a log is not what it was: recreated, rewound, or with another number of partitions."""


class PositionError(IntegrityError):
    """A record is repeated or out of order."""


class LineageError(IntegrityError):
    """A fork's parent is not what the fork says it is, or the forks form a cycle or go too deep."""


class ImportFailedError(CtxlogError):
    """A source file, or one run in it, cannot be imported, or differs from what was imported before.

    Attributes:
        reason: What is wrong.
        place: Where in the file; empty where it is the file as a whole.
    """

    def __init__(self, reason: str, place: str = "") -> None:
        self.reason = reason
        self.place = place
        super().__init__(f"{place}: {reason}" if place else reason)


class ViewsError(CtxlogError):
    """A file of views cannot be used; the message says why."""


class ViewsBusyError(ViewsError, RetriableError):
    """Another projector writes the file."""


class ViewsFullError(ViewsError, RetriableError):
    """The disk of the views is full."""


class ViewsMemoryError(ViewsError, RetriableError):
    """What is to be projected needs more memory than was given; it gets more when the file is opened again."""


class ViewsOutdatedError(ViewsError):
    """The file is of another version of the views, and is to be made anew."""


class ViewsDamagedError(ViewsOutdatedError):
    """The file is not what was written into it, and is to be made anew."""


class QueryStoppedError(CtxlogError):
    """A query would have taken longer than it may, or more memory; nothing of its answer is to be used."""


class ProjectionError(ViewsError):
    """A projection that somebody added cannot be used, or failed at an event. Nothing was changed.

    Attributes:
        projection: Its name, or what it was named by.
        place: Where: a statement, or an event; empty where it is the projection as a whole.
        reason: What is wrong.
        advice: What to do.
    """

    def __init__(self, projection: str, place: str, reason: str, advice: str) -> None:
        self.projection = projection
        self.place = place
        self.reason = reason
        self.advice = advice
        super().__init__(f"projection {projection}{', ' if place else ''}{place}: {reason}; nothing was changed. {advice}.")

"""What users import: `ContextLog`, a log opened for appending and reading, and `Context`, one context in it.

    append: events (validated) -> meta -> Avro -> log.append -> for conditional ones, read back what the log decided
    read:   end of the partition -> the kept cursor reads on to it -> state

The outcome of a conditional append comes from reading the log, never from what the append returned: there is one
arbitration, and writers go through it as every reader does.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Self, TypedDict, Unpack

from pydantic import ValidationError

from ctxlog.codec.avro import encode_event
from ctxlog.codec.framing import frame_single_object
from ctxlog.codec.schemas import shipped
from ctxlog.core.arbitration import APPEND_EVENTS_MAX
from ctxlog.errors import AbandonedError, ConflictError, IndeterminateError, InvalidInputError, RecordTooLargeError
from ctxlog.model.jsontext import json_text, plain_or_parts
from ctxlog.log.protocol import EventLog, OutcomeUnknownError
from ctxlog.log.publication import Publisher
from ctxlog.model.events import (
    Event,
    FactRemoved,
    FactSet,
    MessageAppended,
    MessageRedacted,
    StreamClosed,
    StreamForked,
    ToolCalled,
    ToolReturned,
    micros,
)
from ctxlog.model.ids import agent_of, check_actor, check_agent_id, check_id, check_stream_id
from ctxlog.model.outcomes import Acknowledged, Committed
from ctxlog.model.points import Point, parse_point
from ctxlog.model.records import MAX_RECORD_BYTES, NewRecord, Position, Rejected
from ctxlog.model.selection import APPROXIMATE_TOKENS, Selection, TokenCounter, Window, select
from ctxlog.model.state import ContextState
from ctxlog.replay.cuts import Cut
from ctxlog.replay.history import Entry, history
from ctxlog.replay.manifest import Replay
from ctxlog.replay.replayer import Outcome, Replayer, Seen, StreamCursor
from ctxlog.replay.snapshots import SnapshotStore
from ctxlog.replay.summaries import StreamSummary, summarize
from ctxlog.uuids import uuid7

CURSORS_MAX = 64
"""Streams whose fold a log keeps at hand, so that a read costs what was appended since the last one."""


class AppendOptions(TypedDict, total=False):
    """What can be said with any append. All are optional.

    Attributes:
        expected_version: Version that the stream must be at; 0: it must not exist.
        expected_head: Chain head that the stream must have, 64 hex digits.
        expected_targets: Version of each target's last change, as in `{"fact:limit": 3}`; 0: never changed. Each target must be
            one that the append changes.
        scope: Which readers the events are meant for.
        occurred_at: When it happened: `datetime` with a zone, or µs since 1970 UTC; None where unknown; now where not given.
        actor: Who wrote it: `agent:|person:|tool:|system:` + id; the context's where not given.
        causation_id, correlation_id: The event that led to this one; what belongs together across streams.
        event_ids: Ids to use, one an event; version 7 UUIDs are made where not given.
    """

    expected_version: int | None
    expected_head: str | None
    expected_targets: Mapping[str, int]
    scope: str
    occurred_at: datetime | int | None
    actor: str
    causation_id: str | None
    correlation_id: str | None
    event_ids: Sequence[str]


class ContextLog:
    """A log, opened. Threads may share one; `close` it, or use it in a `with` statement.

    Args:
        log: The backend. `ContextLog.open` builds one from a URL.
        snapshots: Where folds are kept to save work.
    """

    def __init__(self, log: EventLog, snapshots: SnapshotStore | None = None) -> None:
        self.log = log
        self._snapshots = snapshots
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._replayer = Replayer(self.log, self._snapshots)
        self._publisher = Publisher(self.log, self._replayer.reader)
        self._cursors: OrderedDict[str, StreamCursor] = OrderedDict()
        self._written: dict[int, int] = {}
        self._lock = threading.RLock()

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """Open a log.

        Args:
            url: `embedded:PATH` (created on first use) or `memory:`; without it the environment's `CTXLOG_URL`, then `log` in
                `./ctxlog.toml`, then `embedded:.ctxlog`.

        Raises:
            LogOpenError: There is no log that can be opened; the message gives the reasons.
        """
        from ctxlog.wiring import open_log  # noqa: PLC0415 - wiring builds this class

        log, snapshots = open_log(url)
        return cls(log, snapshots)

    @property
    def replayer(self) -> Replayer:
        """Reads contexts up to any point."""
        if self._pid != os.getpid():
            self._start()  # A forked child shares no lock with its parent.
        return self._replayer

    def context(self, stream_id: str, *, agent_id: str | None = None, actor: str | None = None) -> Context:
        """One context. It is born with its first event; nothing is written here.

        Args:
            stream_id: By convention `AGENT/THREAD`, `AGENT`, `shared/NAME` or `decisions/AGENT`.
            agent_id: Who owns it; by the convention where not given.
            actor: Who writes; `agent:AGENT` where not given, `system:ctxlog` where there is no agent.

        Raises:
            InvalidInputError: An id is not allowed.
        """
        return Context(self, stream_id, agent_id=agent_id, actor=actor)

    def streams(self, pattern: str = "*", *, progress: Callable[[int], None] | None = None) -> Iterator[StreamSummary]:
        """The streams whose name matches a shell pattern (`agent/*`; `*` matches `/` too), by name. `progress` is told how many are done."""
        for done, stream_id in enumerate(self.matching(pattern), 1):
            summary = summarize(self.replayer, stream_id)
            if summary is not None:
                yield summary
            if progress is not None:
                progress(done)

    def matching(self, pattern: str = "*") -> list[str]:
        """Names of the streams that match a shell pattern, sorted."""
        found = set()
        for partition in range(self.log.partitions):
            for key in self.log.keys(partition):
                try:
                    stream_id = key.decode()
                except UnicodeDecodeError:
                    continue  # No stream can have such a name: records under it are misplaced.
                if not stream_id.startswith("ctxlog:") and fnmatchcase(stream_id, pattern):
                    found.add(stream_id)
        return sorted(found)

    def cut(self, pattern: str = "*", at: str | int | Point = "latest") -> Cut:
        """The version of each matching stream at a point, from which `cut:FILE` replays the same states again."""
        point = at if not isinstance(at, str | int) else parse_point(at)
        streams, heads = {}, {}
        for stream_id in self.matching(pattern):
            state = self.replayer.replay(stream_id, point).state
            streams[stream_id], heads[stream_id] = state.version, state.chain_head
        return Cut(self.log.log_id, str(point), streams, heads)

    def resolve(self, error: IndeterminateError) -> Committed:
        """Find out what became of an append whose outcome could not be known.

        Appends the same bytes again: the first copy decides, whichever that is, and the other is a duplicate.

        Raises:
            ConflictError, AbandonedError: It was not accepted, and will not be.
            IndeterminateError: It cannot be known yet; call again.
        """
        partition = self.replayer.reader.partition(error.stream_id)
        end = self._write(error.stream_id, error.records, error.event_ids, conditional=True)[-1].offset + 1
        return self._decided(error.stream_id, partition, end, error.event_ids)

    def close(self) -> None:
        """Let go of the log's files and connections."""
        self.log.close()
        if self._snapshots is not None:
            self._snapshots.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(self, stream_id: str) -> ContextState:
        return self._read(stream_id).fold.state()

    def _read(self, stream_id: str, seen: Seen | None = None) -> StreamCursor:
        """The stream's cursor, read on to the end of its partition and to all that this log wrote."""
        replayer = self.replayer
        with self._lock:
            partition = replayer.reader.partition(stream_id)
            end = max(replayer.end(stream_id), self._caught_up(partition))
            cursor = self._cursors.pop(stream_id, None) or replayer.open(stream_id, end=end)
            replayer.advance(cursor, end, seen=seen)
            # Kept only now: a cursor whose reading failed half-way is not used again.
            self._cursors[stream_id] = cursor
            if len(self._cursors) > CURSORS_MAX:
                self._cursors.popitem(last=False)
            return cursor

    def _caught_up(self, partition: int) -> int:
        """Wait until the partition shows what was written here; its end then."""
        written = self._written.get(partition, 0)
        end = self.log.bounds(partition).end
        while end < written:
            end = self.log.wait(partition, end, 1.0)
        return end

    def _write(
        self, stream_id: str, records: Sequence[NewRecord], event_ids: Sequence[str], *, conditional: bool
    ) -> list[Position]:
        try:
            placed = self.log.append(records)
        except OutcomeUnknownError as error:
            raise IndeterminateError(stream_id, records, event_ids, conditional=conditional, cause=str(error)) from error
        with self._lock:
            for position, _ in placed:
                self._written[position.partition] = max(self._written.get(position.partition, 0), position.offset + 1)
        return [position for position, _ in placed]

    def _append(
        self, stream_id: str, encoded: Sequence[tuple[str, bytes]], event_ids: Sequence[str], *, conditional: bool, expected: str
    ) -> Committed | Acknowledged:
        partition = self.replayer.reader.partition(stream_id)
        self._publisher.ensure(partition, {type_name for type_name, _ in encoded})
        key = stream_id.encode()
        records = [NewRecord(partition, key, frame_single_object(shipped(name).fingerprint, body)) for name, body in encoded]
        for record in records:
            if record.size > MAX_RECORD_BYTES:
                raise RecordTooLargeError(stream_id, record.size, MAX_RECORD_BYTES)
        positions = self._write(stream_id, records, event_ids, conditional=conditional)
        if not conditional:
            return Acknowledged(positions[0], tuple(event_ids))
        return self._read_back(stream_id, positions, event_ids, expected)

    def _read_back(self, stream_id: str, positions: Sequence[Position], event_ids: Sequence[str], expected: str) -> Committed:
        """What the log decided about an append, read from its own records."""
        first = positions[0].offset
        with self._lock:
            cursor = self._cursors.get(stream_id)
            if cursor is not None and cursor.next_offset > first:
                # Another thread of this process read past the records between the append and here.
                return self._decided(stream_id, positions[0].partition, positions[-1].offset + 1, event_ids, expected)
            watch = _Watch(event_ids)
            cursor = self._read(stream_id, watch)
        return watch.result(stream_id, positions[0].partition, event_ids, expected)

    def _decided(
        self, stream_id: str, partition: int, end: int, event_ids: Sequence[str], expected: str = "what the append asked for"
    ) -> Committed:
        """What the log decided about an append, from the stream's beginning."""
        replayer = self.replayer
        watch = _Watch(event_ids)
        cursor = StreamCursor(replayer.open(stream_id, end=0).fold)
        replayer.advance(cursor, max(end, self._caught_up(partition)), seen=watch)
        return watch.result(stream_id, partition, event_ids, expected)


class _Watch:
    """Sees what becomes of one append while a cursor reads on. The first decision about its id is the one that counts."""

    def __init__(self, event_ids: Sequence[str]) -> None:
        self._append_id, self._last_id = event_ids[0], event_ids[-1]
        self._version: int | None = None
        self._reason: str | None = None
        self._offset = -1
        self._actual = 0

    def __call__(self, outcomes: Sequence[Outcome], version: int) -> None:
        for outcome in outcomes:
            if self._decided or outcome.event is None:
                continue
            self._actual = version
            if outcome.event.meta["event_id"] in (self._append_id, self._last_id):
                self._note(outcome)

    @property
    def _decided(self) -> bool:
        return self._version is not None or self._reason in ("conflict", "abandoned")

    def _note(self, outcome: Outcome) -> None:
        if isinstance(outcome, Rejected):
            self._reason = outcome.reason
            self._offset = max(outcome.offset, outcome.decided_at)
        elif outcome.event.meta["event_id"] == self._last_id:
            self._version, self._offset = outcome.version, outcome.offset

    def result(self, stream_id: str, partition: int, event_ids: Sequence[str], expected: str) -> Committed:
        """The outcome, or the error that it is."""
        position = Position(partition, self._offset)
        if self._version is not None:
            return Committed(self._version, position, tuple(event_ids))
        if self._reason == "abandoned":
            raise AbandonedError(stream_id)
        raise ConflictError(stream_id, self._actual, expected=expected, position=str(position))


class Context:
    """One context: append to it, read it, replay it, fork it. Made by `ContextLog.context`.

    Appends without preconditions return `Acknowledged`: durable, and decided when read. Appends with one, and those of several
    events, return `Committed` once the log has accepted them, or raise `ConflictError` and change nothing.
    """

    def __init__(self, owner: ContextLog, stream_id: str, *, agent_id: str | None, actor: str | None) -> None:
        self.stream_id = check_stream_id(stream_id)
        self.agent_id = check_agent_id(agent_id) if agent_id is not None else agent_of(stream_id)
        self.actor = check_actor(actor) if actor is not None else f"agent:{self.agent_id}" if self.agent_id else "system:ctxlog"
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Context {self.stream_id!r} of {self._owner.log.url}>"

    # Appending

    def append(self, events: Event | Sequence[Event], **options: Unpack[AppendOptions]) -> Committed | Acknowledged:
        """Append one event, or several that are accepted together or not at all.

        Raises:
            InvalidInputError: An argument cannot be used; nothing was appended.
            RecordTooLargeError: A record would be larger than 1 MiB; nothing was appended.
            ConflictError: A precondition did not hold; nothing was changed.
            IndeterminateError: The outcome is not known; `ContextLog.resolve` finds out.
        """
        batch = [events] if isinstance(events, Event) else list(events)
        if not 1 <= len(batch) <= APPEND_EVENTS_MAX:
            raise InvalidInputError(f"an append has 1 to {APPEND_EVENTS_MAX:,} events, not {len(batch):,}; nothing was appended")
        event_ids = [check_id("event id", event_id) for event_id in options.get("event_ids") or [uuid7() for _ in batch]]
        if len(event_ids) != len(batch):
            raise InvalidInputError(f"{len(event_ids)} event ids for {len(batch)} events; nothing was appended")
        metas = self._metas(batch, event_ids, options)
        encoded = []
        for event, meta in zip(batch, metas, strict=True):
            try:
                encoded.append((event.type_name, encode_event(event.type_name, meta, _payload(event))))
            except UnicodeEncodeError:
                raise InvalidInputError("a text holds a lone surrogate, which UTF-8 cannot carry; nothing was appended") from None
        conditional = len(batch) > 1 or any(meta["precondition"] for meta in metas)
        return self._owner._append(  # noqa: SLF001 - the two classes are one
            self.stream_id, encoded, event_ids, conditional=conditional, expected=_expectation(options)
        )

    def _metas(self, batch: Sequence[Event], event_ids: Sequence[str], options: AppendOptions) -> list[dict[str, Any]]:
        occurred_at = options["occurred_at"] if "occurred_at" in options else time.time_ns() // 1000
        try:
            occurred_us = micros(occurred_at)
        except ValueError as error:
            raise InvalidInputError(f"occurred_at: {error}; nothing was appended") from None
        if occurred_us is not None and type(occurred_us) is not int:
            raise InvalidInputError("occurred_at: expected a datetime with a zone, or µs since 1970 UTC; nothing was appended")
        causation_id, correlation_id = options.get("causation_id"), options.get("correlation_id")
        trace = {"causation_id": causation_id, "correlation_id": correlation_id} if causation_id or correlation_id else None
        targets = dict(options.get("expected_targets") or {})
        metas = []
        for index, (event, event_id) in enumerate(zip(batch, event_ids, strict=True)):
            target = event.target()
            metas.append(
                {
                    "event_id": event_id,
                    "stream_id": self.stream_id,
                    "agent_id": self.agent_id,
                    "actor": check_actor(options["actor"]) if "actor" in options else self.actor,
                    "occurred_at": occurred_us,
                    "scope": check_id("scope", options.get("scope", "default")),
                    "target": target,
                    "append": {"id": event_ids[0], "index": index, "count": len(batch)} if len(batch) > 1 else None,
                    "precondition": _precondition(index, options, targets.pop(target, None) if target else None),
                    "trace": trace,
                    "privacy": None,
                }
            )
        if targets:
            raise InvalidInputError(f"expected_targets: the append changes none of {sorted(targets)}; nothing was appended")
        return metas

    def add_message(
        self, role: str, content: Any = None, *, name: str | None = None, **options: Unpack[AppendOptions]
    ) -> Committed | Acknowledged:
        """Append a message.

        Args:
            role: `system`, `user`, `assistant`, `tool`, or what you call it.
            content: Text; or parts, anything that JSON can carry.
            name: Name of the author, as providers take it.
            options: See `AppendOptions`.
        """
        text, parts = plain_or_parts(content)
        return self.append(_make(MessageAppended, role=role, content=text, parts=parts, name=name), **options)

    def redact_message(
        self, message_id: str, *, reason: str | None = None, **options: Unpack[AppendOptions]
    ) -> Committed | Acknowledged:
        """Take the text of a message out of the context. The log keeps the event that brought it."""
        return self.append(_make(MessageRedacted, message_id=message_id, reason=reason), **options)

    def set_fact(
        self,
        key: str,
        value: Any,
        *,
        valid_from: datetime | int | None = None,
        valid_to: datetime | int | None = None,
        expires_at: datetime | int | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed | Acknowledged:
        """Set a fact.

        Args:
            key: Its name in this context.
            value: Anything that JSON can carry.
            valid_from, valid_to: When it is true in the world.
            expires_at: From when readers leave it out.
            options: See `AppendOptions`.
        """
        fact = _make(FactSet, key=key, value=json_text(value), valid_from=valid_from, valid_to=valid_to, expires_at=expires_at)
        return self.append(fact, **options)

    def remove_fact(self, key: str, **options: Unpack[AppendOptions]) -> Committed | Acknowledged:
        """Take a fact out of the context."""
        return self.append(_make(FactRemoved, key=key), **options)

    def add_tool_call(
        self,
        name: str,
        arguments: Any,
        *,
        message_id: str | None = None,
        source_id: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed | Acknowledged:
        """Record that a tool is called; `event_id` of what comes back is the call's id, for `add_tool_result`.

        Args:
            name: The tool.
            arguments: JSON text as the model wrote it, or anything that JSON can carry.
            message_id: The message that asked for the call.
            source_id: The id that the provider gave the call.
            options: See `AppendOptions`.
        """
        event_id = options["event_ids"][0] if options.get("event_ids") else uuid7()
        text = arguments if isinstance(arguments, str) else json_text(arguments)
        call = _make(ToolCalled, call_id=event_id, name=name, arguments=text, message_id=message_id, source_id=source_id)
        return self.append(call, **{**options, "event_ids": [event_id]})

    def add_tool_result(
        self,
        call_id: str,
        result: Any = None,
        *,
        failed: bool = False,
        name: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed | Acknowledged:
        """Record how a call ended.

        Args:
            call_id: The call.
            result: Text, or anything that JSON can carry; for a failure, what it said.
            failed: Whether the call failed.
            name: Name of the author of the result, as providers take it.
            options: See `AppendOptions`.
        """
        text, parts = plain_or_parts(result)
        return self.append(_make(ToolReturned, call_id=call_id, failed=failed, content=text, parts=parts, name=name), **options)

    def close(self, *, reason: str | None = None, **options: Unpack[AppendOptions]) -> Committed | Acknowledged:
        """Say that the context came to an end. Later events still take effect."""
        return self.append(_make(StreamClosed, reason=reason), **options)

    def fork(self, stream_id: str, *, at: str | int | Point = "latest") -> Context:
        """A new context that goes on from a point of this one. This one is not changed, and later events here are not seen there.

        Raises:
            ConflictError: The new stream exists.
        """
        state = self.replay(at).state
        child = Context(self._owner, stream_id, agent_id=None, actor=None)
        event = StreamForked(parent_stream_id=self.stream_id, parent_version=state.version, parent_chain_head=state.chain_head)
        child.append(event, expected_version=0)
        return child

    # Reading

    @property
    def state(self) -> ContextState:
        """The newest state, with everything that was appended through this log."""
        return self._owner._state(self.stream_id)  # noqa: SLF001

    @property
    def version(self) -> int:
        """The newest version; 0: the context does not exist."""
        return self._owner._read(self.stream_id).fold.version  # noqa: SLF001

    @property
    def chain_head(self) -> str:
        """Id of the newest version, for `expected_head`."""
        return self._owner._read(self.stream_id).fold.head.hex()  # noqa: SLF001

    def window(
        self,
        *,
        max_messages: int | None = None,
        scopes: Sequence[str] | None = None,
        fact_prefixes: Sequence[str] | None = None,
        max_tokens: int | None = None,
        counter: TokenCounter = APPROXIMATE_TOKENS,
    ) -> Window:
        """The part of the newest state that a model gets to see; expiry is judged now. Arguments as in `Selection`."""
        selection = Selection(max_messages, scopes, fact_prefixes, max_tokens)
        return select(self.state, selection, judged_at=time.time_ns() // 1000, counter=counter)

    def replay(self, at: str | int | Point = "latest") -> Replay:
        """The state at a point, recomputed from the log, with its manifest.

        Args:
            at: `latest`, `N` or `version:N`, `offset:N`, `time:ISO8601`, `occurred:ISO8601`, `event:ID`, `decision:ID`, `cut:FILE`.

        Raises:
            PointError: It is no point, or the context has none such.
            IntegrityError: What the log holds cannot be folded.
        """
        point = parse_point(at) if isinstance(at, str | int) else at
        self._owner._caught_up(self._owner.replayer.reader.partition(self.stream_id))  # noqa: SLF001
        return self._owner.replayer.replay(self.stream_id, point)

    def history(self) -> Iterator[Entry]:
        """Every record of the stream and what became of it, in the order in which it was decided."""
        replayer = self._owner.replayer
        return history(replayer, self.stream_id, replayer.end(self.stream_id))


def _payload(event: Event) -> dict[str, Any]:
    return event.model_dump()


def _make(kind: type[Event], **fields: Any) -> Event:
    try:
        return kind(**fields)
    except ValidationError as error:
        raise InvalidInputError(f"{kind.__name__}: {_reasons(error)}; nothing was appended") from None


def _reasons(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False, include_url=False)
    )


def _precondition(index: int, options: AppendOptions, expected_target: int | None) -> dict[str, Any] | None:
    version, head = (options.get("expected_version"), options.get("expected_head")) if index == 0 else (None, None)
    if version is None and head is None and expected_target is None:
        return None
    for name, number in (("expected_version", version), ("expected_targets", expected_target)):
        if number is not None and (type(number) is not int or not 0 <= number < 2**63):
            raise InvalidInputError(f"{name}: expected a version from 0, found {number!r}; nothing was appended")
    return {"expected_version": version, "expected_head": head, "expected_target_version": expected_target}


def _expectation(options: AppendOptions) -> str:
    """The preconditions, for the message of a conflict."""
    said: list[str] = []
    if options.get("expected_version") is not None:
        said.append(f"version {options['expected_version']}")
    if options.get("expected_head") is not None:
        said.append(f"chain head {options['expected_head']}")
    said.extend(f"{target} at version {version}" for target, version in (options.get("expected_targets") or {}).items())
    return ", ".join(said) or "new event ids"

"""LangGraph's long-term memory over a context log: a namespace is a stream, and an item is a fact of it.

So what agents remember across threads shows as facts do, in `show`, `log`, `diff` and SQL, with who wrote it and when. Each
method is safe in threads, and in processes that share the log.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
)

from ctxlog.adapters.langgraph.encoding import SafeSerializer, open_log, written_name
from ctxlog.adapters.langgraph.items import value_text
from ctxlog.adapters.langgraph.looking import Look, Search, check_key
from ctxlog.adapters.langgraph.namespaces import Labels, Namespaces, check_labels, fact_of, stream_of
from ctxlog.adapters.langgraph.semantic import SemanticIndex
from ctxlog.client.appending import make_event
from ctxlog.client.log import ContextLog
from ctxlog.client.options import AppendOptions
from ctxlog.client.updating import Tries, committed
from ctxlog.core.arbitration import APPEND_EVENTS_MAX
from ctxlog.errors import AbandonedError, ConflictError, InvalidInputError, LogBusyError
from ctxlog.model.events import Event, FactRemoved, FactSet
from ctxlog.model.ids import check_actor, check_agent_id
from ctxlog.model.state import NUMBER_MAX

PUT_SECONDS = 60.0
"""How long a put is tried again while others write; as long as an unknown outcome is asked for."""

T = TypeVar("T")


class _Put(NamedTuple):
    """What becomes of one fact. No text: it is removed."""

    text: str | None
    expires_at: int | None


class _Ranked(NamedTuple):
    """A search that is to be ranked."""

    search: Search
    query: str


Puts = dict[Labels, dict[str, _Put]]


class CtxlogStore(BaseStore):
    """Keeps the items of LangGraph's store in a context log, as facts.

    The puts of a batch into one namespace are one append, accepted together or not at all (beyond 1,000, several). Reads in a
    batch come before its puts, as in LangGraph's own stores. Of two puts of one key the later one in the log counts.

    A search gives namespaces in the order of their names, and in each the item that was put last first; with a query, the
    likest first. A `ttl` counts from the put: reading writes nothing, and so refreshes nothing.

    Args:
        log: An open log; whoever opened it closes it.
        agent: Who writes; it stands in each event.
        index: For search by meaning, as LangGraph's stores take it: `embed`, `dims`, `fields`. What is embedded is said here
            alone; the `index` of a put is not looked at.
        serde: How values that JSON cannot carry are written; by default LangGraph's serializer with its strict allow-list.
    """

    supports_ttl = True

    def __init__(
        self,
        log: ContextLog,
        *,
        agent: str,
        index: IndexConfig | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        self.ttl_config: TTLConfig | None = {"refresh_on_read": False, "omit_expired": True}
        self._log = open_log(log)
        self._actor = check_actor(f"agent:{check_agent_id(agent)}")
        self._index = None if index is None else SemanticIndex(index)
        self._serde = serde or SafeSerializer()
        self._namespaces = Namespaces(log)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """What each operation gives, in their order; what is put is durable when this returns.

        Raises:
            InvalidNamespaceError, InvalidInputError: An argument cannot be used; nothing was put.
            RecordTooLargeError: An item is larger than a record may be; nothing was put into its namespace.
            IntegrityError: A fact of the namespace is no item of a store; nothing was put.
            LogBusyError, IndeterminateError, StorageError: It was not put, or that is not known.
        """
        given = list(ops)
        puts = self._prepare(given)  # First, so that nothing is put where something cannot be.
        results = [
            self._index.rank(*found) if isinstance(found, _Ranked) and self._index else found for found in self._read(given)
        ]
        self._write(puts)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As `batch`. What was begun is finished, also where whoever waits for it is cancelled."""
        given = list(ops)
        if self._index is None or not any(isinstance(op, SearchOp) and op.query for op in given):
            return await _in_thread(self.batch, given)
        puts = self._prepare(given)
        results = [
            await self._index.arank(*found) if isinstance(found, _Ranked) else found
            for found in await _in_thread(self._read, given)
        ]
        await _in_thread(self._write, puts)
        return results

    def _read(self, ops: Sequence[Op]) -> list[Any]:
        """What those give that read, as of one moment; searches that are to be ranked are not done yet."""
        with self._namespaces.lock:
            look = Look(self._log, self._namespaces, self._serde, time.time_ns() // 1000)
            return [self._answer(look, op) for op in ops]

    def _answer(self, look: Look, op: Op) -> Result | _Ranked:
        match op:
            case GetOp():
                return look.get(op)
            case SearchOp() if not op.query:
                return look.search(op, ranked=False).result()
            case SearchOp() if self._index is not None:
                return _Ranked(look.search(op, ranked=True), op.query or "")
            case SearchOp():
                raise InvalidInputError(
                    "query: the store was made without `index`, and searches by `filter`; nothing was searched"
                )
            case ListNamespacesOp():
                return look.list(op)
            case PutOp():
                return None
        raise InvalidInputError(f"operation: expected one of LangGraph's store, found {type(op).__name__}; nothing was done")

    def _prepare(self, ops: Sequence[Op]) -> Puts:
        """What is to be put, by namespace and fact; of several puts of one key the last."""
        puts: Puts = {}
        for op in ops:
            if not isinstance(op, PutOp):
                continue
            labels, name = check_labels(op.namespace), fact_of(check_key(op.key))
            if not labels:
                raise InvalidNamespaceError("namespace: expected at least one label; nothing was put")
            if op.value is None:
                put = _Put(None, None)
            else:
                written_name("namespace", stream_of(labels))
                written_name("key", name)
                put = _Put(value_text(op.value, self._serde), None if op.ttl is None else _expires_at(op.ttl))
            changes = puts.setdefault(labels, {})
            changes.pop(name, None)
            changes[name] = put
        return puts

    def _write(self, puts: Puts) -> None:
        for labels, changes in puts.items():
            names = list(changes)
            for start in range(0, len(names), APPEND_EVENTS_MAX):
                self._put(labels, {name: changes[name] for name in names[start : start + APPEND_EVENTS_MAX]})

    def _put(self, labels: Labels, changes: Mapping[str, _Put]) -> None:
        stream_id, tries = stream_of(labels), Tries(PUT_SECONDS)
        while True:
            events, options = self._events(labels, changes)
            if not events:
                return
            try:
                committed(self._log.context(stream_id, actor=self._actor), events, options)
            except (ConflictError, AbandonedError, LogBusyError):
                if tries.over:
                    raise
            else:
                return
            tries.pause()

    def _events(self, labels: Labels, changes: Mapping[str, _Put]) -> tuple[list[Event], AppendOptions]:
        """The events of an append, and on which conditions: what is removed must be there, and as it was when that was seen."""
        there: dict[str, int] = {}
        if any(put.text is None for put in changes.values()):
            with self._namespaces.lock:
                found = self._namespaces.read(labels, self._namespaces.ends())
                there = {name: found.target_version(name) for name in changes if name in found.facts}
        events: list[Event] = []
        expected: dict[str, int] = {}
        for name, put in changes.items():
            if put.text is not None:
                events.append(make_event(FactSet, key=name, value=put.text, expires_at=put.expires_at))
            elif name in there:
                events.append(make_event(FactRemoved, key=name))
                expected[f"fact:{name}"] = there[name]
        return events, {"expected_targets": expected} if expected else {}


async def _in_thread(work: Callable[[Any], T], argument: Any) -> T:
    """Run in a thread, to its end: neither a cancelled caller nor the end of the loop takes it back."""
    run = contextvars.copy_context().run
    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, run, work, argument))


def _expires_at(ttl: Any) -> int:
    """The instant at which an item expires that is put now, µs since 1970 UTC."""
    now = time.time_ns() // 1000
    if not isinstance(ttl, int | float) or not 0 < ttl * 60_000_000 <= NUMBER_MAX - now:  # as NaN is not
        raise InvalidInputError("ttl: expected minutes, a number above 0; nothing was put")
    return now + int(ttl * 60_000_000)

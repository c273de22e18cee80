"""Fold a stream's records into the context that an agent sees: arbitration, then evolve.

Pure. The caller hands in decoded records in offset order, and a way to get a parent's state for forks; replay, the client
and `verify` all go through here, so that there is one fold.
"""

from __future__ import annotations

from collections.abc import Callable

from ctxlog.core.arbitration import Arbiter, Verdict
from ctxlog.core.evolve import Evolving
from ctxlog.errors import LineageError, NewerEventError, PositionError
from ctxlog.model.records import Accepted, EventRecord
from ctxlog.model.state import ContextState, Parent

ParentState = Callable[[Parent], ContextState]
"""Gives the state that a fork starts from; raises `LineageError` where it is not what the fork says."""


class StreamFold:
    """The fold of one stream, up to the last record that was offered.

    Attributes:
        arbiter: Which records count.
        evolving: What the accepted ones amount to.
        offset: Offset of the last record offered; -1 before the first.
        effect_offset, effect_time: Record at which the current version took effect, -1 at version 0.
        version, head: Number of applied events, and the chain head there.
        rejected: Number of records rejected so far.
        evolves: Whether there is a state; without one it is only told what is accepted.
        done: Whether `stop_version` is reached; nothing can be offered any more.
        failure: Why there is no state from some version on; arbitration goes on all the same.
    """

    __slots__ = (
        "_parent_state",
        "_stop_version",
        "arbiter",
        "done",
        "effect_offset",
        "effect_time",
        "evolves",
        "evolving",
        "failure",
        "head",
        "offset",
        "rejected",
        "version",
    )

    def __init__(
        self, stream_id: str, *, parent_state: ParentState, stop_version: int | None = None, evolves: bool = True
    ) -> None:
        self.arbiter = Arbiter(stream_id)
        self.version = 0
        self.head = self.arbiter.head
        self.done = stop_version == 0
        self._stop_version = stop_version
        self.evolves = evolves
        self.evolving = Evolving(stream_id)
        self.offset = -1
        self.effect_offset = -1
        self.effect_time = -1
        self.rejected = 0
        self.failure: NewerEventError | LineageError | None = None
        self._parent_state = parent_state

    def offer(self, event: EventRecord) -> Verdict:
        """Take the next record of the stream.

        Raises:
            PositionError: The record is repeated or out of order. A fold never skips: the caller knows whether the log
                explains it, the fold cannot.
        """
        if event.offset <= self.offset:
            raise PositionError(
                f"stream {self.evolving.stream_id!r}: record {event.partition}@{event.offset} follows "
                f"{event.partition}@{self.offset}; nothing was folded. Read the stream again in offset order."
            )
        self.offset = event.offset
        verdict = self.arbiter.offer(event)
        if verdict.accepted:
            for accepted in verdict.accepted:
                if self.failure is None and self.evolves:
                    self._apply(accepted)
                self.version, self.head = accepted.version, accepted.head
                if accepted.version == self._stop_version:
                    # An append is all or nothing in the log; a version inside it is still a version.
                    self.done = True
                    break
            self.effect_offset = event.offset
            self.effect_time = event.time
        if verdict.rejected:
            self.rejected += len(verdict.rejected)
        return verdict

    def _apply(self, accepted: Accepted) -> None:
        try:
            self.evolving.apply(accepted)
            if accepted.version == 1 and self.evolving.parent is not None:
                self.evolving.inherit(self._parent_state(self.evolving.parent))
        except (NewerEventError, LineageError) as error:
            self.failure = error

    def state(self) -> ContextState:
        """The state at the current version.

        Raises:
            NewerEventError: This release does not know an event of the stream.
            LineageError: A fork's parent is not what the fork says.
        """
        if self.failure is not None:
            raise self.failure
        return self.evolving.state(self.version, self.head)

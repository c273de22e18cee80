"""What became of an append, seen as the log's own records are read.

The outcome of an append is what arbitration decides about its records, and every reader sees the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from ctxlog.errors import AbandonedError, ConflictError, IntegrityError
from ctxlog.model.outcomes import Committed
from ctxlog.model.records import NewRecord, Position, Rejected
from ctxlog.replay.replayer import Outcome


class Watch:
    """Sees what becomes of one append while a cursor reads on. The first decision about its id is the one that counts."""

    def __init__(self, event_ids: Sequence[str], *, one: bool = True) -> None:
        self._event_ids = event_ids
        self._one = one
        self._apart: set[str] = set()
        self._last_id = event_ids[-1]
        self._append_id = event_ids[0] if one else self._last_id
        self._version: int | None = None
        self._reason: str | None = None
        self._offset = -1
        self._actual = 0

    def __call__(self, outcomes: Sequence[Outcome], version: int) -> None:
        for outcome in outcomes:
            if outcome.event is None:
                continue
            meta = outcome.event.meta
            if not self._one and meta["append"] is None and not (isinstance(outcome, Rejected) and outcome.reason == "malformed"):
                self._apart.add(meta["event_id"])
            if self._decided:
                continue
            self._actual = version
            # An event id may have come in with another append too, whose outcome is not this one's.
            if (meta["append"]["id"] if meta["append"] else meta["event_id"]) == self._append_id:
                self._note(outcome)

    @property
    def _decided(self) -> bool:
        return self._version is not None or self._reason in ("conflict", "abandoned")

    @property
    def repeated(self) -> bool:
        """Whether all that was seen is a copy of what the log had before."""
        return not self._decided and self._reason == "duplicate"

    def undecided(self, records: Sequence[NewRecord]) -> list[NewRecord]:
        """Those of the append's records that the log has not decided about, as far as was seen."""
        if self._one:
            return [] if self._decided else list(records)
        return [record for record, event_id in zip(records, self._event_ids, strict=True) if event_id not in self._apart]

    def _note(self, outcome: Outcome) -> None:
        if isinstance(outcome, Rejected):
            self._reason = outcome.reason
            self._offset = max(outcome.offset, outcome.decided_at)
        elif outcome.event.meta["event_id"] == self._last_id:
            self._version, self._offset = outcome.version, outcome.offset

    def result(self, stream_id: str, partition: int, event_ids: Sequence[str], expected: str) -> Committed | None:
        """The outcome, or the error that it is. None: nothing was seen of the append."""
        position = Position(partition, self._offset)
        if self._version is not None:
            return Committed(self._version, position, tuple(event_ids))
        match self._reason:
            case None:
                return None
            case "abandoned":
                raise AbandonedError(stream_id)
            case "conflict" | "duplicate" | "malformed":
                if self._reason != "conflict":  # Not a precondition: the ids are those of another append.
                    expected = f"event ids that no other append has ({self._reason})"
                raise ConflictError(stream_id, self._actual, expected=expected, position=str(position))
            case reason:
                raise IntegrityError(
                    f"stream {stream_id!r}: expected {position} to be a record of this append, found it {reason}; "
                    "nothing was changed. Run `ctxlog verify`."
                )

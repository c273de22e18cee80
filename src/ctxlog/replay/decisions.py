"""Which version of a stream a recorded decision had read, and the chain head that it saw there.

A decision is looked up by an id that its agent chose. An answer about the wrong decision would be worse than none, so an id that
two agents recorded is refused; within one stream the first decision of an id is the one, as a copy of an event is no new event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxlog.errors import IntegrityError, PointError
from ctxlog.model.state import NUMBER_MAX

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer

DECISIONS = "decisions/"
"""Reads and decisions are written to `decisions/AGENT`, so that a receipt never conflicts with the next write."""


class Reading:
    """The latest version of a stream that a decision read.

    Attributes:
        version: The version.
        chain_heads: Chain heads that its reads recorded there; of several, one is wrong.
    """

    def __init__(self, decision_id: str, version: int, chain_heads: frozenset[str]) -> None:
        self._decision_id = decision_id
        self.version = version
        self.chain_heads = chain_heads

    def check(self, stream_id: str, chain_head: str) -> None:
        """Check that the log still holds what the decision read. Raises `IntegrityError`."""
        if wrong := self.chain_heads - {chain_head}:
            raise IntegrityError(
                f"stream {stream_id!r}@{self.version}: decision {self._decision_id!r} read chain head {min(wrong)}, the log has "
                f"{chain_head}; nothing was replayed. The log is not what it was: run `ctxlog verify`, or restore a copy."
            )


def version_read(replayer: Replayer, stream_id: str, decision_id: str) -> Reading:
    """The latest version of `stream_id` that the decision read, by the `ContextRead` events that it names.

    Raises:
        PointError: No such decision is recorded, or several agents recorded one, or it did not read the stream.
    """
    found = {name: reads for name in _decision_streams(replayer) if (reads := _reads_of(replayer, name, decision_id)) is not None}
    if not found:
        raise PointError(f"decision:{decision_id}: no such decision is recorded under {DECISIONS}…")
    if len(found) > 1:
        raise PointError(
            f"decision:{decision_id}: recorded in several streams: {', '.join(map(repr, sorted(found)))}. "
            "Replay the version that the right one read."
        )
    (reads,) = found.values()
    seen = [read for read in reads if read["stream_id"] == stream_id and 0 <= read["version"] <= NUMBER_MAX]
    if not seen:
        raise PointError(f"decision:{decision_id}: it did not read stream {stream_id!r}")
    version = max(read["version"] for read in seen)
    return Reading(decision_id, version, frozenset(read["chain_head"] for read in seen if read["version"] == version))


def _decision_streams(replayer: Replayer) -> set[str]:
    streams = set()
    for partition in range(replayer.log.partitions):
        for key in replayer.log.keys(partition):
            if key.startswith(DECISIONS.encode()):
                try:
                    streams.add(key.decode())
                except UnicodeDecodeError:
                    continue  # No stream can have such a name.
    return streams


def _reads_of(replayer: Replayer, name: str, decision_id: str) -> list[dict[str, Any]] | None:
    """What the decision read, if it is recorded in this stream. Events that the fold calls anomalies say nothing."""
    reads: dict[str, list[dict[str, Any]]] = {}
    for accepted in replayer.accepted(name, replayer.end(name)):
        event = accepted.event
        if not event.readable or event.meta["target"] is not None:
            continue
        if event.type == "ctxlog.ContextRead":
            reads[event.meta["event_id"]] = event.payload["streams"]
        elif event.type == "ctxlog.DecisionRecorded" and event.payload["decision_id"] == decision_id:
            return [read for event_id in event.payload["reads"] for read in reads.get(event_id, ())]
    return None

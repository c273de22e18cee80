"""Which version of a stream a recorded decision had read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxlog.core.evolve import NUMBER_MAX
from ctxlog.errors import PointError

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer

DECISIONS = "decisions/"
"""Reads and decisions are written to `decisions/AGENT`, so that a receipt never conflicts with the next write."""


def version_read(replayer: Replayer, stream_id: str, decision_id: str) -> int:
    """The latest version of `stream_id` that the decision read, by the `ContextRead` events that it names.

    Raises:
        PointError: No such decision is recorded, or it did not read the stream.
    """
    log = replayer.log
    for partition in range(log.partitions):
        for key in log.keys(partition):
            if not key.startswith(DECISIONS.encode()):
                continue
            events = {}
            decision = None
            try:
                stream = key.decode()
            except UnicodeDecodeError:
                continue  # No stream can have such a name.
            for accepted in replayer.accepted(stream, replayer.end(stream)):
                event = accepted.event
                if not event.readable:
                    continue
                if event.type == "ctxlog.ContextRead":
                    events[event.meta["event_id"]] = event.payload["streams"]
                elif event.type == "ctxlog.DecisionRecorded" and event.payload["decision_id"] == decision_id:
                    decision = event.payload
                    break
            if decision is None:
                continue
            versions: list[int] = [
                read["version"]
                for event_id in decision["reads"]
                for read in events.get(event_id, ())
                if read["stream_id"] == stream_id and 0 <= read["version"] <= NUMBER_MAX
            ]
            if not versions:
                raise PointError(f"decision:{decision_id}: it did not read stream {stream_id!r}")
            return max(versions)
    raise PointError(f"decision:{decision_id}: no such decision is recorded under {DECISIONS}…")

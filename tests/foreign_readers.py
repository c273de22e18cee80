"""What readers make of a log, in a form that can be compared between them, also from process to process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ctxlog.errors import LineageError
from ctxlog.log.kafka import KafkaLog
from ctxlog.log.protocol import EventLog
from ctxlog.model.points import Latest
from ctxlog.replay.history import Entry, Historian, history
from ctxlog.replay.replayer import Replayer

Everything = dict[str, tuple[list[dict[str, Any]], Any, Any]]
"""By stream: what became of each record, the last state (or the error that there is instead), and the anomalies."""


def _state(replayer: Replayer, stream_id: str) -> tuple[Any, Any]:
    try:
        found = replayer.replay(stream_id, Latest())
    except LineageError:
        return "LineageError", None
    return found.state.to_dict(), [anomaly._asdict() for anomaly in found.anomalies]


def everything_of(log: EventLog, streams: Collection[str]) -> Everything:
    """From the beginning, by a reader that knows nothing yet."""
    replayer = Replayer(log)
    return {
        stream_id: (
            [one.to_dict() for one in history(replayer, stream_id, replayer.end(stream_id))],
            *_state(replayer, stream_id),
        )
        for stream_id in streams
    }


def read(url: str, streams: Sequence[str]) -> Everything:
    """In another process."""
    log = KafkaLog(url)
    try:
        return everything_of(log, streams)
    finally:
        log.close()


class Follower:
    """A reader that is there all along and never looks back."""

    def __init__(self, log: EventLog, streams: Sequence[str]) -> None:
        self._replayer = Replayer(log)
        self._historians = {stream_id: Historian(self._replayer, stream_id) for stream_id in streams}
        self._cursors = {stream_id: self._replayer.open(stream_id, end=0) for stream_id in streams}
        self._entries: dict[str, list[Entry]] = {stream_id: [] for stream_id in streams}

    def read_on(self) -> None:
        """To the end, as it is now."""
        for stream_id, historian in self._historians.items():
            end = self._replayer.end(stream_id)
            self._entries[stream_id] += historian.read_on(end)
            self._replayer.advance(self._cursors[stream_id], end)

    def everything(self) -> Everything:
        """What it has seen."""
        found: Everything = {}
        for stream_id, historian in self._historians.items():
            entries = [one.to_dict() for one in (*self._entries[stream_id], *historian.open())]
            fold = self._cursors[stream_id].fold
            try:
                found[stream_id] = entries, fold.state().to_dict(), [anomaly._asdict() for anomaly in fold.evolving.anomalies]
            except LineageError:
                found[stream_id] = entries, "LineageError", None
        return found


def without_places(found: Everything, rejected: Sequence[str]) -> Everything:
    """Without what is other in a copy: places, and records that stay behind."""
    places = ("partition", "offset", "effect_offset")
    return {
        stream_id: (
            [
                {name: value for name, value in entry.items() if name not in places}
                for entry in entries
                if entry["outcome"] not in rejected
            ],
            *rest,
        )
        for stream_id, (entries, *rest) in found.items()
    }  # type: ignore[misc]

"""What was appended inside a decision: looked for in the log around it, by the cause that events name.

A decision does not say which streams it wrote to, and an event by its cause is in no index. So the records from its begin to its
record are gone through, by the writer's clock with room for it to be wrong; calls that are not found there are looked for in the
whole log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ctxlog.audit.behind import Moment
from ctxlog.audit.report import CallReport
from ctxlog.audit.trail import Evidence, evidence, happened
from ctxlog.errors import CtxlogError
from ctxlog.model.points import Latest
from ctxlog.model.records import CONTROL_KEY, EventRecord
from ctxlog.model.state import ToolCall
from ctxlog.replay.replayer import Replayer

CLOCK_WRONG_MS = 10 * 60 * 1000
"""By how much a writer's clock may be wrong before its effects are missed; calls are found all the same."""

EFFECTS_LISTED_MAX = 200
"""Effects that a report lists; all that are found are counted."""


class Effected(NamedTuple):
    """Effects: the first ones, and their number."""

    listed: tuple[Evidence, ...]
    number: int


class Effects:
    """Looks for what was appended inside a decision."""

    def __init__(self, replayer: Replayer, moment: Moment) -> None:
        self._replayer = replayer
        self._moment = moment
        self.notes: list[str] = []

    def streams(self, since_ms: int, known: Iterable[str]) -> set[str]:
        """Streams that hold effects, by the records from a time on up to the decision; and those of `known` that do."""
        log, moment = self._replayer.log, self._moment
        found = set(known)
        for partition in range(log.partitions):
            end = self._replayer.reader.check_horizon(partition)
            start = 0
            if self._replayer.reader.context(partition, end).copied_from is None:  # The times of a copy follow no order.
                start = log.offset_at(partition, max(0, since_ms - CLOCK_WRONG_MS))
                end = min(end, log.offset_at(partition, moment.place.time + CLOCK_WRONG_MS))
            found |= self._holding(partition, start, end, self._is_effect)
        return found

    def calling(self, call_ids: Sequence[str]) -> set[str]:
        """Streams anywhere in the log in which one of some calls is begun."""
        wanted = set(call_ids)
        found: set[str] = set()
        for partition in range(self._replayer.log.partitions):
            end = self._replayer.reader.check_horizon(partition)
            found |= self._holding(
                partition, 0, end, lambda event: event.type == "ctxlog.ToolCalled" and event.payload.get("call_id") in wanted
            )
        return found

    def listed(self, streams: Iterable[str]) -> Effected:
        """The accepted events in some streams that the decision caused, stream by stream."""
        listed: list[Evidence] = []
        count = 0
        for name in sorted(streams):
            for one in happened(self._replayer, name):
                if self._caused(one.cause):
                    count += 1
                    if len(listed) < EFFECTS_LISTED_MAX:
                        listed.append(evidence(one))
        return Effected(tuple(listed), count)

    def calls(self, call_ids: Sequence[str], streams: Iterable[str]) -> tuple[list[CallReport], list[str]]:
        """Some calls in some streams, and the ids of those that are not there.

        An id may stand in several streams, as keys of `tool_once` do: then those that the decision caused are meant.
        """
        found: dict[str, list[tuple[bool, CallReport]]] = {call_id: [] for call_id in call_ids}
        for name in sorted(streams):
            events: dict[str, list[Evidence]] = {}
            for one in happened(self._replayer, name):
                if one.call_id is not None and one.call_id in found:
                    events.setdefault(one.call_id, []).append(evidence(one))
            state = self._latest(name) if events else {}
            for call_id, seen in events.items():
                if any(one.type == "ctxlog.ToolCalled" for one in seen):
                    own = any(self._caused(one.causation_id) for one in seen)
                    found[call_id].append((own, _report(call_id, name, state.get(call_id), seen)))
        reports = []
        for several in found.values():
            reports += [report for own, report in several if own] or [report for _, report in several]
        return reports, [call_id for call_id, several in found.items() if not several]

    def _caused(self, cause: str | None) -> bool:
        return self._moment.inside.within(cause, self._moment.ids)

    def _is_effect(self, event: EventRecord) -> bool:
        trace = event.meta["trace"]
        return trace is not None and self._caused(trace["causation_id"])

    def _holding(self, partition: int, start: int, end: int, wanted: Callable[[EventRecord], bool]) -> set[str]:
        found: set[str] = set()
        context = self._replayer.reader.context(partition, end)
        for record in self._replayer.log.read(partition, start, end):
            if record.key is None or record.key == CONTROL_KEY:
                continue
            event = context.decode(record)
            if isinstance(event, EventRecord) and wanted(event):
                found.add(event.meta["stream_id"])
        return found

    def _latest(self, stream_id: str) -> dict[str, ToolCall]:
        try:
            return dict(self._replayer.replay(stream_id, Latest()).state.tool_calls)
        except CtxlogError as error:
            self.notes.append(f"{stream_id}: what became of its calls cannot be told: {error}")
            return {}


def _report(call_id: str, stream_id: str, call: ToolCall | None, events: Sequence[Evidence]) -> CallReport:
    if call is None:
        return CallReport(call_id, stream_id, None, None, None, None, tuple(events))
    result = call.result if call.result is not None else call.result_parts
    return CallReport(call_id, stream_id, call.name, call.arguments, call.status, result, tuple(events))

"""Compares what writers were told with what the log holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctxlog import ContextLog
from ctxlog.audit.verify import verify


def entries(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All that the ledgers say; a last line that was cut off by the kill says nothing."""
    found = []
    for path in paths:
        for line in path.read_bytes().split(b"\n")[:-1]:
            found.append(json.loads(line))
    return found


def check(log: ContextLog, notes: list[dict[str, Any]], chats: dict[str, list[str]] | None = None) -> int:
    """Assert that every acknowledged event is accepted exactly once, groups are whole, and nothing came from nowhere.

    Returns the number of acknowledged events.
    """
    report = verify(log)
    assert not report.problems, "; ".join(map(str, report.problems[:5]))
    tried = [note for note in notes if "tried" in note]
    acknowledged = [note for note in notes if "acknowledged" in note]
    refused = {event_id for note in notes if "refused" in note for event_id in note["ids"]}
    versions: dict[str, int] = {}
    for stream_id in {note["tried"] for note in tried}:
        accepted = [(found.version, found.event.meta["event_id"]) for found in log.context(stream_id).accepted()]
        assert [version for version, _ in accepted] == list(range(1, len(accepted) + 1))
        counted = Counter(event_id for _, event_id in accepted)
        assert set(counted.values()) <= {1}
        assert counted.keys() <= {event_id for note in tried if note["tried"] == stream_id for event_id in note["ids"]}
        versions |= {event_id: version for version, event_id in accepted}
    for note in acknowledged:
        assert all(event_id in versions for event_id in note["ids"]), f"acknowledged and not there: {note}"
        if "version" in note:
            # Consecutive versions, and the last is the one that the writer was told.
            last = note["version"]
            assert [versions[event_id] for event_id in note["ids"]] == list(range(last - len(note["ids"]) + 1, last + 1))
    assert not refused & versions.keys()
    for note in tried:
        there = [event_id in versions for event_id in note["ids"]]
        assert not note["group"] or all(there) or not any(there), f"torn: {note}"
    imported = {(note["imported"], note["file"]) for note in notes if "imported" in note}
    for stream_id, file in imported:
        assert [message.content for message in log.context(stream_id).state.messages] == (chats or {})[file]
    return sum(len(note["ids"]) for note in acknowledged) + sum(len((chats or {})[file]) for _, file in imported)

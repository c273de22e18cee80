"""How far a projector is, in numbers: for a terminal, for Prometheus, for whoever asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

REASONS = ("disk", "memory", "log")
"""Why a projector pauses: no room for the views, or no answer of the log."""


@dataclass
class Figures:
    """One run. Written by the thread that projects; dictionaries are replaced as a whole, so any thread may read.

    Attributes:
        started_at: Seconds since 1970 UTC.
        records, batches: What this run has projected, and in how many transactions.
        next_offsets, ends: By partition, those that are projected now.
        behind_since: By partition that is behind: about when the first record that waits was written, seconds since 1970 UTC.
        published_at, publish_seconds: When this run last published, and how long it took; None before.
        paused: One of `REASONS`; None while it works.
    """

    started_at: float = field(default_factory=time.time)
    records: int = 0
    batches: int = 0
    next_offsets: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    behind_since: dict[int, float] = field(default_factory=dict)
    published_at: float | None = None
    publish_seconds: float | None = None
    paused: str | None = None

    def measure(self, next_offsets: Mapping[int, int], ends: Mapping[int, int], last_times: Mapping[int, float]) -> None:
        """Note how far the partitions are, where they end, and the times of the last records that were projected just now."""
        now = time.time()
        behind = {
            partition: last_times.get(partition, self.behind_since.get(partition, now))
            for partition, end in ends.items()
            if next_offsets.get(partition, 0) < end
        }
        self.next_offsets, self.ends, self.behind_since = dict(next_offsets), dict(ends), behind

    @property
    def lags(self) -> dict[int, int]:
        """`lag_events` by partition."""
        ends = self.ends
        return {partition: max(0, ends.get(partition, 0) - start) for partition, start in self.next_offsets.items()}

    def lag_seconds(self, partition: int) -> float:
        """For how long the first record that waits in a partition has been there; 0 where none waits."""
        since = self.behind_since.get(partition)
        return 0.0 if since is None else max(0.0, time.time() - since)

    @property
    def lag_events(self) -> int:
        """Of all partitions."""
        return sum(self.lags.values())

    @property
    def lag_seconds_max(self) -> float:
        """Of the partition that is furthest behind."""
        return max(map(self.lag_seconds, list(self.behind_since)), default=0.0)

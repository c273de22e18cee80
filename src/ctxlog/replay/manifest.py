"""The manifest of a replay: what anyone with the log needs to check the state that was shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ctxlog.core.digests import state_digest
from ctxlog.model.records import Position
from ctxlog.model.state import Anomaly, ContextState


@dataclass(frozen=True)
class Manifest:
    """Where a state comes from, and its digests.

    Attributes:
        log_id, stream_id: Which stream of which log.
        at: The point that was asked for.
        version: The version that it came to.
        position: Where that version took effect; None at version 0.
        recorded_at: When it took effect by the log's clock (the origin's in a copy), ms since 1970 UTC; None at version 0.
        chain_head: Id of the version, lower-case hex.
        rules, fold_version: Versions of arbitration and of the fold.
        schema_digests: Canonical-form digest of each shipped event schema that the fold reads, by name.
        started_from: Version of the snapshot that the work began at; 0: from zero. The state is the same either way.
        provisional: For points in time: whether a record may still come that belongs before the point.
        clock: `log` or `writer` for points in time, None otherwise.
    """

    log_id: str
    stream_id: str
    at: str
    version: int
    position: Position | None
    recorded_at: int | None
    chain_head: str
    rules: int
    fold_version: int
    schema_digests: dict[str, str]
    started_from: int
    provisional: bool
    clock: str | None
    state: ContextState = field(repr=False)

    @cached_property
    def state_digest(self) -> str:
        """SHA-256 over the RFC 8785 JSON of the state, lower-case hex. Made when it is asked for: it costs as much as a fold."""
        return state_digest(self.state.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: where the state comes from and its digest, not the state."""
        return {
            "log_id": self.log_id,
            "stream_id": self.stream_id,
            "at": self.at,
            "version": self.version,
            "position": self.position._asdict() if self.position else None,
            "recorded_at": self.recorded_at,
            "chain_head": self.chain_head,
            "state_digest": self.state_digest,
            "rules": self.rules,
            "fold_version": self.fold_version,
            "schema_digests": self.schema_digests,
            "started_from": self.started_from,
            "provisional": self.provisional,
            "clock": self.clock,
        }


@dataclass(frozen=True, slots=True)
class Replay:
    """A state, its manifest, and the accepted events that could not take effect up to there."""

    state: ContextState
    manifest: Manifest
    anomalies: tuple[Anomaly, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as `ctxlog replay -o json` prints it."""
        return {
            "state": self.state.to_dict(),
            "manifest": self.manifest.to_dict(),
            "anomalies": [anomaly._asdict() for anomaly in self.anomalies],
        }

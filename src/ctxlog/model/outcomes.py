"""What an append comes to."""

from __future__ import annotations

from typing import NamedTuple

from ctxlog.model.records import Position


class Acknowledged(NamedTuple):
    """The log has the records, durably. Not acceptance: arbitration decides when they are read.

    Attributes:
        position: Where the first record stands.
        event_ids: Ids of the events, in order.
    """

    position: Position
    event_ids: tuple[str, ...]

    @property
    def event_id(self) -> str:
        """Id of the first event: the message's id, or the call's."""
        return self.event_ids[0]


class Committed(NamedTuple):
    """The append was accepted: the writer read its own records back.

    Attributes:
        version: Version of the stream after the append.
        position: Where the append took effect.
        event_ids: Ids of the events, in order.
    """

    version: int
    position: Position
    event_ids: tuple[str, ...]

    @property
    def event_id(self) -> str:
        """Id of the first event: the message's id, or the call's."""
        return self.event_ids[0]

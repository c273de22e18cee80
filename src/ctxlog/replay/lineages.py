"""Which streams a context goes on from: a fork begins with what its parent held at a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxlog.replay.replayer import LINEAGE_MAX

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer


def lineage(replayer: Replayer, stream_id: str, version: int) -> list[tuple[str, int]]:
    """The streams whose events a state is made of, each up to a version: the eldest ancestor first, the stream itself last.

    Says nothing of whether the ancestors are what the forks say: a replay of the stream checks that.
    """
    found = [(stream_id, version)]
    while len(found) <= LINEAGE_MAX and found[-1][1] > 0:
        name = found[-1][0]
        first = next(replayer.accepted(name, replayer.end(name)), None)
        if first is None:
            break
        event = first.event
        if event.type != "ctxlog.StreamForked" or not event.readable or event.meta["target"] is not None:
            break
        parent = event.payload["parent_stream_id"], event.payload["parent_version"]
        if parent[0] in {known for known, _ in found}:
            break
        found.append(parent)
    return found[::-1]


def common_ancestor(replayer: Replayer, one: tuple[str, int], other: tuple[str, int]) -> tuple[str, int] | None:
    """The stream and version up to which two contexts have one history.

    None where they have none, and where both are of one stream and no fork tells them apart.
    """
    if one[0] == other[0]:
        return None
    known = dict(lineage(replayer, *one))
    for stream_id, version in reversed(lineage(replayer, *other)):
        if stream_id in known:
            return stream_id, min(version, known[stream_id])
    return None

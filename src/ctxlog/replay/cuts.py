"""Cuts: one version in each of several streams, kept as a JSON file so that the same question can be asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxlog.errors import IntegrityError, PointError
from ctxlog.model.points import AtCut, AtDecision, AtEvent, AtOffset, AtVersion, Point
from ctxlog.model.state import NUMBER_MAX
from ctxlog.replay.summaries import matching

if TYPE_CHECKING:
    from ctxlog.replay.replayer import Replayer

CUT_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cut:
    """A version in each of several streams of one log, with the chain heads there.

    Attributes:
        log_id: The log.
        at: The point that each stream was asked for.
        streams: Version by stream.
        chain_heads: Chain head by stream, lower-case hex.
    """

    log_id: str
    at: str
    streams: Mapping[str, int]
    chain_heads: Mapping[str, str]

    def version(self, stream_id: str) -> int:
        """The version of a stream. Raises `PointError` where the cut does not name it."""
        if stream_id not in self.streams:
            raise PointError(f"the cut names {len(self.streams)} stream(s), and {stream_id!r} is none of them")
        return self.streams[stream_id]

    def check(self, stream_id: str, version: int, chain_head: str) -> None:
        """Check that the log still holds what the cut was made from. Raises `IntegrityError`."""
        expected = self.chain_heads.get(stream_id)
        if expected is not None and expected != chain_head:
            raise IntegrityError(
                f"stream {stream_id!r}@{version}: the cut has chain head {expected}, the log {chain_head}; "
                "the log is not what it was when the cut was made."
            )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"log_id": self.log_id, "at": self.at, "streams": dict(self.streams), "chain_heads": dict(self.chain_heads)}


def cut_of(
    replayer: Replayer, pattern: str, at: Point, *, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Cut:
    """The version of each matching stream at a point. At `cut:FILE` it is that cut again, of its streams that match, checked.

    Args:
        replayer: Reads the log.
        pattern: Shell pattern of the streams.
        at: A point that means something in each of them.
        progress: Called with streams done and in all.

    Raises:
        PointError: The point names a place in one stream only, or a stream has no such point.
        IntegrityError: A stream cannot be folded, or is not what it was when the cut was made.
    """
    if isinstance(at, AtEvent | AtDecision) or (isinstance(at, AtOffset) and replayer.log.partitions > 1):
        raise PointError(f"{at}: names a place in one stream, and {pattern!r} may be several. Replay the stream that it is in")
    earlier = read_cut(at.path, replayer.log.log_id) if isinstance(at, AtCut) else None
    names = matching(replayer.log, pattern) if earlier is None else [n for n in earlier.streams if fnmatchcase(n, pattern)]
    streams, heads = {}, {}
    for done, stream_id in enumerate(names, 1):
        point = at if earlier is None else AtVersion(earlier.streams[stream_id])
        state = replayer.replay(stream_id, point).state
        if earlier is not None:
            earlier.check(stream_id, state.version, state.chain_head)
        streams[stream_id], heads[stream_id] = state.version, state.chain_head
        progress(done, len(names))
    return Cut(replayer.log.log_id, earlier.at if earlier is not None else str(at), streams, heads)


def read_cut(path: str, log_id: str) -> Cut:
    """Read the cut in a file.

    Raises:
        PointError: The file holds no cut, or one of another log.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(CUT_BYTES_MAX + 1)
        data: Any = json.loads(text.decode()) if len(text) <= CUT_BYTES_MAX else None
    except OSError as error:
        raise PointError(f"cut:{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise PointError(f"cut:{path}: is not JSON") from None
    if len(text) > CUT_BYTES_MAX:
        raise PointError(f"cut:{path}: expected at most {CUT_BYTES_MAX:,} bytes")
    streams = data.get("streams") if isinstance(data, dict) else None
    heads = data.get("chain_heads", {}) if isinstance(data, dict) else None
    if (
        not isinstance(streams, dict)
        or not all(type(version) is int and 0 <= version <= NUMBER_MAX for version in streams.values())
        or not isinstance(heads, dict)
    ):
        raise PointError(f'cut:{path}: expected {{"log_id": …, "streams": {{STREAM: VERSION}}}}, as `ctxlog replay` prints it')
    if data.get("log_id") != log_id:
        raise PointError(f"cut:{path}: was made of log {data.get('log_id')}, this is log {log_id}")
    return Cut(log_id, str(data.get("at", "")), streams, heads)

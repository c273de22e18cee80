"""The projector as it runs: follows the log, publishes now and then, pauses while disk or brokers are away, ends in good order.

    partitions -> ends -> fetch -> one transaction -> publish, where it is due -> wait for more

What cannot be done now is tried again by itself until it succeeds, from where the file says, so nothing is skipped and nothing
counts twice. What no waiting mends, as a log that is another one, ends the run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ctxlog.errors import (
    LogOpenError,
    RetriableError,
    ViewsBusyError,
    ViewsDamagedError,
    ViewsError,
    ViewsFullError,
    ViewsMemoryError,
    ViewsOutdatedError,
)
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import Record
from ctxlog.projection.coverage import coverage_of, published_files
from ctxlog.projection.custom import Projection, SqlViews
from ctxlog.projection.figures import Figures
from ctxlog.projection.instance import Instance
from ctxlog.projection.projector import Fetched, Projector
from ctxlog.projection.publish import publish
from ctxlog.projection.watched import WatchedLog
from ctxlog.replay.keeping import CacheKeeper

PUBLISH_SECONDS = 5.0
"""How old what is published may be, unless somebody says otherwise."""

PUBLISH_SHARE = 4
"""So many times as long as a publication takes, nothing is published: copying a large file must not become all the work."""

SIGN_SECONDS = 300.0
"""How often partitions are signed at most, unless somebody says otherwise. Each head stays in the log for ever."""

ENDS_SECONDS = 0.5
"""How long it is believed where partitions end. On Kafka that is a question a partition."""

WAIT_SECONDS = 0.2
"""How long one wait for new records lasts. Other partitions are looked at in between."""

BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.5, 15.0
"""How long a pause is before the next try: at first, and at most."""

SLICE_SECONDS = 0.1
"""How long a sleep lasts before it is seen whether to stop."""


class Share(Protocol):
    """Which partitions this instance projects, of those that several instances share."""

    def partitions(self) -> frozenset[int]:
        """Those that are this instance's now.

        Raises:
            StorageError: It cannot be known.
            ViewsBusyError: Another process has this instance's name.
        """
        ...

    def note(self, next_offsets: Mapping[int, int]) -> None:
        """Say how far they are, for whoever watches the lag. Nothing depends on it."""
        ...

    def close(self) -> None:
        """Take no share any more."""
        ...


class HeadSigner(Protocol):
    """Signs what was projected. Whose key it is, and where the heads are kept, is not the projector's business."""

    def note(self, partition: int, start: int, records: Sequence[Record], next_offset: int) -> None:
        """Take what was read of a partition: all its records at `start` <= offset < `next_offset`."""
        ...

    def sign(self, partition: int, end: int | None = None) -> object:
        """Sign a partition up to `end`, where something is new.

        Raises:
            IntegrityError: The partition is not what was signed before.
            LogOpenError: It cannot be signed yet.
            StorageError: It is to be signed again.
        """
        ...


class StoppedError(BaseException):
    """The run is to end, and nothing is under way that must be done first."""


class Running:
    """A projector that runs.

    Args:
        log: The log.
        instance: Whose files it writes.
        publish_seconds: How often it publishes at most, where something changed.
        projections: What people added; see `custom.py`.
        caches: Told what was read of the log, for index and snapshots; None keeps neither.
        signer: Signs what was projected; None signs nothing.
        sign_seconds: How often it signs at most, where something changed.
        tell: Takes a sentence for whoever watches.
        show: Told after each step that there are new figures.

    Attributes:
        figures: How far it is.
        waiting: Whether it waits for the log: then nothing is under way that a stop would break.
    """

    def __init__(
        self,
        log: EventLog,
        instance: Instance,
        *,
        publish_seconds: float = PUBLISH_SECONDS,
        projections: Sequence[Projection | SqlViews] = (),
        caches: CacheKeeper | None = None,
        signer: HeadSigner | None = None,
        sign_seconds: float = SIGN_SECONDS,
        tell: Callable[[str], None] = lambda _: None,
        show: Callable[[Figures], None] = lambda _: None,
    ) -> None:
        self.log = log
        self.instance = instance
        self.figures = Figures()
        self.waiting = False
        self._share: Share | None = None
        self._publish_seconds = publish_seconds
        self._projections = projections
        self._caches = caches
        self._signer = signer
        self._sign_seconds = sign_seconds
        self._sign_at = float("-inf")
        self._tell = tell
        self._show = show
        self._stopping = False
        self._projector: Projector | None = None
        self._broken = self._renewing = False
        self._counted = 0
        self._ends: dict[int, int] = {}
        self._ends_at = float("-inf")
        self._changed: bool | None = None
        self._shown: dict[int, int] = {}  # How far what is published was when this began.
        self.unpublished = False
        self._publish_at = 0.0

    def stop(self) -> None:
        """Have it end after the transaction under way. Any thread may call this."""
        self._stopping = True

    def interrupt(self) -> None:
        """The same out of a signal handler, in the thread that runs it: a wait for the log is left at once."""
        self._stopping = True
        if self.waiting:
            raise StoppedError

    def run(self, *, once: bool = False, join: Callable[[], Share | None] = lambda: None) -> bool:
        """Project until `stop`, or with `once` up to the ends that the partitions have when it begins; and publish.

        Args:
            once: All partitions, up to where they end now.
            join: Takes a share of the partitions, once nobody else can work on these views; None takes all of them.

        Returns:
            Whether it came to its end by itself.

        Raises:
            ViewsBusyError: Another process works on this instance's views.
            ViewsError, IntegrityError, LogOpenError: No waiting mends this; what was published stays.
        """
        with self.instance.owned():
            self._check_neighbours()
            self._publish_at = time.monotonic() + (self._publish_seconds if once else 0.0)
            self._sign_at = time.monotonic() + self._sign_seconds
            self._share = None if once else join()
            try:
                done = self._until_done(once)
                self._publish_the_rest()
                self._sign_the_rest()
            finally:
                if self._projector is not None:
                    self._projector.close()
                if self._share is not None:
                    self._share.close()
            return done

    def _check_neighbours(self) -> None:
        """Readers take the files of a folder together, so all of them are about one log."""
        for path in published_files(self.instance.folder):
            found = coverage_of(path)
            if path != self.instance.published and found is not None and found.log_id not in (None, self.log.log_id):
                raise ViewsError(
                    f"{path}: these are views of another log; nothing was projected. Views of one log belong in a folder: name "
                    "another (--views), or move that file."
                )

    def _until_done(self, once: bool) -> bool:
        pause = BACKOFF_SECONDS
        while not self._stopping:
            try:
                done = self._round(once)
            except StoppedError:
                self._broken, self._changed = True, None  # It may have come in the middle of anything but a transaction.
                break
            except ViewsBusyError:
                raise
            except RetriableError as error:
                self._broken, self._changed = True, None  # A commit that failed may yet have been kept.
                self._say_paused(error)
                self._sleep(pause)
                pause = min(2 * pause, BACKOFF_SECONDS_MAX)
                continue
            self._say_going_on()
            pause = BACKOFF_SECONDS
            self._show(self.figures)
            if done:
                return True
        return False

    def _round(self, once: bool) -> bool:
        """One batch, or one wait for more; whether there is nothing more to do."""
        projector = self._ready()
        self._take_share(projector)
        self._publish_where_due(projector)
        self._sign_where_due(projector)
        fetched = projector.fetch(self._current_ends(projector, once))
        if fetched:
            starts = projector.next_offsets
            projector.keep(fetched)
            self._changed = True
            for one in fetched:
                read = one.partition, starts[one.partition], one.records, projector.next_offsets[one.partition]
                if self._caches is not None:
                    self._caches.note(*read)
                if self._signer is not None:
                    self._signer.note(*read)
            self._measure(projector, fetched)
            return False
        self._measure(projector, ())
        if self._renewing:
            self._renewed(projector)
            return False
        if once:
            return True
        self._wait(projector)
        return False

    def _ready(self) -> Projector:
        """The projector, opened, or opened again after an error."""
        if self._projector is None:
            self._projector = self._open()
        elif self._broken:
            self._projector.restart()
        self._broken = False
        return self._projector

    def _open(self) -> Projector:
        try:
            projector = self._opened(self.instance.file)
            self.instance.drop_draft()  # Of a rebuild that did not come to its end.
            return projector
        except ViewsOutdatedError as error:
            if not self._renewing:
                damaged = isinstance(error, ViewsDamagedError)
                why = "the file is damaged" if damaged else "the views are of another version than this release makes"
                self._tell(f"{self.instance.file}: {why}. They are made anew; what is published stays until they are complete.")
            self._renewing = True
        try:
            return self._opened(self.instance.draft)
        except ViewsOutdatedError:
            self.instance.drop_draft()
            return self._opened(self.instance.draft)

    def _opened(self, file: Path) -> Projector:
        projector = Projector(WatchedLog(self.log, self), file, (), self._projections)
        self._counted = 0
        for said in projector.custom.notes:
            self._tell(f"{said}.")
            self._changed = True
        return projector

    def _take_share(self, projector: Projector) -> None:
        if self._share is None or self._renewing:  # What is made anew lacks nothing of what there was.
            wanted = frozenset(range(self.log.partitions))
        else:
            wanted = self._share.partitions()
        if wanted != frozenset(projector.partitions):
            projector.assign(wanted)
            self._ends_at = float("-inf")

    def _current_ends(self, projector: Projector, once: bool) -> dict[int, int]:
        known = self._ends_at != float("-inf") if once else time.monotonic() - self._ends_at < ENDS_SECONDS
        if not known:
            self._ends = {partition: projector.log.bounds(partition).end for partition in projector.partitions}
            self._ends_at = time.monotonic()
        return self._ends

    def _measure(self, projector: Projector, fetched: Sequence[Fetched]) -> None:
        figures, next_offsets = self.figures, projector.next_offsets
        if fetched:
            figures.batches += 1
        self._count(projector)
        times = {one.partition: one.records[-1].recorded_at / 1000 for one in fetched if one.records}
        figures.measure(next_offsets, self._ends, times)
        if self._share is not None:
            self._share.note(next_offsets)

    def _count(self, projector: Projector) -> None:
        """Count what it has projected, be it in a commit that failed and was kept."""
        self.figures.records += projector.records - self._counted
        self._counted = projector.records

    def _renewed(self, projector: Projector) -> None:
        """What was made anew is complete: from now on it is the file."""
        projector.close()
        self.instance.adopt_draft()
        self._renewing, self._projector, self._changed = False, None, True
        self._tell(f"{self.instance.file}: made anew.")

    def _publish_where_due(self, projector: Projector) -> None:
        if self._renewing:
            return
        if self._changed is None:  # What an earlier run projected may not have been published.
            published = coverage_of(self.instance.published)
            there = {} if published is None else published.next_offsets
            self._shown = there if published is not None and published.log_id == self.log.log_id and published.current else {}
            self._changed = there != {partition: found.next_offset for partition, found in projector.store.progress().items()}
        if self._is_behind(projector):  # Its file is new, or older. Readers do not go back.
            return
        if self._changed and time.monotonic() >= self._publish_at:
            self._publish(projector)

    def _is_behind(self, projector: Projector) -> bool:
        """Whether what is published holds more of a partition of this instance's than its file does."""
        if self._shown:
            next_offsets = projector.next_offsets
            if any(self._shown.get(partition, 0) > offset for partition, offset in next_offsets.items()):
                return True
            self._shown = {}
        return False

    def _publish(self, projector: Projector) -> None:
        started = time.monotonic()
        publish(projector.store, self.instance.published)
        took = time.monotonic() - started
        self.figures.published_at, self.figures.publish_seconds = time.time(), took
        self._changed = False
        self._publish_at = time.monotonic() + max(self._publish_seconds, PUBLISH_SHARE * took)

    def _sign_where_due(self, projector: Projector) -> None:
        if self._signer is not None and time.monotonic() >= self._sign_at:
            self._sign(self._signer, projector)
            self._sign_at = time.monotonic() + self._sign_seconds

    def _sign(self, signer: HeadSigner, projector: Projector) -> None:
        for partition, next_offset in projector.next_offsets.items():
            try:
                signer.sign(partition, next_offset)
            except LogOpenError as error:  # A copy into the log is under way: later.
                self._tell(f"not signed: {error}")
                return

    def _sign_the_rest(self) -> None:
        """Sign what there is at the end; where that cannot be done, say so: the next run does it."""
        if self._signer is None or self._projector is None or self._renewing:
            return
        try:
            self._sign(self._signer, self._projector)
        except RetriableError as error:
            self._tell(f"not signed: {error} The next run signs it.")

    def _publish_the_rest(self) -> None:
        """Publish what there is at the end; where that cannot be done, say so: the next run does it."""
        projector = self._projector
        if projector is None or self._renewing:
            return
        try:
            if self._broken:
                projector.reopen()
                self._count(projector)
            if self._is_behind(projector):
                self._tell(f"{self.instance.published}: not published: it holds more than was projected again by now.")
                self.unpublished = True
                return
            while self._changed is not False or not self.instance.published.exists():
                try:
                    self._publish(projector)
                except ViewsMemoryError:
                    projector.reopen()  # with more of it
        except ViewsFullError as error:
            self._tell(f"not published: {error} The next run publishes it.")
            self.unpublished = True
        self._show(self.figures)

    def _wait(self, projector: Projector) -> None:
        partitions = projector.partitions
        if not partitions:
            self._sleep(WAIT_SECONDS)
            return
        # Another one each time, so that a backend that is asked about one hears of all.
        partition = partitions[int(time.monotonic() / WAIT_SECONDS) % len(partitions)]
        until = WAIT_SECONDS
        if self._changed:
            until = min(until, max(0.0, self._publish_at - time.monotonic()))
        self._ends[partition] = projector.log.wait(partition, projector.next_offsets[partition], until)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._measure_behind()
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE_SECONDS))
            self._show(self.figures)

    def _measure_behind(self) -> None:
        """While nothing is projected, the log goes on, and the lag grows."""
        projector = self._projector
        if projector is not None and self.figures.paused not in (None, "log"):
            with contextlib.suppress(RetriableError):
                ends = {partition: self.log.bounds(partition).end for partition in projector.partitions}
                self.figures.measure(projector.next_offsets, ends, {})

    def _say_paused(self, error: Exception) -> None:
        reason = "memory" if isinstance(error, ViewsMemoryError) else "disk" if isinstance(error, ViewsError) else "log"
        if self.figures.paused != reason:
            self.figures.paused = reason
            self._tell(f"paused: {error} It is tried again by itself.")

    def _say_going_on(self) -> None:
        if self.figures.paused is not None:
            self.figures.paused = None
            self._tell("goes on.")

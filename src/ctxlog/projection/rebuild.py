"""Making views anew: everything is projected into a new file, which is looked at again before it takes the old one's place.

    log -> a new hidden file -> compared with the log once more -> the owner's file -> published

Until the last steps the old files stay as they are, and readers notice nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ctxlog.errors import ViewsError
from ctxlog.log.protocol import EventLog
from ctxlog.log.resuming import digest_of
from ctxlog.projection.custom import Projection, SqlViews
from ctxlog.projection.instance import Instance
from ctxlog.projection.projector import Projector
from ctxlog.projection.publish import publish
from ctxlog.projection.store import ViewStore

Step = Callable[[int, int], None]


class Rebuilt(NamedTuple):
    """What was made anew.

    Attributes:
        records: Rows that it has.
        next_offsets: By partition, how far it is.
    """

    records: int
    next_offsets: dict[int, int]


def rebuild(
    log: EventLog,
    instance: Instance,
    projections: Sequence[Projection | SqlViews] = (),
    *,
    tell: Callable[[str], None] = lambda _: None,
    projecting: Step | None = None,
    checking: Step | None = None,
) -> Rebuilt:
    """Make an instance's views anew, all partitions up to where they end now, and publish them.

    Args:
        log: The log.
        instance: Whose views.
        projections: What people added: all that there is from then on.
        tell: Takes a sentence for each that the old file has and this one will not have.
        projecting, checking: Told how much is projected, and compared, and of how much.

    Raises:
        ViewsBusyError: A projector works on them; nothing was changed.
        ViewsError: What was made is not what the log says, or cannot be written; the old files stay.
    """
    with instance.owned():
        dropped = _added_to(log, instance) - {projection.name for projection in projections}
        try:
            instance.drop_draft()
            projector = Projector(log, instance.draft, projections=projections)
            try:
                projector.run_once(projecting)
                made = Rebuilt(projector.records, projector.next_offsets)
                check(log, projector.store, checking)
                # All of it into the file, which is what is renamed.
                projector.store.note_publication(datetime.now(UTC).replace(tzinfo=None))
            finally:
                projector.close()
            instance.adopt_draft()
        finally:
            instance.drop_draft()
        for name in sorted(dropped):
            tell(f"projection {name}: dropped, because it is not named any more.")
        store = ViewStore(instance.file, log.log_id, log.partitions)
        try:
            publish(store, instance.published)
        finally:
            store.close()
    return made


def _added_to(log: EventLog, instance: Instance) -> set[str]:
    """Names of the projections that a file has; none where there is no file, or it cannot be read."""
    if not instance.file.exists():
        return set()
    try:
        store = ViewStore(instance.file, log.log_id, log.partitions)
    except ViewsError:
        return set()
    try:
        return {name for (name,) in store.connection.execute("SELECT name FROM projection.custom").fetchall()}
    finally:
        store.close()


def rebuild_one(
    log: EventLog, instance: Instance, name: str, projections: Sequence[Projection | SqlViews], tell: Callable[[str], None]
) -> None:
    """Make one of the projections that people added anew, out of what the file has, and publish the file.

    Args:
        log: The log.
        instance: Whose views.
        name: Of the projection, which is one of `projections`.
        projections: All that were added.
        tell: Takes a sentence for each that was made.

    Raises:
        ViewsBusyError: A projector works on them; nothing was changed.
        ProjectionError: It failed at an event; nothing was changed.
        ViewsError: There is no file yet, or it cannot be written.
    """
    with instance.owned():
        if not instance.file.exists():
            raise ViewsError(
                f"{instance.file}: there are no views of which {name} could be made; nothing was changed. `ctxlog projector run` "
                "with the same options makes all of them."
            )
        projector = Projector(log, instance.file, (), projections, anew=name)
        try:
            for said in projector.custom.notes:
                tell(f"{said}.")
            publish(projector.store, instance.published)
        finally:
            projector.close()


def check(log: EventLog, store: ViewStore, progress: Step | None = None) -> None:
    """Compare a file with the log by a second look: number and offsets of the rows of each partition, and its last record.

    Raises:
        ViewsError: They differ.
    """
    known = store.progress()
    total, done = sum(found.next_offset for found in known.values()), 0
    for partition, found in sorted(known.items()):
        number = offsets = 0
        last, digest = -1, b""
        for record in log.read(partition, 0, found.next_offset):
            number += 1
            offsets += record.offset
            last = record.offset
            if last == found.last_offset:
                digest = digest_of(record)
            if progress is not None and number % 1_000 == 0:
                progress(done + last, total)
        done += found.next_offset
        rows = store.connection.execute(
            "SELECT count(*), count(DISTINCT record_offset), coalesce(sum(record_offset), 0) FROM events WHERE partition = ?",
            [partition],
        ).fetchone()
        if rows != (number, number, offsets) or (last, digest) != (found.last_offset, found.last_digest):
            raise ViewsError(
                f"{store.path}: partition {partition}: expected {number:,} rows up to offset {last}, as the log has records, "
                f"found {rows[0] if rows else 0:,} up to {found.last_offset}, or another last record; the old views stay. Run it "
                "again; where it says the same, `ctxlog verify` the log and report this."
            )
    if progress is not None:
        progress(total, total)

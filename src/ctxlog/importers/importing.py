"""The import itself: what is missing goes in, what differs is refused, what is broken fails alone.

A run is compared with its stream before anything of it is appended, and appended in few durable writes, an event an append.
It can be stopped at any time: what is in is a beginning of the run, and the next import adds the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from ctxlog.client import AppendOptions, ContextLog
from ctxlog.errors import ImportFailedError, InvalidInputError
from ctxlog.importers import formats
from ctxlog.importers.base import Draft, Format, Run, Target
from ctxlog.importers.sources import Found, Source, files_below, load
from ctxlog.model.events import Event
from ctxlog.model.ids import check_agent_id, check_stream_id
from ctxlog.model.records import MAX_RECORD_BYTES, Accepted

WRITE_EVENTS = 2000
WRITE_BYTES = 4 * 1024 * 1024
"""Of one durable write. Far more than one costs a disk's pause per event; all of a large file would cost its size in memory."""

META_BYTES_MAX = 2048
"""What key, meta and framing of an imported event can have at most: seven ids of 255 bytes, and a few numbers."""


class Failure(NamedTuple):
    """What did not go in. `place` is where in the file; empty where it is the file as a whole.

    `differs`: it is sound, and the stream of its name holds something else.
    """

    path: str
    place: str
    reason: str
    differs: bool

    def __str__(self) -> str:
        return ": ".join(filter(None, self[:3]))


class Progress(NamedTuple):
    """How far an import is. `stream_id` is the run that was just done; None after a file without one."""

    path: str
    files_done: int
    files_total: int
    stream_id: str | None
    events: int


class ImportReport(NamedTuple):
    """What an import did.

    Attributes:
        files: Number of files with runs in them.
        streams: The streams that now hold what their runs say, sorted.
        events_appended: New events.
        events_skipped: Events that were there already.
        failed: What did not go in.
        ignored: JSON files found in a folder that are no recorded runs of a known format.
    """

    files: int
    streams: tuple[str, ...]
    events_appended: int
    events_skipped: int
    failed: tuple[Failure, ...]
    ignored: tuple[str, ...]


def import_path(
    context_log: ContextLog,
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    format: str | None = None,
    agent: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Import recorded runs, each into the stream `AGENT/RUN`.

    Args:
        context_log: Where to.
        paths: Files, and folders with .json and .jsonl files, plain or with .gz.
        format: `tau-bench` or `openai`; looked for in each file where not given.
        agent: First part of the streams' names, and the agent that they belong to; the format's name where not given.
        progress: Called after each run, and after each file.

    Returns:
        What was done. A broken file or run is in `failed`, and the others went in.

    Raises:
        InvalidInputError: `format` or `agent` cannot be used; nothing was imported.
        StorageError, LogBusyError, IndeterminateError: The log failed. What was imported before stays; import again to go on.
    """
    known = None if format is None else formats.named(format)
    if agent is not None:
        check_agent_id(agent)
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    work = [(str(path), found) for path in given for found in files_below(Path(path))]
    importer = _Importer(context_log, known, agent, len(work), progress)
    for path, found in work:
        importer.take(path, found)
    return importer.report()


class _Importer:
    def __init__(
        self,
        context_log: ContextLog,
        known: Format | None,
        agent: str | None,
        files_total: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._log = context_log
        self._format = known
        self._agent = agent
        self._progress = progress
        self._files_total = files_total
        self._files_done = self._files = self._appended = self._skipped = 0
        self._streams: set[str] = set()
        self._failed: list[Failure] = []
        self._ignored: list[str] = []

    def report(self) -> ImportReport:
        return ImportReport(
            self._files, tuple(sorted(self._streams)), self._appended, self._skipped, tuple(self._failed), tuple(self._ignored)
        )

    def take(self, path: str, found: Found | ImportFailedError) -> None:
        """Import one file."""
        try:
            if isinstance(found, ImportFailedError):
                raise found
            path = str(found.path)
            source = load(found.path)
            known = self._format or formats.found(source)
            if known is not None:
                self._runs(known, source)
            elif found.asked_for:
                raise ImportFailedError(f"no recorded runs of a known format ({', '.join(formats.FORMATS)})")
            else:
                self._ignored.append(path)
        except ImportFailedError as error:
            self._failed.append(_failure(path, error))
        self._files_done += 1
        self._tell(path, None)

    def _runs(self, known: Format, source: Source) -> None:
        self._files += 1
        for run in known.runs(source):
            stream_id = None
            try:
                if isinstance(run, ImportFailedError):
                    raise run
                stream_id = self._run(known, run)
            except ImportFailedError as error:
                self._failed.append(_failure(source.path, error))
            self._tell(source.path, stream_id)

    def _run(self, known: Format, run: Run) -> str:
        agent = self._agent or known.NAME
        try:
            stream_id = check_stream_id(f"{agent}/{run.key}")
        except InvalidInputError as error:
            raise ImportFailedError(f"its key names no stream: {error}", run.place) from None
        drafts = known.drafts(run, Target(known.NAME, stream_id, agent))
        for draft in drafts:
            size = _text_bytes(draft.event)
            if size > MAX_RECORD_BYTES - META_BYTES_MAX:
                raise ImportFailedError(
                    f"an event of {size:,} bytes; a record can have {MAX_RECORD_BYTES:,}. Nothing of this run was added.",
                    run.place_of(draft.message),
                )
        context = self._log.context(stream_id, agent_id=agent)
        held = _held(context.accepted(), drafts, run, stream_id)
        for batch in _batches(drafts[held:]):
            try:
                context.append_each([(draft.event, _options(draft)) for draft in batch])
            except InvalidInputError as error:
                raise ImportFailedError(str(error), run.place_of(batch[0].message)) from None
            self._appended += len(batch)
        self._skipped += held
        if drafts:
            self._streams.add(stream_id)
        return stream_id

    def _tell(self, path: str, stream_id: str | None) -> None:
        if self._progress is not None:
            events = self._appended + self._skipped
            self._progress(Progress(path, self._files_done, self._files_total, stream_id, events))


def _held(accepted: Iterator[Accepted], drafts: Sequence[Draft], run: Run, stream_id: str) -> int:
    """How many of the drafts the stream holds already: always the first ones.

    Raises:
        ImportFailedError: The stream holds something else where the run has its beginning.
    """
    places = {draft.event_id: index for index, draft in enumerate(drafts)}
    held = others = 0
    for version, event in ((found.version, found.event) for found in accepted):
        index = places.get(event.meta["event_id"])
        if index is None:
            others += 1
            continue
        draft = drafts[index]
        differing = [] if event.type == draft.event.type_name else ["its kind"]
        differing += [name for name, value in draft.event.model_dump().items() if event.payload.get(name) != value]
        differing += ["its time"] if event.meta["occurred_at"] != draft.occurred_at else []
        if differing or index != held:
            what = ", ".join(differing) or "its place"
            raise _DiffersError(
                f"differs from what stream {stream_id!r} holds at version {version} ({what}); nothing of this run was added",
                run.place_of(draft.message),
            )
        held += 1
    if others and not held and drafts:
        raise _DiffersError(
            f"stream {stream_id!r} holds other events and not this run's; nothing of this run was added", run.place_of(0)
        )
    return held


class _DiffersError(ImportFailedError):
    """A run is not the one that its stream holds."""


def _failure(path: str, error: ImportFailedError) -> Failure:
    return Failure(path, error.place, error.reason, isinstance(error, _DiffersError))


def _batches(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    batch: list[Draft] = []
    size = 0
    for draft in drafts:
        batch.append(draft)
        size += _text_bytes(draft.event)
        if len(batch) == WRITE_EVENTS or size >= WRITE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _options(draft: Draft) -> AppendOptions:
    return {"event_ids": [draft.event_id], "occurred_at": draft.occurred_at, "actor": draft.actor}


def _text_bytes(event: Event) -> int:
    return sum(len(value.encode()) for value in vars(event).values() if isinstance(value, str))

"""Check a log by computing everything again: links, index, chains, digests, snapshots, and the trees whose heads were signed.

Nothing that is kept to save work is believed. What is not signed can be rewritten as a whole by whoever holds the file: then the
verdict says `unsigned`, and a manifest or a chain head that was kept elsewhere is what shows such a rewriting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ctxlog.audit.heads import FoundHead, heads_in_log, trusted_heads
from ctxlog.audit.notes import VerifyKey
from ctxlog.audit.sealed import UNTRUSTED, VERIFIED, HeadReport, SealedPartition
from ctxlog.core.digests import state_digest
from ctxlog.core.evolve import FOLD_VERSION
from ctxlog.errors import IntegrityError, InvalidInputError, LineageError, NewerEventError, PointError
from ctxlog.log.protocol import EventLog, SelfChecking
from ctxlog.model.points import AtVersion
from ctxlog.model.records import CONTROL_KEY
from ctxlog.model.state import ContextState
from ctxlog.replay.replayer import Replayer
from ctxlog.replay.snapshots import SnapshotStore

CONSISTENT = "consistent, unsigned"
IN_PART = "consistent, verified in part"
UNKNOWN_KEYS = "consistent, signed by unknown keys"
BROKEN = "broken"


_NEEDED = ("stream_id", "version", "log_id", "fold_version", "chain_head", "state_digest")
"""Members without which a manifest says nothing that could be checked."""


class OpenedLog(Protocol):
    """What is verified: a `ContextLog`, of which no more than this is used."""

    @property
    def log(self) -> EventLog:
        """The backend."""
        ...

    @property
    def snapshots(self) -> SnapshotStore | None:
        """Where folds are kept; None where they are not."""
        ...

    @property
    def replayer(self) -> Replayer:
        """The replayer, with the snapshots."""
        ...


class Problem(NamedTuple):
    """Something that is not as it must be: where, what was expected, what was found."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


class VerifyReport(NamedTuple):
    """What was checked, and what is wrong.

    Attributes:
        log_id: The log.
        streams, records, snapshots: Numbers of those that were checked.
        problems: Everything that is wrong, in the order in which it was found; empty where the log is consistent.
        notes: What a reader should know and is no fault of the log.
        heads: What the signed heads say of each partition; empty where nobody asked.
    """

    log_id: str
    streams: int
    records: int
    snapshots: int
    problems: list[Problem]
    notes: list[str]
    heads: tuple[HeadReport, ...] = ()

    @property
    def verdict(self) -> str:
        """`verified`, or `broken`; or `consistent, …` where nothing is wrong and not all is signed by a trusted key."""
        if self.problems:
            return BROKEN
        found = {head.verdict for head in self.heads}
        if VERIFIED in found:
            return VERIFIED if found == {VERIFIED} else IN_PART
        return UNKNOWN_KEYS if UNTRUSTED in found else CONSISTENT

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **self._asdict(),
            "verdict": self.verdict,
            "problems": [problem._asdict() for problem in self.problems],
            "heads": [head.to_dict() for head in self.heads],
        }


class Seals(NamedTuple):
    """What a log is held against besides itself.

    Attributes:
        keys: The keys that are trusted, and with them those that they name as following them.
        heads: Heads that were kept outside the log. Those in it are found.
        tree: The file of kept trees, which helps to name the place of a change and is not believed.
    """

    keys: Sequence[VerifyKey] = ()
    heads: Sequence[FoundHead] = ()
    tree: Path | None = None


def verify(
    log: OpenedLog, pattern: str = "*", *, seals: Seals | None = None, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Check the file, every record of every partition, and the streams that match `pattern`.

    Args:
        log: The log.
        pattern: Shell pattern of the streams whose chains and snapshots are computed again.
        seals: What to hold the log against. Where not given, nobody is trusted.
        progress: Called with steps done and in all.
    """
    return _Verification(log, pattern, seals or Seals(), progress or (lambda _done, _total: None)).run()


def verify_manifest(log: OpenedLog, manifest: Mapping[str, Any]) -> VerifyReport:
    """Check a manifest, or a whole `ctxlog replay -o json`, against the log: is this still what the log says?

    Raises:
        InvalidInputError: It is no manifest, or one of another log or fold version.
    """
    given: Any = manifest
    try:
        shown, manifest = given.get("state"), given.get("manifest", given)
        missing = [name for name in _NEEDED if name not in manifest]
        stream_id, version, log_id, fold_version = (manifest.get(name) for name in _NEEDED[:4])
    except (TypeError, AttributeError):
        missing, stream_id, version, shown, log_id, fold_version = [], None, None, None, None, None
    if missing or type(stream_id) is not str or type(version) is not int or version < 0:
        lacks = f" with {', '.join(missing)}" if missing else ""
        raise InvalidInputError(f"expected a manifest{lacks}, as `ctxlog replay -o json` prints it; nothing was checked")
    if (log_id, fold_version) != (log.log.log_id, FOLD_VERSION):
        raise InvalidInputError(
            f"the manifest is of log {log_id} and fold {fold_version}, this is log {log.log.log_id} and fold {FOLD_VERSION}; "
            "nothing was checked"
        )
    problems: list[Problem] = []
    where = f"{stream_id}@{version}"
    try:
        found = Replayer(log.log).replay(stream_id, AtVersion(version)).manifest.to_dict()
    except NewerEventError:
        raise
    except (PointError, IntegrityError) as error:
        found = {}
        problems.append(Problem(where, f"version {version}", str(error)))
    for name in ("position", "recorded_at", "chain_head", "state_digest", "rules") if found else ():
        if name in manifest and manifest[name] != found[name]:
            problems.append(Problem(f"{where} {name}", str(manifest[name]), str(found[name])))
    if isinstance(shown, dict) and (digest := _digest(shown)) != manifest["state_digest"]:
        problems.append(Problem(f"{where} state", f"digest {manifest['state_digest']}", digest))
    return VerifyReport(log.log.log_id, 1, version, 0, problems, [])


def _digest(shown: dict[str, Any]) -> str:
    try:
        return state_digest(shown)
    except (ValueError, TypeError, RecursionError):
        return "no state"


class _Verification:
    """One verification."""

    def __init__(self, log: OpenedLog, pattern: str, seals: Seals, progress: Callable[[int, int], None]) -> None:
        self.log = log
        self.pattern = pattern
        self.seals = seals
        self.heads: list[HeadReport] = []
        self.progress = progress
        self.replayer: Replayer
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.streams = self.records = self.snapshots = 0
        self.by_key: Counter[tuple[int, bytes]] = Counter()

    def run(self) -> VerifyReport:
        """What the backend can say of itself, then the records in order, then the streams through the index."""
        backend = self.log.log
        if isinstance(backend, SelfChecking):
            self.problems.extend(Problem(*problem) for problem in backend.problems())
        self._guarded("log", self._contents)
        heads = tuple(self.heads)
        return VerifyReport(backend.log_id, self.streams, self.records, self.snapshots, self.problems, self.notes, heads)

    def _contents(self) -> None:
        self.replayer = Replayer(self.log.log)
        sealed = self._sealed()
        for partition in range(self.log.log.partitions):
            self._guarded(f"partition {partition}", partial(self._partition, partition, sealed[partition]))
        stream_ids = [key.decode() for key in sorted({key for _, key in self.by_key}) if self._is_stream(key)]
        self.streams = len(stream_ids)
        for number, stream_id in enumerate(stream_ids, 1):
            self._guarded(f"stream {stream_id!r}", partial(self._stream, stream_id))
            self.progress(number, len(stream_ids))

    def _guarded(self, where: str, check: Callable[[], None]) -> None:
        try:
            check()
        except (NewerEventError, LineageError) as error:
            self.notes.append(str(error))
        except IntegrityError as error:
            self.problems.append(Problem(where, "records that can be folded", str(error)))

    def _is_stream(self, key: bytes) -> bool:
        try:
            stream_id = key.decode()
        except UnicodeDecodeError:
            return False
        return key != CONTROL_KEY and fnmatchcase(stream_id, self.pattern)

    def _sealed(self) -> list[SealedPartition]:
        """The partitions with their heads. These are looked for first: one that is signed later may cover what was not read."""
        backend, seals = self.log.log, self.seals
        found = [one for one in seals.heads if one.head.log_id == backend.log_id]
        for partition in range(backend.partitions):
            found.extend(heads_in_log(backend, partition, 0, backend.bounds(partition).end, self.notes))
        trusted, others = trusted_heads(found, seals.keys, self.notes)
        for one in trusted:
            if one.head.partition >= backend.partitions:
                signed = f"{one.head.size} records, signed in {one.where}"
                self.problems.append(Problem(f"partition {one.head.partition}", signed, "no such partition"))
        return [
            SealedPartition(
                backend,
                partition,
                [one for one in trusted if one.head.partition == partition],
                [one for one in others if one.head.partition == partition],
                seals.tree,
            )
            for partition in range(backend.partitions)
        ]

    def _partition(self, partition: int, sealed: SealedPartition) -> None:
        """Every record in offset order, counted by key, and held against the heads."""
        backend = self.log.log
        self.replayer.reader.check_horizon(partition)
        for record in backend.read(partition, 0, backend.bounds(partition).end):
            self.records += 1
            sealed.take(record)
            if record.key is not None:
                self.by_key[partition, record.key] += 1
        self.heads.append(sealed.report())
        self.problems.extend(Problem(*problem) for problem in sealed.problems())

    def _stream(self, stream_id: str) -> None:
        """The stream by the index, against the numbers of the scan; its snapshots against a fold from zero."""
        replayer, store, key = self.replayer, self.log.snapshots, stream_id.encode()
        partition, end = replayer.reader.partition(stream_id), replayer.end(stream_id)
        indexed = sum(1 for _ in self.log.log.read(partition, 0, end, key=key))
        scanned = self.by_key[partition, key]  # Under this key in another partition lie misplaced ones.
        if indexed < scanned:  # There may be more by now: others go on writing.
            self.problems.append(Problem(f"index of stream {stream_id!r}", f"{scanned} records", f"{indexed}"))
        kept = set(store.versions(self.log.log.log_id, stream_id)) if store else set()
        cursor = replayer.open(stream_id, end=end)

        def compare(_outcomes: object, version: int) -> None:
            if version in kept:
                kept.discard(version)
                self._snapshot(stream_id, version, cursor.fold.state())

        replayer.advance(cursor, end, seen=compare)
        cursor.fold.state()  # Raises where there is none.
        self.problems.extend(
            Problem(f"snapshot {stream_id}@{version}", "none: the stream has no such version", "one") for version in sorted(kept)
        )

    def _snapshot(self, stream_id: str, version: int, computed: ContextState) -> None:
        """Compare a snapshot with the state that was computed from zero."""
        self.snapshots += 1
        cursor = self.log.replayer.open(stream_id, end=self.replayer.end(stream_id), stop_version=version)
        if cursor.started_from != version:
            self.notes.append(f"snapshot {stream_id}@{version} is damaged; it is not used, and no answer depends on it")
            return
        expected, found = state_digest(computed.to_dict()), state_digest(cursor.fold.state().to_dict())
        if expected != found:
            self.problems.append(Problem(f"snapshot {stream_id}@{version}", f"state digest {expected}", found))

"""Sign the trees of a log's partitions, now and then or as a projector goes.

    tree, caught up -> is it what was signed before? -> sign -> the file outside, durable -> a `HeadSigned` in the log

Nothing is signed that is inconsistent with what was signed before. What a killed process left undone, the next run does: a head
that stands in one place only is put into the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ctxlog.audit.heads import FoundHead, Head, HeadFile, heads_in_log, is_head, sign_head
from ctxlog.audit.notes import SigningKey, VerifyKey
from ctxlog.audit.tree import LogTree
from ctxlog.codec.control import encode_control, head_signed
from ctxlog.codec.partition import PartitionContext
from ctxlog.errors import LogOpenError, NoteError, SignedHeadError, StorageError
from ctxlog.log.protocol import EventLog, OutcomeUnknownError
from ctxlog.model.records import CONTROL_KEY, Record


class Signed(NamedTuple):
    """What became of a partition.

    Attributes:
        partition: The partition.
        head: The newest head of this key.
        last_offset: Offset of the last record that it covers.
        new: Whether it was made now.
    """

    partition: int
    head: Head
    last_offset: int
    new: bool


class Signer:
    """Signs a log with one key.

    Args:
        log: The log.
        tree: Its trees; closed by whoever made them.
        key: The key.
        heads: The file outside the log.
        before: Keys that this one follows, newest first. Until one of its own heads is there, a head is signed by these too, and
            names this key, so that whoever trusts them can follow.

    Attributes:
        notes: What was passed over in the file outside.
    """

    def __init__(self, log: EventLog, tree: LogTree, key: SigningKey, heads: HeadFile, before: Sequence[SigningKey] = ()) -> None:
        self._log = log
        self._tree = tree
        self._key = key
        self._before = before
        self._file = heads
        self.notes: list[str] = []
        self._keys = [key.verify_key for key in (key, *before)]
        self._partitions = {partition: _Partition(partition) for partition in range(log.partitions)}
        for found in heads.heads(self.notes):
            if found.head.log_id == log.log_id and found.head.partition in self._partitions:
                self._partitions[found.head.partition].unseen.append((found, True))

    @property
    def path(self) -> Path:
        """The file outside the log."""
        return self._file.path

    def note(self, partition: int, start: int, records: Sequence[Record], next_offset: int) -> None:
        """Take what was read of a partition: all its records at `start` <= offset < `next_offset`."""
        self._tree.take(partition, start, records, next_offset)

    def sign(self, partition: int, end: int | None = None) -> Signed | None:
        """Sign a partition up to `end`, or up to its end; None where it is empty.

        Where all that is new is heads, nothing is signed, and the newest one is what there is.

        Raises:
            SignedHeadError: The partition is not what was signed before.
            LogOpenError: A copy into the log is not finished.
            StorageError: It is not known whether the head is in the log, or it cannot be kept; sign again.
        """
        progress = self._tree.catch_up(partition, end)
        known = self._partitions[partition]
        self._read_on(known)
        self._see_all(known)
        if known.context.copying:
            raise LogOpenError(
                f"{self._log.url}: a copy into this log was started and is not finished; nothing was signed. "
                "Run the same `ctxlog copy` again to finish it."
            )
        if progress.size == 0:
            return None
        newest = known.newest
        if newest is not None:
            self._compare(newest, progress.size)
            if newest.own and not self._has_news(known.partition, newest.head.size, progress.size, progress.next_offset):
                self._place(known, newest)
                return Signed(partition, newest.head, self._tree.offset_of(partition, newest.head.size - 1), new=False)
        newest = known.newest = self._make(known, progress.size)
        self._place(known, newest)
        return Signed(partition, newest.head, progress.last_offset, new=True)

    def _read_on(self, known: _Partition) -> None:
        """Take the control records that are new, with the heads among them."""
        start, end = known.context.next_offset, self._log.bounds(known.partition).end
        if start >= end:
            return
        for record in self._log.read(known.partition, start, end, key=CONTROL_KEY):
            known.context.take(record)
        known.context.next_offset = max(known.context.next_offset, end)
        known.unseen.extend((found, False) for found in heads_in_log(self._log, known.partition, start, end, []))

    def _see_all(self, known: _Partition) -> None:
        """Take the heads into account that were found since the last time, newest first, so that few have to be checked."""
        unseen, known.unseen = known.unseen, []
        for found, outside in sorted(unseen, key=lambda one: one[0].head.size, reverse=True):
            named = {(one.name, one.key_id) for one in found.head.note.signatures}
            may_have_signed = {key for key in self._keys if (key.name, key.id) in named}
            is_older = known.newest is not None and found.head.size < known.newest.head.size
            if not (is_older and may_have_signed <= known.signers):
                self._see(known, found, outside=outside)

    def _see(self, known: _Partition, found: FoundHead, *, outside: bool) -> None:
        """Take a head into account, if this key or one before it has signed it."""
        try:
            signers = found.head.note.signed_by(self._keys)
        except NoteError:
            return
        known.signers.update(signers)
        newest, own = known.newest, self._keys[0] in signers
        if newest is not None and newest.head == found.head:
            newest.outside |= outside
            newest.inside |= not outside
        elif signers and (newest is None or (found.head.size, own) >= (newest.head.size, newest.own)):
            known.newest = _Newest(found.head, found.where, own, outside=outside, inside=not outside)

    def _compare(self, newest: _Newest, size: int) -> None:
        """See that the tree still is what was signed. All older heads were compared when this one was made."""
        head = newest.head
        if head.size > size:
            size = self._tree.catch_up(head.partition).size
        if head.size > size:
            raise SignedHeadError(head.partition, head.size, newest.where, f"{size}")
        if self._tree.root(head.partition, head.size) != head.root:
            raise SignedHeadError(head.partition, head.size, newest.where, "others")

    def _has_news(self, partition: int, signed: int, size: int, end: int) -> bool:
        """Whether a record is there that no head covers, and that is not itself a head."""
        if size <= signed:
            return False
        start = self._tree.offset_of(partition, signed)
        return any(not is_head(record) for record in self._log.read(partition, start, end))

    def _make(self, known: _Partition, size: int) -> _Newest:
        keys, next_key = [self._key], None
        if self._keys[0] not in known.signers:
            for key in self._before:
                keys.append(key)
                next_key = self._keys[0]
                if key.verify_key in known.signers:
                    break
        root = self._tree.root(known.partition, size)
        head = sign_head(self._log.log_id, known.partition, size, root, keys, next_key)
        known.signers.add(self._keys[0])
        return _Newest(head, "just signed", own=True, outside=False, inside=False)

    def _place(self, known: _Partition, newest: _Newest) -> None:
        """See that a head stands in the file and in the log; first outside, where nobody who writes the log can take it away."""
        if not newest.outside:
            self._file.append(newest.head)
            newest.outside, newest.where = True, str(self._file.path)
        if not newest.inside:
            record = encode_control(known.partition, head_signed(self._log.log_id, str(newest.head.note)))
            try:
                self._log.append([record])
            except OutcomeUnknownError as error:
                raise StorageError(
                    f"{self._log.url}: it is not known whether the signed head is in the log: {error}. It is kept in "
                    f"{self._file.path}; sign again, and it is appended where it is missing."
                ) from error
            newest.inside = True


@dataclass(slots=True)
class _Newest:
    """The newest head of a partition, and whether it stands outside the log and in it."""

    head: Head
    where: str
    own: bool
    outside: bool
    inside: bool


class _Partition:
    """What is known of a partition's heads."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.context = PartitionContext(partition)
        self.newest: _Newest | None = None
        self.signers: set[VerifyKey] = set()
        self.unseen: list[tuple[FoundHead, bool]] = []

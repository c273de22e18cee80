"""Hold a partition against the heads that were signed of it: is every record what it was, and if not, which one is not?

    heads that trusted keys signed -> one pass over the records, the tree computed anew -> its root at each head's size

Nothing that is kept is believed. Only where a root differs are the kept leaves asked for, and they count only if they themselves
make the root that was signed: then each record that differs is named. Otherwise the place lies between the last head that is
right and the first one that is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctxlog.audit.heads import FoundHead, Trusted, is_head
from ctxlog.audit.tree import Leaves, kept_leaves
from ctxlog.core.merkle import CompactRange
from ctxlog.log.protocol import EventLog, StorageProblem
from ctxlog.model.records import Record

VERIFIED, UNSIGNED, UNTRUSTED, DIFFERS = "verified", "unsigned", "signed by unknown keys", "not what was signed"

PLACES_MAX = 20
"""Records that are named one by one. Behind one that was taken out and closed over, every one is another."""


class HeadReport(NamedTuple):
    """What a partition's heads say of it.

    Attributes:
        partition: The partition.
        verdict: `verified`, `unsigned`, `signed by unknown keys` or `not what was signed`.
        size: Number of records that the newest head covers that is right; 0 where there is none.
        last_offset: Offset of the last of them; -1 where there is none.
        keys: Who signed that head, as `NAME+ID`; where no key is trusted, who is said to have signed.
        where: Where that head was found.
        unsigned: Number of records behind it, heads themselves not counted.
    """

    partition: int
    verdict: str
    size: int
    last_offset: int
    keys: tuple[str, ...]
    where: str
    unsigned: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._asdict(), "keys": list(self.keys)}


class SealedPartition:
    """A partition and its heads.

    Args:
        log: The log.
        partition: The partition.
        trusted: Its heads that trusted keys have signed.
        others: Its heads that nobody has signed who is trusted.
        kept: The file of kept trees; None where there is none.
    """

    def __init__(
        self, log: EventLog, partition: int, trusted: Sequence[Trusted], others: Sequence[FoundHead], kept: Path | None
    ) -> None:
        self._log = log
        self._partition = partition
        self._heads = sorted(trusted, key=lambda one: one.head.size)
        self._others = others
        self._kept = kept
        self._leaves = Leaves(partition)
        self._tree = CompactRange()
        self._next = 0
        self._last_offset = -1
        self._unsigned = 0
        self._right: tuple[Trusted, int] | None = None
        self._wrong: list[tuple[Trusted, bytes, int]] = []
        self._compare()

    def take(self, record: Record) -> None:
        """Take the next record of the partition, in offset order."""
        self._unsigned += not is_head(record)
        self._last_offset = record.offset
        if self._heads:
            self._tree.append(self._leaves.next(record))
            self._compare()

    def _compare(self) -> None:
        size = self._tree.size
        while self._next < len(self._heads) and self._heads[self._next].head.size == size:
            one, root = self._heads[self._next], self._tree.root()
            self._next += 1
            if one.head.root == root:
                self._right, self._unsigned = (one, self._last_offset), 0
            else:
                self._wrong.append((one, root, self._last_offset))

    def report(self) -> HeadReport:
        """What the heads say, once all records were taken."""
        right = self._right
        if self._wrong or self._next < len(self._heads):
            verdict = DIFFERS
        elif right is not None:
            verdict = VERIFIED
        else:
            verdict = UNTRUSTED if self._others else UNSIGNED
        if right is None:
            said = tuple(
                sorted({f"{one.name}+{one.key_id.hex()}" for found in self._others for one in found.head.note.signatures})
            )
            return HeadReport(
                self._partition, verdict, 0, -1, said, self._others[-1].where if self._others else "", self._unsigned
            )
        one, last_offset = right
        keys = tuple(key.short for key in one.keys)
        return HeadReport(self._partition, verdict, one.head.size, last_offset, keys, one.where, self._unsigned)

    def problems(self) -> Iterator[StorageProblem]:
        """Where the partition is not what was signed, once all records were taken."""
        short = self._heads[self._next :]
        wrong = [one for one, _, _ in self._wrong] + short
        if not wrong:
            return
        places = list(self._places(wrong))
        if places:
            yield from places[:PLACES_MAX]
            if len(places) > PLACES_MAX:
                yield StorageProblem(
                    f"partition {self._partition}", "no more of them", "more records that are not what was signed"
                )
            return
        right = 0 if self._right is None else self._right[0].head.size
        for one, root, last_offset in self._wrong:
            if one.head.size > right:
                yield self._between(one, root, last_offset)
                break
            # A head that is right covers these records too, so it is not they that are wrong.
            where = f"head of {one.head.size} records of partition {self._partition} in {one.where}"
            yield StorageProblem(where, f"root {root.hex()}, as the one of {right} records has it", one.head.root.hex())
        if short:
            yield StorageProblem(
                f"partition {self._partition} behind {self._partition}@{self._last_offset}",
                f"{short[-1].head.size} records, {_signed(short[-1])}",
                f"{self._tree.size}: it was cut off",
            )

    def _between(self, one: Trusted, root: bytes, last_offset: int) -> StorageProblem:
        """What is known without kept leaves: behind the last head that is right, and within the first one that is not."""
        first = 0 if self._right is None else self._right[1] + 1
        where = f"{self._partition}@{first}"
        return StorageProblem(
            f"record {where}" if first == last_offset else f"records {where} to {self._partition}@{last_offset}",
            f"root {one.head.root.hex()}, {_signed(one)}",
            f"root {root.hex()}",
        )

    def _places(self, wrong: Sequence[Trusted]) -> Iterator[StorageProblem]:
        """Each record that differs from the kept leaves, where those make a root that was signed and is not the log's."""
        said = self._authentic(wrong)
        if said is None:
            return
        partition, signed = self._partition, _signed(said)
        kept = kept_leaves(self._kept, self._log.log_id, partition, said.head.size)
        found = self._found()
        left, right, named = next(kept, None), next(found, None), 0
        count = said.head.size
        while left is not None and named <= PLACES_MAX:
            if right is None:
                where = f"{partition}@{left[0]}"
                expected = f"{count} records from here on, {signed}" if count > 1 else f"a record, {signed}"
                yield StorageProblem(f"record {where}", expected, "none: the partition was cut off")
                return
            if right[0] < left[0]:
                yield StorageProblem(f"record {partition}@{right[0]}", f"none there, {signed}", "a record")
                named, right = named + 1, next(found, None)
                continue
            if right[0] > left[0]:
                yield StorageProblem(f"record {partition}@{left[0]}", f"a record, {signed}", "none")
                named += 1
            else:
                if right[1] != left[1]:
                    yield StorageProblem(f"record {partition}@{left[0]}", f"leaf {left[1].hex()}, {signed}", right[1].hex())
                    named += 1
                right = next(found, None)
            left, count = next(kept, None), count - 1

    def _authentic(self, wrong: Sequence[Trusted]) -> Trusted | None:
        """The largest of some heads whose root the kept leaves make."""
        tree, found, index = CompactRange(), None, 0
        heads = sorted(wrong, key=lambda one: one.head.size)
        for _, leaf in kept_leaves(self._kept, self._log.log_id, self._partition, heads[-1].head.size):
            tree.append(leaf)
            while index < len(heads) and heads[index].head.size <= tree.size:
                if (heads[index].head.size, heads[index].head.root) == (tree.size, tree.root()):
                    found = heads[index]
                index += 1
        return found

    def _found(self) -> Iterator[tuple[int, bytes]]:
        """Offsets and leaves of the partition's records, read once more."""
        leaves = Leaves(self._partition)
        for record in self._log.read(self._partition, 0, self._last_offset + 1):
            yield record.offset, leaves.next(record)


def _signed(one: Trusted) -> str:
    return f"signed by {', '.join(dict.fromkeys(key.name for key in one.keys))} ({one.where})"

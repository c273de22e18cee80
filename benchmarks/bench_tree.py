"""Merkle tree: what it costs to build over what SHA-256 of the same bytes costs, and to prove something in a large one.

The floor is one SHA-256 over key and value of each record: no schemas, no leaves, no nodes, no file. Proofs are made of a log of
a million records, out of the kept tiles alone, each for another record.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from pathlib import Path

from harness import Report, Work, arguments, duration, in_turns, percentile, scratch
from workload import Workload, new_record, publish

from ctxlog.audit.heads import HeadFile
from ctxlog.audit.notes import SigningKey
from ctxlog.audit.signing import Signer
from ctxlog.audit.tree import Leaves, LogTree
from ctxlog.core.merkle import CompactRange
from ctxlog.core.proofs import check_consistency, check_inclusion
from ctxlog.log.memory import MemoryLog
from ctxlog.model.records import NewRecord

FLOOR = "SHA-256 of key and value"
STREAMS = 20


class Trees:
    """The steps of building a tree, over the same records."""

    def __init__(self, records: int, folder: Path) -> None:
        self.log = MemoryLog()
        publish(self.log)
        workload = Workload()
        for number in range(STREAMS):
            events = workload.stream(f"bench/stream-{number:05}")
            self.log.append([new_record(next(events)) for _ in range(records // STREAMS)])
        self.records = list(self.log.read(0, 0, self.log.bounds(0).end))
        leaves = Leaves(0)
        self.hashes = [leaves.next(record) for record in self.records]
        self.bytes = sum(len(record.key or b"") + len(record.value or b"") for record in self.records)
        self.folder = folder
        self.turns = 0

    def _per_record(self, started: float) -> float:
        return (time.perf_counter() - started) / len(self.records)

    def floor(self) -> float:
        started = time.perf_counter()
        for record in self.records:
            hashlib.sha256((record.key or b"") + (record.value or b"")).digest()
        return self._per_record(started)

    def leaves(self) -> float:
        leaves = Leaves(0)
        started = time.perf_counter()
        for record in self.records:
            leaves.next(record)
        return self._per_record(started)

    def nodes(self) -> float:
        tree = CompactRange()
        started = time.perf_counter()
        for leaf in self.hashes:
            tree.append(leaf)
        tree.root()
        return self._per_record(started)

    def computed(self) -> float:
        """As `verify` does it."""
        leaves, tree = Leaves(0), CompactRange()
        started = time.perf_counter()
        for record in self.records:
            tree.append(leaves.next(record))
        tree.root()
        return self._per_record(started)

    def kept(self) -> float:
        """As `sign` does it the first time."""
        self.turns += 1
        with contextlib.closing(LogTree(self.log, self.folder / f"tree-{self.turns}.sqlite")) as tree:
            started = time.perf_counter()
            tree.catch_up(0)
            return self._per_record(started)


def large(report: Report, records: int, proofs: int, folder: Path) -> None:
    """Proofs and heads of a large log."""
    log, dice = MemoryLog(), random.Random(7)
    for start in range(0, records - 1, 10_000):
        log.append([NewRecord(0, b"s", b"%d" % number) for number in range(start, min(start + 10_000, records - 1))])
    path = folder / "large.sqlite"
    tree = LogTree(log, path)
    size = tree.catch_up(0).size
    tree.close()
    report.note(f"{size:,} records: the file has {path.stat().st_size / size:.1f} bytes a record.")
    tree = LogTree(log, path)
    root, taken = tree.root(0, size), {"inclusion": list[float](), "consistency": list[float](), "check": list[float]()}
    longest = {"inclusion": 0, "consistency": 0}
    for _ in range(proofs):
        offset, old = dice.randrange(size), dice.randrange(1, size)
        started = time.perf_counter()
        inclusion = tree.inclusion(0, offset, size)
        made = time.perf_counter()
        consistency = tree.consistency(0, old, size)
        taken["inclusion"].append(made - started)
        taken["consistency"].append(time.perf_counter() - made)
        leaf, old_root = tree.leaf(0, inclusion.leaf), tree.root(0, old)
        started = time.perf_counter()
        check_inclusion(inclusion, leaf, root)
        check_consistency(consistency, old_root, root)
        taken["check"].append((time.perf_counter() - started) / 2)
        longest["inclusion"] = max(longest["inclusion"], len(inclusion.path))
        longest["consistency"] = max(longest["consistency"], len(consistency.path))
    for kind, hashes in longest.items():
        times = taken[kind]
        report.note(
            f"{kind} proof: {hashes} hashes at most, {32 * hashes} bytes; made in {duration(percentile(times, 50))} "
            f"(p99 {duration(percentile(times, 99))}), checked in {duration(percentile(taken['check'], 50))}."
        )
    signer = Signer(log, tree, SigningKey("bench", bytes(32)), HeadFile(folder, log.log_id))
    signer.sign(0)
    times = []
    for _ in range(20):
        log.append([NewRecord(0, b"s", b"more")] * 100)
        started = time.perf_counter()
        signer.sign(0)
        times.append(time.perf_counter() - started)
    tree.close()
    report.note(f"a head over 100 new records, kept outside and in the log: {duration(percentile(times, 50))}.")


def main() -> None:
    """Measure, print and write."""
    options = arguments(__doc__)
    report = Report("tree", quick=options.quick, unit="record")
    with scratch() as folder:
        trees = Trees(4_000 if options.quick else 40_000, folder)
        works: dict[str, Work] = {
            "floor": trees.floor,
            "record -> leaf (decoded, digest, hash)": trees.leaves,
            "leaf -> nodes and root": trees.nodes,
            "records -> root, as verify does it": trees.computed,
            "records -> kept tiles, as sign does it": trees.kept,
        }
        found = in_turns(works, options.repetitions or (3 if options.quick else 11))
        for name, seconds in found.items():
            if name != "floor":
                report.add(name, seconds, FLOOR, found["floor"])
        report.note(f"{len(trees.records):,} records of {trees.bytes / len(trees.records):.0f} bytes on average.")
        large(report, 20_000 if options.quick else 1_000_000, 50 if options.quick else 1_000, folder)
    report.finish()


if __name__ == "__main__":
    main()

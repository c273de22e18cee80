"""A log held against its signed heads: whatever was changed is found and named with its place, and what was not is no alarm."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.audit.heads import FoundHead, Head, HeadFile, Trusted, sign_head
from ctxlog.audit.notes import SigningKey
from ctxlog.audit.sealed import HeadReport, SealedPartition
from ctxlog.audit.signing import Signer
from ctxlog.audit.tree import LogTree, kept_leaves
from ctxlog.audit.verify import BROKEN, CONSISTENT, IN_PART, UNKNOWN_KEYS, VERIFIED, Seals, VerifyReport, verify
from ctxlog.importers import import_path
from ctxlog.log.embedded import EmbeddedLog
from ctxlog.log.embedded.file import link_of
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import StorageProblem
from ctxlog.model.events import MessageAppended
from ctxlog.model.records import NewRecord, Record
from ctxlog.replay.copying import copy_log
from mutations import MUTATIONS, mutations

DATA = Path(__file__).parents[3] / "shared" / "data"
SEED = 20261125
KEY = SigningKey("example.org/audit", bytes(range(32)))
OTHER = SigningKey("example.org/other", bytes(range(32)))
MESSAGE = MessageAppended(role="user", content="hi")


def own_log(step: int) -> MemoryLog:
    """Events, and what nobody can decode, of two streams; with gaps in the offsets where `step` is above 1."""
    log = MemoryLog(offset_step=step)
    opened = ContextLog(log)
    for number in range(40):
        opened.context(f"s/{number % 2}").add_message("user", f"text {number}")
        if number % 9 == 0:
            log.append([NewRecord(0, b"s/0", b"garbage %d" % number)])
    return log


def real_log(records: int) -> MemoryLog:
    """Recorded runs, imported as often as it takes, and cut off behind so many records."""
    if not DATA.is_dir():
        pytest.skip(f"recorded runs are not at {DATA}")
    log, agents = MemoryLog(), 0
    while len(log._records[0]) < records:
        import_path(ContextLog(log), [DATA / "tau-bench", DATA / "mini-swe-agent"], agent=f"agent-{agents}")
        agents += 1
    del log._records[0][records:]
    return log


class Sealed:
    """A log as it was signed, with its kept leaves, and what is found where its records are others now."""

    def __init__(self, log: MemoryLog, sizes: list[int], folder: Path) -> None:
        self.log, self.file = log, folder / "tree.sqlite"
        self.records = list(log._records[0])
        with contextlib.closing(LogTree(log, self.file)) as tree:
            tree.catch_up(0)
            roots = [tree.root(0, size) for size in sizes]
        heads = [sign_head(log.log_id, 0, size, root, [KEY]) for size, root in zip(sizes, roots, strict=True)]
        self.heads = [Trusted(head, f"head {head.size}", (KEY.verify_key,)) for head in heads]

    def held(self, records: list[Record], *, kept: bool) -> tuple[HeadReport, list[StorageProblem]]:
        self.log._records[0] = records
        sealed = SealedPartition(self.log, 0, self.heads, [], self.file if kept else None)
        for record in records:
            sealed.take(record)
        return sealed.report(), list(sealed.problems())


def offsets_of(where: str) -> tuple[int, int]:
    """First and last offset that a problem names."""
    found = [int(word.partition("@")[2]) for word in where.split() if "@" in word]
    return found[0], sys.maxsize if where.startswith("partition") else found[-1]


def check_mutations(sealed: Sealed, dice: random.Random, count: int) -> int:
    """Each mutation is found, its place is named exactly with the kept leaves, and lies within what is named without them."""
    tried = 0
    signed = sealed.heads[-1].head.size
    for name, changed, offset in mutations(sealed.records, signed, dice, count):
        report, problems = sealed.held(changed, kept=True)
        assert report.verdict == "not what was signed", (name, offset)
        assert problems, (name, offset)
        assert problems[0].where.split()[1] == f"0@{offset}", (name, offset, problems[0])
        report, problems = sealed.held(changed, kept=False)
        assert report.verdict == "not what was signed", (name, offset)
        first, last = offsets_of(problems[0].where)
        if name == "cut off":
            assert first == changed[-1].offset, (name, problems)
        else:
            assert first <= offset <= last, (name, offset, problems)
        tried += 1
    return tried


def check_unchanged(sealed: Sealed, *, kept: bool = True) -> None:
    report, problems = sealed.held(list(sealed.records), kept=kept)
    last = sealed.heads[-1].head.size
    assert problems == []
    assert (report.verdict, report.size, report.last_offset) == ("verified", last, sealed.records[last - 1].offset)
    assert report.unsigned == len(sealed.records) - last
    assert report.keys == (KEY.verify_key.short,)


@pytest.mark.parametrize("step", [1, 3], ids=["no gaps", "gaps"])
def test_every_change_of_a_signed_log_is_found_and_named(tmp_path: Path, step: int) -> None:
    log = own_log(step)
    size = len(log._records[0])
    sealed = Sealed(log, [3, 10, 11, 30, size - 4], tmp_path)
    check_unchanged(sealed)
    assert check_mutations(sealed, random.Random(SEED), size - 5) == len(MUTATIONS) * (size - 5)
    check_unchanged(sealed, kept=False)


def test_every_change_of_a_log_of_real_records_is_found_and_named(tmp_path: Path) -> None:
    sealed = Sealed(real_log(1_000), [100, 600, 990], tmp_path)
    check_unchanged(sealed)
    check_mutations(sealed, random.Random(SEED), 6)


@pytest.mark.soak
def test_every_change_of_ten_thousand_real_records_is_found_and_named(tmp_path: Path) -> None:
    sealed = Sealed(real_log(10_000), [1, 1_000, 5_000, 9_999, 10_000], tmp_path)
    check_unchanged(sealed)
    check_unchanged(sealed, kept=False)
    tried = check_mutations(sealed, random.Random(SEED), 40)
    print(f"{tried:,} changes of 10,000 real records, all found and named", file=sys.stderr)


def test_a_change_is_named_between_the_heads_around_it_where_no_leaves_are_kept(tmp_path: Path) -> None:
    sealed = Sealed(own_log(1), [3, 10, 11, 30], tmp_path)
    for place, expected in (
        (1, "records 0@0 to 0@2"),
        (7, "records 0@3 to 0@9"),
        (10, "record 0@10"),
        (29, "records 0@11 to 0@29"),
    ):
        changed, _ = MUTATIONS["a bit of the value"](sealed.records, place, random.Random(1))
        _, problems = sealed.held(changed, kept=False)
        assert [problem.where for problem in problems] == [expected]


def test_what_is_behind_the_newest_head_is_unsigned_and_no_alarm(tmp_path: Path) -> None:
    sealed = Sealed(own_log(1), [30], tmp_path)
    changed, _ = MUTATIONS["a bit of the value"](sealed.records, 35, random.Random(1))
    report, problems = sealed.held(changed, kept=True)
    assert (report.verdict, problems, report.unsigned) == ("verified", [], len(changed) - 30)


def test_kept_leaves_that_do_not_make_the_signed_root_are_not_believed(tmp_path: Path) -> None:
    """Whoever changes the log changes the cache as well: then it says nothing, and the place is named by the heads."""
    sealed = Sealed(own_log(1), [10, 30], tmp_path)
    changed, _ = MUTATIONS["a bit of the value"](sealed.records, 20, random.Random(1))
    sealed.log._records[0] = changed
    sealed.file.unlink()
    with contextlib.closing(LogTree(sealed.log, sealed.file)) as tree:
        tree.catch_up(0)
    _, problems = sealed.held(changed, kept=True)
    assert [problem.where for problem in problems] == ["records 0@10 to 0@29"]


def test_kept_leaves_that_somebody_else_changed_name_no_wrong_place(tmp_path: Path) -> None:
    sealed = Sealed(own_log(1), [10, 30], tmp_path)
    sealed.log._records[0], _ = MUTATIONS["a bit of the value"](sealed.records, 5, random.Random(1))
    sealed.file.unlink()
    with contextlib.closing(LogTree(sealed.log, sealed.file)) as tree:
        tree.catch_up(0)
    changed, _ = MUTATIONS["a bit of the value"](sealed.records, 20, random.Random(1))
    _, problems = sealed.held(changed, kept=True)
    assert [problem.where for problem in problems] == ["records 0@10 to 0@29"]


def test_each_of_several_changes_is_named(tmp_path: Path) -> None:
    sealed = Sealed(own_log(1), [40], tmp_path)
    changed = list(sealed.records)
    for place in (7, 20, 31):
        changed, _ = MUTATIONS["a bit of the time"](changed, place, random.Random(1))
    _, problems = sealed.held(changed, kept=True)
    assert [problem.where for problem in problems] == ["record 0@7", "record 0@20", "record 0@31"]
    many, _ = MUTATIONS["taken out and closed over"](sealed.records, 5, random.Random(1))
    _, problems = sealed.held(many, kept=True)
    assert len(problems) == 21
    assert (problems[0].where, problems[-1].found) == ("record 0@5", "more records that are not what was signed")


def test_two_heads_that_a_key_signed_for_one_size_are_a_problem(tmp_path: Path) -> None:
    """A log that shows different people different records: one of the two heads is wrong, whatever the log holds."""
    sealed = Sealed(own_log(1), [30], tmp_path)
    fork = sign_head(sealed.log.log_id, 0, 30, bytes(32), [KEY])
    sealed.heads.append(Trusted(fork, "elsewhere", (KEY.verify_key,)))
    report, problems = sealed.held(list(sealed.records), kept=True)
    assert report.verdict == "not what was signed"
    assert [problem.where for problem in problems] == ["head of 30 records of partition 0 in elsewhere"]


def test_a_head_that_later_ones_do_not_go_on_from_is_what_is_wrong(tmp_path: Path) -> None:
    """And what is behind the last head that is right is looked for all the same."""
    sealed = Sealed(own_log(1), [10, 30, 40], tmp_path)
    fork = sign_head(sealed.log.log_id, 0, 20, bytes(32), [KEY])
    sealed.heads.append(Trusted(fork, "elsewhere", (KEY.verify_key,)))
    _, problems = sealed.held(list(sealed.records), kept=True)
    assert [problem.where for problem in problems] == ["head of 20 records of partition 0 in elsewhere"]
    changed, _ = MUTATIONS["a bit of the value"](sealed.records, 35, random.Random(1))
    _, problems = sealed.held(changed, kept=False)
    assert [problem.where for problem in problems] == [
        "head of 20 records of partition 0 in elsewhere",
        "records 0@30 to 0@39",
    ]
    _, problems = sealed.held(changed[:38], kept=False)
    assert [problem.where for problem in problems][1:] == ["partition 0 behind 0@37"]


# The whole of `verify`, with heads in the log and outside it.


@pytest.fixture
def opened(folder: Path) -> Iterator[ContextLog]:
    with ContextLog(EmbeddedLog(folder, partitions=2)) as log:
        for number in range(40):
            log.context(f"s/{number % 8}").add_message("user", str(number))
        yield log


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    return tmp_path / "heads"


def sign(log: ContextLog, heads: Path, partitions: tuple[int, ...] = (0, 1), key: SigningKey = KEY) -> list[Head]:
    """Sign with the tree kept beside the log, as the command does."""
    backend = log.log
    assert isinstance(backend, EmbeddedLog)
    with contextlib.closing(LogTree(backend, backend.folder / "tree.sqlite")) as tree:
        signer = Signer(backend, tree, key, HeadFile(heads, backend.log_id))
        return [signed.head for partition in partitions if (signed := signer.sign(partition)) is not None]


def check(log: ContextLog, heads: Path | None, *, keys: tuple[SigningKey, ...] = (KEY,), kept: bool = True) -> VerifyReport:
    backend = log.log
    assert isinstance(backend, EmbeddedLog)
    outside = HeadFile(heads, backend.log_id).heads([]) if heads is not None else []
    return verify(log, seals=Seals([key.verify_key for key in keys], outside, backend.folder / "tree.sqlite" if kept else None))


def test_a_signed_log_is_verified_by_its_own_heads_and_by_those_outside(opened: ContextLog, heads: Path) -> None:
    assert check(opened, None).verdict == CONSISTENT
    made = sign(opened, heads)
    for where in (heads, None):
        report = check(opened, where)
        assert (report.verdict, report.problems, report.notes) == (VERIFIED, [], [])
        assert [head.size for head in report.heads] == [head.size for head in made]
        assert [head.unsigned for head in report.heads] == [0, 0]
        assert report.to_dict()["heads"][1]["keys"] == [KEY.verify_key.short]
    opened.context("s/0").add_message("user", "later")
    report = check(opened, heads)
    assert (report.verdict, sum(head.unsigned for head in report.heads)) == (VERIFIED, 1)


def test_heads_of_keys_that_nobody_trusts_verify_nothing(opened: ContextLog, heads: Path) -> None:
    sign(opened, heads)
    for keys in ((), (OTHER,)):
        report = check(opened, heads, keys=keys)
        assert (report.verdict, report.problems) == (UNKNOWN_KEYS, [])
        assert {head.keys for head in report.heads} == {(KEY.verify_key.short,)}


def test_a_partition_that_nobody_signed_is_not_verified(opened: ContextLog, heads: Path) -> None:
    sign(opened, heads, (1,))
    report = check(opened, heads)
    assert (report.verdict, [head.verdict for head in report.heads]) == (IN_PART, ["unsigned", "verified"])


def test_a_head_with_a_wrong_signature_is_not_believed_and_said(opened: ContextLog, heads: Path) -> None:
    (good, _) = sign(opened, heads)
    found = HeadFile(heads, opened.log.log_id)
    found.append(Head.of(good.note._replace(text=good.note.text.replace(f"\n{good.size}\n", f"\n{good.size - 1}\n"))))
    report = check(opened, heads)
    assert report.verdict == VERIFIED
    assert ["did not sign this text" in note for note in report.notes] == [True]


def relink(folder: Path, *statements: str) -> None:
    """Change the file, and compute every link again: what whoever knows ctxlog does, and links alone do not show."""
    connection = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    log = EmbeddedLog(folder)
    links = []
    for partition in range(log.partitions):
        link = b""
        for record, _ in log.read_linked(partition, 0, log.bounds(partition).end):
            link = link_of(link, record)
            links.append((link, partition << 40 | record.offset))
    log.close()
    connection = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    connection.executemany("UPDATE records SET link = ? WHERE id = ?", links)
    connection.close()


@pytest.mark.parametrize("what", ["value", "time", "origin", "stream", "last ones gone", "first one of a stream gone"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept tree", "no kept tree"])
def test_a_chain_that_was_rewritten_with_all_its_links_is_found(folder: Path, heads: Path, what: str, kept: bool) -> None:
    log = ContextLog(EmbeddedLog(folder))
    for number in range(30):
        log.context(f"s/{number % 3}").add_message("user", str(number))
    sign(log, heads, (0,))
    log.close()
    shutil.copytree(folder, folder.with_name("before"))
    statements = {
        "value": "UPDATE records SET value = CAST(replace(value, '12', '21') AS BLOB) WHERE id = 14",
        "time": "UPDATE records SET recorded_at = recorded_at + 1 WHERE id >= 14",
        "origin": "UPDATE records SET origin = 'x/0/1/2' WHERE id = 14",
        "stream": "UPDATE records SET stream = (SELECT stream FROM records WHERE id = 13) WHERE id = 14",
        "last ones gone": "DELETE FROM records WHERE id >= 14",
        "first one of a stream gone": "UPDATE records SET value = (SELECT value FROM records WHERE id = 17) WHERE id = 14",
    }
    relink(folder, statements[what])
    with ContextLog(EmbeddedLog(folder)) as changed:
        assert verify(changed).problems == [], "by itself nothing shows it"
        report = check(changed, heads, kept=kept)
    assert report.verdict == BROKEN
    where = report.problems[0].where
    if kept:
        assert where == "record 0@14"
    elif what == "last ones gone":
        assert where == "partition 0 behind 0@13"
    else:
        assert where == "records 0@0 to 0@31"
    with ContextLog(EmbeddedLog(folder.with_name("before"))) as before:
        assert check(before, heads, kept=kept).verdict == VERIFIED


def test_a_log_that_was_cut_off_with_its_newest_head_is_found_by_the_one_outside(folder: Path, heads: Path) -> None:
    """What stands in the log goes with it: this is what heads outside are for."""
    with ContextLog(EmbeddedLog(folder)) as log:
        for _ in range(2):
            log.context("s").append([MESSAGE] * 5)
            sign(log, heads, (0,))
    connection = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    connection.execute("DELETE FROM records WHERE id > 9")
    connection.close()
    with ContextLog(EmbeddedLog(folder)) as log:
        assert check(log, None).verdict == VERIFIED
        report = check(log, heads, kept=False)
    assert (report.verdict, report.problems[0].where) == (BROKEN, "partition 0 behind 0@9")
    assert "it was cut off" in report.problems[0].found


def test_verify_changes_nothing_that_is_kept(opened: ContextLog, folder: Path, heads: Path) -> None:
    """Not even where the kept tree is of a log that was changed: it is what names the place."""
    sign(opened, heads)
    opened.close()
    before = (folder / "tree.sqlite").read_bytes()
    connection = sqlite3.connect(folder / "log.sqlite", isolation_level=None)
    connection.execute("DELETE FROM records WHERE id & 1099511627775 > 10")
    connection.close()
    for _ in range(2):
        with ContextLog(EmbeddedLog(folder)) as log:
            report = check(log, heads)
            assert report.verdict == BROKEN
            assert "record 0@11" in [problem.where for problem in report.problems]
    assert (folder / "tree.sqlite").read_bytes() == before


def test_verify_makes_no_file_where_none_is_kept(opened: ContextLog, folder: Path) -> None:
    check(opened, None)
    assert not (folder / "tree.sqlite").exists()
    (folder / "tree.sqlite").write_bytes(b"noise")
    assert list(kept_leaves(folder / "tree.sqlite", opened.log.log_id, 0, 5)) == []
    assert (folder / "tree.sqlite").read_bytes() == b"noise"


def test_a_partition_that_was_signed_and_that_the_log_does_not_have_is_a_problem(opened: ContextLog) -> None:
    """A log that says of itself that it has fewer partitions must not lose the others without a word."""
    third = sign_head(opened.log.log_id, 2, 3, bytes(32), [KEY])
    report = verify(opened, seals=Seals([KEY.verify_key], [FoundHead(third, "elsewhere")]))
    assert [(problem.where, problem.found) for problem in report.problems] == [("partition 2", "no such partition")]


def test_a_copy_of_a_signed_log_is_a_log_that_nobody_signed(opened: ContextLog, heads: Path) -> None:
    """Its positions are others, and so is its tree."""
    sign(opened, heads)
    copy = MemoryLog()
    copy_log(opened.log, copy)
    report = verify(ContextLog(copy), seals=Seals([KEY.verify_key], HeadFile(heads, opened.log.log_id).heads([])))
    assert (report.verdict, report.problems) == (CONSISTENT, [])


def test_heads_of_other_logs_say_nothing(opened: ContextLog, heads: Path) -> None:
    other = sign_head("017c1dc6-a6c6-46a8-8e7f-1c716d6a65b5", 0, 3, bytes(32), [KEY])
    report = verify(opened, seals=Seals([KEY.verify_key], [FoundHead(other, "elsewhere")]))
    assert (report.verdict, report.problems) == (CONSISTENT, [])

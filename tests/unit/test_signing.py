"""Signing: heads outside and in the log, whatever is killed in between; nothing is signed that is not what was signed before."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from ctxlog import ContextLog
from ctxlog.audit.heads import FoundHead, Head, HeadFile, heads_in_file, heads_in_log, sign_head, trusted_heads
from ctxlog.audit.keys import KeyFolder, read_public_key
from ctxlog.audit.notes import Note, SigningKey
from ctxlog.audit.signing import Signer
from ctxlog.audit.tree import LogTree
from ctxlog.codec.control import copy_started, encode_control, head_signed
from ctxlog.errors import InvalidInputError, LogOpenError, SignedHeadError, SigningKeyError, StorageError
from ctxlog.log.memory import MemoryLog
from ctxlog.log.protocol import OutcomeUnknownError
from ctxlog.model.records import NewRecord, Placed
from writing import Wrapped

KEY = SigningKey("example.org/audit", bytes(range(32)))
NEXT = SigningKey("example.org/audit", bytes(range(1, 33)))
THIRD = SigningKey("example.org/audit", bytes(range(2, 34)))


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    return tmp_path / "heads"


def fill(log: MemoryLog, count: int = 5, partition: int = 0) -> None:
    log.append([NewRecord(partition, b"s", b"value %d" % number) for number in range(count)])


def signer(log: MemoryLog | Wrapped, heads: Path, key: SigningKey = KEY, before: Sequence[SigningKey] = ()) -> Signer:
    return Signer(log, LogTree(log, None), key, HeadFile(heads, log.log_id), before)


def in_log(log: MemoryLog, partition: int = 0) -> list[Head]:
    return [found.head for found in heads_in_log(log, partition, 0, 2**62, [])]


def outside(log: MemoryLog, heads: Path) -> list[Head]:
    return [found.head for found in HeadFile(heads, log.log_id).heads([])]


def test_a_head_stands_outside_and_in_the_log_and_says_what_the_tree_is(heads: Path) -> None:
    log = MemoryLog()
    fill(log)
    signed = signer(log, heads).sign(0)
    assert signed is not None
    tree = LogTree(log, None)
    tree.catch_up(0)
    assert (signed.new, signed.last_offset, signed.head.size, signed.head.root) == (True, 5, 6, tree.root(0, 6))
    assert signed.head.note.signed_by([KEY.verify_key]) == (KEY.verify_key,)
    assert outside(log, heads) == in_log(log) == [signed.head]
    assert str(signed.head.note).startswith(f"ctxlog/{log.log_id}/0\n6\n")


def test_where_only_heads_are_new_nothing_is_signed(heads: Path) -> None:
    """Otherwise each head would be a reason for the next one, for ever."""
    log = MemoryLog()
    fill(log)
    first = signer(log, heads).sign(0)
    for again in (signer(log, heads), signer(log, heads)):
        for _ in range(2):
            found = again.sign(0)
            assert found is not None
            assert first is not None
            assert found == first._replace(new=False)
    fill(log, 1)
    second = signer(log, heads).sign(0)
    assert second is not None
    assert (second.new, second.head.size) == (True, 8)
    assert outside(log, heads) == in_log(log) == [first.head, second.head]


def test_one_signer_goes_on_as_the_log_grows(heads: Path) -> None:
    log = MemoryLog(2)
    one = signer(log, heads)
    sizes = []
    for _ in range(4):
        fill(log, 3)
        fill(log, 1, 1)
        sizes.append([found.head.size for partition in (0, 1) if (found := one.sign(partition)) is not None])
    assert sizes == [[4, 2], [8, 4], [12, 6], [16, 8]]
    one.sign(0)
    assert [head.size for head in in_log(log)] == [4, 8, 12, 16]


def test_it_signs_what_it_was_told_and_no_further(heads: Path) -> None:
    log = MemoryLog()
    fill(log, 10)
    one = signer(log, heads)
    one.note(0, 0, list(log.read(0, 0, 4)), 4)
    signed = one.sign(0, 4)
    assert signed is not None
    assert (signed.head.size, signed.last_offset) == (4, 3)


class Failing(Wrapped):
    """Fails at the next append: before it is done, or after."""

    fate: str | None = None

    def append(self, records: Sequence[NewRecord]) -> list[Placed]:
        fate, self.fate = self.fate, None
        if fate == "after":
            self.inner.append(records)
        if fate is not None:
            raise OutcomeUnknownError("the answer was lost")
        return self.inner.append(records)


@pytest.mark.parametrize("fate", ["before", "after"])
@pytest.mark.parametrize("same", [True, False], ids=["same process", "another process"])
def test_a_head_whose_append_is_unknown_is_in_the_log_after_the_next_run(heads: Path, fate: str, same: bool) -> None:
    memory = MemoryLog()
    fill(memory)
    log = Failing(memory)
    one = signer(log, heads)
    log.fate = fate
    with pytest.raises(StorageError, match="sign again"):
        one.sign(0)
    assert len(outside(memory, heads)) == 1
    found = (one if same else signer(log, heads)).sign(0)
    assert found is not None
    assert not found.new
    assert (
        {str(head.note) for head in in_log(memory)}
        == {str(head.note) for head in outside(memory, heads)}
        == {str(found.head.note)}
    )


def test_a_head_that_only_the_log_has_is_put_outside(heads: Path) -> None:
    log = MemoryLog()
    fill(log)
    signed = signer(log, heads).sign(0)
    (heads / f"{log.log_id}.heads").unlink()
    assert signed is not None
    assert signer(log, heads).sign(0) == signed._replace(new=False)
    assert outside(log, heads) == in_log(log) == [signed.head]


@pytest.mark.parametrize("cut", [*range(1, 12), 60, 100, 150])
def test_a_file_that_was_torn_while_a_head_was_written_is_gone_on_with(heads: Path, cut: int) -> None:
    """As a power cut leaves it: whatever of the last head is missing, the ones before and after it are read."""
    log = MemoryLog()
    fill(log)
    first = signer(log, heads).sign(0)
    fill(log)
    signer(log, heads).sign(0)
    assert first is not None
    path = heads / f"{log.log_id}.heads"
    path.write_bytes(path.read_bytes()[:-cut])
    fill(log)
    third = signer(log, heads).sign(0)
    assert third is not None
    assert [head.size for head in outside(log, heads)] == [6, 12, 18] if cut < 3 else [6, 18]
    assert [head.size for head in in_log(log)] == [6, 12, 18]


def test_a_disk_that_is_full_half_way_through_a_head_leaves_no_half_head(heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    fill(log)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[: len(data) // 2]))
        with pytest.raises(StorageError, match="No space left"):
            signer(log, heads).sign(0)
    assert (outside(log, heads), in_log(log)) == ([], [])
    signed = signer(log, heads).sign(0)
    assert signed is not None
    assert outside(log, heads) == in_log(log) == [signed.head]


def test_nothing_is_signed_that_is_not_what_was_signed_before(heads: Path) -> None:
    log = MemoryLog()
    fill(log)
    signer(log, heads).sign(0)
    log._records[0][3] = log._records[0][3]._replace(value=b"changed")
    fill(log)
    with pytest.raises(SignedHeadError, match=r"expected the 6 records that were signed") as caught:
        signer(log, heads).sign(0)
    assert (caught.value.partition, caught.value.size) == (0, 6)
    assert len(outside(log, heads)) == len(in_log(log)) == 1


def test_nothing_is_signed_of_a_log_that_was_cut_off(heads: Path) -> None:
    log = MemoryLog()
    fill(log)
    signer(log, heads).sign(0)
    del log._records[0][4:]
    with pytest.raises(SignedHeadError, match="found 4"):
        signer(log, heads).sign(0)


def test_a_head_that_others_put_into_the_log_stops_nobody(heads: Path) -> None:
    """Whoever may append could otherwise stop all signing: what the own key did not sign says nothing."""
    log = MemoryLog()
    fill(log)
    forged = sign_head(log.log_id, 0, 3, bytes(32), [SigningKey(KEY.name, bytes(32))])
    wrong = sign_head(log.log_id, 0, 99, bytes(32), [KEY])
    spoiled = str(wrong.note).replace("\n99\n", "\n98\n")
    for text in (str(forged.note), spoiled, "nonsense"):
        log.append([encode_control(0, head_signed(log.log_id, text))])
    signed = signer(log, heads).sign(0)
    assert signed is not None
    assert signed.head.size == 9


def test_of_many_heads_few_are_checked(heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is signed every few minutes for years has a hundred thousand."""
    log = MemoryLog()
    one = signer(log, heads, NEXT, [KEY])
    for _ in range(30):
        fill(log, 1)
        one.sign(0)
    checks = []
    original = Note.signed_by
    monkeypatch.setattr(Note, "signed_by", lambda self, keys: checks.append(self) or original(self, keys))
    again = signer(log, heads, NEXT, [KEY])
    found = again.sign(0)
    assert found is not None
    assert (found.new, found.head) == (False, in_log(log)[-1])
    assert len(checks) <= 3


def test_a_copy_that_is_not_finished_is_not_signed(heads: Path) -> None:
    log = MemoryLog()
    log.append([encode_control(0, copy_started(log.log_id, "another"))])
    with pytest.raises(LogOpenError, match="ctxlog copy"):
        signer(log, heads).sign(0)


def test_trust_in_a_key_is_followed_to_the_one_that_follows_it(heads: Path) -> None:
    log = MemoryLog()
    fill(log)
    signer(log, heads).sign(0)
    turned = signer(log, heads, NEXT, [KEY]).sign(0)  # Though nothing is new.
    assert turned is not None
    assert turned.new
    assert turned.head.next_keys == (NEXT.verify_key,)
    assert turned.head.note.signed_by([KEY.verify_key, NEXT.verify_key]) == (NEXT.verify_key, KEY.verify_key)
    fill(log)
    later = signer(log, heads, NEXT, [KEY]).sign(0)
    assert later is not None
    assert later.head.next_keys == ()
    assert later.head.note.signed_by([KEY.verify_key]) == ()
    found = list(heads_in_log(log, 0, 0, 2**62, []))
    trusted, others = trusted_heads(reversed(found), [KEY.verify_key], [])
    assert {one.head.size for one in trusted} == {6, 7, 13}
    assert others == []


def test_trust_is_followed_over_keys_that_signed_nothing(heads: Path) -> None:
    log = MemoryLog()
    fill(log)
    signer(log, heads).sign(0)
    turned = signer(log, heads, THIRD, [NEXT, KEY]).sign(0)
    assert turned is not None
    trusted, _ = trusted_heads([FoundHead(turned.head, "")], [KEY.verify_key], [])
    assert trusted[0].keys == (KEY.verify_key,)
    keys = [key.verify_key for key in (THIRD, NEXT, KEY)]
    assert turned.head.note.signed_by(keys) == tuple(keys)


def test_a_key_that_signs_beside_a_trusted_one_is_not_trusted_for_that() -> None:
    """Anybody can add a line to a note. Only what stands in the text was signed."""
    head = sign_head("017c1dc6-a6c6-46a8-8e7f-1c716d6a65b5", 0, 6, bytes(32), [KEY, NEXT])
    later = sign_head("017c1dc6-a6c6-46a8-8e7f-1c716d6a65b5", 0, 7, bytes(32), [NEXT])
    trusted, others = trusted_heads([FoundHead(head, ""), FoundHead(later, "")], [KEY.verify_key], [])
    assert [one.head.size for one in trusted] == [6]
    assert [one.head.size for one in others] == [7]


def test_a_key_that_nobody_trusted_names_is_not_trusted() -> None:
    head = sign_head("017c1dc6-a6c6-46a8-8e7f-1c716d6a65b5", 0, 6, bytes(32), [NEXT], THIRD.verify_key)
    later = sign_head("017c1dc6-a6c6-46a8-8e7f-1c716d6a65b5", 0, 7, bytes(32), [THIRD])
    trusted, others = trusted_heads([FoundHead(head, ""), FoundHead(later, "")], [KEY.verify_key], [])
    assert (trusted, len(others)) == ([], 2)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


def test_a_private_key_is_for_its_owner_alone(keys: KeyFolder) -> None:
    made = keys.create("example.org/audit")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o700
    assert keys.choose().verify_key == made.key
    assert read_public_key(str(made.path.with_suffix(".pub"))) == read_public_key(str(made.key)) == made.key
    made.path.chmod(0o640)
    with pytest.raises(SigningKeyError, match="0640"):
        keys.choose()


def test_a_key_that_follows_another_one_takes_its_place(keys: KeyFolder) -> None:
    first = keys.create("a")
    second = keys.rotate()
    third = keys.rotate("a")
    assert [one.key for one in keys.stored()] == [first.key, second.key, third.key]
    assert [one.follower for one in keys.stored()] == [second.key.short, third.key.short, None]
    assert keys.choose().verify_key == keys.choose("a").verify_key == third.key
    assert keys.choose(first.key.short).verify_key == first.key
    assert [key.verify_key for key in keys.before(keys.choose())] == [second.key, first.key]
    first.path.unlink()
    assert [key.verify_key for key in keys.before(keys.choose())] == [second.key]
    assert [one.to_dict()["private"] for one in keys.stored()] == [False, True, True]


def test_what_cannot_be_chosen_is_said(keys: KeyFolder) -> None:
    with pytest.raises(SigningKeyError, match="ctxlog keys create"):
        keys.choose()
    keys.create("a")
    with pytest.raises(SigningKeyError, match="there is a key 'a'"):
        keys.create("a")
    made = keys.create("b")
    with pytest.raises(SigningKeyError, match="one of a, b"):
        keys.choose()
    with pytest.raises(SigningKeyError, match="no key 'c'"):
        keys.choose("c")
    with pytest.raises(InvalidInputError):
        keys.create("a b")
    made.path.write_text(keys.choose("a").secret_text())
    with pytest.raises(SigningKeyError, match="is not the private key"):
        keys.choose("b")
    made.path.write_text("nonsense")
    with pytest.raises(SigningKeyError, match="expected a private key") as caught:
        keys.choose("b")
    assert "nonsense" not in str(caught.value)
    made.path.unlink()
    with pytest.raises(SigningKeyError, match="cannot be read"):
        keys.choose("b")


def test_a_folder_that_cannot_be_written_gets_no_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SigningKeyError, match="Not a directory"):
        KeyFolder(tmp_path / "file").create("a")


def test_a_file_of_heads_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        heads_in_file(tmp_path / "none", [])
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="something else"):
        heads_in_file(tmp_path / "noise", [])
    notes: list[str] = []
    (tmp_path / "text").write_text("hello\n\nworld\n\n\u2014 a AAAA\n")
    assert heads_in_file(tmp_path / "text", notes) == []
    assert len(notes) == 2


def test_a_log_whose_id_is_no_id_gets_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no UUID"):
        HeadFile(tmp_path, "../../etc")


def test_a_head_of_another_partition_or_log_is_no_head_of_this_one() -> None:
    log, other = MemoryLog(2), MemoryLog(2)
    for found in (sign_head(log.log_id, 1, 1, bytes(32), [KEY]), sign_head(other.log_id, 0, 1, bytes(32), [KEY])):
        log.append([encode_control(0, head_signed(log.log_id, str(found.note)))])
    mine = sign_head(log.log_id, 0, 1, bytes(32), [KEY])
    log.append([encode_control(0, head_signed(other.log_id, str(mine.note)))])
    assert in_log(log) == []
    log.append([encode_control(0, head_signed(log.log_id, str(mine.note)))])
    assert in_log(log) == [mine]


def test_a_head_changes_no_state_and_no_version(log: ContextLog, tmp_path: Path) -> None:
    context = log.context("s")
    context.add_message("user", "hi")
    before = context.replay().manifest
    one = Signer(log.log, LogTree(log.log, None), KEY, HeadFile(tmp_path, log.log.log_id))
    one.sign(0)
    assert context.replay().manifest == before
    context.add_message("user", "again")
    assert context.replay().state.version == 2


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that was cut off is not waited for."""
    monkeypatch.setattr("ctxlog.log.resuming.BACK_SECONDS_MAX", 0.01)

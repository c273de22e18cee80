"""Signed notes and keys: what others wrote is read, others read what is written here, and no changed note passes."""

from __future__ import annotations

import random

import pytest

from ctxlog.audit.heads import Head, sign_head
from ctxlog.audit.notes import Note, SigningKey, VerifyKey, is_key_name, sign_note
from ctxlog.errors import InvalidInputError, NoteError

LOG_ID = "017c1dc6-a6c6-46a8-8e7f-1c716d6a65b5"
KEY = SigningKey("example.org/audit", bytes(range(32)))
OTHER = SigningKey("example.org/audit", bytes(32))

GO_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
"""The example of the first implementation, Go's package sumdb/note."""


def test_the_example_of_the_first_implementation_is_read_and_signed_the_same() -> None:
    public, private = VerifyKey.parse(GO_PUBLIC), SigningKey.parse(GO_PRIVATE)
    assert (str(public), private.secret_text()) == (GO_PUBLIC, GO_PRIVATE)
    assert private.verify_key == public
    note = Note.parse(GO_NOTE)
    assert note.signed_by([public]) == (public,)
    assert str(note) == GO_NOTE
    assert str(sign_note(note.text, [private])) == GO_NOTE


def test_another_implementation_checks_what_is_signed_here() -> None:
    tlog = pytest.importorskip("tlog_scales.tlog", reason="tlog-scales is not installed: `make install`")
    signing = pytest.importorskip("tlog_scales.signing")
    head = sign_head(LOG_ID, 3, 20852163, bytes(range(32)), [KEY, OTHER])
    found = tlog.Checkpoint.from_text(str(head.note))
    assert (found.origin, found.size, found.root_hash) == (f"ctxlog/{LOG_ID}/3", 20852163, bytes(range(32)))
    for key in (KEY, OTHER):
        vkey = signing.Vkey.from_string(str(key.verify_key))
        assert vkey.serialize() == str(key.verify_key)
        found.verify(vkey)
    with pytest.raises(RuntimeError):
        found.verify(signing.Vkey.from_string(GO_PUBLIC))


def test_what_another_implementation_signs_is_checked_here() -> None:
    tlog = pytest.importorskip("tlog_scales.tlog", reason="tlog-scales is not installed: `make install`")
    signing = pytest.importorskip("tlog_scales.signing")
    signer = signing.PlainEd25519Signer("example.org/audit", bytes(range(32)))
    made = tlog.Checkpoint.make_signed(f"ctxlog/{LOG_ID}/0", 5, bytes(32), [signer])
    head = Head.of(Note.parse(made.serialize()))
    assert head.note.signed_by([KEY.verify_key]) == (KEY.verify_key,)
    assert (head.log_id, head.partition, head.size, head.root, head.next_keys) == (LOG_ID, 0, 5, bytes(32), ())


def test_no_note_with_a_changed_byte_is_believed() -> None:
    """Every byte, of text and signature line: the note cannot be read, or is signed by nobody, or is refused."""
    whole = str(sign_head(LOG_ID, 0, 144, bytes(range(32)), [KEY]).note).encode()
    dice = random.Random(1)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << dice.randrange(8)
        try:
            signers = Note.parse(changed.decode()).signed_by([KEY.verify_key])
        except (NoteError, UnicodeDecodeError):
            continue
        assert signers == (), place


def test_a_signature_of_a_known_key_that_is_wrong_spoils_the_note() -> None:
    """Even beside a right one of another key: the specification says so."""
    note = sign_head(LOG_ID, 0, 144, bytes(32), [KEY, OTHER]).note
    wrong = note._replace(text=note.text.replace("144", "145"), signatures=note.signatures)
    mixed = sign_note(wrong.text, [KEY])._replace(signatures=(sign_note(wrong.text, [KEY]).signatures[0], note.signatures[1]))
    assert mixed.signed_by([KEY.verify_key]) == (KEY.verify_key,)
    with pytest.raises(NoteError, match=OTHER.verify_key.id.hex()):
        mixed.signed_by([KEY.verify_key, OTHER.verify_key])


def test_a_key_with_the_name_and_id_of_another_one_is_another_key() -> None:
    """Ids are short, and can be made to collide; the signature decides."""

    class Colliding(VerifyKey):
        @property
        def id(self) -> bytes:
            return KEY.verify_key.id

    twin = Colliding(KEY.name, OTHER.verify_key.public)
    note = sign_head(LOG_ID, 0, 1, bytes(32), [KEY]).note
    assert note.signed_by([twin, KEY.verify_key]) == (KEY.verify_key,)
    with pytest.raises(NoteError):
        note.signed_by([twin])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n\u2014 name AAAAAAA=",
        "text\n\n- name AAAAAAA=\n",
        "text\n\n\u2014 name\n",
        "text\n\n\u2014 na+me AAAAAAA=\n",
        "text\n\n\u2014 name AAAA\n",
        "text\n\n\u2014 name AAAAAAB=\n",
        "text\n\n\u2014 name A!AAAAAA=\n",
        "te\rxt\n\n\u2014 name AAAAAAA=\n",
        "text\ud800\n\n\u2014 name AAAAAAA=\n",
        "text\n\n" + "\u2014 name AAAAAAA=\n" * 65,
        "x" * 70_000 + "\n\n\u2014 name AAAAAAA=\n",
    ],
)
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Note.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        f"ctxlog/{LOG_ID}/0\n1\n",
        f"ctxlog/{LOG_ID}/0\n01\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        f"ctxlog/{LOG_ID}/0\n-1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        f"ctxlog/{LOG_ID}/0\n1\nAAAA\n",
        f"ctxlog/{LOG_ID}/00\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        f"other/{LOG_ID}/0\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        f"ctxlog/{LOG_ID}/0\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nx\n",
        f"ctxlog/{LOG_ID}/0\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nnext-key nonsense\n",
        f"ctxlog/{LOG_ID}/0\n\u0661\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    ],
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Head.of(sign_note(text, [KEY]))


def test_a_head_with_lines_of_later_releases_is_read() -> None:
    text = f"ctxlog/{LOG_ID}/7\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nsomething else\nnext-key {GO_PUBLIC}\n"
    head = Head.of(sign_note(text, [KEY]))
    assert (head.partition, head.size, [str(key) for key in head.next_keys]) == (7, 1, [GO_PUBLIC])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000+AAAA",
        GO_PUBLIC.replace("c74f20a3", "c74f20a4"),
        GO_PUBLIC.replace("PeterNeumann", "PeterNeuman"),
        GO_PUBLIC[:-1],
        GO_PUBLIC.replace("+AR", "+BR"),
        GO_PRIVATE,
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a public key"):
        VerifyKey.parse(text)


@pytest.mark.parametrize("text", ["", GO_PUBLIC, GO_PRIVATE[:-4], GO_PRIVATE.replace("c74f20a3", "c74f20a4")])
def test_what_is_no_private_key_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a private key") as caught:
        SigningKey.parse(text)
    assert "AYEK" not in str(caught.value)


def test_a_private_key_does_not_show_itself() -> None:
    assert "AQABAg" in KEY.secret_text()
    assert "AQABAg" not in repr(KEY)


def test_names_of_keys_hold_no_space_no_plus_and_no_control_character() -> None:
    assert all(map(is_key_name, ("a", "example.org/audit", "\u00fc-\u2014")))
    assert not any(map(is_key_name, ("", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2028b", "\ud800")))

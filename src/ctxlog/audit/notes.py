"""Signed notes and keys as C2SP defines them (c2sp.org/signed-note): text, a blank line, a line for each signature.

    ctxlog/LOG_ID/0            the text, every byte of which is signed
    ...

    — NAME BASE64(key id ‖ signature)

Signatures are Ed25519. A key is known by its name and an id of four bytes, which finds it and proves nothing: who checks has the
whole public key, as a line of text, `NAME+ID+BASE64(01 ‖ public key)`. Nothing in a note counts before a known key has signed it.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from ctxlog.core.digests import sha256
from ctxlog.errors import InvalidInputError, NoteError

NOTE_BYTES_MAX = 64 * 1024
"""Of a whole note: a control record has room for no more, and one of ours has less than 1 KiB."""

SIGNATURES_MAX = 64
"""In one note. The specification asks for 16 at least."""

_ED25519 = b"\x01"
_DASH = "\u2014 "
_PRIVATE = "PRIVATE+KEY+"
_KEY_BYTES = 32
_ID_BYTES = 4
_SIGNATURE_BYTES = 64


class VerifyKey(NamedTuple):
    """A public key, and whose it is said to be."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature names its key."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_ID_BYTES]

    @property
    def short(self) -> str:
        """`NAME+ID`: which key it is, for reading."""
        return f"{self.name}+{self.id.hex()}"

    def __str__(self) -> str:
        return f"{self.short}+{encode_base64(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifyKey:
        """Read the form that `str` writes.

        Raises:
            InvalidInputError: It is no public key of Ed25519 in this form.
        """
        name, _, rest = text.strip().partition("+")
        key_id, _, data = rest.partition("+")
        public = decode_base64(data)
        if public is not None and public[:1] == _ED25519 and len(public) == 1 + _KEY_BYTES and is_key_name(name):
            key = cls(name, public[1:])
            if key.id.hex() == key_id:
                return key
        raise InvalidInputError("expected a public key of Ed25519 as `ctxlog keys list` prints it: NAME+ID+BASE64")


class SigningKey:
    """A private key.

    Args:
        name: Whose it is.
        seed: 32 secret bytes.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        if not is_key_name(name):
            raise InvalidInputError("key name: expected text without spaces, '+' and control characters; nothing was changed")
        self.name = name
        self._seed = seed

    def __repr__(self) -> str:
        return f"SigningKey({self.verify_key.short!r})"

    @cached_property
    def verify_key(self) -> VerifyKey:
        """Its public half."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return VerifyKey(self.name, Ed25519PrivateKey.from_private_bytes(self._seed).public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        """The signature of a note's text, 64 bytes."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed).sign(text.encode())

    def secret_text(self) -> str:
        """The private key as a line of text. Only for the file that keeps it."""
        return f"{_PRIVATE}{self.verify_key.short}+{encode_base64(_ED25519 + self._seed)}"

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Read the form that `secret_text` writes.

        Raises:
            InvalidInputError: It is no private key in this form; the message holds nothing of it.
        """
        if text.startswith(_PRIVATE):
            name, _, rest = text.strip().removeprefix(_PRIVATE).partition("+")
            key_id, _, data = rest.partition("+")
            seed = decode_base64(data)
            if seed is not None and seed[:1] == _ED25519 and len(seed) == 1 + _KEY_BYTES and is_key_name(name):
                key = cls(name, seed[1:])
                if key.verify_key.id.hex() == key_id:
                    return key
        raise InvalidInputError("expected a private key of Ed25519 as `ctxlog keys create` writes it")


class Signature(NamedTuple):
    """A signature line: the key that it names, and what is said to be that key's signature."""

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A note: its text, which ends in a newline, and its signatures, none of which is checked yet."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        lines = (f"{_DASH}{one.name} {encode_base64(one.key_id + one.signature)}\n" for one in self.signatures)
        return f"{self.text}\n{''.join(lines)}"

    @classmethod
    def parse(cls, whole: str) -> Note:
        """Read a note.

        Raises:
            NoteError: It is none.
        """
        if len(whole.encode(errors="surrogatepass")) > NOTE_BYTES_MAX:
            raise NoteError(f"it has more than {NOTE_BYTES_MAX:,} bytes")
        if any(char < " " and char != "\n" for char in whole) or any("\ud800" <= char <= "\udfff" for char in whole):
            raise NoteError("it holds a control character, or is no UTF-8")
        text, blank, rest = whole.rpartition("\n\n")
        if not blank or not rest.endswith("\n"):
            raise NoteError("it has no signatures behind a blank line")
        lines = rest[:-1].split("\n")
        if len(lines) > SIGNATURES_MAX:
            raise NoteError(f"it has more than {SIGNATURES_MAX} signatures")
        return cls(text + "\n", tuple(map(_signature, lines)))

    def signed_by(self, keys: Iterable[VerifyKey]) -> tuple[VerifyKey, ...]:
        """Those of the keys that have signed the text. Signatures of other keys say nothing and are passed over.

        Raises:
            NoteError: One of the keys is named, and did not sign this text: nothing in the note is to be believed.
        """
        known: dict[tuple[str, bytes], list[VerifyKey]] = {}
        for key in keys:
            known.setdefault((key.name, key.id), []).append(key)
        found: dict[VerifyKey, None] = {}
        for one in self.signatures:
            candidates = known.get((one.name, one.key_id), [])
            signed = [key for key in candidates if _is_signature(key, self.text, one.signature)]
            if candidates and not signed:
                raise NoteError(f"key {candidates[0].short} is named, and did not sign this text")
            found.update(dict.fromkeys(signed))
        return tuple(found)


def sign_note(text: str, keys: Iterable[SigningKey]) -> Note:
    """A note with the signatures of these keys, in their order."""
    return Note(text, tuple(Signature(key.name, key.verify_key.id, key.sign(text)) for key in keys))


def is_key_name(name: str) -> bool:
    """Whether a key may have this name: not empty, and neither a space, '+' nor a control character in it."""
    return bool(name) and not any(char == "+" or char.isspace() or unicodedata.category(char) in ("Cc", "Cs") for char in name)


def encode_base64(data: bytes) -> str:
    """Base64 of RFC 4648, section 4."""
    return base64.b64encode(data).decode()


def decode_base64(text: str) -> bytes | None:
    """The bytes that `encode_base64` gives this text for; None where there are none."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if encode_base64(data) == text else None


def _signature(line: str) -> Signature:
    name, _, text = line.removeprefix(_DASH).partition(" ")
    data = decode_base64(text)
    if not line.startswith(_DASH) or not is_key_name(name) or data is None or len(data) <= _ID_BYTES:
        raise NoteError("a signature line cannot be read")
    return Signature(name, data[:_ID_BYTES], data[_ID_BYTES:])


def _is_signature(key: VerifyKey, text: str, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(signature) != _SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
    except (InvalidSignature, ValueError):
        return False
    return True

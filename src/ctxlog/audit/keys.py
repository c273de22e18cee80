"""The folder of signing keys: outside every log, because who can rewrite a log must not be able to sign it again.

    ID.key    the private key, one line, for its owner alone (mode 0600)
    ID.pub    the public key, one line to hand out, and below it when it was made and which key it follows

A key that follows another one has its name. The private key of the older one stays until the new one's first heads are signed by
both; after that nobody needs it any more, and its public key is what older heads are checked with.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ctxlog.audit.notes import SigningKey, VerifyKey
from ctxlog.errors import InvalidInputError, SigningKeyError
from ctxlog.log.embedded.file import sync_folder

_SUFFIX, _PUBLIC_SUFFIX = ".key", ".pub"
_CREATED, _AFTER = "# created ", "# after "


class StoredKey(NamedTuple):
    """A key in the folder.

    Attributes:
        key: The public key.
        created_at: When it was made, ISO 8601, by the clock of whoever made it.
        after: The key that it follows, as `NAME+ID`; None for the first of its name.
        path: The file of the private key.
        follower: The key that follows it, as `NAME+ID`; None where none does.
    """

    key: VerifyKey
    created_at: str
    after: str | None
    path: Path
    follower: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.key.name,
            "key": self.key.short,
            "vkey": str(self.key),
            "created_at": self.created_at,
            "after": self.after,
            "follower": self.follower,
            "private": self.path.is_file(),
        }


class KeyFolder:
    """Signing keys.

    Args:
        path: The folder; made with the first key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def stored(self) -> list[StoredKey]:
        """All keys whose public half is there, oldest first.

        Raises:
            SigningKeyError: A file cannot be read.
        """
        found = list(self._read())
        follower = {one.after: one.key.short for one in found if one.after is not None}
        found = [one._replace(follower=follower.get(one.key.short)) for one in found]
        return sorted(found, key=lambda one: (one.created_at, one.after is not None, one.key))

    def _read(self) -> Iterator[StoredKey]:
        try:
            files = sorted(file for file in self.path.iterdir() if file.suffix == _PUBLIC_SUFFIX)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SigningKeyError(f"{self.path}: cannot be read: {error.strerror}; none of its keys is used") from None
        for file in files:
            try:
                first, *more = file.read_text("utf-8").splitlines()
                key = VerifyKey.parse(first)
            except (OSError, ValueError):
                raise SigningKeyError(f"{file}: expected a public key, found something else; none of the keys is used") from None
            said = {mark: line.removeprefix(mark) for line in more for mark in (_CREATED, _AFTER) if line.startswith(mark)}
            yield StoredKey(key, said.get(_CREATED, ""), said.get(_AFTER), file.with_suffix(_SUFFIX))

    def create(self, name: str) -> StoredKey:
        """Make a key.

        Raises:
            InvalidInputError: No key can have this name.
            SigningKeyError: There is a key of this name, or the folder cannot be written.
        """
        if any(one.key.name == name for one in self.stored()):
            raise SigningKeyError(
                f"{self.path}: there is a key {name!r}; nothing was made. `ctxlog keys rotate` makes a new one."
            )
        return self._make(name, None)

    def rotate(self, name: str | None = None) -> StoredKey:
        """Make the key that follows the newest one of a name; see `choose` where none is given.

        Raises:
            SigningKeyError: There is no such key, or the folder cannot be written.
        """
        before = self._chosen(name)
        return self._make(before.key.name, before.key.short)

    def _make(self, name: str, after: str | None) -> StoredKey:
        key = SigningKey(name, secrets.token_bytes(32))
        public, created = key.verify_key, datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        private = self.path / f"{public.id.hex()}{_SUFFIX}"
        lines = [f"{public}\n", f"{_CREATED}{created}\n", *([f"{_AFTER}{after}\n"] if after else [])]
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(private, f"{key.secret_text()}\n", 0o600)
            _write(private.with_suffix(_PUBLIC_SUFFIX), "".join(lines), 0o644)  # Last: a key counts once this is there.
            sync_folder(self.path)
        except OSError as error:
            raise SigningKeyError(f"{self.path}: no key can be made there: {error.strerror}; nothing was signed") from error
        return StoredKey(public, created, after, private)

    def choose(self, named: str | None = None) -> SigningKey:
        """The key to sign with.

        Args:
            named: A name, which means the newest key of that name, or `NAME+ID`. None where all keys have one name.

        Raises:
            SigningKeyError: There is no such key, or none that this process may use.
        """
        return self._private(self._chosen(named))

    def before(self, key: SigningKey) -> list[SigningKey]:
        """The keys that a key follows, directly or not, newest first, as far back as their private halves are there."""
        stored = {one.key.short: one for one in self.stored()}
        found: list[SigningKey] = []
        one = stored.get(key.verify_key.short)
        while one is not None and one.after in stored and len(found) < len(stored):
            one = stored[one.after]
            if not one.path.is_file():
                break
            found.append(self._private(one))
        return found

    def _chosen(self, named: str | None) -> StoredKey:
        keys = self.stored()
        names = sorted({one.key.name for one in keys})
        if not keys:
            raise SigningKeyError(f"{self.path}: there is no key; nothing was signed. `ctxlog keys create NAME` makes one.")
        if named is None and len(names) > 1:
            raise SigningKeyError(f"{self.path}: expected the name of one of {', '.join(names)}; nothing was signed")
        for one in keys:
            if one.key.short == named:
                return one
        name = names[0] if named is None else named
        newest = [one for one in keys if one.key.name == name and one.follower is None]
        if not newest:
            raise SigningKeyError(f"{self.path}: there is no key {name!r}, only {', '.join(names)}; nothing was signed")
        return newest[-1]

    @staticmethod
    def _private(stored: StoredKey) -> SigningKey:
        path = stored.path
        try:
            mode = path.stat().st_mode
            text = path.read_text("utf-8")
        except (OSError, ValueError):
            raise SigningKeyError(f"{path}: the private key of {stored.key.short} cannot be read; nothing was signed") from None
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            raise SigningKeyError(
                f"{path}: others than its owner may use this private key (mode {stat.S_IMODE(mode):04o}); nothing was signed. "
                f"`chmod 600 {path}`, or make another key if somebody may have read it."
            )
        try:
            key = SigningKey.parse(text)
        except InvalidInputError as error:
            raise SigningKeyError(f"{path}: {error}; nothing was signed") from None
        if key.verify_key != stored.key:
            raise SigningKeyError(f"{path}: is not the private key of {stored.key.short}; nothing was signed")
        return key


def read_public_key(text: str) -> VerifyKey:
    """A public key from its text, or from a file that begins with it.

    Raises:
        InvalidInputError: It is neither.
    """
    with contextlib.suppress(InvalidInputError):
        return VerifyKey.parse(text)
    try:
        first = Path(text).read_text("utf-8").splitlines()[:1]
    except (OSError, ValueError):
        raise InvalidInputError(
            f"key {text!r}: expected a public key, NAME+ID+BASE64, or a file that begins with one; nothing was checked"
        ) from None
    return VerifyKey.parse("".join(first))


def _write(path: Path, content: str, mode: int) -> None:
    """Make a file that is not there yet, and make it durable."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.write(handle, content.encode())
        os.fsync(handle)
    finally:
        os.close(handle)

"""Signed heads: what a key says a partition's tree was, as a C2SP checkpoint (c2sp.org/tlog-checkpoint) in a signed note.

    ctxlog/LOG_ID/PARTITION
    SIZE                       number of records from the first one on, each a leaf
    BASE64(root)
    next-key VKEY              only where a key follows another one: who believes the signer believes this key too

Heads stand in the log, in `HeadSigned` records, and in a file outside it. Who can rewrite the log can rewrite those in it: they
can leave out the newest, but make none, because they lack the key. So it is those kept outside that show a log that was cut off.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ctxlog.audit.notes import Note, SigningKey, VerifyKey, decode_base64, encode_base64, sign_note
from ctxlog.codec.control import decode_control
from ctxlog.core.merkle import HASH_BYTES
from ctxlog.errors import InvalidInputError, NoteError, StorageError, UndecodableError
from ctxlog.log.embedded.file import sync_folder
from ctxlog.log.protocol import EventLog
from ctxlog.model.records import CONTROL_KEY, Record

FILE_BYTES_MAX = 1024 * 1024 * 1024
"""Of a file of heads that is read; a head has some 300 bytes."""

_ORIGIN = re.compile(r"ctxlog/([0-9a-f-]{36})/(0|[1-9][0-9]{0,9})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NEXT_KEY = "next-key "


class Head(NamedTuple):
    """What a note says of a partition's tree. Nothing of it counts before a key that is trusted has signed the note.

    Attributes:
        log_id, partition: Whose tree.
        size: Number of leaves.
        root: Its root, 32 bytes.
        next_keys: Keys that follow those that signed.
        note: The whole note.
    """

    log_id: str
    partition: int
    size: int
    root: bytes
    next_keys: tuple[VerifyKey, ...]
    note: Note

    @classmethod
    def of(cls, note: Note) -> Head:
        """Read the text of a note.

        Raises:
            NoteError: It is no head of a ctxlog log.
        """
        lines = note.text[:-1].split("\n")
        origin, size = _ORIGIN.fullmatch(lines[0]), _SIZE.fullmatch(lines[1]) if len(lines) > 2 else None
        root = decode_base64(lines[2]) if size else None
        if origin is None or size is None or root is None or len(root) != HASH_BYTES or "" in lines:
            raise NoteError("its text is not `ctxlog/LOG_ID/PARTITION`, a size and a root")
        try:
            keys = tuple(VerifyKey.parse(line.removeprefix(_NEXT_KEY)) for line in lines[3:] if line.startswith(_NEXT_KEY))
        except InvalidInputError:
            raise NoteError("the key that is to follow cannot be read") from None
        return cls(origin[1], int(origin[2]), int(size[0]), root, keys, note)


def sign_head(
    log_id: str, partition: int, size: int, root: bytes, keys: Sequence[SigningKey], next_key: VerifyKey | None = None
) -> Head:
    """Sign a partition's tree with each of the keys.

    `next_key` is a key that follows one of them, and is named in the text that they sign: a signature beside theirs would say
    nothing, because anybody can add one.
    """
    text = f"ctxlog/{log_id}/{partition}\n{size}\n{encode_base64(root)}\n"
    if next_key is not None:
        text += f"{_NEXT_KEY}{next_key}\n"
    return Head.of(sign_note(text, keys))


class FoundHead(NamedTuple):
    """A head, and where it was found: `record 0@143`, or the name of a file."""

    head: Head
    where: str


def head_in(record: Record, log_id: str) -> Head | None:
    """The head that a control record keeps; None where it keeps none of its own log and partition.

    Raises:
        NoteError: It is a `HeadSigned`, and no head can be read from it.
    """
    try:
        control = decode_control(record.value)
    except UndecodableError:
        return None
    if control.kind != "HeadSigned" or control.data["log_id"] != log_id:
        return None
    head = Head.of(Note.parse(control.data["note"]))
    return head if (head.log_id, head.partition) == (log_id, record.partition) else None


def is_head(record: Record) -> bool:
    """Whether a record is a `HeadSigned`, right or not."""
    if record.key != CONTROL_KEY:
        return False
    try:
        return decode_control(record.value).kind == "HeadSigned"
    except UndecodableError:
        return False


def heads_in_log(log: EventLog, partition: int, start: int, end: int, notes: list[str]) -> Iterator[FoundHead]:
    """The heads that stand in a partition at `start` <= offset < `end`. What cannot be read is said in `notes`."""
    for record in log.read(partition, start, end, key=CONTROL_KEY):
        where = f"record {partition}@{record.offset}"
        try:
            head = head_in(record, log.log_id)
        except NoteError as error:
            notes.append(f"{where}: a signed head that cannot be read: {error.reason}. It is passed over")
            continue
        if head is not None:
            yield FoundHead(head, where)


def heads_in_file(path: Path, notes: list[str]) -> list[FoundHead]:
    """The heads in a file of them, or in one that holds a single note. What cannot be read is said in `notes`.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise InvalidInputError(
                f"{path}: expected signed heads, found more than {FILE_BYTES_MAX:,} bytes; nothing was checked"
            )
        content = path.read_text("utf-8")
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}; nothing was checked") from None
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path}: expected signed heads, found something else; nothing was checked") from None
    found: list[FoundHead] = []
    text: str | None = None
    for paragraph in content.split("\n\n"):
        body = paragraph.strip("\n")
        if not body:
            continue
        if not body.startswith("\u2014 "):
            if text is not None:
                notes.append(f"{path}: a head without signatures is passed over")
            text = body
            continue
        try:
            if text is None:
                raise NoteError("signatures without a text")
            found.append(FoundHead(Head.of(Note.parse(f"{text}\n\n{body}\n")), str(path)))
        except NoteError as error:
            notes.append(f"{path}: a head that cannot be read is passed over: {error.reason}")
        text = None
    if text is not None:
        notes.append(f"{path}: a head without signatures is passed over")
    return found


class HeadFile:
    """The file outside a log that its heads are appended to: notes, with a blank line behind each.

    Args:
        folder: The folder of such files, made on first use.
        log_id: The log.
    """

    def __init__(self, folder: Path, log_id: str) -> None:
        try:
            self.path = folder / f"{uuid.UUID(log_id)}.heads"
        except ValueError:  # A claim of whoever wrote the genesis, and never a path.
            raise InvalidInputError(f"log id {log_id!r} is no UUID; nothing was signed") from None

    def heads(self, notes: list[str]) -> list[FoundHead]:
        """The heads in it; none where there is no file.

        Raises:
            InvalidInputError: There is one, and it cannot be read.
        """
        return heads_in_file(self.path, notes) if os.path.lexists(self.path) else []

    def append(self, head: Head) -> None:
        """Add a head; it is durable when this returns.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                # What a killed process left half is ended, so that it does not become part of this one.
                end = os.fstat(handle).st_size
                torn = end and os.pread(handle, 2, max(0, end - 2)) != b"\n\n"
                data = f"{chr(10) * 2 if torn else ''}{head.note}\n".encode()
                if os.write(handle, data) != len(data):
                    raise OSError(28, "No space left on device")
                os.fsync(handle)
            finally:
                os.close(handle)
            if not end:
                sync_folder(self.path.parent)
        except OSError as error:
            raise StorageError(
                f"{self.path}: the head cannot be kept: {error.strerror}; nothing was appended to the log"
            ) from error


class Trusted(NamedTuple):
    """A head that keys that are trusted have signed."""

    head: Head
    where: str
    keys: tuple[VerifyKey, ...]


def trusted_heads(
    found: Iterable[FoundHead], keys: Iterable[VerifyKey], notes: list[str]
) -> tuple[list[Trusted], list[FoundHead]]:
    """The heads that are signed by the keys, or by keys that these name as following them; and those that are not."""
    known = dict.fromkeys(keys)
    left, trusted = list(found), []
    while True:
        waiting = []
        for one in left:
            try:
                signers = one.head.note.signed_by(known)
            except NoteError as error:
                notes.append(f"{one.where}: a signed head is not believed: {error.reason}")
                continue
            if signers:
                known.update(dict.fromkeys(one.head.next_keys))
                trusted.append(Trusted(one.head, one.where, signers))
            else:
                waiting.append(one)
        if len(waiting) == len(left) or not waiting:
            return trusted, waiting
        left = waiting

"""The file of an evidence bundle: what somebody needs who does not trust whoever runs the log, and has nothing else.

    bundle.json       what it is about, and the SHA-256 of every other file
    README.md         for a stranger: what this is, and how to check it
    records.jsonl     records as stored, each with the proof that it is in the tree under its partition's head
    heads/N.txt       the signed head of partition N
    schemas/*.avsc    the schemas that the records were written with, as the log published them
    report.json       what the audit of these records found

A ZIP file; the same records, heads and release make the same bytes. `docs/reference/bundle.md` is the definition. What is read
here is somebody else's: sizes are bounded, no name becomes a path, and whatever is not as it must be is a `BundleError`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ctxlog.audit.auditing import About
from ctxlog.audit.heads import Head
from ctxlog.audit.notes import Note
from ctxlog.core.proofs import PATH_MAX, InclusionProof
from ctxlog.errors import BundleError, NoteError, StorageError
from ctxlog.model.records import Origin, Record

FORMAT = "ctxlog-bundle/1"

FILES_MAX = 100_000
BYTES_MAX = 4 * 1024**3
"""Of all files together, unpacked."""
LINE_BYTES_MAX = 4 * 1024**2
"""Of one line of `records.jsonl`: a record of 1 MiB in base64, its proof, and room."""

_BLOCK = 1024 * 1024
_DATE = (1980, 1, 1, 0, 0, 0)


class BundledRecord(NamedTuple):
    """A record as the log stored it, the proof that it is in the tree of its partition, and the version of its stream that it
    made: None for a control record, and for one that does not count."""

    record: Record
    proof: InclusionProof
    version: int | None


class Bundle(NamedTuple):
    """What a bundle holds.

    Attributes:
        about: What it is about.
        log_id, partitions: The log.
        ends: By partition, the offset behind the last record under its head.
        heads: By partition.
        records: In the order of partition and offset.
        schemas: Texts by file name.
        report: The JSON form of what the audit found.
    """

    about: About
    log_id: str
    partitions: int
    ends: dict[int, int]
    heads: dict[int, Head]
    records: list[BundledRecord]
    schemas: dict[str, str]
    report: dict[str, Any]


def write_bundle(bundle: Bundle, readme: str, path: Path) -> None:
    """Write a bundle: whole, or not at all.

    Raises:
        StorageError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    digests: dict[str, str] = {}
    try:
        with zipfile.ZipFile(beside, "x", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            _add(archive, digests, "README.md", [readme.encode()])
            for partition, head in sorted(bundle.heads.items()):
                _add(archive, digests, f"heads/{partition}.txt", [str(head.note).encode()])
            _add(archive, digests, "records.jsonl", map(_line, bundle.records))
            _add(archive, digests, "report.json", [_json(bundle.report)])
            for name, text in sorted(bundle.schemas.items()):
                _add(archive, digests, name, [text.encode()])
            about = {name: value for name, value in bundle.about._asdict().items() if value is not None}
            contents = {
                "format": FORMAT,
                "about": about,
                "log_id": bundle.log_id,
                "partitions": bundle.partitions,
                "ends": {str(partition): end for partition, end in sorted(bundle.ends.items())},
                "files": digests,
            }
            _add(archive, {}, "bundle.json", [_json(contents)])
        beside.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: the bundle cannot be written: {error.strerror or error}; nothing was kept of it") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, digests: dict[str, str], name: str, pieces: Sequence[bytes] | Iterator[bytes]) -> None:
    found = hashlib.sha256()
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    with archive.open(info, "w", force_zip64=True) as file:
        for piece in pieces:
            found.update(piece)
            file.write(piece)
    digests[name] = found.hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _line(bundled: BundledRecord) -> bytes:
    record, proof, version = bundled
    said = {
        "partition": record.partition,
        "offset": record.offset,
        "recorded_at": record.recorded_at,
        "origin": None if record.origin is None else str(record.origin),
        "key": _base64(record.key),
        "value": _base64(record.value),
        "version": version,
        "leaf": proof.leaf,
        "path": [_base64(step) for step in proof.path],
    }
    return (json.dumps(said, separators=(",", ":")) + "\n").encode()


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, and check that its files are those that it names. Nothing else of it is checked.

    Raises:
        BundleError: It is no bundle, or not as it was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reading(path, archive).bundle()
    except OSError as error:
        raise BundleError(path, "a file that can be read", error.strerror or "none") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, UnicodeError):
        raise BundleError(path, "a ZIP file", "something else, or a damaged one") from None


class _Reading:
    """One bundle that is read."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        infos = archive.infolist()
        self.sizes = {info.filename: info.file_size for info in infos}
        if len(infos) > FILES_MAX or sum(info.file_size for info in infos) > BYTES_MAX:
            raise self.error(f"at most {FILES_MAX:,} files of {BYTES_MAX:,} bytes", "more")
        if len(self.sizes) < len(infos):
            raise self.error("each file once", "two of one name")
        self.digests: dict[str, str] = {}

    def error(self, expected: str, found: str) -> BundleError:
        return BundleError(self.path, expected, found)

    def bundle(self) -> Bundle:
        """All of it."""
        contents = self.object("bundle.json")
        if contents.get("format") != FORMAT:
            raise self.error(f"format {FORMAT}", "another one: a newer ctxlog may have made it")
        try:
            about = About(contents["about"].get("decision"), contents["about"].get("stream_id"), contents["about"].get("version"))
            self.digests = dict(contents["files"])
            log_id, partitions = contents["log_id"], contents["partitions"]
            ends = {int(partition): end for partition, end in contents["ends"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.error("bundle.json with what it is about, the log, and its files", "something else") from None
        whole = (about.decision is not None) != (type(about.stream_id) is str and type(about.version) is int)
        if not whole or type(log_id) is not str or type(partitions) is not int or not 0 < partitions <= FILES_MAX:
            raise self.error("a decision or a version, and a log with partitions", "something else")
        if not all(type(end) is int and end >= 0 for end in ends.values()) or ends.keys() - range(partitions):
            raise self.error("ends of the log's partitions", "something else")
        if (named := self.digests.keys() | {"bundle.json"}) != self.sizes.keys():
            other = sorted(named ^ self.sizes.keys())[0]
            raise self.error("the files that bundle.json names, and no others", f"a difference in {other!r:.80}")
        heads = {partition: self.head(partition) for partition in range(partitions)}
        schemas = {name: self.text(name) for name in self.digests if name.startswith("schemas/")}
        self.text("README.md")
        report = self.object("report.json")
        records = list(self.records(heads))
        return Bundle(about, log_id, partitions, ends, heads, records, schemas, report)

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file, checked against its digest when it has ended."""
        if name not in self.sizes:
            raise self.error(f"a file {name}", "none")
        found = hashlib.sha256()
        with self.archive.open(name) as file:
            while block := file.read(_BLOCK):
                found.update(block)
                yield block
        if name != "bundle.json" and found.hexdigest() != self.digests.get(name):
            raise self.error(f"{name} with SHA-256 {str(self.digests.get(name))[:64]}", found.hexdigest())

    def text(self, name: str) -> str:
        return b"".join(self.blocks(name)).decode()

    def object(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self.text(name))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.error(f"{name} with a JSON object", "something else")
        return found

    def head(self, partition: int) -> Head:
        try:
            return Head.of(Note.parse(self.text(f"heads/{partition}.txt")))
        except NoteError as error:
            raise self.error(f"heads/{partition}.txt with a signed head", error.reason) from None

    def lines(self) -> Iterator[bytes]:
        left = b""
        for block in self.blocks("records.jsonl"):
            *whole, left = (left + block).split(b"\n")
            yield from whole
            if len(left) > LINE_BYTES_MAX:
                raise self.error(f"lines of at most {LINE_BYTES_MAX:,} bytes", "a longer one")
        if left:
            raise self.error("records.jsonl that ends with a line", "a part of one")

    def records(self, heads: Mapping[int, Head]) -> Iterator[BundledRecord]:
        """The records, each partition's in the order of offsets and of leaves."""
        last = (-1, -1, -1)
        for number, line in enumerate(self.lines(), 1):
            try:
                said = json.loads(line)
                origin = None if said["origin"] is None else Origin.parse(said["origin"])
                key, value = _bytes(said["key"]), _bytes(said["value"])
                place = said["partition"], said["offset"], said["leaf"]
                recorded_at, version, path = said["recorded_at"], said["version"], tuple(map(_bytes, said["path"]))
            except (KeyError, TypeError, ValueError, RecursionError):
                raise self.error(f"records.jsonl:{number} with a record", "something else") from None
            if not all(type(part) is int for part in (*place, recorded_at)) or len(path) > PATH_MAX or place[0] not in heads:
                raise self.error(f"records.jsonl:{number} with a place in the log, and a path", "something else")
            if version is not None and type(version) is not int:
                raise self.error(f"records.jsonl:{number} with a version, or null", "something else")
            if place[:2] <= last[:2] or (place[0] == last[0] and place[2] <= last[2]):
                raise self.error(f"records.jsonl:{number} behind the record before it", "another order")
            last = place
            record = Record(place[0], place[1], recorded_at, key, value, origin)
            steps = tuple(step for step in path if step is not None)
            yield BundledRecord(record, InclusionProof(place[2], heads[place[0]].size, steps), version)


def _bytes(text: str | None) -> bytes | None:
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("no base64") from None

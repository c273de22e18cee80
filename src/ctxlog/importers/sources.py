"""Files as importers see them: found below the paths that were given, unpacked within bounds, parsed."""

from __future__ import annotations

import gzip
import os
import unicodedata
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from ctxlog.errors import ImportFailedError
from ctxlog.importers.source_json import parse

MAX_FILE_BYTES = 1024**3
"""What a file may have, unpacked. A few kilobytes of gzip can ask for terabytes."""

_SUFFIXES = (".json", ".jsonl")
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


class Item(NamedTuple):
    """A JSON value of a file; `line` is None for a whole file. A line that cannot be parsed has the error as its value."""

    line: int | None
    value: Any


class Source(NamedTuple):
    """A parsed file.

    Attributes:
        path: Where it lies.
        name: Its name without what says how it is written (`.jsonl`, `.gz` …).
        items: Its one value, or that of each line.
        lined: Whether each line is a value.
    """

    path: str
    name: str
    items: list[Item]
    lined: bool


class Found(NamedTuple):
    """A file to import. `asked_for`: it was given by its name, so it must be of some known format."""

    path: Path
    asked_for: bool


def files_below(path: Path) -> Iterator[Found | ImportFailedError]:
    """The file that `path` is; or the JSON files in the folder that it is and below, in the order of their names."""
    if not path.is_dir():
        yield Found(path, asked_for=True)
        return
    errors: list[OSError] = []
    count = 0
    for folder, folders, names in os.walk(path, onerror=errors.append):
        folders.sort()
        for name in sorted(names):
            plain = name.removesuffix(".gz")
            if plain.endswith(_SUFFIXES):
                count += 1
                yield Found(Path(folder) / name, asked_for=False)
    for error in errors:
        yield ImportFailedError(f"cannot be read: {error.strerror}", str(error.filename))
    if not count and not errors:
        yield ImportFailedError("holds no .json or .jsonl file (nor one with .gz)")


def load(path: Path) -> Source:
    """Read and parse a file.

    Raises:
        ImportFailedError: It cannot be read, or is not JSON. A broken line of a JSON Lines file fails alone.
    """
    text = _text(path)
    name = _name(path)
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        items = _lines(text)
        if items and isinstance(items[0].value, ImportFailedError):
            # Some people name a plain JSON file so.
            try:
                return Source(str(path), name, [Item(None, parse(text))], lined=False)
            except ImportFailedError:
                pass
        return Source(str(path), name, items, lined=True)
    try:
        return Source(str(path), name, [Item(None, parse(text))], lined=False)
    except ImportFailedError:
        items = _lines(text)
        if len(items) > 1 and isinstance(items[0].value, dict):
            return Source(str(path), name, items, lined=True)
        raise


def _lines(text: str) -> list[Item]:
    items = []
    # Not splitlines: U+2028 and its like stand in texts.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip(" \t\r"):
            try:
                items.append(Item(number, parse(line, number)))
            except ImportFailedError as error:
                items.append(Item(number, error))
    return items


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImportFailedError(f"cannot be read: {error.strerror}") from None
    if data.startswith(_GZIP):
        try:
            with gzip.open(BytesIO(data)) as unpacked:
                data = unpacked.read(MAX_FILE_BYTES + 1)
        except EOFError:
            raise ImportFailedError("the gzip data ends too early: the file was cut off") from None
        except (OSError, zlib.error):
            raise ImportFailedError("the gzip data is damaged") from None
    if len(data) > MAX_FILE_BYTES:
        raise ImportFailedError(f"more than {MAX_FILE_BYTES:,} bytes unpacked; split the file")
    if not data.strip():
        raise ImportFailedError("the file is empty")
    try:
        return data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ImportFailedError("not UTF-8", f"line {line}, byte {error.start}") from None


def _name(path: Path) -> str:
    # macOS hands out file names in another normal form than ids have.
    name = plain = unicodedata.normalize("NFC", path.name)
    for suffix in (".gz", ".json", ".jsonl", ".traj"):
        plain = plain.removesuffix(suffix)
    return plain or name

"""Projections that people add: views as an SQL file, or tables as a Python class.

A class says, event by event, which rows an event amounts to. It sees one event at a time and keeps nothing in between, so what
its tables hold cannot depend on how events were batched, and an error has a stream and a version. `custom_tables.py` keeps the
rows, in the transaction in which the event's own row and the progress are kept.

Nothing here is named by a log or by a view file: what is imported and what is executed, the caller names.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ctxlog.core.evolve import KNOWN_TYPES
from ctxlog.errors import ProjectionError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_WORD = re.compile(r"""(?:"(?:[^"]|"")*"|'(?:[^']|'')*'|(?!--|/\*).)*""", re.S)
RESERVED = frozenset({"current", "information_schema", "main", "memory", "pg_catalog", "projection", "system", "temp", "views"})
"""Schemas and catalogs of DuckDB and of ctxlog. `current` is what the published file is called, and so its catalog."""

_VIEWS = ("VIEW", "MACRO", "FUNCTION")
_TABLES = ("TABLE", *_VIEWS)


class ProjectedEvent(NamedTuple):
    """An accepted event, as its row in `events` has it. Times are UTC without a zone; None where the column is null.

    Attributes:
        partition, record_offset, recorded_at: Where its record stands, and when the log took it.
        stream_id, version: Of which stream it is which version.
        decided_offset, decided_at: The record at which it was accepted; its own, or the last of its append.
        anomaly: Why it has no effect on the state of its stream; None where it has.
        type: Name of its schema.
        payload: Its members by name. Members that the log holds as JSON text are text.
    """

    partition: int
    record_offset: int
    recorded_at: datetime
    stream_id: str
    version: int
    decided_offset: int
    decided_at: datetime
    anomaly: str | None
    type: str
    event_id: str
    agent_id: str | None
    actor: str | None
    occurred_at: datetime | None
    scope: str
    target: str | None
    append_id: str | None
    causation_id: str | None
    correlation_id: str | None
    payload: dict[str, Any]


class Projection(ABC):
    """Tables that are made from events. Subclass it; `docs/how-to/add-a-view.md` shows one.

    Attributes:
        name: Of the projection, and of the schema that its tables stand in.
        version: Raise it when `project` gives other rows than before; the tables are then made anew from the first event on.
        tables: CREATE TABLE statements; CREATE VIEW and CREATE MACRO may follow. Columns have a name and a type and nothing
            else. Each table has one more column, `partition`, that is filled in.
        types: The event types that it is about; all where there are none.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    tables: ClassVar[str]
    types: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def project(self, event: ProjectedEvent) -> Iterable[tuple[str, Sequence[Any]]]:
        """The rows that an event amounts to: pairs of a table's name and a value for each of its columns.

        Called once for each accepted event; within a partition in the order in which they were accepted. It must be a function
        of the event alone: no clock, no randomness, no file, no network, nothing remembered.
        """

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"a projection keeps nothing between events, so {name!r} was not set; what it knows stands in its tables"
        )


class SqlViews(NamedTuple):
    """An SQL file that defines views and macros.

    Attributes:
        name: The file's without `.sql`: the schema that they stand in.
        text: Its statements.
        path: Where it was read.
    """

    name: str
    text: str
    path: str


class Definition(NamedTuple):
    """A projection, checked.

    Attributes:
        name: Of its schema.
        kind: `sql` or `python`.
        version: Where it is another than the file's, the schema is made anew.
        text: Its statements as they were written.
        source: What errors call it.
        statements: Them one by one, with the place of each; to be executed with its own schema first in the search path.
        types: Event types that `project` is called for; all where there are none.
        project: None where it has no tables to fill.
    """

    name: str
    kind: str
    version: str
    text: str
    source: str
    statements: tuple[tuple[str, str], ...]
    types: frozenset[str]
    project: Callable[[ProjectedEvent], Iterable[tuple[str, Sequence[Any]]]] | None


def load_projections(names: Sequence[str]) -> list[Projection | SqlViews]:
    """Projections by the names that the command line gives them: `FILE.sql`, or `module:Class`.

    Raises:
        ProjectionError: There is no such file, module or class, or it is no projection.
    """
    return [_file(name) if name.endswith(".sql") else _class(name) for name in names]


def _file(name: str) -> SqlViews:
    path = Path(name)
    try:
        return SqlViews(path.stem, path.read_text("utf-8"), name)
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ProjectionError(name, "", f"cannot be read: {why}", "Name an SQL file") from error


def _class(name: str) -> Projection:
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise ProjectionError(name, "", "expected FILE.sql or module:Class", "Name one of them")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as error:
        raise ProjectionError(
            name, "", f"importing {module_name} failed: {type(error).__name__}: {error}", "Python looks in PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Projection)):
        raise ProjectionError(name, "", f"{module_name} has no class {class_name} that is a Projection", "Name such a class")
    try:
        return found()
    except Exception as error:
        raise ProjectionError(
            name, "", f"it cannot be made: {type(error).__name__}: {error}", "A projection takes no arguments"
        ) from error


def definition_of(projection: Projection | SqlViews) -> Definition:
    """Check what can be checked of a projection without the file that it is for.

    Raises:
        ProjectionError: It has another form than a projection has, or statements that it may not have.
    """
    if isinstance(projection, SqlViews):
        _check_name(projection.name, projection.path)
        statements = tuple(_statements(projection.name, projection.path, projection.text, _VIEWS))
        version = sha256(projection.text.encode()).hexdigest()[:16]
        return Definition(projection.name, "sql", version, projection.text, projection.path, statements, frozenset(), None)
    source = f"{type(projection).__module__}:{type(projection).__qualname__}"
    members: tuple[Any, ...] = tuple(getattr(projection, member, None) for member in ("name", "version", "tables", "types"))
    name, number, text, types = members
    _check_name(name, source)
    if type(number) is not int or not isinstance(text, str):
        raise ProjectionError(source, "", "expected version: an integer, and tables: text", "Set them in the class")
    if not isinstance(types, (tuple, list)) or not all(isinstance(each, str) for each in types):
        raise ProjectionError(source, "", "expected types: names of event types", "Set them in the class")
    for short in types:
        if f"ctxlog.{short}" in KNOWN_TYPES:
            raise ProjectionError(source, "", f"there is no event type {short}", f"Write ctxlog.{short}")
    statements = tuple(_statements(name, source, text, _TABLES))
    form = sha256("\0".join((text, *sorted(set(types)))).encode()).hexdigest()[:16]
    return Definition(name, "python", f"{number} {form}", text, source, statements, frozenset(types), projection.project)


def _check_name(name: Any, source: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
        raise ProjectionError(
            source,
            "",
            f"{name!r} cannot be the name of a schema: expected a small letter, then small letters, digits and _, and none of "
            + ", ".join(sorted(RESERVED)),
            "Name it otherwise",
        )


def _statements(name: str, source: str, text: str, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The statements of a text, each with its place, once it is certain that they make nothing but `kinds` in one schema."""
    import duckdb

    try:
        found = duckdb.extract_statements(text)
    except duckdb.Error as error:
        at = re.search(r"^LINE (\d+):", str(error), re.M)
        raise ProjectionError(source, f"line {at[1]}" if at else "", said(error), "Correct it") from error
    if not found:
        raise ProjectionError(source, "", "expected statements, found none", f"It may hold {_listed(kinds)}")
    begin = 0
    for number, statement in enumerate(found, 1):
        begin = text.index(statement.query, begin)
        words, before = _words(statement.query)
        line = text.count("\n", 0, begin) + before.count("\n") + 1
        place = f"statement {number} (line {line})"
        begin += len(statement.query)
        if fault := _fault(name, words, kinds):
            raise ProjectionError(source, place, fault, f"It may hold {_listed(kinds)}, for names of its own schema {name}")
        # A table has one more column: of which partition a row is.
        yield place, "\n".join((*words[:-1], ", partition INTEGER)")) if _kind(words) == "TABLE" else statement.query


def _listed(kinds: Sequence[str]) -> str:
    return ", ".join(f"CREATE {kind}" for kind in kinds)


def _words(query: str) -> tuple[list[str], str]:
    """The words of a statement, as DuckDB tells them apart, without comments and what ends it; and what is before the first."""
    import duckdb

    encoded = query.encode()
    tokens = duckdb.tokenize(query)
    ends = [*(begin for begin, _ in tokens[1:]), len(encoded)]
    spans = [(begin, end) for (begin, kind), end in zip(tokens, ends, strict=True) if kind != duckdb.token_type.comment]
    # DuckDB before 2.0 takes a comment for the end of the word before it.
    words = [_WORD.match(encoded[begin:end].decode())[0].strip() for begin, end in spans]  # type: ignore[index] # matches any
    return words[:-1] if words and words[-1] == ";" else words, encoded[: spans[0][0] if spans else 0].decode()


def _kind(words: Sequence[str]) -> str:
    """What a CREATE statement makes; empty for others."""
    upper = [word.upper() for word in words[:4]]
    if upper[:1] != ["CREATE"]:
        return ""
    return (upper[3:4] if upper[1:3] == ["OR", "REPLACE"] else upper[1:2] or [""])[0] if len(upper) > 1 else ""


def _fault(name: str, words: Sequence[str], kinds: Sequence[str]) -> str | None:
    """Why a statement may not stand there."""
    kind = _kind(words)
    if kind not in kinds:
        return f"found {' '.join(word.upper() for word in words[:2])}"
    rest = list(words[4 if words[1].upper() == "OR" else 2 :])
    if rest and rest[0].upper() == "IF":
        return "found IF NOT EXISTS, which would leave what is there"
    parts = rest[:1]
    while len(rest) > 2 and rest[1] == ".":
        rest = rest[2:]
        parts.append(rest[0])
    if len(parts) > 1 and [_bare(part) for part in parts[:-1]] != [name]:
        return f"found {'.'.join(parts)}, a name of another schema"
    if kind == "TABLE" and not _NAME.fullmatch(_bare(parts[-1])):
        return f"found a table {parts[-1]}, a name of more than letters, digits and _"
    # Otherwise it is made from a query, and holds what that gave at the time.
    if kind == "TABLE" and (rest[1:2] != ["("] or _closing(rest[1:]) != len(rest) - 2):
        return "found a table that is not a list of columns"
    return None


def _bare(word: str) -> str:
    return word[1:-1].replace('""', '"').lower() if word.startswith('"') else word.lower()


def _closing(words: Sequence[str]) -> int:
    """Where the parenthesis that a list of words begins with is closed; -1 where it is not."""
    depth = 0
    for place, word in enumerate(words):
        # Operators that stand together may come as one word.
        depth += word.count("(") - word.count(")") if not word.startswith(("'", '"')) else 0
        if depth == 0:
            return place
    return -1


def said(error: Exception) -> str:
    """What DuckDB says of a statement."""
    return str(error).partition("\n")[0]

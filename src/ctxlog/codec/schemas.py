"""Schemas: which ones a log may carry, their canonical form, fingerprint and digest, and the shipped ones.

A schema that arrives in a log is hostile until `restrict` has walked it: no recursion, no enum, no union but null-or-T, no
`bytes` or `fixed`, no empty record. What is left cannot make a decoder spin, because every value takes at least one byte.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastavro.schema import fingerprint, to_parsing_canonical_form

from ctxlog.codec.strictjson import parse_json
from ctxlog.core.digests import schema_digest
from ctxlog.core.evolve import KNOWN_TYPES
from ctxlog.errors import SchemaError

SCHEMA_TEXT_BYTES_MAX = 64 * 1024
"""Part of the log format: a longer publication is void."""

SCHEMA_NESTING_MAX = 16
"""Part of the log format: records, arrays and maps inside one another, also where a record is only named."""

META_NAME: Final = "ctxlog.EventMeta"
CONTROL_NAME: Final = "ctxlog.ControlRecord"

_PRIMITIVES = frozenset({"boolean", "int", "long", "float", "double", "string"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TAKEN = _PRIMITIVES | {"null", "bytes"}
_KINDS = frozenset({"array", "enum", "error", "error_union", "fixed", "map", "record", "request", "union"})


class Schema:
    """A schema that a log may carry.

    Attributes:
        name: Full name of the record.
        text: The JSON text that is published.
        node: The restricted schema, without documentation, defaults and logical types; the bytes are the same.
        fingerprint: 64-bit Rabin fingerprint, hex in wire order.
        digest: SHA-256 of the Parsing Canonical Form, 32 bytes.
        readable: Whether the payload has all that the shipped schema of the same name has; true for other names.
    """

    __slots__ = ("digest", "fingerprint", "name", "node", "readable", "text")

    def __init__(self, text: str) -> None:
        """Read a schema.

        Raises:
            SchemaError: A log may not carry it; `reason` says why.
        """
        if len(text.encode(errors="surrogatepass")) > SCHEMA_TEXT_BYTES_MAX:
            raise SchemaError(f"the text is longer than {SCHEMA_TEXT_BYTES_MAX:,} bytes")
        try:
            source = parse_json(text)
        except ValueError:
            raise SchemaError("the text is not JSON") from None
        self.text = text
        self.node: dict[str, Any] = restrict(source)
        self.name: str = self.node["name"]
        canonical = to_parsing_canonical_form(self.node)
        self.fingerprint: str = fingerprint(canonical, "CRC-64-AVRO")
        self.digest = schema_digest(canonical)
        self.readable = True

    def check_event(self) -> None:
        """Check that this is the schema of an event: `meta` comes first and resolves to the shipped EventMeta.

        Raises:
            SchemaError: It is not.
        """
        fields = self.node["fields"]
        if fields[0]["name"] != "meta" or fields[0]["type"].__class__ is not dict or fields[0]["type"].get("name") != META_NAME:
            raise SchemaError(f"the first field is not 'meta' of type {META_NAME}")
        if not covers(fields[0]["type"], shipped_meta()):
            raise SchemaError(f"'meta' does not resolve to the shipped {META_NAME}")
        if self.name in KNOWN_TYPES:
            self.readable = covers(self.node, shipped(self.name).node)


def schema_digest_of(text: str) -> bytes:
    """Digest of a schema's text, whatever its documentation and order of members. Raises `SchemaError`."""
    return Schema(text).digest


def restrict(source: Any) -> dict[str, Any]:
    """The schema with names in full and references replaced once, holding only what a log may carry.

    Raises:
        SchemaError: It holds something else.
    """
    node = _Walk().walk(source, "", 0)
    if not isinstance(node, dict) or node["type"] != "record":
        raise SchemaError("the schema is not a record")
    return node


class _Walk:
    """One walk through a schema. Definitions come back in full where they stand first, and as their name later."""

    def __init__(self) -> None:
        self.heights: dict[str, int] = {}
        self.deepest = 0
        self.inside: set[str] = set()

    def walk(self, source: Any, namespace: str, depth: int) -> Any:
        if depth > SCHEMA_NESTING_MAX:
            raise SchemaError(f"nesting is deeper than {SCHEMA_NESTING_MAX}")
        self.deepest = max(self.deepest, depth)
        if isinstance(source, str):
            return self._reference(source, namespace, depth)
        if isinstance(source, list):
            return self._union(source, namespace, depth)
        if not isinstance(source, dict):
            raise SchemaError("a type is neither a name, a union nor an object")
        kind = source.get("type")
        if isinstance(kind, dict | list):
            return self.walk(kind, namespace, depth + 1)
        if kind == "record":
            return self._record(source, namespace, depth)
        if kind == "array":
            return {"type": "array", "items": self.walk(source.get("items"), namespace, depth + 1)}
        if kind == "map":
            return {"type": "map", "values": self.walk(source.get("values"), namespace, depth + 1)}
        if isinstance(kind, str):
            return self._reference(kind, namespace, depth)
        raise SchemaError("an object has no type")

    def _reference(self, name: str, namespace: str, depth: int) -> str:
        if name in _PRIMITIVES:
            return name
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if full in self.inside:
            raise SchemaError("a record holds itself")
        if full not in self.heights:
            raise SchemaError("a type is not allowed, or not defined before its use")
        # A chain of named records is as deep as the same records written out, and fans out as wide.
        if depth + self.heights[full] > SCHEMA_NESTING_MAX:
            raise SchemaError(f"nesting is deeper than {SCHEMA_NESTING_MAX}")
        self.deepest = max(self.deepest, depth + self.heights[full])
        return full

    def _union(self, branches: list[Any], namespace: str, depth: int) -> list[Any]:
        if len(branches) != 2 or branches[0] not in ("null", {"type": "null"}) or isinstance(branches[1], list):
            raise SchemaError("a union is not null-or-T with null first")
        return ["null", self.walk(branches[1], namespace, depth)]

    def _record(self, source: dict[str, Any], namespace: str, depth: int) -> dict[str, Any]:
        full = _full_name(source, namespace)
        if full in self.heights or full in self.inside:
            raise SchemaError("a name is defined twice")
        fields = source.get("fields")
        if not isinstance(fields, list) or not fields:
            raise SchemaError("a record has no fields")
        self.inside.add(full)
        outside, self.deepest = self.deepest, depth
        names: set[str] = set()
        restricted = []
        for field in fields:
            name = field.get("name") if isinstance(field, dict) else None
            if not isinstance(name, str) or not _NAME.match(name) or name in names:
                raise SchemaError("a field has no name of its own")
            names.add(name)
            restricted.append({"name": name, "type": self.walk(field.get("type"), full.rpartition(".")[0], depth + 1)})
        self.inside.discard(full)
        self.heights[full] = self.deepest - depth
        self.deepest = max(outside, self.deepest)
        return {"type": "record", "name": full, "fields": restricted}


def _full_name(source: dict[str, Any], namespace: str) -> str:
    name, own = source.get("name"), source.get("namespace")
    if not isinstance(name, str) or not (own is None or isinstance(own, str)):
        raise SchemaError("a record has no name")
    full = name if "." in name else ".".join(filter(None, (namespace if own is None else own, name)))
    if not all(map(_NAME.match, full.split("."))) or full.rpartition(".")[2] in _TAKEN or full in _KINDS:
        raise SchemaError("a name is not an Avro name")
    if namespace and "." not in full:
        # Written out in full, it could not be told from a name of the namespace around it.
        raise SchemaError("a name without a namespace stands inside one")
    return full


def covers(writer: Any, reader: Any) -> bool:
    """Whether data of the restricted schema `writer` has every field of `reader`, each with the same type.

    The writer may have more fields; they are carried and not interpreted.
    """
    return _covers(writer, reader, _definitions(writer), _definitions(reader))


def _covers(writer: Any, reader: Any, in_writer: dict[str, Any], in_reader: dict[str, Any]) -> bool:
    if isinstance(writer, str):
        writer = in_writer.get(writer, writer)
    if isinstance(reader, str):
        reader = in_reader.get(reader, reader)
    if isinstance(reader, str):
        return bool(writer == reader)
    if isinstance(reader, list):
        return isinstance(writer, list) and _covers(writer[1], reader[1], in_writer, in_reader)
    if not isinstance(writer, dict) or writer["type"] != reader["type"]:
        return False
    if reader["type"] != "record":
        inner = "items" if reader["type"] == "array" else "values"
        return _covers(writer[inner], reader[inner], in_writer, in_reader)
    theirs = {field["name"]: field["type"] for field in writer["fields"]}
    return all(
        field["name"] in theirs and _covers(theirs[field["name"]], field["type"], in_writer, in_reader)
        for field in reader["fields"]
    )


def _definitions(node: Any) -> dict[str, Any]:
    """Every record defined in a restricted schema, by full name."""
    found: dict[str, Any] = {}
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.append(node[1])
        elif isinstance(node, dict):
            if node["type"] == "record":
                found[node["name"]] = node
                pending.extend(field["type"] for field in node["fields"])
            else:
                pending.append(node.get("items", node.get("values")))
    return found


def _shipped_text(name: str) -> str:
    packaged = Path(__file__).parents[1] / "schemas" / f"{name}.avsc"  # importlib.resources would take longer than the rest.
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(__file__).parents[3] / "schemas" / f"{name}.avsc").read_text("utf-8")


@cache
def shipped_meta() -> dict[str, Any]:
    """The restricted schema of the shipped EventMeta."""
    return restrict(json.loads(_shipped_text(META_NAME)))


@cache
def shipped(name: str) -> Schema:
    """A shipped schema, self-contained: EventMeta stands in it in full.

    Raises:
        FileNotFoundError: No such schema is shipped.
    """
    source = json.loads(_shipped_text(name))
    if source["fields"][0]["type"] == META_NAME:
        source["fields"][0]["type"] = json.loads(_shipped_text(META_NAME))
    return Schema(json.dumps(source, ensure_ascii=False, separators=(",", ":")))

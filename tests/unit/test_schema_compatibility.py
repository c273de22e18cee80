"""The gate in front of schema changes: every shipped schema and every released one of the same name read each other's data.

FULL_TRANSITIVE, checked by Apache's own implementation. A change that fails here needs a new event type, never an edit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from ctxlog.codec.schemas import CONTROL_NAME, Schema, shipped
from ctxlog.core.evolve import KNOWN_TYPES
from ctxlog.model.events import EVENT_TYPES

SCHEMAS = Path(__file__).parents[2] / "schemas"
NAMES = sorted({*KNOWN_TYPES, CONTROL_NAME})
RELEASED = sorted((SCHEMAS / "released").glob("*/*.avsc"))


def reads(reader: str, writer: str) -> bool:
    result = ReaderWriterCompatibilityChecker().get_compatibility(avro.schema.parse(reader), avro.schema.parse(writer))
    return bool(result.compatibility is SchemaCompatibilityType.compatible)


def both_ways(one: str, other: str) -> bool:
    return reads(one, other) and reads(other, one)


def test_every_schema_file_is_one_that_is_shipped() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.avsc")} == {*NAMES, "ctxlog.EventMeta"}


@pytest.mark.parametrize("name", NAMES)
def test_shipped_and_released_schemas_of_a_name_read_each_other(name: str) -> None:
    texts = [shipped(name).text, *(path.read_text("utf-8") for path in RELEASED if path.parent.name == name)]
    assert all(both_ways(one, other) for one in texts for other in texts)


@pytest.mark.parametrize("path", RELEASED or [None])
def test_a_released_schema_stands_under_its_fingerprint(path: Path | None) -> None:
    """A released text never changes: its name is its content."""
    if path is None:
        return  # Nothing was released yet.
    assert Schema(path.read_text("utf-8")).fingerprint == path.stem


def _changed(change: str) -> str:
    source: dict[str, Any] = json.loads(shipped("ctxlog.FactSet").text)
    match change:
        case "new field without default":
            source["fields"].append({"name": "weight", "type": "long"})
        case "field removed that had no default":
            source["fields"] = [field for field in source["fields"] if field["name"] != "value"]
        case "other type":
            next(field for field in source["fields"] if field["name"] == "value")["type"] = "long"
        case "new field with default":
            source["fields"].append({"name": "weight", "type": ["null", "long"], "default": None})
    return json.dumps(source)


@pytest.mark.parametrize("change", ["new field without default", "field removed that had no default", "other type"])
def test_the_gate_finds_a_breaking_change(change: str) -> None:
    assert not both_ways(shipped("ctxlog.FactSet").text, _changed(change))


def test_the_gate_lets_an_optional_field_pass() -> None:
    assert both_ways(shipped("ctxlog.FactSet").text, _changed("new field with default"))


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.__name__)
def test_the_model_of_an_event_has_the_fields_of_its_schema(kind: Any) -> None:
    """People write models, the log holds schemas; a field that only one of them has would be lost without a word."""
    fields = [field["name"] for field in shipped(kind.type_name).node["fields"]]
    assert {"meta", *kind.model_fields} == set(fields)


def test_every_event_type_has_a_model_and_a_place_in_the_fold() -> None:
    assert {kind.type_name for kind in EVENT_TYPES} == KNOWN_TYPES


def test_fingerprints_and_digests_are_of_the_files_as_strangers_read_them() -> None:
    """The published text is self-contained; a reader with the files alone comes to the same fingerprint (source: Avro
    specification, Parsing Canonical Form for Schemas)."""
    from fastavro.schema import fingerprint, load_schema, to_parsing_canonical_form

    for name in NAMES:
        canonical = to_parsing_canonical_form(load_schema(SCHEMAS / f"{name}.avsc"))
        assert shipped(name).fingerprint == fingerprint(canonical, "CRC-64-AVRO")
        assert to_parsing_canonical_form(shipped(name).node) == canonical

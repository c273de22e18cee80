"""`ctxlog schemas`: the schemas that a log carries, and those of a schema registry. Appends never wait for what is done here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ctxlog.cli import text
from ctxlog.cli.output import line, note, paint, print_list
from ctxlog.cli.session import Opened, Session, log_option, output_option
from ctxlog.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxlog.codec.partition import PartitionContext
    from ctxlog.codec.schemas import Schema
    from ctxlog.log.kafka.registry import Registry

MISSING, CONTRADICTED = 1, 3


@click.group(
    "schemas",
    short_help="List, check and register schemas",
    epilog="\b\nExamples:\n  ctxlog schemas list\n  ctxlog schemas check -o json\n"
    "  ctxlog schemas register --log 'kafka://localhost:9092?registry=http://localhost:8081'",
)
def schemas_command() -> None:
    """The schemas that the log carries, and those of the schema registry that the log's URL names (?registry=URL)."""


@schemas_command.command("list", short_help="List the schemas that the log carries")
@log_option
@output_option
@click.pass_obj
def list_command(session: Session) -> None:
    """List the schemas that the log carries, each with the names that frame its events and the partitions that have it."""
    with session.reading() as opened:
        found = _carried(opened)
    if not session.people:
        print_list("schemas", found, session.output)
        return
    if not found:
        note("the log carries no schema yet: each is published with its first event.")
        return
    rows = [
        (
            row["name"],
            row["fingerprint"],
            ", ".join(map(str, row["registry_ids"])) or "-",
            f"{len(row['partitions'])}",
            "this release's" if row["shipped"] else "another",
        )
        for row in found
    ]
    _print_table(("SCHEMA", "FINGERPRINT", "REGISTRY ID", "PARTITIONS", "VERSION"), rows, right=(3,))


@schemas_command.command("check", short_help="Compare this release's schemas with log and registry")
@log_option
@output_option
@click.pass_obj
def check_command(session: Session) -> None:
    """Compare the schemas of this release with those of the log and of the registry. Changes nothing.

    Exits with 1 where the registry lacks one, and with 3 where one contradicts: another schema under its name in the log that
    this release cannot read, or one that the registry would not take.
    """
    with session.reading() as opened:
        carried = _carried(opened)
        found = compare(carried, opened.registry)
    statuses = {row["status"] for row in found}
    _print_compared(found, session)
    click.get_current_context().exit(CONTRADICTED if "contradicts" in statuses else MISSING if "missing" in statuses else 0)


@schemas_command.command("register", short_help="Register this release's schemas, and publish their ids in the log")
@log_option
@output_option
@click.pass_obj
def register_command(session: Session) -> None:
    """Register the schemas of this release, and publish them with their ids in every partition. Run again, it changes nothing.

    After it no writer asks the registry any more. Exits with 3 where a schema contradicts, as `ctxlog schemas check` says it, and
    registers none.
    """
    from ctxlog.log.publication import Publisher

    with session.reading() as opened:
        if opened.registry is None:
            raise InvalidInputError(
                "the log's URL names no registry: kafka://HOST:PORT?registry=http://HOST:PORT; nothing was done"
            )
        # First of all: a subject that is held to nothing finds everything compatible.
        for schema in shipped_schemas():
            opened.registry.hold(schema)
        contradicting = [row for row in compare(_carried(opened), opened.registry) if row["status"] == "contradicts"]
        if contradicting:
            _print_compared(contradicting, session)
            note("nothing was registered or published. See who else writes to these subjects, or to this log.", kind="Error")
            click.get_current_context().exit(CONTRADICTED)
        found = [{"name": schema.name, "registry_id": opened.registry.register(schema)} for schema in shipped_schemas()]
        publisher = Publisher(opened.log, opened.replayer.reader, opened.registry)
        for partition in range(opened.log.partitions):
            publisher.ensure(partition, [schema.name for schema in shipped_schemas()])
    if session.people:
        for row in found:
            line(f"registered  {row['name']}  id {row['registry_id']}")
        line(f"published in {text.count(opened.log.partitions, 'partition')}")
    else:
        print_list("schemas", found, session.output)


def shipped_schemas() -> list[Schema]:
    """The schemas of this release."""
    from ctxlog.codec.schemas import shipped
    from ctxlog.core.evolve import KNOWN_TYPES

    return [shipped(name) for name in sorted(KNOWN_TYPES)]


def _carried(opened: Opened) -> list[dict[str, Any]]:
    """Each schema that the log carries, by name."""
    return carried(
        (partition, opened.replayer.reader.context(partition, opened.log.bounds(partition).end))
        for partition in range(opened.log.partitions)
    )


def carried(contexts: Iterable[tuple[int, PartitionContext]]) -> list[dict[str, Any]]:
    """Each schema that the control records of partitions publish, by name."""
    from ctxlog.codec.framing import registry_id_of

    ours = {schema.digest for schema in shipped_schemas()}
    found: dict[bytes, dict[str, Any]] = {}
    for partition, context in contexts:
        for prefix, published in context.published.items():
            schema = published.decoder.schema
            row = found.setdefault(
                schema.digest,
                {
                    "name": schema.name,
                    "fingerprint": schema.fingerprint,
                    "digest": schema.digest.hex(),
                    "registry_ids": [],
                    "partitions": [],
                    "shipped": schema.digest in ours,
                    "readable": schema.readable,
                },
            )
            registry_id = registry_id_of(prefix)
            if registry_id is not None and registry_id not in row["registry_ids"]:
                row["registry_ids"].append(registry_id)
            if partition not in row["partitions"]:
                row["partitions"].append(partition)
    return sorted(found.values(), key=lambda row: (row["name"], row["fingerprint"]))


def compare(carried: list[dict[str, Any]], registry: Registry | None) -> list[dict[str, Any]]:
    """Each schema of this release, and what log and registry say to it: `ok`, `missing` or `contradicts`."""
    return [_checked(schema, carried, registry) for schema in shipped_schemas()]


def _checked(schema: Schema, carried: list[dict[str, Any]], registry: Registry | None) -> dict[str, Any]:
    row = {"name": schema.name, "fingerprint": schema.fingerprint}
    if any(other["name"] == schema.name and not other["readable"] for other in carried):
        return {
            **row,
            "status": "contradicts",
            "found": "the log carries a schema of this name that lacks what this release reads",
        }
    mine = [other for other in carried if other["digest"] == schema.digest.hex()]
    partitions = f"in {text.count(len(mine[0]['partitions']), 'partition')} of the log" if mine else "not in the log yet"
    if registry is None:
        return {**row, "status": "ok", "found": partitions}
    registry_id = registry.look_up(schema)
    if registry_id is None:
        if not registry.compatible(schema):
            return {**row, "status": "contradicts", "found": "not compatible with what the registry holds under its subject"}
        return {**row, "status": "missing", "found": "not in the registry: `ctxlog schemas register`"}
    claimed = [
        other["name"] for other in carried if registry_id in other["registry_ids"] and other["digest"] != schema.digest.hex()
    ]
    if claimed:
        return {**row, "status": "contradicts", "found": f"the log has id {registry_id} for {claimed[0]}"}
    level = registry.level(schema)
    if level != "FULL_TRANSITIVE":
        return {**row, "status": "missing", "found": f"its subject is held to {level}: `ctxlog schemas register`"}
    return {**row, "status": "ok", "found": f"{partitions}, id {registry_id} in the registry"}


def _print_compared(found: list[dict[str, Any]], session: Session) -> None:
    if not session.people:
        print_list("schemas", found, session.output)
    else:
        _print_table(("SCHEMA", "STATUS", "FOUND"), [(row["name"], row["status"], text.visible(row["found"])) for row in found])


def _print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    for number, (whole, _) in enumerate(text.table(head, list(rows), right=right)):
        line(whole if number else paint(whole, dim=True))

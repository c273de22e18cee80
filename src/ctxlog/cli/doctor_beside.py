"""What `ctxlog doctor` says of what stands beside a log on Kafka: the stream index and the schema registry."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxlog.cli import text
from ctxlog.cli.doctor import Check, nearest
from ctxlog.errors import CtxlogError, LogOpenError, StorageError

if TYPE_CHECKING:
    from ctxlog.log.kafka.clients import Clients
    from ctxlog.log.kafka.location import Location
    from ctxlog.replay.index_look import IndexLook

LOOKED_OFFSETS_MAX = 200
"""How far each partition is looked through for the schemas that it carries. `ctxlog schemas register` on a new log puts all of
them below it; to find what was published later would take a scan."""


def index_checks(location: Location, log_id: str | None, ends: Mapping[int, int]) -> Iterator[Check]:
    """The stream index: whether it is on, and fit for use, and how far it has come. `ends` are those of the partitions."""
    from ctxlog.replay.index_look import look_at_index
    from ctxlog.wiring import INDEX_FILE, cache_folder

    if location.cache == "off":
        yield Check(
            "index", "note", "off: each read of a stream by a new process reads its partition", "Without &cache=off it is kept."
        )
        return
    if log_id is None:
        yield Check("index", "note", "not looked at: which log it would be of is not known")
        return
    folder = cache_folder(location.cache, log_id)
    if folder is None:
        yield Check("index", "warning", "off: there is no folder for it", "Name one with &cache=FOLDER.")
        return
    path = folder / INDEX_FILE
    look = look_at_index(path)
    writable = _writable(path)
    if not writable:
        yield Check(
            "index",
            "warning",
            f"{path} cannot be written: reads go on without what is new",
            "Make file and folder this user's own, or name another folder with &cache=FOLDER.",
        )
    if look is None:
        if writable:
            yield Check("index", "ok", f"{path}: not there yet, the first read makes it")
        return
    yield _state(path, look, ends)


def _state(path: Path, look: IndexLook, ends: Mapping[int, int]) -> Check:
    from ctxlog.cli.doctor_kafka import lag_of

    shown = f"{path}, {text.size(look.bytes)}"
    if look.damage is not None:
        return Check(
            "index", "warning", f"{shown}: {look.damage}", "Delete it while nobody uses it: the next read makes it anew."
        )
    reached = {partition: look.progress[partition].next_offset if partition in look.progress else 0 for partition in ends}
    if any(reached[partition] > end for partition, end in ends.items()):
        return Check(
            "index",
            "warning",
            f"{shown}: it has more than the topic: it is that of a topic that was rewound or made again",
            "Run `ctxlog verify`, against a manifest or a copy if there is one. The next read makes the index anew.",
        )
    through = "" if look.checked else "; too large to be read through here"
    return Check(
        "index", "ok", f"{shown}: {lag_of({partition: end - reached[partition] for partition, end in ends.items()})}{through}"
    )


def _writable(path: Path) -> bool:
    """Whether an index can be kept there."""
    folder = nearest(path.parent)
    fit = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return fit and (not path.exists() or os.access(path, os.R_OK | os.W_OK))


def registry_checks(location: Location, clients: Clients | None, ends: Mapping[int, int]) -> Iterator[Check]:
    """The schema registry that the URL names, compared with this release and with the log; nothing where it names none."""
    if location.registry is None:
        return
    from ctxlog.cli.schemas import carried, compare, shipped_schemas
    from ctxlog.log.kafka.health import contexts
    from ctxlog.log.kafka.location import Properties
    from ctxlog.log.kafka.registry import Registry

    registry = Registry(location.registry, location.topic, Properties.read(location.properties).registry)
    looked = {partition: min(end, LOOKED_OFFSETS_MAX) for partition, end in ends.items()}
    published: list[dict[str, Any]] = []
    if clients is not None:
        try:
            published = carried(contexts(clients, looked).items())
        except CtxlogError as error:
            yield Check("registry", "failed", f"the schemas that the log carries could not be read: {error}")
    try:
        rows = compare(published, registry)
    except StorageError as error:
        yield Check(
            "registry",
            "failed",
            str(error),
            "Start it, or correct registry= in the URL. Until then a partition takes only events whose schemas it has.",
        )
        return
    except LogOpenError as error:  # It says what to do.
        yield Check("registry", "failed", str(error))
        return
    faulty: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            faulty.setdefault((row["status"], row["found"]), []).append(row["name"])
    for (status, found), names in faulty.items():
        advice = (
            "Run `ctxlog schemas register`."
            if status == "missing"
            else "Register nothing. See `ctxlog schemas check`, and who else writes to these subjects or to this topic."
        )
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield Check("registry", "failed", f"{', '.join(names[:3])}{more}: {found}", advice)
    if faulty:
        return
    yield Check("registry", "ok", f"{location.registry} has the {len(rows)} schemas of this release")
    everywhere = {row["digest"] for row in published if row["registry_ids"] and len(row["partitions"]) == len(ends)}
    later = [schema.name for schema in shipped_schemas() if schema.digest.hex() not in everywhere]
    if later and ends:
        cut = (
            f", as far as the first {LOOKED_OFFSETS_MAX} offsets of each show" if max(ends.values()) > LOOKED_OFFSETS_MAX else ""
        )
        yield Check(
            "registry",
            "note",
            f"{text.count(len(later), 'schema')} not in every partition of the log yet{cut}: the first event asks the registry",
            "`ctxlog schemas register` publishes them, and no writer asks any more.",
        )

"""From what callers say to encoded events: options, meta, preconditions, validation. Imported by the first append."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ctxlog.client.headers import Headers
from ctxlog.client.options import AppendOptions, Encoded, Writer
from ctxlog.codec.avro import encode_event
from ctxlog.core.arbitration import APPEND_EVENTS_MAX
from ctxlog.errors import InvalidInputError, UndecodableError
from ctxlog.model.events import ContextRead, Event, micros
from ctxlog.model.ids import broken_rule, check_actor, check_id
from ctxlog.model.state import NUMBER_MAX
from ctxlog.uuids import uuid7

_HEAD = re.compile(r"[0-9a-f]{64}")


_OPTIONS = frozenset(AppendOptions.__annotations__)


def batch_of(events: Event | Sequence[Event]) -> list[Event]:
    """The events of an append, of which there may be one."""
    return [events] if isinstance(events, Event) else list(events)


def encode(event: Event, meta: dict[str, Any], headers: Headers) -> Encoded:
    """Encode an event. Raises `InvalidInputError` where no reader could decode it."""
    try:
        # What has no models inside is its own dictionary of members; a dump would only copy it.
        payload = event.model_dump() if isinstance(event, ContextRead) else vars(event)
        return Encoded(event.type_name, encode_event(event.type_name, meta, payload), headers)
    except UnicodeEncodeError:
        raise InvalidInputError("a text holds a lone surrogate, which UTF-8 cannot carry; nothing was appended") from None
    except UndecodableError as error:
        raise InvalidInputError(f"{event.type_name}: {error.reason}; nothing was appended") from None


def ids_of(batch: Sequence[Event], options: AppendOptions) -> list[str]:
    """The ids of the events of an append. Raises `InvalidInputError`, and `TypeError` for an option that does not exist."""
    if not options.keys() <= _OPTIONS:
        # A precondition that is spelled wrong must not be one that is left out.
        unknown = ", ".join(sorted(options.keys() - _OPTIONS))
        raise TypeError(f"no such option of an append: {unknown}; nothing was appended")
    if not 1 <= len(batch) <= APPEND_EVENTS_MAX:
        raise InvalidInputError(f"an append has 1 to {APPEND_EVENTS_MAX:,} events, not {len(batch):,}; nothing was appended")
    if not all(isinstance(event, Event) for event in batch):
        raise InvalidInputError("an append takes events of ctxlog.model.events; nothing was appended")
    return given_ids(len(batch), options) or [uuid7() for _ in batch]


def given_ids(count: int, options: AppendOptions) -> list[str]:
    """The ids that the caller gives to `count` events; empty where none are given. Raises `InvalidInputError`."""
    given: Any = options.get("event_ids")
    if given is None:
        return []
    ids = [check_id("event id", event_id) for event_id in given] if isinstance(given, Sequence) else []
    if isinstance(given, str) or len(ids) != count or len(set(ids)) != count:
        raise InvalidInputError(f"event_ids: expected {count} different ids, one an event; nothing was appended")
    return ids


def metas_of(writer: Writer, batch: Sequence[Event], event_ids: Sequence[str], options: AppendOptions) -> list[dict[str, Any]]:
    occurred_at = options["occurred_at"] if "occurred_at" in options else time.time_ns() // 1000
    try:
        occurred_us = micros(occurred_at)
    except ValueError as error:
        raise InvalidInputError(f"occurred_at: {error}; nothing was appended") from None
    if occurred_us is not None and (type(occurred_us) is not int or not -NUMBER_MAX <= occurred_us <= NUMBER_MAX):
        raise InvalidInputError("occurred_at: expected a datetime with a zone, or µs since 1970 UTC; nothing was appended")
    causation_id, correlation_id = options.get("causation_id") or None, options.get("correlation_id") or None
    for what, value in (("causation id", causation_id), ("correlation id", correlation_id)):
        if value is not None:
            check_id(what, value)
    trace = {"causation_id": causation_id, "correlation_id": correlation_id} if causation_id or correlation_id else None
    expected = options.get("expected_targets") or {}
    if not isinstance(expected, Mapping):
        raise InvalidInputError('expected_targets: expected versions by target, as in {"fact:limit": 3}; nothing was appended')
    targets = dict(expected)
    for number in targets.values():
        _check_version("expected_targets", number)
    actor = check_actor(options["actor"]) if "actor" in options else _default_actor(writer)
    scope = check_id("scope", options.get("scope", "default"))
    metas = []
    for index, (event, event_id) in enumerate(zip(batch, event_ids, strict=True)):
        target = event.target()
        metas.append(
            {
                "event_id": event_id,
                "stream_id": writer.stream_id,
                "agent_id": writer.agent_id,
                "actor": actor,
                "occurred_at": occurred_us,
                "scope": scope,
                "target": target,
                "append": {"id": event_ids[0], "index": index, "count": len(batch)} if len(batch) > 1 else None,
                "precondition": _precondition(index, options, targets.pop(target, None) if target else None),
                "trace": trace,
                "privacy": None,
            }
        )
    if targets:
        raise InvalidInputError(f"expected_targets: the append changes none of {sorted(map(str, targets))}; nothing was appended")
    return metas


def _default_actor(writer: Writer) -> str:
    if (rule := broken_rule(writer.actor)) is not None:  # `agent:` and an agent's id may together be too long for an id.
        raise InvalidInputError(f"actor, made of the agent's id: {rule}; nothing was appended. Name another actor.")
    return writer.actor


def make_event(kind: type[Event], /, **fields: Any) -> Event:
    try:
        return kind(**fields)
    except ValidationError as error:
        raise InvalidInputError(f"{kind.__name__}: {_reasons(error)}; nothing was appended") from None


def _reasons(error: ValidationError) -> str:
    """Each field with the rule that it breaks; "Value error" is what pydantic puts before the rules that are ours."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_input=False, include_url=False)
    )


def _precondition(index: int, options: AppendOptions, expected_target: int | None) -> dict[str, Any] | None:
    version, head = (options.get("expected_version"), options.get("expected_head")) if index == 0 else (None, None)
    if version is None and head is None and expected_target is None:
        return None
    if version is not None:
        _check_version("expected_version", version)
    if head is not None and not _HEAD.fullmatch(str(head)):
        raise InvalidInputError("expected_head: expected 64 lower-case hex digits; nothing was appended")
    return {"expected_version": version, "expected_head": head, "expected_target_version": expected_target}


def _check_version(name: str, number: Any) -> None:
    if type(number) is not int or not 0 <= number <= NUMBER_MAX:
        raise InvalidInputError(f"{name}: expected a version from 0, found {number!r}; nothing was appended")


def expectation(options: AppendOptions) -> str:
    """The preconditions, for the message of a conflict."""
    said: list[str] = []
    if options.get("expected_version") is not None:
        said.append(f"version {options['expected_version']}")
    if options.get("expected_head") is not None:
        said.append(f"chain head {options['expected_head']}")
    said.extend(f"{target} at version {version}" for target, version in (options.get("expected_targets") or {}).items())
    return ", ".join(said) or "new event ids"

"""The history of a fact, message or call, as people read it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ctxlog.cli import text
from ctxlog.cli.context import value_columns
from ctxlog.cli.events import short_type
from ctxlog.cli.output import line, note, paint
from ctxlog.model.points import format_time

if TYPE_CHECKING:
    from ctxlog.audit.blame import Blame, Cause, Change


def print_blame(found: Blame) -> None:
    """Print who set it, what led to that, and its history. Expiry is judged by this machine's clock now."""
    now_us = time.time_ns() // 1000
    line(paint(f"{found.kind} {text.one_line(found.key)}", bold=True) + f"  {text.visible(found.stream_id)}@{found.version}")
    if found.last is None:
        line("Nothing that was written about it had an effect.")
    else:
        _print_last(found.last, now_us)
        for number, cause in enumerate(found.causes):
            line(f"  {'caused by' if number == 0 else '':<11}{_cause(cause)}")
    line()
    line(paint("History", bold=True) + paint("  oldest first", dim=True))
    if found.left_out:
        line(paint(f"  … {text.count(found.left_out, 'earlier change')}; without -n they are shown", dim=True))
    for change in found.history:
        _print_change(change, found.stream_id, now_us)
    if found.also:
        note(f"there is a {' and a '.join(found.also)} under this name too: {found.also[0]}:{found.key} asks for it.")


def _print_last(change: Change, now_us: int) -> None:
    event = change.event
    value = "" if change.value is None else f" {text.clip(text.one_line(change.value), value_columns(14 + len(change.change)))}"
    line(f"  {'now':<11}{change.change}{value}{_expiry(change, now_us)}")
    line(f"  {'by':<11}{text.one_line(event.actor)}, as it says")
    line(f"  {'recorded':<11}{text.clock(event.recorded_at)}, by the log's clock")
    said = "unknown" if event.occurred_at is None else format_time(event.occurred_at)
    line(f"  {'occurred':<11}{said}, by the writer's clock")
    line(f"  {'at':<11}{text.visible(event.stream_id)}@{event.version}, partition {event.partition}, offset {event.offset}")
    line(f"  {'event':<11}{text.one_line(event.event_id)}")


def _cause(cause: Cause) -> str:
    name = text.one_line(cause.id)
    if cause.event is None:
        return f"{name}, which is neither in this context nor among the decisions"
    where = f"{text.visible(cause.event.stream_id)}@{cause.event.version}"
    if cause.found == "decision":
        return f"decision {name}, {text.one_line(cause.what or '')}, {where}"
    return f"event {name}, {short_type(cause.what or '')}, {where}"


def _print_change(change: Change, stream_id: str, now_us: int) -> None:
    event = change.event
    place = f"{event.version}" if event.stream_id == stream_id else f"{text.visible(event.stream_id)}@{event.version}"
    remark = f"  no effect: {change.no_effect}" if change.no_effect is not None else _expiry(change, now_us)
    if change.decision is not None:
        remark += f"  decision {text.one_line(change.decision)}"
    head = f"{place:>6}  {text.clock(event.recorded_at)}  {text.pad(change.change, 10)}  {text.one_line(event.actor)}"
    room = value_columns(text.width_of(head) + text.width_of(remark) + 2)
    value = "" if change.value is None else f"  {text.clip(text.one_line(change.value), room)}"
    line(f"{paint(head, dim=change.no_effect is not None)}{value}{paint(remark, dim=True)}".rstrip())


def _expiry(change: Change, now_us: int) -> str:
    if change.expires_at is None:
        return ""
    return f"  {'expired' if change.expires_at <= now_us else 'expires'} {format_time(change.expires_at)}"

"""A context as people read it: a head, the facts, the conversation, what is open, what had no effect."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ctxlog.cli import text
from ctxlog.cli.output import columns, line, note, paint
from ctxlog.model.points import format_time

if TYPE_CHECKING:
    from ctxlog.model.state import ContextState, Fact, Message, ToolCall
    from ctxlog.replay.manifest import Replay

WIDEST = 100
"""Columns of running text at most; longer lines are hard to read."""

LINES_MAX = 12
"""Lines of one message that are shown without --full."""

VALUE_COLUMNS = 400
"""Columns of a fact or of arguments where the output is no terminal."""

ROLE_COLOURS = {"user": "green", "assistant": "blue", "tool": "cyan", "system": "magenta", "developer": "magenta"}
STATUS_COLOURS = {"open": "yellow", "returned": "green", "failed": "red"}


def print_context(replay: Replay, *, last: int | None, full: bool) -> None:
    """Print a state with its anomalies. Expiry and leases are judged by this machine's clock now."""
    state, now_us = replay.state, time.time_ns() // 1000
    print_head(replay)
    if state.version == 0:
        return
    if state.facts:
        _heading("Facts", len(state.facts))
        _facts(state, now_us)
    _heading("Messages", len(state.messages))
    skipped = 0 if last is None else max(0, len(state.messages) - last)
    if skipped:
        line(paint(f"  … {text.count(skipped, 'earlier message')}; without -n they are shown", dim=True))
    cut = False
    for message in state.messages[skipped:]:
        cut |= _message(message, state, full)
    opened = {call_id: call for call_id, call in state.tool_calls.items() if call.status == "open"}
    if opened:
        _heading("Open calls", len(opened))
        for call_id, call in opened.items():
            line(f"  {_call(call, value_columns(4))}")
            line(paint(f"    {text.one_line(call_id)}{_lease(call, now_us)}", dim=True))
    if replay.anomalies:
        _heading("Anomalies", len(replay.anomalies), "accepted, without effect")
        for anomaly in replay.anomalies:
            line(f"  version {anomaly.version}  {text.one_line(anomaly.type)}  {paint(anomaly.reason, fg='yellow')}")
    if cut:
        note("long messages were cut; --full shows them whole.")


def print_head(replay: Replay) -> None:
    """What it is, where it stands, and what to know about the answer."""
    state, manifest = replay.state, replay.manifest
    when = f" · {text.clock(manifest.recorded_at)}" if manifest.recorded_at is not None else ""
    closed = " · closed" if state.closed else ""
    line(paint(text.visible(state.stream_id), bold=True))
    line(paint(f"version {state.version} · head {state.chain_head[:12]}{when}{closed}", dim=True))
    if state.parent is not None:
        line(paint(f"goes on from {text.visible(state.parent.stream_id)}@{state.parent.version}", dim=True))
    if state.version == 0:
        line("The empty context: nothing was accepted up to this point.")
    warn_of(replay)


def warn_of(replay: Replay) -> None:
    """Say on stderr what makes an answer weaker than it looks."""
    if replay.manifest.provisional:
        note("provisional: the log's partition has no record later than that time, so some may still come that belong before it.")
    if replay.manifest.clock == "writer":
        note("by the writers' clocks (occurred_at), which are claims; time: asks the log's clock.")


def value_columns(used: int) -> int:
    """Columns for one value beside `used` ones."""
    width = columns()
    return VALUE_COLUMNS if width is None else max(12, width - used)


def _heading(name: str, number: int, remark: str = "") -> None:
    line()
    line(paint(f"{name} ({number:,})", bold=True) + (paint(f"  {remark}", dim=True) if remark else ""))


def _facts(state: ContextState, now_us: int) -> None:
    keys = {key: text.one_line(key) for key in sorted(state.facts)}
    width = min(28, max(map(text.width_of, keys.values())))
    for key, shown in keys.items():
        fact = state.facts[key]
        remark = _remark(fact, now_us)
        room = value_columns(4 + max(width, text.width_of(shown)) + text.width_of(remark))
        value = text.clip(text.one_line(fact.value), room)
        line(f"  {paint(text.pad(shown, width), fg='green')}  {value}{paint(remark, dim=True)}")


def _remark(fact: Fact, now_us: int) -> str:
    said = []
    if fact.expires_at is not None:
        said.append(("expired " if fact.expires_at <= now_us else "expires ") + format_time(fact.expires_at))
    if fact.valid_from is not None:
        said.append(f"from {format_time(fact.valid_from)}")
    if fact.valid_to is not None:
        said.append(f"to {format_time(fact.valid_to)}")
    if fact.scope != "default":
        said.append(f"scope {text.one_line(fact.scope)}")
    return f"  ({', '.join(said)})" if said else ""


def _lease(call: ToolCall, now_us: int) -> str:
    if call.lease is None:
        return ""
    return f"  lease {'ended' if call.lease.expires_at <= now_us else 'until'} {format_time(call.lease.expires_at)}"


def _message(message: Message, state: ContextState, full: bool) -> bool:
    """Print one message; whether it was cut."""
    name = f" {text.one_line(message.name)}" if message.name else ""
    scope = f"  scope {text.one_line(message.scope)}" if message.scope != "default" else ""
    answered = state.tool_calls.get(message.tool_call_id) if message.tool_call_id is not None else None
    if answered is not None:
        name = f" {text.one_line(answered.name)}"
        scope = f"{'  failed' if answered.status == 'failed' else ''}{scope}"
    role = text.one_line(message.role)
    line()
    line(f"  {paint(role, fg=ROLE_COLOURS.get(message.role), bold=True)}{name}{paint(scope, dim=True)}")
    lines = list(_body(message))
    shown = lines if full or len(lines) <= LINES_MAX else lines[: LINES_MAX - 1]
    for row in shown:
        line(f"    {row}".rstrip())
    if len(shown) < len(lines):
        line(paint(f"    … {len(lines) - len(shown):,} more lines", dim=True))
    for call_id in message.tool_calls:
        call = state.tool_calls.get(call_id)
        if call is not None:
            line(f"    {paint('→', fg='cyan')} {_call(call, value_columns(6))}")
    return len(shown) < len(lines)


def _body(message: Message) -> Iterator[str]:
    """The lines of a message, wrapped to the terminal."""
    if message.redacted_by is not None:
        yield paint("[redacted]", fg="red")
        return
    body = text.plain_text(message.content, message.parts)
    width = columns()
    for row in text.lines_of(body) if body else ():
        yield from [row] if width is None else text.wrap(row, min(WIDEST, width) - 5)


def _call(call: ToolCall, room: int) -> str:
    """`name(arguments)  status`, in at most `room` columns."""
    name, status = text.one_line(call.name), call.status
    arguments = text.clip(text.one_line(call.arguments), max(8, room - text.width_of(name) - len(status) - 4))
    return f"{paint(name, bold=True)}({arguments})  {paint(status, fg=STATUS_COLOURS.get(status))}"

"""A diff as people read it: `+` is new, `-` is gone, `~` is another than before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ctxlog.cli import text
from ctxlog.cli.context import value_columns
from ctxlog.cli.output import line, note, paint

if TYPE_CHECKING:
    from ctxlog.model.state import ContextState, Message, ToolCall
    from ctxlog.replay.diff import CallChange, Diff, FactChange, MessageChange

C = TypeVar("C")

LINES_MAX = 6
"""Lines of one message that are shown."""

SIGNS = {"added": "+", "set": "+", "called": "+", "removed": "-"}
COLOURS = {"+": "green", "-": "red", "~": "yellow"}


def print_diff(found: Diff) -> None:
    """Print what changed, and on stderr how far it can be relied on."""
    line(paint(f"--- {_name(found.before)}", fg="red"))
    line(paint(f"+++ {_name(found.after)}", fg="green"))
    if found.common is not None:
        _common(found, *found.common)
    if not found:
        line("No difference.")
    if found.parent is not None and found.common is None:
        before, after = (f"{text.visible(p.stream_id)}@{p.version}" if p else "nothing" for p in found.parent)
        _row("~", f"goes on from {after}, before from {before}")
    if found.closed is not None:
        _row("~", "closed" if found.closed[1] else "not closed")
    _section("Facts", found.facts, _fact)
    _section("Messages", found.messages, _message)
    _section("Tool calls", found.tool_calls, _call)
    if found and found.aligned_by == "content":
        note("the contexts share no ids, so messages and calls were matched by what they say.")
    if found.approximate:
        note("the contexts are too long to be matched in full; more may show as changed than did.")


def _common(found: Diff, stream_id: str, version: int) -> None:
    """Say up to where both have one history."""
    told = False
    for state in (found.before, found.after):
        if state.parent is not None:
            line(f"{text.visible(state.stream_id)} is forked from {text.visible(state.parent.stream_id)}@{state.parent.version}")
            told = told or (state.parent.stream_id, state.parent.version) == (stream_id, version)
    if not told:
        line(f"one history up to {text.visible(stream_id)}@{version}")


def _section(name: str, changes: Sequence[C], tell: Callable[[C], None]) -> None:
    if changes:
        line()
        line(paint(name, bold=True))
        for change in changes:
            tell(change)


def _name(state: ContextState) -> str:
    return f"{text.visible(state.stream_id)}@{state.version}  {state.chain_head[:12]}"


def _row(sign: str, content: str, *, depth: int = 0) -> None:
    line(f"  {paint(f'{sign} ' + ' ' * depth + content, fg=COLOURS.get(sign))}")


def _fact(change: FactChange) -> None:
    key = text.one_line(change.key)
    room = value_columns(7 + text.width_of(key))
    if change.before is not None:
        _row("-", f"{key} = {text.clip(text.one_line(change.before.value), room)}")
    if change.after is not None:
        _row("+", f"{key} = {text.clip(text.one_line(change.after.value), room)}")
    if change.before is not None and change.after is not None and change.before.value == change.after.value:
        fields = [
            name
            for name in ("scope", "valid_from", "valid_to", "expires_at")
            if getattr(change.before, name) != getattr(change.after, name)
        ]
        _row("~", f"{', '.join(fields)} changed", depth=2)


def _message(change: MessageChange) -> None:
    sign = SIGNS.get(change.change, "~")
    message = change.after or change.before
    if message is None:
        return
    said = "" if sign != "~" else f"  {change.change}{': ' + ', '.join(change.fields) if change.fields else ''}"
    _row(sign, f"{text.one_line(message.role)}{f' ({text.one_line(message.name)})' if message.name else ''}{said}")
    if sign != "~" or change.change == "restored":
        _body(sign, message)


def _body(sign: str, message: Message) -> None:
    body = text.plain_text(message.content, message.parts) if message.redacted_by is None else "[redacted]"
    room = value_columns(6)
    lines = [part for row in text.lines_of(body) for part in text.wrap(row, room)] if body else []
    shown = lines if len(lines) <= LINES_MAX else lines[: LINES_MAX - 1]
    for row in shown:
        _row(sign, row, depth=2)
    if len(shown) < len(lines):
        _row(sign, f"… {len(lines) - len(shown):,} more lines", depth=2)


def _call(change: CallChange) -> None:
    call = change.after or change.before
    if call is None:
        return
    said = change.change.replace("_", " ")
    if change.change == "called":
        said = call.status
    elif change.before is not None and change.after is not None and change.before.status != change.after.status:
        said = f"{change.before.status} → {change.after.status}"
    elif change.change == "changed":
        said = "other result"
    room = value_columns(8 + text.width_of(call.name) + len(said))
    _row(SIGNS.get(change.change, "~"), f"{text.one_line(call.name)}({text.clip(text.one_line(call.arguments), room)})  {said}")
    if change.change == "changed":
        for sign, side in (("-", change.before), ("+", change.after)):
            _row(sign, text.clip(_result(side), value_columns(6)), depth=2)


def _result(call: ToolCall | None) -> str:
    if call is None:
        return ""
    return text.one_line(text.plain_text(call.result, call.result_parts) or "—")

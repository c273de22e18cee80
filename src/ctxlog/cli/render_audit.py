"""An audit as people read it in a terminal: the verdict first, then what was read, what had changed, what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ctxlog.audit.report import LIMITS, NOT_RECORDED
from ctxlog.cli import text
from ctxlog.cli.context import ROLE_COLOURS, STATUS_COLOURS, WIDEST, value_columns
from ctxlog.cli.events import short_type
from ctxlog.cli.output import columns, line, note, paint
from ctxlog.model.points import format_time

if TYPE_CHECKING:
    from ctxlog.audit.report import AuditReport, Newer, ReadReport
    from ctxlog.audit.trail import Evidence
    from ctxlog.model.state import Message, ToolCall

LISTED_MAX = 20
"""Events of one list that are shown; -o json and --html have more."""

SECTION_COLUMNS = 12


def print_verdict(report: AuditReport) -> None:
    """Print the one line that an audit comes to."""
    line(paint(text.visible(report.verdict), fg="red" if report.failed else "green", bold=True))


def print_report(report: AuditReport) -> None:
    """Print a report."""
    print_verdict(report)
    for check in report.failed[1:]:
        line(paint(f"  {text.visible(str(check))}", fg="red"))
    line()
    if report.decision is None:
        _print_event(report)
    else:
        _print_decision(report)
    for number, read in enumerate(report.reads, 1):
        _print_read(read, number if report.reads_recorded else None)
    _print_calls(report)
    shown = {event.event_id for call in report.calls for event in call.events}
    beside = [event for event in report.effects if event.event_id not in shown]
    if beside:
        number = report.effects_count - len(report.effects) + len(beside)
        _heading("Else appended inside", number)
        _events(beside, number)
    line()
    line(paint("Checks", bold=True))
    for what, number in Counter(check.what for check in report.checks).items():
        bad = sum(check.what == what and not check.ok for check in report.checks)
        line(f"  {paint('failed', fg='red') if bad else paint('ok', fg='green')}  {what} ({number - bad} of {number})")
    line()
    line(paint("What this does not show", bold=True))
    _bullets(LIMITS)
    for remark in report.notes:
        if remark != NOT_RECORDED:
            note(remark)


def _print_decision(report: AuditReport) -> None:
    decision = report.decision or {}
    by = f" by {text.one_line(decision['model'])}" if decision["model"] else ""
    stale = paint("  stale", fg="yellow") if report.stale else ""
    line(paint(f"Decision {text.one_line(decision['decision_id'])}", bold=True) + stale)
    _member("decided", f"{text.one_line(decision['kind'])}{by}")
    for name in ("outcome", "rationale", "parameters"):
        if decision[name] is not None:
            _member(name, text.clip(text.one_line(decision[name]), value_columns(SECTION_COLUMNS + 2)))
    if decision["failed"]:
        _member("failed", text.one_line(decision["failure"] or "with an error"))
    started, ended = decision["started_at"], decision["ended_at"]
    if started is not None and ended is not None:
        _member("took", f"{(ended - started) / 1000:,.1f} ms, by the writer's clock")
    _member_event("recorded", report.record)
    if report.asked_for is not None:
        _member_event("asked for", report.asked_for)
    _member("chain head", report.chain_head)


def _print_event(report: AuditReport) -> None:
    line(paint(f"{short_type(report.record.type).capitalize()} without a recorded decision", bold=True))
    _member_event("recorded", report.record)
    _member("event", text.one_line(report.record.event_id))
    _member("chain head", report.chain_head)
    if not report.reads_recorded:
        line(f"  {NOT_RECORDED}")


def _print_read(read: ReadReport, number: int | None) -> None:
    name = "Available" if number is None else f"Read {number}"
    line()
    line(
        paint(f"{name}: {text.visible(read.stream_id)}@{read.version}", bold=True)
        + paint(f"  head {read.chain_head[:12]}", dim=True)
    )
    if read.selection is not None:
        _member("asked for", text.clip(text.one_line(read.selection), value_columns(SECTION_COLUMNS + 2)))
    if read.judged_at is not None:
        before = "" if read.before_decision_ms is None else f", {text.duration(read.before_decision_ms)} before its end"
        _member("read at", f"{format_time(read.judged_at)}{before}, by the reader's clock")
    if read.token_counter is not None:
        _member("tokens by", text.one_line(read.token_counter))
    if read.records:
        _newer(read.newer, read.stream_id)
    if read.withheld:
        _member("withheld", text.count(len(read.withheld), "entry", "entries"))
        for kept in read.withheld[:LISTED_MAX]:
            line(
                f"    {kept.kind or 'unknown'} {text.one_line(kept.id)}"
                + (f"  scope {text.one_line(kept.scope)}" if kept.scope else "")
            )
    for event in read.redacted_since:
        _member("redacted", f"{text.one_line(event.event_id)} took a message of this out, at version {event.version}")
    if read.released is None:
        line(paint("  What was given cannot be told; the checks say why.", fg="red"))
        return
    _facts(read)
    _messages(read)


def _newer(newer: Newer, stream_id: str) -> None:
    clock = ", by the log's clock" if newer.by_clock else ""
    if not newer.events:
        own = f"; {text.count(newer.own, 'event')} of its own" if newer.own else ""
        _member("changed", f"nothing before the decision{own}{clock}")
        return
    since = "" if newer.outdated_ms is None else f", the first {text.duration(newer.outdated_ms)} before it"
    _member("changed", paint(f"{text.count(newer.events, 'event')} before the decision{since}{clock}", fg="yellow"))
    _events(newer.listed, newer.events, stream_id)


def _facts(read: ReadReport) -> None:
    if read.released is None or not read.released.facts:
        return
    line(f"  Facts ({len(read.released.facts):,})")
    for key in sorted(read.released.facts):
        fact = read.released.facts[key]
        source = _source(read.sources.get(fact.event_id), read.stream_id)
        shown = text.one_line(key)
        room = value_columns(9 + text.width_of(shown) + text.width_of(source))
        line(f"    {paint(shown, fg='green')} = {text.clip(text.one_line(fact.value), room)}{paint(source, dim=True)}")


def _messages(read: ReadReport) -> None:
    given = read.released
    if given is None:
        return
    line(f"  Messages ({len(given.messages):,})")
    for message in given.messages:
        source = _source(read.sources.get(message.id), read.stream_id)
        role = text.one_line(message.role)
        answered = given.tool_calls.get(message.tool_call_id) if message.tool_call_id is not None else None
        if answered is not None:
            role += f" {text.one_line(answered.name)}"
        room = value_columns(7 + text.width_of(role) + text.width_of(source))
        line(
            f"    {paint(role, fg=ROLE_COLOURS.get(message.role), bold=True)}  {text.clip(_body(message), room)}"
            f"{paint(source, dim=True)}"
        )
        for call_id in message.tool_calls:
            if call_id in given.tool_calls:
                line(f"      {paint('→', fg='cyan')} {_call(given.tool_calls[call_id], 8)}")
    asked = {call_id for message in given.messages for call_id in message.tool_calls}
    rest = [call_id for call_id in given.tool_calls if call_id not in asked]
    if rest:
        line(f"  Calls that no message asked for ({len(rest):,})")
        for call_id in rest:
            last = (read.calls.get(call_id) or (None,))[-1]
            line(f"    {_call(given.tool_calls[call_id], 6)}{paint(_source(last, read.stream_id), dim=True)}")


def _body(message: Message) -> str:
    if message.redacted_by is not None:
        return "[redacted]"
    return text.one_line(text.plain_text(message.content, message.parts)) or "—"


def _call(call: ToolCall, used: int) -> str:
    name, status = text.one_line(call.name), call.status
    arguments = text.clip(text.one_line(call.arguments), value_columns(used + text.width_of(name) + len(status) + 4))
    return f"{paint(name, bold=True)}({arguments})  {paint(status, fg=STATUS_COLOURS.get(status))}"


def _print_calls(report: AuditReport) -> None:
    if not report.calls:
        return
    _heading("Calls begun inside" if report.decision is not None else "The call", len(report.calls))
    for call in report.calls:
        name, status = text.one_line(call.name or "unknown"), call.status or "unknown"
        room = value_columns(8 + text.width_of(name) + len(status))
        shown = text.clip(text.one_line(call.arguments or ""), room)
        line(f"  {paint(name, bold=True)}({shown})  {paint(status, fg=STATUS_COLOURS.get(status))}")
        line(paint(f"    {text.one_line(call.call_id)}", dim=True))
        if call.result is not None:
            line(f"    → {text.clip(text.one_line(call.result), value_columns(8))}")
        _events(call.events, len(call.events))


def _events(listed: Iterable[Evidence], number: int, stream_id: str | None = None) -> None:
    shown = list(listed)[:LISTED_MAX]
    for event in shown:
        place = f"{event.version}" if event.stream_id == stream_id else f"{text.visible(event.stream_id)}@{event.version}"
        row = f"    {place}  {text.clock(event.recorded_at)}  {short_type(event.type)}  {text.one_line(event.actor)}"
        line(f"{row}  {text.one_line(event.event_id)}")
    if number > len(shown):
        line(paint(f"    … {text.count(number - len(shown), 'more event')}", dim=True))


def _source(event: Evidence | None, stream_id: str) -> str:
    """Which event set an entry, in brackets behind it."""
    if event is None:
        return ""
    place = f"@{event.version}" if event.stream_id == stream_id else f"{text.visible(event.stream_id)}@{event.version}"
    cause = "" if event.causation_id is None else f", caused by {text.one_line(event.causation_id)}"
    return f"  ({place} {text.clock(event.recorded_at)} {text.one_line(event.actor)}{cause})"


def _member_event(name: str, event: Evidence) -> None:
    where = f"{text.visible(event.stream_id)}@{event.version}, partition {event.partition}, offset {event.offset}"
    _member(name, f"{text.clock(event.recorded_at)} by the log's clock, {where}")
    occurred = "unknown" if event.occurred_at is None else format_time(event.occurred_at)
    _member("", f"by {text.one_line(event.actor)}, who says that it occurred at {occurred}")
    for what, value in (("caused by", event.causation_id), ("belongs to", event.correlation_id)):
        if value is not None:
            _member(what, text.one_line(value))


def _member(name: str, value: str) -> None:
    line(f"  {paint(text.pad(name, SECTION_COLUMNS - 2), dim=True)}  {value}")


def _heading(name: str, number: int) -> None:
    line()
    line(paint(f"{name} ({number:,})", bold=True))


def _bullets(said: Iterable[str]) -> None:
    width = columns()
    for sentence in said:
        rows = [sentence] if width is None else text.wrap(sentence, min(WIDEST, width) - 4)
        for number, row in enumerate(rows):
            line(f"  {'-' if number == 0 else ' '} {row}")

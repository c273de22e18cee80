"""An audit as one HTML page to hand over: nothing from elsewhere, no script, every text escaped.

What a log holds is other people's. A page is opened by a browser that acts on markup and hides what turns text around; so text is
escaped as markup, and what would drive or mislead a reader is shown as a sign. A content security policy allows no script, no
frame and nothing from elsewhere, should an escape ever be forgotten.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from ctxlog.audit.report import LIMITS
from ctxlog.cli import text
from ctxlog.cli.events import short_type
from ctxlog.errors import StorageError
from ctxlog.model.points import format_time

if TYPE_CHECKING:
    from ctxlog.audit.report import AuditReport, CallReport, Newer, ReadReport
    from ctxlog.audit.trail import Evidence
    from ctxlog.model.state import Message

_STYLE = """
:root { color-scheme: light dark; --good: #0a7d36; --bad: #b3261e; --warn: #8a5a00; --faint: #666; --rule: #ccc; --box: #f6f6f6; }
@media (prefers-color-scheme: dark) {
  :root { --good: #5fd38a; --bad: #ff8a80; --warn: #ffcf70; --faint: #aaa; --rule: #444; --box: #1d1d1d; }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .88em; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--box); border: 1px solid var(--rule); padding: .5rem .7rem; margin: .2rem 0; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; overflow-wrap: anywhere; }
tr { border-top: 1px solid var(--rule); }
table.plain tr { border: 0; }
table.plain th { width: 8rem; font-weight: normal; color: var(--faint); }
.verdict { font-size: 1.05rem; font-weight: 600; padding: .6rem .8rem; border: 2px solid; border-radius: .3rem; }
.verdict, p { overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.faint { color: var(--faint); font-size: .9em; }
.message { border-left: 3px solid var(--rule); padding-left: .7rem; margin: .7rem 0; }
.role { font-weight: 600; } .mark { white-space: nowrap; }
@media print {
  body { margin: 0; max-width: none; font-size: 11px; }
  h2, h3 { break-after: avoid; }
  tr, .message { break-inside: avoid; }
}
"""


def write_page(report: AuditReport, path: str) -> None:
    """Write a report as a page, whole or not at all. Raises `StorageError`."""
    target, text_of_page = Path(path), page(report)
    try:
        with NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                file.write(text_of_page)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o666 & ~_umask())
                Path(file.name).replace(target)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(file.name).unlink()
                raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}; no report was left there. Name another file.") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def page(report: AuditReport) -> str:
    """A report as HTML."""
    decision = report.decision
    title = f"Decision {decision['decision_id']}" if decision is not None else f"Event {report.record.event_id}"
    parts = [
        f"<h1>{_t(title)}</h1>",
        f'<p class="verdict {"bad" if report.failed else "good"}">{_t(report.verdict)}</p>',
        *(f'<p class="bad">{_t(check)}</p>' for check in report.failed[1:]),
        *(f'<p class="warn">{_t(remark)}</p>' for remark in report.notes),
        _subject(report),
    ]
    for number, read in enumerate(report.reads, 1):
        parts.append(_read(read, f"Read {number}" if report.reads_recorded else "Available"))
    if report.calls:
        parts.append(f"<h2>{'Calls begun inside' if decision is not None else 'The call'}</h2>")
        parts += [_call(call) for call in report.calls]
    if report.effects:
        parts += ["<h2>Appended inside</h2>", _events(report.effects, report.effects_count)]
    parts += [
        _checks(report),
        "<h2>What this does not show</h2>",
        f"<ul>{''.join(f'<li>{_t(said)}</li>' for said in LIMITS)}</ul>",
    ]
    parts.append(f'<p class="faint">Log {_t(report.log_id)}. Times are UTC.</p>')
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{_t(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _t(value: object) -> str:
    """A text as markup that says the same: escaped, and with signs for what acts on a reader or hides."""
    return escape(text.visible(str(value), keep="\n\t"))


def _subject(report: AuditReport) -> str:
    rows: list[tuple[str, str]] = []
    decision = report.decision
    if decision is not None:
        by = f" by {decision['model']}" if decision["model"] else ""
        rows.append(("Decided", _t(f"{decision['kind']}{by}")))
        if report.stale:
            rows.append(("Stale", '<span class="warn">it rests on a context that had moved on</span>'))
        for name in ("outcome", "rationale", "parameters"):
            if decision[name] is not None:
                rows.append((name.capitalize(), f"<pre>{_t(decision[name])}</pre>"))
        if decision["failed"]:
            rows.append(("Failed", f'<span class="bad">{_t(decision["failure"] or "with an error")}</span>'))
        started, ended = decision["started_at"], decision["ended_at"]
        if started is not None:
            rows.append(("Started", f"{_t(format_time(started))}, by the writer's clock"))
        if ended is not None:
            rows.append(("Ended", f"{_t(format_time(ended))}, by the writer's clock"))
    rows += _record("Recorded", report.record)
    if report.asked_for is not None:
        rows += _record("Asked for", report.asked_for)
    rows.append(("Chain head", f"<code>{_t(report.chain_head)}</code>"))
    return _members(rows)


def _record(name: str, event: Evidence) -> list[tuple[str, str]]:
    occurred = "unknown" if event.occurred_at is None else format_time(event.occurred_at)
    rows = [
        (name, f"{_t(text.clock(event.recorded_at))}, by the log's clock"),
        ("Where", f"{_place(event)}, partition {event.partition}, offset {event.offset}"),
        ("Event", f"{_t(short_type(event.type))} <code>{_t(event.event_id)}</code>"),
        ("Written by", f"{_t(event.actor)}, who says that it occurred at {_t(occurred)}"),
    ]
    if event.causation_id is not None:
        rows.append(("Caused by", f"<code>{_t(event.causation_id)}</code>"))
    if event.correlation_id is not None:
        rows.append(("Belongs to", f"<code>{_t(event.correlation_id)}</code>"))
    return rows


def _read(read: ReadReport, name: str) -> str:
    parts = [f"<h2>{name}: {_t(read.stream_id)}@{read.version}</h2>"]
    rows = [("Chain head", f"<code>{_t(read.chain_head)}</code>")]
    if read.selection is not None:
        rows.append(("Asked for", f"<code>{_t(read.selection)}</code>"))
    if read.judged_at is not None:
        before = (
            "" if read.before_decision_ms is None else f", {text.duration(read.before_decision_ms)} before the decision ended"
        )
        rows.append(("Read at", f"{_t(format_time(read.judged_at))}{before}, by the reader's clock"))
    if read.token_counter is not None:
        rows.append(("Tokens by", _t(read.token_counter)))
    if read.selection_digest is not None:
        rows.append(("Digest", f"<code>{_t(read.selection_digest)}</code>"))
    if read.records:
        rows.append(("Recorded by", ", ".join(f"<code>{_t(event.event_id)}</code>" for event in read.records)))
        rows.append(("Changed", _newer(read.newer)))
    if read.withheld:
        kept = (
            f"{kept.kind or 'unknown'} {kept.id}" + (f" (scope {kept.scope})" if kept.scope else "") for kept in read.withheld
        )
        rows.append(("Withheld", "<br>".join(map(_t, kept))))
    for event in read.redacted_since:
        rows.append(("Redacted since", f"a message of this, at {_place(event)} by {_t(event.actor)}"))
    parts.append(_members(rows))
    if read.newer.listed and read.records:
        parts += ["<h3>Newer events</h3>", _events(read.newer.listed, read.newer.events)]
    if read.released is None:
        parts.append('<p class="bad">What was given cannot be told; the checks say why.</p>')
        return "\n".join(parts)
    if read.released.facts:
        parts.append(_facts(read))
    parts.append(f"<h3>Messages ({len(read.released.messages):,})</h3>")
    parts += [_message(message, read) for message in read.released.messages]
    if read.released.tool_calls:
        parts.append(_given_calls(read))
    return "\n".join(parts)


def _newer(newer: Newer) -> str:
    clock = ", by the log's clock" if newer.by_clock else ""
    own = f"; {text.count(newer.own, 'event')} of its own" if newer.own else ""
    if not newer.events:
        return f"nothing before the decision{own}{clock}"
    since = "" if newer.outdated_ms is None else f", the first {text.duration(newer.outdated_ms)} before it"
    return f'<span class="warn">{text.count(newer.events, "event")} before the decision{since}{own}{clock}</span>'


def _facts(read: ReadReport) -> str:
    facts = {} if read.released is None else read.released.facts
    rows = [
        [_t(key), f"<code>{_t(facts[key].value)}</code>", _source(read.sources.get(facts[key].event_id))] for key in sorted(facts)
    ]
    return f"<h3>Facts ({len(rows):,})</h3>\n{_table(('Fact', 'Value', 'Set by'), rows)}"


def _message(message: Message, read: ReadReport) -> str:
    body = "[redacted]" if message.redacted_by is not None else text.plain_text(message.content, message.parts) or "—"
    name = f" {_t(message.name)}" if message.name else ""
    scope = f' <span class="faint">scope {_t(message.scope)}</span>' if message.scope != "default" else ""
    return (
        f'<div class="message"><span class="role">{_t(message.role)}</span>{name}{scope} '
        f'<span class="faint">{_source(read.sources.get(message.id))}</span>\n<pre>{_t(body)}</pre></div>'
    )


def _given_calls(read: ReadReport) -> str:
    calls = {} if read.released is None else read.released.tool_calls
    rows = [
        [
            f"<code>{_t(call.name)}({_t(call.arguments)})</code>",
            _t(call.status),
            "<br>".join(_source(event) for event in read.calls.get(call_id, ())),
        ]
        for call_id, call in calls.items()
    ]
    return f"<h3>Tool calls ({len(rows):,})</h3>\n{_table(('Call', 'State', 'Events'), rows)}"


def _call(call: CallReport) -> str:
    said = f"{call.name or 'unknown'}({call.arguments or ''})"
    result = "" if call.result is None else f"<pre>{_t(call.result)}</pre>"
    return (
        f"<h3><code>{_t(said)}</code> {_t(call.status or 'unknown')}</h3>\n"
        f'<p class="faint">call {_t(call.call_id)} in {_t(call.stream_id)}</p>\n{result}\n'
        f"{_events(call.events, len(call.events))}"
    )


def _checks(report: AuditReport) -> str:
    rows = [
        [
            '<span class="mark good">ok</span>' if check.ok else '<span class="mark bad">failed</span>',
            f'{_t(check.what)}<br><span class="faint">{_t(check.where)}</span>',
            f"<code>{_t(check.expected)}</code>",
            f"<code>{_t(check.found)}</code>",
        ]
        for check in report.checks
    ]
    return f"<h2>Checks</h2>\n{_table(('', 'What', 'Expected', 'Found'), rows)}"


def _events(events: Sequence[Evidence], number: int) -> str:
    rows = [
        [
            _place(event),
            f'<span class="mark">{_t(text.clock(event.recorded_at))}</span>',
            f'<span class="mark">{_t(short_type(event.type))}</span>',
            _t(event.actor),
            f"<code>{_t(event.event_id)}</code>",
        ]
        for event in events
    ]
    more = f'\n<p class="faint">and {number - len(rows):,} more</p>' if number > len(rows) else ""
    return _table(("Version", "Recorded", "Event", "Written by", "Id"), rows) + more


def _source(event: Evidence | None) -> str:
    if event is None:
        return ""
    cause = "" if event.causation_id is None else f", caused by {_t(event.causation_id)}"
    return f"{_place(event)} {_t(text.clock(event.recorded_at))} {_t(event.actor)}{cause}"


def _place(event: Evidence) -> str:
    return f"{_t(event.stream_id)}@{event.version}"


def _members(rows: Iterable[tuple[str, str]]) -> str:
    """Names beside values; the values are markup."""
    return f'<table class="plain">{"".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)}</table>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are markup."""
    first = "".join(f"<th>{name}</th>" for name in head)
    rest = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{first}</tr>\n{rest}</table>"

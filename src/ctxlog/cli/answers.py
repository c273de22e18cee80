"""Answers of SQL in the forms that people and programs read. Printed as they come, however large.

A value that JSON has no form for is text: times in ISO 8601 and UTC (`2026-11-24T14:02:00.123Z`), durations likewise
(`P1DT2.5S`), bytes in hex, `NaN` and `Infinity`, decimals of more digits than a double keeps. Integers are exact, of any size.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ctxlog.cli import text
from ctxlog.cli.output import columns as terminal_columns
from ctxlog.cli.output import json_line, line, paint
from ctxlog.projection.query import unique

if TYPE_CHECKING:
    from ctxlog.projection.query import Answer, Coverage

WIDTH_ROWS = 500
"""Rows by which the columns of a table are measured; later ones that are wider stand out."""

NARROWEST = 12
"""Columns of the terminal below which no cell is cut."""

_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|BIGNUM|DOUBLE|FLOAT|DECIMAL\(\d+,\d+\)")
_AS_IT_IS = frozenset({type(None), str, bool, int})
_QUOTED = frozenset(',"\r\n')


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if type(value) in _AS_IT_IS:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        return _instant(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, Decimal):
        near = float(value)
        return near if Decimal(repr(near)) == value else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {key if isinstance(key, str) else cell(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def cell(value: Any) -> str:
    """A value as one text."""
    found = plain(value)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _instant(value: datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    whole = value.isoformat(timespec="seconds")
    if not value.microsecond:
        return f"{whole}Z"
    return f"{whole}.{value.microsecond:06}".removesuffix("000") + "Z"


def _duration(value: timedelta) -> str:
    sign, size = ("-", -value) if value < timedelta() else ("", value)
    seconds = f"{size.seconds}.{size.microseconds:06}".rstrip("0").rstrip(".")
    days = f"{size.days}D" if size.days else ""
    return f"{sign}P{days}" + ("" if days and seconds == "0" else f"T{seconds}S")


def print_object(answer: Answer, coverage: Iterable[Coverage], log_id: str) -> None:
    """One object: which log it is about, what the columns are, how old the answer is, the rows."""
    covered = [{name: plain(value) for name, value in partition._asdict().items()} for partition in coverage]
    columns = [column._asdict() for column in answer.columns]
    sys.stdout.write(
        f'{{"log_id": {json_line(log_id)}, "columns": {json_line(columns)},\n"coverage": {json_line(covered)},\n"rows": ['
    )
    glue = "\n"
    for batch in answer.batches:
        for row in batch:
            sys.stdout.write(f"{glue}  {json_line([plain(value) for value in row])}")
            glue = ",\n"
    line("\n]}" if glue == ",\n" else "]}")


def print_lines(answer: Answer) -> None:
    """One object a row."""
    names = unique([column.name for column in answer.columns])
    for batch in answer.batches:
        for row in batch:
            line(json_line({name: plain(value) for name, value in zip(names, row, strict=True)}))


def print_csv(answer: Answer) -> None:
    """RFC 4180 with line feeds. Nothing stands for null, `""` for an empty text."""
    terminal = sys.stdout.isatty()
    head = tuple(column.name for column in answer.columns)
    for row in chain([head], chain.from_iterable(answer.batches)):
        written = ",".join("" if value is None else _csv(cell(value)) for value in row)
        line(text.visible(written, keep="\n") if terminal else written)


def _csv(value: str) -> str:
    return value if value and _QUOTED.isdisjoint(value) else '"' + value.replace('"', '""') + '"'


def print_table(answer: Answer) -> None:
    """Aligned, each row on one line, cut where the terminal ends."""
    if answer.explained:
        for _, plan in chain.from_iterable(answer.batches):
            for part in text.lines_of(plan.rstrip()):
                line(part)
        return
    rows = ([_shown(value) for value in row] for row in chain.from_iterable(answer.batches))
    head = [text.one_line(column.name) for column in answer.columns]
    first = list(islice(rows, WIDTH_ROWS))
    room = terminal_columns()
    widths = _widths([head, *first], room)
    right = [_NUMBER.fullmatch(column.type) is not None for column in answer.columns]
    cut = room is not None
    line(paint(_row(head, widths, right, cut=cut), dim=True))
    for row in chain(first, rows):
        line(_row(row, widths, right, cut=cut))
    if len(widths) < len(head):
        from ctxlog.cli.output import note

        note(f"{text.count(len(head) - len(widths), 'column')} more did not fit: name those that you want, or take -o jsonl.")


def _shown(value: Any) -> str:
    return "NULL" if value is None else text.one_line(cell(value))


def _widths(rows: Sequence[Sequence[str]], room: int | None) -> list[int]:
    """How wide each column is; where there is a terminal, as many as it has room for."""
    widths = [max(map(text.width_of, column)) for column in zip(*rows, strict=True)]
    if room is None:
        return widths
    while widths and (excess := sum(widths) + 2 * (len(widths) - 1) - room) > 0:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= NARROWEST:
            widths.pop()
            continue
        second = max((width for number, width in enumerate(widths) if number != widest), default=0)
        widths[widest] -= max(1, min(excess, widths[widest] - max(second, NARROWEST)))
    return widths


def _row(row: Sequence[str], widths: Sequence[int], right: Sequence[bool], *, cut: bool) -> str:
    cells = [
        text.pad(text.clip(value, width) if cut else value, width, right=aligned)
        for value, width, aligned in zip(row, widths, right, strict=False)
    ]
    return "  ".join(cells).rstrip()

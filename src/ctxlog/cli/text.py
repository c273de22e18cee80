"""Text for terminals: nothing that a log holds can drive one, and columns stay straight.

Payload text is other people's: control characters, escape sequences and marks that turn or hide text become visible signs. There
is no markup language in between, so there is none to inject into.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

HOSTILE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: cursor, colours, titles, clipboard
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # hide or turn text
    "\ud800-\udfff\U000e0000-\U000e0fff]"  # halves of pairs; tags, which nobody sees
)
"""Characters that a terminal acts on or that readers cannot see. ZWJ and ZWNJ stay: scripts and emoji need them."""

_ONE_LINE_MAX = 2_000
"""Characters of a text that are looked at for one line: no terminal is wider."""


def visible(text: str, *, keep: str = "") -> str:
    """The text with every character of `HOSTILE` shown as a sign; those in `keep` stay."""
    return HOSTILE.sub(lambda match: match[0] if match[0] in keep else _sign(match[0]), text)


def _sign(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """The beginning of a text as one line, white space of any kind as one space each."""
    return visible(" ".join(text[:_ONE_LINE_MAX].split()) + (" …" if len(text) > _ONE_LINE_MAX else ""))


def lines_of(text: str) -> list[str]:
    """The lines of a text, safe to print."""
    return [visible(line.expandtabs(4)) for line in re.split("\r\n|\n|\r(?!\n)", text)]


def width_of(text: str) -> int:
    """Columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if char < "\u0300":
        return 1
    if unicodedata.east_asian_width(char) in "WF":
        return 2
    return 0 if char in "\u200c\u200d" or unicodedata.combining(char) or "\ufe00" <= char <= "\ufe0f" else 1


def clip(text: str, columns: int) -> str:
    """The text in at most so many columns, with `…` where something is left out."""
    if width_of(text) <= columns:
        return text
    used, end = 0, 0
    for end, char in enumerate(text):  # noqa: B007 - the place where it stops is what is asked for
        used += _columns(char)
        if used > columns - 1:
            break
    return text[:end].rstrip() + "…" if columns > 0 else ""


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """The text filled up with spaces to so many columns."""
    gap = " " * (columns - width_of(text))
    return gap + text if right else text + gap


def wrap(line: str, columns: int) -> list[str]:
    """A line broken at spaces, and inside words that are longer than the line."""
    out: list[str] = []
    start = used = 0
    space = -1  # The last place in the piece where it can be broken.
    for place, char in enumerate(line):
        used += _columns(char)
        if used > columns and place > start and char != " ":
            end = space if space > start else place
            out.append(line[start:end].rstrip())
            start = end + 1 if end == space else end
            used, space = width_of(line[start : place + 1]), -1
        if char == " " and line[start:place].strip():
            space = place
    return [*out, line[start:].rstrip()]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[tuple[str, list[str]]]:
    """Columns aligned, as `(whole line, cells padded)`; the first is the head.

    Args:
        head: Names of the columns.
        rows: Cells, safe to print.
        right: Numbers of the columns that are aligned to the right.
    """
    every = [list(head), *(list(row) for row in rows)]
    widths = [max(width_of(row[column]) for row in every) for column in range(len(head))]
    aligned = set(right)
    out = []
    for row in every:
        cells = [pad(cell, widths[column], right=column in aligned) for column, cell in enumerate(row)]
        out.append(("  ".join(cells).rstrip(), cells))
    return out


def count(number: int, what: str, many: str | None = None) -> str:
    """`1 stream`, `2,000 streams`."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def size(number: int) -> str:
    """Bytes for people: `912 B`, `4.1 kB`, `12 MB`."""
    if number < 1000:
        return f"{number} B"
    amount = float(number)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.5 or unit == "TB":
            return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:,.0f} {unit}"
    return ""


def duration(milliseconds: int) -> str:
    """A span of time for people: `812 ms`, `45 s`, `45 min`, `30 h`, `12 days`."""
    for limit, unit, size_ms in (
        (10_000, "ms", 1),
        (600_000, "s", 1000),
        (36_000_000, "min", 60_000),
        (172_800_000, "h", 3_600_000),
    ):
        if abs(milliseconds) < limit:
            return f"{milliseconds / size_ms:,.0f} {unit}"
    return f"{milliseconds / 86_400_000:,.0f} days"


def clock(time_ms: int) -> str:
    """A time of the log, so that it can be pasted behind `time:`."""
    from ctxlog.model.points import format_time

    text = format_time(time_ms * 1000)
    return f"{text[:-1]}.000Z" if len(text) == 20 else f"{text[:-4]}Z" if len(text) == 27 else text


def plain_text(content: str | None, parts: str | None) -> str:
    """What people can read of a message or a result: its text, or that of its parts."""
    return content if content is not None else plain_parts(parts) if parts is not None else ""


def plain_parts(parts: str) -> str:
    """What people can read of a message's parts: their texts, and the kinds of the rest in brackets."""
    import json

    try:
        found: Any = json.loads(parts)
    except (ValueError, RecursionError):
        return parts
    if not isinstance(found, list):
        return parts
    return "\n".join(_part(part) for part in found)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        for name in ("text", "content", "thinking", "input_text", "output_text"):
            if isinstance(part.get(name), str):
                return str(part[name])
        if isinstance(part.get("type"), str):
            return f"[{part['type']}]"
    return "[part]"

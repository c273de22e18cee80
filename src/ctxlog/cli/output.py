"""Where results, notes and errors go: results to stdout, everything else to stderr, colour only to a terminal that wants it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import click

from ctxlog.cli.text import HOSTILE, visible

FORMATS = ("table", "json", "jsonl")

NARROWEST = 40
"""Columns below which nothing is cut shorter."""


def coloured(stream: TextIO) -> bool:
    """Whether colour may be written: to a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def columns() -> int | None:
    """Columns of the terminal that results go to; None where they go elsewhere, and nothing is cut."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def paint(text: str, **style: Any) -> str:
    """The text in a style, where stdout takes colour. For text that is safe to print."""
    return click.style(text, **style) if coloured(sys.stdout) else text


def line(text: str = "") -> None:
    """One line of a result."""
    sys.stdout.write(text + "\n")


def note(text: str, *, kind: str = "Note") -> None:
    """One line for whoever watches, on stderr."""
    label = f"{kind}:"
    if coloured(sys.stderr):
        label = click.style(label, fg="red" if kind == "Error" else "yellow", bold=kind == "Error")
    sys.stdout.flush()
    print(f"{label} {visible(text, keep=chr(10))}", file=sys.stderr)


def json_line(value: Any) -> str:
    """JSON on one line: UTF-8 text as it is, but for what could drive a terminal, which is escaped."""
    return _escaped(json.dumps(value, ensure_ascii=False))


def print_json(value: Any, output: str) -> None:
    """One object: indented for `json`, on one line for `jsonl`."""
    line(_escaped(json.dumps(value, ensure_ascii=False, indent=2)) if output == "json" else json_line(value))


def print_list(name: str, items: Iterable[Mapping[str, Any]], output: str, *, head: Mapping[str, Any] | None = None) -> None:
    """A list: for `json` one object with `head` and the list under `name`, for `jsonl` one item a line. Printed as it comes."""
    if output == "jsonl":
        for item in items:
            line(json_line(item))
        return
    before = "".join(f"{json_line(key)}: {json_line(value)}, " for key, value in (head or {}).items())
    sys.stdout.write(f"{{{before}{json_line(name)}: [")
    glue = "\n"
    for item in items:
        sys.stdout.write(f"{glue}  {json_line(item)}")
        glue = ",\n"
    line("\n]}" if glue == ",\n" else "]}")


def _escaped(text: str) -> str:
    # All of these stand inside strings, where an escape means the same; `indent` puts line feeds between them.
    return HOSTILE.sub(lambda match: match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1], text)

"""JSON as the source wrote it: parsed strictly, numbers kept as their text, so that writing a value again changes no figure.

Python's own parser turns 9007199254740993.0 and 1e400 into other numbers, takes NaN, and raises four kinds of error.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ctxlog.errors import ImportFailedError

_SURROGATE = re.compile("[\ud800-\udfff]")
_STRING_OR_CONSTANT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|NaN|-?Infinity', re.DOTALL)


class Number:
    """A number as its source text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Number({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class _NotJSONError(ValueError):
    pass


def _refuse(_: str) -> Any:
    raise _NotJSONError


_DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse)


def parse(text: str, line: int | None = None) -> Any:
    """The value that `text` is, numbers as `Number`.

    Args:
        text: JSON.
        line: Its line in the file, where it is a line of one.

    Raises:
        ImportFailedError: It is not JSON; names line and column.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ImportFailedError(f"not JSON: {error.msg}", _place(text, error.pos, line)) from None
    except _NotJSONError:
        at = next((found for found in _STRING_OR_CONSTANT.finditer(text) if found[0][0] != '"'), None)
        raise ImportFailedError(
            "not JSON: NaN and Infinity are no numbers", _place(text, at.start() if at else 0, line)
        ) from None
    except RecursionError:
        raise ImportFailedError("the JSON is nested too deeply", "" if line is None else f"line {line}") from None


def place_in(text: str, position: int) -> str:
    """Line and column of a position, both from 1."""
    start = text.rfind("\n", 0, position) + 1
    return f"line {text.count(chr(10), 0, position) + 1}, column {position - start + 1}"


def _place(text: str, position: int, line: int | None) -> str:
    return place_in(text, position) if line is None else f"line {line}, column {position + 1}"


def text_of(value: Any) -> str:
    """The JSON text of a parsed value: the source's figures, readable text, escapes where UTF-8 cannot carry a character."""
    match value:
        case str():
            return carriable(json.dumps(value, ensure_ascii=False))
        case Number():
            return value.text
        case dict():
            return "{" + ", ".join(f"{text_of(key)}: {text_of(member)}" for key, member in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(text_of, value)) + "]"
        case _:
            return json.dumps(value)  # true, false, null


def carriable(text: str) -> str:
    """JSON text with the lone surrogates, which UTF-8 cannot carry, as the escapes that mean the same."""
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_carriable(text: str) -> bool:
    """Whether UTF-8 can carry a text."""
    return _SURROGATE.search(text) is None

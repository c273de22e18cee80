"""RFC 8785 JSON for values that hold no floats.

`rfc8785` is the reference, and the tests compare with it; it takes ten times as long as the standard encoder. That one
prints the same bytes for text, integers, booleans and null, except for the order of keys beyond the BMP and for integers
beyond 2^53: such values go to the reference.
"""

from __future__ import annotations

import json
from typing import Any

import rfc8785

from ctxlog.model.state import NUMBER_MAX

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, check_circular=False).encode


def canonical_json(value: Any) -> bytes:
    """The RFC 8785 form of `value`, which holds dict, list, str, int, bool and None only.

    Raises:
        rfc8785.CanonicalizationError: A number that RFC 8785 cannot carry, or a value of another type.
        UnicodeEncodeError: A lone surrogate.
    """
    return _encode(value).encode() if _plain(value) else rfc8785.dumps(value)


def _plain(value: Any) -> bool:
    """Whether the standard encoder gives the same bytes as the reference."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-NUMBER_MAX <= value <= NUMBER_MAX)
    if kind is dict:
        # isascii reads a flag of the string; UTF-16 order and code point order agree below U+10000.
        return all((key.isascii() or max(key) < "\ud800") and _plain(item) for key, item in value.items())
    if kind is list:
        return all(map(_plain, value))
    return False

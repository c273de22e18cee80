"""JSON out of a log, read alike by every reader.

Python's parser goes as deep as the stack of its caller allows, takes `NaN`, and takes long numbers or not as the environment
says. What a log holds must not be valid here and void there.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

JSON_NESTING_MAX = 128
"""Arrays and objects inside one another. Part of the log format: a control record beyond it is void."""

# A string that does not end reaches to the end of the text. Were it no match, each quote in it would be tried in turn, and one
# record would hold up every reader for an hour; possessive, so that the matcher keeps no way back for each escape.
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


def parse_json(text: str) -> Any:
    """What `text` says; integers beyond 2^53 come as floats.

    Raises:
        ValueError: It is not JSON, or nested too deep.
    """
    depth = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        depth += (first in "[{") - (first in "]}")
        if depth > JSON_NESTING_MAX:
            raise ValueError(f"nesting is deeper than {JSON_NESTING_MAX}")
    return json.loads(text, parse_int=_number, parse_constant=_constant)


def _number(digits: str) -> int | float:
    if len(digits) > 17 or abs(number := int(digits)) >= 2**53:
        return float(digits)  # As in JavaScript, whose numbers RFC 8785 prints.
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")

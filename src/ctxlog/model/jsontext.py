"""Free-form values as JSON text: what arguments, fact values and message parts travel as."""

from __future__ import annotations

import json
from typing import Any

from ctxlog.errors import InvalidInputError


def json_text(value: Any) -> str:
    """The JSON text of a value, readable where UTF-8 can carry it.

    Raises:
        InvalidInputError: JSON cannot carry the value (NaN, infinity, an object of another type).
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"the value cannot be written as JSON: {error}; nothing was appended") from None
    # JSON can carry lone surrogates as escapes, and real data has them; UTF-8 cannot.
    return text if _encodable(text) else json.dumps(value, allow_nan=False)


def plain_or_parts(content: Any) -> tuple[str | None, str | None]:
    """Content of a message as the pair of plain text and parts: text stays text, None is neither, the rest is JSON text."""
    if content is None or (isinstance(content, str) and _encodable(content)):
        return content, None
    return None, json_text(content)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

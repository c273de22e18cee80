"""Chats in OpenAI's form: a list of messages, or an object with a list `messages`, one a file, one a line, or in a list.

A file may also be JSON Lines with one message a line. A run's key is the id that its object gives; otherwise the file's name,
with the number of the line (or of the place in the list, from 1) where the file holds several chats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ctxlog.errors import ImportFailedError
from ctxlog.importers.base import Run
from ctxlog.importers.chat import drafts
from ctxlog.importers.source_json import Number
from ctxlog.importers.sources import Source

__all__ = ["NAME", "detect", "drafts", "runs"]

NAME = "openai"

_IDS = ("id", "run_id", "conversation_id", "session_id", "thread_id", "instance_id", "custom_id")


def detect(source: Source) -> bool:
    """Whether there is a message, or an object with a list of messages."""
    if source.lined:
        return any(_is_message(item.value) or _is_chat(item.value) for item in source.items)
    return any(_is_message(value) or _is_chat(value) or _is_list_of_chats(value) for _, value in source.items)


def runs(source: Source) -> Iterator[Run | ImportFailedError]:
    """One run a chat."""
    if source.lined:
        values = [item.value for item in source.items]
        lines = [item.line or 0 for item in source.items]
        if any(map(_is_message, values)):
            yield Run(source.name, "", values, lines)
        else:
            for line, value in zip(lines, values, strict=True):
                yield _run(value, f"{source.name}-{line}", f"line {line}")
        return
    for _, value in source.items:
        if _is_message(value):
            yield Run(source.name, "", [value])
        elif _is_list_of_chats(value):
            for number, chat in enumerate(value, 1):
                yield _run(chat, f"{source.name}-{number}", f"chat {number}")
        else:
            yield _run(value, source.name, "")


def _run(value: Any, name: str, place: str) -> Run | ImportFailedError:
    if isinstance(value, ImportFailedError):
        return value
    if isinstance(value, list):
        return Run(name, place, value)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return Run(_id(value) or name, place, value["messages"])
    return ImportFailedError("expected a list of messages, or an object with a list `messages`", place)


def _id(chat: dict[str, Any]) -> str | None:
    for field in _IDS:
        value = chat.get(field)
        if isinstance(value, Number):
            return value.text
        if isinstance(value, str) and value:
            return value
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and not isinstance(value.get("messages"), list)


def _is_chat(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("messages"), list)
    return isinstance(value, list) and (not value or any(map(_is_message, value)))


def _is_list_of_chats(value: Any) -> bool:
    return isinstance(value, list) and not any(map(_is_message, value)) and any(map(_is_chat, value))

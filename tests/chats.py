"""A chat as agents record it, with what makes such files hard: a repeated call id, parallel calls, content that is null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctxlog import ContextLog

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Oslo and Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "3 degrees"},
    {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "Error: no such city"},
    {"role": "assistant", "content": "3 degrees in Oslo."},
]


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def contents(log: ContextLog, stream_id: str) -> list[str | None]:
    return [message.content for message in log.context(stream_id).state.messages]

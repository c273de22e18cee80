"""Chats that nobody would write by hand, against a reading of their own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ctxlog import ContextLog
from ctxlog.importers import import_path

TEXTS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    ["", "\x00\x1b[31m", "\r\n\u2028", "e\u0301", "\ufeff", "\ud800", "a\udfffb", "\U0001f600", "Error: no", "null"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
IDS = st.sampled_from(["call_1", "call_2", ""])
NAMES = st.sampled_from(["weather", "pay", "naïve tool", "x" * 300])
CALLS = st.fixed_dictionaries(
    {"id": IDS, "function": st.fixed_dictionaries({"name": NAMES, "arguments": TEXTS | JSON})},
    optional={"type": st.just("function")},
)
MESSAGES = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "exit"]), "content": TEXTS | JSON}),
    st.fixed_dictionaries(
        {"role": st.just("assistant")}, optional={"content": TEXTS | st.none(), "tool_calls": st.lists(CALLS, max_size=3)}
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": IDS, "content": TEXTS | JSON}, optional={"name": NAMES}),
)


def said(content: str | None, parts: str | None) -> Any:
    """What a stored content means."""
    assert content is None or parts is None
    return content if parts is None else json.loads(parts)


def carried(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" if "\ud800" <= char <= "\udfff" else char for char in text)


@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGES, max_size=8), st.booleans(), st.integers(0, 8))
def test_generated_chats_arrive_as_they_are_and_only_once(chat: list[dict[str, Any]], lined: bool, cut: int):
    with tempfile.TemporaryDirectory() as folder, ContextLog.open("memory:") as log:
        path = Path(folder) / ("chat.jsonl" if lined else "chat.json")
        for messages in (chat[:cut], chat, chat):
            # As Python writes it: lone surrogates and all else beyond ASCII as escapes.
            path.write_text("\n".join(map(json.dumps, messages)) + "\n" if lined else json.dumps(messages))
            report = import_path(log, path, format="openai")
            if lined and not messages:
                assert "empty" in report.failed[0].reason
            else:
                assert report.failed == ()
        assert report.events_appended == 0
        replayed = log.context("openai/chat").replay()
    state = replayed.state
    assert replayed.anomalies == ()
    assert [said(message.content, message.parts) for message in state.messages] == [message.get("content") for message in chat]

    expected: list[list[Any]] = []
    for message in chat:
        if message["role"] == "tool":
            opened = next((call for call in expected if call[0] == message["tool_call_id"] and call[3] is None), None)
            if opened is not None:
                opened[3] = [message["content"]]
        for call in message.get("tool_calls") or []:
            arguments = call["function"]["arguments"]
            expected.append(
                [call["id"], call["function"]["name"], carried(arguments) if isinstance(arguments, str) else arguments, None]
            )
    got = list(state.tool_calls.values())
    assert len(got) == len(expected)
    for call, (source_id, name, arguments, result) in zip(got, expected, strict=True):
        assert (call.source_id, call.name) == (source_id, name)
        assert (call.arguments if isinstance(arguments, str) else json.loads(call.arguments)) == arguments
        assert call.status == ("open" if result is None else "returned")
        if result is not None:
            assert said(call.result, call.result_parts) == result[0]

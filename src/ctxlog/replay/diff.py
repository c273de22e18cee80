"""What changed between two states, in the words of a context: messages, facts, tool calls. Never JSON text against JSON text.

Pure. States of one stream, of a fork and its parent, or of copies share ids, and are aligned by them. Others, such as two runs of
one task, share none: their messages are aligned by what they say, their calls by name and arguments, in order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from ctxlog.model.state import ContextState, Fact, Message, Parent, ToolCall

ALIGNED_PAIRS_MAX = 200_000
"""Pairs of equal entries that an alignment by content looks at. Its work grows with their number; this many take about a second.
Beyond, only what both begin and end with is aligned, and the diff says that it is `approximate`."""


class MessageChange(NamedTuple):
    """`change` is `added`, `removed`, `redacted`, `restored` (a redaction, backwards), or `changed` with the `fields`."""

    change: str
    before: Message | None
    after: Message | None
    fields: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "change": self.change,
            "fields": list(self.fields),
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
        }


class FactChange(NamedTuple):
    """`change` is `set`, `changed` or `removed`."""

    change: str
    key: str
    before: Fact | None
    after: Fact | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "change": self.change,
            "key": self.key,
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
        }


class CallChange(NamedTuple):
    """`change` is `called`, `returned`, `failed`, `taken_over`, `reopened` (a return, backwards), `removed`, or `changed`.

    A call that is new and has ended is `called`; its status says the rest.
    """

    change: str
    before_id: str | None
    after_id: str | None
    before: ToolCall | None
    after: ToolCall | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "change": self.change,
            "before_id": self.before_id,
            "after_id": self.after_id,
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
        }


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed from one state to another. False where nothing did.

    Attributes:
        before, after: The states.
        aligned_by: `id` or `content`.
        approximate: Whether the states were too long to be aligned in full, so that more may show as changed than did.
        messages, facts, tool_calls: The changes, in the order of the contexts; facts by key.
        common: The stream and version up to which both have one history, where a fork is among them; None where none is.
        closed: Whether the context was closed, before and after; None where equal.
        parent: What it goes on from, before and after; None where equal.
    """

    before: ContextState
    after: ContextState
    aligned_by: str
    approximate: bool
    messages: tuple[MessageChange, ...]
    facts: tuple[FactChange, ...]
    tool_calls: tuple[CallChange, ...]
    closed: tuple[bool, bool] | None
    parent: tuple[Parent | None, Parent | None] | None
    common: tuple[str, int] | None = None

    def __bool__(self) -> bool:
        return bool(self.messages or self.facts or self.tool_calls or self.closed or self.parent)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "before": _side(self.before),
            "after": _side(self.after),
            "common": {"stream_id": self.common[0], "version": self.common[1]} if self.common else None,
            "aligned_by": self.aligned_by,
            "approximate": self.approximate,
            "messages": [change.to_dict() for change in self.messages],
            "facts": [change.to_dict() for change in self.facts],
            "tool_calls": [change.to_dict() for change in self.tool_calls],
            "closed": {"before": self.closed[0], "after": self.closed[1]} if self.closed else None,
            "parent": {"before": _parent(self.parent[0]), "after": _parent(self.parent[1])} if self.parent else None,
        }


def diff(before: ContextState, after: ContextState, *, common: tuple[str, int] | None = None) -> Diff:
    """What changed from `before` to `after`.

    Args:
        before, after: The states.
        common: The stream and version up to which both have one history, as `lineages.common_ancestor` finds it.
    """
    by_id = common is not None or _related(before, after)
    if by_id:
        messages, calls, approximate = list(_messages_by_id(before, after)), list(_calls_by_id(before, after)), False
    else:
        messages, calls, approximate = _by_content(before, after)
    return Diff(
        before,
        after,
        "id" if by_id else "content",
        approximate,
        tuple(messages),
        tuple(_facts(before.facts, after.facts)),
        tuple(calls),
        (before.closed, after.closed) if before.closed != after.closed else None,
        (before.parent, after.parent) if before.parent != after.parent else None,
        common,
    )


def _related(before: ContextState, after: ContextState) -> bool:
    """Whether the states share ids, or would if they had any."""
    lineages = [{state.stream_id, state.parent.stream_id} if state.parent else {state.stream_id} for state in (before, after)]
    if lineages[0] & lineages[1]:
        return True
    ids = {message.id for message in before.messages}
    return any(message.id in ids for message in after.messages) or not before.tool_calls.keys().isdisjoint(after.tool_calls)


def _messages_by_id(before: ContextState, after: ContextState) -> Iterator[MessageChange]:
    """Messages are only ever added at the end, so those in both stand in the same order."""
    known = {message.id: message for message in before.messages}
    still = {message.id for message in after.messages}
    old = iter(before.messages)
    for message in after.messages:
        earlier = known.get(message.id)
        if earlier is None:
            continue
        for gone in old:
            if gone.id == message.id:
                break
            if gone.id not in still:
                yield MessageChange("removed", gone, None)
        if earlier is not message and earlier != message:
            yield from _message(earlier, message)
    yield from (MessageChange("removed", gone, None) for gone in old if gone.id not in still)
    yield from (MessageChange("added", None, message) for message in after.messages if message.id not in known)


def _message(before: Message, after: Message) -> Iterator[MessageChange]:
    if before.redacted_by is None and after.redacted_by is not None:
        yield MessageChange("redacted", before, after)
    elif before.redacted_by is not None and after.redacted_by is None:
        yield MessageChange("restored", before, after)
    fields = tuple(
        name
        for name in ("role", "content", "parts", "name", "tool_calls", "scope")
        if getattr(before, name) != getattr(after, name)
        and not (name in ("content", "parts") and before.redacted_by != after.redacted_by)
    )
    if fields:
        yield MessageChange("changed", before, after, fields)


def _facts(before: Mapping[str, Fact], after: Mapping[str, Fact]) -> Iterator[FactChange]:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old is None:
            yield FactChange("set", key, None, new)
        elif new is None:
            yield FactChange("removed", key, old, None)
        elif old is not new and (
            old._replace(value="", event_id="") != new._replace(value="", event_id="")
            or (old.value != new.value and _canonical(old.value) != _canonical(new.value))
        ):
            yield FactChange("changed", key, old, new)


def _canonical(text: str) -> str:
    """JSON text without what says nothing: white space and the order of members. Numbers stay as they are written."""
    try:
        return repr(_frozen(json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_number)))
    except (ValueError, RecursionError):
        return f"no JSON: {text}"


def _frozen(value: Any) -> Any:
    """A form in which no two different values look alike: a number is a tuple, as no other value is."""
    if isinstance(value, dict):
        return {name: _frozen(value[name]) for name in sorted(value)}
    return [_frozen(item) for item in value] if isinstance(value, list) else value


def _number(digits: str) -> tuple[str]:
    return (digits,)


def _calls_by_id(before: ContextState, after: ContextState) -> Iterator[CallChange]:
    for call_id, old in before.tool_calls.items():
        new = after.tool_calls.get(call_id)
        if new is None:
            yield CallChange("removed", call_id, None, old, None)
        elif (change := _call_change(old, new)) is not None:
            yield CallChange(change, call_id, call_id, old, new)
    for call_id, new in after.tool_calls.items():
        if call_id not in before.tool_calls:
            yield CallChange("called", None, call_id, None, new)


def _call_change(before: ToolCall, after: ToolCall) -> str | None:
    if before is after or before == after:
        return None
    if after.status not in (before.status, "open"):
        return after.status
    # A call that had returned is never taken over: there the way is backwards.
    if after.status == "open" and before.status != "returned" and after.lease not in (None, before.lease):
        return "taken_over"
    return "reopened" if before.status != after.status else "changed"


def _by_content(before: ContextState, after: ContextState) -> tuple[list[MessageChange], list[CallChange], bool]:
    messages: list[MessageChange] = []
    calls: list[CallChange] = []
    pairs, rough_messages = _align(
        [_said(message, before) for message in before.messages], [_said(m, after) for m in after.messages]
    )
    for i, j in pairs:
        old, new = before.messages[i] if i is not None else None, after.messages[j] if j is not None else None
        if old is not None and new is not None:
            # Parts and calls are equal in what they say, or the two would not stand side by side.
            changes = _message(old._replace(tool_calls=(), parts=None), new._replace(tool_calls=(), parts=None))
            messages.extend(change._replace(before=old, after=new) for change in changes)
        else:
            messages.append(MessageChange("added" if old is None else "removed", old, new))
    old_calls, new_calls = list(before.tool_calls.items()), list(after.tool_calls.items())
    pairs, rough_calls = _align([_asked(call) for _, call in old_calls], [_asked(call) for _, call in new_calls])
    for i, j in pairs:
        old_id, old_call = old_calls[i] if i is not None else (None, None)
        new_id, new_call = new_calls[j] if j is not None else (None, None)
        if old_call is None:
            calls.append(CallChange("called", None, new_id, None, new_call))
        elif new_call is None:
            calls.append(CallChange("removed", old_id, None, old_call, None))
        elif (change := _call_change(_ended(old_call), _ended(new_call))) is not None:
            calls.append(CallChange(change, old_id, new_id, old_call, new_call))
    return messages, calls, rough_messages or rough_calls


def _said(message: Message, state: ContextState) -> Hashable:
    """What makes two messages the same where ids differ."""
    calls = tuple(_asked(state.tool_calls[call_id]) for call_id in message.tool_calls if call_id in state.tool_calls)
    return message.role, message.content, message.parts and _canonical(message.parts), message.name, calls


def _ended(call: ToolCall) -> ToolCall:
    """What a call came to, without what is another one in every run."""
    parts = call.result_parts and _canonical(call.result_parts)
    return call._replace(
        arguments="", result_parts=parts, result_id=None, message_id=None, source_id=None, idempotency_key=None, lease=None
    )


def _asked(call: ToolCall) -> Hashable:
    return call.name, _canonical(call.arguments)


def _align(before: Sequence[Hashable], after: Sequence[Hashable]) -> tuple[list[tuple[int | None, int | None]], bool]:
    """Pairs of places that hold the same, and places that have no partner, in order; whether that is only roughly so."""
    head, most = 0, min(len(before), len(after))
    while head < most and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < most - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    counts = Counter(new)
    rough = sum(counts[item] for item in old) > ALIGNED_PAIRS_MAX
    if rough:
        blocks = [("replace", 0, len(old), 0, len(new))]
    else:
        blocks = [tuple(block) for block in SequenceMatcher(None, old, new, autojunk=False).get_opcodes()]  # type: ignore[misc]
    out: list[tuple[int | None, int | None]] = [(i, i) for i in range(head)]
    for tag, i1, i2, j1, j2 in blocks:
        if tag == "equal":
            out.extend((head + i, head + j) for i, j in zip(range(i1, i2), range(j1, j2), strict=True))
        else:
            out.extend((head + i, None) for i in range(i1, i2))
            out.extend((None, head + j) for j in range(j1, j2))
    out.extend((len(before) - k, len(after) - k) for k in range(tail, 0, -1))
    return out, rough


def _side(state: ContextState) -> dict[str, Any]:
    return {"stream_id": state.stream_id, "version": state.version, "chain_head": state.chain_head}


def _parent(parent: Parent | None) -> dict[str, Any] | None:
    return parent._asdict() if parent else None

"""Messages of a chat, as OpenAI's API writes them, become events. Every format here that holds such chats uses this.

Each message is one event, part 0 of its place; each call that it asks for is one more, part 1, 2, 3 … A tool message settles the
earliest open call with the id that it names: real files give one id to several calls. Nothing is read out of a text; a
call failed where the source says so in a field of its own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import ValidationError

from ctxlog.errors import ImportFailedError, InvalidInputError
from ctxlog.importers.base import Draft, Run, Target
from ctxlog.importers.source_json import Number, carriable, is_carriable, text_of
from ctxlog.model.events import Event, MessageAppended, ToolCalled, ToolReturned, micros
from ctxlog.model.ids import check_actor

IMPORTER = "system:import"
"""Actor of the messages that neither the agent nor a person nor a tool wrote."""

_RESULT_ROLES = ("tool", "function")
_FAILED = ("error", "failed", "failure")
_SECONDS = range(10**9, 10**10)
_MILLISECONDS = range(10**12, 10**13)


class _Call(NamedTuple):
    source_id: str | None
    name: str
    arguments: str


class _OpenCall(NamedTuple):
    call_id: str
    name: str


def drafts(run: Run, target: Target) -> list[Draft]:
    """The events of a chat, in order.

    Raises:
        ImportFailedError: A message is not one; names it.
    """
    made: list[Draft] = []
    waiting: dict[tuple[str, str], deque[_OpenCall]] = defaultdict(deque)
    for index, message in enumerate(run.messages):
        try:
            made.extend(_events(index, message, target, waiting))
        except ImportFailedError as error:
            # An error with a place comes from the parser, which knows the column.
            raise ImportFailedError(error.reason, error.place or run.place_of(index)) from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise ImportFailedError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", run.place_of(index)) from None
        except RecursionError:
            raise ImportFailedError("nested too deeply", run.place_of(index)) from None
    return made


def _events(index: int, message: Any, target: Target, waiting: dict[tuple[str, str], deque[_OpenCall]]) -> Iterator[Draft]:
    if isinstance(message, ImportFailedError):
        raise message
    if not isinstance(message, dict):
        raise ImportFailedError("expected a message, an object with a role")
    role = _text(message, "role", required=True) or ""
    name = _text(message, "name")
    content, parts = _content(message)
    occurred_at = _time(message)
    event: Event
    if role in _RESULT_ROLES:
        source_id = _text(message, "tool_call_id")
        key = _key(source_id, name or "")
        opened = waiting[key].popleft() if waiting.get(key) else None
        actor = _actor("tool", name or (opened.name if opened else ""))
        if opened is None:
            event = MessageAppended(role="tool", content=content, parts=parts, name=name, tool_call_id=source_id)
        else:
            event = ToolReturned(call_id=opened.call_id, failed=_failed(message), content=content, parts=parts, name=name)
    else:
        actor = {"assistant": _actor("agent", target.agent_id), "user": "person:user"}.get(role, IMPORTER)
        event = MessageAppended(role=role, content=content, parts=parts, name=name)
    message_id = target.event_id(index, 0)
    yield Draft(index, 0, message_id, event, occurred_at, actor)
    for part, call in enumerate(_calls(message), 1):
        call_id = target.event_id(index, part)
        called = ToolCalled(
            call_id=call_id, name=call.name, arguments=call.arguments, message_id=message_id, source_id=call.source_id
        )
        waiting[_key(call.source_id, call.name)].append(_OpenCall(call_id, call.name))
        yield Draft(index, part, call_id, called, occurred_at, _actor("agent", target.agent_id))


def _key(source_id: str | None, name: str) -> tuple[str, str]:
    """What a result is matched by: the source's id; where the source gives none, as before there were such ids, the name."""
    return ("name", name) if source_id is None else ("id", source_id)


def _content(message: dict[str, Any]) -> tuple[str | None, str | None]:
    """Plain text, or the JSON text of whatever is not one plain string."""
    content = message.get("content")
    if content is None:
        # A refusal stands beside an empty content, and among the parts where there are any. Its text must not be lost.
        refusal = message.get("refusal")
        return None, text_of([{"type": "refusal", "refusal": refusal}]) if isinstance(refusal, str) and refusal else None
    if isinstance(content, str) and is_carriable(content):
        return content, None
    return None, text_of(content)


def _calls(message: dict[str, Any]) -> Iterator[_Call]:
    calls = message.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list):
            raise ImportFailedError("tool_calls: expected a list")
        for number, call in enumerate(calls):
            if not isinstance(call, dict):
                raise ImportFailedError(f"tool_calls[{number}]: expected an object")
            yield _call(call, f"tool_calls[{number}].")
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        yield _Call(None, _text(legacy, "name", "function_call.", required=True) or "", _arguments(legacy.get("arguments")))
    elif legacy is not None:
        raise ImportFailedError("function_call: expected an object")


def _call(call: dict[str, Any], where: str) -> _Call:
    source_id = _text(call, "id", where)
    function, custom = call.get("function"), call.get("custom")
    if isinstance(function, dict):
        name = _text(function, "name", f"{where}function.", required=True)
        arguments = _arguments(function.get("arguments"))
    elif isinstance(custom, dict):
        name = _text(custom, "name", f"{where}custom.", required=True)
        arguments = text_of(custom.get("input"))  # Free text, not JSON.
    else:
        name = _text(call, "function" if function is not None else "name", where, required=True)
        arguments = _arguments(call.get("arguments"))
    return _Call(source_id, name or "", arguments)


def _arguments(value: Any) -> str:
    """Arguments as the model wrote them, whatever that is; an object as the source writes it."""
    return carriable(value) if isinstance(value, str) else text_of(value)


def _text(holder: dict[str, Any], field: str, where: str = "", *, required: bool = False) -> str | None:
    value = holder.get(field)
    if isinstance(value, Number):
        value = value.text
    if value is None and not required:
        return None
    if not isinstance(value, str) or (required and not value):
        raise ImportFailedError(f"{where}{field}: expected text")
    if not is_carriable(value):
        raise ImportFailedError(f"{where}{field}: holds a lone surrogate, which UTF-8 cannot carry")
    return value


def _failed(message: dict[str, Any]) -> bool:
    """Whether the source marks a result as a failure."""
    extra = message.get("extra")
    return (
        message.get("is_error") is True
        or message.get("isError") is True
        or message.get("status") in _FAILED
        or message.get("error") not in (None, False, "", [], {}, Number("0"))
        # mini-swe-agent: the call itself did not come through. A return code alone is what a command said.
        or (isinstance(extra, dict) and bool(extra.get("exception_info")))
    )


def _time(message: dict[str, Any]) -> int | None:
    """When it happened, in µs, where the source says it beyond doubt: a date with a zone, or Unix time of this age."""
    extra = message.get("extra")
    for holder in (message, extra if isinstance(extra, dict) else {}):
        for field in ("timestamp", "created_at"):
            found = _micros(holder.get(field))
            if found is not None:
                return found
    return None


def _micros(value: Any) -> int | None:
    try:
        if isinstance(value, Number):
            age = int(float(value.text))  # First: a decimal may be too large to write out.
            if age in _SECONDS:
                return round(Decimal(value.text) * 1_000_000)
            return round(Decimal(value.text) * 1000) if age in _MILLISECONDS else None
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return None if moment.tzinfo is None else int(micros(moment))
    except (ValueError, OverflowError):
        pass  # No time that can be told.
    return None


def _actor(kind: str, name: str) -> str:
    try:
        return check_actor(f"{kind}:{name}")
    except InvalidInputError:
        return IMPORTER

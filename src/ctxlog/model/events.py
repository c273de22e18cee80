"""Events as people write them: one validated class an event type. Hidden from the fold, which reads what is stored.

Validation costs microseconds, so it happens once, where people hand data in. Times are timezone-aware `datetime` or integer
microseconds since 1970 UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ctxlog.model.ids import broken_rule
from ctxlog.model.state import NUMBER_MAX

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(value: Any) -> Any:
    """Microseconds since 1970 UTC of a timezone-aware `datetime`; anything else as it is. Raises `ValueError`."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time without a zone; use datetime.now(UTC)")
        delta = value - _EPOCH
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return value


def _id(value: str) -> str:
    rule = broken_rule(value)
    if rule is not None:
        raise ValueError(rule)
    return value


Micros = Annotated[int, BeforeValidator(micros), Field(ge=-NUMBER_MAX, le=NUMBER_MAX, strict=True)]
Id = Annotated[str, AfterValidator(_id)]
Version = Annotated[int, Field(ge=0, le=NUMBER_MAX, strict=True)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Event(BaseModel):
    """What happened. `type_name` is the full name of its Avro schema; the fields are the schema's, without `meta`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    type_name: ClassVar[str]

    def target(self) -> str | None:
        """What the event changes, as `meta.target` says it."""
        return None


class MessageAppended(Event):
    """A message entered the context. Its id is the event's id; `parts` is JSON text for what is not one plain string."""

    type_name: ClassVar[str] = "ctxlog.MessageAppended"

    role: str = Field(min_length=1)
    content: str | None = None
    parts: str | None = None
    name: str | None = None
    tool_call_id: str | None = None


class MessageRedacted(Event):
    """The text of a message was taken out of the context."""

    type_name: ClassVar[str] = "ctxlog.MessageRedacted"

    message_id: Id
    reason: str | None = None

    def target(self) -> str:
        """`message:ID`."""
        return f"message:{self.message_id}"


class FactSet(Event):
    """A fact got a value, JSON text."""

    type_name: ClassVar[str] = "ctxlog.FactSet"

    key: Id
    value: str
    valid_from: Micros | None = None
    valid_to: Micros | None = None
    expires_at: Micros | None = None

    def target(self) -> str:
        """`fact:KEY`."""
        return f"fact:{self.key}"


class FactRemoved(Event):
    """A fact was taken out of the context."""

    type_name: ClassVar[str] = "ctxlog.FactRemoved"

    key: Id

    def target(self) -> str:
        """`fact:KEY`."""
        return f"fact:{self.key}"


class ToolCalled(Event):
    """A tool was called, or the lease of an open call was taken over. `Context.add_tool_call` makes the event's id the call's."""

    type_name: ClassVar[str] = "ctxlog.ToolCalled"

    call_id: Id
    name: str
    arguments: str
    message_id: str | None = None
    source_id: str | None = None
    idempotency_key: str | None = None
    lease_expires_at: Micros | None = None

    def target(self) -> str:
        """`call:ID`."""
        return f"call:{self.call_id}"


class ToolReturned(Event):
    """A call ended. `content` is the result where it is one plain string, `parts` JSON text where it is anything else."""

    type_name: ClassVar[str] = "ctxlog.ToolReturned"

    call_id: Id
    failed: bool = False
    content: str | None = None
    parts: str | None = None
    name: str | None = None

    def target(self) -> str:
        """`call:ID`."""
        return f"call:{self.call_id}"


class StreamRead(BaseModel):
    """What a read took from one stream: its version and head, and the ids of the events revealed and withheld."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    stream_id: Id
    version: Version
    chain_head: Hex32
    revealed: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()


class ContextRead(Event):
    """An agent read context. Belongs into `decisions/AGENT`."""

    type_name: ClassVar[str] = "ctxlog.ContextRead"

    selection: str
    streams: tuple[StreamRead, ...]
    judged_at: Micros
    selection_digest: Hex32
    decision_id: str | None = None
    token_counter: str | None = None
    token_counter_version: str | None = None


class DecisionRecorded(Event):
    """An agent decided. Belongs into `decisions/AGENT`; `reads` are ids of `ContextRead` events in the same stream.

    `parameters` and `outcome` are JSON text; `tool_calls` are ids of the calls begun inside; `failure` is the name of an
    error's type.
    """

    type_name: ClassVar[str] = "ctxlog.DecisionRecorded"

    decision_id: Id
    kind: str
    reads: tuple[str, ...] = ()
    model: str | None = None
    parameters: str | None = None
    outcome: str | None = None
    rationale: str | None = None
    tool_calls: tuple[str, ...] = ()
    failed: bool = False
    failure: str | None = None
    started_at: Micros | None = None
    ended_at: Micros | None = None


class StreamForked(Event):
    """The stream goes on from another one."""

    type_name: ClassVar[str] = "ctxlog.StreamForked"

    parent_stream_id: Id
    parent_version: Version
    parent_chain_head: Hex32


class StreamClosed(Event):
    """The context came to an end. Later events still take effect."""

    type_name: ClassVar[str] = "ctxlog.StreamClosed"

    reason: str | None = None


class ExtensionRecorded(Event):
    """An event that ctxlog keeps and does not interpret: a namespaced name, and JSON text."""

    type_name: ClassVar[str] = "ctxlog.ExtensionRecorded"

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$")
    data: str


EVENT_TYPES: tuple[type[Event], ...] = (
    MessageAppended,
    MessageRedacted,
    FactSet,
    FactRemoved,
    ToolCalled,
    ToolReturned,
    ContextRead,
    DecisionRecorded,
    StreamForked,
    StreamClosed,
    ExtensionRecorded,
)
"""Every event type that this release writes."""

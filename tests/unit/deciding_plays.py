"""Agents that decide, by dice: what each read returned, and what others wrote in between, as a list of what was done knows it."""

from __future__ import annotations

import random
from itertools import count
from typing import Any, NamedTuple

from ctxlog import Context, ContextLog
from ctxlog.client.deciding import Decision
from ctxlog.log.memory import MemoryLog
from ctxlog.model.selection import Selection, Window
from ctxlog.model.state import ContextState

STREAMS = ("refunds/1", "refunds/2", "shared/policy")
SCOPES = ("default", "internal", "legal")


class Seen(NamedTuple):
    """What a read returned."""

    given: Window | ContextState
    whole: bool


class Did(NamedTuple):
    """An append: to which stream, which version it made, inside which decisions (the innermost first)."""

    stream_id: str
    version: int
    inside: tuple[str, ...]


class Made(NamedTuple):
    """A decision: what its reads returned, in order, and how much had been done by anybody when it was recorded."""

    decision: Decision
    agent: str
    seen: list[Seen]
    done: int
    calls: list[str]


class Play:
    """A log of several partitions, whose clock ticks with each append, and what was done to it."""

    def __init__(self, seed: int, *, partitions: int = 3) -> None:
        ticks = count(1_700_000_000_000)
        self.backend = MemoryLog(partitions, clock=lambda: next(ticks))
        self.log, self.others = ContextLog(self.backend), ContextLog(self.backend)
        self.did: list[Did] = []
        self.made: list[Made] = []
        self._dice = random.Random(seed)
        self._streams = list(STREAMS)
        self._numbers = count()

    def run(self, decisions: int = 4) -> Play:
        for _ in range(self._dice.randrange(12)):
            self.write(self.log, ())
        for _ in range(decisions):
            self.write(self.others, ())
            self.decide(())
        return self

    def newer(self, made: Made) -> dict[str, int]:
        """Events that a stream took in after the newest version read of it, and before the decision, without its own."""
        newest: dict[str, int] = {}
        for read in made.seen:
            newest[read.given.stream_id] = max(read.given.version, newest.get(read.given.stream_id, 0))
        found: dict[str, int] = {}
        for did in self.did[: made.done]:
            late = did.stream_id in newest and did.version > newest[did.stream_id]
            if late and made.decision.id not in did.inside:
                found[did.stream_id] = found.get(did.stream_id, 0) + 1
        return found

    def decide(self, inside: tuple[str, ...]) -> None:
        dice, seen, calls = self._dice, list[Seen](), list[str]()
        agent = dice.choice(("refunds", "other"))
        with self.log.decision("refund", agent=agent, model=dice.choice((None, "m"))) as decision:
            mine = (decision.id, *inside)
            for _ in range(dice.randrange(7)):
                match dice.randrange(8):
                    case 0 | 1 | 2:
                        seen += self.read(decision)
                    case 3:
                        context = self.context()
                        state = context.replay(dice.choice(("latest", dice.randrange(context.version + 1)))).state
                        if not any(known.whole and known.given == state for known in seen):
                            seen.append(Seen(state, True))
                    case 4:
                        self.write(self.others, ())
                    case 5 if len(inside) < 2:
                        self.decide(mine)
                    case _:
                        calls += self.write(self.log, mine)
            decision.outcome = dice.random() < 0.5
        self.made.append(Made(decision, agent, seen, len(self.did), calls))

    def read(self, decision: Decision) -> list[Seen]:
        dice = self._dice
        asked: dict[str, Any] = {}
        if dice.random() < 0.4:
            asked["max_messages"] = dice.randrange(5)
        if dice.random() < 0.4:
            asked["scopes"] = dice.sample(SCOPES, dice.randrange(3))
        if dice.random() < 0.4:
            asked["fact_prefixes"] = dice.sample(("order", "limit", "x"), dice.randrange(3))
        if dice.random() < 0.3:
            asked["max_tokens"] = dice.randrange(12)
        if dice.random() < 0.3:
            asked["last"] = dice.choice(("1h", "900w"))
        if dice.random() < 0.2:
            several = Selection(streams=dice.choice((["refunds/*"], ["shared/policy", "refunds/1"])), **asked)
            return [Seen(window, False) for window in decision.read(several).values()]
        return [Seen(decision.read(self.context(), **asked), False)]

    def context(self, log: ContextLog | None = None) -> Context:
        return (log or self.log).context(self._dice.choice(self._streams))

    def write(self, log: ContextLog, inside: tuple[str, ...]) -> list[str]:
        """Write something; the calls that it begins."""
        dice, context, number = self._dice, self.context(log), next(self._numbers)
        options: dict[str, Any] = {"scope": dice.choice(SCOPES)}
        if dice.random() < 0.3:
            options["occurred_at"] = dice.choice((None, 1))
        state = self.others.context(context.stream_id).state
        match dice.randrange(8):
            case 0 | 1:
                context.add_message(dice.choice(("user", "assistant")), f"text {number}", **options)
            case 2 | 3:
                key = dice.choice(("order.total", "order.id", "limit"))
                expires_at = dice.choice((None, None, 5, 2**52))
                context.set_fact(key, number, expires_at=expires_at, **options)
            case 4:
                asks = [message.id for message in state.messages if message.role == "assistant"]
                message_id = dice.choice([*asks, None])
                # A key may be what something else is called by: an id does not say what it is of.
                others = [message.id for message in state.messages if message.id not in state.tool_calls]
                call_id = dice.choice(others) if others and dice.random() < 0.1 else f"call-{number}"
                self._append_call(context, call_id, message_id, options)
                self._did(context, inside)
                return [call_id]
            case 5 if any(call.status == "open" for call in state.tool_calls.values()):
                call_id = dice.choice([key for key, call in state.tool_calls.items() if call.status == "open"])
                context.add_tool_result(call_id, f"result {number}", failed=dice.random() < 0.2, **options)
            case 6 if state.messages:
                context.redact_message(dice.choice(state.messages).id)
            case 7 if state.version and len(self._streams) < 6:
                name = f"refunds/fork-{number}"
                self._streams.append(name)
                self.others.context(context.stream_id).fork(name, at=dice.randrange(state.version) + 1)
                self.did.append(Did(name, 1, ()))
                return []
            case _:
                context.add_message("user", [{"type": "text", "text": f"part {number}"}], **options)
        self._did(context, inside)
        return []

    def _append_call(self, context: Context, call_id: str, message_id: str | None, options: dict[str, Any]) -> None:
        from ctxlog.model.events import ToolCalled

        context.append(ToolCalled(call_id=call_id, name="f", arguments="{}", message_id=message_id), **options)

    def _did(self, context: Context, inside: tuple[str, ...]) -> None:
        version = self.others.context(context.stream_id).version
        self.did.append(Did(context.stream_id, version, inside))

"""Read, decide, append, and again on conflict: changes that are lost by nobody, whoever else writes.

    state -> fn -> events -> append, expecting what was read -> committed, or from the beginning

A conflict changes nothing, so the next try begins with a fresh read and takes new ids. An append whose outcome is not known is
asked for until it is: it counts or it does not, and neither is guessed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ctxlog.client.options import AppendOptions
from ctxlog.errors import AbandonedError, ConflictError, IndeterminateError, IntegrityError, InvalidInputError, LogBusyError
from ctxlog.model.outcomes import Committed
from ctxlog.model.state import ContextState, Fact
from ctxlog.replay.replayer import StreamCursor

if TYPE_CHECKING:
    from ctxlog.client.context import Context
    from ctxlog.model.events import Event

PAUSE_SECONDS = 0.002
"""The first pause is shorter than this; each further one in a row may be twice as long."""

PAUSE_SECONDS_MAX = 0.25

RESOLVE_SECONDS = 60.0
"""How long an outcome that is not known is asked for. Longer than a broker needs to elect a leader."""

_AGAIN = (ConflictError, AbandonedError, LogBusyError)
"""What says that nothing was changed because others write, and who tries again will have his turn."""

_OWN_OPTIONS = ("expected_version", "expected_head", "expected_targets", "event_ids")


class Tries:
    """Pauses between tries, of random length so that those who collided do not meet again; and an end to them.

    Args:
        timeout_seconds: After which no further try is made; None: never.
    """

    def __init__(self, timeout_seconds: float | None) -> None:
        if timeout_seconds is not None and not timeout_seconds >= 0:  # as NaN is not
            raise InvalidInputError("timeout_seconds: expected a number from 0, or None; nothing was appended")
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._pause = PAUSE_SECONDS

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def left(self) -> float:
        """Seconds that are left; infinite where there is no end."""
        return math.inf if self._deadline is None else max(self._deadline - time.monotonic(), 0)

    def pause(self) -> None:
        """Sleep before the next try, no longer than there is time."""
        time.sleep(min(random.random() * self._pause, self.left))  # noqa: S311 - to spread, not to hide
        self._pause = min(2 * self._pause, PAUSE_SECONDS_MAX)


def update(
    context: Context,
    fn: Callable[[ContextState], Event | Sequence[Event] | None],
    options: AppendOptions,
    timeout_seconds: float | None,
) -> Committed | None:
    """See `Context.update`."""
    check_options("update", options)
    tries = Tries(timeout_seconds)
    while True:
        state = context.state
        events = _events(fn(state))
        if not events:
            return None
        try:
            return committed(context, events, {**options, "expected_version": state.version})
        except _AGAIN:
            if tries.over:
                raise
        tries.pause()


def update_fact(
    context: Context, key: str, fn: Callable[[Any], Any], default: Any, options: AppendOptions, timeout_seconds: float | None
) -> Committed:
    """See `Context.update_fact`."""
    from ctxlog.client.appending import make_event
    from ctxlog.model.events import FactSet
    from ctxlog.model.jsontext import json_text

    check_options("update_fact", options)
    target = f"fact:{key}"

    def look(cursor: StreamCursor) -> tuple[int, Fact | None]:
        return cursor.fold.arbiter.targets.get(target, 0), cursor.fold.evolving.facts.get(key)

    tries = Tries(timeout_seconds)
    while True:
        version, fact = context._owner._look(context.stream_id, look)
        expired = fact is not None and fact.expires_at is not None and fact.expires_at <= time.time_ns() // 1000
        value = fn(default if fact is None or expired else _parsed(context.stream_id, key, fact))
        event = make_event(FactSet, key=key, value=json_text(value))
        try:
            return committed(context, event, {**options, "expected_targets": {target: version}})
        except _AGAIN:
            if tries.over:
                raise
        tries.pause()


def _events(decided: Event | Sequence[Event] | None) -> list[Event]:
    from ctxlog.client.appending import batch_of

    try:
        return [] if decided is None else batch_of(decided)
    except TypeError:
        found = type(decided).__name__
        raise InvalidInputError(f"fn: expected an event, several, or None, found {found}; nothing was appended") from None


def _parsed(stream_id: str, key: str, fact: Fact) -> Any:
    try:
        return fact.parsed()
    except (ValueError, RecursionError):
        raise IntegrityError(
            f"stream {stream_id!r}: fact {key!r} holds text that is no JSON; nothing was appended. Set the fact anew."
        ) from None


def committed(context: Context, events: Event | Sequence[Event], options: AppendOptions) -> Committed:
    """Append with a precondition, and find out what became of it whatever happens in between.

    Raises:
        ConflictError, AbandonedError: It was not accepted, and nothing was changed.
        IndeterminateError: It is not known, after a minute of asking.
    """
    try:
        # With a precondition it is `Committed` or an error.
        return cast("Committed", context.append(events, **options))
    except IndeterminateError as error:
        unknown = error
    tries = Tries(RESOLVE_SECONDS)
    while True:
        try:
            return context._owner.resolve(unknown)
        except IndeterminateError as error:
            if tries.over:
                raise
            unknown = error
        tries.pause()


def check_options(method: str, options: AppendOptions) -> None:
    """Refuse options that the method sets itself. Raises `InvalidInputError`."""
    given = [name for name in _OWN_OPTIONS if name in options]
    if given:
        raise InvalidInputError(f"{method} chooses {', '.join(given)} itself; nothing was appended")

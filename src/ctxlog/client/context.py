"""One context of a log: what reads it, and what reads and then appends. `writes.py` has what only appends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from ctxlog.client.deciding import note_state
from ctxlog.client.options import AppendOptions
from ctxlog.client.windows import window
from ctxlog.client.writes import ContextWrites
from ctxlog.model.outcomes import Committed
from ctxlog.model.points import Point, parse_point
from ctxlog.model.records import Accepted
from ctxlog.model.resumed import Resumed
from ctxlog.model.selection import APPROXIMATE_TOKENS, Selection, SelectionOptions, TokenCounter, Window
from ctxlog.model.state import ContextState, Parent
from ctxlog.replay.history import Entry, history
from ctxlog.replay.manifest import Replay

if TYPE_CHECKING:
    from ctxlog.model.events import Event


class Context(ContextWrites):
    """One context: append to it, read it, replay it, fork it. Made by `ContextLog.context`.

    Appends without preconditions return `Acknowledged`: durable, and decided when read. Appends with one, and those of several
    events, return `Committed` once the log has accepted them, or raise `ConflictError` and change nothing.
    """

    # Reading and appending

    def tool_once(
        self,
        name: str,
        arguments: Any,
        *,
        run: Callable[[Any], Any],
        key: str,
        lease_seconds: float = 60.0,
        timeout_seconds: float | None = None,
        message_id: str | None = None,
        source_id: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> Any:
        """Call a tool once for a key, across crashes and processes, and record call and result.

        A call that has its result is not run again: what was recorded comes back. One that failed is. One that somebody else runs
        is waited for until its lease ends; then it is taken over. Where a process dies after the tool had its effect and before
        that was recorded, the tool runs again: give the key to the other side too, if it can recognise one.

        Args:
            name: The tool.
            arguments: What it is called with: JSON text, or anything that JSON can carry.
            run: Runs the tool: `run(arguments)`. What it returns must be something that JSON can carry.
            key: Stands for this call in this context, and is its id: one key for one tool with its arguments.
            lease_seconds: How long nobody else runs it. Choose it longer than the tool takes: it is not renewed.
            timeout_seconds: How long to wait for somebody else who runs it; None: until there is a result or the lease ends.
            message_id: The message that asked for the call.
            source_id: The id that the provider gave the call.
            options: See `AppendOptions`; without preconditions and ids.

        Returns:
            What `run` returned, as JSON carries it (a tuple is a list), the first time as every time.

        Raises:
            KeyReusedError: The key stands for another call; nothing was run.
            CallHeldError: Somebody else runs it, and the time is over; nothing was run.
            LeaseLostError: The tool ran for longer than its lease, and somebody else took over; its result was not recorded.
            NoResultError: The tool ran, and its result cannot be recorded or was redacted. It is not run again.
            IndeterminateError, StorageError: The lease was not recorded, or the result; a note says so where the tool ran.
            BaseException: What `run` raised. It is recorded as a failure, and the next call with this key runs the tool again.
        """
        from ctxlog.client.once import Once

        once = Once(
            self,
            name,
            arguments,
            run=run,
            key=key,
            lease_seconds=lease_seconds,
            timeout_seconds=timeout_seconds,
            message_id=message_id,
            source_id=source_id,
            options=options,
        )
        return once.result()

    def update(
        self,
        fn: Callable[[ContextState], Event | Sequence[Event] | None],
        *,
        timeout_seconds: float | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed | None:
        """Read the state, let `fn` decide what to append, and append it if nothing else came in between; otherwise again.

        Args:
            fn: Gets the newest state and returns the events that follow from it; None or no events: nothing is appended. It must
                be pure, as it is called again after each conflict. What it raises ends the update, and nothing is appended.
            timeout_seconds: After which no further try is made; None: tries until it succeeds.
            options: See `AppendOptions`; without preconditions and ids.

        Returns:
            The outcome; None where `fn` had nothing to append.

        Raises:
            ConflictError: Others were faster until the time was over; nothing was changed.
            IndeterminateError: Whether it was appended is not known, after a minute of asking.
        """
        from ctxlog.client.updating import update

        return update(self, fn, options, timeout_seconds)

    def update_fact(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        default: Any = None,
        timeout_seconds: float | None = None,
        **options: Unpack[AppendOptions],
    ) -> Committed:
        """Set a fact to what `fn` makes of its value, if nobody else changed this fact in between; otherwise again.

        Only this fact is looked at: those who change other facts or append messages are not in the way, as they are for `update`.

        Args:
            key: The fact.
            fn: Gets the value and returns the new one, which JSON must be able to carry. Pure, as in `update`.
            default: What `fn` gets where the fact is not set, or has expired.
            timeout_seconds: As in `update`.
            options: As in `update`.

        Raises:
            ConflictError, IndeterminateError: As in `update`.
            IntegrityError: The fact holds text that is no JSON.
        """
        from ctxlog.client.updating import update_fact

        return update_fact(self, key, fn, default, options, timeout_seconds)

    def fork(self, stream_id: str, *, at: str | int | Point = "latest") -> Context:
        """A new context that goes on from a point of this one. This one is not changed, and later events here are not seen there.

        Raises:
            ConflictError: The new stream exists.
            LineageError: The new stream would lie deeper than forks of forks are composed; nothing was appended.
        """
        child = Context(self._owner, stream_id, agent_id=None, actor=None)
        state = self.replay(at).state
        if state.parent is not None:
            parent = Parent(self.stream_id, state.version, state.chain_head)
            self._owner.replayer.state_at(parent, (child.stream_id,))  # A stream that nobody can read must not be born.
        from ctxlog.model.events import StreamForked

        event = StreamForked(parent_stream_id=self.stream_id, parent_version=state.version, parent_chain_head=state.chain_head)
        child.append(event, expected_version=0)
        return child

    # Reading

    @property
    def state(self) -> ContextState:
        """The newest state, with everything that was appended through this log."""
        return note_state(self._owner, self._owner._state(self.stream_id))

    @property
    def version(self) -> int:
        """The newest version; 0: the context does not exist."""
        return self._owner._read(self.stream_id).fold.version

    @property
    def chain_head(self) -> str:
        """Id of the newest version, for `expected_head`."""
        return self._owner._read(self.stream_id).fold.head.hex()

    def window(
        self,
        selection: Selection | None = None,
        *,
        counter: TokenCounter = APPROXIMATE_TOKENS,
        **options: Unpack[SelectionOptions],
    ) -> Window:
        """The part of the newest state that a model gets to see; expiry is judged now.

        Args:
            selection: What is asked for; everything where not given.
            counter: Counts tokens.
            options: The members of a `Selection`, in place of one.

        Raises:
            InvalidInputError: An argument cannot be used.
        """
        return window(self._owner, self.stream_id, selection, options, counter)

    def resume(self) -> Resumed:
        """What there is to go on from, after a crash or a change of process: the last valid state, the calls that were begun and
        not answered, and the appends of which the log has only a part. Leases are judged now. Nothing is written."""
        from ctxlog.client.recovery import resume

        return resume(self)

    def replay(self, at: str | int | Point = "latest") -> Replay:
        """The state at a point, recomputed from the log, with its manifest.

        Args:
            at: `latest`, `N` or `version:N`, `offset:N`, `time:ISO8601`, `occurred:ISO8601`, `event:ID`, `decision:ID` or
                `cut:FILE`.

        Raises:
            PointError: It is no point, or the context has none such.
            IntegrityError: What the log holds cannot be folded.
        """
        point = parse_point(at) if isinstance(at, str | int) else at
        replayer = self._owner.replayer
        self._owner._settle()
        replay = replayer.replay(self.stream_id, point)
        note_state(self._owner, replay.state)
        return replay

    def accepted(self) -> Iterator[Accepted]:
        """The accepted events, oldest first, with everything that was appended through this log."""
        return self._owner.replayer.accepted(self.stream_id, self._owner._end(self.stream_id))

    def history(
        self,
        *,
        since: str | int | Point | None = None,
        until: str | int | Point | None = None,
        last: int | None = None,
    ) -> Iterator[Entry]:
        """Every record of the stream and what became of it, in the order in which it was decided; or a slice of that.

        Args:
            since: Only what was decided after this point, as in `replay`.
            until: Only what was decided up to this point. Without it the records of appends that are not complete come last.
            last: Only the last so many.

        Raises:
            PointError: It is no point, or the stream has none such; of a version this comes where the stream ends.
            InvalidInputError: `last` is no number from 0.
        """
        replayer = self._owner.replayer
        self._owner._settle()
        begin, end = (parse_point(at) if isinstance(at, str | int) else at for at in (since, until))
        return history(replayer, self.stream_id, replayer.end(self.stream_id), since=begin, until=end, last=last)

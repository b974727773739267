"""One state of the views for each answer: a read transaction from its first read to its end.

Rules: all reads of an answer see what its first one saw, in one lane. Of answers that read there
are `Limits.answers_at_once`; who comes then waits for a turn. A writer waits for none of them,
since SQLite's write-ahead log keeps what they still read. So the log cannot be begun anew
meanwhile, and grows: an answer has `Limits.state_seconds` from its first read on, then its state is
taken from it and its reads raise TimeoutError. Where many short answers overlap without a gap,
`pause` makes one. Where a read takes long, those that have not begun go to another lane, so that
nobody waits for a statement of somebody else's; one lane is enough where all are short. Everything
here is done on the loop, and SQLite is called in the lanes' threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import apsw

from ....errors import StoreFailed, UsageError
from ....limits import Limits
from .lane import Lane, Source, Transaction
from .queries import OPENS_NO_INDEX, Call, QueryCalls, Readable, TableReads

__all__ = ["Source", "State", "States"]

T = TypeVar("T")

LOOK_SECONDS: Final = 0.02
"""How soon what has ended is given back where nothing else is read, and what is too old ended."""
PAUSE_SECONDS: Final = 0.1
"""How long new answers wait, at most, for those that read, so that the log can be begun anew."""
HELD_UP_SECONDS: Final = 0.1
"""A read that takes longer holds its lane up: nobody else is to wait for it. What is short takes
longer, too, where the event loop is busy, and has no use for more threads."""
LANES_MAX: Final = 8


class State(TableReads):
    """The views as they were at the first read of one answer, until `end`."""

    is_torn = False
    """Whether two reads may have seen two states, which these never do."""

    def __init__(self, states: States) -> None:
        self._states = states
        self.serves = states.serves
        self.readable: Readable | None = None
        self.transaction: Transaction | None = None
        """Both are known in the lane's thread from the first read on."""
        self.lane: Lane | None = None
        """Where it reads; it may change as long as nothing was read."""
        self._movable: tuple[Call, asyncio.Task[Any]] | None = None
        """Its first read, where that waits for those of others, and who waits for it."""
        self._was_moved = False
        self._stays = False
        """Whether more than that is read, all of it where this is."""
        self.began: float | None = None
        """When it was first seen to read, by the loop's clock; one that waits holds nothing up."""
        self.has_place = False
        self.has_ended = False
        self.is_too_old = False
        self._pins = False
        """Whether the schema is to stay before the first read is compiled."""
        self._waits: asyncio.Lock | None = None

    @property
    def positions(self) -> Mapping[str, int] | None:
        """See `ViewsState.positions`."""
        return None if self.readable is None else self.readable.positions

    def end(self) -> None:
        """Give the state back; a second call does nothing."""
        if not self.has_ended:
            self.has_ended = True
            self._states.leave(self)

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """Run a read in this state; wait for a place before the first one."""
        if not self.has_place and not self._states.enter_now(self):
            await self._enter()
        if self.has_ended or self.is_too_old:
            self._check()
        if self.readable is None:
            self._pins = self._pins or call not in OPENS_NO_INDEX
        try:
            if self.lane is None:
                self.lane = self._states.lane()
                if self.lane.calls.waiting:
                    return await self._run_or_move(call, args)
            # All that it reads is read in one lane.
            self._movable, self._stays = None, True
            return await self.lane.calls.run(self.open, call, *args)
        except Exception:
            if self.is_too_old:
                self._check()
            raise

    async def _run_or_move(self, call: Callable[..., T], args: Sequence[Any]) -> T:
        """Run the first read in its lane, and in another where it is moved before it begins."""
        task = asyncio.current_task()
        assert task is not None, "whoever waits is a task"
        cancelled = task.cancelling()
        while True:
            assert self.lane is not None, "whoever moves it says where"
            mine = Call(self.open)
            self._movable = None if self._stays else (mine, task)
            try:
                return await self.lane.calls.run_call(mine, call, args)
            except asyncio.CancelledError:
                if not self._was_moved:
                    raise
                self._was_moved = False
                if task.uncancel() > cancelled:
                    raise  # somebody else has cancelled it as well
            finally:
                self._movable = None

    def move(self, to: Lane) -> None:
        """Read in another lane, where nothing was read yet."""
        if self._movable is not None and self._movable[0].claim():
            task = self._movable[1]
            self.lane, self._movable, self._was_moved = to, None, True
            task.cancel()  # as asyncio's own time-outs do: it waits for nothing but this read

    _run = run

    async def _enter(self) -> None:
        # One after the other, where an answer reads several things at once.
        self._waits = self._waits or asyncio.Lock()
        async with self._waits:
            if not self.has_place:
                await self._states.enter(self)

    def open(self) -> tuple[apsw.Connection, Readable]:
        """Give the connection, and begin at the first read; in the lane's thread."""
        if self.readable is None:
            self._check()
            assert self.lane is not None, "it was chosen before"
            self.transaction = self.lane.take(self._pins)
            self.readable = self.transaction.readable
        assert self.transaction is not None, "it was begun with what is read"
        if not self.transaction.is_alive:
            raise StoreFailed(
                "the state of the views that this answer reads is gone: a read of it failed, and "
                "SQLite has ended it. Asking again is safe",
                written=False,
                passes=True,
            )
        return self.readable.connection, self.readable

    def _check(self) -> None:
        if self.is_too_old:
            raise TimeoutError(
                f"an answer reads one state of the views for {self._states.seconds} s at most "
                f"(Limits.state_seconds), since their write-ahead log grows meanwhile: make it "
                f"read less, or raise the limit. Asking again is safe"
            )
        if self.has_ended:
            raise UsageError("the views were read by an answer that had been given already")


class States:
    """All states that are read at the same time."""

    def __init__(
        self,
        calls: QueryCalls,
        source: Source,
        limits: Limits,
        *,
        at_once: bool = False,
        more: Callable[[], QueryCalls] | None = None,
    ) -> None:
        """Take where to read; `at_once` gives back what has ended without waiting for a read.

        `more` starts another thread to read in, where there may be more than one.
        """
        self._at_once = at_once
        self.seconds = limits.state_seconds
        self.lanes = [Lane(calls, source, limits)]
        self._source = source
        self._limits = limits
        self._more = more
        self.serves = source.serves
        self._most = limits.answers_at_once
        self._reading: dict[State, None] = {}
        """Those that have a place, in the order in which they got it."""
        self._waiting: dict[asyncio.Future[None], State] = {}
        self._quiet: asyncio.Event | None = None
        """Set when nothing is read any more; there while there is a pause."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Open one connection, so that it is found now if none can be."""
        lane = self.lanes[0]
        await lane.calls.run(lane.nothing, lane.open)

    def lane(self) -> Lane:
        """Give where the next one reads: the first lane that nothing holds up."""
        for lane in self.lanes:
            if lane.calls.runs_for < HELD_UP_SECONDS:
                return lane
        if self._more is not None and len(self.lanes) < LANES_MAX and not self._is_closed:
            self.lanes.append(Lane(self._more(), self._source, self._limits))
            return self.lanes[-1]
        return min(self.lanes, key=lambda lane: lane.calls.waiting)

    # -- turns --------------------------------------------------------------------------------

    def enter_now(self, state: State) -> bool:
        """Let a state begin, if there is a place and nobody waits for one."""
        if self._waiting or not self._has_place:
            return False
        self._begin(state)
        return True

    async def enter(self, state: State) -> None:
        """Wait for a place; who waits longest is next."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = state
        try:
            await turn
        finally:
            self._waiting.pop(turn, None)

    @property
    def _has_place(self) -> bool:
        return len(self._reading) < self._most and self._quiet is None

    def _begin(self, state: State) -> None:
        state.has_place = True
        self._reading[state] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LOOK_SECONDS, self._look)

    def leave(self, state: State) -> None:
        """Take a state back from an answer."""
        if state in self._reading:
            del self._reading[state]
            if state.lane is not None:
                state.lane.ended.append(state)
                if self._at_once:
                    state.lane.calls.post(state.lane.give_back)
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._has_place:
            turn = next(iter(self._waiting))
            state = self._waiting.pop(turn)
            if not turn.done():
                self._begin(state)
                turn.set_result(None)
        if not self._reading and self._quiet is not None:
            self._quiet.set()

    def _look(self) -> None:
        """End what is too old, give back what has ended, and let nobody wait for a long read."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for lane in self.lanes:
            lane.looks += 1
        for state in list(self._reading):
            if state.readable is None:
                self._help(state)
                continue  # its first read waits for those of others
            if state.began is None:
                state.began = loop.time()
            if loop.time() - state.began >= self.seconds:
                state.is_too_old = True
                self.leave(state)
                if state.lane is not None:
                    state.lane.calls.give_up_on(state.open)
        for lane in self.lanes:
            if lane.ended and not self._is_closed:
                lane.calls.post(lane.give_back)
        if self._reading:
            self._timer = loop.call_later(LOOK_SECONDS, self._look)

    def _help(self, state: State) -> None:
        """Take a state to another lane where something holds its own up."""
        if state.lane is not None and state.lane.calls.runs_for >= HELD_UP_SECONDS:
            other = self.lane()
            if other.calls.runs_for < HELD_UP_SECONDS:
                state.move(other)

    @asynccontextmanager
    async def pause(self) -> AsyncGenerator[bool]:
        """Let nobody begin to read inside; tell whether those that did have ended.

        They are not waited for where one of them has read for long already.
        """
        now = asyncio.get_running_loop().time()
        if any(s.began is not None and now - s.began > PAUSE_SECONDS for s in self._reading):
            yield False
            return
        self._quiet = asyncio.Event()
        try:
            if self._reading:
                try:
                    async with asyncio.timeout(PAUSE_SECONDS):
                        await self._quiet.wait()
                except TimeoutError:
                    pass
            if not self._is_closed and not self._reading:
                for lane in list(self.lanes):
                    await lane.calls.run(lane.nothing, _give_nothing)
            yield not self._reading
        finally:
            self._quiet = None
            self._let_in()

    # -- the end ------------------------------------------------------------------------------

    def end(self) -> None:
        """Take no more reads, and interrupt those that run."""
        self._is_closed = True
        for lane in self.lanes:
            lane.calls.end()

    def close(self, lane: Lane) -> None:
        """Close the connections of a lane, in its thread."""
        self._is_closed = True
        states = [state for state in self._reading if state.lane is lane]
        read = [state.readable for state in states if state.readable is not None]
        lane.close(read)


def _give_nothing(_what: None) -> None:
    """Come when the worker does."""

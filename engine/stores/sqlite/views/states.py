"""One state of the views for each answer: a read transaction from its first read to its end.

Rules: all reads of an answer see what its first one saw. Answers that begin before anything is
committed anew read in one transaction, on one connection; who comes behind a commit never joins
those before it. Of answers that read there are `Limits.answers_at_once`; who comes then waits for a
turn. A writer waits for none of them, since SQLite's write-ahead log keeps what they still read. So
the log cannot be begun anew meanwhile, and grows: an answer has `Limits.state_seconds` from its
first read on, then its state is taken from it and its reads raise TimeoutError. Where many short
answers overlap without a gap, `pause` makes one. A transaction in which nobody reads is ended with
the next one, or a moment later. All of SQLite is called on the queries' worker, the rest is done on
the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

import apsw
import msgspec

from ....errors import UsageError
from ....limits import Limits
from ..connection import OnlyReads, run
from .queries import OPENS_NO_INDEX, QueryCalls, Readable, TableReads
from .tables import TableSql

__all__ = ["Source", "State", "States"]

T = TypeVar("T")

LOOK_SECONDS: Final = 0.02
"""How soon what has ended is given back where nothing else is read, and what is too old ended."""
PAUSE_SECONDS: Final = 0.1
"""How long new answers wait, at most, for those that read, so that the log can be begun anew."""

_BEGIN: Final = "BEGIN /* one state for one answer */"
_END: Final = "ROLLBACK /* one state for one answer */"


class Source(Protocol):
    """Where the connections come from; called on the queries' worker."""

    def connect(self) -> apsw.Connection:
        """Open one that can only read; its authorizer is an OnlyReads, or none."""
        ...

    def serves(self, projection: str) -> bool:
        """See `ViewsSource.serves`; on the loop."""
        ...

    def is_usable(self, connection: apsw.Connection) -> bool:
        """Tell whether one that was used before still reads the views."""
        ...

    def tables(
        self, connection: apsw.Connection, begin: Callable[[], None]
    ) -> Mapping[str, TableSql]:
        """Begin a read transaction by `begin`, read in it, and give the tables that serve."""
        ...

    def commits(self) -> int | None:
        """Give a number that is another one behind each commit; None where none is known.

        It changes before anybody is told of the commit.
        """
        ...


class _Transaction(msgspec.Struct, eq=False):
    """A read transaction, and how many answers read in it."""

    readable: Readable
    mark: tuple[int, int] | None
    """What was known of commits before it began: while that is so, others may join it."""
    users: int = 0


class State(TableReads):
    """The views as they were at the first read of one answer, until `end`."""

    is_torn = False
    """Whether two reads may have seen two states, which these never do."""

    def __init__(self, states: States) -> None:
        self._states = states
        self.serves = states.serves
        self.readable: Readable | None = None
        self.transaction: _Transaction | None = None
        """Both are known on the worker from the first read on."""
        self.began: float | None = None
        """When it was first seen to read, by the loop's clock; one that waits holds nothing up."""
        self.has_place = False
        self.has_ended = False
        self.is_too_old = False
        self._pins = False
        """Whether the schema is to stay before the first read is compiled."""
        self._waits: asyncio.Lock | None = None

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
            return await self._states.calls.run(self.open, call, *args)
        except Exception:
            if self.is_too_old:
                self._check()
            raise

    _run = run

    async def _enter(self) -> None:
        # One after the other, where an answer reads several things at once.
        self._waits = self._waits or asyncio.Lock()
        async with self._waits:
            if not self.has_place:
                await self._states.enter(self)

    def open(self) -> tuple[apsw.Connection, Readable]:
        """Give the connection, and begin at the first read; on the worker."""
        if self.readable is None:
            self._check()
            self.transaction = self._states.take(self._pins)
            self.readable = self.transaction.readable
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
    """All states that are read at the same time, and the connections for them."""

    def __init__(
        self, calls: QueryCalls, source: Source, limits: Limits, *, at_once: bool = False
    ) -> None:
        """Take where to read; `at_once` gives back what has ended without waiting for a read."""
        self._at_once = at_once
        self.calls = calls
        self.seconds = limits.state_seconds
        self._source = source
        self.serves = source.serves
        self._most = limits.answers_at_once
        self._bytes_max = limits.query_bytes
        self._idle: list[Readable] = []
        """Between two answers; on the worker. The one used last comes first: it knows most."""
        self._known: dict[str, frozenset[str]] = {}
        self._ended: deque[State] = deque()
        """To be given back on the worker."""
        self._newest: _Transaction | None = None
        """The one that may be joined; on the worker."""
        self._looks = 0
        """How often `_look` has looked: nothing is joined longer than between two of them."""
        self._reading: dict[State, None] = {}
        """Those that have a place, in the order in which they got it."""
        self._waiting: dict[asyncio.Future[None], State] = {}
        self._quiet: asyncio.Event | None = None
        """Set when nothing is read any more; there while there is a pause."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    # -- on the loop --------------------------------------------------------------------------

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
            self._ended.append(state)
            if self._at_once:
                self.calls.post(self._give_back)
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
        """End what is too old, and see that what has ended is given back."""
        loop = asyncio.get_running_loop()
        self._timer = None
        self._looks += 1
        for state in list(self._reading):
            if state.readable is None:
                continue  # its first read waits for those of others
            if state.began is None:
                state.began = loop.time()
            if loop.time() - state.began >= self.seconds:
                state.is_too_old = True
                self.leave(state)
                self.calls.give_up_on(state.open)
        if self._ended and not self._is_closed:
            self.calls.post(self._give_back)
        if self._reading:
            self._timer = loop.call_later(LOOK_SECONDS, self._look)

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
            if not self._is_closed:
                await self.calls.run(self._nothing, _give_nothing)
            yield not self._reading
        finally:
            self._quiet = None
            self._let_in()

    async def open(self) -> None:
        """Open one connection, so that it is found now if none can be."""
        await self.calls.run(self._nothing, self._open)

    # -- on the worker ------------------------------------------------------------------------

    def _open(self, _what: None) -> None:
        self._idle.append(self._readable(self._connect(), {}))

    def take(self, pins: bool) -> _Transaction:
        """Begin to read: give a transaction, on whose connection all reads see one state.

        It `pins` the schema at once where the first read opens an index of words.
        """
        # Looked at before it begins: what is committed in between only lets fewer join it.
        commits = self._source.commits()
        mark = None if commits is None else (commits, self._looks)
        newest = self._newest
        joins = newest is not None and mark is not None and newest.mark == mark
        self._give_back(joins=joins)
        if newest is None or not joins:
            newest = self._newest = _Transaction(self._begin_to_read(), mark)
        if pins:
            # Now, and not with the search: its index would be opened while the schema changes.
            run(newest.readable.connection, "SELECT 1 FROM sqlite_schema LIMIT 1")
        newest.users += 1
        return newest

    def _begin_to_read(self) -> Readable:
        while self._idle:
            found = self._idle.pop()
            if self._source.is_usable(found.connection):
                return self._look_at(found.connection)
            found.connection.close()
        return self._look_at(self._connect())

    def _look_at(self, connection: apsw.Connection) -> Readable:
        try:
            tables = self._source.tables(connection, lambda: _switch(connection, _BEGIN))
        except BaseException:
            connection.close()
            raise
        return self._readable(connection, tables)

    def _connect(self) -> apsw.Connection:
        connection = self._source.connect()
        # SQLite itself ends a text that grows beyond this, before it is made.
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, self._bytes_max)
        return connection

    def _readable(self, connection: apsw.Connection, tables: Mapping[str, TableSql]) -> Readable:
        return Readable(connection, tables, self._bytes_max, False, self._known)

    def _nothing(self) -> tuple[Any, None]:
        self._give_back()
        return None, None

    def _give_back(self, *, joins: bool = False) -> None:
        """End the transactions in which nobody reads; the newest stays where somebody `joins`."""
        while self._ended:
            left = self._ended.popleft().transaction
            if left is not None:
                left.users -= 1
                if not left.users and left is not self._newest:
                    self._end(left.readable)
        newest = self._newest
        if newest is not None and not newest.users and not joins:
            self._newest = None
            self._end(newest.readable)

    def _end(self, readable: Readable) -> None:
        _switch(readable.connection, _END)
        if readable.connection.txn_state() == apsw.SQLITE_TXN_NONE:
            self._idle.append(readable)
        else:
            # A read that failed half way is kept by its error, and with it the old state.
            readable.connection.close(True)

    def close(self) -> None:
        """Close all connections; nothing is read any more."""
        self._is_closed = True
        self._give_back()
        for readable in [*self._idle, *[s.readable for s in self._reading if s.readable]]:
            readable.connection.close()
        self._idle.clear()


def _give_nothing(_what: None) -> None:
    """Come when the worker does."""


def _switch(connection: apsw.Connection, statement: str) -> None:
    """Begin or end a read transaction, which no statement of a user may."""
    guard = connection.authorizer
    if isinstance(guard, OnlyReads):
        guard.is_beginning = True
        try:
            run(connection, statement)
        finally:
            guard.is_beginning = False
    else:
        run(connection, statement)

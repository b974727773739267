"""One state of the views for each answer: a snapshot from its first read to its end, on one link.

Rules: all reads of an answer see what its first one saw, in a transaction that cannot write, and no
write waits for it. Of answers that read there are `Limits.answers_at_once`, and at most as many as
there are links; who comes then waits for a turn. Where the server has no connection left, he waits
for one that another answer gives back. Those that begin with one row by its key, and so most of
all, read it in groups (`together`). An answer has `Limits.state_seconds` from its first read on,
since the server keeps for it what others have changed; then its state is taken from it and its
reads raise TimeoutError. A read by itself needs no transaction. What a statement of a user sets or
begins ends with its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from ....errors import EngineError, StoreFailed, UsageError
from ....limits import Limits
from ....model.projection import ProjectionDefinition, TableDefinition
from ....model.rows import Scalar
from ..failures import CANCELED, NO_TABLE, has_no_room, sqlstate_of
from .link import Link, Place, failed, is_lost_line
from .queries import SAVED, Known, Reading, TableReads, Torn, get_one
from .stands import Key
from .tables import TableSql
from .together import AT_WORK_MAX, KEPT_MAX, Group, Together

__all__ = ["Source", "State", "States"]

T = TypeVar("T")

LINKS_MAX: Final = 16
"""Connections for queries; an idle server takes a hundred of all its clients."""
IDLE_MAX: Final = 4
"""Connections that wait for the next answer, however long there is none."""
SPARE_SECONDS: Final = 10.0
"""How long more of them wait: to connect for each costs more than most answers."""
END_SECONDS: Final = 5.0
"""How long the server may take to end a transaction before the connection is given up."""


class Served(NamedTuple):
    """What serves in one snapshot."""

    tables: Mapping[str, TableSql]
    """By the name that is declared."""
    reals: Mapping[str, str]
    """Names that are declared, by real ones."""
    positions: Mapping[str, int] | None = None
    """How far each projection is, where that was looked for."""


class Source(Protocol):
    """What the tables are called that serve."""

    def serves(self, projection: str) -> bool:
        """See `ViewsSource.serves`."""
        ...

    def stands(self) -> Mapping[Key, int]:
        """Give where the views stand at least, before a snapshot is begun."""
        ...

    async def served(self, link: Link, known: Mapping[Key, int]) -> Served:
        """Give what serves, in the snapshot."""
        ...


class State(TableReads):
    """The views as they were at the first read of one answer, until `end`."""

    def __init__(self, states: States) -> None:
        self.is_torn = False
        """Whether other builds came to serve, or were dropped, before it had read its own."""
        self.serves = states.serves
        self._states = states
        self._turn = asyncio.Lock()
        self._reading: Reading | None = None
        self._group: Group | None = None
        """With whom it has read its first row, as long as it has read nothing else."""
        self._positions: Mapping[str, int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._call: asyncio.Timeout | None = None
        self._is_broken = False
        self.has_ended = False
        self.is_too_old = False
        self.ended = asyncio.Event()

    @property
    def positions(self) -> Mapping[str, int] | None:
        """See `ViewsState.positions`."""
        return self._positions

    def end(self) -> None:
        """Give the state back; a second call does nothing."""
        self.has_ended = True
        if not self._turn.locked():
            self._give_back()

    def _give_back(self) -> None:
        reading, self._reading = self._reading, None
        group, self._group = self._group, None
        if self._timer is not None:
            self._timer.cancel()
        self.ended.set()
        if group is not None:
            self._states.out_of(group, self)
        self._states.left(self, None if reading is None else reading.link, self._is_broken)

    def take_away(self) -> None:
        """End it, since it is too old."""
        self.is_too_old = True
        if self._call is not None:
            self._call.reschedule(asyncio.get_running_loop().time())
        else:
            self.end()

    async def read(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a read in this state."""
        async with self._turn:
            try:
                self._check()
                if self._timer is None and call is get_one:
                    together = await self._begin_together(*args)
                    if together is not None:
                        row: T = together[0]
                        return row
                reading = self._reading or await self._begin()
                async with asyncio.timeout(None) as self._call:
                    return await call(reading, *args)
            except BaseException as error:
                self._is_broken = self._is_broken or not isinstance(error, EngineError)
                if isinstance(error, Torn) or sqlstate_of(error) == NO_TABLE:
                    self.is_torn = True
                told = self._states.told(error, self.is_too_old)
                if told is error:
                    raise
                raise told from error
            finally:
                self._call = None
                if self.has_ended or self.is_too_old:
                    self._give_back()

    _run = read

    def _check(self) -> None:
        if self.is_too_old:
            raise self._states.too_old()
        if self.has_ended:
            raise UsageError("the views were read by an answer that had been given already")

    async def _begin_together(self, table: TableDefinition, key: Scalar) -> tuple[Any] | None:
        """Read the first row with others; give it, or None where this one is to read by itself."""
        joined = await self._states.together.join(self, table, key)
        if joined is None:
            return None
        self._group, row = joined
        assert self._group.reading is not None, "it stays until this one has left"
        self._began(self._group.reading)
        if isinstance(row, Exception):
            raise row
        return (row,)

    async def _begin(self) -> Reading:
        group = self._group
        if group is not None:
            self._reading = await self._states.go_on(self, group)
            self._group = None
            return self._reading
        self._reading = await self._states.begin(self)
        self._began(self._reading)
        return self._reading

    def _began(self, reading: Reading) -> None:
        self._positions = reading.positions
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._states.seconds, self.take_away)


class States:
    """All states that are read at the same time, and the links for them."""

    def __init__(
        self,
        place: Place,
        source: Source,
        limits: Limits,
        definitions: Iterable[ProjectionDefinition],
    ) -> None:
        self.serves = source.serves
        self.seconds = limits.state_seconds
        self._place = place
        self._source = source
        self._bytes_max = limits.query_bytes
        self._in_sql = frozenset(t.name for d in definitions for t in d.sql_tables.values())
        most = min(limits.answers_at_once, LINKS_MAX - AT_WORK_MAX - KEPT_MAX)
        self._places = asyncio.Semaphore(most)
        self.together = Together(self, limits.answers_at_once, limits.state_seconds)
        self._known: dict[str, Known] = {}
        self._idle: list[Link] = []
        self._spare = 0
        """How many of them have not been needed of late."""
        self._trimming: asyncio.TimerHandle | None = None
        self._reading: dict[State, Link] = {}
        self._placed: dict[Link, None] = {}
        """Those that have a place of `_places`."""
        self._shared: dict[Link, None] = {}
        """Those of groups."""
        self._returned = asyncio.Event()
        """Set as an answer has given its link back, or has closed it."""
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._begins = (
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
            f'SET LOCAL search_path TO "{place.schema}", "{place.log_schema}"; '
            f"SET LOCAL statement_timeout = {1_000 * limits.state_seconds}"
        )

    def state(self) -> State:
        """Give the views as they are at its first read."""
        return State(self)

    async def run(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run one read by itself."""
        state = State(self)
        try:
            return await state.read(call, *args)
        finally:
            state.end()

    async def begin(self, state: State) -> Reading:
        """Take a link, and begin a snapshot on it."""
        self._check()
        async with self._place_of(state) as placed:
            known = self._source.stands()
            link = await self._begun(f"{self._begins}; {SAVED}")
            placed.append(link)
            self.reads(state, link)
            return await self._served(link, known)

    async def begin_shared(self) -> Reading:
        """Do the same for a group, which has no place among single answers."""
        self._check()
        known = self._source.stands()
        link = await self._begun(self._begins)
        self._shared[link] = None
        try:
            return await self._served(link, known)
        except BaseException:
            del self._shared[link]
            link.end()
            raise

    async def go_on(self, state: State, group: Group) -> Reading:
        """Let an answer read more, in the snapshot of its group, and by itself from now on."""
        self._check()
        async with self._place_of(state) as placed:
            own = self.together.take_over(group, state)
            if own is not None:
                placed.append(own.link)
                self._shared.pop(own.link, None)
                await own.link.do(SAVED)
                return own
            shared = group.reading
            assert shared is not None, "it stays until this one has left"
            name = await group.exported()
            begin, rest = self._begins.split("; ", 1)
            adopt = f"{begin}; SET TRANSACTION SNAPSHOT '{name}'; {rest}; {SAVED}"
            link = await self._begun(adopt)
            placed.append(link)
            self.reads(state, link)
            self.together.leave(group, state)
            return msgspec.structs.replace(shared, link=link)

    @asynccontextmanager
    async def _place_of(self, state: State) -> AsyncGenerator[list[Link]]:
        """Wait for a place; where what is inside fails, give it back, and end its link."""
        await self._places.acquire()
        placed: list[Link] = []
        try:
            yield placed
        except BaseException:
            self._reading.pop(state, None)
            for link in placed:
                link.end()
            self._places.release()
            raise
        self._placed.update(dict.fromkeys(placed))

    async def _served(self, link: Link, known: Mapping[Key, int]) -> Reading:
        self._check()
        tables, reals, positions = await self._source.served(link, known)
        said, schema, in_sql = self._known, self._place.schema, self._in_sql
        return Reading(link, tables, reals, self._bytes_max, said, schema, in_sql, positions)

    async def _begun(self, begin: str) -> Link:
        while True:
            link = await self._rested(begin)
            if link is not None:
                return link
            self._returned.clear()
            try:
                return await self._connected(begin)
            except StoreFailed as error:
                # Single answers alone are waited for: who reads in a group may wait for a place.
                if not has_no_room(error.__cause__) or not (self._placed or self._ending):
                    raise
            await self._returned.wait()
            self._check()

    async def _rested(self, begin: str) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            self._spare = min(self._spare, len(self._idle))
            if link.is_open:
                try:
                    await link.do(begin)
                except BaseException as error:
                    link.end()
                    # The server was away while nobody asked.
                    if not (isinstance(error, Exception) and is_lost_line(error)):
                        raise
                else:
                    return link
        return None

    async def _connected(self, begin: str) -> Link:
        link = await self._place.connect()
        try:
            await link.do(begin)
        except BaseException:
            link.end()
            raise
        return link

    def reads(self, state: State, link: Link) -> None:
        """Note that an answer reads on a link."""
        self._reading[state] = link

    def left(self, state: State, link: Link | None, is_broken: bool) -> None:
        """Take a link back from an answer."""
        if self._reading.pop(state, None) is not None and link is not None:
            self.give_back(link, is_broken=is_broken)

    def out_of(self, group: Group, state: State) -> None:
        """Let an answer go out of its group."""
        self.together.leave(group, state)

    def give_back(self, link: Link, *, is_broken: bool) -> None:
        """End the transaction of a link."""
        self._shared.pop(link, None)
        task = asyncio.ensure_future(self._end(link, is_broken))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, link: Link, is_broken: bool) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                await link.do("ROLLBACK")
                if is_broken or self._is_closed:
                    await link.close()
                else:
                    self._rest(link)
        except Exception:
            link.end()
        finally:
            self._returned.set()
            if link in self._placed:
                del self._placed[link]
                self._places.release()

    def _rest(self, link: Link) -> None:
        """Keep a link for the next answer; those beyond a few only while answers need them."""
        self._idle.append(link)
        if len(self._idle) > IDLE_MAX and self._trimming is None:
            self._spare = len(self._idle)
            self._trimming = asyncio.get_running_loop().call_later(SPARE_SECONDS, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        many = len(self._idle) - IDLE_MAX
        for link in self._idle[: min(self._spare, many)]:
            self._idle.remove(link)
            link.end()
        if len(self._idle) > IDLE_MAX:
            self._rest(self._idle.pop())

    async def passed(self) -> None:
        """Return when all that read now have ended."""
        for state in list(self._reading):
            await state.ended.wait()

    def told(self, error: BaseException, is_too_old: bool) -> BaseException:
        """Give what whoever read is told."""
        if self._is_closed:
            return StoreFailed(
                f"the views in {self._place.name} were closed during a query", written=False
            )
        if isinstance(error, Torn):
            why = f"{error}: this answer is not of one state. Asking again is safe"
            return StoreFailed(why, written=False, passes=True)
        late = is_too_old and isinstance(error, TimeoutError | asyncio.CancelledError)
        if late or sqlstate_of(error) == CANCELED:
            return self.too_old()
        if isinstance(error, EngineError | TimeoutError) or not isinstance(error, Exception):
            return error
        if is_lost_line(error) or sqlstate_of(error):
            return failed(self._place, error, "read", written=False)
        return error

    def too_old(self) -> TimeoutError:
        """Say that an answer has read one state for too long."""
        return TimeoutError(
            f"an answer reads one state of the views for {self.seconds} s at most "
            f"(Limits.state_seconds), since the server keeps it meanwhile: make it read less, or "
            f"raise the limit. Asking again is safe"
        )

    def _check(self) -> None:
        if self._is_closed:
            raise StoreFailed(f"the views in {self._place.name} are closed", written=False)

    async def close(self) -> None:
        """Close all links; what still reads fails."""
        self._is_closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        for link in (*self._reading.values(), *self._shared):
            link.end()
        await self.together.close()
        idle, self._idle = self._idle, []
        for link in idle:
            await link.close()
        if self._ending:
            await asyncio.wait(self._ending)

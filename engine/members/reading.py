"""A member's own reading: views, log and feeds out of the store, whoever owns it at the moment.

Rules: it is opened once and serves over any number of owners, this process among them: what was
begun here goes on where the owner changes. Queries are answered by views that the owner writes.
Feeds follow the log, which is looked at when the server tells of an append, or else some hundred
times a second at most, and only while somebody follows. Nothing is written, and no owner is asked;
the gate is asked as an engine does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ..authorization import Gate
from ..errors import Closed, Damaged, EngineError, ProjectionLag, ProjectionUnserved, UsageError
from ..limits import Limits
from ..log.bus import Bus
from ..log.feed import Asked, Feeds, Wanted
from ..model.aggregate import AggregateDefinition
from ..model.codec import EventRegistry
from ..model.messages import Query, Receipt, position_of
from ..outside.log_file import LogFile
from ..outside.onlooker import TOLD_LOOK_SECONDS, Onlooker, OnlookerQuery, Waking
from ..queries.live import LiveQuery
from ..runtime.shared_call import SharedCall
from ..stores.contract.log import Head, LogSource
from ..telemetry import Observer

__all__ = ["LogWatch", "MemberAnswers", "MemberFeeds", "MemberLive", "MemberQuery", "MemberViews"]

A = TypeVar("A")

_RESTING: Final = ("stopped", "paused", "building")
_STATES_SECONDS: Final = 1.0
"""How long it may take to find out why a projection lags."""
_REST_MIN: Final = 0.002
_REST_MAX: Final = 0.1
"""Seconds between two looks at the log: the least after something came, the most at rest."""
_TOLD_REST: Final = TOLD_LOOK_SECONDS
"""The same where appends are told, and none was."""


class MemberViews(Onlooker):
    """The views of a log whose owner may be another process."""

    _owners: Mapping[str, ProjectionUnserved] = {}
    _members: Mapping[str, ProjectionUnserved] = {}
    """What is left out since the owner keeps it otherwise, or members do."""
    _misfits = False

    def leave_out(self, unserved: Mapping[str, ProjectionUnserved], *, misfits: bool) -> None:
        """Serve nothing of these projections from now on, and raise what stands for each.

        With `misfits` also of others, as long as their tables are not those that are declared.
        """
        self._owners, self._misfits = unserved, misfits
        self._leave_out()

    def leave_out_too(self, unserved: Mapping[str, ProjectionUnserved]) -> None:
        """Do so for these too, which members keep otherwise."""
        self._members = unserved
        self._leave_out()

    def _leave_out(self) -> None:
        self._unserved = unserved = {**self._owners, **self._members}
        self._reader.leave_out(unserved.keys(), misfits=self._misfits)
        self._answers.leave_out(unserved.keys())
        for name, seen in self._seen.items():
            seen.is_left_out = name in unserved

    def believe(self, acknowledged: Callable[[], int]) -> None:
        """Take for granted, from now on, that the log has what was acknowledged."""
        self._answers.acknowledged = acknowledged

    def belong_to(self, engine: object, state_here: Callable[[str], str | None]) -> None:
        """Be asked by the answers of this engine, whatever else it answers from.

        `state_here` gives what a projection that lags does in this process; None where it is not
        run here.
        """
        self._answers.engine = engine
        for seen in self._seen.values():
            seen.state_here = state_here

    def observe(self, watch: Observer | None) -> None:
        """Show a telemetry each query from now on."""
        self._answers.observe(watch)


class MemberAnswers:
    """Answers to queries, from the views as they stand."""

    def __init__(
        self,
        onlooker: Onlooker,
        check_usable: Callable[[], object],
        states: Callable[[], Awaitable[Mapping[str, str]]],
    ) -> None:
        """Take also what gives how projections stand, whoever runs them; asked where one lags."""
        self._onlooker = onlooker
        self._check_usable = check_usable
        self._states = states
        self._asking: asyncio.Task[Mapping[str, str]] | None = None
        """One for all that lag at a moment: it is a request to the owner, which may have enough."""

    async def ask(
        self,
        query: Query[A],
        *,
        at: Receipt | str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - running out of it names who lags
    ) -> A:
        """See `Engine.query`."""
        try:
            return await self._onlooker.query(query, at=at, timeout=timeout)
        except Closed:
            self._check_usable()  # it tells why, where the engine ends
            raise
        except ProjectionLag as late:
            raise await self._as_it_stands(late) from None

    async def _as_it_stands(self, late: ProjectionLag) -> ProjectionLag:
        """Say of a projection that another process runs if it goes no further there."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._asked(), name="foldline states")
        found = await asyncio.shield(self._asking)
        known = {name: state for name, state in found.items() if state in _RESTING}
        states = {name: known.get(name, state) for name, state in late.states.items()}
        return ProjectionLag(late.wanted, late.behind, states)

    async def _asked(self) -> Mapping[str, str]:
        with contextlib.suppress(EngineError, TimeoutError):
            async with asyncio.timeout(_STATES_SECONDS):
                return await self._states()
        return {}


class MemberLive:
    """Queries that are watched in this process."""

    def __init__(
        self,
        onlooker: Onlooker,
        check_usable: Callable[[], object],
        is_stopping: Callable[[], bool],
        gate: Gate | None,
    ) -> None:
        self.onlooker = onlooker
        self.is_stopping = is_stopping
        self._check_usable = check_usable
        self._gate = gate

    def watch(
        self,
        query: Query[A],
        at: Receipt | str | int | None,
        timeout: float | None,
        principal: str | None,
    ) -> LiveQuery[A]:
        """See `Engine.watch`."""
        self._check_usable()
        return MemberQuery(self, query, at, timeout, principal)

    async def admit(self, query: Query[Any], principal: str | None) -> None:
        """Return if the query may be watched."""
        if self._gate is not None:
            await self._gate.check(principal, "query", query)


class MemberQuery(LiveQuery[A]):
    """A query that is watched in this process; see `LiveQuery`."""

    def __init__(
        self,
        live: MemberLive,
        query: Query[A],
        at: Receipt | str | int | None,
        timeout: float | None,
        principal: str | None,
    ) -> None:
        self._question = None  # nobody in this process asks it for all who watch it
        self._asked = query, at, timeout, principal
        self._source = live
        self._inner: OnlookerQuery[A] = live.onlooker.watch(query)
        self._answer: object = None
        self._is_begun = self._is_busy = self._is_closed = False

    @property
    def position(self) -> int:
        """A position that the answer given last surely contains; 0 before the first one."""
        return self._inner.position

    @property
    def json(self) -> bytes:
        """The answer given last as JSON."""
        if not self._is_begun:
            raise UsageError("this live query has given no answer yet: iterate it first")
        return msgspec.json.encode(self._answer)

    async def __anext__(self) -> A:
        """Give the next answer. If the wait for it is cancelled, nothing is lost."""
        if self._is_busy:
            raise UsageError("this live query is waited for in another task: give each its own")
        self._is_busy = True
        try:
            answer = await (anext(self._inner) if self._is_begun else self._first())
            self._answer, self._is_begun = answer, True
            return answer
        except Closed:
            await self.aclose()
            if self._source.is_stopping():
                raise StopAsyncIteration from None
            raise
        except Exception:  # also the end, a StopAsyncIteration
            await self.aclose()
            raise
        finally:
            self._is_busy = False

    async def _first(self) -> A:
        """Give the first answer: it contains what it is to, also where that is taken back."""
        query, at, timeout, principal = self._asked
        await self._source.admit(query, principal)
        if at is None:
            return await anext(self._inner)
        until = position_of(at)
        while True:
            await self._source.onlooker.query(query, at=at, timeout=timeout)
            answer = await anext(self._inner)
            if self._inner.contains(until):
                return answer
            # Anew: who watches is given no answer that equals the one before it.
            await self._inner.aclose()
            self._inner = self._source.onlooker.watch(query)

    async def aclose(self) -> None:
        """Watch no more; a wait for the next answer ends."""
        self._is_closed = True
        await self._inner.aclose()


class LogWatch:
    """Lets those in this process who follow the log know what others have appended."""

    def __init__(self, log: LogFile, bus: Bus, waking: Waking) -> None:
        """Take what ends a rest early, where the store tells of appends."""
        self._log = log
        self._waking = waking
        self._bus = bus
        self._head = Head()
        """The end of the log, as it was seen last."""
        self.times_back = 0
        """How often that was not there any more at the next look."""
        self.look = SharedCall(self._look)
        """See where the log ends now, and whether it is the one that was seen before.

        One look is made at a time: two would count twice that the log went back once.
        """

    @property
    def position(self) -> int:
        """Where the log ended, as it was seen last."""
        return self._head.position

    @property
    def is_followed(self) -> bool:
        """Whether anybody follows the log here; its end is looked for only then."""
        return self._bus.is_followed

    async def _look(self) -> None:
        """Look, and tell who follows of what changed: nobody else's look finds it changed again."""
        known, found = self._head, await self._log.head()
        if found == known:
            return
        if not await self._has(known):
            self.times_back += 1
        self._head = found
        self._bus.miss()

    async def _has(self, known: Head) -> bool:
        if not known.position:
            return True
        try:
            page = await self._log.read_feed(known.position - 1, events_max=1, bytes_max=1)
        except Damaged:
            return True  # which says nothing of those behind it, and is told to who reads it
        return bool(page) and page[0].checksum == known.checksum

    async def run(self) -> None:
        """Look until cancelled: often where something comes, seldom where nothing does."""
        rest, changes, known = _REST_MIN, -1, self._waking.known
        while True:
            await self._waking.rest(known, _TOLD_REST if self._waking.is_told else rest)
            if not self._bus.is_followed:
                rest = _REST_MAX
                await asyncio.sleep(rest)
                continue
            known = self._waking.known
            try:
                seen = await self._log.change_count()
                if seen == changes:
                    rest = min(rest * 2, _REST_MAX)
                    continue
                await self.look()
            except EngineError:
                rest = _REST_MAX
                await asyncio.sleep(rest)
                known -= 1  # it has still to be looked for
                continue  # who reads the log is told himself
            rest, changes = _REST_MIN, seen


class MemberFeeds(Feeds):
    """The feeds of a member; see `Feeds`."""

    def __init__(
        self,
        watch: LogWatch,
        log: LogSource,
        bus: Bus,
        registry: EventRegistry,
        definitions: Sequence[AggregateDefinition],
        limits: Limits,
        *,
        check_usable: Callable[[], object],
        gate: Gate | None,
    ) -> None:
        super().__init__(
            log,
            bus,
            registry,
            definitions,
            limits,
            check_usable=check_usable,
            position=lambda: watch.position,
            gate=gate,
        )
        self._watch = watch

    async def begin(self, after: object, asked: Asked, principal: str | None) -> Wanted:
        """See `Feeds.begin`; the end of the log is looked at first."""
        await self._watch.look()
        return await super().begin(after, asked, principal)

    def times_back(self) -> int:
        """See `Feeds.times_back`."""
        return self._watch.times_back

"""A log's views from another process, without the application: looked at, asked for, done at rest.

Rules: to look takes no lock and changes nothing. What is to be done is asked for in one short
synced transaction, whether an engine runs or not. Where none has the log open, what needs no code
of the application is done here, in one transaction that has the log's lock, so that no engine
starts meanwhile; the rest waits for an engine. No gate is asked: whoever may write there may do all
of this. Nothing is made where no log or no views are. Calls block.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import msgspec

from ....errors import (
    Damaged,
    EngineError,
    Overloaded,
    StoreFailed,
    StoreRefused,
    UsageError,
)
from ....runtime.machine import user_name
from ...contract.acts import (
    DONE_TEXTS,
    build_to_cancel,
    builds_to_drop,
    cancelled_text,
    check_reset,
    check_skip,
    dropped_text,
    is_parked_there,
    skipped_text,
    stopped_there,
)
from ...contract.builds import serving
from ...contract.outside import SHELL, Found, Looked, NoViewsYet
from ...contract.requests import (
    AT_REST,
    ENDED_TEXT,
    REQUESTS_OPEN_MAX,
    TIMER_KINDS,
    Arguments,
    Outcome,
    Request,
    refusal_of,
)
from ...contract.timers import check_stands
from ...contract.views import DecisionKind, Parked, ProjectionDecision
from ..failures import sqlstate_of
from ..log.reading import events_of_feed, read_feed, read_types
from ..log.schema import lock_key
from ..views.builds import Builds
from ..views.catalog import SYNCED
from ..views.link import Link, Place, transaction
from ..views.schema import check_schema, has_views
from .blocking import Blocking
from .log import PostgresLogReader, is_in_use

__all__ = ["PostgresOperations"]

_LOOKING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresOperations:
    """The log at a place and its views; use it with `with`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._clock = place.ports.clock
        self._calls = Blocking(place)
        self._builds = Builds(place)
        self._books = self._builds.books
        self._is_open = False
        self.log = PostgresLogReader(place)
        """The log, to be read."""

    # -- life ---------------------------------------------------------------------------------

    def __enter__(self) -> PostgresOperations:
        """Open log and views; raise StoreRefused where there are none that can be used."""
        try:
            self.log.open()
            self._calls.open()
            self._calls.run(self._check)
        except BaseException:
            self.close()
            raise
        self._is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close both."""
        self.close()

    async def _check(self, link: Link) -> None:
        name = self._place.name
        if not await has_views(link, self._place):
            raise NoViewsYet(
                f"there are no views in {name}: no engine with projections has run on it yet, or "
                f"its views are elsewhere"
            )
        log_id = await check_schema(link, self._place)
        if log_id != self.log.log_id:
            raise StoreRefused(
                f"{name} has views of log {log_id}, and is log {self.log.log_id}: an engine drops "
                f"them when it starts on this log. Nothing was done"
            )

    def close(self) -> None:
        """Close both; a second call does nothing."""
        self._is_open = False
        self._calls.close()
        self.log.close()

    # -- looking ------------------------------------------------------------------------------

    def is_in_use(self) -> bool:
        """Tell whether an engine has the log open."""
        return self._calls.run(is_in_use, self._place)

    def look(self) -> Looked:
        """Read how all projections stand."""
        return self._calls.run(self._look)

    async def _look(self, link: Link) -> Looked:
        async with transaction(link, _LOOKING):
            builds = await self._builds.read(link)
            names = {build.projection for build in builds}
            paused = [name for name in names if await self._books.is_paused(link, name)]
            return Looked(
                builds,
                await self._books.count_parked(link),
                frozenset(paused),
                await self._books.standstills(link),
                await self._books.open_requests(link),
            )

    def parked(
        self, projection: str, *, key: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[Parked]:
        """Give parked events of the build that serves, in order of position."""
        return self._calls.run(self._parked, projection, key, after, limit)

    async def _parked(
        self, link: Link, projection: str, key: str | None, after: int, limit: int
    ) -> Sequence[Parked]:
        async with transaction(link, _LOOKING):
            number = (await self._serving(link, projection)).number
            return await self._books.parked(link, projection, number, key, after, limit)

    def decisions(self, projection: str | None) -> Sequence[ProjectionDecision]:
        """Give what was decided, the oldest first."""
        return self._calls.run(self._decisions, projection)

    async def _decisions(self, link: Link, projection: str | None) -> Sequence[ProjectionDecision]:
        async with transaction(link, _LOOKING):
            if projection is not None:
                await self._builds_of(link, projection)
            return await self._books.decisions(link, projection)

    async def _builds_of(self, link: Link, projection: str) -> Sequence[Found]:
        builds = await self._builds.read(link)
        mine = [build for build in builds if build.projection == projection]
        if not mine:
            names = sorted({build.projection for build in builds})
            raise UsageError(
                f"no projection {projection!r} in {self._place.name}; there are {names}"
            )
        return mine

    async def _serving(self, link: Link, projection: str) -> Found:
        now = serving(await self._builds_of(link, projection))
        if now is None:
            raise UsageError(f"projection {projection!r} has no tables that serve")
        return now

    # -- asking -------------------------------------------------------------------------------

    def ask(
        self, kind: str, projection: str, arguments: Arguments, *, asked_by: str | None = SHELL
    ) -> int:
        """Ask for something; give the number of the request, which is durable then."""
        if (why := refusal_of(kind, arguments)) is not None:
            raise UsageError(f"{why}. Nothing was asked for")
        if kind in TIMER_KINDS:
            check_stands(self.log, arguments)
        now = self._clock.now()
        principal = f"cli:{user_name()}" if asked_by == SHELL else asked_by
        request = Request(0, kind, projection, arguments, now, principal)
        return self._calls.run(self._ask, request)

    async def _ask(self, link: Link, request: Request) -> int:
        async with transaction(link, SYNCED):
            if request.kind not in TIMER_KINDS:
                await self._builds_of(link, request.projection)
            if await self._books.count_open(link) >= REQUESTS_OPEN_MAX:
                raise Overloaded(
                    f"{REQUESTS_OPEN_MAX} requests wait in {self._place.name} already: nothing "
                    f"more was asked for. Start the engine, which does them"
                )
            return await self._books.add_request(link, request)

    def request(self, number: int) -> Request:
        """Give a request as it is now."""
        found = self._calls.run(self._books.request, number)
        if found is None:
            raise StoreRefused(
                f"request {number} is not in {self._place.name} any more: the views were made "
                f"anew, or many others came after it"
            )
        return found

    # -- doing at rest ------------------------------------------------------------------------

    def do_at_rest(self) -> bool:
        """Do what waits and needs no engine, if none has the log open; tell whether none has."""
        return self._calls.run(self._do_at_rest)

    async def _do_at_rest(self, link: Link) -> bool:
        one, two = lock_key(self._place.log_schema)
        begin = f"{SYNCED}; SELECT pg_catalog.pg_advisory_xact_lock({one}, {two})"
        async with transaction(link, begin):
            # An engine that starts waits for this lock before it has the log.
            if await is_in_use(link, self._place):
                return False
            for request in await self._books.open_requests(link):
                if request.state == "begun":
                    await self._answer(link, request, Outcome("unknown", ENDED_TEXT))
                elif (why := refusal_of(request.kind, request.arguments)) is not None:
                    await self._answer(link, request, Outcome("refused", why))
                elif not await self._needs_engine(link, request):
                    await self._do(link, request)
        return True

    async def _needs_engine(self, link: Link, request: Request) -> bool:
        """Whether only the application's code can do it: also to make tables of its own anew."""
        if request.kind not in AT_REST:
            return True
        builds = await self._builds.read(link)
        now = serving([build for build in builds if build.projection == request.projection])
        return request.kind == "reset" and now is not None and now.own

    async def _answer(self, link: Link, request: Request, outcome: Outcome) -> None:
        await self._books.answer(link, request.number, outcome, self._clock.now())

    async def _do(self, link: Link, request: Request) -> None:
        await link.do("SAVEPOINT request")
        try:
            outcome = Outcome("done", await self._act(link, request))
        except (UsageError, StoreRefused, Damaged) as error:
            outcome = Outcome("refused", str(error))
        except (EngineError, StoreFailed):
            raise
        except Exception as error:
            if sqlstate_of(error) or not link.is_open:
                raise  # the server's, and not this request's
            # All of it is taken back; it must not stand in the way of those behind it.
            why = f"it cannot be done here ({type(error).__name__}): nothing was changed"
            outcome = Outcome("refused", why)
        if outcome.state == "refused":
            await link.do("ROLLBACK TO SAVEPOINT request")
        await self._answer(link, request, outcome)

    async def _act(self, link: Link, request: Request) -> str:
        """Do it inside the transaction; give what is to be told."""
        if request.arguments is None:
            raise UsageError("what goes with this request cannot be read")
        now = await self._serving(link, request.projection)
        if request.kind == "cancel":
            return await self._cancel(link, request)
        if request.kind == "drop":
            return await self._drop(link, request)
        if request.kind == "skip":
            return await self._skip(link, request, now)
        if request.kind == "reset":
            decided = await self._books.decisions(link, request.projection)
            check_reset(request.projection, decided)
            await self._builds.empty(link, now, None)
        if request.kind != "resume" or await self._books.is_paused(link, request.projection):
            await self._decide(link, request, request.kind, now.version)
        text = DONE_TEXTS[request.kind]
        return text if request.kind == "pause" else f"{text}, when an engine starts"

    async def _cancel(self, link: Link, request: Request) -> str:
        builds = await self._builds_of(link, request.projection)
        found = build_to_cancel(request.projection, builds)
        await self._builds.drop(link, found)
        await self._decide(link, request, "drop", found.version)
        return cancelled_text(found)

    async def _drop(self, link: Link, request: Request) -> str:
        former = builds_to_drop(await self._builds_of(link, request.projection))
        for build in former:
            await self._builds.drop(link, build)
            await self._decide(link, request, "drop", build.version)
        return dropped_text(former)

    async def _skip(self, link: Link, request: Request, now: Found) -> str:
        assert request.arguments is not None
        name, position = request.projection, request.arguments.position
        assert position is not None, "a skip without a position was refused"
        check_skip(request.arguments.reason)
        version = now.version
        parked = await self._books.parked(link, name, now.number, None, position - 1, 1)
        if not is_parked_there(position, parked):
            stopped = stopped_there(name, position, await self._books.standstills(link))
            # It stands in nobody's way any more.
            await self._books.forget_failures(link, name, stopped.build)
            version = stopped.version
        await self._decide(link, request, "skip", version)
        return skipped_text(position)

    async def _decide(self, link: Link, request: Request, kind: str, version: int) -> None:
        arguments = request.arguments
        assert arguments is not None
        position = arguments.position if kind == "skip" else None
        decision = ProjectionDecision(
            request.projection,
            msgspec.convert(kind, DecisionKind),
            self._clock.now(),
            version,
            position,
            arguments.reason,
            request.principal,
            None if position is None else await self._checksum_at(link, position),
        )
        await self._books.add_decision(link, decision)

    async def _checksum_at(self, link: Link, position: int) -> int:
        """Give what tells an event from another one at its position. Raises Damaged."""
        schema = self._place.log_schema
        types = {
            number: (name, version)
            for number, name, version, _ in await read_types(link.line, schema)
        }
        rows = await read_feed(link.line, schema, position - 1, 1, 1)
        page = events_of_feed(rows, position - 1, types.get)
        if not page or page[0].position != position:
            raise UsageError(f"the log has no event at position {position}")
        return page[0].checksum

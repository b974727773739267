"""Operations of a log from another process: at rest, or in use by an engine.

Rules: log and views are opened read-only for each look at them. What is to be done is asked for in
the views' file, as `foldline projections` does: a running engine does it, and where none runs this
process does what needs none of the application's code. No `authorize` of an engine is asked where
none runs: whoever may write the files may do this. With the classes of the application, states and
differences are shown, and personal data as an engine shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, TypeVar

from ..errors import StoreRefused, UsageError
from ..log.browsing import browse
from ..log.selection import Selection
from ..members.roster import who_shares
from ..model.aggregate import Aggregate
from ..model.retention import Retention
from ..outside.archive import Archive
from ..outside.log_file import LogFile
from ..outside.standings import Standing, Standings, progress_of
from ..runtime.ports import Ports, Worker
from ..stores.contract.backend import Backend
from ..stores.contract.outside import Operations as Outside
from ..stores.contract.requests import Arguments, Request
from ..stores.contract.timers import timer_target
from ..stores.contract.views import Build, Parked, ProjectionDecision
from .answers import (
    Audit,
    Claims,
    Done,
    LogPage,
    Members,
    Overview,
    Retained,
    Sagas,
    ShownChange,
    ShownProjection,
    ShownState,
    Timers,
)
from .audit import audit_of
from .inside import claims_of, hot_streams
from .operations import ACTS, Operations, TimerAct, checked_timer_act
from .pace import PositionPace
from .sagas import NO_CODE, process_kinds, sagas_page, with_states
from .shown import (
    as_json,
    checked_after,
    checked_limit,
    checked_stream,
    page_of,
    payload_max,
    shown_changes,
    timers_page,
)

__all__ = ["LogOperations"]

T = TypeVar("T")

_ANSWER_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1
_MEMBERS_SECONDS: Final = 2.0
_TROUBLED: Final = frozenset({"stopped", "paused"})


class LogOperations(Operations):
    """Operations of the log of a backend; use it with `async with`.

    `archive` reads it with the classes of the application, whose aggregates are `aggregates`.
    """

    def __init__(
        self,
        backend: Backend,
        ports: Ports,
        *,
        archive: Archive | None = None,
        aggregates: Sequence[type[Aggregate]] = (),
    ) -> None:
        self._outside = backend.outside(ports)
        self._ports = ports
        self._archive = archive
        self._kinds = {cls.__definition__.kind: cls for cls in aggregates}
        self._log = LogFile(self._outside.log_reader(), ports)
        self._worker: Worker | None = None
        self._pace = PositionPace()
        self._standings: Standings | None = None

    async def __aenter__(self) -> LogOperations:
        """Open the log; raise StoreRefused if there is none that can be read."""
        await self._log.open()
        self._worker = self._ports.workers.start("foldline-operations")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        worker, self._worker = self._worker, None
        try:
            if worker is not None:
                await worker.close()
        finally:
            await self._log.close()

    @property
    def has_states(self) -> bool:
        """Whether the classes of the application were given."""
        return self._archive is not None

    async def _on_views(self, call: Callable[[Outside], T]) -> T:
        """Run a call on log and views, opened read-only."""

        def run() -> T:
            with self._outside.operations(readonly=True) as opened:
                return call(opened)

        assert self._worker is not None, "it is used inside `async with`"
        return await self._worker.run(run)

    # -- numbers ------------------------------------------------------------------------------

    async def overview(self, *, principal: str | None = None) -> Overview:
        """See `Operations.overview`."""
        head = await self._log.head()
        hot, hot_of = await hot_streams(self._log, head.position)
        standings = await self._standing()
        writer = self._outside.writer()
        lags = [each.lag_seconds for each in standings if each.lag_seconds is not None]
        return Overview(
            state="at rest" if writer is None else "in use",
            position=head.position,
            recorded=head.recorded or None,
            now=self._ports.clock.now(),
            process=writer,
            rates=self._pace.look(self._ports.clock.monotonic(), head.position),
            hot=hot,
            hot_of=hot_of,
            projections=len(standings),
            lag_events=max((each.lag_events for each in standings), default=0),
            lag_seconds=max(lags, default=None),
            troubled=[each.name for each in standings if each.state in _TROUBLED],
            parked=sum(each.parked for each in standings),
        )

    async def position(self) -> int:
        """See `Operations.position`."""
        return (await self._log.head()).position

    # -- projections --------------------------------------------------------------------------

    async def projections(self, *, principal: str | None = None) -> Sequence[ShownProjection]:
        """See `Operations.projections`."""
        return [_shown(standing) for standing in await self._standing()]

    async def _standing(self) -> Sequence[Standing]:
        def observe(opened: Outside) -> Sequence[Standing]:
            if self._standings is None:
                self._standings = Standings(opened, self._ports.clock)
            self._standings.outside = opened
            return self._standings.observe()

        try:
            return await self._on_views(observe)
        except StoreRefused:
            return ()  # there are no views yet, and the log is shown all the same

    async def parked(
        self,
        projection: str,
        *,
        key: str | None = None,
        after: int = 0,
        limit: int = 100,
        principal: str | None = None,
    ) -> Sequence[Parked]:
        """See `Operations.parked`."""
        checked_limit(limit)
        return await self._on_views(
            lambda opened: opened.parked(projection, key=key, after=after, limit=limit)
        )

    async def act(
        self, kind: str, projection: str, arguments: Arguments, *, principal: str | None = None
    ) -> Done:
        """See `Operations.act`."""
        if kind not in ACTS:
            raise UsageError(f"{kind!r:.40} is nothing that is done with a projection: {ACTS}")
        return await self._asked(kind, projection, arguments)

    async def act_on_timer(
        self,
        kind: TimerAct,
        stream: str,
        name: str,
        *,
        reason: str = "",
        principal: str | None = None,
    ) -> Done:
        """See `Operations.act_on_timer`."""
        arguments = Arguments(reason=reason, stream=stream, timer=name)
        target = timer_target(stream, name)
        return await self._asked(f"{checked_timer_act(kind)}-timer", target, arguments)

    async def _asked(self, kind: str, projection: str, arguments: Arguments) -> Done:
        """Ask for something, and wait a while for the answer."""
        number = await self._on_requests(lambda open_: open_.ask(kind, projection, arguments))
        deadline = self._ports.clock.monotonic() + _ANSWER_SECONDS
        while True:
            request, at_rest = await self._on_requests(lambda open_: _answered(open_, number))
            if request.answered is not None:
                break
            if at_rest or self._ports.clock.monotonic() >= deadline:
                return Done(
                    "waiting",
                    f"request {number} waits for an engine, which does it when it "
                    f"{'starts' if at_rest else 'looks'}",
                )
            await asyncio.sleep(_POLL_SECONDS)
        if request.state == "refused":
            raise UsageError(request.answer)
        return Done(request.state, request.answer)

    async def _on_requests(self, call: Callable[[Outside], T]) -> T:
        def run() -> T:
            with self._outside.operations() as opened:
                return call(opened)

        assert self._worker is not None, "it is used inside `async with`"
        return await self._worker.run(run)

    async def retry_timers(self, *, principal: str | None = None) -> Done:
        """Raise UsageError: an engine does that."""
        raise UsageError(
            "timers are tried again by the process that owns the log: call "
            "`engine.retry_timers()` there, or use the console that it has mounted"
        )

    # -- the log ------------------------------------------------------------------------------

    async def log(
        self,
        selection: Selection,
        *,
        kinds: frozenset[str] | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int = 50,
        payloads: bool = False,
        principal: str | None = None,
    ) -> LogPage:
        """See `Operations.log`."""
        checked_limit(limit)
        if selection.stream is not None:
            checked_stream(selection.stream)
        found = await browse(
            self._log,
            selection,
            after=after,
            before=before,
            limit=limit,
            kinds=kinds,
            payload_max=payload_max(limit, payloads=payloads),
        )
        registry = None if self._archive is None else self._archive.registry
        return page_of(found, registry, payloads=payloads)

    async def state(
        self, stream: str, version: int | None = None, *, principal: str | None = None
    ) -> ShownState:
        """See `Operations.state`."""
        archive, cls, own_id = self._named(stream)
        state = await archive.state(cls, own_id, version=version)
        return ShownState(stream, state.version, as_json(state))

    async def difference(
        self, stream: str, before: int, after: int, *, principal: str | None = None
    ) -> Sequence[ShownChange]:
        """See `Operations.difference`."""
        archive, cls, own_id = self._named(stream)
        return shown_changes(await archive.difference(cls, own_id, before, after))

    def _named(self, stream: str) -> tuple[Archive, type[Aggregate], str]:
        kind, own_id = checked_stream(stream)
        if self._archive is None:
            raise UsageError("states take the application's code: start the console with --app")
        if kind not in self._kinds:
            raise UsageError(f"no aggregate of the kind {kind!r:.100} is declared in this program")
        return self._archive, self._kinds[kind], own_id

    # -- tables of the log --------------------------------------------------------------------

    async def timers(
        self,
        *,
        after: tuple[str, str] = ("", ""),
        limit: int = 100,
        parked: bool = False,
        payloads: bool = False,
        principal: str | None = None,
    ) -> Timers:
        """See `Operations.timers`."""
        checked_limit(limit)
        return await timers_page(
            lambda after, most: self._log.read_timers(after, timers_max=most),
            checked_after(after),
            limit,
            parked=parked,
            payloads=payloads,
        )

    async def sagas(
        self,
        *,
        before: int | None = None,
        limit: int = 50,
        waiting: bool = False,
        payloads: bool = False,
        principal: str | None = None,
    ) -> Sagas:
        """See `Operations.sagas`."""
        checked_limit(limit)
        if self._archive is None:
            return Sagas((), None, NO_CODE)
        kinds = process_kinds([*self._kinds.values()])
        found = await sagas_page(
            self._log, kinds, before=before, limit=limit, waiting=waiting, payloads=payloads
        )
        return await with_states(self, found, principal) if payloads else found

    async def claims(
        self,
        *,
        after: tuple[str, str] = ("", ""),
        limit: int = 100,
        principal: str | None = None,
    ) -> Claims:
        """See `Operations.claims`."""
        checked_limit(limit)
        return claims_of(
            await self._log.read_claims(checked_after(after), claims_max=limit + 1), limit
        )

    async def members(self, *, principal: str | None = None) -> Members:
        """See `Operations.members`."""
        return Members(*await who_shares(self._outside, _MEMBERS_SECONDS))

    async def retention(
        self,
        rules: Sequence[Retention],
        *,
        dry_run: bool = False,
        at_rest: bool = False,
        principal: str | None = None,
    ) -> Sequence[Retained]:
        """See `Operations.retention`."""
        raise UsageError(
            "rules of retention are run by an engine in its own process, or by `foldline retention`"
        )

    async def audit(
        self, *, offset: int = 0, limit: int = 100, principal: str | None = None
    ) -> Audit:
        """See `Operations.audit`."""
        checked_limit(limit)
        found: Sequence[ProjectionDecision]
        try:
            found = await self._on_views(lambda opened: opened.decisions(None))
        except StoreRefused:
            found = ()
        return await audit_of(found, (), self._log, offset, limit)


def _answered(opened: Outside, number: int) -> tuple[Request, bool]:
    """Give a request, done here where no engine runs; and whether none runs that could do it."""
    request = opened.request(number)
    if request.answered is not None or not opened.do_at_rest():
        return request, False
    return opened.request(number), True


def _shown(standing: Standing) -> ShownProjection:
    # Which number the build has that serves, a standing does not say: it shows as 0.
    serving: list[Build] = []
    if standing.version is not None:
        place = (standing.name, 0, standing.version)
        serving.append(Build(*place, "serving", standing.position, True))
    others = [
        Build(
            standing.name,
            build.number,
            build.version,
            "former" if build.state == "former" else "building",
            build.position,
            False,
            "another process" if build.by_another_process else None,
        )
        for build in standing.builds
    ]
    return ShownProjection(
        name=standing.name,
        version=standing.version,
        serving=standing.version,
        state=standing.state,
        position=standing.position,
        lag_events=standing.lag_events,
        lag_seconds=standing.lag_seconds,
        slices=standing.slices,
        parked=standing.parked,
        failure=standing.failure,
        building=progress_of(standing),
        builds=[*others, *serving],
        requests=standing.requests,
    )

"""The engine as its host sees it; `wiring` puts it together.

Rules: an engine is used once, in the event loop and the process in which it was started. A failure
inside it never cancels the host's code: it becomes typed answers to every command,
`engine.failed`, and an error when the `async with` ends. Stopping drains: new commands are refused,
accepted ones are answered, projectors finish their batch, everything is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    Callable,
    Mapping,
    Sequence,
)
from datetime import datetime
from functools import cached_property
from os import PathLike
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

from .authorization import Authorize
from .calls import Calls
from .errors import DefinitionError, EngineFailed
from .health.watch import HealthWatch, Healthy
from .host.portal import Portal
from .limits import Limits
from .log.feed import Feed, Kinds, Names
from .log.history import History
from .members.duties.declaring import Sharing, sharing_of
from .members.joined import Joined, Reads, joinable, reads_of
from .members.spread.declaring import maker_of
from .middleware import Around, Middleware, checked_middleware
from .model.aggregate import Aggregate
from .model.codec import EventRegistry
from .model.difference import Change
from .model.given import as_instance
from .model.messages import Receipt
from .model.projection import Projection
from .model.upcasting import Retired, Upcasting
from .operations.operations import Operations
from .operations.wired import operations_of
from .personal.operations import PersonalData
from .projections.operations import checked_rebuild
from .queries.past import PastViews
from .recording.forms import Recording, recording_of
from .runtime.ports import Ports
from .runtime.safely import described, safe_logger
from .statistics import EngineStatistics
from .stores.contract.keys import KeyStore
from .stores.contract.log import Store
from .stores.contract.membership import Heed
from .stores.contract.views import Rebuild
from .stores.urls import StoreName, backends, key_stores
from .telemetry import Telemetry
from .timers.desk import TimerDesk
from .wiring import Declared, Settings, Wiring
from .write.bulk import Send
from .write.reception import checked_resources

__all__ = ["Engine"]

A = TypeVar("A", bound=Aggregate)
Answer = TypeVar("Answer")
Reply = TypeVar("Reply")


class Engine(Calls, Healthy):
    """Aggregates, their log, and the views of it, in this process: `async with Engine(...)`.

    - `aggregates`: classes of Aggregate. Each kind is declared once.
    - `projections`: classes of Projection, SqlProjection and Sink.
    - `answers`: functions marked with `@answers`, one for each class of query.
    - `decisions`: functions marked with `@decides`, for commands that several aggregates decide.
    - `store`: a URL ("memory:", "sqlite:shop.db", "postgresql://user@host/database"), the path of
      a log's file, or a Store.
    - `views`: where the views of a log in PostgreSQL are kept: "sqlite:PATH", or "memory:" to fold
      them again at each start. Other stores know by themselves.
    - `keys`: where the keys of personal data are kept: "sqlite:PATH", "postgresql://...", or a
      KeyStore. Beside a log in SQLite it is a file of its own, `shop.keys.db` for `shop.db`, unless
      given.
    - `upcasters`, `retired`: what becomes of events that older releases stored.
    - `downcasters`: functions marked with `@downcasts`, for a rolling release with `join`.
    - `rebuild`: what happens if a projection is declared otherwise than its views are stored.
      "refuse" raises StoreRefused at the start. "auto" builds it beside the old tables, which serve
      until it has caught up.
    - `resources`: objects that handlers and sinks receive, looked up by class (a client, a table of
      rates). The host opens and closes them.
    - `authorize`: a function of principal, action and message, sync or async. It is asked before
      every command, read and control of a projection; only True allows, anything else raises
      Forbidden. Without it everything is allowed.
    - `limits`: bounds of everything that could grow.
    - `ports`: what the engine uses of the world: clock, ids, threads, files. Tests replace them.
    - `logger`: where the engine logs; `logging.getLogger("foldline")` without.
    - `log_messages`: whether tracebacks in the log have the messages of the host's own exceptions.
      They may quote a command.
    - `debug`: fails a command whose handler changes the state, or returns what its annotation does
      not name. So it does if appliers fold its events otherwise a second time, and a query if its
      answer is not of the declared type. It copies the state for each command: it is for tests.
      Without it, some decisions are looked at for a changed state: the first of each command.
    - `join`: lets several processes have this engine on one log, as web workers have it. One owns
      the log, the others send it their commands and read for themselves; where it goes, another
      takes its place. Each of them is given the same definitions, and `join=True`. With "spread"
      and a log in PostgreSQL each process owns a part of the aggregates, and decides for it.
    - `listen`: where the owner of a log in PostgreSQL listens for members on other machines,
      "tcp://:TOKEN@HOST:PORT?sslcert=FILE&sslkey=FILE", or the NATS server on which they meet,
      "tls://USER:PASSWORD@HOST:PORT?token=TOKEN". Without it members are on this machine.
    - `release`: what `foldline members` shows of this process, at most 64 characters. Without it
      processes that declare the same events and projections show the same.
    - `share_projections`: lets one of the processes run each projection and sink, and not the owner
      all of them. It goes with `join=True` and a log in PostgreSQL, in each process.
    - `telemetry`: is shown every command, batch, load and query. What it raises hurts none of them.
    - `middleware`: stands around each command and query, the first one outermost.
    - `record`: a folder, or a Recording, in which each decided command is kept with its clock and
      ids. `foldline replay` decides them again. Commands are in plain text there.

    Raises DefinitionError if the definitions contradict each other. Entering raises StoreLocked if
    another engine has the store, and StoreFailed. It raises StoreRefused if the store cannot be
    trusted, or stored types of events do not fit the declared ones. Leaving drains: it refuses new
    commands, answers accepted ones, and closes everything. It raises EngineFailed if the engine has
    failed meanwhile.
    """

    _joined: Joined | None = None

    def __init__(
        self,
        aggregates: Sequence[type[Aggregate]],
        *,
        projections: Sequence[type[Projection]] = (),
        answers: Sequence[Callable[..., Any]] = (),
        decisions: Sequence[Callable[..., Any]] = (),
        store: StoreName | Store = "memory:",
        views: str | None = None,
        keys: str | KeyStore | None = None,
        upcasters: Sequence[Callable[..., Any]] = (),
        retired: Sequence[Retired] = (),
        downcasters: Sequence[Callable[..., Any]] = (),
        rebuild: Rebuild = "refuse",
        resources: Mapping[type, object] | None = None,
        authorize: Authorize | None = None,
        limits: Limits | None = None,
        ports: Ports | None = None,
        logger: logging.Logger | None = None,
        log_messages: bool = True,
        debug: bool = False,
        join: bool | Literal["spread"] = False,
        listen: str | None = None,
        release: str | None = None,
        share_projections: bool = False,
        telemetry: Telemetry | None = None,
        middleware: Sequence[Middleware] = (),
        record: Recording | str | PathLike[str] | None = None,
    ) -> None:
        own_logger = safe_logger(logger, messages=log_messages)
        settings = _settings(limits, ports, own_logger, debug, rebuild, resources, record)
        upcasting = Upcasting(upcasters, retired, downcasters)
        declared = Declared(aggregates, projections, answers, upcasting, decisions)
        opens, is_spread = backends(store, views), join == "spread"
        more = authorize, telemetry, key_stores(store, keys)
        put_together = maker_of(opens, is_spread, settings, declared, *more)
        wiring = self._wiring = put_together()
        self._gate, self._directory, self._watch = wiring.gate, wiring.directory, wiring.watch
        self._known, self._clock = wiring.timed, settings.ports.clock
        self._around = Around(checked_middleware(middleware), settings.ports)
        self._store, self._views, self._bus = wiring.store, wiring.views, wiring.bus
        self.projections = wiring.projections
        """What can be done with projections at run time: list, pause, rebuild, retry and so on."""
        self.personal = PersonalData(wiring.vault, wiring.eraser, wiring.entrance, wiring.gate)
        """What can be done with personal data at run time: erase a person, list the erasures."""
        self._life, self._entrance = wiring.life, wiring.entrance
        self._health = HealthWatch.of(wiring)
        self._send = self._send_of_many = cast("Send", wiring.reception.send)
        self._use(reads_of(wiring))
        if join:
            spread, shared = put_together if is_spread else None, None
            if share_projections:
                shared = sharing_of(wiring, opens, is_spread, settings, declared, *more)
            known = put_together, declared, settings, joinable(store), listen, views
            self._join(*known, release, spread, shared)
        else:
            _check_alone(listen, release, share_projections)
        self._check_usable = self._entrance.check
        self.declared, self.aggregates = tuple(projections), tuple(aggregates)
        self.timed, self.streams_of = wiring.timed, wiring.reception.streams_of

    @property
    def decisions(self) -> Sequence[Callable[..., Any]]:
        """The functions marked with `@decides` that it was given."""
        return tuple(self._wiring.declared.decisions)

    def _timer_desk(self) -> TimerDesk:
        wiring = self._wiring if self._joined is None else self._joined.owning()
        wiring.entrance.check()
        return wiring.timer_desk

    def _join(
        self,
        again: Callable[[], Wiring],
        declared: Declared,
        settings: Settings,
        store: StoreName,
        listen: str | None,
        views: str | None,
        release: str | None,
        spread: Callable[[Heed], Wiring] | None,
        shared: Sharing | None,
    ) -> None:
        """Let commands, and what operators do, go to whoever owns the log."""
        first, elsewhere = self._wiring, views is not None
        joined = self._joined = Joined(
            *(first, again if shared is None else shared.own, declared, settings, store, self._use),
            listen=listen,
            elsewhere=elsewhere,
            release=release,
            deciding=spread,
            sharing=shared,
        )
        self._life, self._entrance, self._health = joined.life, joined.entrance, joined.health
        self._send, self.projections = joined.send, joined.projections
        self._send_of_many = joined.send_of_many
        self.personal.entrance, self.personal.erasing = joined.entrance, joined.erasing
        self.personal.is_erasing = joined.is_erasing

    def _use(self, reads: Reads) -> None:
        """Read with these from now on."""
        self._answers, self._live = reads.answers, reads.live
        self._past, self._feeds, self._pasts = reads.past, reads.feeds, reads.pasts

    def statistics(self) -> EngineStatistics:
        """Give the engine's numbers as they are now; may be called from any thread, at any time.

        Each number is true at some moment of the call; the loop may go on between two of them.
        """
        return self._wiring.statistics() if self._joined is None else self._joined.statistics()

    # -- looking back -----------------------------------------------------------------------

    def history(
        self,
        aggregate: type[Aggregate],
        aggregate_id: str,
        *,
        after: int = 0,
        limit: int = 100,
        principal: str | None = None,
    ) -> History:
        """Give an aggregate's committed events after a version, with their metadata.

        - `aggregate`, `aggregate_id`: whose. An aggregate without events has an empty history.
        - `after`: the version after which to begin.
        - `limit`: events of a page, from 1 on.
        - `principal`: who asks; for `authorize`.

        Await it for a page of at most `limit`, or iterate it with `async for` for all of them.
        Raises UsageError, Forbidden, and Damaged after what stands before the damaged event.
        """
        return self._past.history(aggregate, aggregate_id, after, limit, principal)

    async def state(
        self,
        aggregate: type[A],
        aggregate_id: str,
        *,
        version: int | None = None,
        at: datetime | int | None = None,
        principal: str | None = None,
    ) -> A:
        """Give an aggregate as it was at a version or a time, or as it durably is.

        - `aggregate`, `aggregate_id`: whose.
        - `version`: how many of its events are in the state.
        - `at`: an aware datetime, or µs since 1970-01-01 UTC. Events recorded at that very moment
          are in. Give `version` or `at`, not both.
        - `principal`: who asks; for `authorize`.

        The state is folded from the log for this caller alone, and may be changed. Raises
        UsageError (also if the version does not exist), Forbidden, Damaged, and StreamUnreadable if
        an event cannot be applied.
        """
        return await self._past.state(aggregate, aggregate_id, version, at, principal)

    async def difference(
        self,
        aggregate: type[Aggregate],
        aggregate_id: str,
        before: int,
        after: int,
        *,
        principal: str | None = None,
    ) -> tuple[Change, ...]:
        """Give what changed in an aggregate from one version to another.

        `aggregate`, `aggregate_id` and `principal` are as for `state`; `before` and `after` are
        versions, in either order. Empty if nothing changed. Raises as `state` does.
        """
        return await self._past.difference(aggregate, aggregate_id, before, after, principal)

    def feed(
        self,
        after: int = 0,
        *,
        names: Names | None = None,
        kinds: Kinds | None = None,
        follow: bool = False,
        principal: str | None = None,
    ) -> Feed:
        """Give committed events after a position, in the order of the log.

        - `after`: the position after which to begin; 0 for all.
        - `names`: stored names or classes of events; older events that lead to them are included.
        - `kinds`: kinds or classes of aggregates.
        - `follow`: go on with new events as they are committed.
        - `principal`: who asks; for `authorize`.

        `.position` moves over what is passed over, too. A feed that follows ends when the engine
        stops, also if it had not caught up: go on after its position. To leave it early, use
        `contextlib.aclosing`. Raises UsageError, Forbidden, Closed, Overloaded (`Limits.feeds`),
        and Damaged for an event that cannot be decoded, after everything before it.
        """
        return self._feeds.feed(after, follow, names, kinds, principal)

    def past(
        self,
        *,
        position: Receipt | str | int | None = None,
        at: datetime | int | None = None,
        projections: Sequence[type[Projection]] | None = None,
        principal: str | None = None,
    ) -> PastViews:
        """Give the views as of a position or a time: `async with engine.past(at=...) as past`.

        - `position`: a receipt, its token, or a position.
        - `at`: an aware datetime, or µs since 1970-01-01 UTC. Give one of the two.
        - `projections`: those to fold; all that the engine has without.
        - `principal`: who asks; for `authorize`.

        The views are folded from the log when they are entered, in memory, and `await
        past.query(...)` answers as `query` would have then. Raises UsageError here, and on entering
        what `PastViews.__aenter__` says.
        """
        return self._pasts.past(position, at, projections, principal)

    # -- life -------------------------------------------------------------------------------

    def usable_loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop in which the engine runs; raise what prevents its use in this process."""
        return self._entrance.loop()

    def portal(self) -> Portal:
        """Give a way in for code without an event loop: threads, notebooks, sync frameworks.

        On an engine that was not started, `with engine.portal() as portal:` runs it on a loop in a
        thread of its own. On one that runs, the portal is used from other threads as it is.
        """
        return Portal(self)

    async def __aenter__(self) -> Engine:
        """Open the store and the views, and start."""
        if self._joined is not None:
            await self._joined.start()
        else:
            self._entrance.open()
            await self._wiring.supervisor.start()
        if self._watch is not None:
            self._watch.attach(self.statistics)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain and close; raise EngineFailed if the engine had failed."""
        self._entrance.check_end()
        try:
            await (self._wiring.supervisor if self._joined is None else self._joined).end()
        finally:
            if self._watch is not None:
                self._watch.detach()
            await self._health.close()
        if self.failed is not None:
            raise EngineFailed(f"the engine failed with {described(self.failed)}") from self.failed

    @cached_property
    def operations(self) -> Operations:
        """What operators see of it and do with it; the console asks nothing else."""
        desk, numbers = self._timer_desk, self.statistics
        classes = self.aggregates
        return operations_of(self._wiring, self._joined, classes, self.personal, numbers, desk)

    @property
    def registry(self) -> EventRegistry:
        """The classes of event that it knows, and how stored ones are read."""
        return self._wiring.registry

    @property
    def limits(self) -> Limits:
        """The bounds that it works within."""
        return self._wiring.settings.limits


def _check_alone(listen: object, release: object, share_projections: object) -> None:
    """Raise DefinitionError for what an engine is given that shares its log with none."""
    if listen is not None or release is not None or share_projections:
        raise DefinitionError(
            "listen=, release= and share_projections= go with join=True: without it nobody joins "
            "this log"
        )


def _settings(
    limits: Limits | None,
    ports: Ports | None,
    logger: logging.Logger,
    debug: bool,
    rebuild: Rebuild,
    resources: Mapping[type, object] | None,
    record: Recording | str | PathLike[str] | None,
) -> Settings:
    """Check how an engine is to work; raise DefinitionError for what it cannot be given."""
    return Settings(
        limits=as_instance("limits", limits, Limits),
        ports=as_instance("ports", ports, Ports),
        logger=logger,
        debug=debug,
        rebuild=checked_rebuild(rebuild),
        resources=checked_resources(resources),
        recording=recording_of(record),
    )

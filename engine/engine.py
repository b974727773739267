"""The engine as its host sees it, and the one place that wires everything.

Rules: an engine is used once, in the event loop and the process in which it was started. A failure
inside it never cancels the host's code: it becomes typed answers to every command,
`engine.failed`, and an error when the `async with` ends. Stopping drains: new commands are refused,
accepted ones are answered, projectors finish their batch, everything is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

from .authorization import Authorize, Gate
from .errors import DefinitionError, EngineError, EngineFailed
from .host.entrance import Entrance
from .host.portal import Portal
from .host.store_end import StoreEnd
from .host.supervisor import Life, Supervisor
from .host.watchdog import loop_watch
from .limits import Limits
from .log.bus import Bus
from .log.feed import Feed, Feeds, Kinds, Names
from .log.history import History, Past
from .log.shared_pages import SharedFeed
from .model.aggregate import Aggregate, AggregateDefinition, definitions_of
from .model.codec import EventRegistry
from .model.copying import own_copy
from .model.difference import Change
from .model.given import as_instance, as_seconds, shown
from .model.messages import Command, Envelope, Query, Receipt
from .model.projection import Projection, projections_of
from .model.schema import refuse_misfits, unknown_kinds
from .model.upcasting import Retired, Upcasting
from .projections.control import Control
from .projections.operations import Projections, checked_rebuild
from .projections.projector import Projector
from .projections.runner import Projecting
from .projections.targets.choose import Works
from .queries.answers import Answers
from .queries.live import LiveQueries, LiveQuery
from .queries.past import Pasts, PastViews
from .runtime.ports import Ports
from .runtime.safely import described, safe_logger
from .statistics import EngineStatistics
from .stores.contract.log import Measured, Mortal, Store
from .stores.contract.views import Part, Rebuild
from .stores.urls import StoreName, open_backend
from .telemetry import Telemetry, Watch
from .write.actor import Actor
from .write.admission import Admission
from .write.bulk import run_many
from .write.deliberation import Deliberations
from .write.directory import Directory
from .write.dispatcher import Dispatcher
from .write.journal import Journal
from .write.kind import Kind, bind_events, bind_stored, registry_of
from .write.mailbox import Intake
from .write.reception import Reception, checked_resources
from .write.snapshot import Freezer
from .write.snapshot_writer import SnapshotWriter

__all__ = ["Engine"]

A = TypeVar("A", bound=Aggregate)
Answer = TypeVar("Answer")


class Engine:
    """Aggregates, their log, and the views of it, in this process.

    `store` is a URL ("memory:", "sqlite:shop.db"), a path or a Store. `upcasters` and `retired` say
    what becomes of events that older releases stored. `rebuild` says what happens where a
    projection is declared otherwise than its views are stored: "refuse" does not start and says so,
    "auto" builds it beside the old tables, which serve until it has caught up. `resources` are what
    handlers and sinks take by its class (a client, a table of rates), opened by the host.
    `authorize` is asked before every command and every read, and what it does not allow is
    Forbidden; without it all is allowed.
    `log_messages` is whether the messages of the host's own exceptions are logged with their
    tracebacks; they may quote a command. `debug=True` fails a command whose handler changes the
    state, or whose appliers fold its events otherwise a second time.
    `telemetry` gets to know of every command, batch, load and query, and can hurt none of them.
    Definitions are checked here: DefinitionError. Starting raises StoreLocked, StoreRefused (also
    where the stored types of events do not fit the declared ones) or StoreFailed.
    """

    def __init__(
        self,
        aggregates: Sequence[type[Aggregate]],
        *,
        projections: Sequence[type[Projection]] = (),
        answers: Sequence[Callable[..., Any]] = (),
        store: StoreName | Store = "memory:",
        upcasters: Sequence[Callable[..., Any]] = (),
        retired: Sequence[Retired] = (),
        rebuild: Rebuild = "refuse",
        resources: Mapping[type, object] | None = None,
        authorize: Authorize | None = None,
        limits: Limits | None = None,
        ports: Ports | None = None,
        logger: logging.Logger | None = None,
        log_messages: bool = True,
        debug: bool = False,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._limits = as_instance("limits", limits, Limits)
        self._ports = as_instance("ports", ports, Ports)
        self._logger = safe_logger(logger, messages=log_messages)
        self._debug = debug
        self._gate = self._wire_gate(authorize)
        backend = open_backend(store)
        self._store: Store = backend.log()
        self._watch = Watch(telemetry, self._logger) if telemetry is not None else None
        self._life = Life()
        self._entrance = Entrance(self._life)
        self._check_usable = self._entrance.check

        definitions = definitions_of(aggregates)
        projections_of(projections)
        self._kinds = [definition.kind for definition in definitions]
        self._registry = registry_of(definitions, projections, Upcasting(upcasters, retired))
        self._intake = Intake(self._limits.commands_accepted)
        self._dispatcher = Dispatcher(self._limits)
        self._directory = Directory(
            self._store, self._limits, self._ports, self._logger, self._watch
        )
        self._snapshots = SnapshotWriter(self._store, self._limits, self._logger)
        self._bus = Bus(self._limits, self._ports.failpoint)
        self._journal = self._wire_journal()
        self._resources = checked_resources(resources)
        self._deliberations = Deliberations(self._limits, self._logger)
        self._reception = Reception(
            [self._kind(definition) for definition in definitions],
            self._intake,
            self._directory,
            self._ports,
            self._check_usable,
            self._wire_admission(),
            self._watch,
        )
        self.declared = tuple(projections)
        """The projections that it was given."""
        self._views = backend.views(self._logger)
        self._rebuild: Rebuild = checked_rebuild(rebuild)
        self._shared_feed = SharedFeed(self._store)
        common = self._views, self._registry, self._limits, self._ports, self._store
        self._works = Works(*common, self._resources, self._logger, self._entrance.is_ending)
        self._projecting = {p.__definition__.name: self._wire_projecting(p) for p in projections}
        self.projections = Projections(
            self._projecting, self._views, self._check_usable, self._gate
        )
        """What can be done with projections at run time: list, pause, rebuild, retry and so on."""
        self._answers = self._wire_answers(answers)
        self._loop_watch = loop_watch(self._ports, self._limits, self._logger)
        self._past, self._feeds, self._live, self._pasts = self._wire_readers(definitions)
        self._supervisor = self._wire_supervisor()

    def _wire_journal(self) -> Journal:
        return Journal(
            self._store,
            self._intake,
            self._limits,
            self._ports,
            publish=self._bus.publish,
            room_again=self._dispatcher.wake,
            logger=self._logger,
            watch=self._watch,
        )

    def _wire_supervisor(self) -> Supervisor:
        ends = [StoreEnd(self._store)] if isinstance(self._store, Mortal) else []
        control = Control(self.projections, self._views, self._limits, self._ports, self._logger)
        return Supervisor(
            self._life,
            open_all=self._open,
            close_all=(self._end_projecting, self._views.close, self._store.close),
            intake=self._intake,
            journal=self._journal,
            directory=self._directory,
            dispatcher=self._dispatcher,
            deliberations=self._deliberations,
            snapshots=self._snapshots,
            watch=self._loop_watch,
            readers=(*self._projecting.values(), self._feeds, self._live, control, *ends),
            logger=self._logger,
        )

    async def _end_projecting(self) -> None:
        for projecting in self._projecting.values():
            projecting.end()

    def _wire_projecting(self, projection: type[Projection]) -> Projecting:
        self._works.check(projection.__definition__)
        return Projecting(
            projection,
            make=self._projector,
            views=self._views,
            bus=self._bus,
            ports=self._ports,
            logger=self._logger,
            end_of_log=lambda: self._journal.position,
        )

    def _projector(self, part: Part, *, moved: Callable[[], None], paused: bool) -> Projector:
        return Projector(
            part,
            self._works.of(part),
            store=self._shared_feed,
            subscription=self._bus.subscribe(part.definition.name),
            limits=self._limits,
            ports=self._ports,
            logger=self._logger,
            end_of_log=lambda: self._journal.position,
            watch=self._watch,
            written=lambda part, changes: self._live.written(part, changes),
            moved=moved,
            failed=self._views.note_failure,
            paused=paused,
            is_busy=lambda: self._intake.open > 0,
        )

    def _wire_answers(self, functions: Sequence[Callable[..., Any]]) -> Answers:
        return Answers(
            functions,
            self._views,
            self._projecting,
            self._limits,
            self._ports.stopwatch,
            self._watch,
            self._store,
        )

    def _wire_gate(self, authorize: Authorize | None) -> Gate | None:
        if authorize is None:
            return None
        if not callable(authorize):
            raise DefinitionError(f"authorize= is a function, not {shown(authorize)}")
        return Gate(authorize, self._logger)

    def _wire_admission(self) -> Admission | None:
        gate = self._gate
        return None if gate is None else Admission(gate, self._ports.clock, self._limits)

    def _kind(self, definition: AggregateDefinition) -> Kind[Actor]:
        return Kind(
            definition=definition,
            events=bind_events(definition, self._registry),
            stored=bind_stored(definition, self._registry),
            registry=self._registry,
            intake=self._intake,
            journal=self._journal,
            limits=self._limits,
            ports=self._ports,
            failpoint=self._ports.failpoint,
            logger=self._logger,
            freezer=self._freezer(definition),
            resources=self._resources,
            deliberations=self._deliberations,
            turns=self._dispatcher,
            residents=self._directory,
            debug=self._debug,
        )

    def _freezer(self, definition: AggregateDefinition) -> Freezer | None:
        keep = self._snapshots.keep
        return Freezer(definition, self._logger, keep) if definition.snapshot_every else None

    def _wire_readers(
        self, definitions: Sequence[AggregateDefinition]
    ) -> tuple[Past, Feeds, LiveQueries, Pasts]:
        past = Past(
            self._store,
            definitions,
            self._registry,
            self._limits,
            workers=self._ports.workers,
            check_usable=self._check_usable,
            gate=self._gate,
        )
        feeds = Feeds(
            self._store,
            self._bus,
            self._registry,
            definitions,
            self._limits,
            check_usable=self._check_usable,
            position=lambda: self._journal.position,
            gate=self._gate,
        )
        live = LiveQueries(
            self._answers,
            self._projecting,
            self._views,
            self._limits,
            check_usable=self._check_usable,
            gate=self._gate,
        )
        asked = self._answers.definitions
        pasts = Pasts(
            past, self._store, self.declared, asked, self._ports, self._logger, self._views
        )
        return past, feeds, live, pasts

    # -- commands ---------------------------------------------------------------------------

    async def execute(
        self,
        command: Command,
        *,
        key: str | None = None,
        expected: int | None = None,
        deadline: float | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        principal: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Run one command; return when its events are durable.

        `deadline` is in seconds: a command that is not decided by then is not run. What is decided
        by then gets its true answer, however long the disk takes.

        Raises Rejected where the domain says no, NotRun (Overloaded, Conflict, Closed, Voided,
        WrongVersion, DeadlinePassed, HandlerFailed, StreamUnreadable) where nothing was written and
        sending again is safe, KeyReused, OutcomeUnknown, Forbidden and UsageError. A caller that is
        cancelled does not half-do a command: it is run whole or not at all.
        """
        envelope = Envelope(
            command=command,
            key=key,
            expected=expected,
            correlation=correlation,
            causation=causation,
            principal=principal,
            headers=headers,
            deadline=deadline,
        )
        sent = self._reception.send(envelope)
        return await (sent if isinstance(sent, asyncio.Future) else await sent)

    def execute_many(
        self,
        commands: Iterable[Envelope | Command] | AsyncIterable[Envelope | Command],
        *,
        window: int = 256,
    ) -> AsyncGenerator[Receipt | EngineError, None]:
        """Run many commands; give their answers in the order of the commands.

        At most `window` are in the engine at a time, and commands for one aggregate run in the
        order given. An answer that is an error is given, not raised, so that the rest goes on;
        where the engine is overloaded the next command waits for an earlier one's answer. To stop
        early, leave it through `contextlib.aclosing`; what was sent is run all the same.
        """
        return run_many(commands, window, self._reception.send, self._check_usable)

    # -- queries ----------------------------------------------------------------------------

    async def query(
        self,
        query: Query[Answer],
        *,
        at: Receipt | str | int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the answer names who lags
        principal: str | None = None,
    ) -> Answer:
        """Ask the views. With `at`, a receipt (or its token or position), see its effect.

        `timeout` is in seconds; with `at` it is 5 unless given. Raises ProjectionLag where the
        views are not there in time, naming who lags and by how much, and Forbidden where
        `authorize` says no.
        """
        self._check_usable()
        query = own_copy(query)
        seconds = None if timeout is None else as_seconds("timeout", timeout)
        if self._gate is not None:
            await self._gate.check(principal, "query", query)
        return await self._answers.ask(query, at=at, timeout=seconds)

    def watch(
        self,
        query: Query[Answer],
        *,
        at: Receipt | str | int | None = None,
        timeout: float | None = None,
        principal: str | None = None,
    ) -> LiveQuery[Answer]:
        """Give a query's answer and each new one: `async for answer in engine.watch(query)`.

        Who is slow is given the newest answer, and `.position` says what it contains. With `at` the
        first answer contains that position, as for `query`. It ends when the engine stops. To leave
        early, use `contextlib.aclosing`. Raises what `query` does, Overloaded
        (Limits.watched_queries, Limits.watches), and Closed where the engine fails.
        """
        seconds = None if timeout is None else as_seconds("timeout", timeout)
        return self._live.watch(own_copy(query), at, seconds, principal)

    def resume(self, projection: str, *, principal: str | None = None) -> None:
        """Let a stopped projector try again from its checkpoint.

        Raises UsageError for a name that this engine has no projection of, and Forbidden where
        `authorize` says no, or is async: then await `engine.projections.resume`.
        """
        self.projections.resume_stopped(projection, principal)

    def statistics(self) -> EngineStatistics:
        """Give the engine's numbers as they are now; may be called from any thread, at any time.

        Each number is true at some moment of the call; the loop may go on between two of them.
        """
        return EngineStatistics(
            state=self._life.state,
            position=self._journal.position,
            commands=self._intake.statistics(self._directory.overloaded),
            handlers_running=len(self._deliberations),
            aggregates=self._directory.statistics(),
            snapshots=self._snapshots.statistics(),
            journal=self._journal.statistics(),
            store=self._store.statistics() if isinstance(self._store, Measured) else None,
            projectors={name: p.statistics() for name, p in self._projecting.items()},
            queries=self._answers.statistics(),
            live=self._live.statistics(),
            loop_blocked=0 if self._loop_watch is None else self._loop_watch.blocked,
            telemetry_failures=0 if self._watch is None else self._watch.failures,
        )

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

        Await it for a page of at most `limit`, or iterate it with `async for` for all of them. An
        aggregate without events has an empty history. Raises UsageError, Forbidden, and Damaged
        after what stands before the damaged event.
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

        `at` is an aware datetime or µs since 1970 UTC, and events recorded at that very moment are
        in. The state is folded for the caller from the log. Raises UsageError (where the version
        does not exist, too), Forbidden, Damaged, and StreamUnreadable where an event cannot be
        applied.
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
        """Give what changed in an aggregate from one version to another; raises as `state` does."""
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
        """Give committed events after a position, in order; with `follow`, new ones as well.

        `names` are stored names or classes of event (older events that lead to them are included),
        `kinds` kinds or classes of aggregate; `.position` moves over what is passed over. One that
        follows ends when the engine stops, also where it had not caught up: go on after its
        position. To leave it early, use `contextlib.aclosing`. Raises UsageError, Forbidden,
        Closed, Overloaded (Limits.feeds), and Damaged for an event that cannot be decoded, after
        everything before it.
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

        They are folded from the log when they are entered, `projections` or all of them, and
        `await past.query(...)` answers as `query` would have then. `at` is as in `state`.
        """
        return self._pasts.past(position, at, projections, principal)

    # -- life -------------------------------------------------------------------------------

    def usable_loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop in which the engine runs; raise what prevents its use in this process."""
        return self._entrance.loop()

    @property
    def is_new(self) -> bool:
        """Whether it was not started yet."""
        return self._life.state == "new"

    def portal(self) -> Portal:
        """Give a way in for code without an event loop: threads, notebooks, sync frameworks.

        On an engine that was not started, `with engine.portal() as portal:` runs it on a loop in a
        thread of its own. On one that runs, the portal is used from other threads as it is.
        """
        return Portal(self)

    async def __aenter__(self) -> Engine:
        """Open the store and the views, and start."""
        self._entrance.open()
        await self._supervisor.start()
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
            await self._supervisor.end()
        finally:
            if self._watch is not None:
                self._watch.detach()
        if self.failed is not None:
            raise EngineFailed(f"the engine failed with {described(self.failed)}") from self.failed

    @property
    def registry(self) -> EventRegistry:
        """The classes of event that it knows, and how stored ones are read."""
        return self._registry

    @property
    def failed(self) -> BaseException | None:
        """What ended the engine, if it failed."""
        return self._life.failed

    async def _open(self) -> None:
        await self._store.open(self._ports)
        refuse_misfits(self._registry, await self._store.event_types(), "nothing was run")
        strange = unknown_kinds(self._kinds, await self._store.kinds())
        if strange:
            self._logger.warning("%s", strange)
        head = await self._store.head()
        self._journal.begin(head.position, head.recorded)
        await self._views.open(
            self._ports, self._limits, self._store, self.declared, rebuild=self._rebuild
        )
        for projecting in self._projecting.values():
            await projecting.open()

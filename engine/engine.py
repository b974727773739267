"""The engine as its host sees it, and the one place that wires everything.

Rules: an engine is used once, in the event loop and the process in which it was started. A failure
inside it never cancels the host's code: it becomes typed answers to every command,
`engine.failed`, and an error when the `async with` ends. Stopping drains: new commands are refused,
accepted ones are answered, projectors finish their batch, everything is closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Any, TypeVar, cast

from .aggregate import Aggregate, AggregateDefinition, CommandHandler
from .answers import Answers
from .authorization import Authorize, Gate
from .bulk import run_many
from .bus import Bus
from .codec import EventRegistry
from .directory import Directory
from .dispatcher import Dispatcher
from .errors import (
    Closed,
    DefinitionError,
    EngineError,
    EngineFailed,
    StoreRefused,
    UsageError,
)
from .journal import Journal
from .kind import Kind, bind_events
from .limits import KEY_LENGTH_MAX, Limits
from .mailbox import Intake, Mail
from .messages import Command, Envelope, Event, Query, Receipt
from .ports import Ports
from .projection import Projection, check_names
from .projector import Projector
from .statistics import EngineStatistics
from .stores.contract import Measured, Store
from .stores.sqlite_views import SqliteViews
from .stores.urls import open_url, views_path
from .supervisor import Supervisor
from .telemetry import Telemetry, Watch

__all__ = ["Engine", "run"]

Answer = TypeVar("Answer")
T = TypeVar("T")


def run(main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run an async function on uvloop where it is installed, else on asyncio's own loop."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None

    async def call() -> T:
        return await main(*args)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(call())


class Engine:
    """Aggregates, their log, and the views of it, in this process.

    `store` is a URL ("memory:", "sqlite:shop.db") or a Store. `authorize` is asked before every
    command and every read, and what it does not allow is Forbidden; without it all is allowed.
    `telemetry` gets to know of every command, batch, load and query, and can hurt none of them.
    Definitions are checked here: DefinitionError. Starting raises StoreLocked, StoreRefused or
    StoreFailed.
    """

    def __init__(
        self,
        aggregates: Sequence[type[Aggregate]],
        *,
        projections: Sequence[type[Projection]] = (),
        answers: Sequence[Callable[..., Any]] = (),
        store: str | Store = "memory:",
        authorize: Authorize | None = None,
        limits: Limits | None = None,
        ports: Ports | None = None,
        logger: logging.Logger | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._ports = ports or Ports()
        self._logger = logger or logging.getLogger("foldline")
        self._gate = Gate(authorize, self._logger) if authorize is not None else None
        self._store: Store = open_url(store) if isinstance(store, str) else store
        self._watch = Watch(telemetry, self._logger) if telemetry is not None else None
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

        definitions = [cls.__definition__ for cls in aggregates]
        check_names([projection.__definition__ for projection in projections])
        registry = EventRegistry(_event_classes(definitions, projections))
        self._registry = registry
        self._intake = Intake(self._limits.commands_accepted)
        self._dispatcher = Dispatcher(self._limits)
        self._directory = Directory(self._store, self._limits, self._ports, self._watch)
        self._bus = Bus(self._limits, self._ports.failpoint)
        self._journal = Journal(
            self._store,
            self._intake,
            self._limits,
            self._ports,
            publish=self._bus.publish,
            room_again=self._dispatcher.wake,
            watch=self._watch,
        )
        self._handlers = self._wire_handlers(definitions)
        self._submit = self._wire_submit()
        self._projections = tuple(projections)
        self._views = SqliteViews(views_path(self._store), logger=self._logger)
        self._projectors = {p.__definition__.name: self._projector(p) for p in projections}
        self._answers = self._wire_answers(answers)
        self._supervisor = Supervisor(
            open_all=self._open,
            close_all=(self._views.close, self._store.close),
            intake=self._intake,
            journal=self._journal,
            directory=self._directory,
            dispatcher=self._dispatcher,
            readers=tuple(self._projectors.values()),
            logger=self._logger,
        )

    def _projector(self, projection: type[Projection]) -> Projector:
        return Projector(
            projection,
            store=self._store,
            views=self._views,
            subscription=self._bus.subscribe(projection.__definition__.name),
            registry=self._registry,
            limits=self._limits,
            ports=self._ports,
            logger=self._logger,
            end_of_log=lambda: self._journal.position,
            watch=self._watch,
        )

    def _wire_answers(self, functions: Sequence[Callable[..., Any]]) -> Answers:
        return Answers(
            functions,
            self._views,
            self._projectors,
            self._limits,
            self._ports.stopwatch,
            self._watch,
        )

    def _wire_submit(self) -> Callable[..., asyncio.Future[Receipt]]:
        """Choose once how commands are posted, so that without a telemetry none is looked for."""
        if self._watch is None or not self._watch.wants_commands:
            return self._post
        kinds = {cls: kind.definition.kind for cls, (kind, _) in self._handlers.items()}
        return self._watch.commands(self._post, kinds)

    def _wire_handlers(
        self, definitions: Sequence[AggregateDefinition]
    ) -> Mapping[type[Command], tuple[Kind, CommandHandler]]:
        kinds: dict[str, type[Aggregate]] = {}
        handlers: dict[type[Command], tuple[Kind, CommandHandler]] = {}
        for definition in definitions:
            other = kinds.setdefault(definition.kind, definition.cls)
            if other is not definition.cls:
                raise DefinitionError(
                    f"{definition.cls.__qualname__} and {other.__qualname__} are both of kind "
                    f"{definition.kind!r}: a kind is stored, so give one of them another"
                )
            kind = self._kind(definition)
            for command, handler in definition.handlers.items():
                if command in handlers:
                    raise DefinitionError(
                        f"{command.__name__} is handled by {definition.cls.__qualname__} and by "
                        f"{handlers[command][0].definition.cls.__qualname__}: keep one handler"
                    )
                handlers[command] = (kind, handler)
        return handlers

    def _kind(self, definition: AggregateDefinition) -> Kind:
        return Kind(
            definition=definition,
            events=bind_events(definition, self._registry),
            registry=self._registry,
            intake=self._intake,
            journal=self._journal,
            limits=self._limits,
            ports=self._ports,
            logger=self._logger,
            ready=self._dispatcher.ready,
            load=self._directory.load,
            forget=self._directory.forget,
        )

    # -- commands ---------------------------------------------------------------------------

    async def execute(
        self,
        command: Command,
        *,
        key: str | None = None,
        expected: int | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        principal: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Run one command; return when its events are durable.

        Raises Rejected where the domain says no, NotRun (Overloaded, Conflict, Closed, Voided,
        WrongVersion, HandlerFailed, StreamUnreadable) where nothing was written and sending again
        is safe, KeyReused, OutcomeUnknown, Forbidden and UsageError. A caller that is cancelled
        does not half-do a command: it is run whole or not at all.
        """
        if self._gate is not None:
            await self._gate.check(principal, "execute", command)
        return await self._submit(
            command, key, expected, correlation, causation, principal, headers
        )

    async def execute_many(
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
        self._check_usable()
        async for answer in run_many(commands, window, self._send):
            yield answer

    async def _send(self, envelope: Envelope) -> asyncio.Future[Receipt]:
        if self._gate is not None:
            await self._gate.check(envelope.principal, "execute", envelope.command)
        return self._submit(
            envelope.command,
            envelope.key,
            envelope.expected,
            envelope.correlation,
            envelope.causation,
            envelope.principal,
            envelope.headers,
        )

    def _post(
        self,
        command: Command,
        key: str | None,
        expected: int | None,
        correlation: str | None,
        causation: str | None,
        principal: str | None,
        headers: Mapping[str, str] | None,
    ) -> asyncio.Future[Receipt]:
        """Post a command; look-up and posting are one step, with no await between them."""
        loop = self._check_usable()
        wired = self._handlers.get(type(command))
        if wired is None:
            raise UsageError(
                f"no aggregate of this engine handles {type(command).__name__}: pass the aggregate "
                f"that does to Engine([...]). Nothing was run."
            )
        if key is not None:
            _check_key(key)
        if correlation is not None or causation is not None or principal is not None or headers:
            _check_trace(correlation, causation, principal, headers)
        self._intake.check()
        kind, handler = wired
        actor = self._directory.find(kind, getattr(command, handler.id_field))
        mail = Mail(
            loop.create_future(),
            handler,
            command,
            key,
            expected,
            correlation,
            causation,
            principal,
            headers,
        )
        actor.post(mail)
        if self._ports.failpoint is not None:
            self._ports.failpoint("mailbox.accepted")
        return mail.answer

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

        `timeout` is in seconds. Raises ProjectionLag where the views are not there in time,
        naming who lags and by how much, and Forbidden where `authorize` says no.
        """
        self._check_usable()
        if self._gate is not None:
            await self._gate.check(principal, "query", query)
        return await self._answers.ask(query, at=at, timeout=timeout)

    def resume(self, projection: str) -> None:
        """Let a stopped projector try again from its checkpoint.

        Raises UsageError for a name that this engine has no projection of.
        """
        self._check_usable()
        projector = self._projectors.get(projection)
        if projector is None:
            raise UsageError(
                f"no projection {projection!r} here; there are {sorted(self._projectors)}"
            )
        projector.resume()

    def statistics(self) -> EngineStatistics:
        """Give the engine's numbers as they are now; may be called from any thread, at any time.

        Each number is true at some moment of the call; the loop may go on between two of them.
        """
        return EngineStatistics(
            state=self._supervisor.state,
            position=self._journal.position,
            commands=self._intake.statistics(self._directory.overloaded),
            aggregates=self._directory.statistics(),
            journal=self._journal.statistics(),
            store=self._store.statistics() if isinstance(self._store, Measured) else None,
            projectors={name: p.statistics() for name, p in self._projectors.items()},
            queries=self._answers.statistics(),
            telemetry_failures=0 if self._watch is None else self._watch.failures,
        )

    # -- life -------------------------------------------------------------------------------

    def _check_usable(self) -> asyncio.AbstractEventLoop:
        """Give the loop, or raise what tells the caller why the engine cannot be used here."""
        if self._supervisor.state != "running":
            self._refuse_state()
        if os.getpid() != self._process:
            raise UsageError(
                f"this engine was started in process {self._process} and is used in "
                f"{os.getpid()}, after a fork: start an engine of its own in each process"
            )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop or loop is None:
            raise UsageError(
                "this engine runs in another event loop, or is used from another thread: call it "
                "from the loop in which it was started"
            )
        return loop

    def _refuse_state(self) -> None:
        if self._supervisor.state in ("new", "starting"):
            raise UsageError("the engine has not been started: use it inside `async with engine:`")
        if self._supervisor.state == "failed":
            error = Closed("the engine has failed and runs no more commands; start a new one")
            raise error from self.failed
        raise Closed("the engine is stopping or has stopped: nothing was run")

    async def __aenter__(self) -> Engine:
        """Open the store and the views, and start."""
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
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
        try:
            await self._supervisor.end()
        finally:
            if self._watch is not None:
                self._watch.detach()
        if self.failed is not None:
            raise EngineFailed(
                f"the engine failed with {type(self.failed).__name__}: {self.failed}"
            ) from self.failed

    @property
    def failed(self) -> BaseException | None:
        """What ended the engine, if it failed."""
        return self._supervisor.failed

    async def _open(self) -> None:
        await self._store.open(self._ports)
        self._check_types(await self._store.event_types())
        head = await self._store.head()
        self._journal.position = head.position
        await self._views.open(self._ports, self._limits, self._store, self._projections)

    def _check_types(self, stored: Iterable[Any]) -> None:
        declared = {(t.name, t.version): t.schema_hash for t in self._registry.types}
        for kind in stored:
            here = declared.get((kind.name, kind.version), kind.schema_hash)
            if here != kind.schema_hash:
                raise StoreRefused(
                    f"event {kind.name!r} version {kind.version} is stored with schema "
                    f"{kind.schema_hash} and declared with {here}: its fields changed. Undo the "
                    f"change, or declare it as version {kind.version + 1}."
                )


def _event_classes(
    definitions: Sequence[AggregateDefinition], projections: Sequence[type[Projection]]
) -> Iterable[type[Event]]:
    for definition in definitions:
        yield from definition.appliers
    for projection in projections:
        yield from projection.__definition__.event_classes


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= KEY_LENGTH_MAX:
        raise UsageError(
            f"a key is a string of 1 to {KEY_LENGTH_MAX} characters, not {key!r:.60}. "
            f"Nothing was run."
        )


def _check_trace(
    correlation: object, causation: object, principal: object, headers: object
) -> None:
    for name, value in (
        ("correlation", correlation),
        ("causation", causation),
        ("principal", principal),
    ):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name} is a string, not a {type(value).__name__}. Nothing was run.")
    if headers is None:
        return
    pairs = cast("Mapping[object, object]", headers if isinstance(headers, Mapping) else {0: 0})
    if not all(isinstance(part, str) for pair in pairs.items() for part in pair):
        raise UsageError("headers map strings to strings. Nothing was run.")

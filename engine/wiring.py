"""The wiring of one engine: the one place that knows every station, and makes and joins them.

Rules: stations are made in the order of the walk, and each is given what it calls. Where a station
must call one that is made later, it is given a function that looks for it when it is called.
Nothing is opened here before the supervisor opens all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from .authorization import Authorize, gate_of
from .errors import DefinitionError, EngineError, Rejected
from .host.entrance import Entrance
from .host.store_end import StoreEnd
from .host.supervisor import Life, Supervisor
from .host.watchdog import loop_watch
from .limits import Limits
from .log.bus import Bus
from .log.feed import Feeds
from .log.following import following
from .log.history import Histories
from .log.shared_pages import SharedPages
from .model.aggregate import Aggregate, AggregateDefinition, definitions_of
from .model.joint import joint_handlers_of
from .model.messages import Command
from .model.process import reactors_of, refusal_of
from .model.projection import Projection, ProjectionDefinition
from .model.projections import check_names, projections_of
from .model.schema import refuse_misfits, unknown_kinds
from .model.timers import TimedCommands
from .model.upcasting import Upcasting
from .personal.erasing import Eraser
from .personal.vault import Vault
from .projections.beginning import begin
from .projections.control import Control
from .projections.operations import Projections
from .projections.projector import Projector
from .projections.runner import ProjectionRunner
from .projections.targets.choose import Targets
from .projections.targets.errands import SendReaction
from .projections.undeclared import Undeclared
from .queries.answers import Answers
from .queries.live import LiveQueries
from .queries.past import Pasts
from .recording.forms import Recording
from .recording.recorder import recorder_of
from .runtime.ports import Ports
from .statistics import EngineStatistics
from .stores.contract.backend import Backend
from .stores.contract.keys import KeyStore
from .stores.contract.log import Store
from .stores.contract.tags import TagForm
from .stores.contract.traits import EndsByItself, Leased, Measured, Served, lacks_of
from .stores.contract.views import Part, Rebuild
from .telemetry import Observer, Telemetry
from .timers.desk import TimerDesk
from .timers.firing import Firing
from .timers.giving import Fire
from .write.actor import Actor
from .write.admission import Admission
from .write.deliberation import Deliberations
from .write.directory import Directory
from .write.dispatcher import Dispatcher
from .write.journal import Journal
from .write.kind import Kind, bind_events, bind_stored, registry_of
from .write.mailbox import Intake, Mail
from .write.reception import Reception
from .write.shared import shared_by
from .write.snapshot import Freezer
from .write.snapshot_writer import SnapshotWriter
from .write.tagged import Tagged

__all__ = ["Declared", "Settings", "Wiring"]


class Settings(msgspec.Struct, frozen=True):
    """How an engine works, checked."""

    limits: Limits
    ports: Ports
    logger: logging.Logger
    debug: bool
    rebuild: Rebuild
    resources: Mapping[type, object]
    """What handlers and sinks take, by its class."""
    recording: Recording | None = None  # where commands are recorded


class Declared(msgspec.Struct, frozen=True):
    """What a host has declared."""

    aggregates: Sequence[type[Aggregate]]
    projections: Sequence[type[Projection]]
    answers: Sequence[Callable[..., Any]]
    upcasting: Upcasting
    decisions: Sequence[Callable[..., Any]] = ()
    reacts: bool = True  # whether events are brought to process managers here
    runs: Callable[[ProjectionDefinition], Sequence[int]] | None = None  # which slices; None: all


class Wiring:
    """The stations of one engine. Making it raises DefinitionError for what cannot be declared."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        declared: Declared,
        authorize: Authorize | None,
        telemetry: Telemetry | None,
        keys: Callable[[], KeyStore],
    ) -> None:
        self.backend, self.settings, self.declared = backend, settings, declared
        self._limits, self._ports, self._logger = settings.limits, settings.ports, settings.logger
        self.gate = gate_of(authorize, self._logger)
        self.store: Store = backend.log()
        self.watch = Observer(telemetry, self._logger) if telemetry is not None else None
        self.life = Life()
        self.entrance = Entrance(self.life)
        self.definitions = definitions_of(declared.aggregates)
        # As they are now: a list that is registered in may be longer when the engine starts.
        reactors = reactors_of(d.cls for d in self.definitions if declared.reacts)
        found = [*projections_of(declared.projections), *reactors]
        check_names(found)
        every = tuple(definition.cls for definition in found)
        self._projections = tuple(d.cls for d in found if not declared.runs or declared.runs(d))
        self.registry = registry_of(self.definitions, every, declared.upcasting)
        self.vault = Vault(keys()) if self.registry.personal else None
        """The keys of personal data, if any event has some."""
        self.registry.sealer = self.vault
        self._make_write_side()
        self.views = backend.views(self._logger)
        self.timer_desk = TimerDesk(
            *(self.store, self.views, self.firing, self._ports.clock, self.gate)
        )
        self._make_projections()
        self._make_queries()
        self.eraser = self._make_eraser()
        self._loop_watch = loop_watch(self._ports, self._limits, self._logger)
        self.supervisor = self._make_supervisor()

    # -- commands -----------------------------------------------------------------------------

    def _make_write_side(self) -> None:
        joint = joint_handlers_of(self.declared.decisions)
        handlers = [h for d in self.definitions for h in d.handlers.values()]
        self.timed = TimedCommands((each.command, each.ids) for each in (*handlers, *joint))
        recorder = self.recorder = recorder_of(
            self.settings.recording, self.timed, self.registry, self._ports, self._logger
        )
        definitions = self.definitions
        if recorder is not None:
            definitions = [recorder.wrapped(definition) for definition in definitions]
            joint = [recorder.around(handler) for handler in joint]
        self._intake = Intake(self._limits.commands_accepted)
        lease = self.store if isinstance(self.store, Leased) else None
        self._dispatcher = Dispatcher(self._limits, lease)
        self.directory = Directory(self.store, self._limits, self._ports, self._logger, self.watch)
        self.snapshots = SnapshotWriter(self.store, self._limits, self._logger)
        self.bus = Bus(self._limits, self._ports.failpoint)
        self.shared = shared_by(self.store, joint)
        tagged = Tagged(self.directory) if any(d.tags for d in self.definitions) else None
        self.journal = Journal(
            self.store,
            self._intake,
            self._limits,
            self._ports,
            publish=self.bus.publish,
            room_again=self._dispatcher.wake,
            logger=self._logger,
            watch=self.watch,
            # Timers are made behind what takes their commands.
            kept=lambda extras, more: self.firing.changed(extras, more),
            before=None if self.vault is None else self.vault.flush,
            tagged=None if self.shared else tagged,  # where others write, nothing is brought
            shared=self.shared,
        )
        self._deliberations = Deliberations(self._limits, self._logger)
        kinds = [self._kind(definition) for definition in definitions]
        if tagged is not None:
            tagged.know(kinds)
        self.reception = Reception(
            kinds,
            joint,
            self._intake,
            self.directory,
            self._ports,
            self.entrance.check,
            Admission(self.gate, self._ports.clock, self._limits) if self.gate else None,
            self.watch,
        )
        self.firing = Firing(
            self.store,
            self.reception.fire,
            self.timed,
            self._ports,
            self._limits,
            self._logger,
            self.entrance.is_ending,
            self._rejection_told,
        )

    def _rejection_told(self, stream: str, command: Command, rejection: Rejected) -> Command | None:
        """Give what tells a process manager that its command was rejected."""
        kind, _, aggregate_id = stream.partition(":")
        cls = next((d.cls for d in self.definitions if d.kind == kind), Aggregate)
        return refusal_of(cls, aggregate_id, command, rejection, self._logger)

    def _kind(self, definition: AggregateDefinition) -> Kind[Actor]:
        return Kind(
            definition=definition,
            events=bind_events(definition, self.registry),
            stored=bind_stored(definition, self.registry),
            registry=self.registry,
            intake=self._intake,
            journal=self.journal,
            limits=self._limits,
            ports=self._ports,
            failpoint=self._ports.failpoint,
            logger=self._logger,
            freezer=self._freezer(definition),
            # Schedules take what timers know of commands.
            resources={TimedCommands: self.timed, **self.settings.resources},
            deliberations=self._deliberations,
            turns=self._dispatcher,
            residents=self.directory,
            timed=self.timed,
            timers_instead=lacks_of(self.store).get("timers"),
            debug=self.settings.debug,
            shared=self.shared if self.shared and definition.kind in self.shared.kinds else None,
        )

    def _freezer(self, definition: AggregateDefinition) -> Freezer | None:
        if not definition.snapshot_every:
            return None
        if (instead := lacks_of(self.store).get("snapshots")) is not None:
            raise DefinitionError(
                f"{definition.cls.__name__} says snapshot_every=, and this store keeps no "
                f"snapshots. {instead}"
            )
        sealer = self.vault if self.registry.is_personal(definition.appliers) else None
        return Freezer(definition, self._logger, self.snapshots.keep, sealer)

    # -- projections --------------------------------------------------------------------------

    def _make_projections(self) -> None:
        self._shared_feed = SharedPages(self.store)
        self._react: SendReaction = self.reception.send
        self._works = Targets(
            self.views,
            self.registry,
            self._limits,
            self._ports,
            self.store,
            self.settings.resources,
            self._logger,
            lambda envelope, depth: self._react(envelope, depth),
            self.reception.commands,
            self._end_of_log,
            self.entrance.is_ending,
        )
        self.projecting = {
            projection.__definition__.name: self._make_projecting(projection)
            for projection in self._projections
        }
        self.views.on_fallen(lambda name: self.projecting[name].fall())
        self._undeclared = Undeclared(self.views, self.store, self._ports.clock.now, self._logger)
        self.projections = Projections(
            self.projecting, self.views, self.entrance.check, self.gate, self._undeclared
        )

    def _make_projecting(self, projection: type[Projection]) -> ProjectionRunner:
        self._works.check(projection.__definition__)
        return ProjectionRunner(
            projection,
            make=self._projector,
            views=self.views,
            bus=self.bus,
            ports=self._ports,
            logger=self._logger,
            end_of_log=self._end_of_log,
            slices=self.declared.runs and self.declared.runs(projection.__definition__),
        )

    def _projector(self, part: Part, *, moved: Callable[[], None], paused: bool) -> Projector:
        return Projector(
            part,
            self._works.of(part),
            store=self._shared_feed,
            subscription=self.bus.subscribe(part.definition.name),
            limits=self._limits,
            ports=self._ports,
            logger=self._logger,
            end_of_log=self._end_of_log,
            watch=self.watch,
            # Live queries are made behind the projections that they watch.
            written=lambda part, changes: self.live.written(part, changes),
            moved=moved,
            failed=self.views.note_failure,
            paused=paused,
            is_busy=lambda: self._intake.open > 0,
        )

    def give_by(self, react: SendReaction, fire: Fire) -> None:
        """Send the commands of reactors and timers this way, where others decide too."""
        self._react, self.firing.fire = react, fire

    def rescue_by(self, rescue: Callable[[Mail, EngineError], bool]) -> None:
        """Offer each command that is refused to who may have another engine answer it."""
        self._intake.rescue = rescue

    def _end_of_log(self) -> int:
        return self.journal.position

    # -- queries ------------------------------------------------------------------------------

    def _make_queries(self) -> None:
        self.answers = Answers(
            *(self.declared.answers, self.views, self.projecting, self._limits),
            *(self._ports.stopwatch, self.watch, self.store),
            debug=self.settings.debug,
        )
        self.past = Histories(
            self.store,
            self.definitions,
            self.registry,
            self._limits,
            workers=self._ports.workers,
            check_usable=self.entrance.check,
            gate=self.gate,
        )
        self.feeds = Feeds(
            self.store,
            self.bus,
            self.registry,
            self.definitions,
            self._limits,
            check_usable=self.entrance.check,
            position=self._end_of_log,
            gate=self.gate,
        )
        self.live = LiveQueries(
            self.answers,
            self.projecting,
            self.views,
            self._limits,
            check_usable=self.entrance.check,
            gate=self.gate,
        )
        self.pasts = Pasts(
            self.past,
            self.store,
            self._projections,
            self.answers.definitions,
            self._ports,
            self._logger,
            self.views,
        )

    # -- personal data ------------------------------------------------------------------------

    def _make_eraser(self) -> Eraser | None:
        if self.vault is None:
            return None
        return Eraser(
            self.vault,
            self.directory,
            self.projecting,
            self.views,
            self._undeclared,
            self._works.sink_of,
            self.registry,
            self._limits,
            self._ports,
            self._logger,
        )

    async def open_keys(self) -> None:
        """Open the keys of personal data, of the log that is open."""
        if self.vault is not None:
            await self.vault.open(
                self._ports, self.store.log_id, self.store, self.registry.personal
            )
            await self.vault.begin()

    async def _close_keys(self) -> None:
        if self.vault is not None:
            await self.vault.close()

    # -- its life -----------------------------------------------------------------------------

    def _make_supervisor(self) -> Supervisor:
        erasers = () if self.eraser is None else (self.eraser,)
        ends = [StoreEnd(self.store)] if isinstance(self.store, EndsByItself) else []
        follows = following(self.store, self.bus, self.journal.look_on, self.firing.look)
        control = Control(
            self.projections, self.timer_desk, self.views, self._limits, self._ports, self._logger
        )
        timers = (self.firing, self.firing.settling)
        recorders = () if self.recorder is None else (self.recorder,)
        return Supervisor(
            self.life,
            open_all=self._open,
            close_all=(
                self._end_projecting,
                self.views.close,
                self._close_keys,
                *(each.close for each in recorders),
                self.store.close,
            ),
            intake=self._intake,
            journal=self.journal,
            directory=self.directory,
            dispatcher=self._dispatcher,
            deliberations=self._deliberations,
            snapshots=self.snapshots,
            watch=self._loop_watch,
            readers=(
                *self.projecting.values(),
                self.feeds,
                self.live,
                control,
                *timers,
                *erasers,
                *ends,
                *recorders,
                *follows,
            ),
            logger=self._logger,
        )

    async def _open(self) -> None:
        """Open log and views, and look before anything is run whether they fit what is declared."""
        await self.store.open(self._ports)
        await self.open_keys()
        if self.recorder is not None:
            await self.recorder.open(self.store.log_id)
        refuse_misfits(self.registry, await self.store.event_types(), "nothing was run")
        await self._index_tags()
        kinds = [definition.kind for definition in self.definitions]
        strange = unknown_kinds(kinds, await self.store.kinds())
        if strange:
            self._logger.warning("%s", strange)
        head = await self.store.head()
        self.journal.begin(head.position, head.recorded)
        self.firing.begin(*await self.store.count_timers())
        await self.views.open(
            self._ports,
            self._limits,
            self.store,
            self._projections,
            rebuild=self.settings.rebuild,
        )
        for projecting in self.projecting.values():
            if projecting.definition.reacting is not None:
                now = self._ports.clock.now
                await begin(projecting.definition, self.views, self.store, now, self._logger)
            await projecting.open()

    async def _index_tags(self) -> None:
        """Let events be found by the tags that are declared now, those stored before them too."""
        indexed = await self.store.index_tags(
            [TagForm(t.name, t.version, g.fields, g.fixed) for t, g in self.registry.tagged]
        )
        if indexed:
            self._logger.info("%d stored events are found by other tags from now on", indexed)

    async def _end_projecting(self) -> None:
        for projecting in self.projecting.values():
            projecting.end()
        await self._works.close()

    def statistics(self) -> EngineStatistics:
        """Give the numbers of all stations as they are now."""
        return EngineStatistics(
            state=self.life.state,
            position=self.journal.position,
            commands=self._intake.statistics(self.directory.overloaded),
            handlers_running=len(self._deliberations),
            aggregates=self.directory.statistics(),
            snapshots=self.snapshots.statistics(),
            journal=self.journal.statistics(),
            store=self.store.statistics() if isinstance(self.store, Measured) else None,
            server=self.store.server_statistics() if isinstance(self.store, Served) else None,
            projectors={name: p.statistics() for name, p in self.projecting.items()},
            queries=self.answers.statistics(),
            live=self.live.statistics(),
            timers=self.firing.statistics(),
            loop_blocked=0 if self._loop_watch is None else self._loop_watch.blocked,
            telemetry_failures=0 if self.watch is None else self.watch.failures,
        )

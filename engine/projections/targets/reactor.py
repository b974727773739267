"""What a projector does with a batch for a reactor: executes what follows, moves the checkpoint.

Rules: the checkpoint moves over an event when all of its commands have their receipts, or were
rejected, and never before. Events of other streams go on ahead of one that takes long, in a bounded
window. What was made and is not behind the checkpoint is not made again. An
event whose reaction or command fails is parked, with all later ones of its key behind it, or stops
the reactor; what may pass by itself is given back, to be tried again. A rejection is no failure: it
is logged and counted, and what its author says follows. A circle of reactions is bounded by how
many led to an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from ...errors import DefinitionError, EngineError, ReactionTooDeep, Rejected, StoreFailed
from ...limits import Limits
from ...model.codec import EventRegistry, decode_meta
from ...model.messages import Command, Envelope, Meta, following
from ...model.projection import ProjectionDefinition, Reacting
from ...model.reactor import commands_given
from ...model.stored import StoredEvent
from ...runtime.bell import Bell
from ...runtime.contained import contained, is_of_the_moment, is_unreached, members_of
from ...runtime.ports import Ports
from ...runtime.tracebacks import traceback_text
from ...statistics import ReactionStatistics
from ...stores.contract.log import LogSource
from ...stores.contract.views import Changes, Checkpoint, Parked, Part, ViewsStore, what_of
from ..scope import Scope
from .courier import Abandoned, NotDelivered
from .errands import Errand, Errands, Post, SendReaction
from .made import Made, key_of
from .rows import Prepared

__all__ = ["ReactorTarget", "check_reactor", "principal_of"]

_CARRIED: Final = ("traceparent", "tracestate")
"""Headers that go along, so that a trace shows what led to what."""
PARKED_PAGE: Final = 1_000
GATHER_SECONDS: Final = 0.02
"""How long events that are done may wait for others of their batch, before the checkpoint moves."""
LOOK_SECONDS: Final = 0.01
"""How often a batch that is held up looks for what has come behind it."""


def principal_of(reactor: str) -> str:
    """Give on whose behalf a reactor's commands come."""
    return f"reactor:{reactor}"


def check_reactor(definition: ProjectionDefinition, handled: Collection[type[Command]]) -> None:
    """Raise DefinitionError where a reactor gives commands that the engine does not handle."""
    assert definition.reacting is not None
    wanted = (c for c in definition.reacting.gives if c is not Command and c not in handled)
    missing = sorted(command.__name__ for command in wanted)
    if missing:
        raise DefinitionError(
            f"reactor {definition.name!r} gives {', '.join(missing)}, and no aggregate of this "
            f"engine handles it: pass the aggregate that does to Engine([...])"
        )


class ReactorTarget:
    """Executes what follows from the events of one part."""

    def __init__(
        self,
        part: Part,
        reacting: Reacting,
        views: ViewsStore,
        registry: EventRegistry,
        limits: Limits,
        ports: Ports,
        *,
        log: LogSource,
        end_of_log: Callable[[], int],
        send: SendReaction,
        logger: logging.Logger,
        engine_stops: Callable[[], bool],
    ) -> None:
        """Take what reacts, the log that is its record, and what sends its commands."""
        definition = part.definition
        self._part = part
        self._name = definition.name
        self._reacting = reacting
        self._views = views
        self._limits = limits
        self._failpoint = ports.failpoint
        self._log = log
        self._end_of_log = end_of_log
        self._logger = logger
        self._send = send
        self._engine_stops = engine_stops
        self._stopped = Bell()
        """Set when it is to begin nothing more."""
        self._scope = Scope(
            definition,
            registry,
            limits,
            slice_=part.slice,
            parks=definition.on_poison == "park",
            now=ports.clock.now,
            may_pass=self.may_pass,
        )
        self._handlers = self._scope.definition.handlers
        self._reactor = definition.bind({})
        self._made = Made(definition.name, log, limits)
        self._errands = Errands(self, send, limits.reactions_at_once, self._is_ending)
        self._alone: Errands | None = None
        """Of a parked event that is retried."""
        self._window: dict[int, Errand | Exception] = {}
        """What is not done, by position: errands, and why an event cannot be looked at."""
        self._taken = 0
        """Up to this position events are done, passed over, or in the window."""
        self._is_stale = False
        """Whether what waits in the window is to be looked at anew."""
        self._looked_at_parked = False
        """Whether it is known what a former life has made of the events that are parked."""
        self._counts = ReactionStatistics()
        self.parking = self._scope.parking
        self.skipped = self._scope.skipped
        self.refused: dict[int, Exception] = {}
        self.writes_max = 1
        self.patience = True
        self.retries = limits.sink_retries
        self.events = 0
        self.fetches = 0
        self.rows = 0

    @property
    def reactions(self) -> ReactionStatistics:
        """What it has done since the start."""
        return msgspec.structs.replace(self._counts)

    async def open(self) -> Checkpoint:
        """Give up to where all is done, and learn what was made behind it."""
        await self._forget_window()
        checkpoint = await self._scope.open(self._views, self._part)
        await self._made.begin(checkpoint.position)
        self._taken = checkpoint.position
        return checkpoint

    async def prepare(self, events: Sequence[StoredEvent], before: Checkpoint) -> Prepared:
        """Execute what follows from a batch; give the events from the first on that are done."""
        self._scope.patience = self.patience
        if self._is_stale:
            await self._forget_window()
            self._taken = before.position
        self._take(events)
        try:
            await self._work_on(events)
        finally:
            self._errands.rest()
        if self._failpoint is not None:
            self._failpoint("reactor.done")
        count, poison = self._settle(events)
        if not count:
            return Prepared(0, poison)
        last = events[count - 1]
        after = Checkpoint(last.position, last.checksum)
        changes = Changes(self._part, before, after, {}, tuple(self.parking.added))
        self.parking.written()
        self.patience = True
        return Prepared(count, poison, changes)

    def write(self, changes: Changes) -> Awaitable[bool]:
        """Move the checkpoint over what is done, parked or passed over."""
        return self._written(self._views.write(changes), changes.after.position)

    async def _written(self, writing: Awaitable[bool], position: int) -> bool:
        first = await writing
        self._made.forget(position)
        return first

    async def release(
        self, parked: Parked, stored: StoredEvent, at: Checkpoint
    ) -> tuple[Exception | None, Changes]:
        """React to a parked event; where it fails, note that it was tried."""
        self._is_stale = True  # what waits behind it may not have to any more
        await self._look_at_parked()
        error = await self._react_alone(stored)
        if error is None:
            changes = Changes(self._part, at, at, {}, released=(parked.position,))
        else:
            cause = traceback_text(error)
            tried = msgspec.structs.replace(parked, attempts=parked.attempts + 1, cause=cause)
            changes = Changes(self._part, at, at, {}, (tried,))
        await self._views.write(changes)
        if error is None:
            self.parking.released([parked])
        return error, changes

    async def _react_alone(self, stored: StoredEvent) -> Exception | None:
        """Execute what follows from one event; give what failed."""
        try:
            event = self._scope.decode_parked(stored)
            if event is None:
                return None
            errand = Errand(stored, event, decode_meta(stored), "")
        except BaseException as undecodable:
            return contained(undecodable)
        alone = self._alone = Errands(self, self._send, 1, self._is_ending)
        alone.add(errand)
        alone.go_on()
        await alone.clear()
        if self._made.is_finished(stored.position):
            return None
        self._made.stopped(stored.position, errand.place)
        if isinstance(errand.error, NotDelivered) or errand.error is None:
            raise errand.error or Abandoned("the engine stops, and begins no reaction")
        return errand.error

    async def _look_at_parked(self) -> None:
        """Learn what a former life has made of the events that are parked, once."""
        if self._looked_at_parked:
            return
        positions: set[int] = set()
        after = 0
        while page := await self._views.parked(self._name, after=after, limit=PARKED_PAGE):
            positions.update(parked.position for parked in page if parked.attempts)
            after = page[-1].position
        if positions:
            await self._made.look(min(positions), positions.__contains__)
        self._looked_at_parked = True

    def may_pass(self, error: BaseException) -> bool:
        """Tell whether a failure may be over when it is tried again."""
        if isinstance(error, (StoreFailed, NotDelivered, OSError)):
            return True
        members = members_of(error)
        if members:
            return all(map(self.may_pass, members))
        of_system = isinstance(error.__cause__, OSError)
        return of_system or is_of_the_moment(error) or is_unreached(error)

    def stop(self) -> None:
        """Begin no more reactions, since the engine stops; what is accepted gets its answer."""
        self._stopped.set()
        self._errands.changed.set()
        for errands in (self._errands, self._alone):
            if errands is not None:
                errands.give_up()

    def _is_ending(self) -> bool:
        return self._stopped.is_set() or self._engine_stops()

    # -- the window ---------------------------------------------------------------------------

    def _take(self, events: Sequence[StoredEvent]) -> None:
        """Take events into the window, in order, as far as there is room."""
        for stored in events:
            if stored.position <= self._taken:
                continue
            if self._window and self._room() <= 0:
                return
            if not self._made.is_finished(stored.position):
                self._look_at(stored)
            self._taken = stored.position

    def _look_at(self, stored: StoredEvent) -> None:
        """Take an event that is reacted to into its lane, unless it waits behind a parked one."""
        try:
            event = self._scope.pick(stored)
            if event is None:
                return
            key = self._scope.key_of(event, stored)
            errand = Errand(stored, event, decode_meta(stored), key)
        except BaseException as raised:
            self._window[stored.position] = contained(raised)
            return
        self._window[stored.position] = errand
        if key not in self.parking.keys:
            self._errands.add(errand)

    async def _work_on(self, events: Sequence[StoredEvent]) -> None:
        """Return when events are done, or some of them and a moment has passed, or one failed."""
        loop, errands = asyncio.get_running_loop(), self._errands
        hurry = loop.time() + GATHER_SECONDS
        done = 0
        while True:
            errands.changed.clear()
            errands.go_on()
            while done < len(events) and events[done].position not in self._window:
                done += 1
            if done == len(events) or self._is_settled(events[done].position):
                return
            now = loop.time()
            if done and now >= hurry:
                return
            if self._is_ending() and not errands.under_way:
                return
            try:
                async with asyncio.timeout(max(hurry - now, LOOK_SECONDS)):
                    await errands.changed.wait()
            except TimeoutError:
                await self._look_ahead(events[-1].position)

    def _is_settled(self, position: int) -> bool:
        """Tell whether nothing is waited for because of an event."""
        found = self._window[position]
        if isinstance(found, Errand):
            return found.error is not None or found.key in self.parking.keys
        return True

    async def _look_ahead(self, after: int) -> None:
        """Take what has come behind a batch that is held up: other streams do not wait for it."""
        after, limits = max(after, self._taken), self._limits
        room = min(self._room(), limits.page_events)
        if room > 0 and self._end_of_log() > after == self._taken and not self._is_ending():
            read = self._log.read_feed
            with suppress(EngineError):  # whoever comes to what cannot be read tells of it
                self._take(await read(after, events_max=room, bytes_max=limits.page_bytes))

    def _room(self) -> int:
        """Give how many events may be taken into the window."""
        return self._limits.reactor_events - len(self._window) - self._made.held

    def _settle(self, events: Sequence[StoredEvent]) -> tuple[int, Exception | None]:
        """Give how many events from the first on are done or parked, and what stops it there."""
        for count, stored in enumerate(events):
            found = self._window.get(stored.position)
            if found is None:
                if stored.position > self._taken:
                    return count, None
                continue
            error: Exception | None = found if isinstance(found, Exception) else found.error
            if isinstance(found, Errand):
                waits, full = self._scope.wait_behind(found.event, stored)
                if not waits and (error or full) is None:
                    return count, None if count else Abandoned("the engine stops before it")
                if not waits:
                    self._made.stopped(stored.position, found.place)
                    error = error or full
                else:
                    error = None
            if error is not None and not self._scope.park(stored, error):
                return count, error
            self._window.pop(stored.position)
            if isinstance(found, Errand):
                self._errands.drop(found.key)
        return len(events), None

    async def _forget_window(self) -> None:
        """Let what is under way end; the rest of the window is taken again."""
        await self._errands.clear()
        for position, found in self._window.items():
            if isinstance(found, Errand) and found.commands is not None:
                self._made.stopped(position, found.place)
        self._window.clear()
        self._is_stale = False

    # -- an errand ----------------------------------------------------------------------------

    def next_post(self, errand: Errand) -> Post | None:
        """Give what to send next because of an event; None where all is done.

        Raises what its reaction raises, and ReactionTooDeep.
        """
        position, meta = errand.stored.position, errand.meta
        if errand.commands is None:
            errand.commands = self._react(errand)
        if errand.follows is not None:
            return self._post(errand.follows, position, errand.place, meta, refused=True)
        errand.place = self._made.next_place(position, errand.place)
        if errand.place >= len(errand.commands):
            return None
        return self._post(errand.commands[errand.place], position, errand.place, meta)

    def _react(self, errand: Errand) -> tuple[Command, ...]:
        handler = self._handlers[type(errand.event)]
        arguments = (errand.event, errand.meta) if handler.takes_meta else (errand.event,)
        given = handler.function(self._reactor, *arguments)
        where = handler.function.__qualname__
        commands = commands_given(where, given, self._limits.reaction_commands)
        depth, stored = errand.meta.depth, errand.stored
        if commands and depth >= self._limits.reaction_depth:
            event = what_of(stored.name, stored.event_version)
            raise ReactionTooDeep(self._name, event, depth, self._limits.reaction_depth)
        return commands

    def _post(
        self, command: Command, position: int, place: int, meta: Meta, *, refused: bool = False
    ) -> Post:
        envelope = Envelope(
            command=command,
            key=key_of(self._name, position, place, refused=refused),
            principal=principal_of(self._name),
            headers=_carried(meta.headers),
            **following(meta),
        )
        self._counts.sent += 1
        return Post(envelope, meta.depth + 1)

    def received(self, errand: Errand) -> None:
        """Note that what was sent has its receipt."""
        self._counts.receipts += 1
        errand.follows = None
        errand.place += 1

    def rejected(self, errand: Errand, rejection: Rejected) -> None:
        """Note that what was sent was rejected, and ask what follows."""
        self._counts.rejected += 1
        assert errand.commands is not None, "what was sent was given by a reaction"
        command = errand.follows or errand.commands[errand.place]
        refusal = None if errand.follows else self._reacting.refusals.get(type(command))
        errand.follows = None
        if refusal is not None:
            arguments = (errand.meta,) if refusal.takes_meta else ()
            given = refusal.function(self._reactor, command, rejection, *arguments)
            followed = commands_given(refusal.function.__qualname__, given, 1)
            errand.follows = followed[0] if followed else None
        else:
            self._logger.warning(
                "reactor %s: %s was rejected as %r because of %s, and nothing follows: write a "
                "method with @when_rejected where something should",
                self._name,
                type(command).command_name,
                rejection.code,
                errand.meta.event_id,
            )
        errand.place += errand.follows is None

    def waits(self) -> None:
        """Note that something is sent again later."""
        self._counts.waits += 1

    def done(self, errand: Errand) -> None:
        """Note that all is done because of an event."""
        self.events += 1
        self._made.finish(errand.stored.position)
        self._window.pop(errand.stored.position, None)


def _carried(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Give the headers of an event that go along with what follows from it."""
    if headers is None:
        return None
    found: dict[str, Any] = {name: headers[name] for name in _CARRIED if name in headers}
    return found or None

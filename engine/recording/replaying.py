"""Decides recorded commands again, on the states that the log gives, and compares.

Rules: nothing is written and nobody outside is asked. A handler gets the clock, the ids and the
context that it had. One that takes resources is decided again only if stand-ins for them are given.
What cannot be compared is told with its reason, and never called the same: above all decisions on
events that were not stored. An event that a former release gave is compared as it is today. Values
of events are not shown, only the fields that differ.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from ..errors import Damaged, EngineError, HandlerFailed, InvalidInput
from ..limits import Limits
from ..log.history import Histories
from ..model.aggregate import Aggregate, AggregateDefinition, CommandHandler, Context
from ..model.codec import EventRegistry, without
from ..model.joint import JointHandler
from ..model.messages import Command, Event
from ..model.sameness import first_difference
from ..model.timers import TimedCommands
from ..outside.log_file import LogFile
from ..personal.vault import reading
from ..runtime.ports import Ports
from ..stores.contract.backend import Outside
from ..write.encoding import is_rejection
from .files import Place, read_recording
from .forms import CANCELLED, UNKNOWN, Decided, Gave, Told, digest, gave, raised
from .recorder import teller

__all__ = ["Deciding", "Replayed", "Verdict", "replay_log"]

Verdict: TypeAlias = Literal["same", "differs", "unknown"]
_STATES_MAX: Final = 1_000
"""States that are kept for the next decision on the same stream."""


class Replayed(msgspec.Struct, frozen=True):
    """One recorded command, decided again."""

    place: Place
    """Where it is recorded."""
    decided: Decided
    """What was recorded."""
    verdict: Verdict
    """Whether the same came of it; "unknown" if it could not be decided again."""
    why: str = ""
    """What differs, or why it is unknown."""


class Deciding(msgspec.Struct, frozen=True):
    """The code that decides."""

    definitions: Sequence[AggregateDefinition]
    """Of all aggregates."""
    joint: Sequence[JointHandler]
    """Of all joint decisions."""
    registry: EventRegistry
    """Of all events."""
    resources: Mapping[type, object]
    """Stand-ins for what handlers take, by class."""

    @property
    def handlers(self) -> Mapping[type[Command], CommandHandler]:
        """What decides each class of command."""
        own = {cls: each for d in self.definitions for cls, each in d.handlers.items()}
        return own | {each.command: each for each in self.joint}


async def replay_log(
    outside: Outside,
    code: Deciding,
    folder: str,
    wanted: Callable[[Decided], bool],
    *,
    ports: Ports | None = None,
) -> AsyncGenerator[Replayed]:
    """Give each recorded decision that is wanted, decided again, in the order of the recording.

    Raises StoreRefused where log or recording cannot be read.
    """
    ports = ports or Ports()
    log = LogFile(outside.log_reader(), ports)
    await log.open()
    try:
        async with reading(code.registry, ports, log.log_id):
            replaying = _Replaying(code, log, ports)
            for place, decided in read_recording(folder, log.log_id):
                found = await replaying.replay(place, decided, run=wanted(decided))
                if found is not None:
                    yield found
    finally:
        await log.close()


class _Unknown(Exception):
    """A decision that cannot be made again, with the reason."""


class _Differs(Exception):
    """A handler that does today what it did not do then."""


@dataclasses.dataclass
class _Kept:
    """A state that was folded, and where it stands."""

    state: Aggregate
    version: int


class _Replaying:
    """One run over a recording."""

    def __init__(self, code: Deciding, log: LogFile, ports: Ports) -> None:
        self._code = code
        self._handlers = code.handlers
        self._by_kind = {d.kind: d for d in code.definitions}
        self._told = teller(code.registry)
        self._today = _types_today(code.registry)
        self._added = code.registry.added
        self._plain = msgspec.json.Encoder()
        commands = [(each.command, each.ids) for each in self._handlers.values()]
        self._timed = TimedCommands(commands)
        self._resources = {TimedCommands: self._timed, **code.resources}
        self._limits = Limits()
        self._log = log
        self._histories = Histories(
            log,
            code.definitions,
            code.registry,
            self._limits,
            workers=ports.workers,
            check_usable=log.worker,
        )
        self._states: OrderedDict[str, _Kept] = OrderedDict()
        self._file = ""
        self._void: dict[str, int] = {}
        """Streams with decisions that were not stored: the version before the first of them."""

    async def replay(self, place: Place, decided: Decided, *, run: bool) -> Replayed | None:
        """Decide once more; None if it is only looked at, since others may stand on it."""
        if place.file != self._file:
            # Another engine has begun, on what was stored.
            self._file = place.file
            self._void.clear()
        try:
            await self._look_at_the_log(decided)
            if not run:
                return None
            if decided.gave.code == CANCELLED:
                raise _Unknown("it was ended before it decided: by its deadline, or as void")
            handler, command = self._command(decided)
            states = [await self._state(stream, version) for stream, version in decided.streams]
            today, events = await self._decide(handler, command, states, decided)
            why = await self._difference(decided, today, events)
        except _Differs as differs:
            return Replayed(place, decided, "differs", str(differs))
        except (_Unknown, EngineError) as unknown:
            return Replayed(place, decided, "unknown", str(unknown)) if run else None
        return Replayed(place, decided, "differs" if why else "same", why)

    # -- what it was decided on ---------------------------------------------------------------

    async def _look_at_the_log(self, decided: Decided) -> None:
        """Find out whether what it stands on, and what came of it, is in the log."""
        for stream, version in decided.streams:
            before = self._void.get(stream)
            if before is None:
                continue
            if version > before:
                raise _Unknown(f"it was decided on events of {stream} that were not stored")
            del self._void[stream]
        for place, told in _by_place(decided.gave.events):
            if not 0 <= place < len(decided.streams):
                continue
            stream, version = decided.streams[place]
            if not await self._is_stored(stream, version, told):
                self._void[stream] = version
                self._states.pop(stream, None)

    async def _is_stored(self, stream: str, version: int, told: Sequence[Told]) -> bool:
        definition = self._by_kind.get(stream.partition(":")[0])
        if definition is None or definition.tags:
            return True  # events of a boundary stand in another stream
        stored = [event async for _, event in self._events(definition, stream, version, len(told))]
        return len(stored) == len(told) and all(
            t.name == name and (t.version != number or event is None or self._may_be(t, event))
            for t, (name, number, event) in zip(told, stored, strict=True)
        )

    def _may_be(self, told: Told, event: Event) -> bool:
        """Tell whether an event is one that was recorded; one of a former type may always be."""
        return self._is_former(told) or self._is(told, event)

    def _is(self, told: Told, event: Event) -> bool:
        """Tell whether an event has the digest that was recorded, with all its fields or fewer."""
        registry = self._code.registry
        whole, decode = registry.encode(event), registry.decoder_of(type(event)).decode
        if told.digest == digest(whole):
            return True
        added = self._added.get(type(event), ())
        fewer = (without(whole, frozenset(added[count:])) for count in range(len(added)))
        return any(
            told.digest == digest(form) and first_difference(event, decode(form)) is None
            for form in filter(None, fewer)
        )

    def _is_former(self, told: Told) -> bool:
        """Tell whether upcasters make another type of it today."""
        return (told.name, told.version) in self._today

    async def _events(
        self, definition: AggregateDefinition, stream: str, after: int, count: int
    ) -> AsyncGenerator[tuple[int, tuple[str, int, Event | None]]]:
        """Give events of a stream behind a version, with name and version of their types."""
        history = self._histories.history(
            definition.cls, stream.partition(":")[2], after, max(1, count), None
        )
        async with aclosing(aiter(history)) as events:
            async for each in events:
                if count <= 0:
                    return
                count -= 1
                yield each.meta.version, (each.name, each.event_version, each.event)

    async def _state(self, stream: str, version: int) -> Aggregate:
        """Give the state of a stream at a version, for this decision alone."""
        kind, _, aggregate_id = stream.partition(":")
        definition = self._by_kind.get(kind)
        if definition is None:
            raise _Unknown(f"the code has no aggregate of kind {kind!r}")
        kept = self._states.pop(stream, None)
        if kept is None or kept.version > version or definition.tags:
            histories = self._histories
            state = await histories.state(definition.cls, aggregate_id, version, None, None)
        else:
            state, missing = kept.state, version - kept.version
            async for at, (_, _, event) in self._events(definition, stream, kept.version, missing):
                if event is not None:
                    definition.appliers[type(event)](state, event)
                state.version = at
        if state.version != version:
            raise _Unknown(f"the log has {stream} up to version {state.version}, before {version}")
        self._states[stream] = _Kept(state, version)
        if len(self._states) > _STATES_MAX:
            self._states.popitem(last=False)
        return copy.deepcopy(state)

    # -- deciding -----------------------------------------------------------------------------

    def _command(self, decided: Decided) -> tuple[CommandHandler, Command]:
        try:
            command = self._timed.decode(decided.command, bytes(decided.payload))
        except HandlerFailed as error:
            said = str(error).replace(" of a timer", "").replace(" set the timer", " recorded it")
            raise _Unknown(said) from error
        handler = self._handlers[type(command)]
        missing = [t.__name__ for t in handler.takes if t is not Context and not self._has(t)]
        if missing:
            raise _Unknown(
                f"{handler.decide.__qualname__} takes {', '.join(missing)}: give a stand-in, as "
                f"resources={{{missing[0]}: ...}}"
            )
        return handler, command

    def _has(self, cls: type) -> bool:
        return cls in self._resources

    async def _decide(
        self,
        handler: CommandHandler,
        command: Command,
        states: Sequence[Aggregate],
        decided: Decided,
    ) -> tuple[Gave, Sequence[Event]]:
        """Give what the handler gives today, and its events."""
        given = handler.arguments(lambda: _context(decided), self._resources)
        if isinstance(handler, JointHandler):
            parties = list(states) if handler.is_plain else handler.states(command, states)
            arguments: list[Any] = [command, *parties, *given]
        else:
            arguments = [states[0], command, *given]
        before = copy.deepcopy(list(states))
        try:
            returned = handler.decide(*arguments)
            if handler.is_async:
                returned = await returned
            today = gave(returned, states, self._told, self._plain)
        except _Differs:
            raise
        except Exception as error:
            return raised(error, is_rejection=is_rejection(error)), ()
        changed = first_difference(before, list(states))
        if changed is not None:
            raise _Differs(
                f"{handler.decide.__qualname__} changes the state, at {changed}: a handler "
                f"returns events, and only appliers change the state"
            )
        return today or Gave("failed", code="HandlerFailed"), tuple(_events_of(returned))

    # -- comparing ----------------------------------------------------------------------------

    async def _difference(self, decided: Decided, today: Gave, events: Sequence[Event]) -> str:
        """Say what is not as it was recorded; nothing where all is."""
        was = decided.gave
        types = [self._today.get((t.name, t.version), (t.name, t.version)) for t in was.events]
        then = was.outcome, was.code, types
        if then != (today.outcome, today.code, [(t.name, t.version) for t in today.events]):
            return f"it gave {_shown(was)}, and gives {_shown(today)} today"
        for number, (told, now) in enumerate(zip(was.events, today.events, strict=True)):
            is_former = self._is_former(told)
            if told.place == now.place and not is_former and self._is(told, events[number]):
                continue
            where = await self._where(decided, number, events[number])
            if is_former and where is None:
                raise _Unknown(
                    f"{told.name} version {told.version} is another type today, and it is compared "
                    f"only where the log has it under the aggregate that was decided on"
                )
            if told.place != now.place or not is_former or where:
                return f"{told.name} differs{where or ''}"
        if was.beside != today.beside and UNKNOWN not in (was.beside, today.beside):
            return "its reply, claims, timers or commands differ"
        return ""

    async def _where(self, decided: Decided, number: int, today: Event) -> str | None:
        """Say in which field an event differs from the one that the log has, nothing for none.

        None where the log does not have it, or it cannot be told.
        """
        told = decided.gave.events[number]
        if not 0 <= told.place < len(decided.streams):
            return None
        stream, version = decided.streams[told.place]
        definition = self._by_kind[stream.partition(":")[0]]
        if definition.tags or stream in self._void:
            return None
        version += sum(each.place == told.place for each in decided.gave.events[:number])
        with suppress(Damaged, InvalidInput):
            async for _, (_, _, stored) in self._events(definition, stream, version, 1):
                found = None if stored is None else first_difference(stored, today)
                return "" if found is None else f" at {found}"
        return None


def _types_today(registry: EventRegistry) -> Mapping[tuple[str, int], tuple[str, int]]:
    """Give name and version of each former type, and those of the type that it is today."""
    steps = registry.upcasting.steps
    pairs = ((registry.type_of(c), registry.type_of(registry.upcasting.today(c))) for c in steps)
    return {(then.name, then.version): (now.name, now.version) for then, now in pairs}


def _context(decided: Decided) -> Context:
    """Give what the handler knew then."""
    left: Iterator[str] = iter(decided.ids)

    def new_id() -> str:
        found = next(left, None)
        if found is None:
            raise _Differs(f"it draws more new ids today than the {len(decided.ids)} of then")
        return found

    said = decided.said
    return Context(
        decided.now,
        new_id,
        said.key,
        said.correlation,
        said.causation,
        said.principal,
        said.headers,
    )


def _by_place(events: Sequence[Told]) -> Sequence[tuple[int, Sequence[Told]]]:
    """Give the events of each aggregate, in order."""
    found: dict[int, list[Told]] = {}
    for each in events:
        found.setdefault(each.place, []).append(each)
    return list(found.items())


def _events_of(returned: Any) -> Iterator[Event]:
    """Give the events of what a handler returned, in the order in which they are recorded."""
    if isinstance(returned, Event):
        yield returned
    elif isinstance(returned, list | tuple):
        for each in cast("Sequence[object]", returned):
            yield from _events_of(each)
    elif returned is not None:
        yield from _events_of(getattr(returned, "events", None))


def _shown(given: Gave) -> str:
    if given.outcome == "events":
        return ", ".join(f"{t.name} version {t.version}" for t in given.events)
    return given.outcome if given.outcome == "nothing" else f"{given.outcome} {given.code!r}"

"""A small world of its own for timers: lamps that go out after a while, and lose power.

Rules: everything comes from the seed, as in `world`, whose loop, disk and machine it uses. Lamps
are lit, lit again, put out before their time, and pass the light on. A life ends by a loss of
power at any call of the disk; the wall clock jumps by an hour all the time. The last life is
quiet, sends again what is in doubt, and goes on until no timer waits. Then each timer that the log
says was set must have been cancelled, replaced or fired once, by the log and by the table.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec

from engine import (
    After,
    Aggregate,
    CancelTimer,
    Closed,
    Command,
    Decision,
    Engine,
    EngineError,
    Event,
    Id,
    NotRun,
    OutcomeUnknown,
    applies,
    handles,
)
from engine.limits import Limits
from engine.model.codec import decode_metadata
from engine.model.stored import StoredEvent
from engine.outside.timers import compare_timers
from engine.stores.sqlite.outside.log import SqliteLogReader

from .small_world import SmallLife, SmallWorld, sent_together

__all__ = ["Told", "run_seed"]

_SILENT = logging.Logger("timing", logging.CRITICAL + 1)
_LAMPS, _COMMANDS, _LIVES = 5, 30, 3


class Lit(Event, name="lit"):
    """A lamp is on."""

    number: int


class Doused(Event, name="doused"):
    """It was put out by hand."""

    number: int


class Faded(Event, name="faded"):
    """It went out by its timer."""

    number: int


class Light(Command):
    """Let a lamp be on for a while, and have another one told of it at once."""

    lamp: Id
    number: int
    seconds: float
    other: str


class Douse(Command):
    """Put it out by hand."""

    lamp: Id
    number: int


class Fade(Command):
    """Let it go out; sent by timers alone."""

    lamp: Id
    number: int


class Brittle(Exception):
    """A handler fails now and then."""


class Lamp(Aggregate, kind="lamp", snapshot_every=3):
    """Is on or not."""

    fails: int = 0

    @handles
    def light(self, command: Light) -> Decision[Lit]:
        """Set the timer anew, whatever it was set to."""
        timer = After(Fade(self.id, command.number), "fade", seconds=command.seconds)
        told = [Fade(command.other, command.number)] if command.other else []
        return Decision(Lit(command.number), timers=[timer], commands=told)

    @handles
    def douse(self, command: Douse) -> Decision[Doused]:
        """Cancel the timer, if there is one."""
        return Decision(Doused(command.number), timers=[CancelTimer("fade")])

    @handles
    def fade(self, command: Fade) -> Faded:
        """Say so, each time; and fail now and then."""
        if FAILING is not None and FAILING.random() < 0.1:
            raise Brittle
        return Faded(command.number)

    @applies
    def lit(self, event: Lit) -> None:
        """Be on."""

    @applies
    def doused(self, event: Doused) -> None:
        """Be off."""

    @applies
    def faded(self, event: Faded) -> None:
        """Be off."""


FAILING: Random | None = None
"""By which a handler fails; None where it does not."""


class Call(msgspec.Struct):
    """One command, and what its client was told, each time that it was sent."""

    command: Light | Douse
    answers: list[object] = []
    """None where nobody was told."""


class Told(msgspec.Struct):
    """What a seed left behind."""

    problems: list[str]
    crashes: int
    digest: str
    fired: int
    cancelled: int


class _Life(SmallLife):
    """One life: an engine, and its clients."""

    def __init__(self, calls: list[Call], *given: Any, quiet: bool) -> None:
        super().__init__(*given, quiet=quiet)
        self._calls = calls

    def where(self) -> str:
        return f"{sum(not call.answers for call in self._calls)} calls were not made"

    async def main(self) -> None:
        global FAILING
        random = self._random
        FAILING = None if self.quiet else random
        engine = Engine(
            [Lamp],
            store=self.store,
            limits=Limits(
                resident_aggregates=random.choice((10, 100)),
                batch_events=random.choice((1, 4, 4_096)),
                timers_at_once=random.choice((1, 3, 512)),
                timer_retries=1_000,
                control_poll_ms=0,
            ),
            logger=_SILENT,
            ports=self.ports(),
        )
        async with engine:
            await sent_together(self._send(engine, call) for call in self._wanted())
            await self._wait(engine)

    async def _wait(self, engine: Engine) -> None:
        """Let timers be fired: in the quiet life all, else those of a while."""
        if not self.quiet:
            await asyncio.sleep(self._random.choice((0.01, 5.0, 600.0)))
            return
        while (numbers := engine.statistics().timers).waiting or numbers.due:
            await asyncio.sleep(60.0)

    def _wanted(self) -> Iterator[Call]:
        """Give what was never sent, or was certainly not run, or is in doubt."""
        for call in self._calls:
            last = call.answers[-1] if call.answers else None
            if not call.answers or last is None or isinstance(last, NotRun | OutcomeUnknown):
                yield call

    async def _send(self, engine: Engine, call: Call) -> None:
        await asyncio.sleep(self._random.expovariate(1 / 0.02))
        place = len(call.answers)
        call.answers.append(None)  # until it is told
        try:
            key = f"k{call.command.number}"
            call.answers[place] = await engine.execute(call.command, key=key)
        except Closed:
            call.answers.pop(place)
        except EngineError as error:
            call.answers[place] = error


def run_seed(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    world = SmallWorld(seed)
    calls = [_call(world.random, number) for number in range(_COMMANDS)]
    story, book = world.story, _Book()
    with world.lived(partial(_Life, calls), lambda r: r.randrange(1, 400), crashes=_LIVES) as log:
        if log is not None:
            for stored in log.read_feed(0, events_max=10_000, bytes_max=1 << 30):
                book.take(stored)
            story.problems += [*book.problems(), *_compared(log)]
    problems = story.problems
    return Told(problems, story.crashes, story.digest, len(book.fired), book.cancelled)


def _call(random: Random, number: int) -> Call:
    lamp = f"l{random.randrange(_LAMPS)}"
    if random.random() < 0.3:
        return Call(Douse(lamp, number))
    other = f"l{random.randrange(_LAMPS)}" if random.random() < 0.5 else ""
    return Call(Light(lamp, number, random.choice((0.0, 0.01, 1.0, 300.0, 7_200.0)), other))


def _compared(log: SqliteLogReader) -> Iterator[str]:
    # Each command writes an event, so that the log tells all: nothing was taken away without one.
    for key, in_log, in_table in compare_timers(log, -1).differences:
        yield f"P24: {key} is {in_log} in the log, and {in_table} in the table"


class _Book:
    """What the log says of timers, by itself: this shares no code with what the engine folds."""

    def __init__(self) -> None:
        self._standing: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._odd: list[str] = []
        self.fired: Counter[tuple[str, str, int]] = Counter()
        self.cancelled = 0

    def take(self, stored: StoredEvent) -> None:
        metadata = decode_metadata(stored)
        if stored.name == "faded" and metadata.fired is None:
            self._odd.append(f"{stored.position} faded by no timer")
        if metadata.fired is not None:
            self._take_fired(stored, metadata.fired)
        for name in metadata.cancels:
            self.cancelled += self._standing.pop((stored.stream, name), None) is not None
        for name, _, _, payload in metadata.timers:
            self._standing[stored.stream, name] = stored.position, bytes(payload)

    def _take_fired(self, stored: StoredEvent, fired: Sequence[Any]) -> None:
        stream, name, position = fired
        self.fired[stream, name, position] += 1
        there = self._standing.pop((stream, name), None)
        if there is None or there[0] != position:
            self._odd.append(f"{stored.position} was fired by {fired}, which did not stand")
            return
        command = msgspec.json.decode(there[1])
        if (
            stored.stream != f"lamp:{command['lamp']}"
            or msgspec.json.decode(stored.payload)["number"] != command["number"]
        ):
            self._odd.append(f"{stored.position} is another command than {fired} was set to")

    def problems(self) -> Iterator[str]:
        yield from (f"P24: {odd}" for odd in self._odd)
        yield from (f"P24: {fired} was fired {n} times" for fired, n in self.fired.items() if n > 1)
        yield from (f"P24: {key} was forgotten" for key in self._standing)

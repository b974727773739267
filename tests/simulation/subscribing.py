"""A small world of its own for decisions by tags: a school whose rules span aggregates.

Rules: everything comes from the seed, as in `world`, whose loop, disk and machine it uses. Clients
offer courses, enrol, move and leave, and block seats by an aggregate's events; with keys and
without, with deadlines, and some leave before their answer. Timers and a reaction send decisions
too, and a rival writes events with tags behind the engine's back. A life ends by a loss of power at
any call of the disk. The last one is quiet, sends again what is in doubt, and waits until no timer
waits and nothing follows. Then `schoolbook` judges the log, and all that was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from engine import (
    Closed,
    Engine,
    EngineError,
    NotRun,
    Rejected,
)
from engine.limits import Limits
from engine.model.stored import EventData
from engine.stores.contract.log import AppendRequest, Batch, StreamRead, Write

from .school import (
    DECISIONS,
    KINDS,
    Awarding,
    Block,
    Blocked,
    Course,
    Enrol,
    Issue,
    Leave,
    Move,
    Offer,
    Sent,
    SlowlyEnrol,
    Student,
)
from .schoolbook import Call, judged
from .small_world import SmallLife, SmallWorld, sent_together

__all__ = ["Told", "run_seed"]

_SILENT = logging.Logger("subscribing", logging.CRITICAL + 1)
_COURSES, _STUDENTS, _COMMANDS, _LIVES = 3, 4, 50, 3


class Told(msgspec.Struct):
    """What a seed left behind."""

    problems: list[str]
    crashes: int
    digest: str
    answers: Counter[str]
    events: Counter[str]
    """In the log, by name."""
    lapsed: int
    """Enrolments that a timer ended."""
    conflicts: int


class _Life(SmallLife):
    """One life: an engine, and its clients."""

    def __init__(
        self, calls: list[Call], states: dict[str, tuple[int, ...]], *given: Any, quiet: bool
    ) -> None:
        """Take `states`, which get what the quiet life's engine gives at its end, by stream."""
        super().__init__(*given, quiet=quiet)
        self._calls = calls
        self._states = states
        self._pause = self._random.choice((0.001, 0.003, 0.02))
        """Seconds, as a mean, until a client sends."""
        self._engine: Engine | None = None
        self.conflicts = 0
        """How often the store has refused what was decided."""

    def where(self) -> str:
        return f"{sum(not call.answers for call in self._calls)} calls were not made"

    async def main(self) -> None:
        random = self._random
        engine = Engine(
            KINDS,
            decisions=DECISIONS,
            projections=[Awarding],
            store=self.store,
            limits=Limits(
                resident_aggregates=random.choice((12, 100)),
                batch_events=random.choice((1, 4, 4_096)),
                turn_commands=random.choice((1, 3, 128)),
                page_events=random.choice((1, 3, 1_000)),
                actor_commands=1,
            ),
            logger=_SILENT,
            ports=self.ports(),
        )
        self._engine = engine
        async with engine:
            rival = asyncio.ensure_future(self._write_behind(engine))
            await sent_together(self._send(engine, call) for call in self._wanted())
            rival.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await rival
            if not self.quiet:
                await asyncio.sleep(random.expovariate(1 / 0.05))
            else:
                while not _is_over(engine):
                    await asyncio.sleep(20.0)  # the wall clock may have gone back
                await self._read_states(engine)

    def ended(self) -> None:
        if self._engine is not None:
            self.conflicts = self._engine.statistics().journal.conflicts

    async def _read_states(self, engine: Engine) -> None:
        for course in _names("c", _COURSES):
            found = await engine.state(Course, course)
            self._states[f"course:{course}"] = (found.seats, found.taken)
        for student in _names("s", _STUDENTS):
            one = await engine.state(Student, student)
            self._states[f"student:{student}"] = (len(one.courses), one.leaves, one.awards)

    async def _write_behind(self, engine: Engine) -> None:
        """Block seats as another writer would, in streams of its own and of the desk."""
        store: Any = engine._store  # pyright: ignore[reportPrivateUsage]
        seconds = 0.0 if self.quiet else self._random.choice((0.0, 0.0, 0.002, 0.02))
        while seconds:
            await asyncio.sleep(self._random.expovariate(1 / seconds))
            stream = self._random.choice(("elsewhere:1", "desk:d"))
            event = Blocked(self._random.choice((None, *_names("c", _COURSES))), -1)
            with contextlib.suppress(EngineError):
                [page] = await store.read_streams(
                    [StreamRead(stream)], events_max=10_000, bytes_max=1 << 30
                )
                registry = engine.registry
                tags = () if event.course is None else (f"course:{event.course}",)
                data = EventData(registry.type_of(Blocked), registry.encode(event), tags=tags)
                write = Write(stream, len(page.events), [data])
                await store.append(Batch([AppendRequest([write])], 0))

    def _wanted(self) -> Iterator[Call]:
        """Give what was never sent, certainly not run, or in doubt and has a key."""
        for call in self._calls:
            last = call.answers[-1] if call.answers else None
            again = isinstance(last, NotRun) or (call.key is not None and call.in_doubt)
            if not call.answers or again:
                yield call

    async def _send(self, engine: Engine, call: Call) -> None:
        await asyncio.sleep(self._random.expovariate(1 / self._pause))
        place, begin = len(call.answers), engine.statistics().position
        call.answers.append(None)  # until it is told
        deadline = None if self.quiet else call.deadline
        leaves = None if self.quiet else call.leaves
        try:
            async with asyncio.timeout(leaves):
                call.answers[place] = await engine.execute(
                    call.command, key=call.key, deadline=deadline
                )
        except TimeoutError:
            pass  # it has left, and was told nothing
        except Closed:
            call.answers.pop(place)
        except EngineError as error:
            call.answers[place] = error
            if isinstance(error, Rejected):
                call.refused[place] = begin, engine.statistics().position


def _is_over(engine: Engine) -> bool:
    numbers = engine.statistics()
    return (
        numbers.projectors["awarding"].position == numbers.position
        and not numbers.timers.waiting
        and not numbers.commands.open
    )


def _names(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


def run_seed(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    world = SmallWorld(seed)
    calls = [_call(world.random, number) for number in range(_COMMANDS)]
    events, lapsed = Counter[str](), 0
    states: dict[str, tuple[int, ...]] = {}
    lives = list[_Life]()

    def make(*given: Any, quiet: bool) -> _Life:
        lives.append(_Life(calls, states, *given, quiet=quiet))
        return lives[-1]

    story = world.story
    with world.lived(make, lambda r: r.randrange(1, 400), crashes=_LIVES) as log:
        conflicts = sum(life.conflicts for life in lives)
        if log is not None:
            read = log.read_feed(0, events_max=10_000, bytes_max=1 << 30)
            story.problems += judged(read, calls, states)
            events = Counter(stored.name for stored in read)
            lapsed = sum(b'"by_timer":true' in stored.payload for stored in read)
    told = Counter(type(answer).__name__ for call in calls for answer in call.answers)
    problems = story.problems
    return Told(problems, story.crashes, story.digest, told, events, lapsed, conflicts)


def _call(random: Random, number: int) -> Call:
    key = f"k{number}" if random.random() < 0.6 else None
    deadline = random.choice((None, None, None, 0.005, 0.05))
    leaves = random.choice((None, None, None, 0.001, 0.02))
    return Call(_command(random, number), key, deadline, leaves)


def _command(random: Random, number: int) -> Sent:
    course, other = random.sample(_names("c", _COURSES), 2)
    student = random.choice(_names("s", _STUDENTS))
    if number < _COURSES:
        return Offer(f"c{number}", number, random.choice((2, 6, 30)))
    kind = random.random()
    if kind < 0.2:
        seconds = random.choice((0.0, 0.003, 0.1))
        return Enrol(course, student, number, seconds)
    if kind < 0.35:
        return SlowlyEnrol(course, student, number)
    if kind < 0.5:
        return Leave(course, student, number)
    if kind < 0.6:
        return Move(student, course, other, number)
    if kind < 0.9:
        return Block(random.choice(("d", "e")), random.choice((None, course, course)), number)
    return Issue(number)

"""One seed of people who come, are erased and come again, over several lives of one engine.

Rules: everything comes from the seed, as in the other worlds, whose loop, disk and machine it uses.
Erasures are asked for at any moment, by several callers, and by another process. Meanwhile clients
write, a steward pauses, rebuilds, resets and drops projections, systems outside fail and hang, and
the store of keys too. A life ends by a loss of power at any call of the disk, or in order; the next
one may declare other versions, or leave a projection out. The last life is quiet: all that was
begun must be finished there. `book` and `judge` say what must be true; nothing is judged here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec

from engine import Closed, Engine, EngineError, Projection, Receipt, UsageError
from engine.limits import Limits
from engine.personal.vault import Vault
from engine.stores.sqlite.keys import SqliteKeys
from engine.testing.simulation.lives import STEPS_MAX
from engine.testing.simulation.loop import SimulatedLoop
from engine.testing.simulation.machine import simulated_ports
from engine.testing.simulation.schedule import draw_schedule

from ..story import Story
from ..swarm import draw_swarm
from ..world import live, simulated_disk
from .book import Asked, Book, Said
from .hostel import (
    AGGREGATES,
    Ailing,
    Desk,
    FindGuests,
    FindStays,
    Greet,
    Guest,
    Host,
    Lodge,
    Note,
    Register,
    guests_class,
    lobby_class,
    stays_class,
)
from .judge import judge_end
from .outside import Letters, Outside, Post, ToldKeys

__all__ = ["Told", "run_seed"]

importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
"""Loaded before a world has its fence."""
_SILENT = logging.Logger("persons", logging.CRITICAL + 1)
_COMMANDS, _LIVES = 40, 3
_NAMES = ("guests", "stays", "lobby", "post", "letters", "host")
_DEEDS = ("pause", "resume", "resume", "resume", "rebuild", "cancel", "reset", "drop", "retry")
_CALM_SECONDS = 7_200


class Troubles(msgspec.Struct, frozen=True):
    """What a seed is made of."""

    persons: int
    lives: int
    erasures: float
    """How many are asked for a second."""
    steward: float
    outside_failures: float
    outside_hangs: float
    key_failures: float
    key_hangs: float
    ailing: tuple[str, ...]
    is_brittle: bool
    raised: bool
    """Whether versions change between lives."""
    left_out: bool
    """Whether projections are left out of some lives."""
    write_failures: float
    sync_failures: float
    failing: str
    crashes: float
    disk_seconds: float


class Told(msgspec.Struct):
    """What a seed left behind."""

    problems: list[str]
    crashes: int
    digest: str
    counts: Counter[str]
    made_of: str


def _draw(random: Random) -> Troubles:
    def some(chance: float, *choices: float) -> float:
        return random.choice(choices) if random.random() < chance else 0.0

    return Troubles(
        persons=random.choice((1, 2, 4)),
        lives=random.choice((0, 1, 1, 2, 3)),
        erasures=random.choice((2.0, 10.0, 60.0)),
        steward=some(0.6, 5.0, 40.0),
        outside_failures=some(0.4, 0.05, 0.3),
        outside_hangs=some(0.3, 0.02, 0.1),
        key_failures=some(0.3, 0.05, 0.3),
        key_hangs=some(0.2, 0.05),
        ailing=tuple(name for name in ("guests", "stays", "letters") if random.random() < 0.3),
        is_brittle=random.random() < 0.4,
        raised=random.random() < 0.4,
        left_out=random.random() < 0.3,
        write_failures=some(0.3, 0.002, 0.02),
        sync_failures=some(0.3, 0.01, 0.1),
        failing=random.choice(("", ".views.", ".keys.", "log.db")),
        crashes=random.choice((0.3, 0.8, 1.0)),
        disk_seconds=random.choice((0.001, 0.001, 0.001, 0.05)),
    )


class _Life:
    """One life: an engine, its clients, those who erase, and the steward."""

    def __init__(
        self, book: Book, troubles: Troubles, random: Random, loop: SimulatedLoop, *, quiet: bool
    ) -> None:
        self._book = book
        self._troubles = troubles
        self._random = random
        self._loop = loop
        self.quiet = quiet
        self._engine: Any = None
        self._doing = "it starts"

    def where(self) -> str:
        return self._doing

    # -- its engine ---------------------------------------------------------------------------

    def _make(self) -> Engine:
        random, troubles, disk = self._random, self._troubles, self._book.disk
        calm = self.quiet
        self._keys = ToldKeys(str(disk.folder / "log.keys.db"), self._book, random)
        self._book.outside.failures = 0.0 if calm else troubles.outside_failures
        self._book.outside.hangs = 0.0 if calm else troubles.outside_hangs
        Ailing.names = set() if calm else {*troubles.ailing}
        Letters.is_ailing = not calm and "letters" in troubles.ailing
        Guest.is_brittle = Desk.is_brittle = not calm and troubles.is_brittle
        self._ports = simulated_ports(disk, self._loop, random, seconds=troubles.disk_seconds)
        projections, answers = self._declared()
        return Engine(
            AGGREGATES,
            projections=projections,
            answers=answers,
            store=f"sqlite:{disk.folder / 'log.db'}",
            keys=self._keys,
            resources={Outside: self._book.outside},
            rebuild="auto",
            limits=Limits(
                resident_aggregates=random.choice((1, 3, 100)),
                batch_events=random.choice((1, 4, 4_096)),
                page_events=random.choice((2, 1_000)),
                projector_events=random.choice((1, 7, 1_000)),
                sink_events=random.choice((1, 100)),
                reactor_events=random.choice((1, 100)),
                handler_seconds=5,
                control_poll_ms=0,
            ),
            logger=_SILENT,
            ports=self._ports,
        )

    def _declared(self) -> tuple[list[type[Projection]], list[Callable[..., Any]]]:
        random, troubles = self._random, self._troubles
        versions = [random.choice((1, 2, 3)) if troubles.raised else 1 for _ in range(3)]
        guests, find_guests = guests_class(versions[0], 2 if troubles.persons == 4 else 1)
        stays, find_stays = stays_class(versions[1])
        declared: list[type[Projection]] = [guests, stays]
        others = (lobby_class(versions[2]), Post, Letters, Host)
        all_of_them = self.quiet or not troubles.left_out
        # The post is always there: an erasure asks no sink that its program does not declare.
        declared += [e for e in others if all_of_them or random.random() < 0.6 or e is Post]
        self._names = [each.__definition__.name for each in declared]
        return declared, [*find_guests, *find_stays]

    # -- its life -----------------------------------------------------------------------------

    async def main(self) -> None:
        """Live."""
        engine = self._engine = self._make()
        async with engine:
            self._doing = "it works"
            self._keys.failures = 0.0 if self.quiet else self._troubles.key_failures
            self._keys.hangs = 0.0 if self.quiet else self._troubles.key_hangs
            with contextlib.suppress(EngineError):
                await self._audit()
            if self.quiet:
                await self._end_in_peace(engine)
            else:
                await self._work(engine)
            self._doing = "it ends"

    async def _work(self, engine: Engine) -> None:
        troubles = self._troubles
        own = [asyncio.ensure_future(self._send(said)) for said in self._book.said if said.is_open]
        others = [asyncio.ensure_future(self._erase_some())]
        if troubles.steward:
            others.append(asyncio.ensure_future(self._look_after(engine)))
        if own:
            await asyncio.wait(own, timeout=self._random.choice((0.3, 3.0, 200.0)))
        if self._random.random() < 0.5:
            await asyncio.sleep(self._random.choice((0.1, 10.0)))
        for task in (*own, *others):
            task.cancel()
        await asyncio.wait((*own, *others))
        for task in (*own, *others):
            if not task.cancelled():
                task.result()

    async def _send(self, said: Said) -> None:
        random = self._random
        await asyncio.sleep(random.expovariate(1 / (0.01 if self.quiet else 0.3)))
        said.begun = said.begun or self._book.tick()
        try:
            while said.is_open:
                try:
                    said.answer = await self._engine.execute(said.command, key=said.key)
                except Closed:
                    return
                except EngineError as error:
                    said.answer = error
                    await asyncio.sleep(random.expovariate(1 / 0.5))
        finally:
            if isinstance(said.answer, Receipt):
                said.ended = self._book.tick()

    # -- erasures -----------------------------------------------------------------------------

    async def _erase_some(self) -> None:
        random, tasks = self._random, list[asyncio.Future[None]]()
        try:
            while True:
                await asyncio.sleep(random.expovariate(self._troubles.erasures / 10))
                person = f"guest:g-{random.randrange(self._troubles.persons)}"
                for _ in range(random.choice((1, 1, 1, 2, 3))):
                    other = random.random() < 0.2
                    call = self._erase_elsewhere(person) if other else self.erase(person)
                    task: asyncio.Future[None] = asyncio.ensure_future(call)
                    tasks.append(task)
                    if random.random() < 0.1:
                        self._loop.after_steps(int(random.expovariate(1 / 50)), task.cancel)
        finally:
            for each in tasks:
                each.cancel()
            for each in tasks:
                if each.done() and not each.cancelled():
                    each.result()

    async def erase(self, person: str, timeout: float | None = -1.0) -> None:
        """Ask for an erasure, as a client does, and look where the person is when it is told."""
        random, book = self._random, self._book
        asked = Asked(person, book.tick())
        book.asked.append(asked)
        seconds = random.choice((None, None, 0.0, 1.0)) if timeout == -1.0 else timeout
        try:
            told = await self._engine.personal.erase(
                person, reason=f"asked at {asked.begun}", timeout=seconds
            )
        except UsageError:
            raise
        except EngineError:
            return
        asked.number = told.number
        if told.finished is not None:
            book.is_over(asked)
            await self._look_around(str(asked))

    async def _erase_elsewhere(self, person: str) -> None:
        """Destroy a key as another process does."""
        book = self._book
        asked = Asked(person, book.tick())
        book.asked.append(asked)
        vault = Vault(SqliteKeys(str(book.disk.folder / "log.keys.db")))
        try:
            await vault.open(self._ports, self._engine._store.log_id)
            known = book.keys_of(person)
            told = await vault.erase(person, "elsewhere", None)
            asked.number = told.number
            book.are_destroyed(known)
        except EngineError:
            return
        finally:
            with contextlib.suppress(EngineError):
                await vault.close()

    async def _look_around(self, moment: str) -> None:
        """Read as clients do: nobody who is gone is shown."""
        engine, book = self._engine, self._book
        gone = dict(book.gone)
        for actor in engine._wiring.directory.actors:
            book.see(f"memory behind {moment}", repr(actor.state))
        with contextlib.suppress(EngineError):
            book.see(f"guests behind {moment}", repr(await engine.query(FindGuests())))
            book.see(f"stays behind {moment}", repr(await engine.query(FindStays())))
            for token in gone:
                if await engine.query(FindGuests(token)):
                    book.problem(f"{token} is found by a search behind {moment}")
            for n in range(self._troubles.persons):
                state = await engine.state(Guest, f"g-{n}")
                book.see(f"guest g-{n} behind {moment}", state.text)

    async def _audit(self) -> None:
        kept = await self._engine.personal.erasures()
        found = {e.number: (e.subject, e.finished is not None) for e in kept}
        self._book.check_audit(found)
        for asked in self._book.asked:
            if asked.number in found and found[asked.number][1] and not asked.over:
                self._book.is_over(asked)

    # -- the steward --------------------------------------------------------------------------

    async def _look_after(self, engine: Engine) -> None:
        random = self._random
        while True:
            await asyncio.sleep(random.expovariate(self._troubles.steward / 10))
            deed, name = random.choice(_DEEDS), random.choice(self._names)
            if random.random() < 0.1:
                Ailing.names ^= {name}
            with contextlib.suppress(EngineError, TimeoutError):
                async with asyncio.timeout(random.choice((None, 0.01, 1.0))):
                    await getattr(engine.projections, deed)(name)

    # -- the end ------------------------------------------------------------------------------

    async def _end_in_peace(self, engine: Engine) -> None:
        """Let all be finished that was begun, erase once more, and judge."""
        book = self._book
        for name in _NAMES:
            self._doing = f"{name} is resumed"
            await engine.projections.resume(name)
        self._doing = "what is open is sent"
        await asyncio.gather(*(self._send(said) for said in book.said if said.is_open))
        await self._until_over(engine)
        await self._audit()
        for asked in book.asked:
            asked.over = asked.over or book.tick()
        for n in range(self._troubles.persons):
            self._doing = f"g-{n} comes again"
            said = _register(self._random, n, f"last{n}", 0.0)
            book.said.append(said)
            await self._send(said)
        self._doing = "one is erased"
        await self.erase("guest:g-0", None)
        await self._until_over(engine)
        await self._audit()
        await self._look_around("the end")
        for problem in await judge_end(engine, book):
            book.problem(problem)

    async def _until_over(self, engine: Engine) -> None:
        seconds = 0
        while (why := await self._why_not_over(engine)) and seconds < _CALM_SECONDS:
            self._doing = f"it waits: {why}"
            for name in _NAMES:
                await engine.projections.resume(name)
                await engine.projections.retry(name)
            await asyncio.sleep(20)
            seconds += 20
        if why:
            self._book.problem(f"nothing fails any more, and {why}")

    async def _why_not_over(self, engine: Any) -> str:
        numbers = engine.statistics()
        for name, one in numbers.projectors.items():
            if one.position != numbers.position or one.parked or one.building is not None:
                return f"{name} is {one.state} at {one.position} of {numbers.position}: {one}"
        if numbers.timers.waiting or numbers.commands.open:
            return f"there are {numbers.timers} and {numbers.commands.open} commands"
        left = [e for e in await engine.personal.erasures() if e.finished is None]
        return f"{left} are not finished: {engine._wiring.eraser.waits_for}" if left else ""


def run_seed(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    random = Random(seed)
    troubles = _draw(random)
    swarm = msgspec.structs.replace(draw_swarm(random), tally_versions=(), flipped=False)
    story = Story(seed, swarm)
    with simulated_disk(random, swarm) as disk:
        book = Book(disk, Outside(random))
        book.said += _said(random, troubles)
        for life in range(troubles.lives + 1):
            quiet = life == troubles.lives
            loop = SimulatedLoop(draw_schedule(random), STEPS_MAX)
            disk.write_failures = disk.sync_failures = 0.0
            if not quiet:
                disk.write_failures, disk.failing = troubles.write_failures, troubles.failing
                disk.sync_failures = troubles.sync_failures
                if random.random() < troubles.crashes:
                    disk.crash_at = random.randrange(1, random.choice((100, 600, 3_000)))
                disk.only_killed = random.random() < 0.5
            made: Any = _Life(book, troubles, random, loop, quiet=quiet)
            live(story, disk, loop, made)
            if story.problems or book.problems:
                break
            book.look(f"the end of life {life + 1}")
            if not quiet:
                disk.only_killed = disk.only_killed if loop.dead else random.random() < 0.5
                disk.restart()
                book.look(f"the beginning of life {life + 2}")
    counts = Counter(
        {
            "erasures": len(book.asked),
            "finished": sum(bool(asked.over) for asked in book.asked),
            "gone": len(book.gone),
            "looks": book.looks,
            "disk failures": len(disk.failed),
            "crashes": story.crashes,
        }
    )
    problems = [*story.problems, *book.problems]
    return Told(problems, story.crashes, story.digest, counts, f"{troubles}" if problems else "")


def _said(random: Random, troubles: Troubles) -> Iterator[Said]:
    for number in range(random.choice((10, _COMMANDS))):
        n, drawn, key = random.randrange(troubles.persons), random.random(), f"k{number}"
        if drawn < 0.4 or number < troubles.persons:
            seconds = random.choice((0.0, 0.5, 30.0))
            yield _register(random, n if number >= troubles.persons else number, key, seconds)
        elif drawn < 0.6:
            token = _token(random)
            command = Lodge(f"r-{number % 2}", f"guest:g-{n}", f"{token} of guest:g-{n}")
            yield Said(command, key, f"guest:g-{n}", token)
        elif drawn < 0.8:
            yield Said(Greet(f"g-{n}", number, random.choice((0.0, 0.1, 3.0))), key, "")
        else:
            yield Said(Note(f"g-{n}", number), key, "")


def _register(random: Random, n: int, key: str, seconds: float) -> Said:
    token = _token(random)
    command = Register(f"g-{n}", f"{token} of guest:g-{n}", seconds)
    return Said(command, key, f"guest:g-{n}", token)


def _token(random: Random) -> str:
    return f"{random.getrandbits(64):016x}"

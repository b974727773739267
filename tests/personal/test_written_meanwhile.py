"""What is written about a person who is being erased: it may have been read out of a state."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest

from engine import (
    ERASED,
    Aggregate,
    Command,
    Engine,
    Erasure,
    Event,
    Id,
    Meta,
    Personal,
    Ports,
    Reactor,
    StoreFailed,
    applies,
    handles,
    reacts,
)
from engine.personal import erasing

NAME = "Annabella Canary"
HOUR = 3_600_000_000


class Greet(Command):
    guest: Id


class Register(Command):
    guest: Id
    name: str


class Registered(Event, name="registered"):
    name: Personal[str]


class Greeted(Event, name="greeted"):
    text: Personal[str]


class Gate:
    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        self.erasing: asyncio.Future[Erasure] | None = None


class Guest(Aggregate, kind="guest"):
    name: str = ""
    greeting: str = ""

    @handles
    def register(self, command: Register) -> Registered:
        return Registered(command.name)

    @handles
    async def greet(self, command: Greet, gate: Gate) -> Greeted:
        text = f"welcome, {self.name}"
        gate.reached.set()
        await gate.open.wait()
        return Greeted(text)

    @applies
    def registered(self, event: Registered) -> None:
        self.name = event.name

    @applies
    def greeted(self, event: Greeted) -> None:
        self.greeting = event.text


def hotel(folder: Path, gate: Gate) -> Engine:
    return Engine([Guest], store=f"sqlite:{folder}/hotel.db", resources={Gate: gate})


async def test_what_a_handler_had_read_before_an_erasure_is_erased_with_it(tmp_path: Path) -> None:
    gate = Gate()
    async with hotel(tmp_path, gate) as engine:
        await engine.execute(Register("g-1", NAME))
        greeting = asyncio.create_task(engine.execute(Greet("g-1")))
        await gate.reached.wait()
        erasing = asyncio.create_task(engine.personal.erase("guest:g-1", reason="asked"))
        while not await engine.personal.erasures():
            await asyncio.sleep(0)
        gate.open.set()
        await greeting
        assert (await erasing).finished is not None
        state = await engine.state(Guest, "g-1")
        assert (state.name, state.greeting) == (ERASED, ERASED)
        first, second = await engine.personal.erasures()
        assert second.reason == f"written while erasure {first.number} was under way"
        assert second.finished is not None
        await engine.execute(Register("g-1", "Ann Again"))
        assert (await engine.state(Guest, "g-1")).name == "Ann Again"


class WrongClock:
    """Tells another time than it is."""

    def __init__(self) -> None:
        self.ahead = 0

    def now(self) -> int:
        return Ports().clock.now() + self.ahead

    def monotonic(self) -> float:
        return Ports().clock.monotonic()


async def test_what_is_written_behind_an_erasure_is_erased_whatever_the_clock_says(
    tmp_path: Path,
) -> None:
    gate, clock = Gate(), WrongClock()
    async with Engine(
        [Guest],
        store=f"sqlite:{tmp_path}/hotel.db",
        resources={Gate: gate},
        ports=Ports(clock=clock),
    ) as engine:
        await engine.execute(Register("g-1", NAME))
        greeting = asyncio.create_task(engine.execute(Greet("g-1")))
        await gate.reached.wait()
        clock.ahead = -HOUR
        erasing = asyncio.create_task(engine.personal.erase("guest:g-1"))
        while not await engine.personal.erasures():
            await asyncio.sleep(0)
        clock.ahead = HOUR
        gate.open.set()
        await greeting
        assert (await erasing).finished is not None
        assert (await engine.state(Guest, "g-1")).greeting == ERASED


async def test_keys_that_fail_meanwhile_leave_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "_AGAIN_SECONDS", 0.01)
    gate = Gate()
    async with hotel(tmp_path, gate) as engine:
        vault = engine._wiring.vault
        assert vault is not None
        erase, failures = vault.store.erase, ["once"]

        async def fail_once(erasure: Erasure) -> Erasure:
            if erasure.reason.startswith("written while") and failures:
                failures.clear()
                raise StoreFailed("the keys are away", written=False)
            return await erase(erasure)

        monkeypatch.setattr(vault.store, "erase", fail_once)
        await engine.execute(Register("g-1", NAME))
        greeting = asyncio.create_task(engine.execute(Greet("g-1")))
        await gate.reached.wait()
        erasing_her = asyncio.create_task(engine.personal.erase("guest:g-1"))
        while not await engine.personal.erasures():
            await asyncio.sleep(0)
        gate.open.set()
        await greeting
        await erasing_her
        assert not failures, "otherwise this test shows nothing"
        assert (await engine.state(Guest, "g-1")).greeting == ERASED


async def test_who_came_back_before_an_old_erasure_was_finished_stays(tmp_path: Path) -> None:
    """One may wait for long, for what another program declares, and is gone on with at a start."""
    gate = Gate()
    async with hotel(tmp_path, gate) as engine:
        await engine.execute(Register("g-1", NAME))
        await engine.personal.erase("guest:g-1")
        await engine.execute(Register("g-1", "Ann Again"))
    keys = apsw.Connection(f"{tmp_path}/hotel.keys.db")
    keys.execute("UPDATE erasures SET finished = NULL, asked = asked - 60000000 WHERE number = 1")
    keys.close()
    async with hotel(tmp_path, gate) as engine:
        while any(each.finished is None for each in await engine.personal.erasures()):
            await asyncio.sleep(0)
        assert (await engine.state(Guest, "g-1")).name == "Ann Again"


class Welcome(Command):
    desk: Id
    guest: str
    name: str


class Welcomed(Event, name="welcomed", subject="guest"):
    guest: str
    text: Personal[str]


class Desk(Aggregate, kind="desk"):
    @handles
    async def welcome(self, command: Welcome, gate: Gate) -> Welcomed:
        gate.reached.set()
        await gate.open.wait()
        if command.desk != "d-1" and gate.erasing is not None:
            # Longer than an erasure takes that waits for nobody.
            await asyncio.wait([gate.erasing], timeout=1)
        return Welcomed(command.guest, f"welcome, {command.name}")

    @applies
    def welcomed(self, event: Welcomed) -> None:
        pass


class Host(Reactor, name="host", begins="start"):
    @reacts
    def registered(self, event: Registered, meta: Meta) -> Welcome:
        return Welcome(f"d-{meta.version}", meta.stream, event.name)


async def test_a_reactor_that_is_behind_writes_nothing_of_what_it_read_before(
    tmp_path: Path,
) -> None:
    """Its events are of one lane: the first command is under way, and the others were read."""
    gate, written = Gate(), 4
    async with hotel(tmp_path, gate) as engine:
        for number in range(written):
            await engine.execute(Register("g-1", f"{NAME} {number}"))
    async with Engine(
        [Guest, Desk],
        projections=[Host],
        store=f"sqlite:{tmp_path}/hotel.db",
        resources={Gate: gate},
    ) as engine:
        await gate.reached.wait()
        gate.erasing = asyncio.create_task(engine.personal.erase("guest:g-1", reason="asked"))
        while not await engine.personal.erasures():
            await asyncio.sleep(0)
        gate.open.set()
        assert (await gate.erasing).finished is not None
        found: list[str] = []
        async for entry in engine.feed():
            if isinstance(entry.event, Welcomed):
                found.append(entry.event.text)
            if len(found) == written:
                break
        assert [text for text in found if NAME in text] == []

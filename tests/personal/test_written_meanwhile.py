"""What is written about a person who is being erased: it may have been read out of a state."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw

from engine import ERASED, Aggregate, Command, Engine, Event, Id, Personal, applies, handles

NAME = "Annabella Canary"


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

"""A shop whose commands are recorded: with ids, times, rejections, claims and a joint decision."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from pathlib import Path
from typing import Any

from engine import (
    After,
    Aggregate,
    Boundary,
    Claim,
    Command,
    Context,
    Decision,
    Engine,
    Event,
    Id,
    Rejected,
    To,
    applies,
    decides,
    handles,
)

PRICES = {"now": 100}
"""What a handler may not look at, and does: it changes between two runs."""


class Opened(Event, name="opened", version=1):
    by: str
    at: datetime
    number: str


class Paid(Event, name="paid", version=1):
    cents: int


class Open(Command[str]):
    purse: Id
    by: str


class Pay(Command):
    purse: Id
    cents: int


class Buy(Command):
    """Its handler reads a price that is no part of state or command."""

    purse: Id


class Close(Command):
    purse: Id


class Move(Command):
    source: Id
    target: Id
    cents: int


class Rate:
    """A service outside."""

    def __init__(self, percent: int) -> None:
        self.percent = percent


class Dawdle(Command):
    """Its handler will not be cancelled, and goes on when it is told to."""

    purse: Id
    cents: int


STUBBORN = asyncio.Event()


class Convert(Command):
    purse: Id


class Purse(Aggregate, kind="purse"):
    cents: int = 0
    by: str = ""

    @handles
    def open(self, command: Open, ctx: Context) -> Decision[Opened, str]:
        if self.by:
            raise Rejected("open-already", "it is open")
        number = ctx.new_id()
        return Decision(
            Opened(command.by, ctx.time, number),
            reply=number,
            claims=[Claim("owner", command.by)],
            timers=[After(Close(self.id), minutes=5)],
        )

    @handles
    async def pay(self, command: Pay) -> list[Paid]:
        return [Paid(command.cents), Paid(0)]

    @handles
    async def dawdle(self, command: Dawdle) -> Paid:
        while not STUBBORN.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await STUBBORN.wait()
        return Paid(command.cents)

    @handles
    def buy(self, command: Buy) -> Paid:
        return Paid(-PRICES["now"])

    @handles
    def close(self, command: Close) -> None:
        return None

    @handles
    def convert(self, command: Convert, rate: Rate) -> Paid:
        return Paid(self.cents * rate.percent // 100)

    @applies
    def on_opened(self, event: Opened) -> None:
        self.by = event.by

    @applies
    def on_paid(self, event: Paid) -> None:
        self.cents += event.cents


class Enrolled(Event, name="enrolled", version=1, tags=["course"]):
    course: str


class Enrol(Command):
    course: Id


class Seats(Boundary, tags=["course"]):
    taken: int = 0

    @applies
    def on_enrolled(self, event: Enrolled) -> None:
        self.taken += 1


@decides
def move(command: Move, source: Purse, target: Purse) -> list[To[Paid]]:
    if source.cents < command.cents:
        raise Rejected("too-little", "not enough")
    return [To(source, Paid(-command.cents)), To(target, Paid(command.cents))]


@decides
def enrol(command: Enrol, course: Seats) -> Enrolled:
    if course.taken >= 2:
        raise Rejected("full", "no seat is left")
    return Enrolled(command.course)


def shop(store: Any = "memory:", **options: Any) -> Engine:
    resources = options.pop("resources", {Rate: Rate(50)})
    return Engine(
        [Purse, Seats], decisions=[move, enrol], store=store, resources=resources, **options
    )


async def sell(folder: Path) -> Path:
    """Record a day of the shop; give the log's file."""
    log = folder / "shop.db"
    async with shop(log, record=folder / "recorded") as engine:
        await engine.execute(Open("a", "Ann"), key="open-a", principal="ann")
        await engine.execute(Open("b", "Bob"), headers={"from": "web"})
        for error in (Open("a", "Ann"),):
            try:
                await engine.execute(error)
            except Rejected:
                continue
        await engine.execute(Open("a", "Ann"), key="open-a", principal="ann")  # not decided again
        await engine.execute(Pay("a", 500))
        await engine.execute(Buy("a"))
        await engine.execute(Move("a", "b", 150))
        await engine.execute(Convert("a"))
        await engine.execute(Close("a"))
        for _ in range(3):
            try:
                await engine.execute(Enrol("art"))
            except Rejected:
                continue
    return log

"""Stays of guests with personal data, and rules by which they are erased and archived."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Personal,
    Ports,
    Retention,
    applies,
    handles,
)
from engine.testing.scenario import ManualClock

__all__ = [
    "ARCHIVES",
    "DAY",
    "NOTHING",
    "RULES",
    "Arrive",
    "Arrived",
    "Case",
    "Complain",
    "Complained",
    "Leave",
    "Left",
    "Stay",
    "opened",
    "stays",
]

DAY = timedelta(days=1)


class Arrive(Command):
    stay_id: Id
    guest: str
    name: str


class Leave(Command):
    stay_id: Id


class Complain(Command):
    case_id: Id
    guest: str
    text: str


class Arrived(Event, name="arrived", subject="guest"):
    guest: str
    name: Personal[str]


class Left(Event, name="left"):
    pass


class Complained(Event, name="complained", subject="guest"):
    guest: str
    text: Personal[str]


class Stay(Aggregate, kind="stay"):
    name: str = ""

    @handles
    def arrive(self, command: Arrive) -> Arrived:
        return Arrived(command.guest, command.name)

    @handles
    def leave(self, command: Leave) -> Left:
        return Left()

    @applies
    def arrived(self, event: Arrived) -> None:
        self.name = event.name

    @applies
    def left(self, event: Left) -> None:
        pass


class Case(Aggregate, kind="case"):
    text: str = ""

    @handles
    def complain(self, command: Complain) -> Complained:
        return Complained(command.guest, command.text)

    @applies
    def complained(self, event: Complained) -> None:
        self.text = event.text


RULES = [Retention(Stay, [Left], archive_after=30 * DAY, erase_after=365 * DAY)]
ARCHIVES = [Retention(Stay, [Left], archive_after=30 * DAY)]
NOTHING: list[Retention] = []


def opened(path: Path, days_ago: int = 0) -> Engine:
    clock = ManualClock(Ports().clock.now() - days_ago * (DAY // timedelta(microseconds=1)))
    return Engine([Stay, Case], store=f"sqlite:{path}", ports=Ports(clock=clock))


async def stays(path: Path) -> None:
    """Let Ann leave long ago; Bob too, but he came back; Cem too, but he has an open case."""
    async with opened(path, 500) as engine:
        for stay, guest in (("1", "ann"), ("2", "bob"), ("3", "cem"), ("4", "ann")):
            await engine.execute(Arrive(stay, guest, f"{guest} Canary"))
            await engine.execute(Leave(stay))
        await engine.execute(Complain("c-1", "cem", "cold soup"))
    async with opened(path, 100) as engine:
        await engine.execute(Arrive("5", "bob", "bob Canary"))
        await engine.execute(Leave("5"))
    async with opened(path) as engine:
        await engine.execute(Arrive("6", "dan", "dan Canary"))

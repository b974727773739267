"""A process that owns a part of a log, and writes down what each of its own commands was told.

It runs until it is told to stop. Times are of the system's monotonic clock, which all processes
of a machine share. A line is written before a command is sent, and one when it is answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from engine import (
    Aggregate,
    Boundary,
    Command,
    Decision,
    Engine,
    EngineError,
    Event,
    Id,
    Meta,
    Reactor,
    Receipt,
    To,
    WrongVersion,
    applies,
    decides,
    handles,
    reacts,
    run,
)
from tests.support.counters import Add, Added, Remembering

COUNTERS: Final = 24
BOOKS: Final = 6
_NEVER: Final = 1_000_000
_WAYS: Final = 4


class Close(Command):
    till: Id


class AddVia(Command):
    """Adds to a counter, by a decision of the owner of another one."""

    via: Id
    counter: Id


@decides
def add_via(_command: AddVia, via: Remembering, counter: Remembering) -> list[To[Added]]:
    assert via.id != counter.id
    return [To(counter, Added(1))]


class Numbered(Event, name="numbered", tags=("book",)):
    book: str
    number: int


class Number(Command[int]):
    """Takes the next number of a book, or only asks for the last one."""

    till: Id
    book: Id
    asks: bool


class Till(Aggregate, kind="till"):
    """Where numbered events are stored, of whatever book."""

    @handles
    def ring(self, _command: Close) -> None:
        pass

    @applies
    def numbered(self, event: Numbered) -> None:
        pass


class Book(Boundary, tags=("book",)):
    last: int = 0

    @applies
    def numbered(self, event: Numbered) -> None:
        assert event.number == self.last + 1, "each number is taken once, in order"
        self.last = event.number


@decides
def number(command: Number, till: Till, book: Book) -> Decision[To[Numbered], int]:
    if command.asks:
        return Decision(reply=book.last)
    return Decision([To(till, Numbered(command.book, book.last + 1))], reply=book.last + 1)


class Ring(Command):
    bell_id: Id


class Rung(Event, name="rung"):
    pass


class Bell(Aggregate, kind="bell"):
    """Lets a timer add once more, to a counter of its own."""

    @handles
    def ring(self, _command: Ring) -> Decision[Rung]:
        return Decision(Rung(), commands=[Add(f"m-{self.id}", 1)])

    @applies
    def rung(self, event: Rung) -> None:
        pass


class Mirror(Reactor, name="mirror", begins="start"):
    """Rings a bell for whatever was added to a counter of a client."""

    @reacts
    def added(self, _event: Added, meta: Meta) -> Ring | None:
        name = meta.stream.removeprefix("counter:")
        return Ring(name) if name.startswith("c") else None


def engine_of(url: str) -> Engine:
    """Give an engine that owns a part of the log."""
    kinds: list[type[Aggregate]] = [Remembering, Bell, Till, Book]
    decisions: list[Callable[..., Any]] = [add_via, number]
    return Engine(kinds, projections=[Mirror], decisions=decisions, store=url, join="spread")


async def main(url: str, path: str, seed: str, clients: str) -> None:
    """Take part until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with Path(path).open("w", buffering=1) as book:
        async with engine_of(url) as engine:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            asking = [
                asyncio.create_task(client(engine, book, f"{seed}-{n}", stop))
                for n in range(int(clients))
            ]
            await stop.wait()
            await asyncio.gather(*asking)


async def client(engine: Engine, book: Any, name: str, stop: asyncio.Event) -> None:
    """Send one command after the other."""
    choose, number = random.Random(name), 0
    while not stop.is_set():
        number += 1
        counter, chance = f"c{choose.randrange(COUNTERS)}", choose.random()
        key = f"{name}-{number}" if chance < 0.6 else None
        expected = _NEVER if chance > 0.75 else None
        if choose.randrange(6) == 0:
            counter = f"book-{choose.randrange(BOOKS)}"
        write(book, name, number, counter, key, "sent", 0)
        try:
            version = await added(engine, counter, key, expected, choose.randrange(8))
            write(book, name, number, counter, key, "done", version)
        except WrongVersion as error:
            write(book, name, number, counter, key, "seen", error.actual)
        except EngineError as error:
            write(book, name, number, counter, key, type(error).__name__, 0)
        await asyncio.sleep(choose.random() * 0.02)


async def added(
    engine: Engine, counter: str, key: str | None, expected: int | None, way: int
) -> int:
    """Add, one time in two by a decision over another counter too; give the version behind it."""
    stream, via = f"counter:{counter}", f"via-{way}"
    if counter.startswith("book-"):
        asks = expected is not None
        told = (await engine.execute(Number(f"till-{way}", counter, asks), key=key)).reply
        if asks:
            raise WrongVersion(stream, _NEVER, told)
        return told
    if way >= _WAYS:
        return (await engine.execute(Add(counter, 1), key=key, expected=expected)).version
    versions = None if expected is None else {stream: expected}
    receipt: Receipt = await engine.execute(AddVia(via, counter), key=key, expected=versions)
    return receipt.versions[stream]


def write(book: Any, *values: Any) -> None:
    book.write(json.dumps([time.monotonic(), *values]) + "\n")


if __name__ == "__main__":
    run(main, *sys.argv[1:])

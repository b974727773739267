"""An aggregate whose code does in one place what a test tells it to, and nothing anywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from engine import (
    Aggregate,
    Command,
    Engine,
    EngineError,
    Event,
    Id,
    NotRun,
    Rejected,
    applies,
    handles,
)


class Silent(Exception):
    """Has no text that could be had."""

    def __str__(self) -> str:
        raise LookupError("a field that nobody set")


class Abort(BaseException):
    """A library's own way out, as no Exception."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "rejected": lambda: Rejected("no", "the domain says no"),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "cancelled": lambda: asyncio.CancelledError("by the code itself"),
    "generator-exit": lambda: GeneratorExit(),
    "abort": lambda: Abort(),
    "silent": lambda: Silent(),
    "stop-iteration": lambda: StopIteration(1),
    "async-end": lambda: StopAsyncIteration(),
    "group": lambda: BaseExceptionGroup("several", [SystemExit(), ValueError("x")]),
}
"""What the host's code may raise."""

where: dict[tuple[str, str], Callable[[], Any]] = {}
"""What is done in a place, for an aggregate's id; empty at the beginning of each test."""


def at(place: str, id_: str) -> None:
    """Do what was told for this place and aggregate."""
    todo = where.get((place, id_))
    if todo is not None:
        todo()


def raising(name: str) -> Callable[[], None]:
    """Give what raises one of RAISED."""

    def do() -> None:
        raise RAISED[name]()

    return do


class Put(Command):
    jar_id: Id
    coins: int = 1
    times: int = 1


class PutLater(Command):
    jar_id: Id


class PutIn(Event, name="put-in"):
    jar: str
    coins: int

    def __post_init__(self) -> None:
        at("event", self.jar)


class Jar(Aggregate, kind="jar"):
    coins: int = 0

    def __post_init__(self) -> None:
        at("state", self.id)

    @handles
    def put(self, command: Put) -> list[PutIn]:
        at("handler", self.id)
        return [PutIn(self.id, command.coins)] * command.times

    @handles
    async def put_later(self, command: PutLater) -> PutIn:
        await asyncio.sleep(0)
        at("async handler", self.id)
        return PutIn(self.id, 1)

    @applies
    def put_in(self, event: PutIn) -> None:
        self.coins += event.coins
        at("applier", self.id)


class Ask(Command):
    inn_id: Id


class Note(Command):
    inn_id: Id


class Noted(Event, name="noted"):
    pass


class Inn(Aggregate, kind="inn"):
    """Its async handler does not let itself be cancelled, until it is let go."""

    @handles
    async def ask(self, command: Ask, let_go: asyncio.Event) -> Noted:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return Noted()

    @handles
    def note(self, command: Note) -> Noted:
        return Noted()

    @applies
    def noted(self, event: Noted) -> None:
        """Change nothing."""


async def answer(engine: Engine, command: Command, **options: Any) -> Any:
    """Give a command's receipt or error; fail where there is none in time."""
    try:
        return await asyncio.wait_for(engine.execute(command, **options), 5)
    except EngineError as error:
        return error


async def assert_others_go_on(engine: Engine, version: int = 0) -> None:
    """Assert that the engine serves others, and the aggregate of the failure as well."""
    where.clear()
    assert engine.failed is None
    receipt = await answer(engine, Put("other"))
    assert not isinstance(receipt, Exception), receipt
    receipt = await answer(engine, Put("bad"))
    assert not isinstance(receipt, Exception), receipt
    assert receipt.version == version + 1
    state = await engine.state(Jar, "bad")
    assert (state.version, state.coins) == (version + 1, version + 1)


def is_not_run(found: object) -> bool:
    """Tell whether a command was answered as not run."""
    return isinstance(found, NotRun)

"""Debug mode: handlers that change the state, and appliers that fold otherwise each time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from engine import (
    Aggregate,
    Boundary,
    Command,
    Engine,
    Event,
    HandlerFailed,
    Id,
    Rejected,
    To,
    applies,
    decides,
    handles,
)

numbers: Iterator[int] = itertools.count()


class Do(Command):
    desk_id: Id
    what: str


class DoLater(Command):
    desk_id: Id
    what: str


class Done(Event, name="done"):
    what: str


class Desk(Aggregate, kind="desk"):
    notes: list[str] = []
    drawers: dict[str, list[int]] = {}
    lock: Any = None

    def spoil(self, what: str) -> None:
        if what == "append":
            self.notes.append("x")
        elif what == "inside":
            self.drawers.setdefault("a", []).append(1)
        elif what == "refuse":
            self.notes.append("x")
            raise Rejected("no", "and yet it changed something")

    @handles
    def do(self, command: Do) -> Done:
        self.spoil(command.what)
        return Done(command.what)

    @handles
    async def do_later(self, command: DoLater) -> Done:
        self.spoil(command.what)
        return Done(command.what)

    @applies
    def done(self, event: Done) -> None:
        if event.what == "random":
            self.notes.append(f"note {next(numbers)}")
        elif event.what == "lock":
            self.lock = threading.Lock()
        else:
            self.notes.append(event.what)


class File(Command):
    desk: Id
    pile: Id
    what: str


class Filed(Event, name="filed", tags=("pile",)):
    pile: str
    what: str


class Pile(Boundary, tags=("pile",)):
    sheets: list[str] = []

    @applies
    def filed(self, event: Filed) -> None:
        more = f" {next(numbers)}" if event.what == "random" else ""
        self.sheets.append(f"{event.what}{more}")


class Tidy(Command):
    desk: Id


class Cabinet(Aggregate, kind="cabinet"):
    sheets: list[str] = []

    @handles
    def tidy(self, command: Tidy) -> None:
        return None

    @applies
    def filed(self, event: Filed) -> None:
        more = f" {next(numbers)}" if event.what == "random-too" else ""
        self.sheets.append(f"{event.what}{more}")


@decides
def file(command: File, desk: Cabinet, pile: Pile) -> list[To[Filed]]:
    return [To(desk, Filed(command.pile, command.what))]


@pytest.mark.parametrize(
    ("what", "who"),
    [("random", r"Pile\.filed"), ("random-too", r"Cabinet\.filed")],
    ids=["boundary", "aggregate"],
)
async def test_an_applier_of_a_decision_by_tags_is_found_too(what: str, who: str) -> None:
    async with Engine([Cabinet, Pile], decisions=[file], debug=True) as engine:
        assert (await engine.execute(File("d", "p", "fine"))).version == 1
        with pytest.raises(HandlerFailed, match=rf"{who}: .*folded twice.* at \.sheets\[1\]"):
            await engine.execute(File("d", "p", what))
        assert (await engine.execute(File("d", "p", "fine"))).version == 2
        assert (await engine.state(Pile, "p")).sheets == ["fine", "fine"]


@pytest.mark.parametrize("command", [Do, DoLater])
@pytest.mark.parametrize(
    ("what", "where"), [("append", ".notes"), ("inside", ".drawers"), ("refuse", ".notes")]
)
async def test_a_handler_that_changes_the_state_is_found(
    command: type[Do] | type[DoLater], what: str, where: str
) -> None:
    async with Engine([Desk], debug=True) as engine:
        assert (await engine.execute(command("d", "fine"))).version == 1
        with pytest.raises(HandlerFailed, match=rf"Desk\.do\w* changed the state, at \{where}"):
            await engine.execute(command("d", what))
        assert (await engine.execute(command("d", "fine"))).version == 2
        assert (await engine.state(Desk, "d")).notes == ["fine", "fine"]


async def test_an_applier_that_folds_otherwise_each_time_is_found() -> None:
    async with Engine([Desk], debug=True) as engine:
        with pytest.raises(HandlerFailed, match=r"Desk\.done: .*folded twice.* at \.notes\[0\]"):
            await engine.execute(Do("d", "random"))
        assert (await engine.execute(Do("d", "fine"))).version == 1


async def test_without_debug_mode_nothing_is_compared() -> None:
    async with Engine([Desk]) as engine:
        assert (await engine.execute(Do("d", "random"))).version == 1


async def test_a_state_that_cannot_be_copied_is_compared_as_text() -> None:
    async with Engine([Desk], debug=True) as engine:
        assert (await engine.execute(Do("d", "lock"))).version == 1
        assert (await engine.execute(Do("d", "fine"))).version == 2
        with pytest.raises(HandlerFailed, match=r"Desk\.do changed the state, at a field"):
            await engine.execute(Do("d", "append"))


async def test_a_no_that_changes_nothing_stays_a_no() -> None:
    class Ask(Command):
        desk_id: Id

    class Strict(Aggregate, kind="strict"):
        @handles
        def ask(self, command: Ask) -> Done:
            raise Rejected("no", "never")

        @applies
        def done(self, event: Done) -> None:
            pass

    async with Engine([Strict], debug=True) as engine:
        with pytest.raises(Rejected):
            await engine.execute(Ask("s"))

"""Handlers that change the state where nobody asked for debug mode."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import msgspec
import pytest

from engine import (
    Aggregate,
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
from engine.write import sampling


class Do(Command):
    desk_id: Id
    what: str


class DoLater(Command):
    desk_id: Id
    what: str


class Done(Event, name="done"):
    count: int


class Desk(Aggregate, kind="desk"):
    notes: list[str] = []
    drawers: dict[str, list[int]] = {}
    lock: Any = None

    def decide(self, what: str) -> Done:
        if what == "inside":
            self.drawers.setdefault("a", []).append(1)
        elif what in ("append", "refuse"):
            self.notes.append("x")
        elif what == "lock":
            self.lock = threading.Lock()
        if what == "refuse":
            raise Rejected("no", "and yet it changed something")
        return Done(len(self.notes) + len(self.drawers))

    @handles
    def do(self, command: Do) -> Done:
        return self.decide(command.what)

    @handles
    async def do_later(self, command: DoLater) -> Done:
        return self.decide(command.what)

    @applies
    def done(self, event: Done) -> None:
        self.notes.append(f"told {event.count}")


class Move(Command):
    source: Id
    target: Id


@decides
def move(command: Move, source: Desk, target: Desk) -> list[To[Done]]:
    target.notes.append("x")
    return [To(source, Done(0)), To(target, Done(0))]


COMMANDS = pytest.mark.parametrize("command", [Do, DoLater])


async def told(engine: Engine, desk: str = "d") -> list[str]:
    return (await engine.state(Desk, desk)).notes


@COMMANDS
@pytest.mark.parametrize(
    ("what", "where"),
    [("append", r"\.notes"), ("inside", r"\.drawers"), ("refuse", r"\.notes"), ("lock", r"\.lock")],
)
async def test_the_first_decisions_are_looked_at_and_what_was_changed_is_forgotten(
    command: type[Do] | type[DoLater], what: str, where: str
) -> None:
    async with Engine([Desk]) as engine:
        await engine.execute(command("d", "fine"))
        with pytest.raises(HandlerFailed, match=rf"Desk\.do\w* changed the state, at {where}: "):
            await engine.execute(command("d", what))
        await engine.execute(command("d", "fine"))
        assert await told(engine) == ["told 0", "told 1"]


@COMMANDS
async def test_a_later_change_is_found_now_and_then_and_always_from_then_on(
    command: type[Do] | type[DoLater], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_FIRST", 2)
    monkeypatch.setattr(sampling, "_EVERY", 8)
    async with Engine([Desk]) as engine:
        outcomes = ""
        for number in range(1, 13):
            try:
                await engine.execute(command(f"d{number}", "fine" if number <= 2 else "append"))
                outcomes += "."
            except HandlerFailed:
                outcomes += "F"
        assert outcomes == "." * 7 + "F" * 5


async def test_a_decision_of_several_is_looked_at_with_each_of_their_states() -> None:
    async with Engine([Desk], decisions=[move]) as engine:
        with pytest.raises(HandlerFailed, match=r"move changed the state, at \.notes: "):
            await engine.execute(Move("a", "b"))
        await engine.execute(Do("b", "fine"))
        assert (await told(engine, "a"), await told(engine, "b")) == ([], ["told 0"])


async def test_what_waits_in_a_deque_is_looked_at() -> None:
    class Line(Aggregate, kind="line"):
        waiting: deque[int] = msgspec.field(default_factory=deque)

        @handles
        def do(self, command: Do) -> Done:
            return Done(self.waiting.popleft() if command.what == "take" else 0)

        @applies
        def done(self, event: Done) -> None:
            self.waiting.append(event.count)

    async with Engine([Line]) as engine:
        await engine.execute(Do("l", "first"))
        with pytest.raises(HandlerFailed, match=r"changed the state, at \.waiting: "):
            await engine.execute(Do("l", "take"))


async def test_a_state_that_is_an_array_as_json_is_looked_at() -> None:
    class Short(Aggregate, kind="short", array_like=True):
        count: int = 0

        @handles
        def do(self, command: Do) -> Done:
            self.count += 1
            return Done(0)

        @applies
        def done(self, event: Done) -> None: ...

    async with Engine([Short]) as engine:
        with pytest.raises(HandlerFailed, match=r"do changed the state, at a field: "):
            await engine.execute(Do("s", "count"))


async def test_a_state_that_cannot_be_written_down_is_not_looked_at() -> None:
    class Odd(Aggregate, kind="odd"):
        rounds: list[Any] = []

        @handles
        def do(self, command: Do) -> Done:
            if command.what == "append":
                self.rounds.append(1)
            return Done(len(self.rounds))

        @applies
        def done(self, event: Done) -> None:
            self.rounds.append(self.rounds)

    async with Engine([Odd]) as engine:
        assert (await engine.execute(Do("o", "fine"))).version == 1
        assert (await engine.execute(Do("o", "append"))).version == 2


async def test_what_is_no_json_is_neither_shown_nor_compared_by_its_own_code() -> None:
    class Proud:
        def __repr__(self) -> str:
            raise AssertionError("nobody asked")

        __eq__ = __hash__ = __repr__  # type: ignore[assignment]

    class Hall(Aggregate, kind="hall"):
        guest: Any = None

        @handles
        def do(self, command: Do) -> Done:
            if command.what == "swap":
                self.guest = Proud()
            return Done(0)

        @applies
        def done(self, event: Done) -> None:
            self.guest = Proud()

    async with Engine([Hall]) as engine:
        assert (await engine.execute(Do("h", "first"))).version == 1
        assert (await engine.execute(Do("h", "second"))).version == 2
        with pytest.raises(HandlerFailed, match=r"at \.guest: "):
            await engine.execute(Do("h", "swap"))

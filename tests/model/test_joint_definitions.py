"""What a joint decision declares is looked at as it is marked, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    Context,
    Decision,
    DefinitionError,
    Engine,
    Event,
    Id,
    To,
    applies,
    decides,
    handles,
)


class Moved(Event, name="moved"):
    n: int


class Unknown(Event, name="unknown"):
    pass


class Put(Command):
    box: Id


class Move(Command):
    source: Id
    target: Id


class Spread(Command):
    source: Id
    targets: list[Id]
    sponsor: Id | None = None


class Replied(Command[int]):
    source: Id
    target: Id


class Box(Aggregate, kind="box"):
    @handles
    def put(self, command: Put) -> Moved:
        return Moved(1)

    @applies
    def moved(self, event: Moved) -> None:
        pass


class Rates:
    pass


def _lacks_one() -> Any:
    @decides
    def f(command: Move, source: Box) -> list[To[Moved]]:
        return []


def _lacks_all() -> Any:
    @decides
    def f(command: Move) -> list[To[Moved]]:
        return []


def _no_such_field() -> Any:
    @decides
    def f(command: Move, source: Box, target: Box, other: Box) -> list[To[Moved]]:
        return []


def _one_for_many() -> Any:
    @decides
    def f(command: Spread, source: Box, targets: Box, sponsor: Box | None) -> list[To[Moved]]:
        return []


def _surely_for_perhaps() -> Any:
    @decides
    def f(command: Spread, source: Box, targets: list[Box], sponsor: Box) -> list[To[Moved]]:
        return []


def _behind_a_resource() -> Any:
    @decides
    def f(command: Move, source: Box, ctx: Context, target: Box) -> list[To[Moved]]:
        return []


def _takes_twice() -> Any:
    @decides
    def f(command: Move, source: Box, target: Box, a: Context, b: Context) -> list[To[Moved]]:
        return []


def _takes_anything() -> Any:
    @decides
    def f(command: Move, source: Box, target: Box, other: int) -> list[To[Moved]]:
        return []


def _no_command() -> Any:
    @decides
    def f(source: Box, target: Box) -> list[To[Moved]]:
        return []


def _any_command() -> Any:
    @decides
    def f(command: Command, source: Box) -> list[To[Moved]]:
        return []


def _returns_unsaid() -> Any:
    @decides
    def f(command: Move, source: Box, target: Box):  # type: ignore[no-untyped-def]
        return []


def _returns_events() -> Any:
    @decides
    def f(command: Move, source: Box, target: Box) -> list[Moved]:
        return []


def _returns_what_nobody_applies() -> Any:
    @decides
    def f(command: Move, source: Box, target: Box) -> list[To[Moved | Unknown]]:
        return []


def _replies_undeclared() -> Any:
    @decides
    def f(command: Move, source: Box, target: Box) -> Decision[To[Moved], int]:
        return Decision(reply=1)


def _declared_unreplied() -> Any:
    @decides
    def f(command: Replied, source: Box, target: Box) -> list[To[Moved]]:
        return []


def _yields() -> Any:
    @decides
    async def f(command: Move, source: Box, target: Box) -> list[To[Moved]]:  # type: ignore[misc]
        yield 1


def _a_class() -> Any:
    @decides
    class F:
        pass


def _a_keyword() -> Any:
    @decides
    def f(command: Move, source: Box, *, target: Box) -> list[To[Moved]]:
        return []


@pytest.mark.parametrize(
    ("declare", "why"),
    [
        (_lacks_one, "takes no aggregate for `target` of Move"),
        (_lacks_all, "takes no aggregate for `source` of Move"),
        (_no_such_field, r"Move has no field for it: write `other: Id` in Move"),
        (_one_for_many, r"write `targets: Id` in Spread"),
        (_surely_for_perhaps, r"write `sponsor: Id` in Spread"),
        (_behind_a_resource, "write aggregates right behind the command"),
        (_takes_twice, "takes the same thing twice"),
        (_takes_anything, "takes `other`"),
        (_no_command, "must take a command first"),
        (_any_command, "must take a command first"),
        (_returns_unsaid, "does not say what it returns"),
        (_returns_events, r"list\[To\[SomeEvent"),
        (_returns_what_nobody_applies, "returns Unknown, and nothing in Box applies it"),
        (_replies_undeclared, "its command declares none"),
        (_declared_unreplied, "declares a reply"),
        (_yields, "yields"),
        (_a_class, "above a plain function"),
        (_a_keyword, "positional parameters only"),
    ],
)
def test_what_does_not_fit_is_refused(declare: Callable[[], Any], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        declare()


@decides
def move(command: Move, source: Box, target: Box) -> list[To[Moved]] | None:
    return [To(source, Moved(1)), To(target, Moved(2))]


@decides
def move_too(command: Move, source: Box, target: Box) -> To[Moved]:
    return To(source, Moved(1))


@decides
def rated(command: Move, source: Box, target: Box, rates: Rates) -> Decision[To[Moved]]:
    return Decision(To(source, Moved(1)))


def not_marked(command: Move, source: Box, target: Box) -> list[To[Moved]]:
    return []


@pytest.mark.parametrize(
    ("aggregates", "decisions", "why"),
    [
        ([Box], [not_marked], "marked with @decides"),
        ([Box], move, "a list of functions"),
        ([Box], "move", "a list of functions"),
        ([Box], [move, move_too], "Move is decided by move_too and by move"),
        ([Box], [move, move], "keep one"),
        ([Box], [rated], "takes a Rates, which the engine does not have"),
        ([], [move], "takes a Box, which the engine does not have"),
    ],
)
def test_an_engine_refuses_what_it_cannot_run(aggregates: Any, decisions: Any, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        Engine(aggregates, decisions=decisions)


def test_a_marked_function_stays_a_function() -> None:
    source, target = Box(id="a"), Box(id="b")
    given = move(Move("a", "b"), source, target)

    assert given is not None
    assert repr(given[0]) == "To(box:a, Moved(n=1))"
    assert [(to.aggregate, to.events) for to in given] == [
        (source, (Moved(1),)),
        (target, (Moved(2),)),
    ]

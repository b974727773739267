"""Annotations are true: debug mode and the test kit compare with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from engine import (
    After,
    Aggregate,
    Claim,
    Command,
    Decision,
    Engine,
    Event,
    HandlerFailed,
    Id,
    Query,
    Rejected,
    UsageError,
    Views,
    answers,
    applies,
    handles,
)
from engine.errors import DefinitionError
from engine.model.aggregate import AggregateMeta
from engine.testing.memory_engine import memory_engine
from engine.testing.scenario import given


class Lent(Event, name="lent"):
    to: str


class Lost(Event, name="lost"):
    pass


class Do(Command):
    tool: Id
    what: str


class Say(Command):
    tool: Id
    what: str


GIVEN: dict[str, Any] = {
    "nothing": None,
    "lent": Lent("ann"),
    "lost": Lost(),
    "several": [Lent("ann"), Lost()],
    "decision": Decision(Lost()),
    "class": Lent,
    "rejection": Rejected("no", "not today"),
    "mixture": [Lent("ann"), Rejected("no", "not today")],
    "hole": [Lent("ann"), None],
    "word": "lent",
    "timer": [Lent("ann"), After(Say("t", "lent"), minutes=5)],
    "claim": [Lent("ann"), Claim("name", "drill")],
    "command": Say("t", "lent"),
}


class Tool(Aggregate, kind="tool"):
    @handles
    def do(self, command: Do) -> Lent:
        if command.what == "coroutine":
            return later()  # type: ignore[return-value]
        return GIVEN[command.what]  # type: ignore[no-any-return]

    @handles
    def say(self, command: Say) -> Decision[Lent]:
        return GIVEN[command.what]  # type: ignore[no-any-return]

    @applies
    def lent(self, event: Lent) -> None: ...

    @applies
    def lost(self, event: Lost) -> None: ...


async def later() -> Lent:
    return Lent("ann")


UNDECLARED = {
    "nothing": "Tool.do returned None, and its annotation does not say so",
    "lost": "Tool.do returned a Lost, which its annotation does not name",
    "several": "Tool.do returned a Lost, which its annotation does not name",
}

REFUSED = {
    "class": r"returned the class Lent: return an instance, as Lent\(\.\.\.\)",
    "rejection": "returned a Rejected: raise it",
    "mixture": "returned a list with a Rejected: raise it",
    "hole": "returned a list with None: return an Event",
    "word": "returned a str: return an Event",
    "timer": r"a list with an After: .*Decision\(events, timers=",
    "claim": r"a list with a Claim: .*Decision\(events, claims=",
    "command": r"returned a Say: .*Decision\(events, commands=",
    "coroutine": "returned a coroutine: await it, in a handler that is `async def`",
}


@pytest.mark.parametrize("what", UNDECLARED)
async def test_what_no_annotation_names_fails_in_tests(what: str) -> None:
    with pytest.raises(HandlerFailed, match=UNDECLARED[what]):
        given(Tool).when(Do("t", what))
    async with memory_engine([Tool]) as engine:
        with pytest.raises(HandlerFailed, match=UNDECLARED[what]):
            await engine.execute(Do("t", what))

        assert (await engine.execute(Do("t", "lent"))).version == 1
    async with Engine([Tool]) as engine:
        receipt = await engine.execute(Do("t", what))

        assert receipt.version == {"nothing": 0, "lost": 1, "several": 2}[what]


async def test_a_decision_is_compared_with_its_annotation() -> None:
    with pytest.raises(HandlerFailed, match=r"Tool\.say returned a Lost, which its annotation"):
        given(Tool).when(Say("t", "decision"))


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_event_is_told_by_what_to_write(what: str) -> None:
    with pytest.raises(HandlerFailed, match=REFUSED[what]):
        given(Tool).when(Do("t", what))


def test_a_handler_that_yields_is_refused() -> None:
    def do(self: Any, command: Do) -> Any:
        yield Lent("ann")

    do.__annotations__["return"] = list[Lent]
    with pytest.raises(DefinitionError, match="yields: return its events"):
        AggregateMeta("Yields", (Aggregate,), {"do": handles(do), "__module__": __name__}, kind="y")


@dataclass
class Total:
    count: int
    names: set[str]


class Ask(Query[Sequence[Total] | None]):
    what: str


class AskOne(Query[int]):
    pass


ANSWERS: dict[str, Any] = {
    "list": [Total(1, {"a"})],
    "tuple": (Total(1, {"a"}),),
    "none": None,
    "word": "many",
    "field": [Total(1, {"a"}), Total("2", set())],  # type: ignore[arg-type]
    "number": 5,
}

WRONG = {
    "word": "the answer to Ask must be a list or a tuple or None, and is a str",
    "field": r"the answer to Ask\[1\]\.count must be an int, and is a str",
    "number": "the answer to Ask must be a list or a tuple or None, and is an int",
}


@answers
async def ask(query: Ask, views: Views) -> Sequence[Total] | None:
    return ANSWERS[query.what]  # type: ignore[no-any-return]


@answers
async def ask_one(query: AskOne, views: Views) -> int:
    return views.count(None)  # type: ignore[return-value,arg-type]


@pytest.mark.parametrize("what", ANSWERS)
async def test_an_answer_of_another_type_fails_in_debug_mode(what: str) -> None:
    async with memory_engine([Tool], answers=[ask]) as engine:
        if what in WRONG:
            with pytest.raises(UsageError, match=WRONG[what]):
                await engine.query(Ask(what))
        else:
            assert await engine.query(Ask(what)) == ANSWERS[what]
    async with Engine([Tool], answers=[ask]) as engine:
        assert await engine.query(Ask(what)) == ANSWERS[what]


@pytest.mark.parametrize("debug", [False, True])
async def test_an_answer_that_nobody_awaited_is_told(debug: bool) -> None:
    async with memory_engine([Tool], answers=[ask_one], debug=debug) as engine:
        with pytest.raises(UsageError, match=r"AskOne is a coroutine, .* `return await"):
            await engine.query(AskOne())


class Names(Query[list[str]]):
    pass


class Counts(Query[dict[str, list[int]]]):
    pass


def test_an_answer_is_declared_as_its_query_is_down_to_its_items() -> None:
    with pytest.raises(DefinitionError, match="make them the same"):

        @answers
        async def numbers(query: Names, views: Views) -> list[int]:
            return []

    with pytest.raises(DefinitionError, match="make them the same"):

        @answers
        async def words(query: Counts, views: Views) -> dict[str, list[str]]:
            return {}

    @answers
    async def counts(query: Counts, views: Views) -> dict[str, list[bool]]:
        return {}

    @answers
    async def anything(query: Names, views: Views) -> list[Any]:
        return []

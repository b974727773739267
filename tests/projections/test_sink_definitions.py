"""What a sink has to say of itself, and what is refused when its class is made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from engine import DefinitionError, Delivery, Engine, Projection, Sink, Table, projects
from tests.projections.receiver import Nothing, Outside, Receiver, add, nothing, wait
from tests.support.counters import Added, Counter
from tests.support.tallies import Tallies


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def test_what_a_sink_takes_has_to_be_there() -> None:
    with pytest.raises(DefinitionError, match=r"takes \['Receiver'\].*resources=\{Receiver: ...\}"):
        Engine([Counter], projections=[Outside])


def test_a_sink_that_delivers_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match="delivers nothing: write `async def deliver"):

        class Wrong(Sink, name="wrong", version=1):
            pass


def test_a_sink_that_is_not_async_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be async"):

        class Wrong(Sink, name="wrong", version=1):
            def deliver(self, batch: Sequence[Delivery[Added]]) -> None: ...


@pytest.mark.parametrize(
    "annotation",
    [Added, Sequence[Added], list[Delivery[Added]], Sequence[Delivery[int]]],  # type: ignore[type-var]
)
def test_a_sink_says_which_events_it_takes(annotation: Any) -> None:
    async def deliver(self: Sink, batch: Any) -> None: ...

    deliver.__annotations__["batch"] = annotation
    with pytest.raises(DefinitionError, match="say which events it takes"):
        type("Wrong", (Sink,), {"deliver": deliver}, name="wrong", version=1)


def test_what_else_a_sink_takes_is_a_class() -> None:
    with pytest.raises(DefinitionError, match="takes `client`, and what that is cannot be told"):

        class Wrong(Sink, name="wrong", version=1):
            async def deliver(self, batch: Sequence[Delivery[Added]], client: str) -> None: ...


def test_what_erases_people_takes_what_deliver_takes() -> None:
    with pytest.raises(DefinitionError, match="erases people in the system outside: it is async"):

        class Wrong(Outside, name="wrong", version=1):
            async def erase(self, subjects: str) -> None: ...


def test_failures_that_may_pass_are_exceptions() -> None:
    with pytest.raises(DefinitionError, match=r"Wrong.transient names exceptions"):

        class Wrong(Outside, name="wrong", version=1):
            transient = ("ConnectionError",)  # type: ignore[assignment]


def test_a_sink_has_no_tables_and_no_handlers() -> None:
    with pytest.raises(DefinitionError, match="has no tables"):

        class Wrong(Outside, name="wrong", version=1):
            totals: Table[Any]

    with pytest.raises(DefinitionError, match="has no handlers"):

        class Wrong2(Outside, name="wrong", version=1):
            @projects
            def added(self, event: Added) -> None: ...


def test_a_sink_has_no_init() -> None:
    with pytest.raises(DefinitionError, match="takes in `deliver`, by its class"):

        class Wrong(Outside, name="wrong", version=1):
            def __init__(self) -> None: ...


async def test_a_sink_beside_other_projections_leaves_them_alone(receiver: Receiver) -> None:
    """One that hangs holds up nobody else's batch, and no writer."""
    held = asyncio.Event()
    receiver.hold = lambda batch: wait(held)
    projections: list[type[Projection]] = [Outside, Tallies]
    resources: dict[type, object] = {Receiver: receiver}
    async with Engine(
        [Counter], projections=projections, answers=[nothing], resources=resources
    ) as engine:
        position = await add(engine, "a", "b", "c")
        await engine.query(Nothing(), at=position)
        assert engine.statistics().projectors["tallies"].position == 3
        held.set()

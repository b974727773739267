"""What a newcomer writes by mistake is told by what was meant, where it is declared or tested."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Engine,
    Event,
    HandlerFailed,
    Id,
    InvalidInput,
    ProcessManager,
    Projection,
    Row,
    Table,
    applies,
    decides,
    handles,
    projects,
    reacts,
)
from engine.errors import DefinitionError, UsageError
from engine.model.messages import position_of
from engine.testing.memory_engine import memory_engine
from engine.testing.scenario import ManualClock, given


class Book(Command):
    room: Id
    who: str


class Expire(Command):
    room: Id


class Booked(Event, name="booked"):
    who: str
    number: uuid.UUID = uuid.UUID(int=1)


class Room(Aggregate, kind="room"):
    @handles
    def book(self, command: Book) -> Decision[Booked]:
        timers: Any = [After(Expire(self.id), "offer", minutes=5)]
        if command.who == "slip":
            timers = [After("offer", minutes=5)]  # type: ignore[arg-type]
        return Decision(Booked(command.who), timers=timers)

    @handles
    def expire(self, command: Expire) -> None: ...

    @applies
    def booked(self, event: Booked) -> None: ...


class Guest(Row, key="who"):
    who: str


class Guests(Projection, name="guests", version=1):
    rows: Table[Guest]

    @projects
    def booked(self, event: Booked) -> None: ...


class Moving(ProcessManager, kind="moving", begins="now"):
    @reacts(by="who")
    def booked(self, event: Booked) -> Booked:
        return event

    @applies
    def was_booked(self, event: Booked) -> None: ...


def test_an_aggregate_has_the_id_that_its_command_names() -> None:
    booked = given(Room).when(Book("r-1", "ann"))

    assert booked.state.id == "r-1"
    booked.then_timers(After(Expire("r-1"), "offer", minutes=5))
    booked.when_time_passes(minutes=5).then_due(Expire("r-1"))
    given(Room, aggregate_id="r-2").when(Book("r-1", "ann")).then_timers(
        After(Expire("r-2"), "offer", minutes=5)
    )


def test_a_process_manager_has_the_id_that_its_event_names() -> None:
    booked = given(Moving).when(Booked("ann"))

    assert booked.state.id == "ann"
    with pytest.raises(UsageError, match="the event is for instance 'bob'"):
        booked.when(Booked("bob"))


def test_a_clock_is_moved_by_seconds_or_by_a_timedelta() -> None:
    clock = ManualClock()
    clock.advance(timedelta(minutes=1))
    clock.advance(30)

    assert clock.now() == 90_000_000


def not_marked(command: Book, room: Room) -> None: ...


@decides
def marked(command: Expire, room: Room) -> None: ...


engine: Any = Engine
SLIPS: dict[str, tuple[Callable[[], object], str]] = {
    "no-mark": (lambda: engine([Room], decisions=[not_marked]), "and not_marked is not"),
    "projection": (lambda: engine([Room, Guests]), r"go into `projections=\[\.\.\.\]`"),
    "joint": (lambda: engine([Room, marked]), r"with @decides into `decisions=\[\.\.\.\]`"),
    "manager": (lambda: engine([Room], projections=[Moving]), "process managers go into the first"),
}


SLIPS["authorize"] = lambda: engine([Room], authorize=not_marked), "three arguments"
SLIPS["middleware"] = lambda: engine([Room], middleware=[not_marked]), "and a function is none"
SLIPS["dataclass-event"] = lambda: dataclass(Booked), "Booked needs no @dataclass"
SLIPS["dataclass-row"] = lambda: dataclass(Guest), "Guest needs no @dataclass"
SLIPS["dataclass-aggregate"] = lambda: dataclass(Room), "Room needs no @dataclass"


@pytest.mark.parametrize("what", SLIPS)
def test_what_is_given_at_the_wrong_place_is_told_where_it_goes(what: str) -> None:
    slip, told = SLIPS[what]
    with pytest.raises(DefinitionError, match=told):
        slip()


def test_a_field_without_a_default_is_named() -> None:
    with pytest.raises(DefinitionError, match="the field 'name' has no default. An aggregate"):

        class Nameless(Aggregate, kind="nameless"):  # pyright: ignore[reportUnusedClass]
            name: str  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


def test_a_field_that_names_no_instance_is_refused() -> None:
    with pytest.raises(
        DefinitionError, match=r"by='number', which is no text: .*str\(event\.number"
    ):

        class Numbered(  # pyright: ignore[reportUnusedClass]
            ProcessManager, kind="numbered", begins="now"
        ):
            @reacts(by="number")
            def booked(self, event: Booked) -> Booked:
                return event

            @applies
            def was_booked(self, event: Booked) -> None: ...


async def test_what_is_no_command_is_told_before_the_name_of_its_timer() -> None:
    async with memory_engine([Room]) as engine:
        with pytest.raises(HandlerFailed, match="'offer', which is no command"):
            await engine.execute(Book("r-1", "slip"))


async def test_a_receipt_that_nobody_awaited_is_told() -> None:
    async with memory_engine([Room]) as engine:
        sent: Any = engine.execute(Book("r-1", "ann"))
        with pytest.raises(InvalidInput, match="not a coroutine, which nobody awaited"):
            position_of(sent)
        await sent

"""A command with a value of a wrong type is refused before any handler runs, whoever sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime, timedelta
from typing import cast

import msgspec
import pytest

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Engine,
    Envelope,
    Event,
    HandlerFailed,
    Id,
    InvalidInput,
    Reactor,
    Receipt,
    Schedule,
    applies,
    handles,
    reacts,
)
from tests.support.waiting import until

WRONG = cast("int", "3")


class Count(Command):
    counter: Id
    by: int = 1


class Counted(Event, name="counted"):
    by: int


class Begin(Command):
    beginning: Id


class Plan(Command):
    beginning: Id


class Begun(Event, name="begun"):
    pass


class Counter(Aggregate, kind="counter"):
    runs: int = 0

    @handles
    def count(self, command: Count) -> Counted:
        return Counted(len(str(command.by)))

    @applies
    def counted(self, event: Counted) -> None:
        self.runs += 1


class Beginning(Aggregate, kind="beginning"):
    @handles
    def begin(self, command: Begin) -> Begun:
        return Begun()

    @handles
    def plan(self, command: Plan) -> Decision[Begun]:
        return Decision(Begun(), timers=[After(Count("c-1", WRONG), "late", minutes=1)])

    @applies
    def begun(self, event: Begun) -> None:
        pass


class Careless(Reactor, name="careless", begins="start", on_poison="park"):
    @reacts
    def begun(self, event: Begun) -> Count:
        return Count("c-1", WRONG)


@pytest.fixture
async def engine() -> AsyncGenerator[Engine]:
    async with Engine([Counter, Beginning, Schedule], projections=[Careless]) as engine:
        yield engine


async def test_nothing_is_run_or_taken_of_a_command_with_a_wrong_type(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="Count.by must be an int, and is a str"):
        await engine.execute(Count("c-1", WRONG), key="k")

    assert engine.statistics().commands.accepted == 0
    assert (await engine.execute(Count("c-1", 3), key="k")).version == 1


async def test_the_rest_of_a_stream_of_commands_goes_on(engine: Engine) -> None:
    stream: list[Count | Envelope] = [
        Count("c-1"),
        Envelope(command=Count("c-1", WRONG)),
        Count("c-1"),
    ]
    found = [answer async for answer in engine.execute_many(stream)]

    assert isinstance(found[1], InvalidInput)
    assert [each.version for each in found if isinstance(each, Receipt)] == [1, 2]


async def test_a_schedule_of_a_wrong_command_is_refused_when_it_is_given(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match=r"Count\.by"):
        await engine.schedule(Count("c-1", WRONG), "late", after=timedelta(hours=1))

    assert engine.statistics().commands.accepted == 0


async def test_a_timer_with_a_wrong_command_fails_its_handler_with_the_path(
    engine: Engine,
) -> None:
    with pytest.raises(HandlerFailed, match="Count.by must be an int, and is a str"):
        await engine.execute(Plan("b-1"))


async def test_an_event_whose_reaction_is_wrong_is_parked_with_the_path(engine: Engine) -> None:
    await engine.execute(Begin("b-1"))
    await until(lambda: engine.statistics().projectors["careless"].position == 1)
    (parked,) = await engine.projections.parked("careless")

    assert "Count.by must be an int, and is a str" in parked.cause
    assert (await engine.state(Counter, "c-1")).runs == 0


class Label(Command):
    jar: Id
    text: str
    by: str = ""


class Wait(Command):
    jar: Id
    text: str


class Labelled(Event, name="labelled"):
    text: str


class Jar(Aggregate, kind="jar"):
    text: str = ""

    @handles
    def label(self, command: Label) -> Labelled:
        if command.by == "handler":
            return Labelled("\ud800")
        return Labelled(command.text.encode().decode() if command.by else command.text)

    @handles
    async def wait(self, command: Wait) -> Decision[Labelled]:
        await asyncio.sleep(0)
        later = After(Label(command.jar, command.text), minutes=1)
        return Decision(Labelled("wait"), timers=[later])

    @applies
    def labelled(self, event: Labelled) -> None:
        self.text = event.text


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (Label("j-1", "\udc80"), "text"),
        (Label("j-1", "\udc80", "encodes"), "text"),
        (Label("j-1", "fine", "\ud83d"), None),
        (Wait("j-1", "\ud83d"), "text"),
        (Label("j-1", "fine", "handler"), HandlerFailed),
    ],
)
async def test_half_a_character_is_the_callers_fault_where_the_caller_gave_it(
    command: Command, field: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine([Jar]) as engine:
        await engine.execute(Label("j-1", "before"))
        if field is None:
            assert (await engine.execute(command)).version == 2  # no event has it
            return
        blamed = InvalidInput if isinstance(field, str) else HandlerFailed
        with pytest.raises(blamed) as caught:
            await engine.execute(command)
        if isinstance(field, str):
            assert f".{field} has half a character" in str(caught.value)
        assert bool(caplog.records) == (blamed is HandlerFailed)
        assert (await engine.state(Jar, "j-1")).text == "before"
        assert (await engine.execute(Label("j-1", "after"))).version == 2


class Book(Command):
    room: Id
    day: date
    guests: int = 1
    extra: int = 0


class Booked(Event, name="booked"):
    day: date
    guests: int


class Party(msgspec.Struct):
    """A table, and those beside it: it may be nested."""

    guests: int
    beside: list[Party] = []


class Seat(Command):
    room: Id
    guests: int


class Seated(Event, name="seated"):
    party: Party


class Room(Aggregate, kind="room"):
    booked: int = 0

    @handles
    def seat(self, command: Seat) -> Seated:
        return Seated(Party(1, [Party(True if command.guests == 9 else command.guests)]))

    @applies
    def on_seated(self, event: Seated) -> None:
        self.booked += 1

    @handles
    def book(self, command: Book) -> Booked:
        guests = True if command.guests == 9 else command.guests  # a mistake of the handler
        return Booked(command.day, guests)

    @applies
    def on(self, event: Booked) -> None:
        self.booked += event.guests


DAY = date(2026, 1, 2)
LATER = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("key", [None, "k-1"])
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (Book("1", DAY, guests=True), r"Book .*: Expected `int`, got `bool` - at `\$.guests`"),
        (Book("1", LATER), r"Book .* - at `\$.day`"),
    ],
    ids=["bool", "datetime"],
)
async def test_what_python_takes_and_no_event_does_is_the_callers_fault(
    command: Book, told: str, key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine([Room]) as engine:
        with pytest.raises(InvalidInput, match=told):
            await engine.execute(command, key=key)
        assert not caplog.records
        assert (await engine.execute(Book("1", DAY), key=key)).version == 1


async def test_what_a_handler_gives_an_event_is_told_by_its_path() -> None:
    async with Engine([Room]) as engine:
        with pytest.raises(HandlerFailed, match=r"booked .* at `\$.guests`: Expected `int`"):
            await engine.execute(Book("1", DAY, guests=9))
        assert (await engine.execute(Book("1", DAY, extra=True))).version == 1  # no event has it


async def test_what_python_takes_is_told_also_of_an_event_that_may_be_nested() -> None:
    async with Engine([Room]) as engine:
        with pytest.raises(HandlerFailed, match=r"seated .* at `\$.party.beside\[0\].guests`"):
            await engine.execute(Seat("1", 9))
        with pytest.raises(InvalidInput, match=r"Seat .*: Expected `int`, got `bool`"):
            await engine.execute(Seat("1", guests=True))
        assert (await engine.execute(Seat("1", 2))).version == 1

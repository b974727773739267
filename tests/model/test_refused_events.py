"""Stored events that a later release's class does not take: who is told what, and what is shown."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from engine import (
    Aggregate,
    Command,
    Damaged,
    Engine,
    Event,
    Id,
    Meta,
    Projection,
    Row,
    StreamUnreadable,
    Table,
    applies,
    handles,
    projects,
)
from engine.model.codec import EventRegistry
from engine.model.stored import ENCODING_JSON, StoredEvent
from engine.model.withheld import is_own_refusal, text_without_values, withheld
from tests.support.waiting import until

SECRET = "seat 12C of Mrs Holm"
ERRORS: list[type[Exception]] = [
    KeyError,
    ValueError,
    TypeError,
    ZeroDivisionError,
    AttributeError,
    RecursionError,
    UnicodeError,
]
UNWANTED: dict[str, type[Exception]] = {}
"""What the class of a later release raises for an event, by its seat."""


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    UNWANTED.clear()


class Reserve(Command):
    flight: Id
    seat: str


class Reserved(Event, name="reserved"):
    seat: str

    def __post_init__(self) -> None:
        if self.seat in UNWANTED:
            raise UNWANTED[self.seat](self.seat)


class Flight(Aggregate, kind="flight"):
    seats: int = 0

    @handles
    def reserve(self, command: Reserve) -> Reserved:
        return Reserved(command.seat)

    @applies
    def reserved(self, event: Reserved) -> None:
        self.seats += 1


class Seat(Row, key="id"):
    id: str


class Seats(Projection, name="seats", version=1):
    rows: Table[Seat]

    @projects
    def reserved(self, event: Reserved, meta: Meta) -> None:
        self.rows.put(Seat(meta.event_id))


class Patient(Projection, name="patient", version=1, on_poison="park"):
    rows: Table[Seat]

    @projects
    def reserved(self, event: Reserved, meta: Meta) -> None:
        self.rows.put(Seat(meta.event_id))


def by_seat(event: Event, _meta: Meta) -> str:
    assert isinstance(event, Reserved)
    return event.seat


class Ordered(Projection, name="ordered", version=1, on_poison="park", sequence=by_seat):
    rows: Table[Seat]

    @projects
    def reserved(self, event: Reserved, meta: Meta) -> None:
        self.rows.put(Seat(meta.event_id))


async def write(store: str) -> None:
    async with Engine([Flight], store=store) as engine:
        for flight, seat in (("a", "1A"), ("b", SECRET), ("b", "2B"), ("c", "3C")):
            await engine.execute(Reserve(flight, seat))


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__)


@pytest.mark.parametrize("error", ERRORS)
async def test_whoever_reads_is_told_the_position_and_not_the_event(
    tmp_path: Path, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = f"sqlite:{tmp_path / 'log.db'}"
    await write(store)
    UNWANTED[SECRET] = error

    async with Engine([Flight], projections=[Seats], store=store) as engine:
        reads: list[Callable[[], Awaitable[Any]]] = [
            lambda: engine.history(Flight, "b"),
            lambda: engine.state(Flight, "b"),
            lambda: anext(engine.feed(after=1)),
        ]
        for read in reads:
            with pytest.raises(Damaged, match="at position 2 .* reserved version 1") as told:
                await read()
            assert told.value.refused == (error is not RecursionError)
            assert SECRET not in shown(told.value)
        with pytest.raises(StreamUnreadable, match="flight:b") as unreadable:
            await engine.execute(Reserve("b", "4D"))
        assert SECRET not in shown(unreadable.value)
        await engine.execute(Reserve("c", "4D"))
        await until(lambda: engine.statistics().projectors["seats"].failure is not None)
        failure = engine.statistics().projectors["seats"].failure
        assert failure is not None
        assert failure.position == 2
        assert SECRET not in str(failure)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("error", [KeyError, ValueError])
async def test_a_projection_that_parks_parks_what_the_class_refuses(
    tmp_path: Path, error: type[Exception]
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    await write(store)
    UNWANTED[SECRET] = error

    async with Engine([Flight], projections=[Patient, Ordered], store=store) as engine:
        await until(lambda: engine.statistics().projectors["patient"].position == 4)
        parked = await engine.projections.parked("patient")
        assert [(p.position, p.key) for p in parked] == [(2, "flight:b"), (3, "flight:b")]
        assert SECRET not in parked[0].cause
        # What is in order by something inside of the event cannot be set aside: nobody knows by
        # what.
        await until(lambda: engine.statistics().projectors["ordered"].failure is not None)

        UNWANTED.clear()
        await engine.projections.retry("patient")
        assert await engine.projections.parked("patient") == []


def test_bytes_of_other_types_are_damage_and_no_refusal() -> None:
    registry = EventRegistry([Reserved])
    stored = StoredEvent(5, "flight:a", 1, "reserved", 1, 0, b'{"seat":12}', b"", ENCODING_JSON, 0)
    with pytest.raises(Damaged, match=r"Expected `str`, got `int` - at `\$.seat`") as damaged:
        registry.decode(stored)

    assert not damaged.value.refused


class Letter(msgspec.Struct):
    to: str
    kind: Any = None

    def __post_init__(self) -> None:
        raise ValueError(self.to)


def raised(call: Callable[[], Any]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def test_an_error_of_the_decoder_is_told_with_its_path_and_without_its_value() -> None:
    literal = msgspec.defstruct("L", [("kind", Literal["a"])])
    error = raised(lambda: msgspec.json.decode(b'{"kind":"Mrs Holm"}', type=literal))

    assert "Mrs Holm" in str(error)
    assert text_without_values(error) == "Invalid enum value - at `$.kind`"
    assert not is_own_refusal(error)
    assert withheld(error) is None


def test_what_a_class_raises_is_told_with_its_type_and_its_place() -> None:
    error = raised(lambda: msgspec.json.decode(b'[{"to":"Mrs Holm"}]', type=list[Letter]))

    told = text_without_values(error)
    assert told.startswith("ValueError in __post_init__, ")
    assert told.endswith(" - at `$[0]`")
    assert "Holm" not in told
    stand_in = withheld(error)
    assert stand_in is not None
    assert "Holm" not in shown(stand_in)
    assert "raise ValueError(self.to)" in shown(stand_in)


def test_bytes_that_are_no_text_are_told_without_them() -> None:
    error = raised(lambda: msgspec.json.decode(b'{"to":"\xff"}', type=dict[str, str]))

    assert "Holm" not in text_without_values(error)
    assert not is_own_refusal(error)

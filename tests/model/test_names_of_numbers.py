"""What an enum's numbers stand for: a stored number never becomes another member in silence."""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum, auto
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from engine import Aggregate, Command, Engine, Event, Id, Rejected, StoreRefused, applies, handles
from engine.model.codec import EventRegistry, schema_hash
from engine.model.schema import check_types
from engine.model.shape import event_type
from engine.model.stored import EventType


class Open(IntEnum):
    NEW = auto()
    PAID = auto()
    SHIPPED = auto()


class WithoutNew(IntEnum):
    """The same numbers, and each is another member."""

    PAID = auto()
    SHIPPED = auto()
    LOST = auto()


class WithNew(IntEnum):
    """The same members by other numbers."""

    SHIPPED = auto()
    NEW = auto()
    PAID = auto()


class Text(StrEnum):
    PAID = "1"


class Renamed(IntEnum):
    NEW = 1
    PAID = 2
    SETTLED = 2
    SHIPPED = 3


def moved(states: type[Enum]) -> Any:
    class Moved(Event, name="moved", version=1):
        to: states  # type: ignore[valid-type]

    return Moved


def fits(stored: type[Enum], declared: type[Enum]) -> bool:
    """Tell whether a log with the one is gone on from with the other."""
    there = event_type(moved(stored))
    bare = EventType(there.name, there.version, there.schema_hash)
    return not check_types(EventRegistry([moved(declared)]), [bare])


def test_a_number_that_stands_for_another_member_is_another_schema() -> None:
    assert not fits(Open, WithoutNew)
    assert not fits(WithoutNew, Open)


def test_a_member_with_a_number_gets_another_name_behind_its_old_one() -> None:
    assert fits(Open, Renamed)
    assert fits(Renamed, Open)


def test_a_member_with_a_text_may_get_another_name() -> None:
    class Other(StrEnum):
        SETTLED = "1"

    assert fits(Text, Other)


def test_a_number_that_becomes_a_text_is_another_schema() -> None:
    class Number(IntEnum):
        PAID = 1

    assert not fits(Number, Text)


def test_a_log_of_a_release_that_did_not_look_at_names_is_gone_on_from() -> None:
    class State(IntEnum):
        OPEN = 1
        PAID = 2

    class Moved(Event, name="moved", version=1):
        to: State

    # The first is of release 0.2; the log has the second with the next event.
    assert event_type(Moved).renews("b5015f71f5d751b7") is True
    assert event_type(Moved).schema_hash == "5878bab517d64d40"
    assert schema_hash(Moved) == "b5015f71f5d751b7", "as in rows, which are not looked at"


def test_names_that_python_itself_gives_are_passed_over() -> None:
    """Python 3.13 has other names than 3.11 for four of these."""

    class Answered(Event, name="answered", version=1):
        status: HTTPStatus

    assert event_type(Answered).schema_hash == schema_hash(Answered)


class Order(Command):
    order_id: Id


class Show(Command):
    order_id: Id


def shop(states: type[IntEnum], kept: type[IntEnum] = Open) -> Any:
    """Give an aggregate whose event has the one enum, and whose state the other."""
    ordered = moved(states)

    class Shop(Aggregate, kind="order", snapshot_every=1):
        state: kept = kept(1)  # type: ignore[valid-type]

        @handles
        def order(self, command: Order) -> ordered:  # type: ignore[valid-type]
            return ordered(states(2))  # type: ignore[no-any-return]

        @handles
        def show(self, command: Show) -> None:
            raise Rejected("shown", self.state.name)  # type: ignore[attr-defined]

        @applies
        def moved(self, event: ordered) -> None:  # type: ignore[valid-type]
            self.state = kept[event.to.name]  # type: ignore[attr-defined]

    return Shop


async def test_an_engine_does_not_start_where_numbers_stand_for_others(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}"
    async with Engine([shop(Open)], store=store) as engine:
        await engine.execute(Order("o-1"))

    with pytest.raises(StoreRefused, match="or the name of an enum's number"):
        async with Engine([shop(WithoutNew)], store=store):
            pass

    renamed = shop(Renamed)
    async with Engine([renamed], store=store) as engine:
        assert (await engine.state(renamed, "o-1")).state is Open.PAID


async def test_a_snapshot_whose_numbers_stand_for_others_is_not_used(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}"
    async with Engine([shop(Open)], store=store) as engine:
        await engine.execute(Order("o-1"))

    async with Engine([shop(Open, kept=WithNew)], store=store) as engine:
        with pytest.raises(Rejected, match="PAID"):
            await engine.execute(Show("o-1"))

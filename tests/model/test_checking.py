"""Values of messages are checked when the engine takes them, by the types of their classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NotRequired,
    Protocol,
    TypedDict,
    TypeVar,
    cast,
)

import msgspec
import pytest

from engine import Command, Engine, Id, InvalidInput, Query
from engine.model.checking import checked_copy


class Colour(StrEnum):
    RED = "red"


class Piece(msgspec.Struct, frozen=True):
    name: str
    count: int
    more: tuple[Piece, ...] = ()


class Point(NamedTuple):
    x: int
    y: int


class Size(TypedDict, total=False):
    width: int


class Place(TypedDict):
    street: str
    number: NotRequired[int]


T = TypeVar("T")


class Box(msgspec.Struct, Generic[T], frozen=True):
    inside: T


class Patch(msgspec.Struct, frozen=True):
    name: str | msgspec.UnsetType = msgspec.UNSET
    count: int = 0


@dataclass
class Note:
    text: str


class Asks(Protocol):
    def ask(self) -> int: ...


class Everything(Command):
    it: Id
    count: int = 0
    price: Decimal = Decimal(0)
    part: float = 0.0
    text: str = ""
    on: bool = False
    day: date = date(2026, 1, 2)
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)
    colour: Colour = Colour.RED
    way: Literal["in", "out"] = "in"
    pieces: tuple[Piece, ...] = ()
    names: Collection[str] = ()
    row: Sequence[int] = ()
    by_name: Mapping[str, int] = {}
    pair: tuple[int, str] = (0, "")
    point: Point = Point(0, 0)
    size: Size | None = None
    note: Note | None = None
    few: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", max_length=3)] = "a"
    either: int | Piece | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    some: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET
    patch: Patch = Patch()
    place: Place | None = None
    boxes: tuple[Box[int], Box[str]] = (Box(1), Box("a"))
    asks: Asks | None = None
    anything: Any = None


def given(**values: Any) -> Everything:
    return Everything("e-1", **values)


class Nothing:
    def ask(self) -> int:
        return 1


SOUND: Sequence[dict[str, Any]] = (
    {},
    {"part": 3, "price": 3},
    {"count": True, "day": datetime(2026, 1, 2, tzinfo=UTC)},
    {"pieces": [Piece("a", 1)], "names": {"a"}, "row": [1, 2], "pair": [1, "a"]},
    {"by_name": {"a": 1}, "point": Point(1, 2), "size": {"width": 3}, "note": Note("a")},
    {"either": 3},
    {"either": Piece("a", 1, (Piece("b", 2),))},
    {"asks": Nothing(), "anything": object()},
    {"name": "a", "some": 1, "patch": Patch("a", 1)},
    {"boxes": (Box(2), Box("b")), "place": {"street": "a"}},
)


@pytest.mark.parametrize("values", SOUND)
def test_what_is_of_its_type_is_taken(values: dict[str, Any]) -> None:
    for _ in range(2):
        assert checked_copy(given(**values)) == given(**values)


WRONG: Sequence[tuple[dict[str, Any], str]] = (
    ({"count": "3"}, "count must be an int, and is a str"),
    ({"count": None}, "count must be an int, and is None"),
    ({"price": "3"}, "price must be a Decimal, and is a str"),
    ({"text": 3}, "text must be a str, and is an int"),
    ({"day": "2026-01-02"}, "day must be a date, and is a str"),
    ({"at": "2026-01-02"}, "at must be a datetime, and is a str"),
    ({"colour": "red"}, "colour must be a Colour, and is a str"),
    ({"way": "up"}, "way must be one of 'in', 'out', and is not"),
    (
        {"pieces": (Piece("a", 1), Piece("b", cast("Any", "1")))},
        r"pieces\[1\].count must be an int",
    ),
    (
        {"pieces": (Piece("a", 1, (Piece(cast("Any", 1), 1),)),)},
        r"pieces\[0\].more\[0\].name must be a str",
    ),
    ({"pieces": ({"name": "a", "count": 1},)}, r"pieces\[0\] must be a Piece, and is a dict"),
    ({"names": "abc"}, "names must be a list or a tuple, and is a str"),
    ({"row": ["1"]}, r"row\[0\] must be an int"),
    ({"by_name": {"secret": "1"}}, r"by_name\[...\] must be an int, and is a str"),
    ({"by_name": {1: 1}}, r"by_name\[key\] must be a str"),
    ({"pair": (1, "a", 2)}, "pair must be a tuple of 2, and is not"),
    ({"pair": ("a", 1)}, r"pair\[0\] must be an int"),
    ({"point": Point(1, cast("Any", "2"))}, "point.y must be an int"),
    ({"size": {"width": "3"}}, "size.width must be an int"),
    ({"note": Note(cast("Any", 3))}, "note.text must be a str"),
    ({"count": msgspec.UNSET}, "count must be an int, and is an UnsetType"),
    ({"name": 1}, "name must be a str, and is an int"),
    ({"some": 0}, "some must be at least 1, and is not"),
    ({"patch": Patch("a", cast("Any", msgspec.UNSET))}, "patch.count must be an int"),
    ({"boxes": (Box("a"), Box("b"))}, r"boxes\[0\].inside must be an int, and is a str"),
    ({"boxes": (Box(1), Box(2))}, r"boxes\[1\].inside must be a str, and is an int"),
    ({"place": {"number": 1}}, "place must be a Place with the key 'street', and is not"),
    ({"few": 10}, "few must be at most 9, and is not"),
    ({"few": "1"}, "few must be an int, and is a str"),
    ({"code": "A"}, "code must be a text that matches .*, and is not"),
    ({"either": "a"}, "either must be an int or a Piece, and is a str"),
    ({"either": Piece("a", cast("Any", "1"))}, "either.count must be an int"),
)


@pytest.mark.parametrize(("values", "told"), WRONG)
def test_what_is_not_is_told_by_its_path_and_without_its_value(
    values: dict[str, Any], told: str
) -> None:
    checked_copy(given())  # a sound one before it hides nothing
    for _ in range(2):
        with pytest.raises(InvalidInput, match=rf"^Everything\.{told}.*Nothing was run") as raised:
            checked_copy(given(**values))
        assert "secret" not in str(raised.value)


class Counted(Command):
    it: Id
    count: int


class Few(Command):
    it: Id
    few: Annotated[int, msgspec.Meta(le=9)]


def test_a_bound_is_looked_at_each_time() -> None:
    for number in (1, 2):
        assert checked_copy(Few("f-1", number)).few == number
    with pytest.raises(InvalidInput, match="few must be at most 9"):
        checked_copy(Few("f-1", 10))


class Placed(Command):
    it: Id
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    daily: Annotated[time, msgspec.Meta(tz=True)] = time(8, tzinfo=UTC)


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 1, 2),
        datetime.min,
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12))),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ],
    ids=["without-a-zone", "the-first-moment", "behind-the-years", "before-the-years"],
)
def test_a_moment_that_no_table_can_hold_is_refused_by_a_field_with_zones(at: datetime) -> None:
    sound = Placed("p-1", datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-12))))
    assert checked_copy(sound).at == sound.at
    with pytest.raises(InvalidInput, match="at must be a time with a zone, in the years 1 to"):
        checked_copy(Placed("p-1", at))


class Unstudied(Command):
    it: Id
    when: datetime | str
    """No type that msgspec decodes; the others of the class are checked all the same."""
    count: int = 0


def test_a_sound_message_of_numbers_and_texts_is_neither_copied_nor_looked_at_twice() -> None:
    first, second = Counted("c-1", 1), Counted("c-2", 2)

    assert checked_copy(first) is first
    assert checked_copy(second) is second
    with pytest.raises(InvalidInput, match="count must be an int, and is a float"):
        checked_copy(Counted("c-1", cast("int", 1.0)))


def test_a_class_with_a_type_that_cannot_be_studied_is_checked_in_its_other_fields() -> None:
    assert checked_copy(Unstudied("u-1", "soon")).when == "soon"
    with pytest.raises(InvalidInput, match="Unstudied.count must be an int"):
        checked_copy(Unstudied("u-1", "soon", cast("int", "1")))


class Hostile(Sequence[int]):
    def __len__(self) -> int:
        raise OSError("away")

    def __getitem__(self, _: Any) -> Any:
        raise OSError("away")


def test_a_value_that_raises_when_it_is_looked_at_is_refused() -> None:
    with pytest.raises(InvalidInput, match="row cannot be looked at .OSError."):
        checked_copy(given(row=Hostile()))


def test_a_value_deeper_than_the_stack_is_left_to_who_copies_it() -> None:
    deep = Piece("a", 1)
    for _ in range(2_000):
        deep = Piece("a", 1, (deep,))
    with pytest.raises(InvalidInput, match="pieces cannot be copied"):
        checked_copy(given(pieces=(deep,)))


class GetCount(Query[int]):
    of: str


async def test_a_query_is_checked_too() -> None:
    async with Engine([]) as engine:
        with pytest.raises(InvalidInput, match="GetCount.of must be a str, and is an int"):
            await engine.query(GetCount(cast("str", 3)))
        with pytest.raises(InvalidInput, match="GetCount.of must be a str"):
            engine.watch(GetCount(cast("str", 3)))

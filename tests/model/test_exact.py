"""What is read back is what was given, or nothing is written: types, values, depth."""

from __future__ import annotations

import dataclasses
import enum
import math
import pathlib
import sys
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

import msgspec
import pytest

from engine import Aggregate, Command, Engine, Event, Id, applies, handles
from engine.errors import DefinitionError, HandlerFailed
from engine.limits import NESTING_MAX
from engine.model.codec import EventRegistry
from engine.model.depth import decode_deep, nesting

ODD = timezone(timedelta(hours=-3, minutes=-6, seconds=-28))
BERLIN = ZoneInfo("Europe/Berlin")


class Suit(enum.StrEnum):
    HEARTS = "hearts"


class Rank(enum.IntEnum):
    ACE = 1
    ONE = 1


class Grain(enum.Flag):
    OAT = 1
    RYE = 2


class Party(msgspec.Struct, frozen=True):
    name: str


class Firm(Party, frozen=True):
    register: str = ""


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    age: int


class Careless(msgspec.Struct, eq=False):
    amount: float | None


class Fuzzy(msgspec.Struct):
    amount: float | None

    def __eq__(self, other: object) -> bool:
        return True


@dataclasses.dataclass
class Note:
    text: str
    weight: float | None = dataclasses.field(default=None, compare=False)


class Pair(NamedTuple):
    one: int
    other: int


class Size(TypedDict, total=False):
    width: int


class Trimmed(msgspec.Struct):
    text: str

    def __post_init__(self) -> None:
        self.text = self.text[1:]


class Tree(msgspec.Struct):
    child: Tree | None = None


def came_back(annotation: Any, value: Any) -> Any:
    """Give what an event with one field of that type says when it has been stored."""
    cls: Any = type(
        "Told",
        (Event,),
        {"__annotations__": {"value": annotation}, "__module__": __name__},
        name="told",
    )
    return EventRegistry([cls]).copy(cls(value)).value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2**80),
        (float, -0.0),
        (float, sys.float_info.min / 4),
        (int | float, 7.0),
        (int | float, 7),
        (Decimal, Decimal("10.500")),
        (Decimal, Decimal("-0")),
        (Decimal | None, Decimal("Infinity")),
        (str, "a\0\N{SNOWMAN}"),
        (bytes, b"\xff\0"),
        (bytearray, bytearray(b"x")),
        (datetime, datetime(2024, 2, 29, 23, 59, 59, 999_999)),
        (datetime, datetime(2024, 2, 29, tzinfo=UTC)),
        (datetime, datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=-9, minutes=-30)))),
        (time, time(23, 59, 59, 1, tzinfo=UTC)),
        (date, date(1, 1, 1)),
        (timedelta, timedelta(days=-1, microseconds=7)),
        (uuid.UUID, uuid.UUID(int=9)),
        (Suit, Suit.HEARTS),
        (Rank, Rank.ONE),
        (Grain, Grain.OAT | Grain.RYE),
        (Literal["a", 3], 3),
        (list[tuple[int, str]], [(1, "a")]),
        (frozenset[int], frozenset({3, 1})),
        (set[date], {date(2024, 1, 1)}),
        (dict[int, list[float]], {-1: [0.1]}),
        (dict[date, int], {date(2024, 1, 1): 1}),
        (dict[Suit, int], {Suit.HEARTS: 1}),
        (Cat | Dog, Dog(3)),
        (Any, {"a": [1, 1.0, True, None, "x"]}),
        (Note, Note("x", 0.5)),
        (Pair, Pair(1, 2)),
        (Size, {"width": 3}),
        (Careless, None),
        (msgspec.Raw, msgspec.Raw(b'{"a":1}')),
        (Party | None, Party("Ann")),
    ],
    ids=repr,
)
def test_what_can_be_stored_comes_back_as_it_was_given(annotation: Any, value: Any) -> None:
    value = Careless(1.5) if annotation is Careless else value
    read = came_back(annotation, value)

    assert type(read) is type(value)
    if annotation is Careless:
        assert read.amount == value.amount
    else:
        assert (read, repr(read)) == (value, repr(value)) or annotation is msgspec.Raw


def test_a_time_that_a_clock_shows_twice_comes_back_with_its_offset() -> None:
    """`==` between two zones says that such a time is equal to nothing."""
    for fold in (0, 1):
        twice = datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=BERLIN)
        assert came_back(datetime, twice).isoformat() == twice.isoformat()


@pytest.mark.parametrize(
    ("annotation", "value", "read"),
    [(float, 3, 3.0), (str, Suit.HEARTS, "hearts"), (int, Rank.ACE, 1), (Decimal, 5, Decimal(5))],
)
def test_a_value_may_come_back_as_the_declared_type_that_it_equals(
    annotation: Any, value: Any, read: Any
) -> None:
    assert came_back(annotation, value) == value == read
    assert type(came_back(list[annotation], [value])[0]) is type(read)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float | None, math.nan),
        (float | str | None, math.inf),
        (list[float | None], [1.0, -math.inf]),
        (dict[str, Any], {"deep": {"er": [math.nan]}}),
        (float, 2**53 + 1),
        (datetime, datetime(1900, 1, 1, tzinfo=ODD)),
        (list[datetime | None], [None, datetime(1900, 1, 1, tzinfo=ODD)]),
        (dict[datetime, int], {datetime(1900, 1, 1, tzinfo=ODD): 1}),
        (datetime, datetime(2024, 10, 27, 2, 30, fold=1)),
        (time, time(2, 30, tzinfo=ODD)),
        (time, time(2, 30, tzinfo=BERLIN)),
        (time, time(2, 30, fold=1)),
        (str, uuid.UUID(int=1)),
        (str, Decimal("1.5")),
        (str, date(2024, 1, 1)),
        (bytes, bytearray(b"x")),
        (bytes, memoryview(b"x")),
        (list[int], (1, 2)),
        (tuple[int, ...], [1, 2]),
        (set[int], frozenset({1})),
        (Any, (1, 2)),
        (Any, {1: "a"}),
        (Any, {1}),
        (Any, datetime(2024, 1, 1, tzinfo=UTC)),
        (object, Party("Ann")),
        (dict[str | int, int], {1: 1}),
        (Party, Firm("Acme", "HRB 1")),
        (list[Party], [Party("Ann"), Firm("Acme", "HRB 1")]),
        (Careless, Careless(math.nan)),
        (Fuzzy, Fuzzy(math.inf)),
        (Note, Note("x", math.nan)),
        (Size, {"width": 1, "depth": 2}),
        (Trimmed, Trimmed("abc")),
        (msgspec.Raw, msgspec.Raw(b" 1 ")),
    ],
    ids=repr,
)
def test_what_would_come_back_changed_is_refused_without_its_value(
    annotation: Any, value: Any
) -> None:
    with pytest.raises(HandlerFailed, match=r"^Told\.value") as refused:
        came_back(annotation, value)

    assert "Acme" not in str(refused.value)
    assert "Nothing was written" in str(refused.value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, "\ud800"),
        (int, True),
        (int, 5.0),
        (bool, 1),
        (float, Decimal("0.5")),
        (Decimal, Decimal("sNaN")),
        (date, datetime(2024, 1, 1)),
    ],
)
def test_what_cannot_be_encoded_or_decoded_is_not_written(annotation: Any, value: Any) -> None:
    with pytest.raises(Exception, match=".+"):
        came_back(annotation, value)


def test_a_field_that_is_not_set_is_absent_and_comes_back_so() -> None:
    class Optional(Event, name="optional"):
        one: int | msgspec.UnsetType = msgspec.UNSET
        other: int | msgspec.UnsetType = 7

    registry = EventRegistry([Optional])
    assert registry.copy(Optional(other=1)).one is msgspec.UNSET
    with pytest.raises(HandlerFailed, match=r"Optional\.other was given as UnsetType"):
        registry.copy(Optional(other=msgspec.UNSET))


def test_an_ordered_dict_comes_back_as_the_dict_that_it_equals() -> None:
    assert came_back(dict[str, int], OrderedDict(a=1)) == {"a": 1}
    assert came_back(tuple[int, int], Pair(1, 2)) == (1, 2)


# -- types ----------------------------------------------------------------------------------------


class Wrapped(msgspec.Struct):
    inner: dict[frozenset[int], int]


@pytest.mark.parametrize(
    ("annotation", "place"),
    [
        (pathlib.Path, r"Told\.value of the type Path"),
        (list[pathlib.PurePath | None], r"Told\.value of the type PurePath"),
        (complex, "complex"),
        (range, "range"),
        (Callable[[], int], "Callable"),
        (type, "type"),
        (dict[tuple[int, int], int], "keys of the type Tuple"),
        (dict[bool, int], "keys of the type Bool"),
        (dict[int | None, int], "keys of the type None"),
        (list[dict[frozenset[str], int]], "keys of the type FrozenSet"),
        (Wrapped, r"Told\.value\.inner with keys"),
        (msgspec.msgpack.Ext, "Ext"),
        (str | date, "str-like"),
        (Suit | str, "str-like"),
    ],
    ids=repr,
)
def test_a_type_that_cannot_be_stored_is_refused_as_the_class_is_made(
    annotation: Any, place: str
) -> None:
    with pytest.raises(DefinitionError, match=place):
        came_back(annotation, None)


def test_an_enum_of_values_that_json_does_not_tell_apart_is_refused() -> None:
    class Mixed(enum.Enum):
        ONE = 1
        OTHER = "1"

    with pytest.raises(DefinitionError, match="event Told cannot be stored"):
        came_back(Mixed, Mixed.ONE)


def test_a_type_that_is_declared_below_is_looked_at_when_the_event_is_used() -> None:
    class Late(Event, name="late"):
        value: Below

    class Below(msgspec.Struct):
        where: int

    assert Late.event_exactness is None
    with pytest.raises(DefinitionError, match="Late"):
        EventRegistry([Late])


# -- in the engine --------------------------------------------------------------------------------


class Weigh(Command):
    scale: Id
    grams: float


class Weighed(Event, name="weighed"):
    grams: float | None


class Scale(Aggregate, kind="scale"):
    seen: int = 0

    @handles
    def weigh(self, command: Weigh) -> list[Weighed]:
        return [Weighed(1.0), Weighed(command.grams)]

    @applies
    def weighed(self, event: Weighed) -> None:
        self.seen += 1


async def test_a_command_whose_event_would_come_back_changed_writes_nothing() -> None:
    async with Engine([Scale]) as engine:
        with pytest.raises(HandlerFailed, match=r"Weighed\.grams is NaN or infinite") as refused:
            await engine.execute(Weigh("s", math.nan), key="k")

        assert refused.value.safe_to_resend
        assert (await engine.history(Scale, "s")).events == ()
        assert (await engine.execute(Weigh("s", 2.5), key="k")).version == 2
        assert (await engine.state(Scale, "s")).seen == 2


# -- depth ----------------------------------------------------------------------------------------


class Grown(Event, name="grown"):
    tree: Tree


class Kept(Event, name="kept"):
    content: Any


def nested(levels: int) -> Tree:
    tree = Tree()
    for _ in range(levels - 1):
        tree = Tree(tree)
    return tree


def depth_of(tree: Tree | None) -> int:
    depth = 0
    while tree is not None:
        tree, depth = tree.child, depth + 1
    return depth


def deeper(frames: int, call: Callable[[], Any]) -> Any:
    return call() if frames == 0 else deeper(frames - 1, call)


def test_nesting_is_bounded_by_a_number_and_not_by_the_stack_of_the_moment() -> None:
    registry = EventRegistry([Grown])
    event = Grown(nested(NESTING_MAX - 1))
    payload = registry.encode(event)
    read_back = registry.reader_of(Grown)

    for frames in (0, 200, 400):
        assert depth_of(deeper(frames, lambda: read_back(event, payload)).tree) == NESTING_MAX - 1
    with pytest.raises(HandlerFailed, match=f"nested deeper than {NESTING_MAX} levels"):
        registry.copy(Grown(nested(NESTING_MAX)))


def test_content_without_a_type_is_bounded_too() -> None:
    content: list[Any] = []
    for _ in range(NESTING_MAX):
        content = [content]

    with pytest.raises(HandlerFailed, match="nested deeper"):
        EventRegistry([Kept]).copy(Kept(content))
    assert EventRegistry([Kept]).copy(Kept(["[" * 2_000])).content == ["[" * 2_000]


def test_a_circle_is_not_written() -> None:
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(RecursionError):
        EventRegistry([Kept]).copy(Kept(circle))


def test_brackets_inside_texts_are_no_levels() -> None:
    text = b'{"a":"' + b"[" * 2_000 + b'\\"[","b":[[]]}'

    assert nesting(text) == 3
    assert nesting(b"[" * 1_500 + b"]" * 1_500) == 1_500


def test_what_decoding_raises_on_a_stack_of_its_own_is_raised_here() -> None:
    calls: list[int] = []

    def decode(_: bytes) -> Any:
        calls.append(1)
        raise RecursionError if len(calls) == 1 else ValueError("no")

    with pytest.raises(ValueError, match="no"):
        decode_deep(decode, b"")

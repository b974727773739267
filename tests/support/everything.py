"""A row with a field of every type that a table can hold, and one such row."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime
from typing import Annotated, Literal, NewType
from uuid import UUID

import msgspec

from engine.model.projection import Row

Pence = NewType("Pence", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Inner(msgspec.Struct, frozen=True):
    name: str
    parts: tuple[int, ...] = ()


class Everything(Row, key="id"):
    id: UUID
    text: str
    whole: int
    real: float
    blob: bytes
    truth: bool
    moment: datetime
    day: date
    colour: Colour
    rank: Rank
    choice: Literal["a", "b"]
    pence: Pence
    bounded: Annotated[int, msgspec.Meta(ge=0)]
    inner: Inner
    many: dict[str, list[Inner]]
    either: int | str
    maybe: int | None = None
    maybe_inner: Inner | None = None
    some: set[str] = set()


def everything() -> Everything:
    return Everything(
        id=UUID(int=7),
        text="a\1b ü 'quote' \"",
        whole=-(2**63),
        real=0.1 + 0.2,
        blob=b"\x00\xff",
        truth=True,
        moment=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        day=date(2026, 1, 2),
        colour=Colour.BLUE,
        rank=Rank.HIGH,
        choice="b",
        pence=Pence(2**63 - 1),
        bounded=0,
        inner=Inner("x", (1, 2)),
        many={"k": [Inner("y")]},
        either="5",
        some={"s"},
    )

"""An aggregate whose commands and answers are hard to send, and engines of it that share a log."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from engine import Aggregate, Command, Decision, Engine, Event, Id, Rejected, applies, handles


class Colour(enum.StrEnum):
    RED = "red"


class Refuse(Command):
    """Is rejected, with details that its aggregate makes."""

    shop_id: Id
    how: str


class Price(Command):
    shop_id: Id
    price: float = 0.0
    when: datetime | None = None
    tags: Sequence[str] = ()
    colour: str = ""


class Count(Command[int]):
    shop_id: Id


class Priced(Event, name="priced"):
    text: str


class Exits:
    def __str__(self) -> str:
        raise SystemExit(3)


def details(how: str) -> dict[str, Any]:
    """Give details of a rejection that no frame holds, or that cannot be encoded."""
    if how == "large":
        return {"picture": "x" * 1_100_000, "name": "cat"}
    nested: list[Any] = []
    if how == "in itself":
        nested.append(nested)
    for _ in range(200_000 if how == "deep" else 0):
        nested = [nested]
    return {"nested": Exits() if how == "exit" else nested, "name": "cat"}


class Shop(Aggregate, kind="shop"):
    count: int = 0

    @handles
    def refuse(self, command: Refuse) -> Priced:
        raise Rejected("no", "it is so", **details(command.how))

    @handles
    def price(self, command: Price) -> Priced:
        when = command.when
        zone = None if when is None else getattr(when.tzinfo, "key", when.tzname())
        moment = None if when is None else when.isoformat()
        given = [command.price, moment, zone, *command.tags, command.colour]
        return Priced(" ".join(map(str, given)))

    @handles
    def number(self, command: Count) -> Decision[Priced, int]:
        return Decision(Priced(""), reply=self.count + 1)

    @applies
    def priced(self, event: Priced) -> None:
        self.count += 1


def shop(path: Path, **options: Any) -> Engine:
    """Give an engine of shops that shares its log."""
    return Engine([Shop], store=f"sqlite:{path}/log.db", join=True, **options)

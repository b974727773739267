"""Offers whose words are searched: their events, tables, and what is on offer."""

from __future__ import annotations

from typing import Any

from engine.model.messages import Event
from engine.model.projection import Projection, Row, Table, projects
from engine.queries.views import Views
from tests.support.shelf import Library, Log, Wired


class Listed(Event, name="listed"):
    """A thing is offered, or offered under other words."""

    number: int
    words: str
    note: str | None = None
    price: int = 0


class Unlisted(Event, name="unlisted"):
    number: int


class Priced(Event, name="priced"):
    number: int
    price: int


class Thing(Row, key="id", index=["price"], search=["words", "note"]):
    id: str
    words: str
    note: str | None = None
    price: int = 0


class Item(Row, key="number", index=["price"], search=["words", "note"]):
    number: int
    words: str
    note: str | None = None
    price: int = 0


class Offers(Projection, name="offers"):
    things: Table[Thing]
    items: Table[Item]

    @projects
    def listed(self, event: Listed) -> None:
        self.things.put(Thing(f"t{event.number}", event.words, event.note, event.price))
        self.items.put(Item(event.number, event.words, event.note, event.price))

    @projects
    def priced(self, event: Priced) -> None:
        self.things.update(f"t{event.number}", price=event.price)
        self.items.update(event.number, price=event.price)

    @projects
    def unlisted(self, event: Unlisted) -> None:
        self.things.delete(f"t{event.number}")
        self.items.delete(event.number)


TABLES: tuple[Table[Any], ...] = (Offers.things, Offers.items)


EVENTS = (Listed, Unlisted, Priced)


OFFERED = (
    Listed(1, "RED HANGING LANTERN", "glass", 339),
    Listed(2, "BLUE LANTERN", None, 339),
    Listed(3, "RED LAMP", "no lantern", 100),
    Listed(4, "CRÈME BRÛLÉE DISH", "", 100),
    Listed(5, "T-LIGHT HOLDER, PACK OF 12", "red", 50),
    Listed(-6, "lantern lantern lantern", None, 50),
)


def wired_offers(log: Log, path: str = ":memory:", **options: Any) -> Wired:
    return Wired(log, path, [Offers], events=EVENTS, **options)


def views_of(wired: Wired) -> Views:
    tables = {t.definition.name: t.definition for t in (*TABLES, Library.books)}
    return Views(wired.views, tables, wired.limits)


async def publish(wired: Wired, *events: Event) -> None:
    wired.publish(*events)
    await wired.caught_up()


async def found(wired: Wired, text: str, **options: Any) -> list[int]:
    """Give the numbers of what is found, which must be the same under both kinds of key."""
    views = views_of(wired)
    things = await views.search(Offers.things, text, **options)
    items = await views.search(Offers.items, text, **options)
    assert sorted(thing.id for thing in things) == sorted(f"t{item.number}" for item in items)
    return [item.number for item in items]

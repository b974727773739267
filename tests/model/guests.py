"""Events of three releases of a hotel, what leads from one to the next, and a log of them."""

from __future__ import annotations

from typing import Any

import msgspec

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Rejected,
    Retired,
    Row,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
    upcasts,
)
from engine.model.codec import schema_hash
from engine.model.stored import EventData, EventType
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.memory import MemoryStore


class GuestMade(Event, name="guest-made", version=1):
    """The first name; it became `guest-booked`."""

    name: str


class GuestBookedV1(Event, name="guest-booked", version=1):
    name: str
    nights: int = 1


class GuestBookedV2(Event, name="guest-booked", version=2):
    first: str
    last: str
    nights: int


class GuestBooked(Event, name="guest-booked", version=3):
    first: str
    last: str
    nights: int
    extras: dict[str, int] = {}


class GuestLeft(Event, name="guest-left"):
    pass


class GuestWaved(Event, name="guest-waved"):
    """Retired in what follows."""


@upcasts
def made_to_booked(event: GuestMade) -> GuestBookedV1:
    return GuestBookedV1(event.name)


@upcasts
def booked_1_to_2(event: GuestBookedV1) -> GuestBookedV2:
    first, _, last = event.name.partition(" ")
    if not last:
        raise ValueError(f"no last name in {event.name}")
    return GuestBookedV2(first, last, event.nights)


EXTRAS = {"towels": 1}


@upcasts
def booked_2_to_3(event: GuestBookedV2) -> GuestBooked:
    return GuestBooked(event.first, event.last, event.nights, EXTRAS)


UPCASTERS = (made_to_booked, booked_1_to_2, booked_2_to_3)


class Book(Command):
    guest_id: Id
    first: str
    last: str


class Show(Command):
    guest_id: Id


class Guest(Aggregate, kind="guest"):
    booked: list[str] = []
    extras: dict[str, int] = {}
    left: bool = False

    @handles
    def book(self, command: Book) -> GuestBooked:
        return GuestBooked(command.first, command.last, 1)

    @handles
    def show(self, command: Show) -> None:
        shown = f"{self.booked} {self.extras} {self.left} at {self.version}"
        raise Rejected("shown", shown)

    @applies
    def was_booked(self, event: GuestBooked) -> None:
        self.booked.append(f"{event.last}, {event.first} x{event.nights}")
        event.extras["counted"] = event.extras.get("counted", 0) + 1
        self.extras = event.extras

    @applies
    def has_left(self, event: GuestLeft) -> None:
        self.left = True


class GuestRow(Row, key="guest_id"):
    guest_id: str
    last: str
    position: int


class Guests(Projection, name="guests"):
    rows: Table[GuestRow]

    @projects
    def booked(self, event: GuestBooked, meta: Meta) -> None:
        self.rows.put(GuestRow(meta.id, event.last, meta.position))


class GetGuest(Query[GuestRow | None]):
    guest_id: str


@answers
async def get_guest(query: GetGuest, views: Views) -> GuestRow | None:
    return await views.get(Guests.rows, query.guest_id)


async def written(*events: tuple[str, Event]) -> MemoryStore:
    """Give a log in which earlier releases have written these events."""
    store = MemoryStore()
    async with Engine([Guest], store=store, retired=[Retired("guest-waved")]):
        versions: dict[str, int] = {}
        for stream, event in events:
            version = versions.get(stream, 0)
            kind = EventType(event.event_name, event.event_version, schema_hash(type(event)))
            data = EventData(kind, msgspec.json.encode(event))
            await store.append(Batch([AppendRequest([Write(stream, version, [data])])], 1))
            versions[stream] = version + 1
    return store


def hotel(store: Any, **options: Any) -> Engine:
    options.setdefault("upcasters", UPCASTERS)
    return Engine([Guest], projections=[Guests], answers=[get_guest], store=store, **options)


async def shown(engine: Engine, guest: str) -> str:
    try:
        await engine.execute(Show(guest))
    except Rejected as rejected:
        return rejected.message
    raise AssertionError("Show always rejects")

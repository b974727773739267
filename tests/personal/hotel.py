"""A hotel of the tests: guests with personal data, rooms that a guest books, a table of both."""

from __future__ import annotations

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Meta,
    Personal,
    Projection,
    Query,
    Row,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)

NAME, OTHER = "Annabella Canary", "Bob Roy"
"""Which no file may have once she is erased; and one whom that does not concern."""


class Register(Command):
    guest: Id
    name: str
    born: int | None = None


class Note(Command):
    guest: Id
    text: str


class Registered(Event, name="registered"):
    name: Personal[str]
    country: str
    born: Personal[int | None]


class Noted(Event, name="noted"):
    text: str


class Guest(Aggregate, kind="guest", snapshot_every=3):
    name: str = ""
    born: int | None = None
    notes: int = 0

    @handles
    def register(self, command: Register) -> Registered:
        return Registered(command.name, "no", command.born)

    @handles
    def note(self, command: Note) -> Noted:
        return Noted(f"{command.text} of {self.notes}")

    @applies
    def registered(self, event: Registered) -> None:
        self.name, self.born = event.name, event.born

    @applies
    def noted(self, event: Noted) -> None:
        self.notes += 1


class Book(Command):
    room: Id
    guest: str
    wish: str


class Booked(Event, name="booked", subject="guest"):
    guest: str
    wish: Personal[str]


class Room(Aggregate, kind="room"):
    wishes: list[str] = []

    @handles
    def book(self, command: Book) -> Booked:
        return Booked(command.guest, command.wish)

    @applies
    def booked(self, event: Booked) -> None:
        self.wishes.append(event.wish)


class GuestRow(Row, key="guest", search=["name"]):
    guest: str
    name: str
    wishes: str


class Guests(Projection, name="guests", version=1):
    rows: Table[GuestRow]

    @projects
    def registered(self, event: Registered, meta: Meta) -> None:
        self.rows.put(GuestRow(meta.stream, event.name, ""))

    @projects
    def booked(self, event: Booked) -> None:
        row = self.rows.get(event.guest)
        if row is not None:
            self.rows.update(event.guest, wishes=f"{row.wishes} {event.wish}")


class AllGuests(Query[list[GuestRow]]):
    pass


class Named(Query[list[GuestRow]]):
    text: str


@answers
async def all_guests(_query: AllGuests, views: Views) -> list[GuestRow]:
    return await views.find(Guests.rows, order_by="guest")


@answers
async def named(query: Named, views: Views) -> list[GuestRow]:
    return await views.search(Guests.rows, query.text)


def hotel(store: str, **options: object) -> Engine:
    """Give an engine of the hotel, not started."""
    return Engine(
        [Guest, Room],
        projections=[Guests],
        answers=[all_guests, named],
        store=store,
        **options,  # type: ignore[arg-type]
    )


async def two_guests(engine: Engine) -> None:
    """Let one be registered who will be erased, and another, and let both book."""
    await engine.execute(Register("g-1", NAME, 1981))
    await engine.execute(Register("g-2", OTHER, 1977))
    await engine.execute(Book("r-1", "guest:g-1", f"a bed for {NAME}"))
    receipt = await engine.execute(Book("r-1", "guest:g-2", "a quiet room"))
    await engine.query(AllGuests(), at=receipt)

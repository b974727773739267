"""The domain of the simulated world with personal data: guests, their rooms, and who hears of them.

Rules: each personal text begins with a token that nobody else has, and names its guest behind it.
So a token shows what was lost, what came back, and whose it is. Texts are given on by every way
that there is: a handler that waits, a timer, a reactor, a rejection that quotes them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, ClassVar

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Event,
    Id,
    Meta,
    Personal,
    Projection,
    Query,
    Reactor,
    Rejected,
    Row,
    Sql,
    SqlProjection,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
    reacts,
)

__all__ = [
    "AGGREGATES",
    "Booked",
    "Desk",
    "FindGuests",
    "FindStays",
    "Greet",
    "Greeted",
    "Guest",
    "GuestRow",
    "Host",
    "Lodge",
    "Note",
    "Noted",
    "Register",
    "Registered",
    "Reminded",
    "Room",
    "Welcomed",
    "guests_class",
    "lobby_class",
    "stays_class",
]


class Registered(Event, name="registered"):
    """A guest has come."""

    text: Personal[str]


class Greeted(Event, name="greeted"):
    """Somebody has read the text, waited, and written it."""

    text: Personal[str]
    number: int


class Reminded(Event, name="reminded"):
    """A timer has done the same."""

    text: Personal[str]


class Noted(Event, name="noted"):
    """Something that is nobody's."""

    number: int


class Booked(Event, name="booked", subject="guest"):
    """A guest is in a room, whose stream is not his."""

    guest: str
    text: Personal[str]


class Welcomed(Event, name="welcomed", subject="guest"):
    """A reactor has had him welcomed."""

    guest: str
    text: Personal[str]


class Register(Command):
    """Let a guest come."""

    guest: Id
    text: str
    seconds: float
    """Until the timer reminds of it; 0 for no timer."""


class Remind(Command):
    """Write his text once more; sent by a timer."""

    guest: Id


class Greet(Command):
    """Read his text, wait, and write it."""

    guest: Id
    number: int
    seconds: float


class Note(Command):
    """Write what is nobody's."""

    guest: Id
    number: int


class Lodge(Command):
    """Write his text into a room."""

    room: Id
    guest: str
    text: str


class Welcome(Command):
    """Write his text at the desk; given by a reactor."""

    desk: Id
    guest: str
    text: str
    number: int


class Guest(Aggregate, kind="guest", snapshot_every=2):
    """Has what was said of him last."""

    text: str = ""
    notes: int = 0
    is_brittle: ClassVar[bool] = False
    """Whether reminders quote him in a rejection."""

    @handles
    def register(self, command: Register) -> Decision[Registered]:
        """Keep the text, and set a timer by his id alone."""
        timers = [After(Remind(self.id), "remind", seconds=command.seconds)]
        return Decision(Registered(command.text), timers=timers if command.seconds else [])

    @handles
    def remind(self, command: Remind) -> Reminded:
        """Write the text of then."""
        if Guest.is_brittle and self.notes % 2:
            raise Rejected("busy", f"nobody reminds of {self.text}")
        return Reminded(self.text)

    @handles
    async def greet(self, command: Greet) -> Greeted:
        """Write a text that may be old by then."""
        text = self.text
        await asyncio.sleep(command.seconds)
        return Greeted(text, command.number)

    @handles
    def note(self, command: Note) -> Noted:
        """Write what is nobody's."""
        return Noted(command.number)

    @applies
    def registered(self, event: Registered) -> None:
        """Know him."""
        self.text = event.text

    @applies
    def greeted(self, event: Greeted) -> None:
        """Nothing new."""

    @applies
    def reminded(self, event: Reminded) -> None:
        """Nothing new."""

    @applies
    def noted(self, event: Noted) -> None:
        """Count."""
        self.notes += 1


class Room(Aggregate, kind="room", snapshot_every=3):
    """Has the texts of all who were there."""

    texts: list[str] = []

    @handles
    def lodge(self, command: Lodge) -> Booked:
        """Keep the text."""
        return Booked(command.guest, command.text)

    @applies
    def booked(self, event: Booked) -> None:
        """Keep the text."""
        self.texts = [*self.texts, event.text]


class Desk(Aggregate, kind="desk"):
    """Welcomes each guest that the reactor was told of."""

    text: str = ""
    is_brittle: ClassVar[bool] = False
    """Whether it quotes some of them in a rejection."""

    @handles
    def welcome(self, command: Welcome) -> Welcomed:
        """Write the text."""
        if Desk.is_brittle and command.number % 3 == 0:
            raise Rejected("full", f"there is no room for {command.text}")
        return Welcomed(command.guest, command.text)

    @applies
    def welcomed(self, event: Welcomed) -> None:
        """Keep it."""
        self.text = event.text


def _lane(event: Registered | Noted, meta: Meta) -> str:
    return event.text if isinstance(event, Registered) else meta.stream


class Host(Reactor, name="host", begins="start", on_poison="park", sequence=_lane):
    """Has each guest welcomed; its lanes are named by what is personal."""

    @reacts
    def registered(self, event: Registered, meta: Meta) -> Welcome:
        """Give the text on."""
        return Welcome(f"d-{meta.position % 2}", meta.stream, event.text, meta.position)

    @reacts
    def noted(self, event: Noted, meta: Meta) -> None:
        """See it, and do nothing."""


AGGREGATES: list[type[Aggregate]] = [Guest, Room, Desk]


class GuestRow(Row, key="stream", search=["texts"]):
    """All that was said of a guest, as it was folded."""

    stream: str
    positions: list[int]
    texts: str
    version: int
    """Of the projection."""


class FindGuests(Query[list[GuestRow]]):
    """All of them, or those that a search finds."""

    text: str = ""


class FindStays(Query[list[tuple[Any, ...]]]):
    """All bookings: position, guest, text."""


class Ailing:
    """Which projections cannot fold some events now; the world says so."""

    names: ClassVar[set[str]] = set()

    @classmethod
    def check(cls, name: str, text: str, position: int) -> None:
        """Fail for one in four, and quote the text."""
        if name in cls.names and position % 4 == 1:
            raise ValueError(f"nobody can fold {text}")


@functools.cache
def guests_class(version: int, slices: int) -> tuple[type[Projection], list[Callable[..., Any]]]:
    """Give the projection of guests with a version, and what answers queries of it."""

    class Guests(Projection, name="guests", version=version, slices=slices, on_poison="park"):
        rows: Table[GuestRow]

        @projects
        def registered(self, event: Registered, meta: Meta) -> None:
            self._add(meta, event.text)

        @projects
        def greeted(self, event: Greeted, meta: Meta) -> None:
            self._add(meta, event.text)

        @projects
        def reminded(self, event: Reminded, meta: Meta) -> None:
            self._add(meta, event.text)

        @projects
        def noted(self, event: Noted, meta: Meta) -> None:
            self._add(meta, "-")

        def _add(self, meta: Meta, text: str) -> None:
            Ailing.check("guests", text, meta.position)
            row = self.rows.get(meta.stream) or GuestRow(meta.stream, [], "", version)
            self.rows.put(
                GuestRow(
                    meta.stream, [*row.positions, meta.position], f"{row.texts}|{text}", version
                )
            )

    @answers(projections=[Guests])
    async def find_guests(query: FindGuests, views: Views) -> list[GuestRow]:
        if query.text:
            return await views.search(Guests.rows, query.text)
        return await views.find(Guests.rows, order_by="stream")

    return Guests, [find_guests]


@functools.cache
def stays_class(version: int) -> tuple[type[Projection], list[Callable[..., Any]]]:
    """Give the projection of stays, in its own SQL."""

    class Stays(SqlProjection, name="stays", version=version, on_poison="park"):
        tables = {
            "rows": (
                "CREATE TABLE {rows} (position INTEGER PRIMARY KEY, guest TEXT, said TEXT) STRICT",
                "CREATE INDEX {rows:by_text} ON {rows} (said)",
            )
        }

        @projects
        def booked(self, event: Booked, meta: Meta, sql: Sql) -> None:
            self._add(event.guest, event.text, meta, sql)

        @projects
        def welcomed(self, event: Welcomed, meta: Meta, sql: Sql) -> None:
            self._add(event.guest, event.text, meta, sql)

        def _add(self, guest: str, text: str, meta: Meta, sql: Sql) -> None:
            sql.run("INSERT INTO {rows} VALUES (?, ?, ?)", (meta.position, guest, text))
            Ailing.check("stays", text, meta.position)

    @answers(projections=[Stays])
    async def find_stays(query: FindStays, views: Views) -> list[tuple[Any, ...]]:
        return list(await views.sql("SELECT position, guest, said FROM stays_rows ORDER BY 1"))

    return Stays, [find_stays]


class LobbyRow(Row, key="stream"):
    """A guest of the lobby, or how many notes he has."""

    stream: str
    text: str


@functools.cache
def lobby_class(version: int) -> type[Projection]:
    """Give a projection whose odd versions see people, and whose even ones see nobody."""

    class Lobby(Projection, name="lobby", version=version):
        rows: Table[LobbyRow]

        @projects
        def noted(self, event: Noted, meta: Meta) -> None:
            self.rows.put(LobbyRow(meta.stream, "noted"))

    class Peopled(Projection, name="lobby", version=version):
        rows: Table[LobbyRow]

        @projects
        def registered(self, event: Registered, meta: Meta) -> None:
            self.rows.put(LobbyRow(meta.stream, event.text))

    return Peopled if version % 2 else Lobby

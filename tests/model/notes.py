"""Notes of what is said in a hall: events with subclasses, and projections that take them."""

from __future__ import annotations

from engine import Aggregate, Command, Id, applies, handles
from engine.model.messages import Event, Meta
from engine.model.projection import Projection, Row, Table, projects


class Happened(Event, name="happened"):
    by: str


class Began(Happened, name="began"):
    pass


class BeganLoudly(Began, name="began-loudly"):
    volume: int = 1


class Ended(Happened, name="ended"):
    pass


class Say(Command):
    hall_id: Id
    what: int


class Hall(Aggregate, kind="hall"):
    @handles
    def say(self, command: Say) -> Event:
        return (Happened("a"), Began("b"), BeganLoudly("c", 2), Ended("d"))[command.what]

    @applies
    def happened(self, event: Happened) -> None:
        pass

    @applies
    def began(self, event: Began) -> None:
        pass

    @applies
    def loudly(self, event: BeganLoudly) -> None:
        pass

    @applies
    def ended(self, event: Ended) -> None:
        pass


class Note(Row, key="position"):
    position: int
    by: str


class Notes(Projection, name="notes"):
    rows: Table[Note]

    @projects
    def anything(self, event: Happened, meta: Meta) -> None:
        self.rows.put(Note(meta.position, event.by))

    @projects
    def began(self, event: Began, meta: Meta) -> None:
        self.rows.put(Note(meta.position, f"began {event.by}"))

"""An application with private fields: of events, of a personal one beside, and of a view."""

from __future__ import annotations

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Meta,
    Personal,
    Private,
    Projection,
    Query,
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

NAME, NOTE, OLD, PAY = "Ann-Lee-77", "owes-the-bank-88", "wore-a-beard-99", 987_654_321


class HiredOne(Event, name="hired", version=1):
    team: str
    remark: Private[str]


class Hired(Event, name="hired", version=2):
    name: Personal[str]
    pay: Private[int]
    team: str
    note: Private[str | None] = None


@upcasts
def without_remark(old: HiredOne) -> Hired:
    return Hired("", 0, old.team)


class Hire(Command):
    person: Id
    team: str


class Person(Aggregate, kind="person"):
    @handles
    def hire(self, command: Hire) -> Hired:
        return Hired(NAME, PAY, command.team, NOTE)

    @applies
    def hired(self, event: Hired) -> None: ...


class PersonRow(Row, key="person"):
    person: str
    name: Private[str]
    pay: Private[int]
    team: str


class Staff(Projection, name="staff", version=1):
    rows: Table[PersonRow]

    @projects
    def hired(self, event: Hired, meta: Meta) -> None:
        self.rows.put(PersonRow(meta.id, event.name, event.pay, event.team))


class Seen(Query[None]):
    """Waits for the view."""


@answers(projections=[Staff])
async def seen(query: Seen, views: Views) -> None:
    return None


def make_engine(store: str = "memory:") -> Engine:
    return Engine(
        [Person], projections=[Staff], answers=[seen], store=store, upcasters=[without_remark]
    )


def make_later_engine(store: str = "memory:") -> Engine:
    """Give the application of a release that has no class of version 1 any more."""
    return Engine(
        [Person], projections=[Staff], answers=[seen], store=store, retired=[Retired("hired", (1,))]
    )

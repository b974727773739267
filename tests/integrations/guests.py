"""Guests whose names are personal, and a read model elsewhere that has them."""

from __future__ import annotations

from typing import Any

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
    Views,
    answers,
    applies,
    handles,
)
from engine.integrations.opensearch import OpenSearchReadModel


class CheckIn(Command):
    guest: Id
    name: str


class CheckedIn(Event, name="checked-in"):
    name: Personal[str]


class Guest(Aggregate, kind="guest"):
    @handles
    def check_in(self, command: CheckIn) -> CheckedIn:
        return CheckedIn(command.name)

    @applies
    def checked_in(self, event: CheckedIn) -> None: ...


class Kept(Query[None]):
    """Waits for the model."""


def apply(row: Any, event: CheckedIn, meta: Meta) -> dict[str, object]:
    return {"name": event.name}


def model(url: str, version: int = 1) -> type[Projection]:
    return OpenSearchReadModel("guests", to=url, events=[CheckedIn], apply=apply, version=version)


def make_engine(store: str, kept: type[Projection]) -> Engine:
    @answers(projections=[kept])
    async def answer(query: Kept, views: Views) -> None:
        return None

    return Engine([Guest], projections=[kept], answers=[answer], store=store, rebuild="auto")

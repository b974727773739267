"""An engine with what a console shows, and a client of its console that speaks ASGI."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from engine import (
    After,
    Aggregate,
    Claim,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    Limits,
    Meta,
    Personal,
    Projection,
    Query,
    Rejected,
    Row,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)
from engine.integrations.console import Console

LOCAL = "http://localhost"

AILING: set[str] = set()
"""Ids of notes that the projection `notes` cannot fold now; empty it after use."""


class Written(Event, name="written", subject="author"):
    author: str
    text: str
    signature: Personal[str] = "unsigned"


class Write(Command):
    note_id: Id
    text: str
    author: str = "ann"
    signature: str = "unsigned"


class Remind(Command):
    note_id: Id


class Fail(Command):
    note_id: Id


class Note(Aggregate, kind="note"):
    text: str = ""
    texts: dict[str, int] = {}
    signature: str = ""

    @handles
    def write(self, command: Write) -> Decision[Written]:
        return Decision(
            Written(command.author, command.text, command.signature),
            claims=[Claim("text", command.text)],
            timers=[After(Remind(self.id), "remind", hours=1)],
        )

    @handles
    def remind(self, command: Remind) -> None:
        return None

    @handles
    def fail(self, command: Fail) -> None:
        raise Rejected("failed", "always")

    @applies
    def written(self, event: Written) -> None:
        self.text = event.text
        self.signature = event.signature
        self.texts[event.text] = self.version + 1


class Line(Row, key="note"):
    note: str
    text: str


class Notes(Projection, name="notes", version=1, on_poison="park"):
    lines: Table[Line]

    @projects
    def written(self, event: Written, meta: Meta) -> None:
        if meta.id in AILING:
            raise ValueError(f"no room for {event.text}")
        self.lines.put(Line(meta.id, event.text))


class GetLine(Query[Line | None]):
    note: str


@answers
async def get_line(query: GetLine, views: Views) -> Line | None:
    return await views.get(Notes.lines, query.note)


def make_engine(store: str, **options: Any) -> Engine:
    """Give an engine of notes, not started."""
    return Engine([Note], projections=[Notes], answers=[get_line], store=store, **options)


@asynccontextmanager
async def notes(folder: Path, **options: Any) -> AsyncGenerator[Engine]:
    """Give a running engine of notes in a folder."""
    limits = options.pop("limits", Limits(idle_seconds=3_600))
    async with make_engine(f"sqlite:{folder / 'notes.db'}", limits=limits, **options) as engine:
        yield engine


@asynccontextmanager
async def asking(
    console: Any, *, host: str = LOCAL, client: tuple[str, int] = ("127.0.0.1", 5)
) -> AsyncGenerator[httpx.AsyncClient]:
    """Give a client of a console; `client` is where it seems to be."""
    transport = httpx.ASGITransport(console, client=client)
    async with httpx.AsyncClient(transport=transport, base_url=host) as asked:
        yield asked


@asynccontextmanager
async def console_of(engine: Engine, **options: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """Give a client of the console of an engine."""
    async with asking(Console(engine, **options)) as client:
        yield client


async def caught_up(engine: Engine) -> None:
    """Wait until the projection has seen all there is."""
    await engine.query(GetLine(""), at=engine.statistics().position)

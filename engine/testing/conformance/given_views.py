"""What the cases of a backend are made of: a log of ten events, projections, rows, and writes.

Rules: whatever is asked goes through the contract of backends alone: no file, no SQL of a store's
own, no attribute that the contract does not name. Checkpoints are those of the log, as a
projector's are, so that the tables are believed when they are opened again.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import pytest
import pytest_asyncio

from ...limits import Limits
from ...model.codec import EventRegistry
from ...model.messages import Event
from ...model.projection import Projection, Row, Table, TableDefinition, projects
from ...model.rows import Flat, Scalar
from ...model.sql_projection import AsyncSql, SqlProjection, SqlSession
from ...model.stored import EventData, StoredEvent
from ...runtime.ports import Ports
from ...stores.contract.backend import Backend
from ...stores.contract.log import AppendRequest, Batch, Head, LogSource, Store, Write
from ...stores.contract.views import (
    Changes,
    Checkpoint,
    DecisionKind,
    Parked,
    Part,
    ProjectionDecision,
    Rebuild,
    Selection,
    ViewsStore,
)

__all__ = [
    "ALL_ROWS",
    "BOOKS",
    "LOGGER",
    "PAGES",
    "THINGS",
    "BackendCases",
    "Book",
    "History",
    "Opened",
    "Page",
    "Shelf",
    "ShelfWithMore",
    "Shelved",
    "SlicedShelf",
    "Tally",
    "Thing",
    "WiderShelf",
    "a_decision",
    "a_parked",
    "flats",
    "keys_of",
    "part",
    "values_of",
]

EVENTS = 10
ALL_ROWS = Selection(limit=1_000_000)
LOGGER = logging.getLogger("foldline.conformance")
R = TypeVar("R", bound=Row)


class Shelved(Event, name="shelved"):
    """What the projections here are declared for; nobody folds it but where an engine runs."""

    id: str


class Book(Row, key="id", index=["price", ("author", "price")]):
    """A row of every kind of column."""

    id: str
    price: int = 0
    weight: float = 0.0
    author: str | None = None
    cover: bytes = b""
    lent: bool = False
    tags: list[str] = []
    blurb: str = ""


class Page(Row, key="number", index=["price"], search=["words", "note"]):
    """A row that is searched, with a number for its key."""

    number: int
    words: str = ""
    note: str | None = None
    price: int = 0


class Thing(Row, key="id", search=["words"]):
    """A row that is searched, with a text for its key."""

    id: str
    words: str = ""


class Shelf(Projection, name="shelf", version=1):
    """Three tables."""

    books: Table[Book]
    pages: Table[Page]
    things: Table[Thing]

    @projects
    def shelved(self, event: Shelved) -> None:
        """Do nothing: the cases write rows by themselves."""


class ShelfWithMore(Projection, name="shelf", version=2):
    """The same projection in its next version."""

    books: Table[Book]
    pages: Table[Page]
    things: Table[Thing]

    @projects
    def shelved(self, event: Shelved) -> None:
        """Do nothing."""


class WiderShelf(Projection, name="shelf", version=1):
    """Other tables under the same version, which nobody may use."""

    books: Table[Page]

    @projects
    def shelved(self, event: Shelved) -> None:
        """Do nothing."""


def _one_key(_event: Event, _meta: object) -> str:
    return "one"


class SlicedShelf(Projection, name="sliced", version=1, slices=2, sequence=_one_key):
    """Rows of which each belongs to the slice that put it first."""

    books: Table[Book]
    things: Table[Thing]

    @projects
    def shelved(self, event: Shelved) -> None:
        """Do nothing."""


class Tally(SqlProjection, name="tally", version=1, dialect=("sqlite", "postgresql")):
    """A table by SQL of its own."""

    tables: ClassVar = {
        "rows": "CREATE TABLE {rows} (name TEXT PRIMARY KEY, count INTEGER NOT NULL)"
    }

    @projects
    async def shelved(self, event: Shelved, sql: AsyncSql) -> None:
        """Do nothing."""


BOOKS = Shelf.books.definition
PAGES = Shelf.pages.definition
THINGS = Shelf.things.definition


def part(projection: type[Projection], build: int = 1, slice_: int = 0) -> Part:
    """Give a part of a projection."""
    return Part(projection.__definition__, build, slice_)


def flats(table: TableDefinition, rows: Sequence[Row]) -> dict[Scalar, Flat | None]:
    """Give rows as a write takes them."""
    found = [table.shape.flatten(row) for row in rows]
    return {flat[table.shape.key_place]: flat for flat in found}


def values_of(rows: Sequence[Any], field: str) -> list[Any]:
    """Give one field of each row."""
    return [getattr(row, field) for row in rows]


def keys_of(rows: Sequence[Any]) -> list[Any]:
    """Give the key of each row."""
    return [getattr(row, row.__shape__.key) for row in rows]


def a_parked(position: int, key: str = "k", **more: Any) -> Parked:
    """Give an event that is set aside."""
    return Parked(position, key, "shelved v1", f"shelf:{key}", 1_000 + position, **more)


def a_decision(kind: DecisionKind, **more: Any) -> ProjectionDecision:
    """Give what somebody decided about the shelf."""
    given: dict[str, Any] = {"projection": "shelf", "decided": 7, "version": 1, **more}
    return ProjectionDecision(kind=kind, **given)


class History(LogSource):
    """A log as somebody else may know it: another id, a shorter one, or one with other events."""

    def __init__(
        self, log: LogSource, *, log_id: str | None = None, end: int = EVENTS, changed: int = 0
    ) -> None:
        self._log = log
        self._log_id = log_id or log.log_id
        self._end = end
        self._changed = changed

    @property
    def log_id(self) -> str:
        """Its id."""
        return self._log_id

    async def head(self) -> Head:
        """Give the end that it is said to have."""
        page = await self.read_feed(self._end - 1, events_max=1, bytes_max=1)
        return Head(page[0].position, page[0].checksum, page[0].recorded) if page else Head()

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read what is said to be there."""
        page = await self._log.read_feed(after, events_max=events_max, bytes_max=bytes_max)
        return [
            msgspec.structs.replace(e, checksum=e.checksum ^ (e.position == self._changed))
            for e in page
            if e.position <= self._end
        ]


class Opened:
    """A backend whose log is open, and its views too."""

    def __init__(self, backend: Backend, log: Store, ports: Ports) -> None:
        self.backend = backend
        self.log = log
        self.ports = ports
        self.views: ViewsStore = backend.views(LOGGER)
        self._at = [Checkpoint()]

    async def open(
        self,
        *projections: type[Projection],
        history: LogSource | None = None,
        rebuild: Rebuild = "refuse",
        limits: Limits | None = None,
    ) -> ViewsStore:
        """Open the views for some projections; give them."""
        await self.views.close()
        self.views = self.backend.views(LOGGER)
        page = await self.log.read_feed(0, events_max=EVENTS, bytes_max=1 << 20)
        self._at = [Checkpoint(), *(Checkpoint(e.position, e.checksum) for e in page)]
        await self.views.open(
            self.ports, limits or Limits(), history or self.log, projections, rebuild=rebuild
        )
        return self.views

    def at(self, position: int) -> Checkpoint:
        """Give the checkpoint at a position of the log."""
        return self._at[position]

    def changes(
        self,
        target: type[Projection] | Part,
        before: int,
        after: int,
        rows: Mapping[str, Sequence[Row]] | None = None,
        *,
        gone: Mapping[str, Sequence[Scalar]] | None = None,
        **more: Any,
    ) -> Changes:
        """Give a write, by the attributes of tables."""
        to = target if isinstance(target, Part) else part(target)
        written: dict[str, dict[Scalar, Flat | None]] = {
            name: flats(to.definition.tables[name], some) for name, some in (rows or {}).items()
        }
        for name, keys in (gone or {}).items():
            written.setdefault(name, {}).update(dict.fromkeys(keys))
        return Changes(to, self.at(before), self.at(after), written, **more)

    async def write(
        self, target: type[Projection] | Part, before: int, after: int, *args: Any, **more: Any
    ) -> bool:
        """Write rows and move a checkpoint."""
        return await self.views.write(self.changes(target, before, after, *args, **more))

    async def put(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Put rows of the shelf, from where its tables stand to the next event."""
        now = (await self.views.checkpoint(part(Shelf))).position
        await self.write(Shelf, now, now + 1, rows)

    async def tally(self, name: str, before: int, build: int = 1) -> None:
        """Add a row to the tally by SQL, and move its checkpoint to the next event."""
        to = part(Tally, build)

        async def call(sql: SqlSession) -> Changes:
            await sql.run("INSERT INTO {rows} VALUES (?, 1)", (name,))
            return self.changes(to, before, before + 1, everything=True)

        await self.views.write_by(to, call)

    async def find(self, table: TableDefinition, selection: Selection = ALL_ROWS) -> list[Any]:
        """Give the rows of a table, in order of their keys unless it is said otherwise."""
        return await self.views.find(table, selection)

    async def books(self) -> list[Any]:
        """Give the keys of all books."""
        return keys_of(await self.find(BOOKS))

    async def close(self) -> None:
        """Close views and log."""
        await self.views.close()
        await self.log.close()


class BackendCases(ABC):
    """What the cases of a backend start from; abstract in how one is made."""

    keeps_views: ClassVar[bool] = True
    """Whether views are there still when they are closed and opened again."""

    @abstractmethod
    def new_backend(self, folder: Path) -> Backend:
        """Give a backend with a log of its own, not open yet; `folder` is for its files."""

    @abstractmethod
    def same_backend(self, backend: Backend) -> Backend:
        """Give what the same URL opens in a next process."""

    @pytest_asyncio.fixture
    async def opened(self, tmp_path: Path) -> AsyncIterator[Opened]:
        """Give a log of ten events, and its views with the shelf, all empty."""
        opened = await self.filled(self.new_backend(tmp_path))
        try:
            yield opened
        finally:
            await opened.close()

    async def filled(self, backend: Backend) -> Opened:
        """Open a backend for the first time, with a log of ten events."""
        log = backend.log()
        ports = Ports()
        await log.open(ports)
        registry = EventRegistry([Shelved])
        data = EventData(registry.type_of(Shelved), registry.encode(Shelved("a")))
        await log.append(Batch([AppendRequest([Write("shelf:1", 0, [data] * EVENTS)])], 5))
        opened = Opened(backend, log, ports)
        try:
            await opened.open(Shelf)
        except BaseException:
            await opened.close()
            raise
        return opened

    async def reopened(
        self, opened: Opened, *projections: type[Projection], **more: Any
    ) -> ViewsStore:
        """Close the views, and open them again; skip the case where nothing of them is kept."""
        if not self.keeps_views:
            pytest.skip("the views of this store end when they are closed, as it says")
        return await opened.open(*(projections or (Shelf,)), **more)

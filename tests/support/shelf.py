"""A small library, a log without an engine, and everything that is wired around a projector."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from engine.limits import Limits
from engine.log.bus import Bus
from engine.model.codec import EventRegistry
from engine.model.messages import Event, Meta
from engine.model.projection import Projection, Row, Table, projects
from engine.model.sql_projection import Sql, SqlProjection
from engine.model.stored import EventData, StoredEvent
from engine.projections.projector import Projector
from engine.projections.targets.rows import RowTarget
from engine.projections.targets.sql import SqlTarget
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.contract.views import Part, Rebuild
from engine.stores.memory import MemoryStore
from engine.stores.sqlite.views.store import SqliteViews

T = TypeVar("T")

LOGGER = logging.getLogger("tests.read")


class Copy(msgspec.Struct, frozen=True):
    shelf: str
    price: int


class Bought(Event, name="bought"):
    book: str
    price: int = 0
    notes: dict[str, Copy] = {}


class Lent(Event, name="lent"):
    book: str
    to: str


class Lost(Event, name="lost"):
    book: str


class Swept(Event, name="swept"):
    """Nobody handles it."""


class Dropped(Event, name="dropped"):
    """Its handler fails, until it is mended."""

    book: str


class Book(Row, key="id", index=["holder", "price"]):
    id: str
    price: int
    holder: str | None = None
    lent: int = 0
    notes: dict[str, Copy] = {}


class Reader(Row, key="name"):
    name: str
    books: int = 0
    last_position: int = 0


MENDED: list[bool] = []


class Library(Projection, name="library", version=1):
    books: Table[Book]
    readers: Table[Reader]

    @projects
    def bought(self, event: Bought) -> None:
        self.books.put(Book(event.book, event.price, notes=event.notes))

    @projects
    def lent(self, event: Lent, meta: Meta) -> None:
        book = self.books.get(event.book)
        if book is None:
            return
        self.books.update(event.book, holder=event.to, lent=book.lent + 1)
        reader = self.readers.get(event.to) or Reader(event.to)
        self.readers.put(Reader(event.to, reader.books + 1, meta.position))

    @projects
    def lost(self, event: Lost) -> None:
        self.books.delete(event.book)

    @projects
    def dropped(self, event: Dropped) -> None:
        self.books.put(Book(event.book, -1))
        if not MENDED:
            raise ValueError(f"the secret name {event.book}")


def lent_keys(event: Lent, _: Meta) -> Mapping[str, Sequence[str]]:
    return {"books": [event.book], "readers": [event.to]}


class Counts(Projection, name="counts", version=1):
    """Counts every event of three kinds, so that one that counts twice or never shows."""

    totals: Table[Reader]

    @projects
    def bought(self, event: Bought) -> None:
        self._count("all")

    @projects
    def lent(self, event: Lent) -> None:
        self._count("all")
        self._count(event.to)

    def _count(self, name: str) -> None:
        row = self.totals.get(name) or Reader(name)
        self.totals.put(Reader(name, row.books + 1))


class CountsInSql(SqlProjection, name="counts", version=1):
    """The same in SQL."""

    tables = {"totals": "CREATE TABLE {totals} (name TEXT PRIMARY KEY, books INTEGER NOT NULL)"}

    @projects
    def bought(self, event: Bought, sql: Sql) -> None:
        self._count("all", sql)

    @projects
    def lent(self, event: Lent, sql: Sql) -> None:
        self._count("all", sql)
        self._count(event.to, sql)

    def _count(self, name: str, sql: Sql) -> None:
        sql.run(
            "INSERT INTO {totals} VALUES (?, 1) ON CONFLICT DO UPDATE SET books = books + 1",
            (name,),
        )


EVENTS = (Bought, Lent, Lost, Swept, Dropped)


class Log(MemoryStore):
    """A log in memory that is written without an engine, at once."""

    def __init__(self, log_id: str = "log-1") -> None:
        super().__init__()
        self._log_id = log_id
        self.reads = 0
        self.before_answer: Callable[[], None] | None = None
        """Called once, after a page was read and before it is given."""

    @property
    def events(self) -> list[StoredEvent]:
        return self._log

    def write(self, *events: Event, stream: str = "shelf:1") -> Sequence[StoredEvent]:
        """Append events, as one commit; give them as stored."""
        registry = EventRegistry(dict.fromkeys(type(event) for event in events))
        data = [EventData(registry.type_of(type(e)), registry.encode(e)) for e in events]
        return self.write_data(data, stream)

    def write_data(
        self, data: Sequence[EventData], stream: str = "shelf:1"
    ) -> Sequence[StoredEvent]:
        expected = len(self._streams.get(stream, ()))
        batch = Batch([AppendRequest([Write(stream, expected, data)])], 1)
        return now(self.append(batch)).events

    def damage(self, position: int) -> None:
        """Flip a bit of an event's payload."""
        stored = self._log[position - 1]
        payload = bytes([stored.payload[0] ^ 1]) + stored.payload[1:]
        self._log[position - 1] = msgspec.structs.replace(stored, payload=payload)

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        self.reads += 1
        page = await super().read_feed(after, events_max=events_max, bytes_max=bytes_max)
        await asyncio.sleep(0)
        if self.before_answer is not None:
            call, self.before_answer = self.before_answer, None
            call()
        return page


def written(*positions: int, log_id: str = "log-1") -> Log:
    """Give a log of books that were bought, each for a price of its position."""
    log = Log(log_id)
    for position in positions:
        log.write(Bought("b", position))
    return log


def now(call: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    raise AssertionError("it waits for something")


def part_of(projection: type[Projection], build: int = 1) -> Part:
    """Give the one part of a projection that is not sliced."""
    return Part(projection.__definition__, build)


class Crash(BaseException):
    """The process ends here."""


class Served(Projector):
    """A projector whose tables queries see, and that nobody resets."""

    resets = 0


class Wired:
    """Views, a bus and the projectors of some projections, on one log."""

    def __init__(
        self,
        log: Log,
        path: str = ":memory:",
        projections: Sequence[type[Projection]] = (Library,),
        *,
        limits: Limits | None = None,
        failpoint: Callable[[str], None] | None = None,
        events: Sequence[type[Event]] = EVENTS,
        rebuild: Rebuild = "refuse",
    ) -> None:
        self.log = log
        self.rebuild: Rebuild = rebuild
        self.limits = limits or Limits()
        self.ports = Ports(failpoint=failpoint)
        self.bus = Bus(self.limits)
        self.views = SqliteViews(path, logger=LOGGER)
        self.projections = list(projections)
        self.registry = EventRegistry(events)
        self.projectors = {p.__definition__.name: self._projector(p) for p in projections}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def _projector(self, projection: type[Projection]) -> Served:
        part = part_of(projection)
        works = SqlTarget if part.definition.sql_tables else RowTarget
        return Served(
            part,
            works(part, self.views, self.registry, self.limits, self.ports),
            store=self.log,
            subscription=self.bus.subscribe(part.definition.name),
            limits=self.limits,
            ports=self.ports,
            logger=LOGGER,
            end_of_log=lambda: len(self.log.events),
            failed=self.views.note_failure,
        )

    async def replace(self, projection: type[Projection]) -> None:
        """Stop a projector, and start another one in its place."""
        name = projection.__definition__.name
        self.projectors[name].stop()
        await self.tasks[name]
        self.projectors[name] = self._projector(projection)
        self.tasks[name] = asyncio.create_task(self.projectors[name].run())

    @property
    def projector(self) -> Projector:
        return next(iter(self.projectors.values()))

    async def open(self) -> None:
        await self.views.open(
            self.ports, self.limits, self.log, self.projections, rebuild=self.rebuild
        )

    async def start(self) -> None:
        await self.open()
        for name, projector in self.projectors.items():
            self.tasks[name] = asyncio.create_task(projector.run())

    async def __aenter__(self) -> Wired:
        try:
            await self.start()
        except BaseException:
            await self.views.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for projector in self.projectors.values():
            projector.stop()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await self.views.close()

    def publish(self, *events: Event) -> None:
        self.bus.publish(self.log.write(*events))

    async def caught_up(self) -> None:
        """Wait until every projector is at the end of the log, or fail naming who is not."""
        for name, projector in self.projectors.items():
            deadline = asyncio.get_running_loop().time() + 10
            position = len(self.log.events)
            assert await projector.wait_for(position, deadline), (name, projector.statistics())

    async def ended(self, name: str = "library") -> None:
        """Wait until a projector is stopped, or live and at the end."""
        projector = self.projectors[name]
        deadline = asyncio.get_running_loop().time() + 10
        await projector.wait_for(len(self.log.events), deadline)

    async def rows(self, table: Table[Any]) -> dict[Any, Any]:
        """Give a whole table by key."""
        from engine.stores.contract.views import Selection

        found = await self.views.find(table.definition, Selection(limit=1_000_000))
        return {getattr(row, table.definition.shape.key): row for row in found}


def fold_all(log: Log) -> dict[str, int]:
    """Give what `Counts` must show of a log, by the plainest means."""
    totals: dict[str, int] = {}
    for stored in log.events:
        content = msgspec.json.decode(stored.payload)
        names = {"bought": ["all"], "lent": ["all", content.get("to")]}.get(stored.name, [])
        for name in names:
            totals[name] = totals.get(name, 0) + 1
    return totals

"""A log that is copied into a schema of a server from elsewhere, and what stands about it beside.

Rules: until it is whole and verified the schema has a table that says how far it is, in the
transaction of each page; no engine and no reader takes it for a log meanwhile. So a copy that was
killed goes on from there. Each run has a number there, and each transaction looks whether that is
the last one: whoever went on with the copy of another process is the only one who writes it, and
nobody writes to what has become a log. Nothing is written over. Events come by COPY, so it needs
the owner of the schema. Pages are not synced, and are durable in their order; the last commit,
which makes it a log, syncs all of them. Calls block.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Protocol, cast

import msgspec

from ....errors import EngineError, StoreRefused
from ....model.projection import slice_of
from ....model.stored import EventType, Snapshot, StoredEvent
from ...contract.claims import HeldClaim
from ...contract.copying import Carried, Mark, Repaired, foreign_copy, rival_copy
from ...contract.outside import Found
from ...contract.requests import Request
from ...contract.timers import WaitingTimer
from ...contract.views import Parked
from ..failures import described_failure, sqlstate_of
from ..log.repairs import MAKE, WRITE
from ..log.schema import COPYING, MIGRATIONS, make_all, with_schema
from ..settings import check_settings
from ..views.books import Books, kept
from ..views.link import Link, Place, transaction
from ..views.schema import make_schema
from .blocking import Blocking
from .log import PostgresLogReader

__all__ = ["PostgresCopyTarget"]

_NO_RIGHT: Final = "42501"
_NO_TABLE: Final = "42P01"
_NOT_IN_A_TEXT: Final = "22021"
_COLUMNS: Final = (
    "position",
    "recorded",
    "behind",
    "checksum",
    "version",
    "type",
    "encoding",
    "stream",
    "payload",
    "metadata",
)
_CLAIM: Final = ("name", "value", "stream", "position")
_TIMER: Final = WaitingTimer.__struct_fields__
_MARK: Final = """
CREATE TABLE {s}.copying(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL,
    checksum bigint NOT NULL,
    digest bigint NOT NULL,
    run bigint NOT NULL
);
INSERT INTO {s}.copying(position, checksum, digest, run) VALUES (0, 0, 0, 0);
"""
_IN_SCHEMA: Final = (
    "SELECT c.relname::text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
    "ON n.oid = c.relnamespace WHERE n.nspname = $1"
)
_TYPES: Final = (
    "INSERT INTO {s}.event_types SELECT * FROM unnest($1::integer[], $2::text[], $3::integer[], "
    "$4::text[]) ON CONFLICT (number) DO UPDATE SET schema_hash = excluded.schema_hash"
)
_SNAPSHOTS: Final = (
    "SELECT {s}.keep_snapshots_1($1::text[], $2::integer[], $3::bigint[], $4::bigint[], "
    "$5::integer[], $6::bytea[])"
)
_BOOKS: Final = ("decisions", "requests", "builds", "checkpoints", "parked", "failures")


class _Copies(Protocol):
    """What a connection of asyncpg's has for many rows."""

    async def copy_records_to_table(
        self,
        table_name: str,
        *,
        records: Iterable[Sequence[Any]],
        columns: Sequence[str],
        schema_name: str,
    ) -> str:
        """Add rows to a table by COPY."""
        ...


class PostgresCopyTarget:
    """The schema of a place, and that of its views."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._schema = place.log_schema
        self._calls = Blocking(place)
        self._books = Books(place.schema)
        self._log_id = ""
        self._run = 0
        """Its number among those that wrote to this copy."""
        self._types: dict[tuple[str, int], int] = {}
        self._known: Sequence[EventType] = ()

    @property
    def name(self) -> str:
        """Its URL without user and password."""
        return self._place.name

    def __enter__(self) -> PostgresCopyTarget:
        """Connect."""
        try:
            self._calls.open()
        except BaseException:
            self._calls.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._calls.close()

    def _in(self, sql: str) -> str:
        return with_schema(sql, self._schema)

    # -- the log ------------------------------------------------------------------------------

    def begin(self, log_id: str) -> Mark:
        """Make the schema, or go on with the one that is there."""
        self._log_id = log_id
        return self._calls.run(self._begin)

    async def _begin(self, link: Link) -> Mark:
        await check_settings(link.line.connection, self._place.address)
        async with self._as_owner(), transaction(link):
            await link.do(self._in("SELECT pg_advisory_xact_lock({lock})"))
            there = {name for (name,) in await link.run(_IN_SCHEMA, self._schema)}
            if COPYING not in there:
                await self._make(link, there)
            ((log_id, version),) = await link.run(
                self._in("SELECT log_id, schema_version FROM {s}.about")
            )
            if version != len(MIGRATIONS):
                raise StoreRefused(
                    f"the copy in {self.name} was begun by another release: drop the schema "
                    f"{self._schema}, and begin anew"
                )
            if log_id != self._log_id:
                raise foreign_copy(self.name, log_id, self._log_id)
            sql = "UPDATE {s}.copying SET run = run + 1 RETURNING run, position, checksum, digest"
            ((self._run, *mark),) = await link.run(self._in(sql))
            return Mark(*mark)

    async def _make(self, link: Link, there: set[str]) -> None:
        views = await link.run(_IN_SCHEMA, self._place.schema)
        for schema, found in ((self._schema, there), (self._place.schema, views)):
            if found:
                raise StoreRefused(
                    f"the schema {schema} in {self.name} is not empty, and a copy writes over "
                    f"nothing: name another one by ?schema=, or drop it. Nothing was changed"
                )
        for statement in make_all(self._schema):
            await link.do(statement)
        await link.do(self._in(_MARK))
        await link.run(self._in("UPDATE {s}.about SET log_id = $1"), self._log_id)

    def add(
        self, events: Sequence[StoredEvent], types: Sequence[EventType], before: Mark, after: Mark
    ) -> None:
        """Add a page, and say how far the copy is, in one transaction."""
        self._calls.run(self._add, events, types, before, after)

    async def _add(
        self,
        link: Link,
        events: Sequence[StoredEvent],
        types: Sequence[EventType],
        before: Mark,
        after: Mark,
    ) -> None:
        begin = self._in(
            "BEGIN; SET LOCAL synchronous_commit = off; "
            "SELECT set_config('foldline.appending', '{s}', true)"
        )
        async with self._writing(link, events, begin):
            moved = await link.run(
                self._in(
                    "UPDATE {s}.copying SET position = $1, checksum = $2, digest = $3 "
                    "WHERE position = $4 RETURNING 1"
                ),
                *(after.position, after.checksum, after.digest, before.position),
            )
            if not moved:
                raise rival_copy(self.name)
            await self._keep_types(link, types)
            await self._copy(link, "events", _COLUMNS, [self._row(event) for event in events])

    async def _copy(
        self, link: Link, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> None:
        await cast("_Copies", link.line.connection).copy_records_to_table(
            table, records=rows, columns=columns, schema_name=self._schema
        )

    def _row(self, event: StoredEvent) -> tuple[int | str | bytes, ...]:
        return (
            event.position,
            event.recorded,
            event.behind,
            event.checksum,
            event.version,
            self._types[event.name, event.event_version],
            event.encoding,
            event.stream,
            event.payload,
            event.metadata,
        )

    async def _keep_types(self, link: Link, types: Sequence[EventType]) -> None:
        if types is self._known:
            return
        await link.run(
            self._in(_TYPES),
            list(range(1, len(types) + 1)),
            [kind.name for kind in types],
            [kind.version for kind in types],
            [kind.schema_hash for kind in types],
        )
        self._types = {(kind.name, kind.version): n for n, kind in enumerate(types, 1)}
        self._known = types

    @asynccontextmanager
    async def _writing(
        self, link: Link, events: Sequence[StoredEvent] = (), begin: str = "BEGIN"
    ) -> AsyncGenerator[None]:
        """Write in one transaction, in which nobody else can go on with this copy or end it."""
        async with self._as_owner(events), transaction(link, begin):
            sql = self._in("SELECT 1 FROM {s}.copying WHERE run = $1 FOR UPDATE")
            if not await link.run(sql, self._run):
                raise rival_copy(self.name)
            yield

    @asynccontextmanager
    async def _as_owner(self, events: Sequence[StoredEvent] = ()) -> AsyncGenerator[None]:
        """Say who must act where the server refuses what a copy needs."""
        try:
            yield
        except EngineError:
            raise
        except Exception as error:
            state = sqlstate_of(error)
            if state == _NO_RIGHT:
                raise StoreRefused(
                    f"{self.name}: a copy is made by the owner of its schemas, who may make them "
                    f"too: {described_failure(error)}. Connect as that one. Engines need fewer "
                    f"rights"
                ) from error
            if state == _NO_TABLE and COPYING in str(error):
                raise rival_copy(self.name) from error  # who has made it a log meanwhile
            if state == _NOT_IN_A_TEXT:
                raise StoreRefused(self._unfit(events)) from error
            raise

    def _unfit(self, events: Sequence[StoredEvent]) -> str:
        where = next((e.position for e in events if "\0" in e.stream), None)
        return (
            f"the event at position {where} is of a stream whose name has a NUL, which PostgreSQL "
            f"cannot hold: this log stays in SQLite. The copy in {self.name} has all before it, "
            f"and is no log"
        )

    # -- the rest -----------------------------------------------------------------------------

    def clear_kept(self) -> None:
        """Forget what claims and timers were kept."""
        self._calls.run(self._clear_kept)

    async def _clear_kept(self, link: Link) -> None:
        async with self._writing(link):
            await link.do(self._in("DELETE FROM {s}.claims"))
            await link.do(self._in("DELETE FROM {s}.timers"))

    def keep_claims(self, claims: Sequence[HeldClaim]) -> None:
        """Keep more claims."""
        self._calls.run(self._keep_claims, claims)

    async def _keep_claims(self, link: Link, claims: Sequence[HeldClaim]) -> None:
        async with self._writing(link):
            await self._copy(link, "claims", _CLAIM, map(msgspec.structs.astuple, claims))

    def keep_timers(self, timers: Sequence[WaitingTimer]) -> None:
        """Keep more timers."""
        self._calls.run(self._keep_timers, timers)

    async def _keep_timers(self, link: Link, timers: Sequence[WaitingTimer]) -> None:
        async with self._writing(link):
            await self._copy(link, "timers", _TIMER, map(msgspec.structs.astuple, timers))

    def keep_snapshots(self, snapshots: Iterable[Sequence[Snapshot]]) -> None:
        """Keep snapshots, each page in a transaction."""
        for page in snapshots:
            self._calls.run(self._keep_snapshots, page)

    async def _keep_snapshots(self, link: Link, page: Sequence[Snapshot]) -> None:
        columns = [list(column) for column in zip(*map(msgspec.structs.astuple, page), strict=True)]
        if columns:
            async with self._writing(link):
                await link.run(self._in(_SNAPSHOTS), *columns)

    def keep_carried(self, types: Sequence[EventType], carried: Carried | None) -> None:
        """Fill the books of the views, in one transaction."""
        self._calls.run(self._keep_carried, types, carried)

    async def _keep_carried(
        self, link: Link, types: Sequence[EventType], carried: Carried | None
    ) -> None:
        async with self._writing(link):
            await self._keep_types(link, types)
        if carried is None:
            return
        async with self._as_owner():
            await make_schema(link, self._place, self._log_id)
            async with self._writing(link):
                for table in _BOOKS:
                    await self._books.run(link, f"DELETE FROM {{s}}.{table}")  # noqa: S608 - ours
                for decision in carried.decisions:
                    await self._books.add_decision(link, decision)
                await self._add_requests(link, carried.requests)
                for sink in carried.sinks:
                    await self._add_sink(link, sink, carried.parked[sink.projection])

    async def _add_requests(self, link: Link, requests: Sequence[Request]) -> None:
        for r in requests:
            arguments = msgspec.json.encode(r.arguments).decode()
            principal = None if r.principal is None else kept(r.principal)
            await self._books.run(
                link,
                "INSERT INTO {s}.requests OVERRIDING SYSTEM VALUE "
                "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                *(r.number, kept(r.kind), kept(r.projection), kept(arguments), r.asked),
                *(principal, r.state, kept(r.answer), r.answered),
            )
        if requests:
            # No number is given twice.
            await self._books.run(
                link,
                "SELECT setval(pg_get_serial_sequence($1, 'number'), $2)",
                *(f'"{self._place.schema}".requests', max(r.number for r in requests)),
            )

    async def _add_sink(self, link: Link, sink: Found, parked: Sequence[Parked]) -> None:
        name, number = sink.projection, sink.number
        await self._books.run(
            link,
            "INSERT INTO {s}.builds VALUES ($1, $2, $3, $4, $5, $6, '[]', 'serving', NULL, false)",
            *(name, number, sink.version, sink.definition, sink.slices, sink.log_id),
        )
        for slice_, at in sorted(sink.checkpoints.items()):
            await self._books.run(
                link,
                "INSERT INTO {s}.checkpoints VALUES ($1, $2, $3, $4, $5)",
                *(name, number, slice_, at.position, at.checksum),
            )
        for p in parked:
            await self._books.run(
                link,
                "INSERT INTO {s}.parked VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                *(name, number, p.position, slice_of(p.key, sink.slices), kept(p.key)),
                *(kept(p.event), kept(p.stream), p.parked, p.attempts, kept(p.cause)),
            )

    def keep_repairs(self, repairs: Sequence[Repaired]) -> None:
        """Keep what was repaired."""
        if repairs:
            self._calls.run(self._keep_repairs, repairs)

    async def _keep_repairs(self, link: Link, repairs: Sequence[Repaired]) -> None:
        rows = [(*msgspec.structs.astuple(one)[:5], kept(one.cause), one.source) for one in repairs]
        async with self._writing(link):
            await link.do(self._in(MAKE))
            await link.run(self._in(WRITE), *map(list, zip(*rows, strict=True)))

    def written(self) -> PostgresLogReader:
        """Give the schema to be read."""
        return PostgresLogReader(self._place, copying=True, walked=True)

    def place(self) -> None:
        """Make it a log, synced."""
        self._calls.run(self._make_a_log)

    async def _make_a_log(self, link: Link) -> None:
        async with self._as_owner():
            await link.do(self._in("ANALYZE {s}.events, {s}.event_types"))
            async with self._writing(link):
                await link.do(self._in("DROP TABLE {s}.copying"))

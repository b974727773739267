"""A log in PostgreSQL that is only read, beside its engine or without one.

Rules: every read is one statement, and so of one moment; no lock is taken that anybody waits for,
and nothing is made where there is no log. Calls block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Final

from ....errors import Damaged, StoreRefused
from ....model.stored import EventType, StoredEvent
from ....runtime.native import result_of
from ...contract.archiving import ArchiveRun
from ...contract.claims import ClaimKey, HeldClaim
from ...contract.log import Head, StreamPage, StreamRead
from ...contract.outside import NoLog
from ...contract.tags import TagForm, TagPage, TagRead, TagRow
from ...contract.timers import BEGINNING, FOREVER, TimerKey, WaitingTimer
from ..driver import Record
from ..log.claims import CLAIMS_SINCE, read_claims
from ..log.cold import kept_after, read_archives
from ..log.cold_sql import ARCHIVES_SINCE
from ..log.guards import hiding, unfinished
from ..log.reading import (
    events_of_feed,
    pages_of_streams,
    read_feed,
    read_head,
    read_kinds,
    read_streams,
    read_types,
    read_versions,
)
from ..log.schema import COPYING, MIGRATIONS, half_copied
from ..log.tags import TAGS_SINCE, pages_of_tagged, read_forms, read_rows, read_tagged
from ..log.timers import TIMERS_SINCE, read_due, read_timers
from ..views.link import Link, Place
from .blocking import Blocking

__all__ = ["PostgresLogReader", "holder", "is_in_use"]

_HOLDER: Final = "SELECT holder FROM {s}.sessions WHERE live AND lease_until > clock_timestamp()"
_RUNNER: Final = "SELECT 1 FROM {s}.members WHERE lease_until > clock_timestamp() LIMIT 1"
_CHECKSUM: Final = "SELECT checksum FROM {s}.events WHERE position = $1"
_PROCESS: Final = re.compile(r"process (\d+) ")
_ABOUT: Final = (
    "SELECT log_id, schema_version, pg_catalog.row_security_active('{s}.events') FROM {s}.about"
)
_THERE: Final = "SELECT to_regclass($1::text) IS NOT NULL"


class PostgresLogReader:
    """The log at a place; use it with `with`."""

    def __init__(self, place: Place, *, copying: bool = False, walked: bool = False) -> None:
        """Take where it is.

        With `copying` a log is read that is being copied to there. `walked` says that the feed is
        read from one end to the other, so that a page may be read before it is asked for.
        """
        self._place = place
        self._copying = copying
        self._is_walked = walked
        self._coming: tuple[tuple[int, int, int], Future[Sequence[Record]]] | None = None
        """What is read ahead: behind which position, events and bytes at most; and its rows."""
        self._calls = Blocking(place, reads=True)
        self._types: dict[int, EventType] = {}
        self._has_claims = self._has_timers = self._has_tags = self._has_archives = False
        self.log_id = ""

    @property
    def name(self) -> str:
        """Its URL without user and password."""
        return self._place.name

    # -- life ---------------------------------------------------------------------------------

    def __enter__(self) -> PostgresLogReader:
        """Open it."""
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def open(self) -> None:
        """Connect; raise StoreRefused where there is no log that can be read."""
        try:
            self._calls.open()
            self.log_id = self._calls.run(self._opened)
        except BaseException:
            self.close()
            raise

    async def _opened(self, link: Link) -> str:
        schema = self._place.log_schema
        if not (await link.run(_THERE, f"{schema}.about"))[0][0]:
            raise NoLog(f"there is no log {self.name}: no engine has made one there yet")
        if not self._copying and (await link.run(_THERE, f"{schema}.{COPYING}"))[0][0]:
            raise half_copied(self.name)
        rows = await link.run(self._place.address.sql(_ABOUT))
        if len(rows) != 1:
            raise unfinished(schema, f"the one row of {schema}.about")
        ((log_id, version, is_hidden),) = rows
        if is_hidden:
            raise hiding(schema, "events")
        if version > len(MIGRATIONS):
            raise StoreRefused(
                f"{self.name} has schema version {version}, and this release knows up to "
                f"{len(MIGRATIONS)}: a later release has moved it forward. Use that one"
            )
        self._has_claims = version >= CLAIMS_SINCE
        self._has_timers = version >= TIMERS_SINCE
        self._has_tags = version >= TAGS_SINCE
        self._has_archives = version >= ARCHIVES_SINCE
        return str(log_id)

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._calls.close()
        self._coming = None
        self._types.clear()

    # -- reading ------------------------------------------------------------------------------

    def head(self) -> Head:
        """Give the end of the log, as it is now."""
        return self._calls.run(self._head)

    async def _head(self, link: Link) -> Head:
        return await read_head(link.line, self._place.log_schema)

    def event_types(self) -> Sequence[EventType]:
        """Give the types that the log has stored, in the order of their first use."""
        self._calls.run(self._read_types)
        return tuple(self._types.values())

    async def _read_types(self, link: Link) -> None:
        rows = await read_types(link.line, self._place.log_schema)
        self._types = {
            number: EventType(name, version, hash_) for number, name, version, hash_ in rows
        }

    def kinds(self) -> Sequence[str]:
        """Give the kinds of its streams, sorted."""
        return self._calls.run(self._kinds)

    async def _kinds(self, link: Link) -> Sequence[str]:
        return await read_kinds(link.line, self._place.log_schema)

    def checksum_at(self, position: int) -> int | None:
        """Give the checksum at a position, which need not fit what stands there."""
        return self._calls.run(self._checksum_at, position)

    async def _checksum_at(self, link: Link, position: int) -> int | None:
        rows = await link.run(self._place.address.sql(_CHECKSUM), position)
        return int(rows[0][0]) if rows else None

    def version_of(self, stream: str) -> int:
        """Give the version of a stream, 0 where it has no events."""
        return self._calls.run(self._version_of, stream)

    async def _version_of(self, link: Link, stream: str) -> int:
        return (await read_versions(link.line, self._place.log_schema, [stream]))[stream]

    def change_count(self) -> int:
        """Give a number that changes whenever somebody has appended."""
        return self.head().position

    def read_feed(self, after: int, *, events_max: int, bytes_max: int) -> Sequence[StoredEvent]:
        """Read the global order after a position; empty at the end of the log."""
        while True:
            rows = self._feed_rows(after, events_max, bytes_max)
            try:
                return events_of_feed(rows, after, self._type)
            except Damaged:
                # A smaller page, which ends before the damage.
                if events_max == 1:
                    raise
                events_max //= 2

    def _feed_rows(self, after: int, events_max: int, bytes_max: int) -> Sequence[Record]:
        rows = self._taken(after, events_max, bytes_max)
        if len(rows) < events_max:
            rows = self._calls.run(self._read_feed, after, events_max, bytes_max)
        if self._is_walked and len(rows) == events_max:
            # The server reads on while this page is made into events.
            asked = (rows[-1][0], events_max, bytes_max)
            self._coming = asked, self._calls.begin(self._read_feed, *asked)
        return rows

    def _taken(self, after: int, events_max: int, bytes_max: int) -> Sequence[Record]:
        """Give what was read ahead, where it is the page that is asked for or begins with it.

        A page that ends early is none: there may be more by now.
        """
        coming, self._coming = self._coming, None
        if coming is None:
            return ()
        (begun, most, bytes_), rows = coming
        if (begun, bytes_) != (after, bytes_max) or most < events_max:
            return ()
        return result_of(rows)[:events_max]

    async def _read_feed(
        self, link: Link, after: int, events_max: int, bytes_max: int
    ) -> Sequence[Record]:
        rows = await read_feed(link.line, self._place.log_schema, after, events_max, bytes_max)
        await self._know_types(link, {row[3] for row in rows})
        return rows

    def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once, as `Store.read_streams` does."""
        return self._calls.run(self._read_streams, reads, events_max, bytes_max)

    async def _read_streams(
        self, link: Link, reads: Sequence[StreamRead], events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        while True:
            rows = await read_streams(
                link.line, self._place.log_schema, reads, events_max, bytes_max
            )
            await self._know_types(link, {row[4] for row in rows if row[4] is not None})
            try:
                return pages_of_streams(rows, reads, self._type)
            except Damaged:
                if events_max == 1:
                    raise
                events_max //= 2

    def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, in order, as `Store.read_claims` does."""
        return self._calls.run(self._read_claims, after, claims_max)

    async def _read_claims(self, link: Link, after: ClaimKey, claims_max: int) -> list[HeldClaim]:
        if not self._has_claims:
            return []
        return await read_claims(link.line, self._place.log_schema, after, claims_max)

    def archives(self) -> Sequence[ArchiveRun]:
        """Give the runs of the archive, in their order."""
        return self._calls.run(self._archives)

    async def _archives(self, link: Link) -> Sequence[ArchiveRun]:
        schema = self._place.log_schema
        return await read_archives(link.line, schema) if self._has_archives else ()

    def kept_after(self, position: int) -> int | None:
        """Give the position of the next event whose contents were not moved; None if all were."""
        return self._calls.run(self._kept_after, position)

    async def _kept_after(self, link: Link, position: int) -> int | None:
        return await kept_after(link.line, self._place.log_schema, position)

    def read_timers(self, after: TimerKey = ("", ""), *, timers_max: int) -> list[WaitingTimer]:
        """Give the timers behind `after`, in order, as `Store.read_timers` does."""
        return self._calls.run(self._read_timers, after, timers_max)

    async def _read_timers(
        self, link: Link, after: TimerKey, timers_max: int
    ) -> list[WaitingTimer]:
        if not self._has_timers:
            return []
        return await read_timers(link.line, self._place.log_schema, after, timers_max)

    def next_timer(self) -> int | None:
        """Give when the next timer is to be tried, in µs; None if none waits."""
        return self._calls.run(self._next_timer)

    async def _next_timer(self, link: Link) -> int | None:
        if not self._has_timers:
            return None
        page = await read_due(link.line, self._place.log_schema, BEGINNING, FOREVER, 1)
        return page[0].next if page else None

    def tag_forms(self) -> Sequence[TagForm]:
        """Give the forms by which the index of tags was made."""
        return self._calls.run(self._tag_forms)

    async def _tag_forms(self, link: Link) -> Sequence[TagForm]:
        return await read_forms(link.line, self._place.log_schema) if self._has_tags else ()

    def read_tags(self, after: tuple[str, int] = ("", 0), *, rows_max: int) -> Sequence[TagRow]:
        """Give rows of the index of tags, in order."""
        return self._calls.run(self._read_tags, after, rows_max)

    async def _read_tags(
        self, link: Link, after: tuple[str, int], rows_max: int
    ) -> Sequence[TagRow]:
        if not self._has_tags:
            return ()
        return await read_rows(link.line, self._place.log_schema, after, rows_max)

    def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select, as `Store.read_tagged` does."""
        return self._calls.run(self._read_tagged, reads, events_max, bytes_max)

    async def _read_tagged(
        self, link: Link, reads: Sequence[TagRead], events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        if not self._has_tags:
            return [TagPage((), False) for _ in reads]
        schema = self._place.log_schema
        while True:
            rows, counts = await read_tagged(link.line, schema, reads, events_max, bytes_max)
            await self._know_types(link, {row[4] for row in rows})
            try:
                return pages_of_tagged(rows, counts, self._type)
            except Damaged:
                if events_max == 1:
                    raise
                events_max //= 2

    async def _know_types(self, link: Link, numbers: set[int]) -> None:
        if not numbers <= self._types.keys():
            await self._read_types(link)

    def _type(self, number: int) -> tuple[str, int] | None:
        known = self._types.get(number)
        return None if known is None else (known.name, known.version)


async def is_in_use(link: Link, place: Place) -> bool:
    """Tell whether an engine has the log open or runs projections of it, or did a moment ago."""
    if await link.run(place.address.sql(_HOLDER)):
        return True
    if not (await link.run(_THERE, f"{place.log_schema}.members"))[0][0]:
        return False
    return bool(await link.run(place.address.sql(_RUNNER)))


async def holder(link: Link, place: Place) -> int | None:
    """Give the process that has the log open, as far as its own note tells; None for none."""
    if not (await link.run(_THERE, f"{place.log_schema}.sessions"))[0][0]:
        return None
    rows = await link.run(place.address.sql(_HOLDER))
    found = _PROCESS.match(str(rows[0][0])) if rows else None
    return int(found[1]) if found else None

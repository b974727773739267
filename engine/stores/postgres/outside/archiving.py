"""Moves the contents of closed streams out of a log in PostgreSQL, into a schema beside it.

Rules: engines may have the log open, of this release. What is copied is committed, read back over
another connection, and compared byte for byte and with its checksums. Only then the events are
emptied, in a transaction with the note of it, and a trigger compares once more. The last event of
the log is never moved, since an engine looks at it as it starts. The server gives the room to what
is written next; to make its files smaller is left to who operates it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Final

import msgspec

from ....errors import EngineError, StoreFailed, StoreRefused
from ...contract.archiving import MOVED, Archived, ArchiveRule, Progress
from ..driver import Record
from ..failures import described_failure, passes_by_itself, sqlstate_of
from ..log.cold_sql import ARCHIVES_SINCE, COLD, cold_schema
from ..log.reading import EventReader, read_types
from ..log.schema import MIGRATIONS, with_schema
from ..views.catalog import SYNCED
from ..views.link import Link, Place, transaction

__all__ = ["PostgresArchiver"]

_PAGE_EVENTS: Final = 5_000
_PAGE_BYTES: Final = 16 * 1024 * 1024
"""What is moved in one transaction."""
_SCANNED: Final = 1_000
"""Streams that one statement looks at."""

_THERE: Final = "SELECT to_regclass($1::text) IS NOT NULL"
_ABOUT: Final = "SELECT log_id, schema_version FROM {s}.about"
_OLDER: Final = """
SELECT s.holder FROM {s}.sessions s, {s}.about a
WHERE s.live AND s.lease_until > clock_timestamp() AND s.opened < a.archives_since LIMIT 1
"""
_SCAN: Final = f"""
WITH RECURSIVE s(stream, n) AS (
    (SELECT e.stream, 1 FROM {{s}}.events e
        WHERE e.stream > $1 AND e.stream >= $2 || ':' AND e.stream < $2 || ';'
        ORDER BY e.stream LIMIT 1)
    UNION ALL
    SELECT (SELECT e.stream FROM {{s}}.events e WHERE e.stream > s.stream AND e.stream < $2 || ';'
        ORDER BY e.stream LIMIT 1), s.n + 1
    FROM s WHERE s.stream IS NOT NULL AND s.n < {_SCANNED}
)
SELECT s.stream, e.encoding <> {MOVED} AND e.recorded < $4
    AND e.position < (SELECT max(position) FROM {{s}}.events)
    AND e.type IN (SELECT number FROM {{s}}.event_types WHERE name = ANY ($3::text[]))
FROM s CROSS JOIN LATERAL (
    SELECT * FROM {{s}}.events WHERE events.stream = s.stream ORDER BY version DESC LIMIT 1) e
WHERE s.stream IS NOT NULL ORDER BY s.stream
"""  # noqa: S608 - numbers of ours
_SIZES: Final = f"""
SELECT stream, position, octet_length(payload) + octet_length(metadata) FROM {{s}}.events
WHERE stream = ANY ($1::text[]) AND encoding <> {MOVED} ORDER BY stream, version
"""  # noqa: S608 - a number of ours
_ROWS: Final = """
SELECT position, stream, version, type, recorded, payload, metadata, encoding, checksum, behind
FROM {s}.events WHERE position = ANY ($1::bigint[]) ORDER BY position
"""
_COPY: Final = f"""
INSERT INTO {{s}}_archive.contents
SELECT position, checksum, encoding, payload, metadata FROM {{s}}.events
WHERE position = ANY ($1::bigint[]) AND encoding <> {MOVED} ON CONFLICT DO NOTHING
"""  # noqa: S608 - a number of ours
_COPIED: Final = """
SELECT position, payload, metadata, encoding, checksum FROM {s}_archive.contents
WHERE position = ANY ($1::bigint[]) ORDER BY position
"""
_EMPTY: Final = f"""
WITH emptied AS (
    UPDATE {{s}}.events SET encoding = {MOVED}, payload = '', metadata = ''
    WHERE position = ANY ($1::bigint[]) AND encoding <> {MOVED} RETURNING 1)
SELECT count(*) FROM emptied
"""  # noqa: S608 - a number of ours
_BEGIN_RUN: Final = """
INSERT INTO {s}.archives(begun, rule, streams, events, bytes, position)
VALUES ($1, $2, 0, 0, 0, 0) RETURNING number
"""
_NOTE: Final = """
UPDATE {s}.archives SET streams = streams + $1, events = events + $2, bytes = bytes + $3,
    position = greatest(position, $4) WHERE number = $5
"""
_SIZE: Final = "SELECT coalesce(pg_total_relation_size(to_regclass($1::text)), 0)"
_NO_RIGHT: Final = "42501"


class _Page(msgspec.Struct):
    """Events that are moved in one transaction."""

    positions: list[int] = []
    bytes: int = 0
    streams: int = 0
    """Whose last event is among them."""


class PostgresArchiver:
    """Moves closed streams of the log at a place."""

    has_log = False

    def __init__(self, place: Place) -> None:
        self._place = place
        self._schema = place.log_schema
        self._link: Link | None = None
        self._run = 0

    async def __aenter__(self) -> PostgresArchiver:
        """Connect; raise StoreRefused where this release cannot archive the log."""
        self._link = await self._opened()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _opened(self) -> Link:
        link = await self._place.connect()
        try:
            await self._check(link)
        except BaseException as error:
            await link.close()
            if isinstance(error, Exception):
                raise self._told(error) from error
            raise
        return link

    async def _check(self, link: Link) -> None:
        name = self._place.name
        if not (await link.run(_THERE, f"{self._schema}.about"))[0][0]:
            raise StoreRefused(f"there is no log {name}: nothing was moved")
        ((log_id, version),) = await link.run(self._in(_ABOUT))
        if not ARCHIVES_SINCE <= version <= len(MIGRATIONS):
            raise StoreRefused(
                f"{name} has schema version {version}, and this release archives versions "
                f"{ARCHIVES_SINCE} to {len(MIGRATIONS)}. Start an engine of the newest release, "
                f"which moves the schema forward. Nothing was moved"
            )
        if (await link.run(_THERE, f"{cold_schema(self._schema)}.about"))[0][0]:
            ((cold_id,),) = await link.run(self._in("SELECT log_id FROM {s}_archive.about"))
            if cold_id != log_id:
                raise StoreRefused(
                    f"the schema {cold_schema(self._schema)} is the archive of another log than "
                    f"{log_id}: rename it. Nothing was moved"
                )

    async def archive(
        self, rule: ArchiveRule, progress: Progress, *, dry_run: bool = False
    ) -> Archived:
        """Move what the rule selects."""
        link = self._link or await self._opened()
        try:
            return await self._archived(link, rule, progress, dry_run)
        except EngineError:
            raise
        except Exception as error:
            raise self._told(error) from error
        finally:
            if link is not self._link:
                await link.close()

    def _told(self, error: Exception) -> Exception:
        if isinstance(error, EngineError):
            return error
        text = f"{self._place.name} cannot be archived: {described_failure(error)}"
        if sqlstate_of(error) == _NO_RIGHT:
            return StoreRefused(f"{text}. Run it as the owner of the schema {self._schema}")
        return StoreFailed(
            f"{text}. What was not moved is in the log; run it again, and it continues",
            written=False,
            passes=passes_by_itself(error),
        )

    async def _archived(
        self, link: Link, rule: ArchiveRule, progress: Progress, dry_run: bool
    ) -> Archived:
        cold = cold_schema(self._schema)
        done = Archived(before=await self._size(link, f"{self._schema}.events"), cold=cold)
        self._run = 0
        if not dry_run:
            await self._refuse_older(link)
        async for page in self._pages(link, rule):
            if not dry_run:
                await self._move(link, page, rule)
            done.streams += page.streams
            done.events += len(page.positions)
            done.bytes += page.bytes
            progress(done.events, done.events)
        done.after = await self._size(link, f"{self._schema}.events")
        done.cold_bytes = await self._size(link, f"{cold}.contents")
        return done

    async def _refuse_older(self, link: Link) -> None:
        for (holder,) in await link.run(self._in(_OLDER)):
            raise StoreRefused(
                f"{holder} has had {self._place.name} open since before its schema could be "
                f"archived: an older release would take moved events for damage. Start it anew, "
                f"of this release. Nothing was moved"
            )

    # -- what is moved ------------------------------------------------------------------------

    async def _pages(self, link: Link, rule: ArchiveRule) -> AsyncIterator[_Page]:
        """Give the events that the rule selects, each stream from its beginning."""
        page = _Page()
        async for streams in self._closed(link, rule):
            before = ""
            for stream, position, size in await link.run(self._in(_SIZES), streams):
                page.streams += bool(before) and stream != before
                if len(page.positions) >= _PAGE_EVENTS or page.bytes + size > _PAGE_BYTES:
                    if page.positions:
                        yield page
                    page = _Page()
                page.positions.append(position)
                page.bytes += size
                before = stream
            page.streams += bool(before)
        if page.positions:
            yield page

    async def _closed(self, link: Link, rule: ArchiveRule) -> AsyncIterator[list[str]]:
        after, names = "", list(rule.closed_by)
        while rows := await link.run(self._in(_SCAN), after, rule.kind, names, rule.before):
            after = rows[-1][0]
            if closed := await rule.chosen([stream for stream, is_closed in rows if is_closed]):
                yield list(closed)

    # -- moving -------------------------------------------------------------------------------

    async def _move(self, link: Link, page: _Page, rule: ArchiveRule) -> None:
        """Copy a page, compare it, and empty its events."""
        if not (await link.run(_THERE, f"{cold_schema(self._schema)}.about"))[0][0]:
            async with transaction(link, SYNCED):
                await link.do(with_schema(COLD, self._schema))
        rows = await link.run(self._in(_ROWS), page.positions)
        if len(rows) != len(page.positions) or MOVED in {row[7] for row in rows}:
            raise StoreRefused(
                f"{self._place.name} is archived by another process at the same time. What it "
                f"moves is safe; run this again when it has ended"
            )
        await self._prove(link, rows)
        async with transaction(link, SYNCED):
            await link.run(self._in(_COPY), page.positions)
        self._reach("archive.copied")
        await self._compare(page, rows)
        self._reach("archive.verified")
        async with transaction(link, SYNCED):
            await self._empty(link, page, rule)
            self._reach("archive.removing")
        self._reach("archive.moved")

    async def _prove(self, link: Link, rows: Sequence[Record]) -> None:
        """Compare events with their checksums; raise Damaged."""
        types = {row[0]: (row[1], row[2]) for row in await read_types(link.line, self._schema)}
        reader = EventReader(types.get)
        for row in rows:
            reader.event(*row)

    async def _compare(self, page: _Page, rows: Sequence[Record]) -> None:
        """Read the copy back over another connection, and refuse to go on if it differs."""
        link = await self._place.connect()
        try:
            copied: Any = await link.run(self._in(_COPIED), page.positions)
        finally:
            await link.close()
        wanted = [(row[0], row[5], row[6], row[7], row[8]) for row in rows]
        if [tuple(row) for row in copied] != wanted:
            raise StoreRefused(
                f"the schema {cold_schema(self._schema)} has other contents at the positions from "
                f"{min(page.positions)} on than the log: nothing of them was removed. Rename it if "
                f"it belongs to another log"
            )

    async def _empty(self, link: Link, page: _Page, rule: ArchiveRule) -> None:
        ((count,),) = await link.run(self._in(_EMPTY), page.positions)
        if count != len(page.positions):
            raise StoreRefused(
                f"{count} of {len(page.positions)} events were there to be emptied, so none was: "
                f"another process moves them. Run this again when it has ended"
            )
        run = self._run
        if not run:
            now = self._place.ports.clock.now()
            ((run,),) = await link.run(self._in(_BEGIN_RUN), now, str(rule))
        last = max(page.positions)
        await link.run(self._in(_NOTE), page.streams, count, page.bytes, last, run)
        self._run = run

    # -- small things -------------------------------------------------------------------------

    def _in(self, sql: str) -> str:
        return self._place.address.sql(sql)

    async def _size(self, link: Link, name: str) -> int:
        return int((await link.run(_SIZE, name))[0][0])

    def _reach(self, name: str) -> None:
        if self._place.ports.failpoint is not None:
            self._place.ports.failpoint(name)

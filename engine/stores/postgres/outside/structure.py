"""Whether a log in PostgreSQL is sound as the server keeps it: its version, settings and indexes.

Rules: indexes are compared with their tables by the server's own extension `amcheck`, where it is
there; else that is said, and the streams are compared through their index by whoever asks. The
server sees a flipped bit in a page only with `data_checksums`: that it has none is said too.
Nothing is changed, and no lock is taken that an engine waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ....errors import EngineError
from ...contract.verifying import Finding, Report
from ..log.cold_sql import cold_schema
from ..log.guards import look_at_guards
from ..log.schema import MIGRATIONS
from ..views.link import Link, Place
from ..views.schema import check_schema, has_views
from .blocking import Blocking
from .log import PostgresLogReader

__all__ = ["PostgresStructure"]

_INDEXES: Final = """
SELECT c.oid::bigint, c.relname::text
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am a ON a.oid = c.relam
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY ($1::text[]) AND a.amname = 'btree' AND i.indisvalid ORDER BY 2
"""
_AMCHECK: Final = """
SELECT n.nspname::text FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'
"""
_VERSION: Final = "SELECT schema_version FROM {s}.about"
_THERE: Final = "SELECT to_regclass($1::text) IS NOT NULL"
_ODD: Final = """
SELECT c.position FROM {s}_archive.contents c LEFT JOIN {s}.events e ON e.position = c.position
WHERE e.checksum IS DISTINCT FROM c.checksum ORDER BY c.position LIMIT 100
"""


class PostgresStructure:
    """The log at a place, and its views."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._unlooked: list[str] = []

    def unlooked(self) -> Sequence[str]:
        """Give what this server does not look at."""
        return self._unlooked

    def proves_indexes(self) -> bool:
        """Tell that streams are to be compared through their index: amcheck may not be there."""
        return False

    def before(self, report: Report) -> bool:
        """Look whether there is a log that this release reads."""
        try:
            with PostgresLogReader(self._place):
                return True
        except EngineError as error:
            report(Finding("schema", str(error), name=self._place.name))
            return False

    def whole(self, report: Report, rest: Callable[[], None]) -> None:
        """Look at the indexes of both schemas, and at what the views say of the log."""
        calls = Blocking(self._place)
        calls.open()
        try:
            calls.run(self._look, report, rest)
        finally:
            calls.close()

    async def _look(self, link: Link, report: Report, rest: Callable[[], None]) -> None:
        await self._look_at_guards(link, report)
        await self._look_at_indexes(link, report, rest)
        await self._look_at_archive(link, report)
        try:
            if await has_views(link, self._place):
                await check_schema(link, self._place)
        except EngineError as error:
            report(Finding("views", str(error), name=self._place.name))

    async def _look_at_guards(self, link: Link, report: Report) -> None:
        """Name what keeps the log whole, and is not there; an earlier release's had less."""
        ((version,),) = await link.run(self._place.address.sql(_VERSION))
        if version == len(MIGRATIONS):
            there = link.line.connection, self._place.log_schema
            missing, acting, _ = await look_at_guards(*there)
            for name in missing:
                text = f"{name} is missing or disabled: no engine opens the log without it"
                report(Finding("schema", text, name=name))
            for name in acting:
                text = f"{name} can drop or change what is written: no engine opens the log with it"
                report(Finding("schema", text, name=name))

    async def _look_at_archive(self, link: Link, report: Report) -> None:
        """Compare what was moved with the log; whoever reads compares contents and checksums."""
        cold = cold_schema(self._place.log_schema)
        if (await link.run(_THERE, f"{cold}.contents"))[0][0]:
            for (position,) in await link.run(self._place.address.sql(_ODD)):
                text = f"the schema {cold} has another event at position {position} than the log"
                report(Finding("archive", text, position, cold))

    async def _look_at_indexes(self, link: Link, report: Report, rest: Callable[[], None]) -> None:
        if (await link.run("SHOW data_checksums"))[0][0] != "on":
            self._unlooked.append("pages, of which this server keeps no data_checksums")
        found = await link.run(_AMCHECK)
        if not found:
            self._unlooked.append("indexes as a whole: the extension amcheck is not installed")
            return
        log = self._place.log_schema
        schemas = [log, self._place.schema, cold_schema(log)]
        for oid, name in await link.run(_INDEXES, schemas):
            call = f'SELECT "{found[0][0]}".bt_index_check($1::bigint::regclass, true)'
            try:
                await link.run(call, oid)
            except EngineError:
                raise
            except Exception as error:
                report(Finding("index", f"the index {name} is damaged: {error}", name=name))
            rest()

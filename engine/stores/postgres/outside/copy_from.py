"""A log in PostgreSQL, and what stands about it beside, to be copied elsewhere.

Rules: both are only read, while their engine runs or not, and no lock is taken that anybody waits
for; what is read of the views is of one moment. Calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final

from ....model.stored import Snapshot
from ...contract.builds import sinks_of
from ...contract.claims import HeldClaim
from ...contract.copying import Carried, Repaired, foreign_views
from ...contract.log import Head
from ...contract.outside import Found
from ...contract.timers import WaitingTimer
from ...contract.views import Parked
from ..log.claims import read_claims
from ..log.reading import read_head
from ..log.repairs import READ, THERE
from ..log.timers import read_timers
from ..views.builds import Builds
from ..views.link import Link, Place, transaction
from ..views.schema import check_schema, has_views
from .blocking import Blocking
from .log import PostgresLogReader, is_in_use

__all__ = ["PostgresCopySource"]

_ALL: Final = 2**63 - 1
_LOOKING: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_PAGE: Final = 2_000
_THERE: Final = "SELECT to_regclass($1::text) IS NOT NULL"
_SNAPSHOTS: Final = (
    "SELECT stream, version, position, checksum, snapshot_version, state FROM {s}.snapshots "
    "WHERE stream > $1 ORDER BY stream LIMIT $2"
)


class PostgresCopySource:
    """The log at a place, and its views."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._calls = Blocking(place)
        self._builds = Builds(place)
        self.log = PostgresLogReader(place, walked=True)
        """The log, open inside of `with`."""

    def __enter__(self) -> PostgresCopySource:
        """Open the log."""
        self.log.open()
        try:
            self._calls.open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self._close()

    def _close(self) -> None:
        self._calls.close()
        self.log.close()

    def is_in_use(self) -> bool:
        """Tell whether an engine has the log open."""
        return self._calls.run(is_in_use, self._place)

    def moment(
        self,
        keep_claims: Callable[[Sequence[HeldClaim]], None],
        keep_timers: Callable[[Sequence[WaitingTimer]], None],
    ) -> Head:
        """Give the end of the log, and all claims and timers."""
        return self._calls.run(self._moment, keep_claims, keep_timers)

    async def _moment(
        self,
        link: Link,
        keep_claims: Callable[[Sequence[HeldClaim]], None],
        keep_timers: Callable[[Sequence[WaitingTimer]], None],
    ) -> Head:
        schema = self._place.log_schema
        async with transaction(link, _LOOKING):
            head = await read_head(link.line, schema)
            after = ("", "") if (await link.run(_THERE, f"{schema}.claims"))[0][0] else None
            while after is not None and (
                page := await read_claims(link.line, schema, after, _PAGE)
            ):
                keep_claims(page)
                after = (page[-1].name, page[-1].value)
            behind = ("", "") if (await link.run(_THERE, f"{schema}.timers"))[0][0] else None
            while behind is not None and (
                timers := await read_timers(link.line, schema, behind, _PAGE)
            ):
                keep_timers(timers)
                behind = timers[-1].key
            return head

    def snapshots(self, after: str, limit: int) -> Sequence[Snapshot]:
        """Give snapshots in the order of their streams."""
        return self._calls.run(self._snapshots, after, limit)

    async def _snapshots(self, link: Link, after: str, limit: int) -> Sequence[Snapshot]:
        rows = await link.run(self._place.address.sql(_SNAPSHOTS), after, limit)
        return [Snapshot(*row) for row in rows]

    def repairs(self) -> Sequence[Repaired]:
        """Give what was repaired in this log."""
        return self._calls.run(self._repairs)

    async def _repairs(self, link: Link) -> Sequence[Repaired]:
        if not (await link.run(THERE, f"{self._place.log_schema}.repairs"))[0][0]:
            return ()
        return [Repaired(*row) for row in await link.run(self._place.address.sql(READ))]

    def carried(self) -> Carried | None:
        """Give what goes along; None where there are no views."""
        return self._calls.run(self._carried)

    async def _carried(self, link: Link) -> Carried | None:
        if not await has_views(link, self._place):
            return None
        log_id = await check_schema(link, self._place)
        if log_id != self.log.log_id:
            raise foreign_views(self._place.name, log_id, self.log.log_id)
        books = self._builds.books
        async with transaction(link, _LOOKING):
            sinks, folded = sinks_of(await self._builds.read(link))
            return Carried(
                await books.decisions(link, None),
                await books.requests(link),
                sinks,
                await self._parked(link, sinks),
                folded,
            )

    async def _parked(self, link: Link, sinks: Sequence[Found]) -> Mapping[str, Sequence[Parked]]:
        return {
            sink.projection: await self._builds.books.parked(
                link, sink.projection, sink.number, None, 0, _ALL
            )
            for sink in sinks
        }

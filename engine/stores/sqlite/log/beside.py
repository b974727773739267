"""What a log file keeps beside its events: claims, timers, tags, snapshots, notes of archive runs.

Rules: reads are done by the reader and writes by the writer of the log, each write in a transaction
of its own. Claims and timers are changed by an append; here timers are changed whose commands have
written nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ....model.stored import Snapshot
from ...contract.archiving import ArchiveRun
from ...contract.claims import ClaimKey, HeldClaim
from ...contract.tags import TagForm, TagPage, TagRead
from ...contract.timers import BEGINNING, DuePlace, SettledTimer, TimerKey, WaitingTimer
from .cache import LogCache
from .claims import read_claims
from .cold import detach, read_archives
from .snapshots import read_snapshots, write_snapshots
from .tags import index_tags, is_index_of, read_tagged
from .timers import count_timers, read_due, read_timers, settle_timers

__all__ = ["KeptBeside"]

T = TypeVar("T")


class KeptBeside:
    """The part of a store that is not the events."""

    _known: LogCache

    async def _on_reader(self, call: Callable[[Any], T]) -> T:
        """Call it with the connection that reads."""
        raise NotImplementedError

    async def _on_writer(self, call: Callable[..., T], *args: Any) -> T:
        """Call it with the connection that writes, and these."""
        raise NotImplementedError

    def _keep(self, connection: Any, change: Callable[[Any], T]) -> T:
        """Change something in a transaction; raise StoreFailed."""
        raise NotImplementedError

    async def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select."""
        return await self._on_reader(
            lambda c: read_tagged(c, self._known.types_by(c), reads, events_max, bytes_max)
        )

    async def index_tags(self, forms: Sequence[TagForm]) -> int:
        """Make the index anew where its forms are others, in one transaction."""

        def index(connection: Any) -> int:
            if is_index_of(connection, forms):
                return 0
            try:
                count = self._keep(
                    connection, lambda c: index_tags(c, self._known.types_by(c), forms)
                )
                self._known.refresh(connection)  # events have other tags than it remembers
            finally:
                detach(connection)  # events may be there, and no batch is to lock that file too
            return count

        return await self._on_writer(index)

    async def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, in order."""
        return await self._on_reader(lambda c: read_claims(c, after, claims_max))

    async def read_archives(self) -> Sequence[ArchiveRun]:
        """Give the runs that moved something into the cold file, in their order."""
        return await self._on_reader(read_archives)

    async def read_due(
        self, after: DuePlace = BEGINNING, *, until: int, timers_max: int
    ) -> list[WaitingTimer]:
        """Give the timers that are to be tried up to `until`, at most `timers_max`, in order."""
        return await self._on_reader(lambda c: read_due(c, after, until, timers_max))

    async def read_timers(
        self, after: TimerKey = ("", ""), *, timers_max: int
    ) -> list[WaitingTimer]:
        """Give the timers behind `after`, at most `timers_max`, in order."""
        return await self._on_reader(lambda c: read_timers(c, after, timers_max))

    async def count_timers(self) -> tuple[int, int, int]:
        """Give how many timers there are, and how many of them are parked."""
        return await self._on_reader(count_timers)

    async def settle_timers(self, settled: Sequence[SettledTimer]) -> int:
        """Take timers away, or let them wait."""

        def settle(connection: Any) -> int:
            return self._keep(connection, lambda c: settle_timers(c, settled))

        return await self._on_writer(settle)

    async def read_snapshots(self, streams: Sequence[str]) -> Sequence[Snapshot]:
        """Give the snapshots that there are."""
        return await self._on_reader(lambda c: read_snapshots(c, streams))

    async def write_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep these in place of what was kept of their streams."""

        def write(connection: Any) -> None:
            self._keep(connection, lambda c: write_snapshots(c, snapshots))

        await self._on_writer(write)

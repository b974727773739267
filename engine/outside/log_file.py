"""A log for an event loop: read-only, in a thread of its own, whoever has it open.

Rules: it gives what a `LogReader` gives, and waits without keeping the loop. It is opened and
closed by who uses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from ..errors import Closed, UsageError
from ..model.stored import EventType, StoredEvent
from ..runtime.ports import Ports, Worker
from ..stores.contract.archiving import ArchiveRun, TellsArchives
from ..stores.contract.claims import ClaimKey, HeldClaim
from ..stores.contract.log import Head, StreamPage, StreamRead
from ..stores.contract.outside import LogReader
from ..stores.contract.tags import TagForm, TagIndex, TagPage, TagRead
from ..stores.contract.timers import TimerKey, WaitingTimer

__all__ = ["LogFile"]


class LogFile:
    """The log that a reader reads."""

    def __init__(self, reader: LogReader, ports: Ports) -> None:
        self._reader = reader
        self._ports = ports
        self._worker: Worker | None = None
        self.met: Callable[[Iterable[StoredEvent]], Awaitable[None]] | None = None
        """Is given events before who has asked for them: it has their keys then."""

    async def _met(self, pages: Iterable[Sequence[StoredEvent]]) -> None:
        if self.met is not None:
            await self.met(stored for page in pages for stored in page)

    @property
    def log_id(self) -> str:
        """The log's random id; known after `open`."""
        return self._reader.log_id

    async def open(self) -> None:
        """Open the file; raise StoreRefused where there is no log that can be read.

        Raises UsageError where it is open.
        """
        if self._worker is not None:
            raise UsageError(
                f"{self._reader.name} is open here already: make another Archive for a second use"
            )
        self._worker = self._ports.workers.start("foldline-log-file")
        try:
            await self._worker.run(self._reader.open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the file; a second call does nothing."""
        worker, self._worker = self._worker, None
        if worker is not None:
            try:
                await worker.run(self._reader.close)
            finally:
                await worker.close()

    def worker(self) -> Worker:
        """Give the thread; raise Closed where it is not open."""
        if self._worker is None:
            raise Closed(f"{self._reader.name} is not open: use it inside `async with`")
        return self._worker

    async def head(self) -> Head:
        """Give the end of the log, as it is now."""
        return await self.worker().run(self._reader.head)

    async def event_types(self) -> Sequence[EventType]:
        """Give the types that the log has stored."""
        return await self.worker().run(self._reader.event_types)

    async def change_count(self) -> int:
        """Give a number that changes whenever somebody has committed."""
        return await self.worker().run(self._reader.change_count)

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read the global order after a position."""
        page = await self.worker().run(
            lambda: self._reader.read_feed(after, events_max=events_max, bytes_max=bytes_max)
        )
        await self._met([page])
        return page

    async def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Read as `Store.read_claims` does."""
        return await self.worker().run(
            lambda: self._reader.read_claims(after, claims_max=claims_max)
        )

    async def read_archives(self) -> Sequence[ArchiveRun]:
        """Read as `ReadsArchives.read_archives` does; nothing where no log is archived."""
        reader = self._reader
        if not isinstance(reader, TellsArchives):
            return ()
        return await self.worker().run(reader.archives)

    async def read_timers(
        self, after: TimerKey = ("", ""), *, timers_max: int
    ) -> list[WaitingTimer]:
        """Read as `Store.read_timers` does."""
        return await self.worker().run(
            lambda: self._reader.read_timers(after, timers_max=timers_max)
        )

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once."""
        pages = await self.worker().run(
            lambda: self._reader.read_streams(reads, events_max=events_max, bytes_max=bytes_max)
        )
        await self._met(page.events for page in pages)
        return pages

    async def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select."""
        index = self._index()
        pages = await self.worker().run(
            lambda: index.read_tagged(reads, events_max=events_max, bytes_max=bytes_max)
        )
        await self._met(page.events for page in pages)
        return pages

    async def tag_forms(self) -> Sequence[TagForm]:
        """Give the forms by which the index of tags was made."""
        return await self.worker().run(self._index().tag_forms)

    def _index(self) -> TagIndex:
        if not isinstance(self._reader, TagIndex):
            raise UsageError(f"{self._reader.name} has no index of tags")
        return self._reader

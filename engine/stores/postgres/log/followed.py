"""A log in PostgreSQL to which others append, for an engine that follows it.

Rules: nothing is appended by it, and no tags are indexed. The end of the log is asked for each
time, and the event that was the end at the look before must still be there: a log that went back,
as by a failover or a restored backup, ends the engine. What it has in memory is of events that
there are no more, and it would pass over those that come in their place.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....errors import StoreFailed
from ...contract.log import Head
from ...contract.tags import TagForm
from ..driver import Driver
from ..line import Line
from .reading import read_head
from .store import PostgresStore
from .writer import Writer

__all__ = ["FollowedStore"]


class _Following(Writer):
    """What knows how far the log was, and appends nothing."""

    async def check_history(self, line: Line) -> None:
        """Raise StoreFailed where the log went back, on which others append and go on."""
        try:
            await super().check_history(line)
        except StoreFailed:
            self.is_succeeded = True
            raise


class FollowedStore(PostgresStore):
    """The log for one that reads on behind those that append."""

    shared = True

    def _writer_over(self, driver: Driver, line: Line) -> Writer:
        return _Following(driver, self.address, line, self._session, self._logger)

    async def head(self) -> Head:
        """Ask where the log ends; raise StoreFailed where it went back, which is the end of this.

        Another engine of this process may begin on what is there.
        """
        writer = self._open_writer()

        async def read(line: Line) -> Head:
            found = await read_head(line, self.address.schema)
            if found != writer.head:
                await writer.check_history(line)
                writer.head = found
            return found

        try:
            return await self._open_lines().run(read)
        except StoreFailed:
            if writer.stopped is not None:
                self._ended.set()
            raise

    async def index_tags(self, forms: Sequence[TagForm]) -> int:  # noqa: ARG002 - the contract's
        """Index nothing: those that append keep the index."""
        return 0

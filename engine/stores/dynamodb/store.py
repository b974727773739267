"""The log in a table of DynamoDB: a batch is a transaction, if nothing came before it.

Rules: the item of the log is changed by each transaction, which names the engine that has it and
the position that it knows. So two engines cannot both write, and positions have no holes. An append
is never given up by a cancel. Nothing of an event or a key is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from ...errors import StoreFailed
from ...model.stored import Snapshot, StoredEvent
from ...runtime.ports import Ports
from ..contract.claims import ClaimKey, HeldClaim
from ..contract.log import StreamPage, StreamRead
from ..contract.tags import TagPage, TagRead
from ..contract.traits import Lack
from ..leased.log import LeasedLog
from ..leased.places import Places
from .address import Address
from .calls import Calls
from .form import ITEM_BYTES, size_of, snapshot_item
from .reading import Reader
from .writer import Writer, begin_writer

__all__ = ["DynamoStore"]

_LACKS: Final[Mapping[Lack, str]] = {
    "timers": "use a store in SQLite or PostgreSQL for timers, and for commands that follow from a "
    "decision",
    "tags of stored events": "a transaction is too small to index them again: raise the version of "
    "the event, and declare the tags of that one",
}


class DynamoStore(LeasedLog[Writer]):
    """The log in the table that `address` names."""

    lacks = _LACKS

    def __init__(self, address: Address, *, logger: logging.Logger | None = None) -> None:
        super().__init__(
            address.name,
            patience=address.patience_seconds,
            lease=address.lease_seconds,
            logger=logger,
        )
        self.address = address
        self.calls: Calls | None = None
        """The client, while the log is open."""
        self._reader: Reader | None = None

    # -- life -------------------------------------------------------------------------------

    async def open(self, ports: Ports) -> None:
        """Take the log, or make it; raise as the contract says."""
        self._check_closed()
        calls, places = Calls(self.address), Places()
        reader = Reader(calls, places)
        try:
            await calls.open()
            writer = await begin_writer(calls, reader, ports, places)
        except BaseException:
            await calls.close()
            raise
        self.calls, self._reader = calls, reader
        self._begin(writer)

    async def close(self) -> None:
        """Give the log back, as far as the service can be reached, and close the client."""
        calls, self.calls, self._reader = self.calls, None, None
        await self._end()
        if calls is not None:
            await calls.close()

    # -- writing ----------------------------------------------------------------------------

    async def write_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep these, but for those that are larger than an item: then StoreFailed is raised."""
        self._open_writer()
        calls, items = self.calls, list(map(snapshot_item, snapshots))
        assert calls is not None
        fitting = [item for item in items if size_of(item) <= ITEM_BYTES]

        async def put(item: object) -> None:
            await calls.asked("put_item", Item=item)

        await calls.each(put, fitting)
        if len(fitting) < len(items):
            raise StoreFailed(
                f"{self._name} takes items of {ITEM_BYTES:,} bytes, and some of these snapshots "
                f"are larger. The others were written: take snapshot_every= away from such an "
                f"aggregate",
                written=False,
            )

    # -- reading ----------------------------------------------------------------------------

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once."""
        return await self._open_reader().streams(reads, events_max, bytes_max)

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read the global order."""
        until = self._open_writer().head.position
        return await self._open_reader().feed(after, until, events_max, bytes_max)

    async def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select."""
        until = self._open_writer().head.position
        return await self._open_reader().tagged(reads, until, events_max, bytes_max)

    async def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, in order."""
        return await self._open_reader().held(after, claims_max)

    async def read_snapshots(self, streams: Sequence[str]) -> Sequence[Snapshot]:
        """Give the snapshots that there are."""
        return await self._open_reader().snapshots(streams)

    def _open_reader(self) -> Reader:
        if self._reader is None:
            raise self._closed()
        return self._reader

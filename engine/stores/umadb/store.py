"""The log in an UmaDB server: a batch is one append, on the condition that nothing came before it.

Rules: each append says which event is the last that this engine knows, and UmaDB refuses it where
any other came, whoever wrote that. It carries the next number of the session, so that a former
engine writes nothing. Where its answer is lost, the log is looked at for its first event's id, and
only then somebody is told. An append is never given up by a cancel. Timers and snapshots are not
kept, and are refused by name. Nothing of an event or a key is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from ...model.stored import StoredEvent
from ...runtime.ports import Ports
from ..contract.claims import ClaimKey, HeldClaim
from ..contract.log import StreamPage, StreamRead
from ..contract.tags import TagPage, TagRead
from ..contract.traits import Lack
from ..leased.log import LeasedLog
from ..leased.places import Places
from .address import Address
from .calls import Calls
from .reading import claims_behind, page_of_feed, pages_of_streams, pages_of_tagged
from .writer import Writer, begin_writer

__all__ = ["UmadbStore"]

T = TypeVar("T")

_LACKS: Final[Mapping[Lack, str]] = {
    "timers": "UmaDB finds events by tags and not by times: use a store in SQLite or PostgreSQL "
    "for timers, and for commands that follow from a decision",
    "snapshots": "UmaDB keeps events and nothing that takes the place of another: take "
    "snapshot_every= away, or use a store in SQLite or PostgreSQL",
    "tags of stored events": "UmaDB keeps the tags that an event was appended with: raise the "
    "version of the event, and declare the tags of that one",
}


class UmadbStore(LeasedLog[Writer]):
    """The log in the database of the server that `address` names."""

    lacks = _LACKS

    def __init__(self, address: Address, *, logger: logging.Logger | None = None) -> None:
        super().__init__(
            address.name,
            patience=address.patience_seconds,
            lease=address.lease_seconds,
            logger=logger,
        )
        self.address = address
        self.reads: Calls | None = None
        """The client that reads, while the log is open."""
        self._places = Places()
        self._held: dict[ClaimKey, HeldClaim] = {}
        self._held_at = 0

    # -- life -------------------------------------------------------------------------------

    async def open(self, ports: Ports) -> None:
        """Take the log, or make it; raise as the contract says."""
        self._check_closed()
        calls = Calls(ports.workers, self.address, "foldline log")
        self._places = Places()
        self._held, self._held_at = {}, 0
        try:
            writer = await begin_writer(calls, self.address, ports, self._places, self._logger)
        except BaseException:
            await calls.close()
            raise
        self.reads = Calls(ports.workers, self.address, "foldline log reader")
        self._begin(writer)

    async def close(self) -> None:
        """Give the log back, as far as the server can be reached, and end the threads."""
        writer, reads = self._writer, self.reads
        self.reads = None
        if reads is not None:
            await reads.close()
        await self._end()
        if writer is not None:
            await writer.calls.close()

    # -- reading ----------------------------------------------------------------------------

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once."""
        places = self._places
        with places.reading() as found:
            return await self._asked(
                lambda client: pages_of_streams(client, reads, places, found, events_max, bytes_max)
            )

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read the global order."""
        return await self._asked(lambda client: page_of_feed(client, after, events_max, bytes_max))

    async def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select."""
        return await self._asked(
            lambda client: pages_of_tagged(client, reads, events_max, bytes_max)
        )

    async def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, in order; the first time by all events that change any.

        They are kept from then on, and brought to the end of the log.
        """
        held = self._held

        def read(client: Any) -> list[HeldClaim]:
            # All in the thread that reads, where calls are one after the other.
            self._held_at = claims_behind(client, held, self._held_at)
            keys = sorted(key for key in held if key > after)
            return [held[key] for key in keys[:claims_max]]

        return await self._asked(read)

    # -- what is open -----------------------------------------------------------------------

    async def _asked(self, call: Callable[[Any], T]) -> T:
        if self.reads is None:
            raise self._closed()
        return await self.reads.asked(call)

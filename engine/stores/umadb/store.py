"""The log in an UmaDB server: a batch is one append, on the condition that nothing came before it.

Rules: each append says which event is the last that this engine knows, and UmaDB refuses it where
any other came, whoever wrote that. It carries the next number of the session, so that a former
engine writes nothing. Where its answer is lost, the log is looked at for its first event's id, and
only then somebody is told. An append is never given up by a cancel. Timers and snapshots are not
kept, and are refused by name. Nothing of an event or a key is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from ...errors import EngineError, StoreFailed, StoreLocked, StoreRefused
from ...model.stored import EventType, Snapshot, StoredEvent
from ...runtime.ports import Ports
from ...runtime.uncancelled import uncancelled
from ...statistics import ServerStatistics
from ..contract.claims import ClaimKey, HeldClaim
from ..contract.log import Batch, Committed, Head, StreamPage, StreamRead
from ..contract.tags import TagForm, TagPage, TagRead
from ..contract.timers import BEGINNING, DuePlace, SettledTimer, TimerKey, WaitingTimer
from ..contract.traits import Lack
from .address import Address
from .calls import Away, Calls
from .reading import (
    Places,
    claims_behind,
    page_of_feed,
    pages_of_streams,
    pages_of_tagged,
)
from .writer import Writer, begin_writer

__all__ = ["UmadbStore"]

T = TypeVar("T")

_RENEWALS: Final = 3
"""In the time of one lease."""

_LACKS: Final[Mapping[Lack, str]] = {
    "timers": "UmaDB finds events by tags and not by times: use a store in SQLite or PostgreSQL "
    "for timers, and for commands that follow from a decision",
    "snapshots": "UmaDB keeps events and nothing that takes the place of another: take "
    "snapshot_every= away, or use a store in SQLite or PostgreSQL",
    "tags of stored events": "UmaDB keeps the tags that an event was appended with: raise the "
    "version of the event, and declare the tags of that one",
}


class UmadbStore:
    """The log in the database of the server that `address` names."""

    durable = True
    lacks = _LACKS

    def __init__(self, address: Address, *, logger: logging.Logger | None = None) -> None:
        self.address = address
        self._logger = logger or logging.getLogger("foldline")
        self._turn = asyncio.Lock()
        self._writer: Writer | None = None
        self.reads: Calls | None = None
        """The client that reads, while the log is open."""
        self._places = Places()
        self._held: dict[ClaimKey, HeldClaim] = {}
        self._held_at = 0
        self._keeper: asyncio.Task[None] | None = None
        self._is_succeeded = False
        self._renewals_failed = 0

    @property
    def log_id(self) -> str:
        """The log's random id."""
        return "" if self._writer is None else self._writer.log_id

    # -- life -------------------------------------------------------------------------------

    async def open(self, ports: Ports) -> None:
        """Take the log, or make it; raise as the contract says."""
        if self._writer is not None:
            raise StoreLocked(f"{self.address.name} is open already, by this object: close it")
        calls = Calls(ports.workers, self.address, "foldline log")
        self._places = Places()
        self._held, self._held_at = {}, 0
        try:
            self._writer = await begin_writer(
                calls, self.address, ports, self._places, self._logger
            )
        except BaseException:
            await calls.close()
            raise
        self.reads = Calls(ports.workers, self.address, "foldline log reader")
        keeping = self._keep(self._writer)
        self._keeper = asyncio.get_running_loop().create_task(keeping, name="foldline lease")

    async def _keep(self, writer: Writer) -> None:
        """Renew the lease while nothing is appended, until it is lost."""
        seconds = self.address.lease_seconds / _RENEWALS
        while writer.stopped is None:
            await asyncio.sleep(seconds)
            try:
                async with self._turn:
                    await writer.renew(seconds)
            except (Away, EngineError):
                # An append finds out what is the matter, and an engine at rest is not in a hurry.
                self._renewals_failed += 1
                self._logger.warning("the lease was not renewed: %s is away", self.address.name)

    def is_held(self) -> bool:
        """Tell whether the lease runs, counted from before it was asked for."""
        writer = self._writer
        return writer is not None and writer.stopped is None and writer.lease_left > 0

    async def held(self) -> None:
        """Wait for a renewal; raise StoreFailed where none comes within the patience."""
        seconds = self.address.patience_seconds
        while not self.is_held():
            writer = self._open_writer()
            if writer.stopped is not None:
                raise StoreFailed(str(writer.stopped), written=False, stopped=True)
            try:
                async with asyncio.timeout(seconds):
                    await writer.renewed.wait()
            except TimeoutError:
                raise StoreFailed(
                    f"{self.address.name}: the lease has ended and could not be renewed for "
                    f"{seconds:g} s, so another engine may have the log.",
                    written=False,
                    passes=True,
                ) from None

    @property
    def is_succeeded(self) -> bool:
        """Whether another engine has the log."""
        return self._is_succeeded or (self._writer is not None and self._writer.is_succeeded)

    async def ended(self) -> StoreFailed:
        """Wait until the log is lost to another one; give why."""
        return await self._open_writer().wait_ended()

    async def close(self) -> None:
        """Give the log back, as far as the server can be reached, and end the threads."""
        keeper, self._keeper = self._keeper, None
        writer, self._writer = self._writer, None
        reads, self.reads = self.reads, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        if reads is not None:
            await reads.close()
        if writer is not None:
            self._is_succeeded = writer.is_succeeded
            async with self._turn:
                with suppress(EngineError, Away):  # the lease ends by itself
                    await writer.leave()
                await writer.calls.close()

    # -- writing ----------------------------------------------------------------------------

    async def append(self, batch: Batch) -> Committed:
        """Append what fits."""
        async with self._turn:
            return await uncancelled(self._open_writer().append(batch))

    async def index_tags(self, forms: Sequence[TagForm]) -> int:
        """Have events of these types stored with their tags, which those stored have already.

        Raises StoreRefused for a type whose stored events have others.
        """
        writer = self._open_writer()
        for form in forms:
            known = writer.known.types.get((form.name, form.version))
            if known is not None and known.tags != (form.fields, form.fixed):
                raise StoreRefused(
                    f"{self.address.name} has events of {form.name} version {form.version} that "
                    f"are found by other tags than are declared now. {_LACKS[_TAGS]}. Nothing was "
                    f"changed"
                )
        writer.forms = {(form.name, form.version): (form.fields, form.fixed) for form in forms}
        return 0

    async def settle_timers(self, settled: Sequence[SettledTimer]) -> int:
        """Refuse: there are none."""
        if settled:
            raise self._lacking("timers")
        return 0

    async def write_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Refuse: they are not kept."""
        if snapshots:
            raise self._lacking("snapshots")

    def _lacking(self, lack: Lack) -> StoreFailed:
        return StoreFailed(
            f"{self.address.name} keeps no {lack}. {_LACKS[lack]}. Nothing was written",
            written=False,
        )

    # -- reading ----------------------------------------------------------------------------

    async def head(self) -> Head:
        """Give the end of the log, as of the last append or the opening."""
        return self._open_writer().head

    async def event_types(self) -> Sequence[EventType]:
        """Give the types in the order of their first use."""
        return self._open_writer().known.event_types()

    async def kinds(self) -> Sequence[str]:
        """Give the kinds of its streams."""
        return sorted(self._open_writer().known.kinds)

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

    async def read_due(
        self,
        after: DuePlace = BEGINNING,  # noqa: ARG002 - the contract's
        *,
        until: int,  # noqa: ARG002
        timers_max: int,  # noqa: ARG002
    ) -> list[WaitingTimer]:
        """Give none: there are no timers."""
        return []

    async def read_timers(
        self,
        after: TimerKey = ("", ""),  # noqa: ARG002 - the contract's
        *,
        timers_max: int,  # noqa: ARG002
    ) -> list[WaitingTimer]:
        """Give none: there are no timers."""
        return []

    async def count_timers(self) -> tuple[int, int]:
        """Give that there are none."""
        return 0, 0

    async def read_snapshots(
        self,
        streams: Sequence[str],  # noqa: ARG002 - the contract's
    ) -> Sequence[Snapshot]:
        """Give none: they are not kept."""
        return []

    def server_statistics(self) -> ServerStatistics | None:
        """Give what is known of the server; None before the log is open and after it was closed."""
        writer = self._writer
        if writer is None:
            return None
        return ServerStatistics(
            reconnects=writer.calls.reconnects,
            batches_found=writer.found_written,
            batches_sent_again=writer.written_again,
            renewals_failed=self._renewals_failed,
            lease_seconds_left=writer.lease_left,
        )

    # -- what is open -----------------------------------------------------------------------

    async def _asked(self, call: Callable[[Any], T]) -> T:
        if self.reads is None:
            raise self._closed()
        return await self.reads.asked(call)

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise self._closed()
        return self._writer

    def _closed(self) -> StoreFailed:
        return StoreFailed(f"{self.address.name} is closed", written=False)


_TAGS: Final[Lack] = "tags of stored events"

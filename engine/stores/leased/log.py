"""The store around a log that is had by a lease: it renews that, and says when it has ended.

Rules: one call at a time goes to whoever writes. While the lease does not run, nobody is told that
the log is held. An append is never given up by a cancel. What a store lacks is refused by name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, Generic, TypeVar

from ...errors import EngineError, StoreFailed, StoreLocked
from ...model.stored import EventType, Snapshot
from ...runtime.uncancelled import uncancelled
from ...statistics import ServerStatistics
from ..contract.log import Batch, Committed, Head
from ..contract.tags import TagForm
from ..contract.timers import BEGINNING, DuePlace, SettledTimer, TimerKey, WaitingTimer
from ..contract.traits import Lack
from .holder import Away, Holder

__all__ = ["LeasedLog"]

W = TypeVar("W", bound=Holder)

_RENEWALS: Final = 3
"""In the time of one lease."""
_TAGS: Final[Lack] = "tags of stored events"


class LeasedLog(Generic[W]):
    """What is the same of each such store; it has no timers and no snapshots by itself."""

    durable = True
    lacks: ClassVar[Mapping[Lack, str]] = {}

    def __init__(
        self, name: str, *, patience: float, lease: float, logger: logging.Logger | None
    ) -> None:
        self._name = name
        self._patience = patience
        self._lease = lease
        self._logger = logger or logging.getLogger("foldline")
        self._turn = asyncio.Lock()
        self._writer: W | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_succeeded = False
        self._renewals_failed = 0

    @property
    def log_id(self) -> str:
        """The log's random id."""
        return "" if self._writer is None else self._writer.log_id

    # -- life -------------------------------------------------------------------------------

    def _check_closed(self) -> None:
        """Raise StoreLocked where this object has the log."""
        if self._writer is not None:
            raise StoreLocked(f"{self._name} is open already, by this object: close it")

    def _begin(self, writer: W) -> None:
        """Have the log, and keep it."""
        self._writer = writer
        keeping = self._keep(writer)
        self._keeper = asyncio.get_running_loop().create_task(keeping, name="foldline lease")

    async def _keep(self, writer: W) -> None:
        """Renew the lease while nothing is appended, until it is lost.

        First when that is due, since a start may take long.
        """
        seconds = self._lease / _RENEWALS
        rest = max(0.0, writer.lease_left - self._lease + seconds)
        while writer.stopped is None:
            await asyncio.sleep(rest)
            rest = seconds
            try:
                async with self._turn:
                    await writer.renew(seconds)
            except (Away, EngineError) as failed:
                # An append finds out what is the matter, and an engine at rest is not in a hurry.
                self._renewals_failed += 1
                why = "it is away" if isinstance(failed, Away) else failed
                self._logger.warning("the lease of %s was not renewed: %s", self._name, why)

    def is_held(self) -> bool:
        """Tell whether the lease runs, counted from before it was asked for."""
        writer = self._writer
        return writer is not None and writer.stopped is None and writer.lease_left > 0

    async def held(self) -> None:
        """Wait for a renewal; raise StoreFailed where none comes within the patience."""
        seconds = self._patience
        while not self.is_held():
            writer = self._open_writer()
            if writer.stopped is not None:
                raise StoreFailed(str(writer.stopped), written=False, stopped=True)
            try:
                async with asyncio.timeout(seconds):
                    await writer.renewed.wait()
            except TimeoutError:
                raise StoreFailed(
                    f"{self._name}: the lease has ended and could not be renewed for "
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

    async def _end(self) -> None:
        """Give the log back, as far as the server can be reached."""
        keeper, self._keeper = self._keeper, None
        writer, self._writer = self._writer, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        if writer is not None:
            self._is_succeeded = writer.is_succeeded
            async with self._turn:
                with suppress(EngineError, Away):  # the lease ends by itself
                    await writer.leave()

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
        writer.known.check_forms(forms, self._name, self.lacks[_TAGS])
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
            f"{self._name} keeps no {lack}. {self.lacks[lack]}. Nothing was written",
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

    async def count_timers(self) -> tuple[int, int, int]:
        """Give that there are none."""
        return 0, 0, 0

    async def read_snapshots(
        self,
        streams: Sequence[str],  # noqa: ARG002 - the contract's
    ) -> Sequence[Snapshot]:
        """Give none: they are not kept."""
        return []

    def server_statistics(self) -> ServerStatistics | None:
        """Give what is known of the server; None before the log is open and after it was closed."""
        writer: Any = self._writer
        if writer is None:
            return None
        return ServerStatistics(
            reconnects=writer.reconnects,
            batches_found=writer.found_written,
            batches_sent_again=writer.written_again,
            renewals_failed=self._renewals_failed,
            lease_seconds_left=writer.lease_left,
        )

    # -- what is open -----------------------------------------------------------------------

    def _open_writer(self) -> W:
        if self._writer is None:
            raise self._closed()
        return self._writer

    def _closed(self) -> StoreFailed:
        return StoreFailed(f"{self._name} is closed", written=False)

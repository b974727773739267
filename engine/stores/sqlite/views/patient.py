"""Views that a process writes beside the engine, which leaves the file to others between writes.

Rules: after each transaction it rests for as long as that took, and longer behind a long one, so
that the engine's own writes find their turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from ....errors import StoreRefused
from ....limits import Limits
from ....model.projection import Projection
from ....runtime.ports import Ports
from ...contract.log import LogSource
from ...contract.views import Changes, Part, Rebuild, SqlCall
from ..files import files_of
from .catalog import Builder
from .store import SqliteViews

__all__ = ["PatientViews"]

REST_SECONDS: Final = 0.12
"""Behind a longer transaction at least."""
T = TypeVar("T")


class PatientViews(SqliteViews):
    """Views whose writer leaves the file to others for as long as it had it itself."""

    def __init__(self, path: str, *, logger: logging.Logger, builder: Builder) -> None:
        super().__init__(path, logger=logger, builder=builder)
        self._turn = asyncio.Lock()

    async def open(
        self,
        ports: Ports,
        limits: Limits,
        store: LogSource,
        projections: Sequence[type[Projection]],
        *,
        rebuild: Rebuild = "refuse",
    ) -> None:
        """Open them; raise StoreRefused where no engine has made any."""
        if files_of(ports).size(self._path) == 0:
            raise StoreRefused(
                f"there are no views {self._path} to build beside: start the engine, which makes "
                f"them"
            )
        await super().open(ports, limits, store, projections, rebuild=rebuild)

    def write(self, changes: Changes) -> Awaitable[bool]:
        """Write what a transaction does, then rest."""
        return self._rest_behind(super().write(changes))

    async def write_by(self, part: Part, call: SqlCall) -> Changes | None:
        """Run a call in a transaction, then rest."""
        return await self._rest_behind(super().write_by(part, call))

    async def _rest_behind(self, write: Awaitable[T]) -> T:
        clock = self._ports.clock
        async with self._turn:
            begin = clock.monotonic()
            try:
                return await write
            finally:
                # Who waits for the file looks less often the longer it waits: ten times a second.
                took = clock.monotonic() - begin
                await asyncio.sleep(took if took < REST_SECONDS else max(REST_SECONDS, took / 2))

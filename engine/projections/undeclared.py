"""What the views have of sinks and reactors that this program does not declare.

Rules: they are known by their names alone, so nobody here can ask them or let them go on. What they
have parked is counted a page at a time. One is taken away with all of it, as somebody decided: a
reactor that is declared again then goes on where it stood, and does nothing twice. This file
delivers nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from ..stores.contract.log import LogSource
from ..stores.contract.views import Build, Parked, ProjectionDecision, ViewsStore
from .beginning import event_at
from .retry import PARKED_PAGE

__all__ = ["Undeclared"]


class Undeclared:
    """Those of one store of views."""

    def __init__(
        self,
        views: ViewsStore,
        log: LogSource,
        now: Callable[[], int],
        logger: logging.Logger,
    ) -> None:
        self._views = views
        self._log = log
        self._now = now
        self._logger = logger

    async def has(self, name: object) -> bool:
        """Tell whether the views have anything of that name; it may be no name at all."""
        tables, others = self._views.undeclared(), self._views.undeclared(with_tables=False)
        # Compared, since what is no name may have no hash.
        return any(name == each for each in (*await tables, *await others))

    async def sinks(self) -> Sequence[str]:
        """Name the sinks; a reactor has begun, and has written nothing elsewhere."""
        names = await self._views.undeclared(with_tables=False)
        begun: frozenset[str] = await self._begun() if names else frozenset()
        return [name for name in names if name not in begun]

    async def parking(self) -> Sequence[str]:
        """Name those that have an event parked under a key that their `sequence` made."""
        return [
            name
            for name in await self._views.undeclared(with_tables=False)
            if await self.parks_by_sequence(name)
        ]

    async def drop(self, name: str, reason: str, principal: str | None) -> Sequence[Build]:
        """Take all away that the views have of a name; give which builds it was."""
        builds = await self._views.builds(name)
        if builds and name in await self._begun():
            await self._keep_its_place(name, builds, reason, principal)
        for build in builds:
            decision = ProjectionDecision(
                name, "drop", self._now(), build.version, reason=reason, principal=principal
            )
            await self._views.drop(name, build.number, decision)
        return builds

    async def _begun(self) -> frozenset[str]:
        """Name the reactors, of this program too."""
        return frozenset(d.projection for d in await self._views.decisions() if d.kind == "begin")

    async def _keep_its_place(
        self, name: str, builds: Sequence[Build], reason: str, principal: str | None
    ) -> None:
        """Let a reactor begin where it stood, if it is declared again; tell what is lost."""
        last = builds[-1]
        parked = [parked async for parked in self._parked(name)]
        stood = await event_at(last.position, self._log)
        if stood is not None:
            decision = ProjectionDecision(
                name,
                "begin",
                self._now(),
                last.version,
                stood.position,
                reason or "it was dropped there",
                principal,
                stood.checksum,
            )
            await self._views.decide(decision)
        self._logger.warning(
            "reactor %s, which this program does not declare, is dropped by %s: %d events that it "
            "has parked are lost, and nothing is ever done because of them. If it is declared "
            "again, it goes on behind position %d",
            name,
            principal or "somebody",
            len(parked),
            last.position,
        )

    async def parks_by_sequence(self, name: str) -> bool:
        """Tell whether one, declared or not, has parked events under keys that are no streams."""
        async with aclosing(self._parked(name)) as found:
            async for parked in found:
                if parked.key != parked.stream:
                    return True
        return False

    async def _parked(self, name: str) -> AsyncGenerator[Parked]:
        after: int | None = 0
        while after is not None:
            page = await self._views.parked(name, after=after, limit=PARKED_PAGE)
            for parked in page:
                yield parked
            after = page[-1].position if len(page) == PARKED_PAGE else None

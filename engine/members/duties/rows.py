"""What the views of a log say of its projections, and what is asked of them by rows.

Rules: calls block, and so run on a thread of their own; log and views are opened for each look.
A request is durable before it is waited for. Whoever runs the projection does it, and says so in
its row; what nobody has taken up in time still waits for them. What is not known is said to be so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final, TypeVar

from ...errors import OutcomeUnknown, StoreFailed, StoreRefused, UsageError
from ...model.projection import ProjectionDefinition
from ...outside.standings import Standing, Standings
from ...runtime.ports import Ports, Worker
from ...stores.contract.backend import Outside
from ...stores.contract.builds import definition_hash
from ...stores.contract.outside import Operations
from ...stores.contract.requests import Arguments
from ...stores.contract.views import Build, Parked

__all__ = ["ViewsRows"]

T = TypeVar("T")

_ANSWER_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.05
_PAGE: Final = 500


class ViewsRows:
    """The views of a log, as rows that all its processes read."""

    def __init__(self, outside: Outside, ports: Ports) -> None:
        self._outside = outside
        self._ports = ports
        self._worker: Worker | None = None
        self._standings: Standings | None = None

    async def close(self) -> None:
        """End the thread; a second call does nothing."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()

    async def look(self, call: Callable[[Operations], T], *, readonly: bool = True) -> T:
        """Run a call on log and views."""

        def run() -> T:
            with self._outside.operations(readonly=readonly) as opened:
                return call(opened)

        if self._worker is None:
            self._worker = self._ports.workers.start("foldline-duties")
        return await self._worker.run(run)

    async def standings(self) -> Mapping[str, Standing]:
        """Give how all projections stand, by name."""

        def observe(opened: Operations) -> Sequence[Standing]:
            if self._standings is None:
                self._standings = Standings(opened, self._ports.clock)
            self._standings.outside = opened
            return self._standings.observe()

        return {one.name: one for one in await self.look(observe)}

    async def made(self) -> Set[str]:
        """Name the projections that have tables, of any version; none where nobody can tell."""
        try:
            looked = await self.look(lambda opened: opened.look())
        except (StoreFailed, StoreRefused):
            return frozenset()  # the server is away, or nobody has made any view
        return frozenset(found.projection for found in looked.builds)

    async def builds(self, definition: ProjectionDefinition) -> Sequence[Build]:
        """Give the builds of a projection, by number."""
        looked = await self.look(lambda opened: opened.look())
        hash_now = definition_hash(definition)
        return [
            Build(
                *(found.projection, found.number, found.version, found.state, found.position),
                found.fits(definition, hash_now),
                found.builder,
            )
            for found in looked.builds
            if found.projection == definition.name
        ]

    async def all_parked(self, name: str, key: str | None) -> Sequence[Parked]:
        """Give all that is parked, in order of position."""
        found: list[Parked] = []
        while True:
            after = found[-1].position if found else 0
            page = await self.parked(name, key, after, _PAGE)
            found += page
            if len(page) < _PAGE:
                return found

    async def parked(self, name: str, key: str | None, after: int, limit: int) -> Sequence[Parked]:
        """Give a page of what is parked."""
        return await self.look(
            lambda opened: opened.parked(name, key=key, after=after, limit=limit)
        )

    async def ask(self, kind: str, name: str, arguments: Arguments, principal: str | None) -> str:
        """Have whoever runs a projection do something; give what it says.

        Raises UsageError where that was refused, OutcomeUnknown where its end is not known, and
        StoreFailed where nobody has answered yet: the request waits on then.
        """
        number = await self.look(
            lambda opened: opened.ask(kind, name, arguments, asked_by=principal), readonly=False
        )
        now = self._ports.clock.monotonic
        end = now() + _ANSWER_SECONDS
        while True:
            request = await self.look(lambda opened: opened.request(number))
            if request.state == "refused":
                raise UsageError(request.answer)
            if request.state == "unknown":
                raise OutcomeUnknown(
                    f"request {number}, {kind} {name}: {request.answer}. Look at the projection "
                    f"before it is asked for again"
                )
            if request.answered is not None:
                return request.answer
            if now() >= end:
                raise StoreFailed(
                    f"request {number}, {kind} {name}, has no answer after {_ANSWER_SECONDS:g} s. "
                    f"It waits on, and is done when the process that runs the projection takes it "
                    f"up: `foldline projections requests` shows it. Do not ask again",
                    written=True,
                )
            await asyncio.sleep(_POLL_SECONDS)

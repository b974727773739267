"""One seed of engines that share the projections of a log: members die, part and stand still.

Rules: as for engines that share a log. There are two projections, one of them in slices, whose rows
keep the positions of all events that were folded into them. Whenever a commit changes the views,
the rows of each build must be an independent fold of the log up to its checkpoints. A duty that is
lost is no failure, so none may be noted. At the end, where all is well, both have come to the end
of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from engine import EngineError, Meta, Projection, Row, Table, projects
from engine.engine import Engine
from tests.simulation.domain import Taken, Was
from tests.simulation.postgres.database import Change
from tests.simulation.postgres.process import Process
from tests.simulation.postgres.troubles import LEASE_SECONDS
from tests.simulation.postgres.views_world import reached_of, wrong_views

from .world import JoiningLife, JoiningWorld, live_through

__all__ = ["DutiesWorld", "run_duties_seed"]

NAMES = ("listed", "split")
"""By the second one's, slices of most sets of members are run by two."""


_TURNS_MAX = 1_000


class Kept(Row, key="counter"):
    counter: str
    positions: list[int]


class Listed(Projection, name="listed", version=1):
    rows: Table[Kept]

    @projects
    def was(self, event: Was, meta: Meta) -> None:
        _keep(self.rows, meta)

    @projects
    def taken(self, event: Taken, meta: Meta) -> None:
        _keep(self.rows, meta)


class Split(Projection, name="split", version=1, slices=2):
    rows: Table[Kept]

    @projects
    def was(self, event: Was, meta: Meta) -> None:
        _keep(self.rows, meta)

    @projects
    def taken(self, event: Taken, meta: Meta) -> None:
        _keep(self.rows, meta)


def _keep(rows: Table[Kept], meta: Meta) -> None:
    row = rows.get(meta.id)
    rows.put(Kept(meta.id, [*(row.positions if row else ()), meta.position]))


def run_duties_seed(seed: int) -> DutiesWorld:
    """Live through a seed; give its world, not judged yet."""
    world = DutiesWorld(seed)
    live_through(world, shared=True)
    return world


class DutiesLife(JoiningLife):
    """One engine that runs some of the projections."""

    def declared(self) -> dict[str, Any]:
        """Give its projections."""
        return {"projections": [Listed, Split], "share_projections": True}

    def failpoint(self, name: str) -> None:
        """Count what it runs, and die as other engines do."""
        if name == "views.committed":
            self._world.counted("duties: transactions")
        super().failpoint(name)

    async def stay(self, engine: Engine) -> None:
        """Have one of the projections built again meanwhile, where it is run here."""
        operator = asyncio.ensure_future(self._operate_projections(engine))
        try:
            await super().stay(engine)
        finally:
            operator.cancel()
            await asyncio.wait([operator])

    async def _operate_projections(self, engine: Engine) -> None:
        random = self._world.random
        turns = 1 if self.quiet else _TURNS_MAX
        for _ in range(turns):
            await asyncio.sleep(random.expovariate(1 / 0.5) + self.quiet)
            joined: Any = engine._joined  # pyright: ignore[reportPrivateUsage]
            duties = joined._duties
            name = random.choice(NAMES)
            if f"{name}/0" in duties.names:
                self._world.counted("duties: slices gathered")
                duties.gather(name)  # as a request of another process would
                for _ in range(30):
                    await asyncio.sleep(0.1 * (name not in duties.names))
            wiring = duties.running(name)
            if wiring is not None:
                with contextlib.suppress(EngineError):
                    await wiring.projections.rebuild(name)


class DutiesWorld(JoiningWorld):
    """What a seed makes."""

    steps_max = 1_500_000
    follow_seconds = 9.0 + 2 * LEASE_SECONDS
    """Whoever has died is waited for, then slices are gathered, and all is begun anew."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.server.on_committed = self._committed
        self._writers: dict[tuple[str, int], int] = {}

    def new_life(self, process: Process, quiet: bool) -> DutiesLife:
        """Give what lives in a process."""
        known = self.story, self.troubles, self.network, process, self.address
        return DutiesLife(*known, world=self, quiet=quiet)

    def _committed(self, owner: int, changes: list[Change]) -> None:
        written = [change for change in changes if change[0] == "views"]
        if not written:
            return
        for change in written:
            if change[:3] == ("views", "put", "failures"):
                self.problem(f"P9: life {owner} notes that a view stands still: {change[4]}")
            if change[1:3] == ("put", "checkpoints"):
                duty = change[3][0], change[3][2]
                if self._writers.setdefault(duty, owner) != owner:
                    self._writers[duty] = owner
                    self.counted("duties: handed over")
                if len({self._writers.get(("split", n), owner) for n in (0, 1)}) > 1:
                    self.counted("duties: slices of one at two")
            if change[1:3] == ("put", "builds") and change[4][7] == "former":
                self.counted("duties: swaps")
        for problem in wrong_views(self.server.tables):
            if len(self.story.problems) < 5:
                self.problem(f"P9: after a commit of life {owner}: {problem}")

    def _told_of(self, slot: list[JoiningLife]) -> str:
        reached = {name: reached_of(self.server.tables, name) for name in NAMES}
        return f"{super()._told_of(slot)}, and the projections are at {reached}"

    def _lacks(self, slot: list[JoiningLife]) -> bool:
        tables = self.server.tables
        behind = any(reached_of(tables, name) != {len(tables.events)} for name in NAMES)
        return behind or super()._lacks(slot)

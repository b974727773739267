"""Who reads in one life of the simulated world: views, tallies, states, and views of the past.

Rules: whoever has a receipt looks for what it acknowledges, and writes what he saw into the story.
What nobody may ever see is a problem at once; everything else the checker judges in the end.
"""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

from engine.engine import Engine
from engine.errors import Closed, Damaged, Overloaded, ProjectionLag, StoreFailed
from engine.model.messages import Receipt

from .domain import Cell, Cells, GetCell, Put, Slowly
from .story import Operation, Seen, SeenTally, Story
from .tallies import GetTally, lane_of

__all__ = ["Readers"]


class Readers:
    """Those who read, one for each receipt that is looked behind."""

    def __init__(self, story: Story, random: Random, cell: type[Cell]) -> None:
        self._story = story
        self._swarm = story.swarm
        self._random = random
        self._cell = cell

    async def look(self, engine: Engine, operation: Operation, receipt: Receipt) -> None:
        cell = operation.command.cell_id
        begun = self._story.tick()
        with contextlib.suppress(ProjectionLag, TimeoutError, Closed, StoreFailed):
            chance = self._random.random()
            if self._swarm.tally_versions and self._random.random() < 0.5:
                await self._look_at_tally(engine, operation, receipt)
            elif chance < 0.45:
                await self._look_at_view(engine, cell, begun, receipt)
            elif chance < 0.6:
                await self._look_at_the_past(engine, cell, receipt)
            else:
                state: Any = await engine.state(self._cell, cell)
                ended = self._story.tick()
                seen = Seen("state", cell, begun, ended, state.version, state.total)
                self._story.seen.append(seen)

    async def _look_at_view(self, engine: Engine, cell: str, begun: int, receipt: Receipt) -> None:
        at = self._random.choice((receipt, None))
        row = await engine.query(GetCell(cell), at=at)
        if at is not None and receipt.version and (row is None or row.events < receipt.version):
            self._problem(f"P10: {cell} does not see its own write: {row} at {receipt}")
        if row is not None:
            ended = self._story.tick()
            shown = Seen("view", cell, begun, ended, row.events, row.total, row.position)
            self._story.seen.append(shown)

    async def _look_at_the_past(self, engine: Engine, cell: str, receipt: Receipt) -> None:
        """See the views as of an acknowledged event: with it, and with nothing behind it."""
        if not receipt.version:
            return
        # More at once than are allowed are refused, and a flipped bit is met by whoever reads.
        refusals = (Overloaded, Damaged) if self._swarm.flipped else (Overloaded,)
        with contextlib.suppress(*refusals):
            async with engine.past(position=receipt, projections=[Cells]) as past:
                row = await past.query(GetCell(cell))
            if row is None or (row.events, row.position) != (receipt.version, receipt.position):
                self._problem(f"P14: the past at {receipt} shows {row}")
            else:
                self._story.looked_back += 1

    async def _look_at_tally(self, engine: Engine, operation: Operation, receipt: Receipt) -> None:
        command = operation.command
        writes = isinstance(command, Put | Slowly) and receipt.version
        at = self._random.choice((receipt, None)) if writes else None
        lane = f"cell:{command.cell_id}"
        if self._swarm.tally_lanes:
            lane = lane_of(command, None)
        begun = self._story.tick()
        row = await engine.query(GetTally(lane), at=at)
        version, positions = (0, ()) if row is None else (row.version, tuple(row.positions))
        asked_at = 0 if at is None else receipt.position
        self._story.seen_tallies.append(
            SeenTally(
                lane, self._story.lives, begun, self._story.tick(), version, positions, asked_at
            )
        )

    def _problem(self, text: str) -> None:
        self._story.problems.append(text)

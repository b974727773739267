"""The projection of the simulated world that people look after: sliced, parking, of any version.

Rules: a row keeps the positions of all events that were folded into it, in that order, so that an
event that counts twice, or never, or out of turn shows. Two amounts fail while the world says so,
one for good and one as a lost connection does. Which class an engine is given is drawn by the seed,
life by life: its version, its slices, what becomes of poison, and whether its rows are the cells'
or those of lanes that many cells share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Final

from engine.model.messages import Event, Meta, Query
from engine.model.projection import Policy, Projection, Row, Table, projects
from engine.queries.declared import answers
from engine.queries.views import Views

from .domain import Taken, Was

__all__ = [
    "FLEETING",
    "LASTING",
    "GetTallies",
    "GetTally",
    "Tallies",
    "Tally",
    "lane_of",
    "tallies_class",
]

LASTING: Final = 3
"""The amount that cannot be folded until the handlers are mended."""
FLEETING: Final = 11
"""That which meets a lost connection as long."""
LANES: Final = 5


class Tally(Row, key="lane"):
    """What was folded of the events of one key."""

    lane: str
    version: int
    """Of the projection that folded it."""
    positions: list[int]


def lane_of(event: Any, meta: Meta | None) -> str:
    """Give the lane of an event, or of its command, which many cells share."""
    return f"lane {event.operation % LANES}"


class Tallies(Projection, name="tallies-base"):
    """Every event, by cell or by lane."""

    rows: Table[Tally]
    made: ClassVar[int] = 1
    by_lane: ClassVar[bool] = False
    ailing: ClassVar[bool] = False
    """Whether two amounts cannot be folded now; the world says so."""

    @projects
    def was(self, event: Was, meta: Meta) -> None:
        """Count, or fail."""
        self._count(event, meta)
        if Tallies.ailing and event.amount == LASTING:
            raise ValueError("an amount that nobody has thought of")
        if Tallies.ailing and event.amount == FLEETING:
            raise ConnectionError("an amount whose rate is asked for elsewhere")

    @projects
    def taken(self, event: Taken, meta: Meta) -> None:
        """Count."""
        self._count(event, meta)

    def _count(self, event: Event, meta: Meta) -> None:
        lane = lane_of(event, meta) if self.by_lane else meta.stream
        row = self.rows.get(lane)
        before = [] if row is None else row.positions
        self.rows.put(Tally(lane, self.made, [*before, meta.position]))


class GetTally(Query[Tally | None]):
    """A lane."""

    lane: str


class GetTallies(Query[list[Tally]]):
    """All of them."""


@functools.cache
def tallies_class(
    version: int, slices: int, policy: Policy, lanes: bool
) -> tuple[type[Tallies], list[Callable[..., Any]]]:
    """Give the projection with these options, and what answers queries of it."""

    class Declared(
        Tallies,
        name="tallies",
        version=version,
        slices=slices,
        on_poison=policy,
        sequence=lane_of if lanes else None,
    ):
        rows: Table[Tally]
        made = version
        by_lane = lanes

    @answers(projections=[Declared])
    async def get_tally(query: GetTally, views: Views) -> Tally | None:
        return await views.get(Declared.rows, query.lane)

    @answers(projections=[Declared])
    async def get_tallies(query: GetTallies, views: Views) -> list[Tally]:
        return await views.find(Declared.rows)

    return Declared, [get_tally, get_tallies]

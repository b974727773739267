"""Which member runs which projection, for whoever looks from outside: read, and nothing is asked.

Rules: who runs what follows from the members of the log, as every one of them reckons it. How far
a projection has come is what its rows say. Calls block.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ...errors import StoreRefused
from ...outside.standings import Standing, Standings
from ...runtime.ports import Clock
from ...stores.contract.backend import Outside, Runners
from .whose import declared_by, owners_of_slices

__all__ = ["Duty", "who_runs"]


class Duty(msgspec.Struct, frozen=True):
    """A projection, and the member that runs it."""

    duty: str
    """The name of the projection or sink, with the number of a slice that another member runs."""
    holder: str
    """What people call the process."""
    member: int
    """Its number among the members."""
    lease: float
    """Seconds that are left of its lease; none where another member is to run it soon."""
    state: str
    """As `foldline projections` shows it; "elsewhere" where nobody has begun it yet."""
    position: int
    lag_events: int | None
    lag_seconds: float | None


def who_runs(outside: Outside, clock: Clock) -> list[Duty]:
    """Give all duties of a log, by name; none where its owner runs all projections."""
    if not isinstance(outside, Runners):
        return []
    view = outside.runners()
    names = declared_by(view)
    standings: Mapping[str, Standing] = _standings(outside, clock) if names else {}
    found: list[Duty] = []
    for name in names:
        now = standings.get(name)
        for duty, owner in owners_of_slices(view, name).items():
            found.append(
                Duty(
                    duty,
                    owner.holder,
                    owner.member,
                    max(0.0, owner.seconds_left),
                    "elsewhere" if now is None else now.state,
                    0 if now is None else now.position,
                    None if now is None else now.lag_events,
                    None if now is None else now.lag_seconds,
                )
            )
    return found


def _standings(outside: Outside, clock: Clock) -> Mapping[str, Standing]:
    try:
        with outside.operations(readonly=True) as opened:
            return {one.name: one for one in Standings(opened, clock).observe()}
    except StoreRefused:
        return {}  # nobody has made the views yet

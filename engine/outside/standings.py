"""How projections stand, as far as a log and its views tell whoever looks from outside.

Rules: everything is derived from what is in the two files and from whether an engine has the log
open: no engine is asked, so one that hangs is told of too. Speeds are what moved between two looks.
What a projector only holds in memory, as that it tries something again, does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from ..errors import Damaged
from ..projections.progress import Rate
from ..runtime.ports import Clock
from ..statistics import BuildProgress, ProjectionFailure
from ..stores.contract.outside import Found, Looked, Operations
from ..stores.contract.requests import Request

__all__ = ["BuildStanding", "Standing", "Standings", "progress_of"]

State: TypeAlias = Literal["live", "catching-up", "building", "paused", "stopped", "at-rest"]
"""`ProjectorState` as others see it, and where no engine has the log open."""


class BuildStanding(msgspec.Struct, frozen=True):
    """How a build stands that serves not yet, or not any more."""

    number: int
    version: int
    state: str
    position: int
    lag_events: int
    by_another_process: bool
    events_per_second: float | None = None
    seconds_left: float | None = None
    failure: ProjectionFailure | None = None


class Standing(msgspec.Struct, frozen=True):
    """How a projection stands."""

    name: str
    version: int | None
    """That whose tables serve."""
    state: State
    position: int
    lag_events: int
    ahead_events: int
    """Positions that its tables contain and the log does not reach: it was restored, or another."""
    lag_seconds: float | None
    """Age of the first event that is not in its tables; None where that is not known."""
    events_per_second: float | None
    """None where nobody has looked before."""
    slices: int
    parked: int
    failure: ProjectionFailure | None
    builds: Sequence[BuildStanding]
    """All but the one that serves."""
    requests: Sequence[Request]
    """Those that wait for an answer."""


class Standings:
    """Looks at all projections of one log, again and again."""

    def __init__(self, outside: Operations, clock: Clock) -> None:
        self.outside = outside
        """What is looked at; it may be opened anew between two looks."""
        self._clock = clock
        self._rates: dict[tuple[str, int], Rate] = {}

    def observe(self) -> Sequence[Standing]:
        """Look, and give how all of them stand."""
        looked = self.outside.look()
        # Asked after the views, so that no projection is ahead of the log.
        end = self.outside.log.head().position
        in_use = self.outside.is_in_use()
        return [self._standing(looked, name, end, in_use=in_use) for name in looked.names]

    def _standing(self, looked: Looked, name: str, end: int, *, in_use: bool) -> Standing:
        builds = [build for build in looked.builds if build.projection == name]
        now = next((build for build in builds if build.state == "serving"), None)
        position = now.position if now is not None else 0
        failures = {s.build: s.failure for s in looked.standstills if s.projection == name}
        failure = failures.get(now.number) if now is not None else None
        lag = max(0, end - position)
        return Standing(
            name=name,
            version=None if now is None else now.version,
            state=_state(looked, name, builds, failure, lag, in_use=in_use),
            position=position,
            lag_events=lag,
            ahead_events=max(0, position - end),
            lag_seconds=0.0 if lag == 0 else self._age_after(position),
            events_per_second=None if now is None else self._speed(now),
            slices=1 if now is None else now.slices,
            parked=0 if now is None else looked.parked.get((name, now.number), 0),
            failure=failure,
            builds=[self._build(b, end, failures.get(b.number)) for b in builds if b is not now],
            requests=[request for request in looked.requests if request.projection == name],
        )

    def _build(self, build: Found, end: int, failure: ProjectionFailure | None) -> BuildStanding:
        is_built = build.state == "building"
        lag = max(0, end - build.position)
        speed = self._speed(build) if is_built else None
        return BuildStanding(
            build.number,
            build.version,
            "stopped" if is_built and failure is not None else build.state,
            build.position,
            lag,
            build.builder is not None,
            speed,
            lag / speed if speed else None,
            failure,
        )

    def _speed(self, build: Found) -> float | None:
        """Give how fast a build moved since the first look of the last seconds."""
        key = (build.projection, build.number)
        rate = self._rates.get(key)
        if rate is None:
            rate = self._rates[key] = Rate(self._clock.monotonic)
            rate.note(build.position)
            return None
        rate.note(build.position)
        return rate.per_second(build.position)

    def _age_after(self, position: int) -> float | None:
        """Give the age in seconds of the event after a position."""
        try:
            page = self.outside.log.read_feed(position, events_max=1, bytes_max=1)
        except Damaged:
            return None
        return max(0.0, (self._clock.now() - page[0].recorded) / 1e6) if page else None


def progress_of(standing: Standing) -> BuildProgress | None:
    """Give how far a build beside the one that serves has come, if there is one."""
    building = next((b for b in standing.builds if b.state != "former"), None)
    if building is None:
        return None
    return BuildProgress(
        number=building.number,
        version=building.version,
        state="stopped" if building.state == "stopped" else "building",
        position=building.position,
        lag_events=building.lag_events,
        events_per_second=building.events_per_second or 0.0,
        seconds_left=building.seconds_left,
        failure=building.failure,
    )


def _state(
    looked: Looked,
    name: str,
    builds: Sequence[Found],
    failure: ProjectionFailure | None,
    lag: int,
    *,
    in_use: bool,
) -> State:
    if name in looked.paused:
        return "paused"
    if in_use and any(_takes_its_place(build, builds) for build in builds):
        return "building"
    if failure is not None:
        return "stopped"
    if not in_use:
        return "at-rest"
    return "live" if lag == 0 else "catching-up"


def _takes_its_place(build: Found, builds: Sequence[Found]) -> bool:
    """Whether the engine builds another version, so that nobody folds the one that serves."""
    now = next((other for other in builds if other.state == "serving"), None)
    if now is None or build.state != "building" or build.builder is not None:
        return False
    return (build.version, build.definition, build.slices) != (
        now.version,
        now.definition,
        now.slices,
    )

"""What an operator's act means for a projection: which tables go, and of which version an event.

Rules: pure. An engine asks here before it acts on its own projections, and a process outside before
it acts on those of an engine that is not there. So both do the same, and refuse the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from ...errors import UsageError
from .views import BuildState, Parked, ProjectionDecision, Standstill

__all__ = [
    "DONE_TEXTS",
    "Tables",
    "build_to_cancel",
    "builds_to_drop",
    "cancelled_text",
    "check_reset",
    "check_skip",
    "dropped_text",
    "is_parked_there",
    "not_repeated_text",
    "skipped_text",
    "stopped_there",
]

DONE_TEXTS: Final = {
    "pause": "it rests until it is resumed",
    "resume": "it goes on",
    "reset": "its tables are empty, and the log is folded into them again",
    "rebuild": "it is built anew beside the tables that serve: `list` tells how far it is",
}
"""What is answered where nothing but its having been done is to be told."""


class Tables(Protocol):
    """A build, as far as an act looks at it."""

    @property
    def number(self) -> int:
        """Its number."""
        ...

    @property
    def version(self) -> int:
        """That of its projection when it was begun."""
        ...

    @property
    def state(self) -> BuildState:
        """What its tables are for."""
        ...


B = TypeVar("B", bound=Tables)


def build_to_cancel(projection: str, builds: Sequence[B]) -> B:
    """Give the build that is given up; raise UsageError where none is on its way."""
    found = next((build for build in builds if build.state == "building"), None)
    if found is None:
        raise UsageError(f"projection {projection!r} is not being rebuilt")
    return found


def cancelled_text(build: Tables) -> str:
    """Tell which build was given up."""
    return f"build {build.number}, version {build.version}, is given up and dropped"


def builds_to_drop(builds: Sequence[B]) -> Sequence[B]:
    """Give the former builds, none of which serves queries any more."""
    return [build for build in builds if build.state == "former"]


def dropped_text(builds: Sequence[Tables]) -> str:
    """Tell which former builds were dropped."""
    if not builds:
        return "there is no former build to drop"
    return "former builds that are dropped: " + ", ".join(str(build.number) for build in builds)


def check_reset(projection: str, decided: Sequence[ProjectionDecision]) -> None:
    """Raise UsageError for a reactor, which is known by the decision where it begins."""
    if any(decision.kind == "begin" for decision in decided):
        raise UsageError(not_repeated_text(projection, "reset"))


def not_repeated_text(projection: str, act: str) -> str:
    """Tell why a reactor is not run again from the beginning."""
    return (
        f"{projection!r} is a reactor, and a {act} would send its commands again: nothing was "
        f"changed. One of another name begins where its `begins=` says"
    )


def check_skip(reason: str) -> None:
    """Raise UsageError for a skip that nobody can account for later."""
    if not reason.strip():
        raise UsageError("an event is skipped for a reason: say it, it is kept")


def is_parked_there(position: int, next_parked: Sequence[Parked]) -> bool:
    """Tell whether the first event that is parked from a position on is the one there."""
    return bool(next_parked) and next_parked[0].position == position


def stopped_there(projection: str, position: int, standstills: Sequence[Standstill]) -> Standstill:
    """Give the part of a build that the event at a position has stopped.

    The event is then left out of that build's version. Raises UsageError if it has stopped none:
    what stands in nobody's way is not skipped.
    """
    for standstill in standstills:
        failure = standstill.failure
        stopped = standstill.projection == projection and bool(failure.event)
        if stopped and failure.position == position:
            return standstill
    raise UsageError(
        f"no event of projection {projection!r} is parked at position {position}, and none there "
        f"has stopped it: nothing was skipped"
    )


def skipped_text(position: int) -> str:
    """Tell that an event is skipped."""
    return f"the event at position {position} is left out of the tables"

"""How a log is copied from one store into another, whatever both are.

Rules: a log is copied up to one position, event by event as it was stored: stream, version,
position, recorded, behind, checksum, payload and metadata, with its id, and with the claims that
are held there and the timers that wait. Snapshots come along, and what no log tells: what people
decided and asked for, and how far sinks have delivered. Tables of projections do not: an engine
folds them from the log. A target is nobody's log until `place`. What was written to it is durable
in the order in which it was added, so that a copy that was killed goes on from its last page. All
calls block.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol
from zlib import crc32

import msgspec

from ...errors import StoreRefused
from ...model.stored import EventType, Snapshot, StoredEvent
from .claims import HeldClaim
from .log import Head
from .outside import Found, LogReader
from .requests import Request
from .timers import WaitingTimer
from .views import Parked, ProjectionDecision

__all__ = [
    "Carried",
    "CopySource",
    "CopyTarget",
    "Mark",
    "Repaired",
    "foreign_copy",
    "foreign_views",
    "marked",
    "rival_copy",
]

_NUMBER_BYTES: Final = 8


class Mark(msgspec.Struct, frozen=True):
    """How far a copy has come."""

    position: int = 0
    checksum: int = 0
    """Of the event there."""
    digest: int = 0
    """Of places, times and checksums of all events up to there, in order."""


def marked(mark: Mark, events: Sequence[StoredEvent]) -> Mark:
    """Give the mark behind these events, which follow on it."""
    if not events:
        return mark
    numbers = array("q", bytes(4 * _NUMBER_BYTES * len(events)))
    # Column by column: an item at a time is more than twice as slow.
    numbers[0::4] = array("q", [event.position for event in events])
    numbers[1::4] = array("q", [event.checksum for event in events])
    numbers[2::4] = array("q", [event.recorded for event in events])
    numbers[3::4] = array("q", [event.behind for event in events])
    return Mark(events[-1].position, events[-1].checksum, crc32(numbers, mark.digest))


class Carried(msgspec.Struct, frozen=True):
    """What goes along that a log does not tell."""

    decisions: Sequence[ProjectionDecision]
    """The oldest first."""
    requests: Sequence[Request]
    """With their numbers, so that who waits for an answer finds it."""
    sinks: Sequence[Found]
    """The builds of sinks that deliver, with their checkpoints."""
    parked: Mapping[str, Sequence[Parked]]
    """What these sinks have set aside, by name."""
    folded: Sequence[str]
    """The projections whose tables are folded anew."""


class Repaired(msgspec.Struct, frozen=True):
    """An event of a damaged log that a repair took from a backup or a copy."""

    position: int
    repaired: int
    """When, in µs since 1970-01-01 UTC."""
    stream: str
    version: int
    checksum: int
    """By which it was proved."""
    cause: str
    """What was wrong with the log's own."""
    source: str
    """What people call the backup."""


class CopySource(AbstractContextManager["CopySource"], Protocol):
    """A log and its views, to be copied while their engine runs or not."""

    @property
    def log(self) -> LogReader:
        """The log, open inside of `with`."""
        ...

    def is_in_use(self) -> bool:
        """Tell whether an engine has the log open."""
        ...

    def moment(
        self,
        keep_claims: Callable[[Sequence[HeldClaim]], None],
        keep_timers: Callable[[Sequence[WaitingTimer]], None],
    ) -> Head:
        """Give the end of the log, and all claims and timers, page by page, as of one moment."""
        ...

    def snapshots(self, after: str, limit: int) -> Sequence[Snapshot]:
        """Give snapshots in the order of their streams, behind one of that name."""
        ...

    def repairs(self) -> Sequence[Repaired]:
        """Give what was repaired in this log, by position."""
        ...

    def carried(self) -> Carried | None:
        """Give what goes along, as of one moment; None where there are no views beside the log.

        Raises StoreRefused for views of another log, or of another release.
        """
        ...


class CopyTarget(AbstractContextManager["CopyTarget"], Protocol):
    """Where a log is copied to."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def begin(self, log_id: str) -> Mark:
        """Make it, or go on with a copy of that log that was begun; give how far that is.

        Raises StoreRefused where something is there that is no such copy.
        """
        ...

    def add(
        self, events: Sequence[StoredEvent], types: Sequence[EventType], before: Mark, after: Mark
    ) -> None:
        """Add events behind `before`. `types` are all that the log has, in their order.

        Raises StoreRefused where somebody else goes on with this copy.
        """
        ...

    def clear_kept(self) -> None:
        """Forget what claims and timers were kept."""
        ...

    def keep_claims(self, claims: Sequence[HeldClaim]) -> None:
        """Keep more claims."""
        ...

    def keep_timers(self, timers: Sequence[WaitingTimer]) -> None:
        """Keep more timers."""
        ...

    def keep_snapshots(self, snapshots: Iterable[Sequence[Snapshot]]) -> None:
        """Keep snapshots, in place of what was kept."""
        ...

    def keep_carried(self, types: Sequence[EventType], carried: Carried | None) -> None:
        """Keep what goes along, in place of what was kept, and the types as they are now."""
        ...

    def keep_repairs(self, repairs: Sequence[Repaired]) -> None:
        """Keep what was repaired, in place of what was kept."""
        ...

    def written(self) -> LogReader:
        """Give what was written, to be read and compared; not yet open."""
        ...

    def place(self) -> None:
        """Make it a log that engines open."""
        ...


def foreign_copy(name: str, log_id: str, wanted: str) -> StoreRefused:
    """Say that a copy of another log was begun at a target."""
    return StoreRefused(
        f"in {name} a copy of the log {log_id} was begun, and this is {wanted}: name another "
        f"target, or remove what was begun. Nothing was changed"
    )


def foreign_views(name: str, log_id: str, wanted: str) -> StoreRefused:
    """Say that the views beside a source are not its own."""
    return StoreRefused(
        f"{name} has views of log {log_id}, and is log {wanted}: start an engine on it once, which "
        f"drops them, or move them away. Nothing more was copied"
    )


def rival_copy(name: str) -> StoreRefused:
    """Say that somebody else writes to a target."""
    return StoreRefused(
        f"another process copies to {name} at the same time: let one of them finish it. This one "
        f"wrote nothing more"
    )

"""What other processes do with a log and its views: read them, ask for something, do it at rest.

Rules: whoever reads takes no lock, keeps no engine waiting and makes nothing. Calls of a
`LogReader`, of `Operations` and of a `Shell` block; those of a `ViewsReader` are awaited. No gate
is asked here: whoever may open the store may do all of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias, runtime_checkable

import msgspec

from ...errors import StoreRefused
from ...model.projection import ProjectionDefinition
from ...model.rows import Scalar
from ...model.stored import EventType, StoredEvent
from ...runtime.ring import Ring
from .claims import ClaimKey, HeldClaim
from .log import Head, StreamPage, StreamRead
from .requests import Arguments, Request
from .timers import TimerKey, WaitingTimer
from .views import BuildState, Checkpoint, Parked, ProjectionDecision, Standstill, ViewsStates

__all__ = [
    "SHELL",
    "Copied",
    "Found",
    "LogReader",
    "Look",
    "Looked",
    "NoLog",
    "NoViewsYet",
    "Notices",
    "Operations",
    "Rows",
    "Shell",
    "TellsKinds",
    "TellsNextTimer",
    "ViewsReader",
]

Look: TypeAlias = tuple[int, int]
"""What a look at the views saw; another one whenever something was committed in between."""


class NoLog(StoreRefused):
    """There is no log of that name, and none is made."""


class NoViewsYet(StoreRefused):
    """There are no views, or no engine has put any there yet."""


SHELL: Final = ""
"""Who asks at a shell: the user of the machine."""


class Found(msgspec.Struct, frozen=True):
    """A build as it is in the store, whatever a program declares."""

    projection: str
    number: int
    version: int
    definition: str
    """The hash of its tables."""
    slices: int
    log_id: str
    tables: Sequence[str]
    """What its tables are called without its number."""
    state: BuildState
    checkpoints: Mapping[int, Checkpoint]
    """By slice."""
    builder: str | None = None
    """Who builds it, where that is another process than the engine's."""
    own: bool = False
    """Whether its tables were made by SQL of its projection's own."""

    @property
    def position(self) -> int:
        """The least that its slices have reached."""
        return min((c.position for c in self.checkpoints.values()), default=0)

    def fits(self, definition: ProjectionDefinition, hash_now: str) -> bool:
        """Tell whether it is what a projection declares."""
        declared = (definition.version, definition.slices)
        return (self.version, self.slices) == declared and self.has(hash_now)

    def has(self, hash_now: str) -> bool:
        """Tell whether its tables are those with a hash; a former release wrote its first part."""
        return self.definition in (hash_now, hash_now.partition(".")[0])


class Looked(msgspec.Struct, frozen=True):
    """What the views say of all projections, at one moment."""

    builds: Sequence[Found]
    parked: Mapping[tuple[str, int], int]
    """Events, by projection and build."""
    paused: frozenset[str]
    standstills: Sequence[Standstill]
    requests: Sequence[Request]
    """Those without an answer."""

    @property
    def names(self) -> Sequence[str]:
        """The projections that there are."""
        return sorted({build.projection for build in self.builds})


class Rows(msgspec.Struct, frozen=True):
    """What a statement gave."""

    names: Sequence[str]
    rows: Sequence[Sequence[Scalar]]
    more: bool
    """Whether there were more than were wanted."""


class Copied(msgspec.Struct, frozen=True):
    """What was copied."""

    head: Head
    """The end of the log in the copy."""
    views: str | None
    """Where its views are; None where there were none."""


class LogReader(Protocol):
    """A log that is only read, beside its engine or without one.

    Reads raise Damaged for an event that does not match its checksum, and StoreFailed where the
    log cannot be read.
    """

    @property
    def name(self) -> str:
        """What people call the log: its path, or its address without a password."""
        ...

    @property
    def log_id(self) -> str:
        """The log's random id; known after `open`."""
        ...

    def __enter__(self) -> Self:
        """Open it."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        ...

    def open(self) -> None:
        """Open it; raise StoreRefused where there is no log that can be read."""
        ...

    def close(self) -> None:
        """Close it; a second call does nothing."""
        ...

    def head(self) -> Head:
        """Give the end of the log, as it is now."""
        ...

    def event_types(self) -> Sequence[EventType]:
        """Give the types that the log has stored, in the order of their first use."""
        ...

    def checksum_at(self, position: int) -> int | None:
        """Give the checksum that stands at a position, of which nothing else is read or compared.

        None where there is none that can be read.
        """
        ...

    def version_of(self, stream: str) -> int:
        """Give the version of a stream, 0 where it has no events."""
        ...

    def change_count(self) -> int:
        """Give a number that changes whenever somebody else has committed, at little cost."""
        ...

    def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, in order, as `Store.read_claims` does.

        A log that no engine of this release has opened yet has none.
        """
        ...

    def read_timers(self, after: TimerKey = ("", ""), *, timers_max: int) -> list[WaitingTimer]:
        """Give the timers behind `after`, in order, as `Store.read_timers` does.

        A log that no engine of this release has opened yet has none.
        """
        ...

    def read_feed(self, after: int, *, events_max: int, bytes_max: int) -> Sequence[StoredEvent]:
        """Read as `Store.read_feed` does."""
        ...

    def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read as `Store.read_streams` does."""
        ...


@runtime_checkable
class TellsNextTimer(Protocol):
    """A log that knows at little cost when its next timer is due."""

    def next_timer(self) -> int | None:
        """Give when the next timer is to be tried, in µs; None if none waits."""
        ...


@runtime_checkable
class TellsKinds(Protocol):
    """A log that knows at little cost of which kinds its streams are."""

    def kinds(self) -> Sequence[str]:
        """Give the kinds of its streams, sorted."""
        ...


class ViewsReader(ViewsStates, Protocol):
    """The views of some projections, read-only. They need not be there yet."""

    async def open(self) -> None:
        """Take calls."""
        ...

    async def close(self) -> None:
        """Take no more calls; those that still run are interrupted. A second call does nothing."""
        ...

    async def look(self) -> Look:
        """Give what changes whenever somebody has committed; raise NoViewsYet without views."""
        ...

    def leave_out(self, projections: Set[str], *, misfits: bool) -> None:
        """Serve nothing of these, and look no more whether their tables are those declared.

        With `misfits` others whose tables are not those declared are left out too, as long as they
        are, and not refused: whoever keeps them is at work on them.
        """
        ...

    async def positions(self) -> Mapping[str, int]:
        """Give how far each projection is. Raises NoViewsYet, and StoreRefused for other tables."""
        ...


class Notices(Protocol):
    """What tells that somebody has committed, from `open` to `close`."""

    @property
    def is_heard(self) -> bool:
        """Whether it is known to be told at the moment; if not, who waits looks often himself."""
        ...

    @property
    def appended(self) -> Ring:
        """Rung behind an append, and when it may be that one was missed."""
        ...

    @property
    def changed(self) -> Ring:
        """Rung behind a change of the views, and when it may be that one was missed."""
        ...

    async def open(self) -> None:
        """Begin to listen, and go on until closed; nothing is raised where that cannot be."""
        ...

    async def close(self) -> None:
        """Listen no more; a second call does nothing."""
        ...


class Operations(Protocol):
    """A log and its views, without the application: looked at, asked for, done at rest."""

    @property
    def log(self) -> LogReader:
        """The log, to be read."""
        ...

    def __enter__(self) -> Self:
        """Open log and views; raise StoreRefused where there are none that can be used."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close both."""
        ...

    def is_in_use(self) -> bool:
        """Tell whether an engine has the log open."""
        ...

    def look(self) -> Looked:
        """Read how all projections stand."""
        ...

    def parked(
        self, projection: str, *, key: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[Parked]:
        """Give parked events of the build that serves, in order of position."""
        ...

    def decisions(self, projection: str | None) -> Sequence[ProjectionDecision]:
        """Give what was decided, the oldest first."""
        ...

    def ask(
        self, kind: str, projection: str, arguments: Arguments, *, asked_by: str | None = SHELL
    ) -> int:
        """Ask for something; give the number of the request, which is durable then.

        `asked_by` is the principal; by itself it is the user of this machine at a shell.
        Raises UsageError for what nobody can do, and Overloaded where too many requests wait.
        """
        ...

    def request(self, number: int) -> Request:
        """Give a request as it is now."""
        ...

    def do_at_rest(self) -> bool:
        """Do what waits and needs no engine, if none has the log open; tell whether none has."""
        ...


class Shell(Protocol):
    """SQL for people over a log and its views, which only reads, within bounds."""

    def ask(
        self, statement: str, parameters: Sequence[str], *, rows_max: int, seconds: int
    ) -> Rows:
        """Give the first rows of one statement that reads.

        Raises UsageError for what cannot be run, or takes too long or too much, and StoreRefused
        for a store that cannot be read.
        """
        ...

    def tables(self, *, rows_max: int, seconds: int) -> Rows:
        """Give what there is to ask: schema, table, columns."""
        ...

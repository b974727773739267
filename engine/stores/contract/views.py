"""Views: what is kept of projections, and what every store of views promises.

Rules: a query sees whole transactions of a projector, never half of one, and an answer one state of
all that it reads. A batch of rows and its
checkpoint are written in one transaction, and only where the checkpoint still stands where the
writer believes; so every event counts once. A projection may have several builds, sets of tables
with a number each: one serves queries, another may be built beside it. What people decide (to skip
an event, to pause, to swap builds) is synced before it is answered. Nothing here writes on behalf
of a query.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from ...errors import StoreRefused
from ...limits import Limits
from ...model.conditions import Filter
from ...model.projection import Dialect, Projection, ProjectionDefinition, TableDefinition
from ...model.rows import Flat, Scalar
from ...model.sql_projection import SqlSession
from ...runtime.ports import Ports
from ...statistics import ProjectionFailure
from .log import LogSource
from .requests import RequestStore

__all__ = [
    "Build",
    "BuildState",
    "Changes",
    "Checkpoint",
    "Parked",
    "Part",
    "ProjectionDecision",
    "Rebuild",
    "Scrubbed",
    "Search",
    "Selected",
    "Selection",
    "SqlCall",
    "Standstill",
    "ViewsSource",
    "ViewsState",
    "ViewsStates",
    "ViewsStore",
    "row_of_another",
    "what_of",
]

BuildState: TypeAlias = Literal["serving", "building", "former"]
Rebuild: TypeAlias = Literal["refuse", "auto"]
"""What opening does where a projection was declared anew: say so, or build it beside the old."""
DecisionKind: TypeAlias = Literal[
    "skip",
    "pause",
    "resume",
    "reset",
    "rebuild",
    "swap",
    "drop",
    "begin",
    "retry",
    "fire-timer",
    "cancel-timer",
]


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a projection has come: the position of the last event that its tables contain."""

    position: int = 0
    checksum: int = 0
    """Of the event there, which ties the tables to this history."""


class Build(msgspec.Struct, frozen=True):
    """One set of a projection's tables."""

    projection: str
    """By its name."""
    number: int
    """From 1 on, counted per projection; the tables carry it in their names."""
    version: int
    """That its projection had when it was begun."""
    state: BuildState
    """"serving" queries, "building" beside it, or "former": kept until it is dropped."""
    position: int
    """The least that its slices have reached."""
    fits: bool
    """Whether its version, tables and slices are those that the program declares."""
    builder: str | None = None
    """The process that builds it, if that is another one than the engine's."""


class Part(msgspec.Struct, frozen=True):
    """What one projector keeps: a slice of one build."""

    definition: ProjectionDefinition
    build: int
    slice: int = 0


class Parked(msgspec.Struct, frozen=True):
    """An event that is not in the tables, since it or one before it could not be folded."""

    position: int
    """Of the event, in the log."""
    key: str
    """All later events of this key wait behind it."""
    event: str
    """Its name and version, as "order-created v1"."""
    stream: str
    """`kind:id` of its aggregate."""
    parked: int
    """When, in µs since 1970-01-01 UTC."""
    attempts: int = 0
    """How often it was tried; 0 where it only waits behind another."""
    cause: str = ""
    """The traceback of the last try, without the values that were in messages and variables."""


class ProjectionDecision(msgspec.Struct, frozen=True):
    """What a person decided about a projection; it is kept with the views."""

    projection: str
    """By its name; the `timer_target` of a timer."""
    kind: DecisionKind
    """What was decided."""
    decided: int
    """When, in µs since 1970-01-01 UTC."""
    version: int
    """Of the projection, for which an event is skipped."""
    position: int | None = None
    """Of the event that is skipped, that has set a timer, or behind which a reactor begins."""
    reason: str = ""
    """As it was given."""
    principal: str | None = None
    """The person who decided, if that was said."""
    checksum: int | None = None
    """Of the event that is skipped, or behind which a reactor begins: in a log that has another one
    there, neither is so."""


class Standstill(msgspec.Struct, frozen=True):
    """A part of a build that a failure has stopped."""

    projection: str
    build: int
    slice: int
    version: int
    """Of the build."""
    failure: ProjectionFailure


class Changes(msgspec.Struct, frozen=True):
    """What one transaction of a projector does."""

    part: Part
    before: Checkpoint
    """Where the tables stand, as the projector believes."""
    after: Checkpoint
    rows: Mapping[str, Mapping[Scalar, Flat | None]]
    """By table attribute and key; None takes the row away."""
    parked: Sequence[Parked] = ()
    """To be set aside, or to be told anew why they are."""
    released: Sequence[int] = ()
    """Positions of parked events that are in the tables now."""
    everything: bool = False
    """Whether any row of the projection may have changed beside `rows`: SQL does not tell which."""

    @property
    def projection(self) -> ProjectionDefinition:
        """The projection whose tables change."""
        return self.part.definition


class Selection(msgspec.Struct, frozen=True):
    """Which rows a query reads, in which order; names are checked, values are SQL values."""

    where: tuple[Filter, ...] = ()
    order_by: str | None = None
    descending: bool = False
    after: tuple[Scalar, Scalar] | None = None
    """Only rows behind this one: its value in `order_by`, and its key."""
    limit: int = 0
    offset: int = 0


class Search(msgspec.Struct, frozen=True):
    """Which rows a search reads, the best first; words are what people typed, values SQL's."""

    words: tuple[str, ...]
    """A row has all of them; the last may be the beginning of one."""
    syntax: str | None = None
    """Instead of words: a search in the store's own language."""
    where: tuple[Filter, ...] = ()
    limit: int = 0
    offset: int = 0


SqlCall: TypeAlias = Callable[[SqlSession], Coroutine[Any, Any, Changes | None]]
"""What writes a part's tables by SQL, and gives what the transaction does beside."""


class Selected(NamedTuple):
    """What a statement of a user gave."""

    names: Sequence[str]
    """Of its columns."""
    rows: list[tuple[Any, ...]]
    tables: frozenset[str]
    """What it reads, as far as these are the views' own: tables by the name that is declared."""


class ViewsSource(Protocol):
    """What queries ask of the storage of views. Where it fails, StoreFailed is raised.

    Texts compare by their characters, in the order of code points: no language's, and no case's.
    An answer of more than `Limits.query_bytes` is refused by UsageError, and never cut; a table
    that does not serve, by ProjectionUnserved.
    """

    def serves(self, projection: str) -> bool:
        """Tell whether the tables that serve can be read as they are declared."""
        ...

    async def get(self, table: TableDefinition, key: Scalar) -> Any:
        """Give the row with a key, or None."""
        ...

    async def find(self, table: TableDefinition, selection: Selection) -> list[Any]:
        """Give the rows of a selection, in its order."""
        ...

    async def search(self, table: TableDefinition, search: Search) -> list[Any]:
        """Give the rows that a search finds, the best first, by key where they are as good.

        Raises InvalidInput for a `syntax` that is none.
        """
        ...

    async def count(self, table: TableDefinition, where: Sequence[Filter]) -> int:
        """Give how many rows are asked for."""
        ...

    async def sql(self, statement: str, parameters: Sequence[Scalar], rows_max: int) -> Selected:
        """Run a statement that reads.

        Raises UsageError for a statement that cannot be run, or that would change anything, or
        that gives more than `rows_max` rows.
        """
        ...


class ViewsState(ViewsSource, Protocol):
    """The views as they are at the first read, for one answer and no other, until `end`."""

    @property
    def is_torn(self) -> bool:
        """Whether two reads may have seen two states all the same, as they may in memory."""
        ...

    @property
    def positions(self) -> Mapping[str, int] | None:
        """How far each projection is in what was read; None where who writes it knows better."""
        ...

    def end(self) -> None:
        """Give it back; what is read later fails. A second call does nothing."""
        ...


class ViewsStates(ViewsSource, Protocol):
    """Views that can be held still for one answer while they are written."""

    def state(self, *, holding: float = 0) -> ViewsState:
        """Give the views as they are at the first read, all of them at the same moment.

        Who reads it for longer than `limits.state_seconds` is given TimeoutError. Where it cannot
        be without, writes wait for it, for `holding` seconds at most.
        """
        ...


class ViewsStore(ViewsStates, RequestStore, Protocol):
    """The contract between the projectors and queries, and the storage of their tables."""

    @property
    def is_kept(self) -> bool:
        """Whether what it keeps is there for the next process, too."""
        ...

    @property
    def dialect(self) -> Dialect:
        """Whose SQL it takes."""
        ...

    def check(self, definition: ProjectionDefinition) -> None:
        """Raise DefinitionError for a projection that cannot be kept here; before it is open."""
        ...

    def on_fallen(self, call: Callable[[str], None]) -> None:
        """Tell, by its name, of each projection whose views stand earlier than was committed.

        That may be where a server loses the last commits beside an engine that goes on. It is told
        before anything is read there.
        """
        ...

    async def open(
        self,
        ports: Ports,
        limits: Limits,
        store: LogSource,
        projections: Sequence[type[Projection]],
        *,
        rebuild: Rebuild = "refuse",
    ) -> None:
        """Open or make the tables of these projections.

        Tables of another history than the store's are made anew and empty. Where a projection has
        another version or other slices than its tables, `rebuild="auto"` begins a build beside
        them, unless there is one already. Raises StoreRefused otherwise, and for what must not be
        used as it is.
        """
        ...

    async def close(self) -> None:
        """Close; a second call does nothing."""
        ...

    # -- the projectors' side

    async def checkpoint(self, part: Part) -> Checkpoint:
        """Give how far a part has come. Raises StoreRefused for a build that was dropped."""
        ...

    async def fetch(
        self, part: Part, keys: Mapping[str, Sequence[Scalar]]
    ) -> Mapping[str, Sequence[Flat]]:
        """Give the rows of these keys, by table attribute, for the part's own projector.

        In any order. Raises StoreRefused for a row of another slice.
        """
        ...

    def write(self, changes: Changes) -> Awaitable[bool]:
        """Write rows, parked events and checkpoint in one transaction, maybe with other writes.

        In the order of the calls, whoever is awaited first. Tells whether it is the first of its
        part in its transaction. Raises StoreRefused, and writes nothing,
        where the checkpoint is not at `before` (another worker writes these tables), or a row
        belongs to another slice; RowRefused, and writes nothing, for a value that SQL does not
        have, as a float that is no number.
        """
        ...

    def end_statement(self, part: Part) -> None:
        """End the statement that a call of `write_by` runs for a part, if one does, and the call.

        Nothing of its transaction is kept then.
        """
        ...

    async def write_by(self, part: Part, call: SqlCall) -> Changes | None:
        """Run a call that writes the part's tables by SQL, and what it gives, in one transaction.

        It runs where views are written, which may be another thread, and waits for nothing but its
        session. It may be run once more from its beginning, with all that it did taken back. Where
        it gives None, what it has run is taken back as well. Raises what `write` and the call
        raise.
        """
        ...

    async def parked_keys(self, part: Part) -> Mapping[str, int]:
        """Give the keys of a part whose events are parked, and how many of each."""
        ...

    async def parked(
        self, projection: str, *, key: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[Parked]:
        """Give parked events of the serving build, in order of position."""
        ...

    async def skipped(self, definition: ProjectionDefinition) -> Mapping[int, int]:
        """Give what somebody decided to skip, for this version: checksums by position.

        The last one that was given for a position counts.
        """
        ...

    # -- builds and decisions; all of these are synced when they return

    async def builds(self, projection: str) -> Sequence[Build]:
        """Give the builds of a projection, by number."""
        ...

    async def undeclared(self, *, with_tables: bool = True) -> Sequence[str]:
        """Name projections that have tables here, and are not this program's, sorted.

        Without tables these are sinks and reactors.
        """
        ...

    async def is_paused(self, projection: str) -> bool:
        """Tell whether the last word on a projection was to pause it."""
        ...

    async def begin_build(
        self, definition: ProjectionDefinition, decision: ProjectionDecision | None = None
    ) -> Build:
        """Make empty tables beside those that serve; give the build where there is one already."""
        ...

    async def swap(
        self, definition: ProjectionDefinition, build: int, decision: ProjectionDecision
    ) -> None:
        """Let a build serve from now on, in one transaction; the one that served becomes former.

        Raises StoreRefused, and changes nothing, where it has not come as far as that, or where
        another process builds it.
        """
        ...

    async def drop(
        self, projection: str, build: int, decision: ProjectionDecision | None = None
    ) -> None:
        """Take a build's tables away. Raises UsageError for the one that serves, or for none."""
        ...

    async def reset(self, definition: ProjectionDefinition, decision: ProjectionDecision) -> None:
        """Empty the tables that serve, and put their checkpoints back to 0."""
        ...

    async def decide(self, decision: ProjectionDecision) -> None:
        """Keep a decision; one to skip an event takes it out of what is parked.

        In all builds of the version that it is for.
        """
        ...

    async def decisions(self, projection: str | None = None) -> Sequence[ProjectionDecision]:
        """Give what was decided, the oldest first."""
        ...

    async def standstills(self, projection: str) -> Sequence[Standstill]:
        """Give which parts of a projection's builds are stopped, and why."""
        ...

    async def note_failure(self, part: Part, failure: ProjectionFailure | None) -> None:
        """Note for other processes why a part is stopped, or that it goes on."""
        ...

    def transactions(self, projection: str) -> tuple[int, int]:
        """Give how many of a projection's transactions queries see for certain, and may see.

        Counted since the opening. Where what one read saw for certain is all that a later one may
        have seen, both saw the same state.
        """
        ...


@runtime_checkable
class Scrubbed(Protocol):
    """What views in a file may also be: what was deleted is still in the file until this."""

    async def scrub(self) -> None:
        """Write the file anew, without what was deleted or changed; nothing is written meanwhile.

        Needs as much room on the disk as the views take.
        """
        ...


def what_of(name: str, version: int) -> str:
    """Tell an event's type, as "order-created v1"."""
    return f"{name} v{version}"


def row_of_another(part: Part, table: str, key: Scalar, owner: int) -> StoreRefused:
    """Say that a part needs a row that belongs to another slice."""
    return StoreRefused(
        f"row {key!r} of {table} belongs to slice {owner} of projection "
        f"{part.definition.name!r}, and slice {part.slice} needs it: events of different keys "
        f"change one row. Give the projection a `sequence` that has one key for all events of a "
        f"row, or `slices=1`. Nothing was written"
    )

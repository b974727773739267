"""Views: what the answers to queries read from, and what every store of views promises.

Rules: a query sees whole transactions of a projector, never half of one. It reads at most
`limits.query_rows` rows, and what would be more is refused instead of being cut silently. Values
from users are bound, never written into SQL; names come from definitions. A batch of rows and its
checkpoint are written in one transaction, and only where the checkpoint still stands where the
writer believes; so every event counts once. A projection may have several builds, sets of tables
with a number each: one serves queries, another may be built beside it. What people decide (to skip
an event, to pause, to swap builds) is synced before it is answered. Nothing here writes on behalf
of a query.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, overload

import msgspec

from .errors import InvalidInput, ProjectionUnserved, UsageError
from .limits import Limits
from .ports import Ports
from .projection import Projection, ProjectionDefinition, Table, TableDefinition
from .requests import RequestStore
from .rows import Flat, Row, Scalar
from .sql_projection import SqlSession
from .statistics import ProjectionFailure
from .stores.contract import LogSource

__all__ = [
    "Build",
    "BuildState",
    "Changes",
    "Checkpoint",
    "Decision",
    "Parked",
    "Part",
    "Reads",
    "Rebuild",
    "Search",
    "Selection",
    "Standstill",
    "Views",
    "ViewsSource",
    "ViewsStore",
    "what_of",
]

BuildState: TypeAlias = Literal["serving", "building", "former"]
Rebuild: TypeAlias = Literal["refuse", "auto"]
"""What opening does where a projection was declared anew: say so, or build it beside the old."""
DecisionKind: TypeAlias = Literal["skip", "pause", "resume", "reset", "rebuild", "swap", "drop"]

R = TypeVar("R", bound=Row)
S = TypeVar("S", bound=msgspec.Struct)


SEARCH_ROWS: Final = 20
"""What a search gives where nobody says how much: few want more than the best."""


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a projection has come: the position of the last event that its tables contain."""

    position: int = 0
    checksum: int = 0
    """Of the event there, which ties the tables to this history."""


class Build(msgspec.Struct, frozen=True):
    """One set of a projection's tables."""

    projection: str
    number: int
    """From 1 on, counted per projection; the tables carry it in their names."""
    version: int
    """That its projection had when it was begun."""
    state: BuildState
    position: int
    """The least that its slices have reached."""
    fits: bool
    """Whether its version, tables and slices are those that the program declares."""
    builder: str | None = None
    """Who builds it, where that is another process than the engine's."""


class Part(msgspec.Struct, frozen=True):
    """What one projector keeps: a slice of one build."""

    definition: ProjectionDefinition
    build: int
    slice: int = 0


class Parked(msgspec.Struct, frozen=True):
    """An event that is not in the tables, since it or one before it could not be folded."""

    position: int
    key: str
    """All later events of this key wait behind it."""
    event: str
    """Its name and version, as "order-created v1"."""
    stream: str
    parked: int
    """When, in µs since 1970-01-01 UTC."""
    attempts: int = 0
    """How often it was tried; 0 where it only waits behind another."""
    cause: str = ""
    """The traceback of the last try, without the values that were in messages and variables."""


class Decision(msgspec.Struct, frozen=True):
    """What a person decided about a projection; it is kept with the views."""

    projection: str
    kind: DecisionKind
    decided: int
    """When, in µs since 1970-01-01 UTC."""
    version: int
    """Of the projection, for which an event is skipped."""
    position: int | None = None
    reason: str = ""
    principal: str | None = None
    checksum: int | None = None
    """Of the event that is skipped: in a log that has another one there, it is not."""


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

    where: tuple[tuple[str, Scalar], ...] = ()
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
    where: tuple[tuple[str, Scalar], ...] = ()
    limit: int = 0
    offset: int = 0


class ViewsSource(Protocol):
    """What queries ask of the storage of views. Where it fails, StoreFailed is raised."""

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

    async def count(self, table: TableDefinition, where: Sequence[tuple[str, Scalar]]) -> int:
        """Give how many rows have these values."""
        ...

    async def sql(
        self, statement: str, parameters: Sequence[Scalar], rows_max: int
    ) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        """Run a statement that reads; give the names of its columns, and its rows.

        Raises UsageError for a statement that cannot be run, or that would change anything, or
        that gives more than `rows_max` rows.
        """
        ...


class ViewsStore(ViewsSource, RequestStore, Protocol):
    """The contract between the projectors and queries, and the storage of their tables."""

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
        """Give how far a part has come."""
        ...

    async def fetch(
        self, part: Part, keys: Mapping[str, Sequence[Scalar]]
    ) -> Mapping[str, Sequence[Flat]]:
        """Give the rows of these keys, by table attribute, for the part's own projector."""
        ...

    def write(self, changes: Changes) -> Awaitable[bool]:
        """Write rows, parked events and checkpoint in one transaction, maybe with other writes.

        In the order of the calls, whoever is awaited first. Tells whether it is the first of its
        part in its transaction. Raises StoreRefused, and writes nothing,
        where the checkpoint is not at `before` (another worker writes these tables), or a row
        belongs to another slice.
        """
        ...

    async def write_by(
        self, part: Part, call: Callable[[SqlSession], Changes | None]
    ) -> Changes | None:
        """Run a call that writes the part's tables by SQL, and what it gives, in one transaction.

        It runs where views are written, which may be another thread; nothing is written where it
        gives None. Raises what `write` and the call raise.
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
        """Give what somebody decided to skip, for this version: checksums by position."""
        ...

    # -- builds and decisions; all of these are synced when they return

    async def builds(self, projection: str) -> Sequence[Build]:
        """Give the builds of a projection, by number."""
        ...

    async def is_paused(self, projection: str) -> bool:
        """Tell whether the last word on a projection was to pause it."""
        ...

    async def begin_build(
        self, definition: ProjectionDefinition, decision: Decision | None = None
    ) -> Build:
        """Make empty tables beside those that serve; give the build where there is one already."""
        ...

    async def swap(self, definition: ProjectionDefinition, build: int, decision: Decision) -> None:
        """Let a build serve from now on, in one transaction; the one that served becomes former.

        Raises StoreRefused, and changes nothing, where it has not come as far as that.
        """
        ...

    async def drop(self, projection: str, build: int, decision: Decision | None = None) -> None:
        """Take a build's tables away. Raises UsageError for the one that serves."""
        ...

    async def reset(self, definition: ProjectionDefinition, decision: Decision) -> None:
        """Empty the tables that serve, and put their checkpoints back to 0."""
        ...

    async def decide(self, decision: Decision) -> None:
        """Keep a decision; one to skip an event takes it out of what is parked, in all builds."""
        ...

    async def decisions(self, projection: str | None = None) -> Sequence[Decision]:
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


def what_of(name: str, version: int) -> str:
    """Tell an event's type, as "order-created v1"."""
    return f"{name} v{version}"


class Reads(Protocol):
    """Gets to know what an answer reads, before it is read."""

    def row(self, table: TableDefinition, key: Scalar) -> None:
        """It reads the row with a key, or that there is none."""
        ...

    def table(self, table: TableDefinition) -> None:
        """It may read any row of a table."""
        ...

    def everything(self) -> None:
        """It may read any row of any table."""
        ...


class Views:
    """What an answer reads: typed rows of the projections' tables, and SQL over them."""

    def __init__(
        self,
        store: ViewsSource,
        tables: Mapping[str, TableDefinition],
        limits: Limits,
        reads: Reads | None = None,
    ) -> None:
        self._store = store
        self._tables = tables
        self._limits = limits
        self._rows_max = limits.query_rows
        self._characters_max = limits.search_characters
        self._reads = reads

    def noted(self, reads: Reads) -> Views:
        """Give the same views to one answer whose reads are noted."""
        return Views(self._store, self._tables, self._limits, reads)

    async def get(self, table: Table[R], key: Any) -> R | None:
        """Give the row with this key, or None."""
        definition = self._known(table)
        encoded = definition.shape.encode_key(key)
        if self._reads is not None:
            self._reads.row(definition, encoded)
        row: R | None = await self._store.get(definition, encoded)
        return row

    async def find(
        self,
        table: Table[R],
        *,
        where: Mapping[str, Any] | None = None,
        order_by: str | None = None,
        descending: bool = False,
        limit: int | None = None,
        offset: int = 0,
        after: Any = None,
    ) -> list[R]:
        """Give the rows whose fields have the values of `where`, in order.

        They are ordered by `order_by`, and by key where that is equal. The next page begins
        `after` the last row of this one: pass that row, or its key. Raises UsageError for names
        that are no fields, and where there are more than `limits.query_rows` rows and no limit.
        """
        definition = self._read(table)
        self._check_page(limit, offset)
        if order_by is not None:
            _plain_column(definition, order_by)
        selection = Selection(
            _conditions(definition, where),
            order_by,
            descending,
            await self._place(definition, order_by, after),
            self._rows_max + 1 if limit is None else limit,
            offset,
        )
        rows: list[R] = await self._store.find(definition, selection)
        if len(rows) > self._rows_max:
            raise UsageError(
                f"more than {self._rows_max} rows of {definition.name} fit (Limits.query_rows): "
                f"read them in pages, with `limit=` and `after=`"
            )
        return rows

    async def search(
        self,
        table: Table[R],
        text: str,
        *,
        where: Mapping[str, Any] | None = None,
        limit: int | None = None,
        offset: int = 0,
        raw: bool = False,
    ) -> list[R]:
        """Give the rows whose `search` fields have all words of a text, the best ones first.

        The last word may be the beginning of one; capitals and accents do not matter. Nothing in
        the text is syntax, unless it is `raw`: then it is what SQLite's FTS5 reads. Without a
        `limit` they are 20 at most. Raises
        InvalidInput for a text without a word or longer than `limits.search_characters`, and
        UsageError for a table without such fields.
        """
        definition = self._read(table)
        if not definition.shape.search:
            row = definition.shape.row.__name__
            raise UsageError(
                f"{definition.name} is not searched: name its fields of text, `class {row}(Row, "
                f'key="{definition.shape.key}", search=[...])`, and raise the version of its '
                f"projection"
            )
        self._check_page(limit, offset)
        words = self._readable(text)
        search = Search(
            tuple(word for word in words if any(map(str.isalnum, word))),
            " ".join(words) if raw else None,
            _conditions(definition, where),
            min(SEARCH_ROWS, self._rows_max) if limit is None else limit,
            offset,
        )
        if not search.words:
            raise InvalidInput("a text to search for has a word in it: a letter or a digit")
        rows: list[R] = await self._store.search(definition, search)
        return rows

    async def count(self, table: Table[Any], *, where: Mapping[str, Any] | None = None) -> int:
        """Count the rows whose fields have the values of `where`."""
        definition = self._read(table)
        return await self._store.count(definition, _conditions(definition, where))

    @overload
    async def sql(
        self, statement: str, parameters: Sequence[Scalar] = ()
    ) -> list[tuple[Any, ...]]: ...
    @overload
    async def sql(
        self, statement: str, parameters: Sequence[Scalar] = (), *, row: type[S]
    ) -> list[S]: ...
    async def sql(
        self, statement: str, parameters: Sequence[Scalar] = (), *, row: type[S] | None = None
    ) -> list[S] | list[tuple[Any, ...]]:
        """Run a SELECT with its `?` parameters; give tuples, or structs by column name.

        Meant for few rows, sums and the like: for many rows of one table `find` is far faster.
        Raises UsageError for a statement that cannot be run or would change anything.
        """
        if self._reads is not None:
            self._reads.everything()
        names, rows = await self._store.sql(statement, parameters, self._rows_max)
        if row is None:
            return rows
        try:
            # Not strict, since SQL has no booleans, dates or enums of its own.
            dicts = [dict(zip(names, values, strict=True)) for values in rows]
            return msgspec.convert(dicts, list[row], strict=False)  # type: ignore[valid-type]
        except msgspec.ValidationError as error:
            raise UsageError(f"the columns {list(names)} are no {row.__name__}: {error}") from None

    def _read(self, table: Table[Any]) -> TableDefinition:
        """Give the table's definition to who may read any of its rows."""
        definition = self._known(table)
        if self._reads is not None:
            self._reads.table(definition)
        return definition

    def _check_page(self, limit: int | None, offset: int) -> None:
        if offset < 0 or (limit is not None and not 0 <= limit <= self._rows_max):
            raise InvalidInput(
                f"limit={limit}, offset={offset}: a page has 0 to {self._rows_max} rows "
                f"(Limits.query_rows) and begins at 0 or later"
            )

    def _readable(self, text: object) -> list[str]:
        """Give a text that is searched for in pieces, without what no text has."""
        if not isinstance(text, str):
            raise InvalidInput(f"a text to search for is a string, not a {type(text).__name__}")
        if len(text) > self._characters_max:
            raise InvalidInput(
                f"a text to search for has {len(text)} characters, above "
                f"Limits.search_characters at {self._characters_max}: search for fewer words"
            )
        if not text.isprintable():
            # What is no character, or ends a text in C: nothing to look for, nor to pass on.
            text = "".join(c if c.isprintable() else " " for c in text)
        return text.split()

    def _known(self, table: Table[Any]) -> TableDefinition:
        definition = table.definition
        if self._tables.get(definition.name) is not definition:
            raise UsageError(
                f"{definition.name} is no table of this engine: pass its projection "
                f"{definition.projection!r} to Engine(projections=[...])"
            )
        if not self._store.serves(definition.projection):
            raise ProjectionUnserved(definition.projection)
        return definition

    async def _place(
        self, definition: TableDefinition, order_by: str | None, after: Any
    ) -> tuple[Scalar, Scalar] | None:
        """Give the value and the key behind which a page begins."""
        if after is None:
            return None
        shape = definition.shape
        order_by = order_by or shape.key
        if shape.column(order_by).nullable:
            raise UsageError(
                f"{definition.name}.{order_by} may be None, and such rows have no place to page "
                f"`after`: use `offset=`, or order by another field"
            )
        row = after
        if not isinstance(after, Row):
            key = shape.encode_key(after)
            if order_by == shape.key:
                return key, key
            row = await self._store.get(definition, key)
            if row is None:
                raise InvalidInput(
                    f"{definition.name} has no row with the key given as `after` any more: pass "
                    f"the last row itself, `after=rows[-1]`, which also works then"
                )
        if type(row) is not shape.row:
            raise InvalidInput(
                f"`after` is a {type(row).__name__}, and {definition.name} holds "
                f"{shape.row.__name__}"
            )
        flat = shape.flatten(row)
        place = [column.name for column in shape.columns].index(order_by)
        return flat[place], flat[shape.key_place]


def _plain_column(definition: TableDefinition, name: str) -> None:
    shape = definition.shape
    fit = [column.name for column in shape.columns if not column.is_json]
    if name not in fit:
        raise UsageError(
            f"{name!r} is no field of {definition.name} to look up or order by: use one of {fit}"
        )


def _conditions(
    definition: TableDefinition, where: Mapping[str, Any] | None
) -> tuple[tuple[str, Scalar], ...]:
    found: list[tuple[str, Scalar]] = []
    for name, value in (where or {}).items():
        _plain_column(definition, name)
        encode = definition.shape.column(name).encode
        found.append((name, None if value is None else encode(value)))
    return tuple(found)

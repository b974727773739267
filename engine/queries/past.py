"""Views as they were: projections folded from the log up to a position or a time, and asked there.

Rules: nothing of the views that serve is read or touched. The projections' own handlers fold the
log, in one pass over it, into tables in memory that go with the past that asked for them. What is
folded ends with what was recorded at or before the time, and contains nothing behind the position.
Memory is bounded: three pages of the log, `Limits.projector_rows` per projection,
`Limits.past_bytes` of tables, and `Limits.pasts` of all that at once. It reads as every reader of
the feed does, and the event loop gets its turn. What cannot be folded is raised, unless somebody
decided to skip it; nothing is parked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

import msgspec

from ..errors import (
    Closed,
    Damaged,
    EngineError,
    InvalidInput,
    Overloaded,
    ProjectionFailed,
    UsageError,
)
from ..log.history import Histories, microseconds
from ..log.reader import LogReader
from ..model.checking import checked_copy
from ..model.given import shown
from ..model.messages import Query, Receipt, position_of
from ..model.projection import Dialect, Projection, ProjectionDefinition
from ..model.stored import StoredEvent
from ..projections.targets.choose import folding
from ..runtime.ports import Ports
from ..stores.contract.log import LogSource
from ..stores.contract.views import Checkpoint, Part, ViewsSource, what_of
from ..stores.own import FrozenViews, views_in_memory
from .answers import given_by
from .declared import AnswerDefinition
from .inside import answering
from .views import Views

__all__ = ["PastViews", "Pasts"]

A = TypeVar("A")


class Decided(Protocol):
    """The part of a store of views that keeps what people decided."""

    @property
    def dialect(self) -> Dialect:
        """See `ViewsStore.dialect`."""
        ...

    async def skipped(self, definition: ProjectionDefinition) -> Mapping[int, int]:
        """See `ViewsStore.skipped`."""
        ...


class Pasts:
    """All pasts of one engine or archive that are open."""

    def __init__(
        self,
        past: Histories,
        source: LogSource,
        projections: Sequence[type[Projection]],
        answers: Mapping[type[Query[Any]], AnswerDefinition],
        ports: Ports,
        logger: logging.Logger,
        decided: Decided | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        """Take what the past of aggregates is read with: its registry, limits and gate.

        `decided` knows which events somebody decided to skip. `dialect` is that of the views that
        serve, for which statements are written; those are `decided` unless it is given.
        """
        self.dialect = dialect or ("sqlite" if decided is None else decided.dialect)
        self.source = source
        self.answers = answers
        self.engine: object = answers
        """See `Answers.engine`."""
        self.registry = past.registry
        self.limits = past.limits
        self.ports = ports
        self.logger = logger
        self.check_usable = past.check_usable
        self._projections = tuple(p for p in projections if p.__definition__.has_tables)
        self._gate = past.gate
        self._decided = decided
        self._open: set[PastViews] = set()

    def past(
        self,
        position: Receipt | str | int | None,
        at: datetime | int | None,
        projections: Sequence[type[Projection]] | None,
        principal: str | None,
    ) -> PastViews:
        """Give the views as of a position or a time; they are folded when they are entered."""
        if position is not None and at is not None:
            raise UsageError("a past is asked for by position= or by at=, not by both")
        wanted = None if position is None else position_of(position)
        until = None if at is None else microseconds(at)
        given = cast("object", projections)
        if not (given is None or isinstance(given, Sequence)):
            raise UsageError(
                f"projections= is a list of classes of projections, not {shown(given)}"
            )
        asked = None if projections is None else tuple(projections)
        if self._gate is None:
            # Behind a gate nobody is told which projections there are before it has let him in.
            self.chosen(asked)
        return PastViews(self, asked, wanted, until, principal)

    def chosen(self, projections: Sequence[type[Projection]] | None) -> Sequence[type[Projection]]:
        """Give the projections that are to be folded; raise UsageError for others."""
        if projections is None:
            return [p for p in self._projections if self._folds(p.__definition__)]
        for projection in projections:
            if projection not in self._projections:
                name = getattr(projection, "__name__", shown(projection))
                raise UsageError(
                    f"{name} is no projection that was given here: there are "
                    f"{sorted(p.__name__ for p in self._projections)}"
                )
            if not self._folds(projection.__definition__):
                raise UsageError(
                    f"projection {projection.__definition__.name!r} is written in the SQL of "
                    f'PostgreSQL, and a past is folded in SQLite: say dialect=("sqlite", '
                    f'"postgresql") if it means the same in both, or read the past of others'
                )
        return [*dict.fromkeys(projections)]

    def _folds(self, definition: ProjectionDefinition) -> bool:
        """Tell whether SQLite folds what a projection is written in; rows of structs it does."""
        return not definition.sql_tables or "sqlite" in (definition.dialects or (self.dialect,))

    def views_of(self, definition: AnswerDefinition, views: Views) -> Views:
        """Give what an answer reads: without statements that SQLite may run and mean otherwise."""
        if "sqlite" in (definition.dialects or (self.dialect,)):
            return views
        return views.without_sql(
            f"the answer to {definition.query.__name__} runs a statement that is written for "
            f"PostgreSQL, and a past is kept in SQLite, where LIKE and division, say, give other "
            f'rows: say @answers(dialect=("sqlite", "postgresql")) if it means the same in both, '
            f"or answer by views.find and views.count"
        )

    async def skipped(self, definition: ProjectionDefinition) -> Mapping[int, int]:
        """Give the positions that are left out of a projection's views, now as then."""
        return {} if self._decided is None else await self._decided.skipped(definition)

    async def allow(self, principal: str | None, query: Query[Any] | None = None) -> None:
        """Return if the principal may have a past, or ask this of it; raise Forbidden otherwise."""
        if self._gate is None:
            return
        if query is None:
            await self._gate.check(principal, "past", "*")
        else:
            await self._gate.check(principal, "query", query)

    def enter(self, past: PastViews) -> None:
        """Take one of the places that there are; raise Overloaded where none is free."""
        if len(self._open) >= self.limits.pasts:
            raise Overloaded(
                f"{len(self._open)} pasts are open, as many as Limits.pasts allows: leave one first"
            )
        self._open.add(past)

    def leave(self, past: PastViews) -> None:
        """Give the place back."""
        self._open.discard(past)


class PastViews:
    """Views as of one position; use it with `async with`, which folds them.

    `position` moves while they are folded, up to `end`.
    """

    def __init__(
        self,
        pasts: Pasts,
        asked: Sequence[type[Projection]] | None,
        wanted: int | None,
        until: int | None,
        principal: str | None,
    ) -> None:
        self.position = 0
        """Of the last event that is in them."""
        self.end: int | None = None
        """Where they will end, known from the beginning of the fold; by a time it may be sooner."""
        self._pasts = pasts
        self._asked = asked
        self._projections: Sequence[type[Projection]] = ()
        self._wanted = wanted
        self._until = until
        self._principal = principal
        self._store: FrozenViews | None = None
        self._views: Views | None = None

    async def __aenter__(self) -> PastViews:
        """Fold; raise InvalidInput where the log has no such position.

        Raises Forbidden, Overloaded, ProjectionFailed where a handler fails, Damaged for an event
        that cannot be read, and StoreFailed where the tables grow over `Limits.past_bytes`.
        """
        self._pasts.check_usable()
        if self._store is not None:
            raise UsageError("a past is entered once: ask for another one")
        await self._pasts.allow(self._principal)
        self._projections = self._pasts.chosen(self._asked)
        self._pasts.enter(self)
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop them; queries that still run are interrupted."""
        await self._close()

    async def query(self, query: Query[A]) -> A:
        """Ask them, as `Engine.query` asks the views of now."""
        self._pasts.check_usable()
        query = checked_copy(query)
        if self._views is None:
            raise Closed("this past is not open: use it inside `async with`")
        definition = self._pasts.answers.get(type(query))
        if definition is None:
            raise UsageError(f"no answer for {type(query).__name__} was given here")
        folded = {projection.__definition__.name for projection in self._projections}
        missing = sorted(set(definition.projections or ()) - folded)
        if missing:
            raise UsageError(
                f"{type(query).__name__} is answered from {missing}, and this past has folded "
                f"{sorted(folded)}: name what is asked in `projections=[...]`"
            )
        await self._pasts.allow(self._principal, query)
        pasts, all_views = self._pasts, self._views
        views = pasts.views_of(definition, all_views)
        with answering(pasts.engine, lambda inner: pasts.views_of(inner, all_views)):
            return cast("A", await given_by(definition, query, views))

    @property
    def tables(self) -> ViewsSource:
        """What was folded, to be read without an answer."""
        if self._store is None:
            raise Closed("this past is not open: use it inside `async with`")
        return self._store

    # -- folding ----------------------------------------------------------------------------

    async def _open(self) -> None:
        pasts = self._pasts
        head = await pasts.source.head()
        if self._wanted is not None and self._wanted > head.position:
            raise InvalidInput(
                f"the log ends at position {head.position}, and position {self._wanted} was asked "
                f"for"
            )
        self.end = head.position if self._wanted is None else self._wanted
        limits = pasts.limits
        store = self._store = views_in_memory(pasts.logger, bytes_max=limits.past_bytes)
        await store.open(pasts.ports, limits, pasts.source, self._projections)
        definitions = [projection.__definition__ for projection in self._projections]
        await self._fold([fold for d in definitions for fold in await self._folds(d, store)])
        await store.freeze()
        tables = {table.name: table for d in definitions for table in d.tables.values()}
        self._views = Views(store, tables, limits)

    async def _folds(
        self, definition: ProjectionDefinition, store: FrozenViews
    ) -> Sequence[_PastFold]:
        """Give what folds a projection, a fold for each slice."""
        skipped = await self._pasts.skipped(definition)
        [build] = await store.builds(definition.name)
        # Nothing is parked: a past is whole, or it is not given.
        definition = msgspec.structs.replace(definition, on_poison="stop")
        folds: list[_PastFold] = []
        for number in range(definition.slices):
            fold = _PastFold(Part(definition, build.number, number), store, self._pasts)
            await fold.open(skipped)
            folds.append(fold)
        return folds

    async def _fold(self, folds: Sequence[_PastFold]) -> None:
        """Read the log once, for all projections."""
        assert self.end is not None
        log = LogReader(self._pasts.source, self._pasts.limits)
        try:
            while self.position < self.end:
                self._pasts.check_usable()
                page = await log.read(self.position)
                events = self._within(page)
                for fold in folds:
                    await fold.project(events)
                if events:
                    self.position = events[-1].position
                if len(events) < len(page):
                    break
                assert page, "the log has what its head said"
        finally:
            log.close()
        self.end = self.position

    def _within(self, page: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
        """Give the part of a page that belongs to the past."""
        assert self.end is not None
        part = page[: self.end - self.position]
        if self._until is not None and part and part[-1].recorded > self._until:
            # `recorded` never decreases along a log, so the first later event is the end.
            return [event for event in part if event.recorded <= self._until]
        return part

    async def _close(self) -> None:
        store, self._views = self._store, None
        try:
            if store is not None:
                await store.close()
        finally:
            self._pasts.leave(self)


class _PastFold:
    """Folds one part of a projection: all of it, or a slice."""

    def __init__(self, part: Part, store: FrozenViews, pasts: Pasts) -> None:
        self._part = part
        ports = msgspec.structs.replace(pasts.ports, failpoint=None)
        self._work = folding(part, store, pasts.registry, pasts.limits, ports)
        self._checkpoint = Checkpoint()

    async def open(self, skipped: Mapping[int, int]) -> None:
        """Begin, passing over the events that somebody decided to skip."""
        self._checkpoint = await self._work.open()
        self._work.skipped.update(skipped)

    async def project(self, events: Sequence[StoredEvent]) -> None:
        """Fold and write events; raise what the one says that cannot be folded."""
        done = 0
        while done < len(events):
            folded = await self._work.prepare(events[done:], self._checkpoint)
            if folded.changes is not None:
                await self._work.write(folded.changes)
                self._checkpoint = folded.changes.after
            done += folded.count
            if folded.poison is not None:
                raise self._failure(events[done], folded.poison) from folded.poison
            assert folded.count, "a batch gets on by one event at least, or fails"
            await asyncio.sleep(0)

    def _failure(self, stored: StoredEvent, poison: Exception) -> EngineError:
        if isinstance(poison, Damaged):
            return Damaged(poison.position, poison.what)
        return ProjectionFailed(
            self._part.definition.name,
            stored.position,
            f"{what_of(stored.name, stored.event_version)} of {stored.stream}",
            type(poison).__name__,
        )

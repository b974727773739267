"""Looking back from another process: histories, states and pasts out of a log's file.

Rules: the file is opened read-only, whoever has it open for writing, and nothing is ever written.
What is asked and given is what an engine gives (`engine/history.py`), of the aggregates that are
declared here. It asks no `authorize`: whoever may read the file may read all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

from .aggregate import Aggregate
from .answers import answers_of
from .codec import EventRegistry
from .difference import Change
from .errors import Closed, DefinitionError
from .history import History, Past
from .limits import Limits
from .messages import Receipt
from .past_views import Pasts, PastViews
from .ports import Ports, Worker
from .projection import Projection, check_names
from .stores.contract import Head, StoredEvent, StreamPage, StreamRead
from .stores.sqlite import SqliteStore
from .stores.sqlite_reader import SqliteReader
from .stores.urls import open_url
from .upcasting import Retired, Upcasting

__all__ = ["Archive"]

A = TypeVar("A", bound=Aggregate)


class Archive:
    """A log, read-only, beside its engine or without one; use it with `async with`.

    `store` is the URL that the engine has, and `upcasters` and `retired` are its too. Raises
    DefinitionError for one that has no file, and on entering StoreRefused where there is no log
    that can be read. `projections` and `answers` are for `past`.
    """

    def __init__(
        self,
        aggregates: Sequence[type[Aggregate]],
        *,
        store: str,
        projections: Sequence[type[Projection]] = (),
        answers: Sequence[Callable[..., Any]] = (),
        upcasters: Sequence[Callable[..., Any]] = (),
        retired: Sequence[Retired] = (),
        limits: Limits | None = None,
        ports: Ports | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        opened = open_url(store)
        if not isinstance(opened, SqliteStore):
            raise DefinitionError(
                f"the store {store!r} has no file that another process could read: name one, as in "
                f"sqlite:shop.db"
            )
        self._ports = ports or Ports()
        self._source = _Source(SqliteReader(opened.path, self._ports.files))
        definitions = [aggregate.__definition__ for aggregate in aggregates]
        projected = [projection.__definition__ for projection in projections]
        check_names(projected)
        folded = [event for d in definitions for event in d.appliers]
        folded += [event for d in projected for event in d.event_classes]
        registry = EventRegistry(folded, Upcasting(upcasters, retired))
        limits = limits or Limits()
        self._past = Past(
            self._source, definitions, registry, limits, check_usable=self._source.worker
        )
        asked = answers_of(answers, {definition.name for definition in projected})
        logger = logger or logging.getLogger("foldline")
        self._pasts = Pasts(self._past, self._source, projections, asked, self._ports, logger)

    async def __aenter__(self) -> Archive:
        """Open the file."""
        await self._source.open(self._ports)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        await self._source.close()

    def history(
        self, aggregate: type[Aggregate], aggregate_id: str, *, after: int = 0, limit: int = 100
    ) -> History:
        """Give an aggregate's events after a version; see `Engine.history`."""
        return self._past.history(aggregate, aggregate_id, after, limit, None)

    async def state(
        self,
        aggregate: type[A],
        aggregate_id: str,
        *,
        version: int | None = None,
        at: datetime | int | None = None,
    ) -> A:
        """Give an aggregate as it was, or as the log has it now; see `Engine.state`."""
        return await self._past.state(aggregate, aggregate_id, version, at, None)

    async def difference(
        self, aggregate: type[Aggregate], aggregate_id: str, before: int, after: int
    ) -> tuple[Change, ...]:
        """Give what changed from one version to another; see `Engine.difference`."""
        return await self._past.difference(aggregate, aggregate_id, before, after, None)

    def past(
        self,
        *,
        position: Receipt | str | int | None = None,
        at: datetime | int | None = None,
        projections: Sequence[type[Projection]] | None = None,
    ) -> PastViews:
        """Give the views as of a position or a time; see `Engine.past`."""
        return self._pasts.past(position, at, projections, None)


class _Source:
    """The reader at work in a thread of its own, so that the event loop goes on meanwhile."""

    def __init__(self, reader: SqliteReader) -> None:
        self._reader = reader
        self._worker: Worker | None = None

    async def open(self, ports: Ports) -> None:
        self._worker = ports.workers.start("foldline-archive")
        try:
            await self._worker.run(self._reader.open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            try:
                await worker.run(self._reader.close)
            finally:
                await worker.close()

    def worker(self) -> Worker:
        if self._worker is None:
            raise Closed("the archive is not open: use it inside `async with archive:`")
        return self._worker

    @property
    def log_id(self) -> str:
        return self._reader.log_id

    async def head(self) -> Head:
        return await self.worker().run(self._reader.head)

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        return await self.worker().run(
            lambda: self._reader.read_feed(after, events_max=events_max, bytes_max=bytes_max)
        )

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        return await self.worker().run(
            lambda: self._reader.read_streams(reads, events_max=events_max, bytes_max=bytes_max)
        )

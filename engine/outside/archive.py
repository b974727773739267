"""Looking back from another process: histories, states and pasts out of a log's file.

Rules: the file is opened read-only, whoever has it open for writing, and nothing is ever written.
What is asked and given is what an engine gives (`engine/log/history.py`), of the aggregates that
are declared here. It asks no `authorize`: whoever may read the file may read all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

from ..limits import Limits
from ..log.history import Histories, History
from ..model.aggregate import Aggregate, definitions_of
from ..model.codec import EventRegistry
from ..model.difference import Change
from ..model.messages import Receipt
from ..model.projection import Projection
from ..model.projections import projections_of
from ..model.upcasting import Retired, Upcasting
from ..personal.vault import Vault, reading
from ..queries.declared import answers_of
from ..queries.past import Pasts, PastViews
from ..runtime.loops import running_loop
from ..runtime.ports import Ports
from ..runtime.safely import safe_logger
from ..stores.contract.keys import KeyStore
from ..stores.urls import StoreName, open_backend, open_keys
from .log_file import LogFile

__all__ = ["Archive"]

A = TypeVar("A", bound=Aggregate)


class Archive:
    """A log, read-only, beside its engine or without one; use it with `async with`.

    - `aggregates`: classes of those whose histories and states are asked for.
    - `store`: the URL or the path that the engine has.
    - `projections`, `answers`: for `past`.
    - `upcasters`, `retired`: those of the engine.
    - `keys`: as for Engine; personal data of those who were erased is masked.
    - `limits`, `ports`, `logger`: as for Engine.

    Raises DefinitionError for a store that has no file, and on entering StoreRefused if there is no
    log that can be read.
    """

    def __init__(
        self,
        aggregates: Sequence[type[Aggregate]],
        *,
        store: StoreName,
        projections: Sequence[type[Projection]] = (),
        answers: Sequence[Callable[..., Any]] = (),
        upcasters: Sequence[Callable[..., Any]] = (),
        retired: Sequence[Retired] = (),
        keys: str | KeyStore | None = None,
        limits: Limits | None = None,
        ports: Ports | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        ports = self._ports = ports or Ports()
        backend = open_backend(store)
        self._source = LogFile(backend.outside(ports).log_reader(), ports)
        definitions = definitions_of(aggregates)
        projected = projections_of(projections)
        folded = [event for d in definitions for event in d.appliers]
        folded += [event for d in projected for event in d.event_classes]
        registry = self._registry = EventRegistry(folded, Upcasting(upcasters, retired))
        if registry.personal:
            vault = registry.sealer = Vault(open_keys(store, keys))
            self._source.met = vault.know
        self._opened = AsyncExitStack()
        limits = limits or Limits()
        self._past = Histories(
            self._source,
            definitions,
            registry,
            limits,
            workers=ports.workers,
            check_usable=self._source.worker,
        )
        asked = answers_of(answers, {definition.name for definition in projected})
        told = safe_logger(logger)
        dialect = backend.views(told).dialect
        self._pasts = Pasts(
            self._past, self._source, projections, asked, ports, told, dialect=dialect
        )

    async def __aenter__(self) -> Archive:
        """Open the file."""
        running_loop("an Archive")
        await self._source.open()
        try:
            reads = reading(self._registry, self._ports, self._source.log_id)
            await self._opened.enter_async_context(reads)
        except BaseException:
            await self._source.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        try:
            await self._opened.aclose()
        finally:
            await self._source.close()

    @property
    def registry(self) -> EventRegistry:
        """The classes of event that it knows, and how stored ones are read."""
        return self._registry

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

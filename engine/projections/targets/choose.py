"""Which work a part of a projection takes: folding rows, running SQL, or delivering.

Rules: what a sink needs is asked for when the engine is made, not when it first delivers. This file
chooses and makes; it does no work itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from ...limits import Limits
from ...model.codec import EventRegistry
from ...model.projection import ProjectionDefinition
from ...runtime.ports import Ports
from ...stores.contract.log import LogSource
from ...stores.contract.views import Part, ViewsStore
from .rows import RowTarget, Target
from .sink import SinkTarget, resources_of
from .sql import SqlTarget

__all__ = ["Targets", "folding"]


def folding(
    part: Part, views: ViewsStore, registry: EventRegistry, limits: Limits, ports: Ports
) -> RowTarget | SqlTarget:
    """Give what folds a part that has tables."""
    assert part.definition.sink is None, "a sink has nothing to fold"
    work = SqlTarget if part.definition.sql_tables else RowTarget
    return work(part, views, registry, limits, ports)


class Targets:
    """The works of one engine."""

    def __init__(
        self,
        views: ViewsStore,
        registry: EventRegistry,
        limits: Limits,
        ports: Ports,
        store: LogSource,
        resources: Mapping[type, object],
        logger: logging.Logger,
        engine_stops: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take what all works need, the log, and what sinks may take by its class.

        `engine_stops` tells whether the engine has begun to stop.
        """
        self._views = views
        self._registry = registry
        self._limits = limits
        self._ports = ports
        self._store = store
        self._resources = resources
        self._logger = logger
        self._engine_stops = engine_stops
        self._sinks: list[SinkTarget] = []

    def check(self, definition: ProjectionDefinition) -> None:
        """Raise DefinitionError where a sink takes what this engine has not, or for other SQL."""
        self._views.check(definition)
        if definition.sink is not None:
            resources_of(definition.name, definition.sink, self._resources)

    def of(self, part: Part) -> Target:
        """Give the work of a part."""
        views, registry, limits, ports = self._views, self._registry, self._limits, self._ports
        sink = part.definition.sink
        if sink is None:
            return folding(part, views, registry, limits, ports)
        resources = resources_of(part.definition.name, sink, self._resources)
        target = SinkTarget(
            part,
            sink,
            views,
            registry,
            limits,
            ports,
            log_id=lambda: self._store.log_id,
            resources=resources,
            logger=self._logger,
            engine_stops=self._engine_stops,
        )
        self._sinks.append(target)
        return target

    async def close(self) -> None:
        """Let all sinks close what they have opened, each within a time."""
        await asyncio.gather(*(sink.close() for sink in self._sinks))

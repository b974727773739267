"""Which work a part of a projection takes: folding rows, running SQL, delivering, or reacting.

Rules: what a sink needs is asked for when the engine is made, not when it first delivers. This file
chooses and makes; it does no work itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from ...errors import DefinitionError
from ...limits import Limits
from ...model.codec import EventRegistry
from ...model.messages import Command
from ...model.projection import ProjectionDefinition
from ...runtime.ports import Ports
from ...stores.contract.log import Store
from ...stores.contract.views import Part, ViewsStore
from .errands import SendReaction
from .reactor import ReactorTarget, check_reactor
from .rows import RowTarget, Target
from .sink import SinkTarget, resources_of
from .sql import SqlTarget

__all__ = ["Targets", "folding"]


def folding(
    part: Part, views: ViewsStore, registry: EventRegistry, limits: Limits, ports: Ports
) -> RowTarget | SqlTarget:
    """Give what folds a part that has tables."""
    assert part.definition.has_tables, "a sink and a reactor have nothing to fold"
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
        store: Store,
        resources: Mapping[type, object],
        logger: logging.Logger,
        send: SendReaction,
        commands: Collection[type[Command]],
        end_of_log: Callable[[], int],
        engine_stops: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take what all works need, the log, and what sinks may take by its class.

        `send` sends a reactor's commands into the engine, which handles those of `commands`, and
        whose log ends at `end_of_log`.
        `engine_stops` tells whether the engine has begun to stop.
        """
        self._send = send
        self._end_of_log = end_of_log
        self._commands = frozenset(commands)
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
        if definition.reacting is not None:
            check_reactor(definition, self._commands)
            if self._store.durable and not self._views.is_kept:
                raise DefinitionError(
                    f"reactor {definition.name!r} cannot be kept in views in memory, beside a log "
                    f"that is kept: at each start nobody would know what it has done. Keep the "
                    f"views in a file or in the server"
                )

    def of(self, part: Part) -> Target:
        """Give the work of a part."""
        views, registry, limits, ports = self._views, self._registry, self._limits, self._ports
        sink, reacting = part.definition.sink, part.definition.reacting
        if reacting is not None:
            return ReactorTarget(
                part,
                reacting,
                views,
                registry,
                limits,
                ports,
                log=self._store,
                end_of_log=self._end_of_log,
                send=self._send,
                logger=self._logger,
                engine_stops=self._engine_stops,
            )
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
            log=self._store,
            log_id=lambda: self._store.log_id,
            resources=resources,
            logger=self._logger,
            engine_stops=self._engine_stops,
        )
        self._sinks.append(target)
        return target

    def sink_of(self, part: Part) -> SinkTarget:
        """Give what delivers the events of a sink's part."""
        return next(sink for sink in self._sinks if sink.part is part)

    async def close(self) -> None:
        """Let all sinks close what they have opened, each within a time."""
        await asyncio.gather(*(sink.close() for sink in self._sinks))

"""States of aggregates for a command, folded out of a log by the code of an application.

Rules: the log is read as another process reads it, beside an engine or not. Events of types that
the application does not know are refused before anything is folded. Personal data is read with the
keys that the application names, and masked where they are gone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..engine import Engine
from ..limits import Limits
from ..log.history import Histories
from ..model.aggregate import Aggregate, definitions_of
from ..model.schema import refuse_misfits
from ..outside.log_file import LogFile
from ..outside.retention import Fold
from ..personal.vault import reading
from ..runtime.ports import Ports
from ..stores.contract.backend import Outside

__all__ = ["folding"]


@asynccontextmanager
async def folding(engine: Engine, outside: Outside) -> AsyncGenerator[Fold]:
    """Give what folds the aggregates that an engine declares."""
    ports = Ports()
    log = LogFile(outside.log_reader(), ports)
    await log.open()
    try:
        refuse_misfits(engine.registry, await log.event_types(), "nothing was changed")
        definitions = definitions_of(engine.aggregates)
        async with reading(engine.registry, ports, log.log_id):
            histories = Histories(
                log,
                definitions,
                engine.registry,
                Limits(),
                workers=ports.workers,
                check_usable=log.worker,
            )

            async def fold(aggregate: type[Aggregate], aggregate_id: str) -> Aggregate:
                return await histories.state(aggregate, aggregate_id, None, None, None)

            yield fold
    finally:
        await log.close()

"""Operations of one engine, put together of its stations, or of its part in a shared log.

Rules: who owns a shared log may change, so what is read with is looked up at each call. Nothing is
opened or asked here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ..errors import UsageError
from ..members.joined import Joined
from ..model.aggregate import Aggregate
from ..personal.operations import PersonalData
from ..personal.vault import Vault
from ..statistics import EngineStatistics
from ..stores.contract.archiving import Archiver
from ..stores.contract.backend import Archives
from ..timers.desk import TimerDesk
from ..wiring import Wiring
from .inside import EngineOperations, Parts
from .retaining import Retaining

__all__ = ["operations_of"]


def operations_of(
    wiring: Wiring,
    joined: Joined | None,
    aggregates: Sequence[type[Aggregate]],
    personal: PersonalData,
    statistics: Callable[[], EngineStatistics],
    timer_desk: Callable[[], TimerDesk],
) -> EngineOperations:
    """Give the operations of an engine; `joined` is its part in a log that is shared."""

    def parts() -> Parts:
        if joined is None:
            now, log, past, projections = wiring, wiring.store, wiring.past, wiring.projections
            return Parts(log, now.registry, past, projections, now.directory.fullest)
        now = joined.wiring
        fullest = now.directory.fullest
        return Parts(joined.log, now.registry, joined.past, joined.projections, fullest)

    def archiver() -> Archiver:
        now = wiring if joined is None else joined.wiring
        found = now.backend.outside(now.settings.ports)
        if not isinstance(found, Archives):
            raise UsageError(
                f"{now.backend.name} cannot be archived: only logs in files and in PostgreSQL can. "
                f"Nothing was moved"
            )
        return found.archiver(now.store)

    def fold(aggregate: type[Aggregate], own_id: str) -> Awaitable[Aggregate]:
        return parts().past.fold(aggregate, own_id)

    def vault() -> Vault | None:
        sealer = (wiring if joined is None else joined.wiring).registry.sealer
        return sealer if isinstance(sealer, Vault) else None

    clock = wiring.settings.ports.clock
    return EngineOperations(
        parts,
        statistics,
        (wiring if joined is None else joined).entrance.check,
        aggregates=aggregates,
        personal=personal,
        timer_desk=timer_desk,
        retaining=Retaining(archiver, personal, vault, wiring.gate, clock, fold),
        outside=None if joined is None else joined.outside,
        ask_owner=None if joined is None else joined.health.ask_owner,
        gate=wiring.gate,
        clock=clock,
    )

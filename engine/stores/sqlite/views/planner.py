"""Does in a file of views what opening has planned for each projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...contract.planning import Plan
from ..connection import run
from .builds import drop_build, make_build, refuse_taken_names, reslice, set_state
from .tables import TableSql

__all__ = ["prepare"]


def prepare(
    connection: object,
    plans: Sequence[Plan],
    tables: Mapping[str, Sequence[TableSql]],
    log_id: str,
    path: str,
) -> None:
    """Do what was planned, inside the caller's transaction; `tables` are those of new builds."""
    for plan in plans:
        for build in plan.drop:
            drop_build(connection, build)
    for plan in plans:
        definition = plan.definition
        if plan.revive is not None:
            set_state(connection, plan.revive, "building")
        if plan.reslice is not None:
            reslice(connection, plan.reslice, definition.slices)
        if plan.make is None:
            continue
        refuse_taken_names(connection, path, definition, plan.builds)
        make_build(
            connection,
            definition,
            plan.hash,
            plan.number,
            plan.make,
            log_id,
            tables[definition.name],
        )
    run(connection, "UPDATE views_meta SET log_id = ?", (log_id,))

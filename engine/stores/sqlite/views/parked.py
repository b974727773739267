"""What of a projection is set aside, and what people decided about it, in a file of views.

Rules: parked events move in the transaction of the checkpoint that passes them. A decision is
appended and never changed; whoever commits it syncs the file before it is told. Everything here
runs inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ....model.texts import as_text
from ...contract.views import Changes, Parked, Part, ProjectionDecision
from ..connection import readable, run

__all__ = [
    "add_decision",
    "count_parked",
    "is_paused",
    "move_parked",
    "parked_keys",
    "read_decisions",
    "read_parked",
    "release",
    "skipped",
]

_PARKED = "position, key, event, stream, parked, attempts, cause"
_DECISIONS = "projection, kind, decided, version, position, reason, principal, checksum"


def move_parked(connection: Any, changes: Changes) -> None:
    """Set aside what a batch could not fold, and forget what is in the tables now."""
    part = changes.part
    for parked in changes.parked:
        row = (part.definition.name, part.build, parked.position, part.slice, parked.key)
        cause = as_text(parked.cause)
        rest = (parked.event, parked.stream, parked.parked, parked.attempts, cause)
        sql = "INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        run(connection, sql, (*row, *rest))
    for position in changes.released:
        sql = "DELETE FROM parked WHERE projection = ? AND build = ? AND position = ?"
        run(connection, sql, (part.definition.name, part.build, position))


def release(connection: Any, decision: ProjectionDecision) -> None:
    """Take an event that is skipped out of what is parked, in all builds of that version."""
    sql = (
        "DELETE FROM parked WHERE projection = ? AND position = ? AND build IN ("
        "SELECT number FROM builds WHERE projection = ? AND version = ?)"
    )
    name = decision.projection
    run(connection, sql, (name, decision.position, name, decision.version))


def parked_keys(connection: Any, part: Part) -> Mapping[str, int]:
    """Give how many events of which keys are parked."""
    sql = (
        "SELECT key, count(*) FROM parked WHERE projection = ? AND build = ? AND slice = ? "
        "GROUP BY key"
    )
    with readable("parked"):
        return dict(run(connection, sql, (part.definition.name, part.build, part.slice)))


def count_parked(connection: Any) -> Mapping[tuple[str, int], int]:
    """Give how many events are parked, by projection and build."""
    sql = "SELECT projection, build, count(*) FROM parked GROUP BY projection, build"
    return {(projection, build): count for projection, build, count in run(connection, sql)}


def read_parked(
    connection: Any, projection: str, build: int, key: str | None, after: int, limit: int
) -> Sequence[Parked]:
    """Give parked events, of one key or all, in order of position."""
    of_key = "" if key is None else " AND key = ?"
    values = (projection, build, after, *(() if key is None else (key,)), limit)
    sql = (
        f"SELECT {_PARKED} FROM parked WHERE projection = ? AND build = ? "  # noqa: S608
        f"AND position > ?{of_key} ORDER BY position LIMIT ?"
    )
    with readable("parked"):
        return [Parked(*row) for row in run(connection, sql, values)]


def add_decision(connection: Any, decision: ProjectionDecision) -> None:
    """Keep a decision."""
    row = msgspec.structs.astuple(decision)
    # In the order of the struct's fields.
    sql = (
        f"INSERT INTO decisions({_DECISIONS}) "  # noqa: S608
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    )
    run(connection, sql, row)


def read_decisions(connection: Any, projection: str | None) -> Sequence[ProjectionDecision]:
    """Give what was decided, the oldest first."""
    where = "" if projection is None else "WHERE projection = ? "
    values = () if projection is None else (projection,)
    sql = f"SELECT {_DECISIONS} FROM decisions {where}ORDER BY number"  # noqa: S608
    with readable("decisions"):
        return [ProjectionDecision(*row) for row in run(connection, sql, values)]


def skipped(connection: Any, projection: str, version: int) -> Mapping[int, int]:
    """Give what is to be skipped: the checksum of each event by its position."""
    sql = (
        "SELECT position, checksum FROM decisions "
        "WHERE projection = ? AND version = ? AND kind = 'skip' ORDER BY number"
    )
    return dict(run(connection, sql, (projection, version)))


def is_paused(connection: Any, projection: str) -> bool:
    """Tell whether the last word on a projection was to pause it."""
    sql = (
        "SELECT kind FROM decisions WHERE projection = ? AND kind IN ('pause', 'resume') "
        "ORDER BY number DESC LIMIT 1"
    )
    return run(connection, sql, (projection,)) == [("pause",)]

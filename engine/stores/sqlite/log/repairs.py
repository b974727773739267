"""What was repaired in a log, in a table of its own, which most files do not have.

Rules: it is for people, and for those who look for damage: nothing that an engine does leans on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ...contract.copying import Repaired
from ..connection import run, run_many

__all__ = ["keep_repairs", "read_repairs"]

_MAKE: Final = (
    "CREATE TABLE IF NOT EXISTS repairs(position INTEGER PRIMARY KEY, repaired INTEGER NOT NULL, "
    "stream TEXT NOT NULL, version INTEGER NOT NULL, checksum INTEGER NOT NULL, "
    "cause TEXT NOT NULL, source TEXT NOT NULL) STRICT"
)
_THERE: Final = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'repairs'"
_READ: Final = (
    "SELECT position, repaired, stream, version, checksum, cause, source FROM main.repairs "
    "ORDER BY position"
)


def keep_repairs(connection: Any, repairs: Sequence[Repaired]) -> None:
    """Keep these, in the transaction that is open."""
    if repairs:
        run(connection, _MAKE)
        rows = [msgspec.structs.astuple(one) for one in repairs]
        run_many(connection, "INSERT OR REPLACE INTO repairs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def read_repairs(connection: Any) -> list[Repaired]:
    """Give what was repaired."""
    return [Repaired(*row) for row in run(connection, _READ)] if run(connection, _THERE) else []

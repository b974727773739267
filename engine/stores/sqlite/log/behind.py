"""By how much the clock of an event's writer was behind, in a log that came from another store.

Rules: an engine that writes into a file is alone with it, so that it knows the last event's time
before it makes a checksum, and no event of its own is behind. In a server that is only known later.
A log that is copied from there into a file keeps it in a table of its own, which most files do not
have. The checksum of an event proves what is found there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ....errors import Damaged
from ....model.stored import StoredEvent
from ..connection import run, run_many

__all__ = ["keep_behind", "read_behind"]

_MAKE: Final = (
    "CREATE TABLE IF NOT EXISTS behind(position INTEGER PRIMARY KEY, behind INTEGER NOT NULL) "
    "STRICT"
)
_THERE: Final = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'behind'"
_READ: Final = "SELECT behind FROM main.behind WHERE position = ?"


def keep_behind(connection: Any, events: Sequence[StoredEvent]) -> None:
    """Keep what events of a copy are behind, in the transaction that is open."""
    rows = [(event.position, event.behind) for event in events if event.behind]
    if rows:
        run(connection, _MAKE)
        run_many(connection, "INSERT INTO behind VALUES (?, ?)", rows)


def read_behind(connection: Any) -> Callable[[int], int]:
    """Give what tells by how many µs the writer of the event at a position was behind."""
    if not run(connection, _THERE):
        return lambda _: 0

    def behind(position: int) -> int:
        found = run(connection, _READ, (position,))
        if not found:
            return 0
        if type(found[0][0]) is not int:
            raise Damaged(position, "what its clock was behind is no number")
        return found[0][0]

    return behind

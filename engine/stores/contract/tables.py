"""Tables of another program in a database: read in order, and never written.

Rules: rows come in the order of a whole number that each has once, behind one of them. All that is
read between `with` and its end is of one moment, where the database can give that. Calls block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

__all__ = ["NOTHING_READ", "Database", "Tables"]

NOTHING_READ = -(2**63)
"""The place before all rows."""


class Database(Protocol):
    """A database that may have many logs, each in a schema. Calls block."""

    @property
    def patience_seconds(self) -> float:
        """How long its server is waited for, by its URL."""
        ...

    def logs(self, beginning: str) -> Mapping[str, str]:
        """Give the schemas that have a log, and whose names begin so, sorted.

        Each with a text that is another one when timers of it were changed, or soon after. Raises
        StoreFailed or StoreRefused.
        """
        ...

    def connections_max(self) -> int:
        """Give how many connections may be open at once. Raises StoreFailed or StoreRefused."""
        ...

    def close(self) -> None:
        """Ask nothing more."""
        ...


class Tables(Protocol):
    """A database whose tables are read."""

    @property
    def name(self) -> str:
        """What people call it: its path, or its address without a password."""
        ...

    def __enter__(self) -> Self:
        """Open it; raise StoreRefused or StoreFailed."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        ...

    def rows(
        self, table: str, order: str, after: int, limit: int
    ) -> Sequence[tuple[int, Mapping[str, Any]]]:
        """Give the next rows of a table, each with its number and its values by column.

        A schema may stand before the table's name, with a dot. Raises StoreRefused where there is
        no such table or column, and StoreFailed where it cannot be read.
        """
        ...

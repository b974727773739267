"""The tables of one projection in SQL of its own, in memory, for one test of it.

Rules: they are made by the projection's own statements, as in a file of views, and handlers write
them through the same session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw

from ....limits import Limits
from ....model.projection import ProjectionDefinition
from ....model.rows import Scalar
from ..connection import run, transaction
from .builds import own_names, show
from .driven import Driven, driven
from .sql_tables import SqlTables, check_dialect, make_own

__all__ = ["TablesInSql"]


class TablesInSql:
    """The tables of a projection in SQL of its own."""

    def __init__(self, definition: ProjectionDefinition) -> None:
        check_dialect(definition)
        self._connection = apsw.Connection(":memory:")
        names = own_names(definition, 1)
        make_own(self._connection, definition, names)
        show(self._connection, definition.table_names, 1)
        self._own = SqlTables(definition.name, names, definition.table_names)

    def run(self, handler: Callable[[Any], Any], *, is_async: bool) -> None:
        """Run a handler in a transaction; raise what it raises."""
        connection, rows_max = self._connection, Limits().query_rows
        with transaction(connection), self._own.session(connection, rows_max) as session:
            if is_async:
                driven(handler(Driven(session)))
            else:
                handler(session)

    def ask(self, statement: str, parameters: Sequence[Scalar]) -> list[tuple[Any, ...]]:
        """Give the rows of a statement."""
        return run(self._connection, statement, parameters)

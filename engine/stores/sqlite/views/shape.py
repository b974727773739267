"""Whether a file of views keeps its own books in plain tables, before anything in it is read.

Rules: tables, views and triggers of a host's own SQL in a file of views are its own affair. What
the engine reads and writes by itself (builds, checkpoints, parked events, decisions, requests) must
be tables, with no computed column and no trigger on them: a view in their place can read for ever,
and a trigger can swallow what is written. Older files may lack some of them. What is asked of
SQLite here runs nothing that the file has. This file changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

import apsw

from ....errors import StoreRefused
from ..connection import quoted, run
from ..shape import read_shape

__all__ = ["check_books", "odd_books"]

BOOKS: Final = (
    "views_meta",
    "builds",
    "checkpoints",
    "parked",
    "decisions",
    "requests",
    "failures",
)
"""The tables of the engine itself in a file of views."""
_INDEXES: Final = (
    "SELECT sql FROM main.sqlite_schema WHERE type = 'index' AND lower(tbl_name) = ? "
    "AND sql IS NOT NULL ORDER BY lower(sql)"
)


def check_books(connection: Any, path: str) -> None:
    """Raise StoreRefused where a table of the engine's own in a file of views can act by itself."""
    for (kind, name), (table, sql) in read_shape(connection, path).items():
        if table.lower() not in BOOKS and name.lower() not in BOOKS:
            continue
        # SQLite itself begins the statement of a table so, and that of a virtual one otherwise.
        if kind == "index" or (kind == "table" and str(sql).startswith("CREATE TABLE ")):
            continue
        raise _refused(path, f"its {kind} {name!a} stands where a plain table of the engine must")
    for name in BOOKS:
        if any(row[6] for row in run(connection, f"PRAGMA main.table_xinfo({quoted(name)})")):
            raise _refused(path, f"its table {name!a} has columns that are computed")


def odd_books(connection: Any, statements: Sequence[str]) -> Sequence[str]:
    """Name the engine's own tables that have not the columns or indexes that `statements` give."""
    with closing(apsw.Connection(":memory:")) as made:
        for statement in statements:
            run(made, statement)
        return [name for name in BOOKS if _book(connection, name) != _book(made, name)]


def _book(connection: Any, name: str) -> object:
    """Give what makes a table one of ours; older files have its columns by other statements."""
    columns = run(connection, f"PRAGMA main.table_xinfo({quoted(name)})")
    indexes = run(connection, _INDEXES, (name,))
    return (
        sorted(
            (str(column).lower(), kind, must, str(default), key)
            for _, column, kind, must, default, key, _ in columns
        ),
        [str(sql).lower() for (sql,) in indexes],
    )


def _refused(path: str, why: str) -> StoreRefused:
    return StoreRefused(
        f"{path} is no file of views as this engine makes it: {why}. Nothing in it was read or "
        f"changed. Remove the file, and the engine folds the views again from the log"
    )

"""Pins: a statement of a user reads the tables that serve in the snapshot of its answer.

Rules: a server looks a name up as it is now, not as it is in a snapshot. So a plain name of a view
would lead to the build that has come to serve meanwhile, and an answer would read two. Each name
that a statement mentions is therefore given as a subquery over the table of the snapshot. This file
runs nothing.
"""

# ruff: noqa: S608 - names in the SQL here come from definitions and are quoted

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Final

from .names import quoted
from .tables import TableSql

__all__ = ["mentioned", "pinned"]

_NAMES: Final = re.compile(r"\w+")


def mentioned(statement: str, names: Set[str]) -> Sequence[str]:
    """Give which of these names a statement may mean: also one that stands in a text of it."""
    words = set(_NAMES.findall(statement.lower()))
    return sorted(name for name in names if name.lower() in words)


def pinned(
    query: str,
    names: Sequence[str],
    schema: str,
    tables: Mapping[str, TableSql],
    in_sql: Mapping[str, str],
) -> str:
    """Let these names mean tables: of rows, and by real names those that are made in SQL."""
    given = [(name, _columns(name, tables, in_sql)) for name in names]
    pins = [
        f"{quoted(name)} AS NOT MATERIALIZED "
        f"(SELECT {columns} FROM {quoted(schema)}.{quoted(real)})"
        for name, (columns, real) in given
        if real
    ]
    return f"WITH {', '.join(pins)} {query}" if pins else query


def _columns(
    name: str, tables: Mapping[str, TableSql], in_sql: Mapping[str, str]
) -> tuple[str, str]:
    table = tables.get(name)
    return ("*", in_sql.get(name, "")) if table is None else (table.shown_columns, table.name)

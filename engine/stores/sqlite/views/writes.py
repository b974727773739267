"""What one transaction of projectors writes into their tables, and reads of them before.

Rules: in the tables of a sliced projection no row of another slice is changed, nor read to be
changed. Everything here runs in the writer's thread, and inside the caller's transaction where it
writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final

import apsw

from ....model.rows import Flat, Scalar
from ...contract.views import Changes, Part, row_of_another
from ..connection import readable, refused_rows, run
from .catalog import Catalog
from .tables import TableSql

__all__ = ["fetch_rows", "write_rows"]

_KEY: Final = itemgetter(0)


def fetch_rows(
    connection: apsw.Connection, catalog: Catalog, part: Part, keys: Mapping[str, Sequence[Scalar]]
) -> Mapping[str, Sequence[Flat]]:
    """Give the rows of these keys, by table attribute."""
    found: dict[str, Sequence[Flat]] = {}
    for attribute, wanted in keys.items():
        sql = catalog.tables(part.definition.name, part.build)[attribute]
        if sql.sliced:
            _refuse_others(connection, sql, part, wanted)
        with readable(sql.definition.name):
            found[attribute] = sql.rows_of(run(connection, *sql.fetch(wanted)))
    return found


def write_rows(connection: apsw.Connection, catalog: Catalog, changes: Changes) -> None:
    """Write the rows of a part; raise RowRefused for one that its table does not take."""
    part = changes.part
    for attribute, rows in changes.rows.items():
        sql = catalog.tables(part.definition.name, part.build)[attribute]
        with refused_rows(sql.definition.name):
            _write(connection, sql, part, rows)


def _write(
    connection: apsw.Connection, sql: TableSql, part: Part, rows: Mapping[Scalar, Flat | None]
) -> None:
    # In the order of the keys, so that neighbours in the table are written together.
    flats = [flat for _, flat in sorted(rows.items(), key=_KEY) if flat is not None]
    if sql.sliced:
        flats = [(*flat, part.slice) for flat in flats]
    for statement in sql.upserts(flats):
        run(connection, *statement)
        if sql.sliced and connection.changes() != sql.rows_in(statement):
            _refuse_others(connection, sql, part, list(rows))
    gone = [key for key, flat in rows.items() if flat is None]
    if gone:
        if sql.sliced:
            _refuse_others(connection, sql, part, gone)
        run(connection, *sql.delete(gone))


def _refuse_others(
    connection: apsw.Connection, sql: TableSql, part: Part, keys: Sequence[Scalar]
) -> None:
    """Raise StoreRefused where a row of these keys belongs to another slice."""
    others = run(connection, *sql.of_others(keys, part.slice))
    if others:
        raise row_of_another(part, sql.definition.name, *others[0])

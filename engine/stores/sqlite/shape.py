"""Whether a file has the schema that we give it, statement for statement, and nothing that acts.

Rules: a file that somebody gives is believed only if each table, index and view of ours is there as
we make it. Anything else may be no more than a plain table: no view, no virtual or computed column
(they can read for ever), no index on a table of ours. Triggers can swallow what is written, so none
of a file fires where it is hardened. Only the schema is read for that, and only so much of it. What
is asked of SQLite here runs nothing that the file has. Names out of it are quoted in errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

import apsw

from ...errors import StoreRefused
from .connection import quoted, run

__all__ = ["Shape", "check_shape", "harden", "made", "read_shape", "shape_of"]

Shape: TypeAlias = Mapping[tuple[str, str], tuple[str, str | None]]
"""Table and statement of each object, by type and name."""

OBJECTS_MAX: Final = 100_000
SQL_BYTES_MAX: Final = 1_000_000
"""Of one statement in a schema."""
_SHOWN_MAX: Final = 60
_STATISTICS: Final = frozenset(("sqlite_stat1", "sqlite_stat4", "sqlite_sequence"))
"""What SQLite's ANALYZE and AUTOINCREMENT keep, whoever asks for it; nobody else may name so."""


def harden(connection: Any) -> None:
    """Let a file do nothing by its schema: no trigger of it fires here, and no view is read.

    Must be called before anything is read from it. Triggers of this connection itself still fire.
    """
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)


@cache
def made(statements: tuple[str, ...]) -> Shape:
    """Give what these statements make."""
    connection = apsw.Connection(":memory:")
    try:
        for statement in statements:
            run(connection, statement)
        return shape_of(connection)
    finally:
        connection.close()


def shape_of(connection: Any) -> Shape:
    """Give what a file has; it must not be given by a stranger."""
    rows = run(connection, "SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return {(kind, name): (table, sql) for kind, name, table, sql in rows}


def read_shape(connection: Any, path: str, schema: str = "main") -> Shape:
    """Give what a file has. Raises StoreRefused for more, or larger, than a schema of ours."""
    sql = (
        "SELECT type, name, tbl_name, sql, rootpage "  # noqa: S608 - a name of ours
        f"FROM {schema}.sqlite_schema LIMIT ?"
    )
    before = connection.limit(apsw.SQLITE_LIMIT_LENGTH, SQL_BYTES_MAX)
    try:
        rows = run(connection, sql, (OBJECTS_MAX + 1,))
    except apsw.TooBigError as error:
        raise _refused(path, "a statement in its schema is too long") from error
    except UnicodeDecodeError as error:
        raise _refused(path, "a name in its schema is no text") from error
    finally:
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, before)
    if len(rows) > OBJECTS_MAX:
        raise _refused(path, f"it has more than {OBJECTS_MAX} tables, indexes, triggers and views")
    roots = [root for *_, root in rows if root]
    if len(set(roots)) < len(roots):
        raise _refused(path, "two of its tables are one")
    return {(kind, name): (table, sql) for kind, name, table, sql, _ in rows}


def check_shape(
    connection: Any,
    path: str,
    found: Shape,
    ours: Shape,
    *,
    allowed: Callable[[str, str, str], bool] = lambda _kind, _name, _table: False,
    schema: str = "main",
) -> None:
    """Raise StoreRefused where a file has not what is ours, or has what acts and is not allowed.

    `allowed` is asked by type, name and table about what is not ours. Triggers are passed over.
    """
    for key, made_now in ours.items():
        if key[0] != "trigger" and found.get(key) != made_now:
            raise _refused(
                path, f"its {_named(*key)} is {'another' if key in found else 'missing'}"
            )
    names = {name.lower() for kind, name in ours if kind == "table"}
    plain: list[str] = []
    for (kind, name), (table, sql) in found.items():
        if kind == "trigger" or (kind, name) in ours or allowed(kind, name, table):
            continue
        if kind == "index" and table.lower() not in names:
            continue  # of a table that nobody writes to or reads here
        # SQLite itself begins the statement of a table so, and that of a virtual one otherwise.
        if kind != "table" or not str(sql).startswith("CREATE TABLE ") or name.lower() in names:
            raise _refused(path, f"it has a {_named(kind, name)}, which can act by itself")
        if name not in _STATISTICS:
            plain.append(name)
    for name in plain:
        _check_plain(connection, path, name, schema)


def _check_plain(connection: Any, path: str, name: str, schema: str) -> None:
    """Raise StoreRefused for a table that does more than keep rows."""
    if any(row[6] for row in run(connection, f"PRAGMA {schema}.table_xinfo({quoted(name)})")):
        raise _refused(path, f"its {_named('table', name)} has columns that are computed")
    if run(connection, f"PRAGMA {schema}.foreign_key_list({quoted(name)})"):
        raise _refused(path, f"its {_named('table', name)} refers to others")


def _named(kind: str, name: str) -> str:
    shown = name if len(name) <= _SHOWN_MAX else name[:_SHOWN_MAX] + "..."
    return f"{kind if kind in _KINDS else 'object'} {shown!a}"


_KINDS: Final = frozenset(("table", "index", "trigger", "view"))


def _refused(path: str, why: str) -> StoreRefused:
    return StoreRefused(
        f"{path} has another schema than this engine makes: {why}. Nothing in it was read or "
        f"changed. If you know it, take what was added away with an SQLite shell; else trust "
        f"nothing in this file"
    )

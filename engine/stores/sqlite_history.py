"""Which history the tables of a view belong to, and what is done where it is another one.

Rules: a checkpoint names its log and the checksum of the event at its position. Tables are used
only where all of that is found in the log as it is now; otherwise they are dropped and made anew,
said aloud, and filled again from position 0. A projection whose version was raised is made anew
too. The same version with other tables is refused, since nobody said what the old rows mean. A
table that is not known to be a projection's is never dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import apsw
import msgspec

from ..errors import Damaged, StoreRefused
from ..projection import ProjectionDefinition
from .contract import Head, Store
from .sqlite_session import run, transaction
from .sqlite_tables import TableSql, quoted

__all__ = ["Found", "Plan", "plan_for", "prepare", "read_tables"]

APPLICATION_ID: Final = 0x464C5657
"""Marks a file of views: "FLVW"."""
SCHEMA_VERSION: Final = 1

_SCHEMA = (
    """
    CREATE TABLE views_meta (
        application_id INTEGER NOT NULL,
        log_id TEXT NOT NULL,
        schema_version INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE checkpoints (
        projection TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        definition TEXT NOT NULL,
        position INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        log_id TEXT NOT NULL,
        tables TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
)


class Found(msgspec.Struct, frozen=True):
    """A checkpoint as it is in the file."""

    version: int
    definition: str
    position: int
    checksum: int
    log_id: str
    tables: Sequence[str]
    """The SQL names of its tables, so that they can be dropped when they are called otherwise."""


class Plan(msgspec.Struct, frozen=True):
    """What opening does with one projection."""

    definition: ProjectionDefinition
    hash: str
    keep: bool
    drop: Sequence[str] = ()


def read_tables(
    connection: apsw.Connection, path: str, log_id: str
) -> tuple[Mapping[str, Found], frozenset[str]]:
    """Read the checkpoints and the tables' names, lower case; make an empty file ours first."""
    tables = _table_names(connection)
    application_id = _number(connection, "PRAGMA application_id")
    if not tables and application_id == 0:
        with transaction(connection):
            run(connection, f"PRAGMA application_id={APPLICATION_ID}")
            for sql in _SCHEMA:
                run(connection, sql)
            meta = (APPLICATION_ID, log_id, SCHEMA_VERSION)
            run(connection, "INSERT INTO views_meta VALUES (?, ?, ?)", meta)
        tables = _table_names(connection)
        application_id = _number(connection, "PRAGMA application_id")
    if application_id != APPLICATION_ID or not {"views_meta", "checkpoints"} <= tables:
        raise StoreRefused(f"{path} is not a file of views: name another file, or move this one")
    schema = _number(connection, "SELECT schema_version FROM views_meta")
    if schema != SCHEMA_VERSION:
        raise StoreRefused(
            f"{path} has schema version {schema}, and this engine knows {SCHEMA_VERSION}: use the "
            f"release that wrote it, or remove the file, and the views are rebuilt"
        )
    return dict(_checkpoints(connection)), tables


def _checkpoints(connection: apsw.Connection) -> Iterator[tuple[str, Found]]:
    sql = (
        "SELECT projection, version, definition, position, checksum, log_id, tables "
        "FROM checkpoints"
    )
    for name, version, definition, position, checksum, log_id, tables in run(connection, sql):
        listed = msgspec.json.decode(str(tables), type=list[str])
        yield name, Found(version, definition, position, checksum, log_id, listed)


def _table_names(connection: apsw.Connection) -> frozenset[str]:
    names = run(connection, "SELECT name FROM sqlite_schema WHERE type = 'table'")
    return frozenset(str(name).lower() for (name,) in names)


def _number(connection: apsw.Connection, sql: str) -> int:
    return int(run(connection, sql)[0][0])


async def plan_for(
    definition: ProjectionDefinition,
    hash_now: str,
    found: Found | None,
    tables: frozenset[str],
    head: Head,
    store: Store,
    logger: logging.Logger,
) -> Plan:
    """Decide whether a projection's tables can be used; raise StoreRefused where nobody knows."""
    name = definition.name
    if found is None:
        return Plan(definition, hash_now, keep=False)
    anew = Plan(definition, hash_now, keep=False, drop=found.tables)
    if found.version != definition.version:
        logger.info(
            "projection %s is at version %d, its views at %d: they are rebuilt from the log",
            name,
            definition.version,
            found.version,
        )
        return anew
    why = await _foreign(found, head, store)
    if why is None and not {table.lower() for table in found.tables} <= tables:
        why = "a table of theirs is missing"
    if why is not None:
        logger.warning(
            "the views of projection %s do not belong to this log: %s. They are dropped and "
            "rebuilt from the log",
            name,
            why,
        )
        return anew
    if found.definition != hash_now:
        raise StoreRefused(
            f"the tables of projection {name!r} are declared otherwise than they were stored as "
            f"version {found.version}: declare it as `version={found.version + 1}`, and they are "
            f"rebuilt from the log, or undo the change"
        )
    return Plan(definition, hash_now, keep=True)


async def _foreign(found: Found, head: Head, store: Store) -> str | None:
    """Say why a checkpoint belongs to another history than the log's, or None."""
    position = found.position
    if found.log_id != store.log_id:
        return f"they are of log {found.log_id}, and this is {store.log_id}"
    if position > head.position:
        return f"they are at position {position}, and the log ends at {head.position}"
    if position == 0:
        return None
    if position == head.position:
        checksum = head.checksum
    else:
        try:
            events = await store.read_feed(position - 1, events_max=1, bytes_max=1)
        except Damaged:
            # The event is damaged, not the views, which contain it already and do not need it.
            return None
        if not events or events[0].position != position:
            return f"the log has no event at their position {position}"
        checksum = events[0].checksum
    if checksum != found.checksum:
        return f"the log has another event at their position {position}"
    return None


def prepare(
    connection: apsw.Connection,
    plans: Sequence[Plan],
    sql: Mapping[str, TableSql],
    log_id: str,
    path: str,
) -> None:
    """Do what was planned, inside the caller's transaction."""
    for plan in plans:
        for name in plan.drop:
            run(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
    tables = _table_names(connection)
    for plan in plans:
        if plan.keep:
            continue
        definition = plan.definition
        names = [table.name for table in definition.tables.values()]
        for name in names:
            if name.lower() in tables:
                raise StoreRefused(
                    f"{path} has a table {name} already, which is not of projection "
                    f"{definition.name!r}: rename the table's attribute, or remove the file, and "
                    f"the views are rebuilt"
                )
            for statement in sql[name].create():
                run(connection, statement)
        listed = msgspec.json.encode(names).decode()
        row = (definition.name, definition.version, plan.hash, 0, 0, log_id, listed)
        run(connection, "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    run(connection, "UPDATE views_meta SET log_id = ?", (log_id,))

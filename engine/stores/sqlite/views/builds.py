"""The builds of projections in a file of views: which there are, made, swapped, emptied, dropped.

Rules: a build's tables carry its number in their names, and an SQL view of the plain name shows the
one that serves: a swap points the views elsewhere, in one transaction, and moves no row. The schema
lets one build serve and one be built, for each projection. A table that is not known to be a
projection's is never dropped. Everything here runs inside the caller's transaction, but for
`open_file`.
"""

# ruff: noqa: S608 - names in the SQL here come from definitions or the file, and are quoted

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ....errors import StoreRefused
from ....model.projection import ProjectionDefinition, slice_of
from ...contract.outside import Found
from ...contract.views import BuildState, Checkpoint
from ..connection import quoted, readable, run, transaction
from .requests import REQUESTS_SCHEMA, forget_failures
from .search import drops
from .shape import check_books, odd_books
from .sql_tables import make_own
from .tables import TableSql

__all__ = [
    "SCHEMA_VERSION",
    "check_file",
    "claim",
    "drop_build",
    "empty_build",
    "is_new_file",
    "make_build",
    "odd_tables",
    "open_file",
    "read_builds",
    "real_name",
    "reslice",
    "set_state",
    "show",
    "swap_builds",
]

APPLICATION_ID: Final = 0x464C5657
"""Marks a file of views: "FLVW"."""
SCHEMA_VERSION: Final = 2

_META = """
    CREATE TABLE views_meta (
        application_id INTEGER NOT NULL,
        log_id TEXT NOT NULL,
        schema_version INTEGER NOT NULL
    ) STRICT
    """
_SCHEMA = (
    """
    CREATE TABLE builds (
        projection TEXT NOT NULL,
        number INTEGER NOT NULL,
        version INTEGER NOT NULL,
        definition TEXT NOT NULL,
        slices INTEGER NOT NULL,
        log_id TEXT NOT NULL,
        tables TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('serving', 'building', 'former')),
        builder TEXT,
        own INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (projection, number)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX builds_one_serves ON builds (projection) WHERE state = 'serving'",
    "CREATE UNIQUE INDEX builds_one_is_built ON builds (projection) WHERE state = 'building'",
    """
    CREATE TABLE checkpoints (
        projection TEXT NOT NULL,
        build INTEGER NOT NULL,
        slice INTEGER NOT NULL,
        position INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (projection, build, slice)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE parked (
        projection TEXT NOT NULL,
        build INTEGER NOT NULL,
        position INTEGER NOT NULL,
        slice INTEGER NOT NULL,
        key TEXT NOT NULL,
        event TEXT NOT NULL,
        stream TEXT NOT NULL,
        parked INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        cause TEXT NOT NULL,
        PRIMARY KEY (projection, build, position)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX parked_by_key ON parked (projection, build, key, position)",
    """
    CREATE TABLE decisions (
        number INTEGER PRIMARY KEY,
        projection TEXT NOT NULL,
        kind TEXT NOT NULL,
        decided INTEGER NOT NULL,
        version INTEGER NOT NULL,
        position INTEGER,
        reason TEXT NOT NULL,
        principal TEXT,
        checksum INTEGER
    ) STRICT
    """,
    *REQUESTS_SCHEMA,
)


_INSERT_BUILD: Final = "INSERT INTO builds VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)"


def real_name(table: str, number: int) -> str:
    """Give what a build calls a table; a colon is in no projection's name."""
    return f"{table}:{number}"


# -- the file -----------------------------------------------------------------------------------


def is_new_file(connection: Any, path: str) -> bool:
    """Tell whether a file is empty; raise StoreRefused where it is of something else.

    Nothing is changed, so it is asked before anything is set up.
    """
    names = table_names(connection)
    application_id = _number(connection, "PRAGMA application_id")
    if not names and application_id == 0:
        return True
    if application_id != APPLICATION_ID or not {"views_meta", "checkpoints"} <= names:
        raise StoreRefused(f"{path} is not a file of views: name another file, or move this one")
    return False


def open_file(connection: Any, path: str, log_id: str) -> None:
    """Make an empty file one of views, and bring an older one to today's schema."""
    if is_new_file(connection, path):
        with transaction(connection):
            run(connection, f"PRAGMA application_id={APPLICATION_ID}")
            for sql in (_META, *_SCHEMA):
                run(connection, sql)
            meta = (APPLICATION_ID, log_id, SCHEMA_VERSION)
            run(connection, "INSERT INTO views_meta VALUES (?, ?, ?)", meta)
        return
    check_books(connection, path)
    schema = _number(connection, "SELECT schema_version FROM views_meta")
    if schema == 1:
        with transaction(connection):
            _from_the_first_schema(connection)
    elif schema == SCHEMA_VERSION and "requests" not in table_names(connection):
        # Written while the second schema was in the making.
        with transaction(connection):
            run(connection, "ALTER TABLE builds ADD COLUMN builder TEXT")
            run(connection, "ALTER TABLE builds ADD COLUMN own INTEGER NOT NULL DEFAULT 0")
            for sql in REQUESTS_SCHEMA:
                run(connection, sql)
    elif schema != SCHEMA_VERSION:
        raise StoreRefused(
            f"{path} has schema version {schema}, and this engine knows {SCHEMA_VERSION}: use the "
            f"release that wrote it, or remove the file, and the views are rebuilt"
        )


def check_file(connection: Any, path: str) -> str:
    """Raise StoreRefused where a file has not today's schema of views; give its log's id."""
    names = table_names(connection)
    application_id = _number(connection, "PRAGMA application_id")
    if application_id != APPLICATION_ID or "views_meta" not in names:
        raise StoreRefused(f"{path} is not a file of views: name another log, or move this file")
    check_books(connection, path)
    schema = _number(connection, "SELECT schema_version FROM views_meta")
    if schema > SCHEMA_VERSION:
        raise StoreRefused(
            f"{path} has schema version {schema}, and this release knows {SCHEMA_VERSION}: use the "
            f"release that wrote it"
        )
    if schema < SCHEMA_VERSION or "requests" not in names:
        raise StoreRefused(
            f"{path} was written by a former release: start an engine of this release on it once, "
            f"which brings it along"
        )
    return str(run(connection, "SELECT log_id FROM views_meta")[0][0])


def odd_tables(connection: Any) -> Sequence[str]:
    """Name the engine's own tables in a file that are not as this release makes them."""
    odd = odd_books(connection, (_META, *_SCHEMA))
    if run(connection, "SELECT application_id FROM views_meta") != [(APPLICATION_ID,)]:
        return sorted({*odd, "views_meta"})
    return odd


def _from_the_first_schema(connection: Any) -> None:
    """Number the tables, of which there was one set for each projection."""
    old = run(
        connection,
        "SELECT projection, version, definition, position, checksum, log_id, tables "
        "FROM checkpoints",
    )
    run(connection, "DROP TABLE checkpoints")
    for sql in _SCHEMA:
        run(connection, sql)
    there = table_names(connection)
    for name, version, definition, position, checksum, log_id, tables in old:
        listed = msgspec.json.decode(str(tables), type=list[str])
        for table in listed:
            if table.lower() in there:
                renamed = quoted(real_name(table, 1))
                run(connection, f"ALTER TABLE {quoted(table)} RENAME TO {renamed}")
        row = (name, 1, version, definition, 1, log_id, tables, "serving", 0)
        run(connection, _INSERT_BUILD, row)
        at = (name, 1, 0, position, checksum)
        run(connection, "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?)", at)
        if all(table.lower() in there for table in listed):
            show(connection, listed, 1)
    run(connection, "UPDATE views_meta SET schema_version = ?", (SCHEMA_VERSION,))


def table_names(connection: Any) -> frozenset[str]:
    """Give the names of all tables and views, lower case."""
    names = run(connection, "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
    return frozenset(str(name).lower() for (name,) in names)


def _number(connection: Any, sql: str) -> int:
    """Give a number that a file of views says of itself; raise StoreRefused where it says none."""
    found = run(connection, sql)
    if len(found) != 1 or type(found[0][0]) is not int:
        raise StoreRefused(
            f"{connection.filename} is damaged: {sql} gives no number. Stop its engine and move "
            f"the file away: the views are folded again"
        )
    return int(found[0][0])


def read_builds(connection: Any) -> Sequence[Found]:
    """Read which builds there are, of each projection by number."""
    with readable("builds"):
        return _read_builds(connection)


def _read_builds(connection: Any) -> Sequence[Found]:
    checkpoints: dict[tuple[str, int], dict[int, Checkpoint]] = {}
    for projection, build, slice_, position, checksum in run(
        connection, "SELECT projection, build, slice, position, checksum FROM checkpoints"
    ):
        at = Checkpoint(position, checksum)
        checkpoints.setdefault((projection, build), {})[slice_] = at
    sql = (
        "SELECT projection, number, version, definition, slices, log_id, tables, state, builder, "
        "own FROM builds ORDER BY projection, number"
    )
    return [
        Found(
            projection,
            number,
            version,
            definition,
            slices,
            log_id,
            msgspec.json.decode(str(tables), type=list[str]),
            state,
            checkpoints.get((projection, number), {}),
            builder,
            bool(own),
        )
        for (
            projection,
            number,
            version,
            definition,
            slices,
            log_id,
            tables,
            state,
            builder,
            own,
        ) in run(connection, sql)
    ]


# -- one build ----------------------------------------------------------------------------------


def make_build(
    connection: Any,
    definition: ProjectionDefinition,
    definition_hash: str,
    number: int,
    state: BuildState,
    log_id: str,
    tables: Sequence[TableSql],
) -> None:
    """Make a build's tables, empty, and its checkpoints, at 0."""
    for sql in tables:
        for statement in sql.create():
            run(connection, statement)
    make_own(connection, definition, own_names(definition, number))
    names = definition.table_names
    row = (
        definition.name,
        number,
        definition.version,
        definition_hash,
        definition.slices,
        log_id,
        msgspec.json.encode(names).decode(),
        state,
        bool(definition.sql_tables),
    )
    run(connection, _INSERT_BUILD, row)
    for slice_ in range(definition.slices):
        at = (definition.name, number, slice_)
        run(connection, "INSERT INTO checkpoints VALUES (?, ?, ?, 0, 0)", at)
    if state == "serving":
        show(connection, names, number)


def own_names(definition: ProjectionDefinition, number: int) -> Mapping[str, str]:
    """Give what a build calls the tables that its projection makes by SQL, by attribute."""
    tables = definition.sql_tables.values()
    return {table.attribute: real_name(table.name, number) for table in tables}


def empty_build(connection: Any, build: Found, definition: ProjectionDefinition | None) -> None:
    """Take all rows and parked events of a build away, and put its checkpoints back to 0.

    Without a definition the tables must not be of the projection's own making.
    """
    assert definition is not None or not build.own
    own: Mapping[str, str] = {} if definition is None else own_names(definition, build.number)
    for table in build.tables:
        if own:
            # Made anew, since nobody here knows what deleting its rows would set off.
            for statement in drops(real_name(table, build.number)):
                run(connection, statement)
        else:
            run(connection, f"DELETE FROM {quoted(real_name(table, build.number))}")
    if definition is not None:
        make_own(connection, definition, own)
    at = (build.projection, build.number)
    forget_failures(connection, build.projection, build.number)
    run(connection, "DELETE FROM parked WHERE projection = ? AND build = ?", at)
    sql = "UPDATE checkpoints SET position = 0, checksum = 0 WHERE projection = ? AND build = ?"
    run(connection, sql, at)


def drop_build(connection: Any, build: Found) -> None:
    """Take a build away, with all that belongs to its tables."""
    if build.state == "serving":
        _hide(connection, build.tables)
    for table in build.tables:
        for statement in drops(real_name(table, build.number)):
            run(connection, statement)
    at = (build.projection, build.number)
    forget_failures(connection, build.projection, build.number)
    run(connection, "DELETE FROM parked WHERE projection = ? AND build = ?", at)
    run(connection, "DELETE FROM checkpoints WHERE projection = ? AND build = ?", at)
    run(connection, "DELETE FROM builds WHERE projection = ? AND number = ?", at)


def swap_builds(connection: Any, old: Found | None, new: Found) -> None:
    """Let `new` serve instead of `old`; raise StoreRefused where it is not as far as that."""
    if old is not None:
        reached = max((c.position for c in old.checkpoints.values()), default=0)
        if new.position < reached:
            raise StoreRefused(
                f"build {new.number} of projection {new.projection!r} is at position "
                f"{new.position}, and build {old.number}, which serves, at {reached}: queries "
                f"would go back in time. Nothing was changed; swap when it has caught up."
            )
        _hide(connection, old.tables)
        set_state(connection, old, "former")
    set_state(connection, new, "serving")
    claim(connection, new, None)
    show(connection, new.tables, new.number)


def reslice(connection: Any, build: Found, slices: int) -> None:
    """Let so many slices go on where the last one of a build stands, with what it has parked."""
    low = min(build.checkpoints.values(), key=lambda checkpoint: checkpoint.position)
    at = (build.projection, build.number)
    run(connection, "DELETE FROM checkpoints WHERE projection = ? AND build = ?", at)
    for slice_ in range(slices):
        row = (*at, slice_, low.position, low.checksum)
        run(connection, "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?)", row)
    where = "WHERE projection = ? AND build = ?"
    # What is behind that position comes again.
    run(connection, f"DELETE FROM parked {where} AND position > ?", (*at, low.position))
    for (key,) in run(connection, f"SELECT DISTINCT key FROM parked {where}", at):
        moved = (slice_of(key, slices), *at, key)
        run(connection, f"UPDATE parked SET slice = ? {where} AND key = ?", moved)
    run(
        connection,
        "UPDATE builds SET slices = ? WHERE projection = ? AND number = ?",
        (slices, *at),
    )


def claim(connection: Any, build: Found, builder: str | None) -> None:
    """Say who builds a build from now on: whoever did before can write no more of it."""
    sql = "UPDATE builds SET builder = ? WHERE projection = ? AND number = ?"
    run(connection, sql, (builder, build.projection, build.number))


def set_state(connection: Any, build: Found, state: BuildState) -> None:
    """Let a build be in another state."""
    sql = "UPDATE builds SET state = ? WHERE projection = ? AND number = ?"
    run(connection, sql, (state, build.projection, build.number))


def show(connection: Any, tables: Sequence[str], number: int) -> None:
    """Let the plain names show a build's tables: the columns that its rows were declared with."""
    for table in tables:
        real = real_name(table, number)
        sql = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1"
        found = run(connection, sql, (real,))
        columns = ", ".join(quoted(str(name)) for (name,) in found if ":" not in str(name))
        run(connection, f"CREATE VIEW {quoted(table)} AS SELECT {columns} FROM {quoted(real)}")


def _hide(connection: Any, tables: Sequence[str]) -> None:
    for table in tables:
        run(connection, f"DROP VIEW IF EXISTS {quoted(table)}")


def refuse_taken_names(
    connection: Any, path: str, definition: ProjectionDefinition, builds: Sequence[Found]
) -> None:
    """Raise StoreRefused where something else in the file has a table's name already."""
    mine = {table.lower() for build in builds for table in build.tables}
    there = table_names(connection)
    for table in definition.table_names:
        name = table.lower()
        if name in there and name not in mine:
            raise StoreRefused(
                f"{path} has a table {table} already, which is not of projection "
                f"{definition.name!r}: rename the table's attribute, or remove the file, and the "
                f"views are rebuilt"
            )

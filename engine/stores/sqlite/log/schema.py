"""The log's tables in SQLite: made, filled, and brought from an older schema to today's.

Rules: what must never happen to a log is refused by the schema itself, whatever the code above
believes: two events at one place of a stream, a hole in a stream or in the positions, a change of
what was written. Migrations go forward only, step by step, each in a transaction with the version
that it leads to. A file that is not a log, that a later release has migrated, or whose schema is
another than its version's, is refused and not touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

import apsw
import msgspec

from ....errors import StoreFailed, StoreRefused
from ....model.stored import StoredEvent
from ..connection import run, transaction
from ..shape import check_shape, harden, made, read_shape

__all__ = [
    "APPLICATION_ID",
    "CLAIMS_SINCE",
    "COLD",
    "MIGRATIONS",
    "TAGS_SINCE",
    "TIMERS_SINCE",
    "check_inserted",
    "check_schema",
    "guard",
    "insert_events",
    "insert_streams",
    "later_tables",
    "migrate",
    "odd_triggers",
    "protect",
    "read_schema_version",
    "rows_of",
]

APPLICATION_ID: Final = 0x464C4431
"""Marks the file as a log of ours ("FLD1"), for us and for `file`."""

_FIRST: Final = (
    """
    CREATE TABLE about(
        one INTEGER PRIMARY KEY CHECK (one = 1),
        log_id TEXT NOT NULL,
        created INTEGER NOT NULL
    ) STRICT
    """,
    # Numbers in the order of first use, so that neighbours in the index were written together.
    "CREATE TABLE streams(number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    """
    CREATE TABLE event_types(
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        schema_hash TEXT NOT NULL,
        UNIQUE (name, version)
    ) STRICT
    """,
    """
    CREATE TABLE events(
        position INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        version INTEGER NOT NULL,
        type INTEGER NOT NULL,
        recorded INTEGER NOT NULL,
        encoding INTEGER NOT NULL,
        payload BLOB NOT NULL,
        metadata BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX events_by_stream ON events(stream, version)",
    # An event goes to the end of the log and of its stream only. The unique keys alone would let
    # INSERT OR REPLACE put another event in its place: that deletes without asking any trigger.
    """
    CREATE TRIGGER events_have_no_holes BEFORE INSERT ON events
    WHEN (new.version <> 1 AND NOT EXISTS (
            SELECT 1 FROM events WHERE stream = new.stream AND version = new.version - 1))
        OR EXISTS (SELECT 1 FROM events WHERE stream = new.stream AND version >= new.version)
        OR new.position <> 1 + coalesce((SELECT max(position) FROM events), 0)
        OR new.version < 1
    BEGIN SELECT RAISE(ABORT, 'versions and positions have no holes and are taken once'); END
    """,
    """
    CREATE TRIGGER events_never_change BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'an event is never changed'); END
    """,
    """
    CREATE TRIGGER events_never_go BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'an event is never deleted'); END
    """,
    """
    CREATE TABLE snapshots(
        stream TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        position INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        snapshot_version INTEGER NOT NULL,
        state BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    # For people with any SQLite shell.
    """
    CREATE VIEW log AS SELECT
        events.position,
        streams.name AS stream,
        events.version,
        event_types.name AS event,
        event_types.version AS event_version,
        strftime('%Y-%m-%dT%H:%M:%S', recorded / 1000000, 'unixepoch')
            || printf('.%06dZ', recorded % 1000000) AS recorded,
        CASE encoding WHEN 0 THEN CAST(payload AS TEXT) ELSE hex(payload) END AS payload,
        CASE metadata WHEN x'' THEN NULL ELSE CAST(metadata AS TEXT) END AS metadata
    FROM events
    JOIN streams ON streams.number = events.stream
    JOIN event_types ON event_types.number = events.type
    """,
)

_KEPT: Final = (
    # What the events lean on: a stream without its name would begin anew, and its keys with it.
    """
    CREATE TRIGGER streams_never_go BEFORE DELETE ON streams
    BEGIN SELECT RAISE(ABORT, 'a stream is never deleted'); END
    """,
    """
    CREATE TRIGGER streams_never_change BEFORE UPDATE ON streams
    BEGIN SELECT RAISE(ABORT, 'a stream keeps its name and its number'); END
    """,
    """
    CREATE TRIGGER types_never_go BEFORE DELETE ON event_types
    BEGIN SELECT RAISE(ABORT, 'a type of events is never deleted'); END
    """,
    """
    CREATE TRIGGER types_never_change BEFORE UPDATE OF number, name, version ON event_types
    BEGIN SELECT RAISE(ABORT, 'a type of events keeps its name, number and version'); END
    """,
    """
    CREATE TRIGGER the_log_stays BEFORE DELETE ON about
    BEGIN SELECT RAISE(ABORT, 'a log keeps its id'); END
    """,
    """
    CREATE TRIGGER the_log_stays_itself BEFORE UPDATE ON about
    BEGIN SELECT RAISE(ABORT, 'a log keeps its id'); END
    """,
    # What decisions look into: without a row, a rule that should have held is broken in silence.
    """
    CREATE TRIGGER claims_never_go BEFORE DELETE ON claims
    BEGIN SELECT RAISE(ABORT, 'a claim is released by its aggregate: send that a command'); END
    """,
    """
    CREATE TRIGGER claims_never_change BEFORE UPDATE ON claims
    BEGIN SELECT RAISE(ABORT, 'a claim is moved by its aggregates: send them commands'); END
    """,
    """
    CREATE TRIGGER timers_never_go BEFORE DELETE ON timers
    BEGIN SELECT RAISE(ABORT, 'a timer is cancelled: by its aggregate, or foldline timers'); END
    """,
    """
    CREATE TRIGGER timers_never_change BEFORE UPDATE ON timers
    BEGIN SELECT RAISE(ABORT, 'a timer is set again by its aggregate: send that a command'); END
    """,
    """
    CREATE TRIGGER tags_never_go BEFORE DELETE ON tags
    BEGIN SELECT RAISE(ABORT, 'stop the engine, delete from tag_forms: it is made again'); END
    """,
    """
    CREATE TRIGGER tags_never_change BEFORE UPDATE ON tags
    BEGIN SELECT RAISE(ABORT, 'stop the engine, delete from tag_forms: it is made again'); END
    """,
    """
    CREATE TRIGGER archives_never_go BEFORE DELETE ON archives
    BEGIN SELECT RAISE(ABORT, 'what was archived stays known'); END
    """,
    """
    CREATE TRIGGER archives_never_change BEFORE UPDATE ON archives
    BEGIN SELECT RAISE(ABORT, 'what was archived stays known as it was'); END
    """,
)
"""Triggers for whoever has a shell. They came later; no release looks for any: see `protect`."""

_COLUMNS: Final = 9
"""Of `events`."""
_ROWS_MAX: Final = 512
_ROWS_STEP: Final = 64
"""One INSERT has a multiple of the step, or any number below it: so few texts that they stay
prepared, and two statements at most for any rest. Each may hand the interpreter's lock over, up to
5 ms beside a busy event loop: that bounds the worst case, and costs nothing where it does not."""

_TRIGGER: Final = "CREATE TRIGGER"

_CLAIMS: Final = (
    # A claim that is taken twice is refused here, whatever the code above believes.
    """
    CREATE TABLE claims(
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        stream INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (name, value)
    ) STRICT, WITHOUT ROWID
    """,
)

_TIMERS: Final = (
    # By name, since a timer may be of a stream that its command's batch does not touch.
    """
    CREATE TABLE timers(
        stream TEXT NOT NULL,
        name TEXT NOT NULL,
        due INTEGER NOT NULL,
        position INTEGER NOT NULL,
        version INTEGER NOT NULL,
        command TEXT NOT NULL,
        payload BLOB NOT NULL,
        metadata BLOB NOT NULL,
        next INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        parked INTEGER NOT NULL,
        cause TEXT NOT NULL,
        PRIMARY KEY (stream, name)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX timers_by_due ON timers(next, position, stream, name) WHERE parked = 0",
    "CREATE INDEX timers_parked ON timers(stream, name) WHERE parked <> 0",
)

_TAGS: Final = (
    """
    CREATE TABLE tag_forms(
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        fields TEXT NOT NULL,
        fixed TEXT NOT NULL,
        PRIMARY KEY (name, version)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE tags(
        tag TEXT NOT NULL,
        position INTEGER NOT NULL,
        type INTEGER NOT NULL,
        PRIMARY KEY (tag, position)
    ) STRICT, WITHOUT ROWID
    """,
)

_ARCHIVES: Final = (
    # What was moved into the cold file, a row for each run. Since this version an event may be
    # there: an older release would take what is left of it here for damage.
    """
    CREATE TABLE archives(
        number INTEGER PRIMARY KEY,
        begun INTEGER NOT NULL,
        rule TEXT NOT NULL,
        streams INTEGER NOT NULL,
        events INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        position INTEGER NOT NULL,
        shrunk INTEGER NOT NULL
    ) STRICT
    """,
)

MIGRATIONS: Final[Sequence[Sequence[str]]] = (_FIRST, _CLAIMS, _TIMERS, _TAGS, _ARCHIVES)
"""Statements that lead from schema version n, the index, to n + 1."""
CLAIMS_SINCE: Final = 2
"""The schema version that has a table of claims; an older one is read as without any."""
TIMERS_SINCE: Final = 3
"""The same of timers."""
TAGS_SINCE: Final = 4
"""The same of tags."""
COLD: Final[Sequence[str]] = (
    *(made for made in _FIRST if not made.split()[2].startswith(("snap", "events_have", "INDEX"))),
    *(made for made in _KEPT if made.split()[2].startswith(("streams", "types", "the_log"))),
)
"""Statements that make a cold file: events with what they lean on, and what guards both."""


def read_schema_version(connection: Any, path: str, newest: int) -> int:
    """Give the schema version of a file, 0 for an empty one; raise StoreRefused for a stranger."""
    harden(connection)
    try:
        application = connection.execute("PRAGMA application_id").fetchall()[0][0]
        version: int = connection.execute("PRAGMA user_version").fetchall()[0][0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0][0]
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise StoreRefused(f"{path} is no SQLite database, or damaged: {error}") from error
    if application == 0 and version == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise StoreRefused(
            f"{path} is a database of something else (application id {application:#x}): name a "
            f"file that does not exist yet, or a log"
        )
    if version > newest:
        raise StoreRefused(
            f"{path} has schema version {version}, and this release knows up to {newest}: a later "
            f"release has migrated it. Run that one, or restore a backup from before."
        )
    if version < 1:
        raise StoreRefused(
            f"{path} has schema version {version}, and the first one was 1: it is damaged, or was "
            f"made by something else. Restore a backup"
        )
    return version


def check_schema(connection: Any, path: str, version: int) -> None:
    """Raise StoreRefused where a log has another schema than its version says."""
    ours = made(tuple(chain.from_iterable(MIGRATIONS[:version])))
    try:
        check_shape(connection, path, read_shape(connection, path), ours)
    except (apsw.SQLError, apsw.CorruptError) as error:
        raise StoreRefused(f"{path} has a schema that cannot be read: {error}") from error


def later_tables(connection: Any, path: str, version: int) -> list[str]:
    """Give the tables that a log has, and its version has not: the number is another's."""
    ours = made(tuple(chain.from_iterable(MIGRATIONS[:version])))
    every = made(tuple(chain.from_iterable(MIGRATIONS)))
    later = [key for key in every if key[0] == "table" and key not in ours]
    found = read_shape(connection, path)
    return sorted(key[1] for key in later if key in found)


def guard(connection: Any) -> None:
    """Let a connection have the triggers of a log by itself, whatever triggers the file has.

    So a log that somebody gives cannot swallow what is written to it, nor lack what guards it.
    """
    for statement in chain.from_iterable(MIGRATIONS):
        if _TRIGGER in statement:
            run(connection, statement.replace(_TRIGGER, "CREATE TEMP TRIGGER IF NOT EXISTS", 1))


def protect(connection: Any) -> None:
    """Put the triggers into a file that it lacks: of an older release, or where they were dropped.

    They keep a shell from what no event's checksum shows. Here they never fire.
    """
    wanted = {
        statement.split()[2]: statement
        for statement in (*chain.from_iterable(MIGRATIONS), *_KEPT)
        if _TRIGGER in statement
    }
    found = run(connection, "SELECT name FROM sqlite_schema WHERE type = 'trigger'")
    lacking = [wanted[name] for name in wanted if (name,) not in found]
    if lacking:
        with transaction(connection):
            for statement in lacking:
                run(connection, statement)


def odd_triggers(connection: Any, statements: Sequence[str] = ()) -> list[str]:
    """Give the triggers of ours that are not as they are made, by name or by what they do.

    Without `statements` those of a log.
    """
    ours = made(tuple(statements) or (*chain.from_iterable(MIGRATIONS), *_KEPT))
    texts = {sql for _, sql in ours.values()}
    found = run(connection, "SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return [
        name
        for kind, name, table, sql in found
        if ("trigger", name) in ours or sql in texts
        if ours.get((kind, name)) != (table, sql)
    ]


def migrate(connection: Any, version: int, steps: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring a file from schema version `version` to the newest, each step whole or not at all."""
    for number in range(version, len(steps)):
        connection.execute("BEGIN IMMEDIATE").fetchall()
        try:
            for statement in steps[number]:
                connection.execute(statement).fetchall()
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}").fetchall()
            connection.execute(f"PRAGMA user_version = {number + 1}").fetchall()
            connection.execute("COMMIT").fetchall()
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK").fetchall()
            raise


def rows_of(
    events: Sequence[StoredEvent],
    streams: Mapping[str, tuple[int, int]],
    types: Mapping[tuple[str, int], tuple[int, str]],
) -> list[tuple[Any, ...]]:
    """Give the rows of events; streams and types begin with their numbers."""
    return [
        (
            event.position,
            streams[event.stream][0],
            event.version,
            types[event.name, event.event_version][0],
            event.recorded,
            event.encoding,
            event.payload,
            event.metadata,
            event.checksum,
        )
        for event in events
    ]


def insert_events(connection: Any, rows: Sequence[Sequence[Any]]) -> None:
    """Add rows to `events`, in few statements; raise what SQLite raises where one does not fit."""
    begin = 0
    while left := len(rows) - begin:
        size = left if left < _ROWS_STEP else min(left - left % _ROWS_STEP, _ROWS_MAX)
        flat = list(chain.from_iterable(rows[begin : begin + size]))
        assert len(flat) == size * _COLUMNS, "a row has a value for each column"
        connection.execute(_insert(size), flat).fetchall()
        check_inserted(connection, size)
        begin += size


def insert_streams(connection: Any, rows: Sequence[tuple[int, str]]) -> None:
    """Add streams by number and name."""
    sql = "INSERT INTO streams SELECT value->>0, value->>1 FROM json_each(?)"
    run(connection, sql, (msgspec.json.encode(rows).decode(),))
    check_inserted(connection, len(rows))


def check_inserted(connection: Any, rows: int) -> None:
    """Raise StoreFailed where the last statement did not insert so many rows.

    What is swallowed without an error must not be taken for stored.
    """
    if connection.changes() != rows:
        raise StoreFailed(
            f"{connection.filename}: {rows} rows were to be inserted and {connection.changes()} "
            f"were. Nothing was written: look what triggers this file has",
            written=False,
        )


@cache
def _insert(rows: int) -> str:
    marks = "(" + ",".join("?" * _COLUMNS) + ")"
    return "INSERT INTO events VALUES" + ",".join([marks] * rows)

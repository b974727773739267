"""The log's tables and functions in PostgreSQL: made, looked at, and moved forward.

Rules: what must never happen to a log is refused by the database: an event is never changed, never
deleted, and inserted by the function `append_1` alone, which runs with its owner's rights. A role
that may only call functions and read can do nothing else. A function has its version in its name,
so that two releases can work on one schema. Migrations go forward only, in one transaction, under
the lock that an append takes. A schema of a later release, or of somebody else, is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from ....errors import StoreRefused, UsageError
from ....runtime.package import COMMAND
from ..address import Address
from ..driver import Connection
from ..failures import described_failure, sqlstate_of
from .claims import CLAIMS
from .cold_sql import ARCHIVES
from .guards import check_guards, unfinished
from .leases_sql import LEASES
from .limits import LIMITS, LOCK_SECONDS
from .members_sql import MEMBERS
from .openings_sql import OPENINGS
from .slips import SLIPS
from .spread_beside_sql import SPREAD_BESIDE
from .spread_sql import SPREAD
from .tags import TAGS
from .timers import TIMERS

__all__ = [
    "COPYING",
    "LOCK_CLASS",
    "MIGRATIONS",
    "LockKey",
    "half_copied",
    "lock_key",
    "make_all",
    "migrate",
    "presence_key",
    "schema_sql",
    "signed",
    "with_schema",
]

LockKey = tuple[int, int]

LOCK_CLASS: Final = 0x464C4431
"""The first half of the key of a log's lock ("FLD1"); the second one is of the schema's name."""

_TABLES: Final = """
CREATE TABLE {s}.about(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    log_id text NOT NULL,
    schema_version integer NOT NULL,
    created timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO {s}.about(log_id, schema_version)
VALUES (replace(gen_random_uuid()::text, '-', ''), 1);

-- Who has opened the log, one at a time: whoever is not live appends nothing.
CREATE TABLE {s}.sessions(
    session integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder text NOT NULL,
    opened timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz NOT NULL,
    live boolean NOT NULL DEFAULT true
);
CREATE UNIQUE INDEX one_session_is_live ON {s}.sessions(live) WHERE live;

CREATE TABLE {s}.event_types(
    number integer PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    schema_hash text NOT NULL,
    UNIQUE (name, version)
);

CREATE TABLE {s}.events(
    position bigint PRIMARY KEY,
    recorded bigint NOT NULL,
    behind bigint NOT NULL,
    checksum bigint NOT NULL,
    version integer NOT NULL,
    type integer NOT NULL,
    encoding integer NOT NULL,
    stream text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    metadata bytea NOT NULL
);
CREATE UNIQUE INDEX events_by_stream ON {s}.events(stream, version);

CREATE TABLE {s}.snapshots(
    stream text COLLATE "C" PRIMARY KEY,
    version integer NOT NULL,
    position bigint NOT NULL,
    checksum bigint NOT NULL,
    snapshot_version integer NOT NULL,
    state bytea NOT NULL
);

-- For people, with any client: payload and metadata as JSON. A text of theirs may have a NUL, which
-- no text of PostgreSQL's has: ->> would raise an error for the whole query, and so it is shown as
-- U+FFFD. What is looked for are the six bytes by which JSON escapes it, behind an even number of
-- backslashes.
CREATE VIEW {s}.log AS SELECT
    e.position,
    e.stream,
    e.version,
    t.name AS event,
    t.version AS event_version,
    to_timestamp(e.recorded / 1000000.0) AS recorded,
    CASE e.encoding WHEN 0 THEN (CASE
            WHEN position('\\x5c7530303030'::bytea IN e.payload) = 0
            THEN convert_from(e.payload, 'UTF8')
            ELSE regexp_replace(convert_from(e.payload, 'UTF8'),
                '(?<!\\\\)((\\\\\\\\)*)\\\\u0000', '\\1\\\\ufffd', 'g')
        END)::json
        ELSE to_json(encode(e.payload, 'hex')) END AS payload,
    CASE WHEN e.metadata = '' THEN NULL WHEN e.encoding = 0
        THEN (CASE
            WHEN position('\\x5c7530303030'::bytea IN e.metadata) = 0
            THEN convert_from(e.metadata, 'UTF8')
            ELSE regexp_replace(convert_from(e.metadata, 'UTF8'),
                '(?<!\\\\)((\\\\\\\\)*)\\\\u0000', '\\1\\\\ufffd', 'g')
        END)::json
        ELSE to_json(encode(e.metadata, 'hex')) END AS metadata
FROM {s}.events e LEFT JOIN {s}.event_types t ON t.number = e.type;
"""

_GUARDS: Final = """
CREATE FUNCTION {s}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'an event is never changed and never deleted'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER events_never_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.events
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change();

CREATE FUNCTION {s}.refuse_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'an event is inserted by the function append_1 only'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER events_come_by_append BEFORE INSERT ON {s}.events
    FOR EACH STATEMENT
    WHEN (pg_catalog.current_setting('foldline.appending', true) IS DISTINCT FROM '{s}')
    EXECUTE FUNCTION {s}.refuse_insert();
"""

# A plan that is kept from the time when the tables were empty would read them from end to end.
_APPEND: Final = """
CREATE FUNCTION {s}.append_1(
    p_session integer, p_after bigint, p_after_checksum bigint, p_recorded bigint,
    p_streams text[], p_versions integer[], p_types integer[], p_encodings integer[],
    p_payloads bytea[], p_metadatas bytea[], p_checksums bigint[],
    q_streams text[], q_expected integer[], q_alone boolean, p_synced boolean,
    t_numbers integer[], t_names text[], t_versions integer[], t_hashes text[],
    OUT state text, OUT last bigint, OUT at bigint, OUT bad text[], OUT actual integer[]
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET lock_timeout = '5s'
AS $$
DECLARE
    found_checksum bigint;
    written bigint;
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    -- A pooler may hand on a session that somebody else has set so, or the server was reloaded.
    IF p_synced AND (current_setting('synchronous_commit') = 'off'
            OR (current_setting('synchronous_commit') = 'local'
                AND current_setting('synchronous_standby_names') <> '')) THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM 1 FROM {s}.sessions s WHERE s.session = p_session AND s.live;
    IF NOT FOUND THEN
        state := 'fenced';
        RETURN;
    END IF;
    SELECT e.position, e.recorded, e.checksum INTO last, at, found_checksum
        FROM {s}.events e ORDER BY e.position DESC LIMIT 1;
    last := coalesce(last, 0);
    -- So a batch that comes late, over a connection that broke, finds that the log has gone on.
    IF last <> p_after OR coalesce(found_checksum, 0) <> p_after_checksum THEN
        state := 'elsewhere';
        RETURN;
    END IF;
    at := greatest(coalesce(at, p_recorded), p_recorded);
    SELECT array_agg(x.stream), array_agg(x.actual) INTO bad, actual FROM (
        SELECT q.stream, q.expected, coalesce((
            SELECT e.version FROM {s}.events e
            WHERE e.stream = q.stream ORDER BY e.version DESC LIMIT 1), 0) AS actual
        FROM unnest(q_streams, q_expected) AS q(stream, expected)
    ) x WHERE x.actual <> x.expected;
    IF bad IS NOT NULL AND (NOT q_alone OR cardinality(t_numbers) > 0) THEN
        state := 'misfit';
        RETURN;
    END IF;
    IF cardinality(t_numbers) > 0 THEN
        INSERT INTO {s}.event_types AS known
            SELECT * FROM unnest(t_numbers, t_names, t_versions, t_hashes)
            ON CONFLICT (number) DO UPDATE SET schema_hash = excluded.schema_hash
            WHERE (known.name, known.version) = (excluded.name, excluded.version);
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> cardinality(t_numbers) THEN
            RAISE EXCEPTION 'another type of events has that number'
                USING ERRCODE = 'unique_violation';
        END IF;
    END IF;
    PERFORM set_config('foldline.appending', '{s}', true);
    IF bad IS NULL THEN
        INSERT INTO {s}.events(position, recorded, behind, checksum, version, type, encoding,
                stream, payload, metadata)
            SELECT last + u.o, at, at - p_recorded, u.checksum, u.version, u.type, u.encoding,
                u.stream, u.payload, u.metadata
            FROM unnest(p_streams, p_versions, p_types, p_encodings, p_payloads, p_metadatas,
                p_checksums) WITH ORDINALITY
                AS u(stream, version, type, encoding, payload, metadata, checksum, o);
    ELSE
        INSERT INTO {s}.events(position, recorded, behind, checksum, version, type, encoding,
                stream, payload, metadata)
            SELECT last + row_number() OVER (ORDER BY u.o), at, at - p_recorded, u.checksum,
                u.version, u.type, u.encoding, u.stream, u.payload, u.metadata
            FROM unnest(p_streams, p_versions, p_types, p_encodings, p_payloads, p_metadatas,
                p_checksums) WITH ORDINALITY
                AS u(stream, version, type, encoding, payload, metadata, checksum, o)
            WHERE u.stream <> ALL (bad);
    END IF;
    PERFORM set_config('foldline.appending', '', true);
    state := 'done';
END $$;
"""

_SESSIONS: Final = """
-- Take the log, unless somebody has it whose lease is not over: then tell who.
CREATE FUNCTION {s}.begin_session_1(
    p_holder text, p_lease_seconds double precision,
    OUT session integer, OUT holder text, OUT opened timestamptz, OUT lease_until timestamptz,
    OUT seconds_left double precision
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    SELECT s.session, s.holder, s.opened, s.lease_until,
            extract(epoch FROM s.lease_until - clock_timestamp())
        INTO session, holder, opened, lease_until, seconds_left
        FROM {s}.sessions s WHERE s.live;
    IF seconds_left > 0 THEN
        RETURN;
    END IF;
    UPDATE {s}.sessions SET live = false WHERE live;
    DELETE FROM {s}.sessions s WHERE s.opened < clock_timestamp() - interval '30 days';
    INSERT INTO {s}.sessions(holder, lease_until)
        VALUES (p_holder, clock_timestamp() + make_interval(secs => p_lease_seconds))
        RETURNING sessions.session INTO session;
    holder := NULL;
END $$;

CREATE FUNCTION {s}.renew_session_1(p_session integer, p_lease_seconds double precision)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    UPDATE {s}.sessions
        SET lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        WHERE session = p_session AND live;
    RETURN FOUND;
END $$;

CREATE FUNCTION {s}.end_session_1(p_session integer)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    UPDATE {s}.sessions SET live = false WHERE session = p_session;
END $$;

CREATE FUNCTION {s}.keep_snapshots_1(
    p_streams text[], p_versions integer[], p_positions bigint[], p_checksums bigint[],
    p_snapshot_versions integer[], p_states bytea[]
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    INSERT INTO {s}.snapshots
        SELECT * FROM unnest(p_streams, p_versions, p_positions, p_checksums, p_snapshot_versions,
            p_states)
        ON CONFLICT (stream) DO UPDATE SET version = excluded.version,
            position = excluded.position, checksum = excluded.checksum,
            snapshot_version = excluded.snapshot_version, state = excluded.state;
END $$;
"""

_NOT_FOR_ALL: Final = """
-- A function is everybody's to call unless it is taken back.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {s} FROM PUBLIC;
"""

_GRANTS: Final = """
GRANT USAGE ON SCHEMA {s} TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA {s} TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {s} TO {role};
"""

_ONLY_SINCE: Final = """
DO $$
DECLARE
    found integer := (SELECT schema_version FROM {s}.about);
BEGIN
    IF found <> {since} THEN
        RAISE EXCEPTION 'this moves version {since} forward, and {s} has version %', found
            USING HINT = format('Print it again, with --since %s.', found);
    END IF;
END $$;
"""

MIGRATIONS: Final[Sequence[str]] = (
    _TABLES + _GUARDS + _APPEND + _SESSIONS + _NOT_FOR_ALL,
    CLAIMS,
    TIMERS,
    TAGS,
    MEMBERS,
    SPREAD,
    SLIPS,
    ARCHIVES,
    SPREAD_BESIDE,
    LEASES,
    OPENINGS,
)
"""SQL that leads from schema version n, the index, to n + 1, and says so in `about`."""

COPYING: Final = "copying"
"""The table of a schema that a log is being copied into; no engine opens one."""

# Not by to_regclass, which may remember that there was none.
_EXISTS: Final = """
SELECT c.relname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname IN ('about', 'copying')
"""
_VERSION: Final = "SELECT schema_version FROM {s}.about"
_ROLE: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def lock_key(schema: str) -> LockKey:
    """Give the key of the lock under which a log is appended to, by two numbers."""
    return LOCK_CLASS, signed(crc32(schema.encode()))


def presence_key(schema: str, session: int) -> LockKey:
    """Give the key of the lock that a session has for as long as its connection lives."""
    return signed(crc32(schema.encode()) ^ LOCK_CLASS), session


def signed(number: int) -> int:
    """Give a number of 32 bits as the server has it."""
    return number - (1 << 32) if number >= 1 << 31 else number


def with_schema(sql: str, schema: str) -> str:
    """Fill in what the schema is called, and its lock."""
    return sql.replace("{s}", schema).replace("{lock}", "{}, {}".format(*lock_key(schema)))


def make_all(schema: str) -> Sequence[str]:
    """Give the statements that make a schema of the newest version, for a transaction."""
    return [
        f"CREATE SCHEMA IF NOT EXISTS {schema}",
        *(with_schema(step, schema) for step in MIGRATIONS),
    ]


def schema_sql(schema: str, *, since: int = 0, role: str | None = None) -> str:
    """Give the SQL that makes a schema, or moves it forward from version `since`, for people.

    With `role` also the rights of a role that an engine connects as: to read and to call.
    """
    if role is not None and not _ROLE.fullmatch(role):
        raise UsageError(f"{role!r} is no plain name of a role: small letters, digits, _")
    if not 0 <= since <= len(MIGRATIONS):
        raise UsageError(f"there are the versions 0 (nothing) to {len(MIGRATIONS)}, not {since}")
    parts = ["BEGIN;", f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s';"]
    parts.append(with_schema("SELECT pg_advisory_xact_lock({lock});", schema))
    if since == 0:
        parts.append(f"CREATE SCHEMA IF NOT EXISTS {schema};")
    else:
        parts.append(with_schema(_ONLY_SINCE, schema).replace("{since}", str(since)).strip())
    parts += [with_schema(step, schema).strip() for step in MIGRATIONS[since:]]
    if role is not None:
        parts.append(with_schema(_GRANTS, schema).replace("{role}", role).strip())
    return "\n\n".join([*parts, "COMMIT;"]) + "\n"


async def migrate(connection: Connection, address: Address) -> None:
    """Make the schema, or bring it to the newest version; do nothing where it is there already.

    Raises StoreRefused for a schema of a later release, one that this user may not change, or one
    that is no whole log.
    """
    version = 0
    try:
        version = await _version(connection, address.schema)
        if version != len(MIGRATIONS):
            await _move_forward(connection, address.schema)
        await check_guards(connection, address.schema)
    except Exception as error:
        if sqlstate_of(error).startswith(("42", "3F")):
            raise _misfit(address, version, error) from error
        raise


async def _move_forward(connection: Connection, schema: str) -> None:
    async with connection.transaction():
        await connection.execute(LIMITS)
        await connection.execute(with_schema("SELECT pg_advisory_xact_lock({lock})", schema))
        version = await _version(connection, schema)  # another one may have been first
        if version == 0:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        for step in MIGRATIONS[version:]:
            await connection.execute(with_schema(step, schema))


async def _version(connection: Connection, schema: str) -> int:
    there = {row[0] for row in await connection.fetch(_EXISTS, schema)}
    if COPYING in there:
        raise half_copied(f"the schema {schema}")
    if not there:
        return 0
    rows = await connection.fetch(with_schema(_VERSION, schema))
    if len(rows) != 1:
        raise unfinished(schema, f"the one row of {schema}.about")
    version: int = rows[0][0]
    if version > len(MIGRATIONS):
        raise StoreRefused(
            f"the schema {schema} has version {version}, and this release knows up to "
            f"{len(MIGRATIONS)}: a later release has moved it forward. Run that one"
        )
    return version


def half_copied(name: str) -> StoreRefused:
    """Say that a log is being copied into a schema."""
    return StoreRefused(
        f"{name} is a copy that is being made, or that was interrupted: run the same `{COMMAND} "
        f"copy` again, which continues it, or drop the schema"
    )


def _misfit(address: Address, version: int, error: BaseException) -> StoreRefused:
    since = f" --since {version}" if version else ""
    return StoreRefused(
        f"{address.name}: the schema {address.schema} cannot be made or moved forward as this "
        f"user: {described_failure(error)}. Let its owner run what `{COMMAND} schema sql "
        f"URL{since} --role USER` prints, or name another one by ?schema="
    )

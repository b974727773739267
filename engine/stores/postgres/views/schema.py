"""The schema of the views in a database: made, looked at, and brought along by the engine.

Rules: it is made under a lock, in one transaction, by whoever comes first. A schema of a later
release is refused, and so is one that has something else in it. Nothing that is not the engine's is
changed or dropped.
"""

from __future__ import annotations

from typing import Final

from ....errors import StoreRefused
from .books import Books
from .link import Link, Place, limited, transaction
from .names import literal, quoted

__all__ = ["SCHEMA_VERSION", "check_schema", "has_views", "make_schema", "views_lock", "views_sql"]

SCHEMA_VERSION: Final = 1
LOCK_MS: Final = 10_000
"""How long whoever makes the schema waits for another who does."""

_TABLES: Final = (
    """CREATE TABLE {s}.about (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        schema_version integer NOT NULL,
        log_id text NOT NULL
    )""",
    """CREATE TABLE {s}.builds (
        projection text COLLATE "C" NOT NULL,
        number integer NOT NULL,
        version bigint NOT NULL,
        definition text NOT NULL,
        slices integer NOT NULL,
        log_id text NOT NULL,
        tables text NOT NULL,
        state text NOT NULL CHECK (state IN ('serving', 'building', 'former')),
        builder text,
        own boolean NOT NULL,
        PRIMARY KEY (projection, number)
    )""",
    "CREATE UNIQUE INDEX builds_one_serves ON {s}.builds (projection) WHERE state = 'serving'",
    "CREATE UNIQUE INDEX builds_one_is_built ON {s}.builds (projection) WHERE state = 'building'",
    """CREATE TABLE {s}.checkpoints (
        projection text COLLATE "C" NOT NULL,
        build integer NOT NULL,
        slice integer NOT NULL,
        position bigint NOT NULL,
        checksum bigint NOT NULL,
        PRIMARY KEY (projection, build, slice)
    ) WITH (fillfactor = 20)""",
    """CREATE TABLE {s}.parked (
        projection text COLLATE "C" NOT NULL,
        build integer NOT NULL,
        position bigint NOT NULL,
        slice integer NOT NULL,
        key text COLLATE "C" NOT NULL,
        event text NOT NULL,
        stream text COLLATE "C" NOT NULL,
        parked bigint NOT NULL,
        attempts integer NOT NULL,
        cause text NOT NULL,
        PRIMARY KEY (projection, build, position)
    )""",
    "CREATE INDEX parked_by_key ON {s}.parked USING hash (key)",
    """CREATE TABLE {s}.decisions (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        projection text COLLATE "C" NOT NULL,
        kind text NOT NULL,
        decided bigint NOT NULL,
        version bigint NOT NULL,
        position bigint,
        reason text NOT NULL,
        principal text,
        checksum bigint
    )""",
    """CREATE TABLE {s}.requests (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text NOT NULL,
        projection text COLLATE "C" NOT NULL,
        arguments text NOT NULL,
        asked bigint NOT NULL,
        principal text,
        state text NOT NULL CHECK (state IN ('waiting', 'begun', 'done', 'refused', 'unknown')),
        answer text NOT NULL,
        answered bigint
    )""",
    "CREATE INDEX requests_open ON {s}.requests (number) WHERE state IN ('waiting', 'begun')",
    """CREATE TABLE {s}.failures (
        projection text COLLATE "C" NOT NULL,
        build integer NOT NULL,
        slice integer NOT NULL,
        failed bigint NOT NULL,
        position bigint NOT NULL,
        event text NOT NULL,
        stream text NOT NULL,
        cause text NOT NULL,
        PRIMARY KEY (projection, build, slice)
    )""",
)


def views_sql(log_schema: str, schema: str, *, role: str | None = None) -> str:
    """Give the SQL that makes an empty schema of views beside a log, for people.

    With `role` also the rights of an engine's role, which makes the tables of projections there.
    """
    made = quoted(schema)
    parts = ["BEGIN;", f"CREATE SCHEMA IF NOT EXISTS {made};"]
    parts += [f"{statement};" for statement in _tables(schema)]
    parts.append(
        f"INSERT INTO {made}.about SELECT true, {SCHEMA_VERSION}, log_id "  # noqa: S608 - ours
        f"FROM {quoted(log_schema)}.about;"
    )
    if role is not None:
        parts.append(
            f"GRANT USAGE, CREATE ON SCHEMA {made} TO {role};\n"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {made} TO {role};"
        )
    return "\n\n".join([*parts, "COMMIT;"]) + "\n"


def _tables(schema: str) -> tuple[str, ...]:
    return tuple(statement.replace("{s}", quoted(schema)) for statement in _TABLES)


async def has_views(link: Link, place: Place) -> bool:
    """Tell whether somebody has made the schema, whole."""
    query = (
        "SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
        "ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'about'"
    )
    return bool(await link.run(query, place.schema))


def views_lock(place: Place) -> str:
    """Give what waits for others who make the views, or decide something about them."""
    return (
        f"SELECT pg_advisory_xact_lock(hashtextextended({literal('foldline ' + place.schema)}, 0))"
    )


async def make_schema(link: Link, place: Place, log_id: str) -> None:
    """Make the schema where there is none; raise StoreRefused for one that cannot be used."""
    lock = (
        f"{limited('BEGIN', place.address)}; SET LOCAL lock_timeout = {LOCK_MS}; "
        f"SET LOCAL synchronous_commit = on; {views_lock(place)}"
    )
    async with transaction(link, lock):
        if await has_views(link, place):
            await check_schema(link, place)
            return
        query = "SELECT oid::bigint FROM pg_catalog.pg_namespace WHERE nspname = $1"
        found = await link.run(query, place.schema)
        if not found:
            await link.do(f"CREATE SCHEMA {quoted(place.schema)}")
        elif await link.run(
            "SELECT 1 FROM pg_catalog.pg_class WHERE relnamespace = $1::bigint::oid LIMIT 1",
            found[0][0],
        ):
            raise StoreRefused(
                f"the schema {place.schema} in {place.name} is not one of views, and is not empty: "
                f"name another schema in the URL, or rename that one. Nothing was changed"
            )
        await link.do("; ".join(_tables(place.schema)))
        await Books(place.schema).run(
            link, "INSERT INTO {s}.about VALUES (true, $1, $2)", SCHEMA_VERSION, log_id
        )


async def check_schema(link: Link, place: Place) -> str:
    """Raise StoreRefused for a schema that this release does not know; give its log's id."""
    rows = await Books(place.schema).run(link, "SELECT schema_version, log_id FROM {s}.about")
    if not rows:
        raise StoreRefused(
            f"the views in {place.name} do not say which release wrote them: their table about is "
            f"empty. Drop the schema {place.schema}, and the engine folds them again from the log"
        )
    version, log_id = rows[0]
    if version != SCHEMA_VERSION:
        raise StoreRefused(
            f"the views in {place.name} have schema version {version}, and this release knows "
            f"{SCHEMA_VERSION}: use the release that wrote them, or drop the schema "
            f"{place.schema}, and the engine folds them again from the log"
        )
    return str(log_id)

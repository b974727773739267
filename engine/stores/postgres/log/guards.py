"""What keeps a log in PostgreSQL whole, besides the functions that append: looked for at the start.

Rules: a schema without one of its unique indexes or triggers takes a stream that begins twice, or a
slip, without a word. So no engine opens it, and `verify` names what it lacks. A restore makes these
last: a log that lacks them, or whose table `about` is empty, may still be on its way, and what an
engine appended there would break it. A trigger or rule of somebody else's that acts before a row is
written can drop it, and what is dropped would be acknowledged. Row-level security hides rows from
who reads, and not from the functions that append. Nothing is made or mended here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ....errors import StoreRefused
from ..driver import Connection

__all__ = ["check_guards", "hiding", "look_at_guards", "unfinished"]

INDEXES: Final = (
    "about_pkey",
    "claims_pkey",
    "event_types_name_version_key",
    "event_types_pkey",
    "events_by_stream",
    "events_pkey",
    "members_pkey",
    "membership_pkey",
    "one_session_is_live",
    "sessions_pkey",
    "snapshots_pkey",
    "tag_forms_pkey",
    "tags_pkey",
    "timers_pkey",
)
"""The unique ones of the newest version."""
TRIGGERS: Final = (
    "claims_are_kept",
    "events_come_by_append",
    "events_never_change",
    "events_only_move",
    "members_note_leases",
    "sessions_note_leases",
    "tags_are_kept",
    "timers_are_kept",
)
"""Those of the newest version."""
_TABLES: Final = (
    "about",
    "claims",
    "event_types",
    "events",
    "sessions",
    "tag_forms",
    "tags",
    "timers",
)
"""Those that a trigger of somebody else's must not stand before."""
_NAMED: Final = 3
"""Of what is missing, in a message."""
# An index that is being built, or whose building failed, is not valid. A trigger that is disabled
# is "D", and one for replicas alone "R". Of a trigger's type, 1 is for each row, and 2 before it:
# one that comes after sees what is there. All is one question, for whose answer each start waits.
_LOOK: Final = """
SELECT 'lacks', 'the index ' || w.name FROM unnest($2::text[]) AS w(name) WHERE NOT EXISTS (
    SELECT 1 FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = w.name AND i.indisunique AND i.indisvalid)
UNION ALL
SELECT 'lacks', 'the trigger ' || w.name FROM unnest($3::text[]) AS w(name) WHERE NOT EXISTS (
    SELECT 1 FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND t.tgname = w.name AND t.tgenabled IN ('O', 'A'))
UNION ALL
SELECT 'acts', 'the trigger ' || t.tgname || ' before rows of ' || c.relname
    FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY($4::text[]) AND t.tgname <> ALL($3::text[])
        AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 3 = 3
UNION ALL
SELECT 'acts', 'the rule ' || r.rulename || ' of ' || c.relname FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY($4::text[]) AND r.ev_enabled IN ('O', 'A')
UNION ALL
SELECT 'hides', c.relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relrowsecurity AND pg_catalog.row_security_active(c.oid)
"""


async def look_at_guards(
    connection: Connection, schema: str
) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Name what a log of the newest version lacks, and what of others can drop or change a row.

    And of which tables this user does not see each row.
    """
    rows = await connection.fetch(_LOOK, schema, INDEXES, TRIGGERS, _TABLES)
    missing, acting, hidden = (
        sorted(name for kind, name in rows if kind == each) for each in ("lacks", "acts", "hides")
    )
    return missing, acting, hidden


async def check_guards(connection: Connection, schema: str) -> None:
    """Raise StoreRefused where it lacks any, or where what is written may not be what is stored.

    Or where this user would take a part of the log for all of it.
    """
    missing, acting, hidden = await look_at_guards(connection, schema)
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise unfinished(schema, ", ".join(missing[:_NAMED]) + more)
    if acting:
        raise StoreRefused(
            f"the schema {schema} has {', '.join(acting[:_NAMED])}: it can drop or change what an "
            f"engine writes, and acknowledges. Remove it, or let a trigger come AFTER. Nothing was "
            f"changed"
        )
    if hidden:
        raise hiding(schema, ", ".join(hidden[:_NAMED]))


def hiding(schema: str, tables: str) -> StoreRefused:
    """Say that row-level security keeps rows of a log from this user."""
    return StoreRefused(
        f"the schema {schema} has row-level security on {tables}, which hides rows of the log from "
        f"this user: a part of it would be taken for all. Disable it there, or let this user "
        f"bypass it (ALTER ROLE ... BYPASSRLS). Nothing was changed"
    )


def unfinished(schema: str, missing: str) -> StoreRefused:
    """Say that a schema is no whole log."""
    return StoreRefused(
        f"the schema {schema} is no whole log: it lacks {missing}, or has it disabled. Nothing was "
        f"changed. If a restore is still at work, start again when it has ended. Else restore the "
        f"schema with its indexes and triggers, or make these again as `schema sql` prints them"
    )

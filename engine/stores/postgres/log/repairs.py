"""What was repaired in a log in PostgreSQL, in a table that most logs do not have."""

from __future__ import annotations

from typing import Final

__all__ = ["MAKE", "READ", "THERE", "WRITE"]

MAKE: Final = """
CREATE TABLE IF NOT EXISTS {s}.repairs(position bigint PRIMARY KEY, repaired bigint NOT NULL,
    stream text COLLATE "C" NOT NULL, version integer NOT NULL, checksum bigint NOT NULL,
    cause text NOT NULL, source text NOT NULL)
"""
THERE: Final = "SELECT to_regclass($1::text) IS NOT NULL"
READ: Final = (
    "SELECT position, repaired, stream, version, checksum, cause, source FROM {s}.repairs "
    "ORDER BY position"
)
WRITE: Final = (
    "INSERT INTO {s}.repairs SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], "
    "$4::integer[], $5::bigint[], $6::text[], $7::text[]) ON CONFLICT (position) DO NOTHING"
)

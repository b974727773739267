"""Claims in a log in PostgreSQL: their table, the function that changes them, and their reading.

Rules: `append_2` is `append_1` with the claims that change: each with the stream that must hold it
before, which the function compares under the lock that an append takes. Where one is held by
another, nothing is written and the batch is planned anew. A batch without claims never pays for
them: it goes on through `append_1`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ...contract.claims import ClaimChange, ClaimKey, HeldClaim, ReleaseClaim, TakeClaim
from ...contract.log import Extra
from ..line import Line

__all__ = [
    "APPEND_CLAIMS",
    "CLAIMS",
    "CLAIMS_SINCE",
    "ChangedClaims",
    "read_claims",
    "read_holders",
]

CLAIMS_SINCE: Final = 2
"""The schema version that has a table of claims; an older one is read as without any."""

CLAIMS: Final = """
CREATE TABLE {s}.claims(
    name text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (name, value)
);

-- The stream of a claim is empty where nobody holds it; a place counts the events of the batch.
CREATE FUNCTION {s}.append_2(
    p_session integer, p_after bigint, p_after_checksum bigint, p_recorded bigint,
    p_streams text[], p_versions integer[], p_types integer[], p_encodings integer[],
    p_payloads bytea[], p_metadatas bytea[], p_checksums bigint[],
    q_streams text[], q_expected integer[], q_alone boolean, p_synced boolean,
    t_numbers integer[], t_names text[], t_versions integer[], t_hashes text[],
    c_names text[], c_values text[], c_before text[], c_after text[], c_places integer[],
    OUT state text, OUT last bigint, OUT at bigint, OUT bad text[], OUT actual integer[]
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET lock_timeout = '5s'
AS $$
DECLARE
    found_checksum bigint;
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    -- Looked at first: a batch that was sent twice may have changed its claims by coming late.
    SELECT e.position, e.checksum INTO last, found_checksum
        FROM {s}.events e ORDER BY e.position DESC LIMIT 1;
    IF coalesce(last, 0) <> p_after OR coalesce(found_checksum, 0) <> p_after_checksum THEN
        state := 'elsewhere';
        RETURN;
    END IF;
    PERFORM 1 FROM unnest(c_names, c_values, c_before) AS u(name, value, holder)
        LEFT JOIN {s}.claims c ON c.name = u.name AND c.value = u.value
        WHERE coalesce(c.stream, '') <> u.holder;
    IF FOUND THEN
        state := 'misfit';
        RETURN;
    END IF;
    -- Never a part of it: with claims, a batch is written whole or not at all.
    SELECT a.state, a.last, a.at, a.bad, a.actual INTO state, last, at, bad, actual
        FROM {s}.append_1(p_session, p_after, p_after_checksum, p_recorded, p_streams, p_versions,
            p_types, p_encodings, p_payloads, p_metadatas, p_checksums, q_streams, q_expected,
            false, p_synced, t_numbers, t_names, t_versions, t_hashes) a;
    IF state <> 'done' THEN
        RETURN;
    END IF;
    DELETE FROM {s}.claims c USING unnest(c_names, c_values, c_before) AS u(name, value, holder)
        WHERE c.name = u.name AND c.value = u.value AND u.holder <> '';
    INSERT INTO {s}.claims(name, value, stream, position)
        SELECT u.name, u.value, u.holder, p_after + u.place
        FROM unnest(c_names, c_values, c_after, c_places) AS u(name, value, holder, place)
        WHERE u.holder <> '';
END $$;
REVOKE EXECUTE ON FUNCTION {s}.append_2 FROM PUBLIC;

UPDATE {s}.about SET schema_version = 2;
"""

APPEND_CLAIMS: Final = (
    "SELECT state, at, bad, actual FROM {s}.append_2("
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, "
    "$20, $21, $22, $23, $24)"
)
_HOLDERS: Final = """
SELECT c.name, c.value, c.stream FROM unnest($1::text[], $2::text[]) AS q(name, value)
JOIN {s}.claims c ON c.name = q.name AND c.value = q.value
"""
_READ: Final = """
SELECT name, value, stream, position FROM {s}.claims
WHERE (name, value) > ($1, $2) ORDER BY name, value LIMIT $3
"""


class ChangedClaims(msgspec.Struct, frozen=True):
    """The claims that a batch changes, as arrays: one value for each."""

    names: list[str]
    values: list[str]
    before: list[str]
    """The stream that must hold it; empty for none."""
    after: list[str]
    places: list[int]
    """Of the first event for the stream that changes it, counted from 1 in the batch."""

    @classmethod
    def none(cls) -> ChangedClaims:
        """Give no changes yet."""
        return cls([], [], [], [], [])

    @classmethod
    def planned(cls, changes: Mapping[ClaimKey, ClaimChange], after: int) -> ChangedClaims:
        """Give those of a plan for a log that ends at position `after`."""
        changed = cls.none()
        for (name, value), change in changes.items():
            changed._add(name, value, change.before, change.after, change.position - after)
        return changed

    def add(self, extras: Sequence[Extra], place: int) -> None:
        """Add what a request changes if what it takes is free, and what it releases is its own."""
        for extra in extras:
            if isinstance(extra, TakeClaim):
                self._add(extra.name, extra.value, None, extra.stream, place)
            elif isinstance(extra, ReleaseClaim):
                self._add(extra.name, extra.value, extra.stream, None, place)

    @property
    def are_distinct(self) -> bool:
        """Whether no claim changes twice."""
        return len(set(zip(self.names, self.values, strict=True))) == len(self.names)

    def _add(
        self, name: str, value: str, before: str | None, after: str | None, place: int
    ) -> None:
        self.names.append(name)
        self.values.append(value)
        self.before.append(before or "")
        self.after.append(after or "")
        self.places.append(place)

    def arrays(self) -> tuple[list[Any], ...]:
        """Give what the function `append_2` takes."""
        return self.names, self.values, self.before, self.after, self.places


async def read_holders(line: Line, schema: str, keys: Sequence[ClaimKey]) -> Mapping[ClaimKey, str]:
    """Give the streams that hold these claims, of those that are held."""
    if not keys:
        return {}
    columns = [name for name, _ in keys], [value for _, value in keys]
    rows = await line.fetch(_HOLDERS.replace("{s}", schema), *columns)
    return {(row[0], row[1]): row[2] for row in rows}


async def read_claims(line: Line, schema: str, after: ClaimKey, claims_max: int) -> list[HeldClaim]:
    """Give a page of the claims, in order."""
    rows = await line.fetch(_READ.replace("{s}", schema), *after, claims_max)
    return [HeldClaim(*row) for row in rows]

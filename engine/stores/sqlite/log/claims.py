"""The SQL of claims in a log file: who holds them, and what a batch changes.

Rules: one statement moves many claims, since each may hand the interpreter's lock over. The table
says which stream holds a value; the log says why, in the metadata of its events. Nothing is
remembered between two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ...contract.claims import NO_CLAIMS, ClaimChange, ClaimKey, HeldClaim
from ..connection import check_order, run
from .schema import check_inserted

__all__ = ["change_claims", "read_claims", "read_holders"]

_HOLDERS: Final = """
    SELECT json_group_array(json_array(claims.name, claims.value, streams.name))
    FROM json_each(?) asked
    JOIN claims ON claims.name = asked.value->>0 AND claims.value = asked.value->>1
    JOIN streams ON streams.number = claims.stream
"""
_DELETE: Final = """
    DELETE FROM claims
    WHERE (name, value) IN (SELECT asked.value->>0, asked.value->>1 FROM json_each(?) asked)
"""
_INSERT: Final = """
    INSERT INTO claims SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?)
"""
_READ: Final = """
    SELECT claims.name, claims.value, streams.name, claims.position
    FROM claims JOIN streams ON streams.number = claims.stream
    WHERE (claims.name, claims.value) > (?, ?) ORDER BY claims.name, claims.value LIMIT ?
"""
_holders: Final = msgspec.json.Decoder(list[tuple[str, str, str]])


def read_holders(connection: Any, keys: Sequence[ClaimKey]) -> Mapping[ClaimKey, str]:
    """Give the streams that hold these claims, of those that are held."""
    if not keys:
        return NO_CLAIMS
    rows = _holders.decode(run(connection, _HOLDERS, (_as_json(keys),))[0][0])
    return {(name, value): stream for name, value, stream in rows}


def change_claims(
    connection: Any, changes: Mapping[ClaimKey, ClaimChange], number_of: Callable[[str], int]
) -> None:
    """Change what a batch changes; `number_of` gives the number of a stream.

    Raises StoreFailed, or what SQLite raises, where the table is not as it was read.
    """
    gone = [key for key, change in changes.items() if change.before is not None]
    if gone:
        run(connection, _DELETE, (_as_json(gone),))
        check_inserted(connection, len(gone))
    new = [
        (*key, number_of(change.after), change.position)
        for key, change in changes.items()
        if change.after is not None
    ]
    if new:
        run(connection, _INSERT, (_as_json(new),))
        check_inserted(connection, len(new))


def read_claims(connection: Any, after: ClaimKey, claims_max: int) -> list[HeldClaim]:
    """Give a page of the claims, in order."""
    rows = run(connection, _READ, (*after, claims_max))
    check_order([row[:2] for row in rows], after, "claims")
    return [HeldClaim(*row) for row in rows]


def _as_json(rows: Sequence[tuple[Any, ...]]) -> str:
    return msgspec.json.encode(rows).decode()

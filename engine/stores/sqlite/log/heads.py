"""What a log is, where it ends and which types it has: read, and looked at before it is believed.

Rules: a flipped bit, or a stranger, makes another class of a value than its column has, and no
constraint sees it. Such a value is Damaged and not passed on. What is read is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ....errors import Damaged
from ...contract.log import Head
from ..connection import run

__all__ = ["read_head", "read_kinds", "read_log_id", "read_types", "read_versions"]

TYPES_MAX: Final = 100_000
_LAST: Final = "SELECT position, checksum, recorded FROM events ORDER BY position DESC LIMIT 1"
_TYPES: Final = "SELECT number, name, version, schema_hash FROM event_types LIMIT ?"
_VERSIONS: Final = (
    "SELECT json_group_array(json_array(name, number, "
    "coalesce((SELECT max(version) FROM events WHERE stream = number), 0))) "
    "FROM streams WHERE name IN (SELECT value FROM json_each(?))"
)
_versions: Final = msgspec.json.Decoder(list[tuple[str, int, int]])
_KINDS: Final = """
WITH RECURSIVE found(name) AS (
    SELECT min(name) FROM streams
    UNION ALL
    SELECT (SELECT min(name) FROM streams
        WHERE name >= substr(found.name, 1, instr(found.name || ':', ':') - 1) || ';')
    FROM found WHERE found.name IS NOT NULL
) SELECT substr(name, 1, instr(name || ':', ':') - 1) FROM found WHERE name IS NOT NULL
"""
"""The streams of a kind stand together; a semicolon comes next after the colon that ends it."""
_Type = tuple[int, str, int, str]


def read_log_id(connection: Any) -> str | None:
    """Give the log's id; None for a log that has none yet. Raises Damaged."""
    found = run(connection, "SELECT log_id FROM about LIMIT 1")
    return _checked(found[0][0], str, 0, "the id of this log") if found else None


def read_head(connection: Any) -> Head:
    """Give the end of a log. Raises Damaged."""
    found = run(connection, _LAST)
    if not found:
        return Head()
    position: Any = found[0][0]
    return Head(*_checked(found[0], tuple[int, int, int], position, "the last event has a number"))


def read_types(connection: Any) -> list[_Type]:
    """Give number, name, version and schema hash of each type. Raises Damaged."""
    rows = run(connection, _TYPES, (TYPES_MAX + 1,))
    if len(rows) > TYPES_MAX:
        raise Damaged(0, f"this log has more than {TYPES_MAX} types of events")
    return [_checked(row, _Type, 0, "a type of events") for row in rows]


def read_versions(connection: Any, streams: Sequence[str]) -> list[tuple[str, int, int]]:
    """Give name, number and version of these streams, of those that there are."""
    asked = msgspec.json.encode(streams).decode()
    return _versions.decode(run(connection, _VERSIONS, (asked,))[0][0])


def read_kinds(connection: Any) -> list[str]:
    """Give the kinds of its streams, by one look into the index for each."""
    return [row[0] for row in run(connection, _KINDS)]


def _checked(value: Any, kind: Any, position: object, what: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        where = position if isinstance(position, int) else 0
        raise Damaged(where, f"{what} is of another class than its column") from error

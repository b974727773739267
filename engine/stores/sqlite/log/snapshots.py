"""The SQL of snapshots in a log file: written and read by few statements, many at a time.

Rules: one statement moves many snapshots, since a thread that steps row by row beside a busy event
loop waits up to 5 ms for the interpreter at each row. Bytes travel as hexadecimal text inside one
JSON text. What is in them is none of this file's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ....model.stored import Snapshot
from ..connection import run

__all__ = ["read_snapshots", "write_snapshots"]

T = TypeVar("T")

_AT_ONCE: Final = 64
"""Snapshots of one statement: their states stand in memory twice meanwhile."""

_READ: Final = """
    SELECT json_group_array(json_array(
        stream, version, position, checksum, snapshot_version, hex(state)))
    FROM snapshots WHERE stream IN (SELECT value FROM json_each(?))
"""

_WRITE: Final = """
    INSERT OR REPLACE INTO snapshots
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, unhex(value->>5)
    FROM json_each(?)
"""

_Row = tuple[str, int, int, int, int, str]
_rows = msgspec.json.Decoder(list[_Row])


def read_snapshots(connection: Any, streams: Sequence[str]) -> list[Snapshot]:
    """Give the snapshots of these streams that there are."""
    found: list[Snapshot] = []
    for some in _chunks(streams):
        asked = msgspec.json.encode(some).decode()
        rows = _rows.decode(run(connection, _READ, (asked,))[0][0])
        found.extend(Snapshot(*row[:5], bytes.fromhex(row[5])) for row in rows)
    return found


def write_snapshots(connection: Any, snapshots: Sequence[Snapshot]) -> None:
    """Put these in place of what was kept of their streams, in the transaction that is open."""
    for some in _chunks(snapshots):
        rows = [(*msgspec.structs.astuple(s)[:-1], s.state.hex()) for s in some]
        run(connection, _WRITE, (msgspec.json.encode(rows).decode(),))


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for begin in range(0, len(items), _AT_ONCE):
        yield items[begin : begin + _AT_ONCE]

"""What becomes of a cold file: gone, replaced, cut, or with another bit than was written."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import apsw

from engine.stores.sqlite.connection import run
from engine.stores.sqlite.log.cold import cold_path

__all__ = ["cut", "flipped", "gone", "no_database", "of_another_log", "of_another_type"]


def gone(cold: Path, _other: Path) -> None:
    cold.rename(cold.with_name("elsewhere.db"))


def no_database(cold: Path, _other: Path) -> None:
    cold.write_bytes(b"nothing of ours " * 1000)


def of_another_log(cold: Path, other: Path) -> None:
    Path(cold_path(str(other))).replace(cold)


def flipped(cold: Path, _other: Path) -> None:
    cold.write_bytes(cold.read_bytes().replace(b'"text":"1.1.', b'"text":"1.0.'))


def cut(cold: Path, _other: Path) -> None:
    os.truncate(cold, 8192 * 8)


def of_another_type(cold: Path, _other: Path) -> None:
    """Let a bit say that a column is a number: SQLite looks at that as it writes, and not later."""
    strict, lax = (
        "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'events'",
        "UPDATE sqlite_schema SET sql = ? WHERE name = 'events'",
    )
    find = "SELECT sql FROM sqlite_schema WHERE name = 'events'"
    with closing(apsw.Connection(str(cold))) as connection:
        ((made,),) = run(connection, find)
        run(connection, "PRAGMA writable_schema = ON")
        run(connection, strict)
    with closing(apsw.Connection(str(cold))) as connection:
        for (name,) in run(connection, "SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
            run(connection, f'DROP TRIGGER "{name}"')
        run(connection, "UPDATE events SET metadata = 7")
        run(connection, "PRAGMA writable_schema = ON")
        run(connection, lax, (made,))

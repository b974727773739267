"""Looks at the files of a dead process from outside: another process, and another SQLite.

Rules: it looks at a copy. SQLite repairs what it opens, and the engine is to find the files as the
dead process has left them. Forked and ended, so that no process ever holds both libraries open.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from .dying import LOG, VIEWS
from .story import Image, Logged, View


def copy(folder: Path, target: Path) -> None:
    """Copy what a process has left; not the lock, and not the index of the write-ahead log.

    That index lies in shared memory: it is never synced, and made anew by whoever comes first.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*-shm", "*.lock"))


def look(folder: Path, life: int) -> Image:
    """Read a copy of the files."""
    modes: list[str] = []
    complaints: list[str] = []
    log: list[Logged] = []
    checkpoints: dict[str, int] = {}
    view = View({}, {})
    snapshots = 0
    parked: list[int] = []
    for name in (LOG, VIEWS):
        if not (folder / name).exists():
            continue
        with closing(sqlite3.connect(folder / name)) as connection:
            modes += [mode for (mode,) in connection.execute("PRAGMA journal_mode")]
            said = [line for (line,) in connection.execute("PRAGMA integrity_check")]
            complaints += [f"{name}: {line}" for line in said if line != "ok"]
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
            if "events" in tables:
                log = _log(connection)
                snapshots = connection.execute("SELECT count(*) FROM snapshots").fetchone()[0]
            if "cells_rows" in tables:
                complaints += _strays(connection, tables)
                checkpoints = _checkpoints(connection)
                parked = _parked(connection)
                view = _view(connection)
    return Image(life, modes, complaints, log, checkpoints, view, snapshots, parked)


def _log(connection: sqlite3.Connection) -> list[Logged]:
    sql = "SELECT position, stream, version, payload, metadata FROM log ORDER BY position"
    return [
        _logged(position, stream, version, json.loads(payload), json.loads(metadata or "{}"))
        for position, stream, version, payload, metadata in connection.execute(sql)
    ]


def _logged(
    position: int, stream: str, version: int, event: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Logged:
    return Logged(
        position,
        stream,
        version,
        event["operation"],
        event["amount"],
        event["part"],
        event["parts"],
        metadata.get("key"),
    )


def _strays(connection: sqlite3.Connection, tables: set[str]) -> list[str]:
    """Give what belongs to no build, and what builds there cannot be."""
    builds = list(connection.execute("SELECT projection, number, state FROM builds"))
    states = [(projection, state) for projection, _, state in builds]
    twice = [one for one in set(states) if states.count(one) > 1 and one[1] != "former"]
    expected = {f"{projection}_rows:{number}" for projection, number, _ in builds}
    found = {name for name in tables if "_rows:" in name}
    both = [f"there are two of {one}" for one in twice]
    return [*both, *(f"table {name} is of no build" for name in sorted(found ^ expected))]


_CHECKPOINTS = """
    SELECT c.projection, b.slices, c.slice, c.position
    FROM checkpoints c JOIN builds b ON b.projection = c.projection AND b.number = c.build
    WHERE b.state = 'serving'
    """
_PARKED = """
    SELECT p.position
    FROM parked p JOIN builds b ON b.projection = p.projection AND b.number = p.build
    WHERE b.state = 'serving' ORDER BY p.position
    """


def _checkpoints(connection: sqlite3.Connection) -> dict[str, int]:
    """Give how far each projection has come, or each slice of it."""
    return {
        name if slices == 1 else f"{name} {slice_}": position
        for name, slices, slice_, position in connection.execute(_CHECKPOINTS)
    }


def _parked(connection: sqlite3.Connection) -> list[int]:
    return [position for (position,) in connection.execute(_PARKED)]


def _view(connection: sqlite3.Connection) -> View:
    cells = connection.execute("SELECT cell, total, events, trail FROM cells_rows")
    operations = connection.execute("SELECT operation, events FROM operations_rows")
    return View({cell: tuple(rest) for cell, *rest in cells}, dict(operations))


def encoded(folder: Path, life: int) -> bytes:
    """Give what `look` gives, as one line."""
    return msgspec.json.encode(look(folder, life)) + b"\n"

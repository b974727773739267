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
                checkpoints = _checkpoints(connection)
                view = _view(connection)
    return Image(life, modes, complaints, log, checkpoints, view, snapshots)


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


def _checkpoints(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT projection, position FROM checkpoints"))


def _view(connection: sqlite3.Connection) -> View:
    cells = connection.execute("SELECT cell, total, events, trail FROM cells_rows")
    operations = connection.execute("SELECT operation, events FROM operations_rows")
    return View({cell: tuple(rest) for cell, *rest in cells}, dict(operations))


def encoded(folder: Path, life: int) -> bytes:
    """Give what `look` gives, as one line."""
    return msgspec.json.encode(look(folder, life)) + b"\n"

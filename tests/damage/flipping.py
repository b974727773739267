"""Flips one bit, verifies, and judges: told, or of no meaning, or UNSEEN.

Rules: a flip is of no meaning if every row of every table reads as before, and SQLite finds the
file sound: it is in bytes that nobody reads. What is judged is read without anything of `verify`.
Each flip follows from its number and the seed. The file is as it was afterwards.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec

from engine import Engine, Retired
from engine.backups.places import FolderPlace
from engine.backups.reading import BackupLog, BackupSource, look_at_files
from engine.errors import EngineError
from engine.model.aggregate import definitions_of
from engine.outside.verifying import verify_log
from engine.outside.verifying_code import Code, verify_code
from engine.runtime.ports import Ports
from engine.stores.contract.verifying import Finding
from engine.stores.sqlite.connection import run
from engine.stores.urls import open_backend
from tests.outside.copied import Board, Counts, Letters

from .given import Files

__all__ = ["Flip", "Flipper"]


WITHOUT = {
    "about": ("created",),
    "archives": ("begun", "rule", "streams", "events", "bytes", "position", "shrunk"),
    "event_types": ("schema_hash",),
    "decisions": ("number", "projection", "decided", "version", "reason", "principal"),
    "requests": (
        "number",
        "kind",
        "projection",
        "arguments",
        "asked",
        "principal",
        "state",
        "answer",
        "answered",
    ),
    "parked": ("slice", "key", "parked", "attempts", "cause"),
}
"""What has no checksum, and nothing to be compared with: it is told by nobody. The page says so."""


class Flip(msgspec.Struct, frozen=True):
    """One flip, and what became of it."""

    number: int
    file: str
    byte: int
    bit: int
    outcome: str
    """"told", "no meaning", "UNSEEN", or RAISED with an error that is none of the engine's."""
    told: tuple[str, ...] = ()


_ENGINE = Engine([Board], projections=[Counts, Letters], retired=[Retired("added")])
CODE = Code(definitions_of(_ENGINE.aggregates), _ENGINE.declared, _ENGINE.registry)


class _Lane:
    def progress(self, position: int, end: int) -> None: ...

    def rest(self) -> None: ...


class Flipper:
    """Flips bits of files, by number."""

    def __init__(self, files: Files, seed: int) -> None:
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._kinds = files
        self._files = [(kind, path) for kind, paths in files.items() for path in paths]
        self._sizes = [path.stat().st_size for _, path in self._files]
        # Half of the flips are where something is: most of a small file is empty.
        self._used = [
            [place for place, byte in enumerate(path.read_bytes()) if byte]
            for _, path in self._files
        ]
        self._content = {kind: content(files[kind]) for kind in files if kind != "backup"}
        for kind in files:
            told = self._told(kind)
            assert not told, f"{kind} is sound before anything is flipped: {told}"

    def close(self) -> None:
        """Let the loop go."""
        self._loop.close()

    def flip(self, number: int) -> Flip:
        """Flip a bit, judge, and flip it back."""
        chosen = random.Random(f"{self._seed}:{number}")
        place = chosen.randrange(len(self._files))
        kind, path = self._files[place]
        byte, bit = chosen.choice(self._used[place]), chosen.randrange(8)
        if number % 2:
            byte = chosen.randrange(self._sizes[place])
        _flip(path, byte, bit)
        try:
            told = self._told(kind)
            outcome = "told" if told else self._judged(kind)
        except Exception as error:  # `verify` ends with a traceback, and names nothing
            told, outcome = (), f"RAISED {type(error).__name__}"
        finally:
            _flip(path, byte, bit)
        return Flip(number, path.name, byte, bit, outcome, told)

    def _judged(self, kind: str) -> str:
        if kind != "backup" and content(self._kinds[kind]) == self._content[kind]:
            return "no meaning"
        return "UNSEEN"

    def difference(self, flip: Flip) -> str:
        """Say what a flip changes, for whoever looks into it."""
        kind, path = next(one for one in self._files if one[1].name == flip.file)
        _flip(path, flip.byte, flip.bit)
        try:
            after = content(self._kinds[kind])
        finally:
            _flip(path, flip.byte, flip.bit)
        before = self._content.get(kind)
        lines = zip(repr(before).split("("), repr(after).split("("), strict=False)
        return next((f"{one} -> {two}" for one, two in lines if one != two), "")

    def _told(self, kind: str) -> tuple[str, ...]:
        paths = self._kinds[kind]
        _forget(paths)
        found: list[Finding] = []
        try:
            if kind == "backup":
                place = FolderPlace(str(paths[0].parent))
                look_at_files(place, found.append)
                verify_log(BackupSource(BackupLog(place)), None, found.append, _Lane())
            else:
                outside = open_backend(f"sqlite:{paths[0]}").outside(Ports())
                verify_log(outside.copy_source(), outside.structure(), found.append, _Lane())
                if not found and kind != "cold":  # which has no views
                    self._loop.run_until_complete(
                        verify_code(outside, CODE, found.append, lambda _: None, lambda: None)
                    )
        except EngineError as error:
            return (str(error),)
        finally:
            _forget(paths)
        return tuple(finding.text for finding in found)


def _flip(path: Path, byte: int, bit: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        (value,) = os.pread(descriptor, 1, byte)
        os.pwrite(descriptor, bytes([value ^ 1 << bit]), byte)
    finally:
        os.close(descriptor)


def _forget(paths: list[Path]) -> None:
    """Remove what SQLite has made of a write-ahead log that was flipped."""
    for path in paths:
        if path.suffix == ".db":
            Path(f"{path}-shm").unlink(missing_ok=True)


def content(paths: list[Path]) -> Any:
    """Give all that is in the files, or why it cannot be read."""
    _forget(paths)
    try:
        return [_content(path) for path in paths if path.suffix == ".db"]
    except (apsw.Error, UnicodeDecodeError) as error:
        return type(error).__name__
    finally:
        _forget(paths)


def _content(path: Path) -> Any:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        # In one order, however it is spelled.
        named = "SELECT type, name, tbl_name FROM sqlite_schema ORDER BY lower(type), lower(name)"
        schema = run(connection, named)
        tables = [name for kind, name, _ in schema if kind == "table"]
        columns = [run(connection, f'PRAGMA table_xinfo("{name}")') for name in tables]
        pragmas = [
            run(connection, f"PRAGMA {name}")
            for name in ("user_version", "application_id", "encoding", "integrity_check")
        ]
        # Whatever is spelled in small letters or in large ones, SQLite takes for the same.
        about = repr((schema, columns)).lower()
        if ".views" in path.name:
            del pragmas[0]  # which views keep in a table
        return about, pragmas, {name.lower(): _rows(connection, name) for name in tables}


def _rows(connection: apsw.Connection, table: str) -> Any:
    names = [row[1] for row in run(connection, f'PRAGMA table_info("{table}")')]
    kept = [name for name in names if name.lower() not in WITHOUT.get(table.lower(), ())]
    listed = ", ".join(f'"{name}"' for name in kept) or "1"
    return run(connection, f'SELECT {listed} FROM "{table}" ORDER BY 1')

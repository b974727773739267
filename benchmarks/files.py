"""`files`: a log exported into JSON lines and Parquet, and imported again, each as a command.

The commands run in this process, so the interpreter's start is not in them. The floors do the same
without an engine: bare APSW reads the rows, msgspec makes the lines, DuckDB makes Parquet of them,
and APSW inserts the lines as rows again. They compare no checksum and map no event, and nothing is
verified.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

import engine
from engine.__main__ import main

from .filled import LOG, Orders, Prepared, check_count, fill_sqlite
from .scenario import Cell, Column, Scenario, Wrong
from .workload import BenchmarkOrder

__all__ = ["add_options", "make_engine", "scenario"]

EVENTS: Final = 200_000
QUICK_EVENTS: Final = 5_120
PAGE_ROWS: Final = 5_000
LINES: Final = "events.jsonl"
_ROWS: Final = (
    "SELECT e.position, e.recorded, s.name, e.version, t.name, t.version, e.payload "
    "FROM events e JOIN streams s ON s.number = e.stream "
    "JOIN event_types t ON t.number = e.type ORDER BY e.position"
)
_NAMES: Final = ("position", "recorded", "stream", "version", "event", "event_version", "payload")


def make_engine() -> engine.Engine:
    """Give the application that an import is of."""
    return engine.Engine([BenchmarkOrder], store="memory:")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size."""
    parser.add_argument("--events", type=int, help=f"in the log, default {EVENTS:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = options.events or (QUICK_EVENTS if options.quick else EVENTS)
    orders = Orders(max(1, events // 10), 10, keyed=True)
    made = Prepared(options.folder, partial(_prepare, orders=orders))
    ways: list[tuple[str, _Work, _Work]] = [("export to JSON lines", _bare_lines, _export)]
    if importlib.util.find_spec("duckdb") is not None:
        ways.append(("export to Parquet", _bare_parquet, partial(_export, to="events.parquet")))
    ways.append(("import of JSON lines", _bare_import, _import))
    return Scenario(
        name="files",
        title="a log into a file for other programs, and a file into a log",
        conditions={
            "events": f"{orders.total:,}, of {orders.count:,} orders, keyed",
            "import": "reads the file twice, and the new log once more to verify it",
            "floor": "bare APSW, msgspec and DuckDB: no checksum compared, nothing verified",
        },
        columns=(Column("events", "/s", "more"),),
        headline="events",
        cells=[
            Cell(way, name, partial(_measure, made, orders.total, work), against)
            for way, bare, whole in ways
            for name, work, against in (("floor", bare, ()), ("engine", whole, ("floor",)))
        ],
        notes=() if len(ways) == 3 else ("Parquet: DuckDB is not installed",),
    )


_Work = Callable[[Path, Path], int | None]
"""Takes the prepared folder and an empty one; gives how many events it knows of, if it counts."""


def _prepare(folder: Path, orders: Orders) -> None:
    fill_sqlite(folder, orders)
    _command("export", str(folder / LOG), "--to", str(folder / LINES))


def _measure(made: Prepared, events: int, work: _Work, folder: Path) -> Mapping[str, float]:
    source = made.folder()
    begin = time.perf_counter()
    found = work(source, folder)
    seconds = time.perf_counter() - begin
    if found is None:
        check_count(folder / LOG, events)
    elif found != events:
        raise Wrong(f"the log has {events:,} events, and the file {found:,}")
    return {"events": events / seconds}


def _command(*arguments: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = main(arguments)
    if status:
        raise Wrong(f"{' '.join(arguments)} ended with {status}: {said.getvalue()}")


def _export(source: Path, folder: Path, to: str = LINES) -> int:
    _command("export", str(source / LOG), "--to", str(folder / to))
    return _count(folder / to)


def _import(source: Path, folder: Path) -> None:
    app = ("--app", f"{__name__}:make_engine")
    _command("import", str(source / LINES), str(folder / LOG), *app)


def _count(path: Path) -> int:
    if path.suffix == ".jsonl":
        with path.open("rb") as lines:
            return sum(1 for _ in lines)
    duckdb: Any = importlib.import_module("duckdb")
    with duckdb.connect() as connection:
        found: tuple[int] = connection.execute(f"SELECT count(*) FROM '{path}'").fetchone()
    return found[0]


def _bare_lines(source: Path, folder: Path) -> int:
    connection: Any = apsw.Connection(str(source / LOG), flags=apsw.SQLITE_OPEN_READONLY)
    with (folder / LINES).open("wb") as file:
        for row in connection.execute(_ROWS):
            values = [*row[:-1], msgspec.Raw(row[-1])]
            line = dict(zip(_NAMES, values, strict=True))
            file.write(msgspec.json.encode(line) + b"\n")
    connection.close()
    return _count(folder / LINES)


def _bare_parquet(source: Path, folder: Path) -> int:
    _bare_lines(source, folder)
    duckdb: Any = importlib.import_module("duckdb")
    to = folder / "events.parquet"
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_json('{folder / LINES}', format = 'newline_delimited')) "
            f"TO '{to}' (FORMAT parquet, COMPRESSION zstd)"
        )
    return _count(to)


def _bare_import(source: Path, folder: Path) -> None:
    connection: Any = apsw.Connection(str(folder / LOG))
    connection.execute("PRAGMA journal_mode = wal; PRAGMA synchronous = 1")
    connection.execute(
        "CREATE TABLE events (position INTEGER PRIMARY KEY, stream TEXT, version INTEGER, "
        "event TEXT, payload BLOB, UNIQUE (stream, version))"
    )
    with (source / LINES).open("rb") as file:
        while page := [row for _, row in zip(range(PAGE_ROWS), map(_row, file), strict=False)]:
            with connection:
                connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", page)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


class _Line(msgspec.Struct):
    position: int
    stream: str
    version: int
    event: str
    payload: msgspec.Raw


_decode: Final = msgspec.json.Decoder(_Line).decode


def _row(text: bytes) -> tuple[int, str, int, str, bytes]:
    line = _decode(text)
    return line.position, line.stream, line.version, line.event, bytes(line.payload)

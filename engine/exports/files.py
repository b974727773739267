"""Files of records: JSON lines, CSV, Parquet.

Rules: a file has its name when it is complete and on the disk, and `.partial` behind it until then;
nothing is written over, and one process at a time writes it. Only its owner can read it, since it
has what people wrote. Parquet is written by DuckDB (the extra `analytics`), which is imported when
it is first needed, out of a file of JSON lines beside it, so that memory holds no export. No cell
of CSV is a formula to a spreadsheet.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from ..errors import StoreRefused, UsageError
from ..runtime.folder import PARTIAL, Folder

__all__ = ["FORMATS", "Cell", "check_format", "write_csv", "write_lines", "write_parquet"]

FORMATS: Final = ("parquet", "jsonl", "csv")
_MODE: Final = 0o600
_encode: Final = msgspec.json.Encoder().encode

Cell = Callable[[str], str]
"""Makes a text safe to show in a cell."""


def check_format(name: str) -> None:
    """Raise UsageError for a form that cannot be written here."""
    if name == "parquet" and importlib.util.find_spec("duckdb") is None:
        raise UsageError(
            "Parquet is written by DuckDB, which is not installed: install Foldline from its clone "
            "with the extra `analytics`, as in pip install '../foldline[analytics]', or export "
            "JSON lines or CSV"
        )


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines into a new file; give how many."""
    with _complete(path) as partial:
        return _write(partial, lines)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], cell: Cell) -> int:
    """Write rows into a new file, below a line of names; give how many rows."""
    count = 0
    with _complete(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([cell(value) if isinstance(value, str) else value for value in row])
            count += 1
    return count


def write_parquet(path: Path, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows into a new file, with these types in SQL; give how many.

    Bytes are given as hexadecimal text.
    """
    duckdb: Any = importlib.import_module("duckdb")
    listed = ", ".join(
        f"from_hex({_quoted(name)}) AS {_quoted(name)}" if kind == "BLOB" else _quoted(name)
        for name, kind in columns.items()
    )
    read = {n: "VARCHAR" if kind == "BLOB" else kind for n, kind in columns.items()}
    with _complete(path) as partial:
        lines = partial.with_name(f"{partial.name}.jsonl")
        try:
            lines.touch(_MODE)
            count = _write(lines, (_encode(row) for row in rows))
            with duckdb.connect(config={"threads": 1}) as connection:
                connection.execute(  # what is named is quoted
                    f"COPY (SELECT {listed} "  # noqa: S608
                    f"FROM read_json(?, format = 'newline_delimited', "
                    f"columns = {_literal(read)}, maximum_object_size = 1073741824)) "
                    f"TO {_literal(str(partial))} "
                    f"(FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)",
                    [str(lines)],
                )
        except duckdb.Error as error:
            # Its own words may quote what it reads.
            raise StoreRefused(
                f"{path} cannot be written by DuckDB ({type(error).__name__}): is there room in "
                f"its folder?"
            ) from None
        finally:
            lines.unlink(missing_ok=True)
    return count


def _write(path: Path, lines: Iterable[bytes]) -> int:
    count = 0
    with path.open("wb") as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
    return count


@contextmanager
def _complete(path: Path) -> Generator[Path]:
    """Give a file beside `path` that gets its name at the end, or is taken away."""
    if path.exists():
        raise StoreRefused(f"{path} is there already, and nothing is written over: name another")
    folder, partial = Folder(str(path.parent)), path.with_name(path.name + PARTIAL)
    try:
        if not folder.lock(partial.name):
            raise StoreRefused(
                f"another process writes {path}: wait until it has ended. Nothing was written"
            )
        try:
            yield partial
            partial.chmod(_MODE)
            folder.place(path.name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreRefused(f"{path} cannot be written: {error.strerror}") from error
    finally:
        folder.unlock()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str | Mapping[str, str]) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "{" + ", ".join(f"{_literal(n)}: {_literal(kind)}" for n, kind in value.items()) + "}"

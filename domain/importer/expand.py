"""Expand: a larger file of the same shape, each invoice copied under new numbers.

Rules: a row goes through as it is, faults included, but for its invoice number, which gets the
number of the copy: 536365-1, 536365-2, C536379-1. Copies follow each other as whole files, so that
the rows of an invoice stay together. The file appears under its name when it is complete, never
before; one line is in memory at a
time.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from .invoices import Columns, Malformed, split
from .text_file import TextFile

__all__ = ["expand"]


def expand(source: Path, out: Path, times: int, told: Callable[[int], None] | None = None) -> int:
    """Write `times` copies of `source` to `out`; give the rows written.

    Raises Unreadable for the source, OSError for the target. `told` hears of each copy done.
    """
    assert times >= 1
    rows = 0
    with _appears_complete(out) as file:
        for copy in range(1, times + 1):
            with TextFile(source) as original:
                texts = iter(original)
                first = next(texts, "")
                number = Columns(original, first).number
                if copy == 1:
                    file.write(_ended(first))
                for text in texts:
                    file.write(_renamed(_ended(text), number, copy))
                    rows += 1
            if told is not None:
                told(copy)
    return rows


def _renamed(text: str, number: int, copy: int) -> str:
    """Give the line with the number of the copy; as it is, if it has no invoice number."""
    try:
        cells = split(text)
    except Malformed:
        return text
    if len(cells) <= number or not cells[number].strip():
        return text
    cells[number] = f"{cells[number].strip()}-{copy}"
    return _joined(cells)


def _joined(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _ended(text: str) -> str:
    # The last line of a file may have no end, and must not run into the next copy.
    return text.rstrip("\r\n") + "\n"


@contextmanager
def _appears_complete(out: Path) -> Generator[IO[str]]:
    """Open a file beside `out` that takes its place at the end of the block."""
    part = out.with_name(out.name + ".part")
    try:
        with part.open("wb") as raw:
            packed = cast("IO[bytes]", _zipped(raw) if out.suffix == ".gz" else raw)
            with io.TextIOWrapper(
                packed, encoding="utf-8", errors="surrogateescape", newline=""
            ) as file:
                yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _zipped(raw: IO[bytes]) -> gzip.GzipFile:
    # No name and no time inside: the same source gives the same bytes.
    return gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=raw, mtime=0)

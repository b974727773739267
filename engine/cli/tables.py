"""Tables: columns, rows, and what is said of a row.

Rules: what others wrote is escaped (`printing`) when it is put in. As plain text a table has the
same bytes on every machine, whatever is installed there: columns stand two spaces apart, each as
wide as its widest cell. On a terminal `terminal` shows it by rich. This file prints nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from .printing import plain

__all__ = ["Column", "Table", "numbers"]


class Column(msgspec.Struct, frozen=True):
    """A column; `width` is the least one in plain text, in characters."""

    heading: str
    width: int = 0
    number: bool = False
    """Its cells stand on the right."""
    cut: bool = False
    """On a terminal a cell of it has one line, and ends where the room ends."""
    styles: Mapping[str, str] = {}
    """How a terminal shows some of its cells, by their text, in rich's words."""


def numbers(**widths: int) -> Iterator[Column]:
    """Give columns of numbers, by their headings."""
    return (Column(heading, width, number=True) for heading, width in widths.items())


class Row(msgspec.Struct, frozen=True):
    """A row, with notes below it."""

    cells: Sequence[str]
    notes: Sequence[str]


class Table:
    """Rows under headings. As plain lines it may go on for ever: its columns grow."""

    def __init__(self, *columns: Column) -> None:
        self.columns = [msgspec.structs.replace(c, heading=plain(c.heading)) for c in columns]
        self.rows: list[Row] = []
        self._widths = [max(column.width, len(column.heading)) for column in self.columns]

    def add(self, *cells: str, notes: Iterable[str] = ()) -> Row:
        """Add a row, and give it."""
        row = Row([plain(cell) for cell in cells], [plain(note) for note in notes])
        self.rows.append(row)
        pairs = zip(self._widths, row.cells, strict=True)
        self._widths = [max(width, len(cell)) for width, cell in pairs]
        return row

    def heading(self) -> str:
        """Give the line above the rows."""
        return self._line([column.heading for column in self.columns])

    def lines(self) -> Iterator[str]:
        """Give the rows that it has, and their notes, as plain lines."""
        for row in self.rows:
            yield self._line(row.cells)
            yield from (f"    {note}" for note in row.notes)

    def _line(self, cells: Sequence[str]) -> str:
        fields = zip(self.columns, cells, self._widths, strict=True)
        parts = [t.rjust(width) if c.number else t.ljust(width) for c, t, width in fields]
        return "  ".join(parts).rstrip()

"""What a terminal shows by rich, the extra `cli`: tables, frames drawn in place, bars.

Rules: it is imported only where there is a terminal, so that a pipe costs no import and gets no
colour. No text is read as markup, as the code of an emoji or as a link; tables come with their
cells escaped, lines are escaped here. A terminal is given back as it was. NO_COLOR is respected.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table as RichTable
from rich.text import Text

from .printing import plain
from .tables import Column, Table

__all__ = ["Bar", "Terminal"]

ROWS_MAX: Final = 1_000
"""A longer table is written as plain text: rich lays out about as many rows a second."""
ANY_WIDTH: Final = 100_000


class Terminal:
    """The terminal that a stream leads to."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(
            file=getattr(stream, "raw", stream),  # what is drawn moves the cursor on purpose
            force_terminal=True,
            force_interactive=True,
            force_jupyter=False,
            markup=False,
            emoji=False,
            highlight=False,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Give columns and lines, as they are now."""
        return self._console.size

    def show(self, table: Table) -> None:
        """Show a table; where it is too wide for the terminal, each row as a list."""
        if len(table.rows) > ROWS_MAX:
            for line in (table.heading(), *table.lines()):
                self._console.print(Text(line), soft_wrap=True)
            return
        self._console.print(*self._shown(table), sep="\n")

    @contextmanager
    def frames(self) -> Generator[Callable[[Iterable[str | Table]], None]]:
        """Take the terminal; give what draws a frame in place of the one before."""
        with Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live:
            yield lambda parts: live.update(Group(*self._frame(parts)), refresh=True)

    def bar(self, what: str) -> Bar:
        """Give a bar that is not shown yet."""
        return Bar(self._console, what)

    def _frame(self, parts: Iterable[str | Table]) -> Iterator[RenderableType]:
        for part in parts:
            if isinstance(part, str):
                style = "" if part.startswith(" ") else "bold"
                yield Text(plain(part), style, no_wrap=True, overflow="ellipsis")
            else:
                yield from self._shown(part)

    def _shown(self, table: Table) -> Iterator[RenderableType]:
        shown = _as_table(table)
        wide = self._console.options.update(max_width=ANY_WIDTH)
        least = Measurement.get(self._console, wide, shown).minimum
        may_be_cut = any(column.cut for column in table.columns)
        if table.rows and not may_be_cut and least > self._console.width:
            for row in table.rows:
                yield self._as_list(table.columns, row.cells)
                yield from (Text(f"    {note}") for note in row.notes)
                yield Text("")
            return
        yield shown
        for row in table.rows:
            if row.notes:
                yield Text(row.cells[0], "bold")
                yield from (Text(f"    {note}") for note in row.notes)

    def _as_list(self, columns: Sequence[Column], cells: Sequence[str]) -> RichTable:
        shown = RichTable.grid(padding=(0, 2, 0, 0))
        # A heading may be longer than the terminal is wide, and leaves half of it all the same.
        shown.add_column(style="bold", overflow="fold", max_width=self._console.width // 2)
        shown.add_column(overflow="fold")
        for column, text in zip(columns, cells, strict=True):
            shown.add_row(Text(column.heading.strip()), _cell(column, text.strip()))
        return shown


def _as_table(table: Table) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in table.columns:
        shown.add_column(
            _cell(column, column.heading),
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="fold",
        )
    for row in table.rows:
        cells = zip(table.columns, row.cells, strict=True)
        shown.add_row(*[_cell(column, text) for column, text in cells])
    return shown


def _cell(column: Column, text: str) -> Text:
    shown = Text(text, column.styles.get(text, ""))
    if column.cut:
        # Said of the text and not of the column, which then gives room before numbers do.
        shown.no_wrap, shown.overflow = True, "ellipsis"
    return shown


class Bar:
    """How far one piece of work has come."""

    def __init__(self, console: Console, what: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(plain(what), note="")

    def show(self, done: int, total: int, note: str = "") -> None:
        """Show that so much of the total is done."""
        self._progress.update(
            self._task, completed=done, total=total, note=plain(note), refresh=True
        )
        self._progress.start()  # draws it too, the first time

    def end(self) -> None:
        """Leave the bar as it is, and its line."""
        self._progress.stop()

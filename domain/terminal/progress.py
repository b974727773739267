"""Progress: a bar on a terminal, a line per tenth elsewhere, always on the error stream.

Rules: it costs nothing when nothing changes, it is written only for a new percentage, and it never
stands between the program's output and whoever reads that.
"""

from __future__ import annotations

from typing import TextIO

from engine.cli.output import terminal_of

__all__ = ["Progress"]


class Progress:
    """How far one piece of work has come."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._stream = stream
        terminal = terminal_of(stream)
        self._bar = None if terminal is None else terminal.bar(what)
        self._percent = -1

    def show(self, done: int, total: int) -> None:
        """Show that so much of the total is done."""
        percent = min(100, done * 100 // total) if total > 0 else 100
        if self._bar is None:
            percent -= percent % 10
        if percent == self._percent:
            return
        self._percent = percent
        if self._bar is not None:
            self._bar.show(percent, 100)
        else:
            self._stream.write(f"{self._what} {percent} %\n")
            self._stream.flush()

    def end(self) -> None:
        """Leave the bar's line."""
        if self._bar is not None:
            self._bar.end()

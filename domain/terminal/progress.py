"""Progress: a bar on a terminal, a line per tenth elsewhere, always on the error stream.

Rules: it costs nothing when nothing changes, a line is written only for a new percentage, and it
never stands between the program's output and whoever reads that.
"""

from __future__ import annotations

from typing import TextIO

__all__ = ["Progress"]

WIDTH = 40


class Progress:
    """How far one piece of work has come."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        # A bar moves the cursor on purpose, and has nothing in it that others wrote.
        self._stream: TextIO = getattr(stream, "raw", stream)
        self._terminal = stream.isatty()
        self._percent = -1

    def show(self, done: int, total: int) -> None:
        """Show that so much of the total is done."""
        percent = min(100, done * 100 // total) if total > 0 else 100
        if not self._terminal:
            percent -= percent % 10
        if percent == self._percent:
            return
        self._percent = percent
        if self._terminal:
            bar = "█" * (percent * WIDTH // 100)
            self._stream.write(f"\r{self._what} {bar:·<{WIDTH}} {percent:3} %")
        else:
            self._stream.write(f"{self._what} {percent} %\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the bar's line."""
        if self._terminal and self._percent >= 0:
            self._stream.write("\n")
            self._stream.flush()

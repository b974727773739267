"""A screen that is drawn again and again: in place on a terminal, as lines anywhere else.

Rules: nothing that a caller or an invoice wrote moves the cursor. A frame is as wide and as high as
the terminal is at that moment, is written in one piece, and not at all where it has not changed.
However drawing ends, the terminal is what it was before. This file knows no shop.
"""

from __future__ import annotations

import os
import select
import sys
import unicodedata
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from engine.cli.printing import masked as plain

__all__ = ["Screen", "fit", "plain"]

WIDTH, HEIGHT = 80, 24
"""Of a terminal that does not say."""

_BEGIN = "\x1b[?1049h\x1b[?25l"
"""Another page than the one with the commands, and no cursor."""
_END = "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_BOLD, _NORMAL = "\x1b[1m", "\x1b[m"


def fit(text: str, width: int) -> str:
    """Cut or fill a text so that it takes just so many columns."""
    if text.isascii():
        return f"{text[:width]:<{width}}"
    columns = 0
    for place, character in enumerate(text):
        needed = _columns(character)
        if columns + needed > width:
            text = text[:place]
            break
        columns += needed
    return text + " " * (width - columns)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Screen:
    """The output of a program; use it with `with`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.is_terminal = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._shown: tuple[Sequence[str], os.terminal_size] | None = None
        reconfigure = getattr(self._stream, "reconfigure", None)
        if reconfigure is not None:
            # A terminal that cannot show a product's name shows the rest.
            reconfigure(errors="replace")

    def __enter__(self) -> Screen:
        """Take the terminal."""
        if self.is_terminal:
            self._write(_BEGIN)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the terminal back as it was."""
        if self.is_terminal:
            self._write(_END)

    def size(self) -> os.terminal_size:
        """Give columns and lines, as they are now."""
        try:
            columns, lines = os.get_terminal_size(self._stream.fileno())
        except OSError:
            columns = lines = 0
        return os.terminal_size((columns or WIDTH, lines or HEIGHT))

    def draw(self, lines: Sequence[str]) -> None:
        """Show a frame in place of the one before; a line that is not indented is bold."""
        size = self.size()
        if self._shown == (lines, size):
            return
        self._shown = (lines, size)
        shown = [_drawn(line, size.columns) for line in lines[: size.lines]]
        self._write(_HOME + "\r\n".join(shown) + _CLEAR_BELOW)

    def say(self, line: str) -> None:
        """Write one line, where there is no terminal to draw on."""
        self._write(plain(line) + "\n")

    def check_read(self) -> None:
        """Raise BrokenPipeError where whoever read the output has gone."""
        watch = select.poll()
        # Nothing is asked but whether the other end is there.
        watch.register(self._stream.fileno(), 0)
        if any(found & (select.POLLERR | select.POLLHUP) for _, found in watch.poll(0)):
            raise BrokenPipeError

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _drawn(line: str, columns: int) -> str:
    text = fit(plain(line), columns).rstrip()
    heading = text and not text.startswith(" ")
    return (f"{_BOLD}{text}{_NORMAL}" if heading else text) + _CLEAR_LINE

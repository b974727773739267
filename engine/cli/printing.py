"""What others wrote, as text that is safe to print: on a terminal, in a log, in a spreadsheet.

Rules: a text that was stored, sent or given never moves a cursor, never changes what stands before
it, and never becomes a line of its own. Whatever cannot be seen is written as an escape: control
characters, orders to a terminal, marks that turn the direction of a line, separators of lines, and
bytes that are no UTF-8. Nothing is left out in silence. This file prints nothing itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, TextIO

__all__ = [
    "PlainStream",
    "counted",
    "escaped",
    "is_text",
    "plain",
    "plain_lines",
    "spreadsheet_cell",
]

# A spreadsheet takes such a text for a formula, also behind spaces, and in its wide forms.
_FORMULA: Final = re.compile(r"\s*[=+\-@|%\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")


def counted(number: int, noun: str) -> str:
    """Give `1 event`, `2,000 events`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def plain(text: str) -> str:
    """Give a text in one line: what cannot be seen becomes an escape as Python writes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain_lines(text: str) -> str:
    """Give a text of several lines: they stay, and so do tabs; the rest is as `plain` has it."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or c.isprintable() else plain(c) for c in text)


def escaped(line: str) -> str:
    """Give a line of JSON: what cannot be seen becomes JSON's own escape, which means the same."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def spreadsheet_cell(text: str) -> str:
    """Give a cell of CSV: as `plain_lines`, and behind a `'` what a spreadsheet would calculate."""
    shown = plain_lines(text)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return "'" + shown
    return shown


def is_text(value: str) -> bool:
    """Tell whether a text can be written as UTF-8; arguments of other bytes cannot."""
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


class PlainStream:
    """The error stream of a command: what is written to it by whomever comes out as plain lines.

    Tracebacks, logs, warnings and errors quote what others wrote. So the stream itself is where it
    is made harmless, and not each of the many places that write.
    """

    def __init__(self, stream: TextIO) -> None:
        self.raw: Final = stream
        """For what the command itself has drawn."""

    def write(self, text: str) -> int:
        """Write plain lines."""
        self.raw.write(plain_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Be the stream otherwise."""
        return getattr(self.raw, name)

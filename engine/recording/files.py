"""The files of a recording: their names, their first line, and reading them.

Rules: names sort by the time at which a file was begun. A last line without an end is what a
killed process left, and is passed over; any other line that is no record is told by file and
number. Files of another log than the one asked for are refused. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from ..errors import StoreRefused
from ..runtime.folder import Folder
from .forms import Decided

__all__ = ["Head", "Place", "file_name", "is_file", "read_recording"]

FORMAT: Final = 1
_BEGIN: Final = "commands-"
_END: Final = ".jsonl"


class Head(msgspec.Struct, frozen=True):
    """The first line of a file."""

    log: str
    """The id of the log."""
    recording: int = FORMAT
    """The format of the lines."""
    left_out: int = 0
    """Commands that could not be recorded before this file was begun."""


class Place(msgspec.Struct, frozen=True):
    """Where a decision is recorded."""

    file: str
    """Name of the file."""
    line: int
    """From 1 on."""

    def __str__(self) -> str:
        """Give both, as editors read them."""
        return f"{self.file}:{self.line}"


def file_name(now: int, new_id: str) -> str:
    """Give the name of a file that is begun at `now`, in µs."""
    return f"{_BEGIN}{now:020}-{new_id[:8]}{_END}"


def is_file(name: str) -> bool:
    """Tell whether a name is that of a recording's file."""
    return name.startswith(_BEGIN) and name.endswith(_END)


def read_recording(folder: str, log_id: str) -> Iterator[tuple[Place, Decided]]:
    """Give all decisions of a folder in the order of its files, each with its place.

    Raises StoreRefused for a folder without files, for one of another log, and for a line that is
    no record, after all before it.
    """
    from_folder = Folder(folder)
    names = [name for name in from_folder.names() if is_file(name)]
    if not names:
        raise StoreRefused(
            f"{from_folder.path} has no file of a recording: give the folder of record=. Nothing "
            f"was run."
        )
    for name in names:
        yield from _read(name, from_folder.read(name) or b"", log_id)


def _read(name: str, data: bytes, log_id: str) -> Iterator[tuple[Place, Decided]]:
    lines = data.split(b"\n")
    lines.pop()  # nothing, or what was cut off
    heads, decisions = msgspec.json.Decoder(Head), msgspec.json.Decoder(Decided)
    for number, line in enumerate(lines, 1):
        place = Place(name, number)
        try:
            if number > 1:
                decided = decisions.decode(line)
            else:
                _check(name, heads.decode(line), log_id)
                continue
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreRefused(
                f"{place} is no line of a recording ({type(error).__name__}): the file was changed "
                f"or damaged. What stands before it was read; remove the line to read the rest."
            ) from error
        yield place, decided


def _check(name: str, head: Head, log_id: str) -> None:
    if head.recording != FORMAT:
        raise StoreRefused(
            f"{name} is of format {head.recording}, and this release reads {FORMAT}: use the "
            f"release that recorded it. Nothing of it was run."
        )
    if head.log != log_id:
        raise StoreRefused(
            f"{name} was recorded on log {head.log}, and this is {log_id}: give the log, or a copy "
            f"or backup of it. Nothing of it was run."
        )

"""The files of a recording: their names, their first line, and reading them.

Rules: names sort by the time at which a file was begun. A last line without an end is what a
killed process left, and is passed over; any other line that is no record is told by file and
number. Files of another log than the one asked for are passed over. Nothing is written here.
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
    """Give the decisions on a log, in the order of a folder's files, each with its place.

    Raises StoreRefused for a folder without files of that log, and for a line that is no record,
    after all before it.
    """
    from_folder = Folder(folder)
    names = [name for name in from_folder.names() if is_file(name)]
    others: set[str] = set()
    for name in names:
        yield from _read(name, from_folder.read(name) or b"", log_id, others)
    if len(others) == len(names):
        raise StoreRefused(
            f"{from_folder.path} has {len(names)} files of a recording, and none of log {log_id}: "
            f"give the folder of record=, and the log that was recorded or a copy of it. Nothing "
            f"was run."
        )


def _read(name: str, data: bytes, log_id: str, others: set[str]) -> Iterator[tuple[Place, Decided]]:
    lines = data.split(b"\n")
    lines.pop()  # nothing, or what was cut off
    heads, decisions = msgspec.json.Decoder(Head), msgspec.json.Decoder(Decided)
    for number, line in enumerate(lines, 1):
        place = Place(name, number)
        try:
            if number == 1:
                head = heads.decode(line)
                _check(name, head)
                if head.log != log_id:
                    others.add(name)
                    return
                continue
            decided = decisions.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreRefused(
                f"{place} is no line of a recording ({type(error).__name__}): the file was changed "
                f"or damaged. What stands before it was read; remove the line to read the rest."
            ) from error
        yield place, decided


def _check(name: str, head: Head) -> None:
    if head.recording != FORMAT:
        raise StoreRefused(
            f"{name} is of format {head.recording}, and this release reads {FORMAT}: use the "
            f"release that recorded it. Nothing of it was run."
        )

"""A file of JSON lines as a source: those of `foldline export` and `foldline log --json --payload`.

Rules: one object a line, in UTF-8; empty lines are passed over. A line is read as it stands, so
that the bytes of a payload can be the ones that were exported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from ..errors import StoreRefused
from .events import SourceEvent

__all__ = ["ExportedLine", "JsonLinesSource"]


class ExportedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that Foldline has written, but for its `Metadata`, whose fields stand in it too."""

    position: int | None = None
    stream: str
    version: int
    event: str
    event_version: int
    recorded: str
    payload: msgspec.Raw
    encoding: int = 0
    behind: int = 0
    """By how many µs its writer's clock was behind `recorded`."""
    checksum: int | None = None
    """Of the event as it was stored; compared if it is there."""


class JsonLinesSource:
    """The file `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """Its path."""
        return self._path

    def __enter__(self) -> JsonLinesSource:
        """Look that it is there."""
        if not Path(self._path).is_file():
            # It is read twice, which a pipe cannot be.
            raise StoreRefused(f"{self._path} is no file: name a file of JSON lines")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: each reading closes the file."""

    def events(self) -> Iterator[SourceEvent]:
        """Give a line after the other."""
        decoder = msgspec.json.Decoder(dict[str, Any])
        for place, line in self._lines():
            try:
                data = decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise StoreRefused(f"{self._path}, {place}: it is no JSON object") from error
            yield SourceEvent(place=place, data=data, raw=line)

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        try:
            with Path(self._path).open("rb") as file:
                for number, line in enumerate(file, 1):
                    if text := line.strip():
                        yield f"line {number:,}", text
        except OSError as error:
            raise StoreRefused(f"{self._path} cannot be read: {error.strerror}") from error

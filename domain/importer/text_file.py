"""A text file, plain or gzipped, read line by line without ever holding more than one line.

Rules: it can be read again from its beginning; what can be read once only, a pipe, is copied to the
disk first. What is gzipped is known by its first bytes too, since a pipe has no name. Whatever is
wrong with the file as a whole, missing, not to be opened, broken off, no lines in it, comes out as
Unreadable, saying where. Bytes that are not UTF-8 stay visible as surrogates, so that they spoil
their own line only. What the lines mean is not known here.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, cast

__all__ = ["TextFile", "Unreadable"]

LINE_BYTES_MAX = 65_536
_GZIP = b"\x1f\x8b"


class Unreadable(Exception):
    """The file cannot be read, or not to its end; the message says where and why."""


class TextFile:
    """An open file of lines; iterate over it as often as needed. Opening raises Unreadable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        """Number of the line that was read last; the first is 1."""
        try:
            self._raw = _seekable(path)
            self.bytes_total = self._raw.seek(0, 2)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Unreadable(f"{path} cannot be read: {reason}") from error

    def __enter__(self) -> TextFile:
        """Be closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._raw.close()

    @property
    def bytes_read(self) -> int:
        """How far reading has come, in bytes of the file as it lies on the disk."""
        return self._raw.tell()

    def __iter__(self) -> Iterator[str]:
        """Give line by line, without a mark of byte order; raise Unreadable where it breaks off."""
        self.line = 0
        self._raw.seek(0)
        try:
            zipped = self._raw.read(len(_GZIP)) == _GZIP or self.path.suffix == ".gz"
            self._raw.seek(0)
            file = cast("IO[bytes]", gzip.GzipFile(fileobj=self._raw) if zipped else self._raw)
            while line := file.readline(LINE_BYTES_MAX):
                self.line += 1
                if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
                    raise Unreadable(
                        f"{self.path} is not a file of lines: line {self.line} has more than "
                        f"{LINE_BYTES_MAX:,} bytes"
                    )
                encoding = "utf-8-sig" if self.line == 1 else "utf-8"
                yield line.decode(encoding, errors="surrogateescape")
        except (OSError, EOFError, zlib.error) as error:
            raise Unreadable(f"{self.path} is broken after line {self.line}: {error}") from error


def _seekable(path: Path) -> IO[bytes]:
    """Open a file; a pipe, which can be read once only, as a copy on the disk without a name."""
    file = path.open("rb")
    if file.seekable():
        return file
    with file:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the TextFile closes it
        try:
            shutil.copyfileobj(file, copy)
        except BaseException:
            copy.close()
            raise
    return copy

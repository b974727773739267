"""A small file that is written over in place, and read at a start: what its writer last knew.

Rules: it is of help, and never in the way. Where it cannot be written or read, nothing is noted,
and nobody is told. It is not synced: a loss of power leaves what it said before. A name that leads
to anything else than a mark is neither read, written nor removed. No database is opened here.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from .lock_files import QUIETLY

__all__ = ["FileMark"]

_BYTES_MAX: Final = 512


class FileMark:
    """The file at `path`, which is made by the first `write`."""

    BEGINNING: Final = b"foldline "
    """What each begins with, so that a file of somebody else's is known for one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._is_off = False

    def read(self) -> bytes:
        """Give what it says; nothing where there is none, or something else."""
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_RDONLY | QUIETLY)
            try:
                if _is_own(descriptor):
                    return os.pread(descriptor, _BYTES_MAX, 0)
            finally:
                os.close(descriptor)
        return b""

    def write(self, said: bytes) -> None:
        """Write over what it says: `BEGINNING` and the rest, with as many bytes each time."""
        if self._is_off:
            return
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | QUIETLY, 0o600)
                self._is_off = not _is_own(self._descriptor)
            if not self._is_off:
                os.pwrite(self._descriptor, said, 0)
        except OSError:
            self._is_off = True

    def close(self, *, removing: bool) -> None:
        """Write to it no more; with `removing` it goes."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        if removing and (self.read() if descriptor is None else not self._is_off):
            with suppress(OSError):
                Path(self._path).unlink(missing_ok=True)


def _is_own(descriptor: int) -> bool:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > _BYTES_MAX:
        return False
    return os.pread(descriptor, len(FileMark.BEGINNING), 0) in (b"", FileMark.BEGINNING)

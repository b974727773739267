"""A folder on the machine in which files are written whole, synced, and then given their names.

Rules: who reads a file by its name never meets half of one. What a write that was killed left is
called `.partial`. Files and folders that are made here are their owner's alone. Databases are no
business of this file: their locks do not bear that somebody else opens them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

try:
    import fcntl
except ImportError:  # Windows has no flock: there nobody is kept out
    fcntl = None  # type: ignore[assignment]

__all__ = ["PARTIAL", "Folder", "GrowingFile"]

PARTIAL: Final = ".partial"
"""Behind the name of a file that is being written."""
_fcntl: Any = fcntl
_QUIETLY: Final = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


class Folder:
    """The folder at a path; all calls raise OSError."""

    def __init__(self, path: str) -> None:
        self.path = str(Path(path).absolute())
        self._locked: int | None = None

    def make(self) -> None:
        """Make it, if it is not there; the folder above must be."""
        Path(self.path).mkdir(mode=0o700, exist_ok=True)
        _sync(str(Path(self.path).parent))

    def lock(self, name: str) -> bool:
        """Keep other processes from locking it, by a file in it; tell whether that could be done.

        `unlock`, or the end of the process, gives it back. Where the file has got another name, or
        none, who had the lock has just ended: it could not be done.
        """
        path = Path(self.path, name)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _QUIETLY, 0o600)
        try:
            if _fcntl is not None:
                _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        if not _is_at(descriptor, path):
            os.close(descriptor)
            return False
        self._locked = descriptor
        return True

    def unlock(self) -> None:
        """Give the lock back; a second call does nothing."""
        locked, self._locked = self._locked, None
        if locked is not None:
            os.close(locked)

    def names(self) -> Sequence[str]:
        """Give the names of what is in it, sorted; nothing where there is no folder."""
        try:
            return sorted(path.name for path in Path(self.path).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def read(self, name: str) -> bytes | None:
        """Give the bytes of a file; None where there is none."""
        try:
            return Path(self.path, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, name: str) -> int | None:
        """Give how many bytes a file has; None where there is none."""
        try:
            return Path(self.path, name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, in place of one of that name; it is on the disk then."""
        partial = str(Path(self.path, name + PARTIAL))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _QUIETLY
        descriptor = os.open(partial, flags, 0o600)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
        self.place(name)

    def place(self, name: str) -> None:
        """Give what was written under a name and `.partial` that name; it is on the disk then."""
        partial = Path(self.path, name + PARTIAL)
        _sync(str(partial))
        partial.rename(Path(self.path, name))
        _sync(self.path)

    def grow(self, name: str) -> GrowingFile:
        """Begin a file that is written at its end; raise FileExistsError where there is one."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _QUIETLY
        return GrowingFile(os.open(Path(self.path, name), flags, 0o600))

    def changed(self, name: str) -> float:
        """Give when a file was written last, in seconds since 1970; 0 where there is none."""
        try:
            return Path(self.path, name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        Path(self.path, name).unlink(missing_ok=True)


class GrowingFile:
    """A file that is written at its end only, and is not synced; all calls raise OSError."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = 0
        """Bytes that were written."""

    def write(self, data: bytes) -> None:
        """Write all of it behind what is there."""
        left = memoryview(data)
        while left:
            count = os.write(self._descriptor, left)
            self.size += count
            left = left[count:]

    def close(self) -> None:
        """Close it; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
